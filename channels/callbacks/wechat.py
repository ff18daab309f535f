"""The official account's callbacks: what a verified one says, as receipts and happenings. Pure.

Plain XML, or JSON as mini programs' servers get it; a list of one is an object in JSON, an element in XML.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import orjson
from defusedxml import ElementTree

from channels.callbacks.opt_out import OptOut, wish
from channels.events import UNDELIVERED, Receipt
from channels.outbox import DELIVERED
from channels.wechat import crypto
from channels.wechat.windows import MESSAGE, TOUCH
from core.contacts import WECHAT
from core.errors import InvalidInput

FOLLOWED, UNFOLLOWED, SCANNED = "followed", "unfollowed", "scanned"
MAX_LISTED = 100
NEVER = datetime.min.replace(tzinfo=UTC)
_MENU = frozenset({"click", "view", "view_miniprogram", "scancode_push", "scancode_waitmsg", "pic_sysphoto"})
_SCENE = "qrscene_"


@dataclass(frozen=True)
class Grant:
    """A follower's answer to a request for subscription messages of a template."""

    template_id: str
    granted: bool


@dataclass(frozen=True)
class Found:
    """What a callback says. ``key`` is the same at every repetition of it."""

    openid: str = ""
    at: datetime = NEVER
    key: str = ""
    receipts: tuple[Receipt, ...] = ()
    opt_outs: tuple[OptOut, ...] = ()
    window: str | None = None
    """The kind of customer-service window that this opens."""
    grants: tuple[Grant, ...] = ()
    happened: str | None = None
    """``FOLLOWED``, ``UNFOLLOWED`` or ``SCANNED``."""
    scene: str = ""
    """What the scanned QR code carried."""


def wechat_signature(token: str, timestamp: str, nonce: str) -> str:
    """sha1 of the sorted three, as WeChat signs its callbacks."""
    return crypto.signature(token, timestamp, nonce)


def wechat_signed(token: str, timestamp: str, nonce: str, signature: str) -> bool:
    """Whether a callback comes from who knows the token."""
    return crypto.is_signed(wechat_signature(token, timestamp, nonce), signature)


def fields_of(body: bytes) -> dict[str, Any]:
    """A callback's fields; nested ones are dictionaries. Raises InvalidInput for anything unreadable."""
    try:
        if body.lstrip()[:1] == b"{":
            found = orjson.loads(body)
        else:
            found = _tree(ElementTree.fromstring(body), 0)
    except (ElementTree.ParseError, orjson.JSONDecodeError, ValueError):
        found = None
    if not isinstance(found, dict) or not found:
        raise InvalidInput("A callback of WeChat is an XML document or a JSON object.")
    return found


def _tree(element: Any, depth: int) -> Any:
    if not len(element) or depth > 4:
        return (element.text or "").strip()
    found: dict[str, Any] = {}
    for child in element:
        value = _tree(child, depth + 1)
        if child.tag not in found:
            found[child.tag] = value
        elif isinstance(found[child.tag], list):
            found[child.tag].append(value)
        else:
            found[child.tag] = [found[child.tag], value]
    return found


def wechat_callback(body: bytes, now: datetime) -> Found:
    """What a callback says; unknown events say nothing. Raises InvalidInput when it cannot be read."""
    return read_fields(fields_of(body), now)


def read_fields(fields: Mapping[str, Any], now: datetime) -> Found:
    """:func:`wechat_callback` for fields that were read already."""
    event, openid = _text(fields, "Event").lower(), _text(fields, "FromUserName")[:128]
    created = _text(fields, "CreateTime")
    known = created.isdigit() and len(created) < 12
    at = min(datetime.fromtimestamp(int(created), UTC), now) if known else now
    name = _text(fields, "MsgId") or f"{openid}:{created}:{event}:{_text(fields, 'EventKey')}"
    found = Found(openid, at, f"wechat:{name}"[:160])
    if not event:
        if not openid or not fields.get("MsgType"):
            return Found()
        wanted = wish(_text(fields, "Content"))
        asks = () if wanted is None else (OptOut(WECHAT, openid, at, "wechat:reply", wanted),)
        return replace(found, window=MESSAGE, opt_outs=asks)
    match event:
        case "templatesendjobfinish":
            return Found(receipts=(_finished(fields, at),))
        case "subscribe_msg_sent_event":
            return Found(receipts=tuple(_sent(_entries(fields, "SubscribeMsgSentEvent"), at)))
        case "subscribe_msg_popup_event":
            return replace(found, grants=tuple(_grants(_entries(fields, "SubscribeMsgPopupEvent"))))
        case "subscribe_msg_change_event":
            # Accepting in the settings gives no message; only the pop-up does.
            listed = _grants(_entries(fields, "SubscribeMsgChangeEvent"))
            return replace(found, grants=tuple(grant for grant in listed if not grant.granted))
        case "subscribe":
            scene = _text(fields, "EventKey").removeprefix(_SCENE)[:128]
            return replace(found, happened=FOLLOWED, window=TOUCH, scene=scene)
        case "unsubscribe":
            left = (OptOut(WECHAT, openid, at, "wechat:unfollow"),)
            return replace(found, happened=UNFOLLOWED, opt_outs=left)
        case "scan":
            return replace(found, happened=SCANNED, window=TOUCH, scene=_text(fields, "EventKey")[:128])
        case _ if event in _MENU:
            return replace(found, window=TOUCH)
    return Found()


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    return str(value).strip() if isinstance(value, str | int) else ""


def _finished(fields: Mapping[str, Any], at: datetime) -> Receipt:
    """``success``, or ``failed:`` and a reason that WeChat has written in several ways."""
    name, status = _text(fields, "MsgID"), _text(fields, "Status")
    kind = DELIVERED if status.lower() == "success" else UNDELIVERED
    reason = ":".join(part.strip() for part in status.split(":"))
    detail = {"code": "", "reason": reason[:100]}
    return Receipt(kind, at, f"wechat:{name}:{kind}"[:160], provider_id=name[:128], detail=detail)


def _entries(fields: Mapping[str, Any], name: str) -> Iterator[Mapping[str, Any]]:
    """The list of a subscription event: under the event's name or at the top; one entry or several."""
    inner = fields.get(name)
    listed = inner.get("List") if isinstance(inner, Mapping) else fields.get("List", inner)
    several = listed if isinstance(listed, list) else [listed]
    return (entry for entry in several[:MAX_LISTED] if isinstance(entry, Mapping))


def _grants(entries: Iterator[Mapping[str, Any]]) -> Iterator[Grant]:
    for entry in entries:
        template, answer = _text(entry, "TemplateId"), _text(entry, "SubscribeStatusString").lower()
        if template and answer in ("accept", "reject"):
            yield Grant(template[:128], answer == "accept")


def _sent(entries: Iterator[Mapping[str, Any]], at: datetime) -> Iterator[Receipt]:
    for entry in entries:
        name, code = _text(entry, "MsgID") or _text(entry, "MsgId"), _text(entry, "ErrorCode")
        if name:
            kind = DELIVERED if code == "0" else UNDELIVERED
            detail = {"code": code[:40], "reason": _text(entry, "ErrorStatus")[:100]}
            yield Receipt(kind, at, f"wechat:{name}:{kind}"[:160], provider_id=name[:128], detail=detail)
