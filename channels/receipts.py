"""Providers' callbacks, read: their shapes become :class:`channels.events.Receipt`, replies become consent.

Pure but for :func:`opt_out`. Whatever a provider adds or leaves out must not lose the rest.
"""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import sqlalchemy as sa
from defusedxml import ElementTree
from sqlalchemy.orm import Session

from channels.consent import MARKETING, set_many
from channels.events import UNDELIVERED, Receipt
from channels.outbox import DELIVERED
from channels.transports.sms_aliyun import e164, provider_id
from core.contacts import ADDRESS_COLUMN, SMS, WECHAT, blind_index
from core.errors import InvalidInput
from core.imports import ConsentChange
from core.models import Member

OPT_OUT = frozenset({"r", "t", "td", "退订", "stop", "unsubscribe", "cancel", "quit"})
CHINA = timezone(timedelta(hours=8))


@dataclass(frozen=True)
class OptOut:
    """Somebody answered that they want no more marketing by a channel."""

    channel: str
    address: str
    at: datetime
    source: str


def is_opt_out(text: str) -> bool:
    """Whether a reply asks to be left alone: trimmed, case and width folded (Ｒ, td, “退订。”)."""
    folded = unicodedata.normalize("NFKC", text).strip().strip("。.!！").casefold()
    return folded in OPT_OUT


def aliyun_callback(entries: Any, now: datetime) -> tuple[list[Receipt], list[OptOut]]:
    """An SmsReport or SmsUp array. Raises InvalidInput when it is no array of objects."""
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InvalidInput("A callback of Aliyun is a JSON array of objects.")
    receipts, replies = [], []
    for entry in entries:
        number = str(entry.get("phone_number", ""))
        if "biz_id" in entry:
            receipts.append(_aliyun_report(entry, number, now))
        elif is_opt_out(str(entry.get("content", ""))):
            replies.append(
                OptOut(SMS, e164(number), aliyun_time(entry.get("send_time"), now), "aliyun:reply")
            )
    return receipts, replies


def _aliyun_report(entry: Mapping[str, Any], number: str, now: datetime) -> Receipt:
    name = provider_id(str(entry["biz_id"]), number)
    delivered = entry.get("success") in (True, "true", "True", 1)
    code = str(entry.get("err_code", ""))
    return Receipt(
        DELIVERED if delivered else UNDELIVERED,
        aliyun_time(entry.get("report_time"), now),
        aliyun_key(name, code),
        provider_id=name,
        detail={"code": code[:40], "reason": str(entry.get("err_msg", ""))[:100]},
    )


def aliyun_key(name: str, code: str) -> str:
    """One receipt a message and outcome, however it reaches us."""
    return f"aliyun:{name}:{code}"[:160]


def aliyun_time(text: Any, now: datetime) -> datetime:
    """Aliyun's local time; never later than ``now``, whatever its clock says."""
    try:
        return min(
            datetime.strptime(str(text), "%Y-%m-%d %H:%M:%S").replace(tzinfo=CHINA).astimezone(UTC), now
        )
    except ValueError:
        return now


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


def opt_out(session: Session, replies: Iterable[OptOut]) -> int:
    """Withdraw the marketing consent of everybody with these addresses; how many members that were."""
    listed = list(replies)
    rows = []
    for channel in sorted({reply.channel for reply in listed}):
        column = ADDRESS_COLUMN[channel]
        found = {blind_index(column, reply.address): reply for reply in listed if reply.channel == channel}
        index = getattr(Member, f"{column}_index")
        members = session.execute(sa.select(Member.id, index).where(index.in_(list(found)))).all()
        rows += [
            ConsentChange(member_id, channel, MARKETING, False, found[address].source, found[address].at)
            for member_id, address in members
        ]
    set_many(session, rows)
    return len(rows)
