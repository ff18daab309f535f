"""The official account's callbacks: verified, and events become receipts and opt-outs. Pure."""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime

from defusedxml import ElementTree

from channels.callbacks.opt_out import OptOut
from channels.events import UNDELIVERED, Receipt
from channels.outbox import DELIVERED
from core.contacts import WECHAT
from core.errors import InvalidInput


def wechat_signature(token: str, timestamp: str, nonce: str) -> str:
    """sha1 of the sorted three, as WeChat signs its callbacks."""
    return hashlib.sha1("".join(sorted([token, timestamp, nonce])).encode()).hexdigest()  # noqa: S324


def wechat_signed(token: str, timestamp: str, nonce: str, signature: str) -> bool:
    """Whether a callback comes from who knows the token."""
    expected = wechat_signature(token, timestamp, nonce)
    return hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace"))


def wechat_callback(body: bytes, now: datetime) -> tuple[list[Receipt], list[OptOut]]:
    """An event of the official account. Raises InvalidInput when it is no XML; unknown events are nothing."""
    try:
        root = ElementTree.fromstring(body)
    except (ElementTree.ParseError, ValueError):
        raise InvalidInput("A callback of WeChat is an XML document.") from None
    fields = {child.tag: (child.text or "").strip() for child in root}
    event, openid = fields.get("Event", "").lower(), fields.get("FromUserName", "")
    created = fields.get("CreateTime", "")
    at = (
        min(datetime.fromtimestamp(int(created), UTC), now)
        if created.isdigit() and len(created) < 12
        else now
    )
    if event == "templatesendjobfinish":
        name, status = fields.get("MsgID", ""), fields.get("Status", "")
        kind = DELIVERED if status.lower() == "success" else UNDELIVERED
        detail = {"code": "", "reason": status[:100]}
        return [Receipt(kind, at, f"wechat:{name}:{kind}"[:160], provider_id=name[:128], detail=detail)], []
    if event == "unsubscribe":
        return [], [OptOut(WECHAT, openid, at, "wechat:unfollow")]
    return [], []
