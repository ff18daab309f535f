"""Aliyun's callbacks: SmsReport becomes receipts, SmsUp opt-outs and opt-ins.

Pure. Whatever Aliyun adds or leaves out must not lose the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from channels.callbacks.opt_out import OptOut, reply
from channels.events import UNDELIVERED, Receipt
from channels.outbox import DELIVERED
from channels.transports.sms_aliyun import e164, provider_id
from core.errors import InvalidInput

CHINA = timezone(timedelta(hours=8))


def aliyun_callback(entries: Any, now: datetime) -> tuple[list[Receipt], list[OptOut]]:
    """An SmsReport or SmsUp array. Raises InvalidInput when it is no array of objects."""
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InvalidInput("A callback of Aliyun is a JSON array of objects.")
    receipts: list[Receipt] = []
    replies: list[OptOut] = []
    for entry in entries:
        number = str(entry.get("phone_number", ""))
        if "biz_id" in entry:
            receipts.append(_aliyun_report(entry, number, now))
        else:
            at = aliyun_time(entry.get("send_time"), now)
            replies += reply(str(entry.get("content", "")), e164(number), at, "aliyun:reply")
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
