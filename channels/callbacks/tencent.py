"""Tencent's callbacks and pulls: status reports become receipts, replies opt-outs and opt-ins. Pure.

Both ways make the same receipts with the same keys, so that whichever comes second changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from channels import tracking
from channels.callbacks.aliyun import aliyun_time
from channels.callbacks.opt_out import OptOut, reply
from channels.events import UNDELIVERED, Receipt
from channels.outbox import DELIVERED
from channels.sms.lost import Clue
from channels.transports.sms_tencent import NAME
from core.contacts import blind_index
from core.errors import InvalidInput
from core.settings import Settings

MOST = 100
SUCCESS = "SUCCESS"
Found = tuple[list[Receipt], list[OptOut], list[Clue]]


def account(settings: Settings) -> str:
    """What the callback's unguessable token stands for."""
    return f"tencent:{settings.tencent_sdk_app_id}"


def tencent_callback_url(settings: Settings) -> str:
    """The address to enter at Tencent for status reports and for replies."""
    return f"{settings.base_url}/callbacks/tencent/{tracking.callback_token(account(settings))}"


def tencent_callback(content: Any, now: datetime) -> Found:
    """An array of status reports, or a reply object. Raises InvalidInput for anything else."""
    if isinstance(content, dict) and "text" in content:
        return [], _reply(content, now), []
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise InvalidInput("A callback of Tencent is an array of status reports, or a reply.")
    if len(content) > MOST:
        raise InvalidInput(f"A callback of Tencent has at most {MOST} status reports.")
    receipts, clues = [], []
    for entry in content:
        at = aliyun_time(entry.get("user_receive_time"), now)
        phone = _phone(entry.get("nationcode"), entry.get("mobile"))
        code, why = str(entry.get("errmsg") or ""), str(entry.get("description") or "")
        receipt = _receipt(entry.get("sid"), entry.get("report_status"), at, code, why)
        if receipt is not None:
            receipts.append(receipt)
            clues.append(_clue(receipt, phone, entry.get("ext")))
    return receipts, [], clues


def tencent_pulled(statuses: list[dict[str, Any]], replies: list[dict[str, Any]], now: datetime) -> Found:
    """What PullSmsSendStatus and PullSmsReplyStatus answered."""
    receipts, clues = [], []
    for entry in statuses:
        at = _unix(entry.get("UserReceiveTime"), now)
        receipt = _receipt(
            entry.get("SerialNo"), entry.get("ReportStatus"), at, "", str(entry.get("Description") or "")
        )
        if receipt is not None:
            receipts.append(receipt)
            phone = str(entry.get("PhoneNumber") or "")
            clues.append(_clue(receipt, phone, entry.get("SessionContext")))
    answers: list[OptOut] = []
    for entry in replies:
        at = _unix(entry.get("ReplyTime"), now)
        text, phone = str(entry.get("ReplyContent") or ""), str(entry.get("PhoneNumber") or "")
        answers += reply(text, phone, at, "tencent:reply")
    return receipts, answers, clues


def _receipt(serial: Any, status: Any, at: datetime, code: str, why: str) -> Receipt | None:
    """None for a report without a serial number, or without an end yet."""
    name, status = str(serial or "")[:128], str(status or "").upper()
    if not name or status not in (SUCCESS, "FAIL"):
        return None
    kind = DELIVERED if status == SUCCESS else UNDELIVERED
    detail = {"code": code[:40], "reason": why[:100]}
    return Receipt(kind, at, f"tencent:{name}:{status}"[:160], provider_id=name, detail=detail)


def _clue(receipt: Receipt, phone: str, session: Any) -> Clue:
    index = blind_index("phone", phone) or ""
    return Clue(NAME, receipt.provider_id or "", receipt.at, index, str(session or ""))


def _reply(content: Mapping[str, Any], now: datetime) -> list[OptOut]:
    phone = _phone(content.get("nationcode"), content.get("mobile"))
    return reply(str(content.get("text") or ""), phone, _unix(content.get("time"), now), "tencent:reply")


def _phone(country: Any, number: Any) -> str:
    """E.164 of the two parts; Tencent's country code comes with or without a plus."""
    return f"+{str(country or '86').lstrip('+')}{number or ''}"


def _unix(value: Any, now: datetime) -> datetime:
    """A unix time; never later than ``now``, whatever their clock says."""
    text = str(value or "")
    if not text.isdecimal() or len(text) > 11:
        return now
    return min(datetime.fromtimestamp(int(text), UTC), now)
