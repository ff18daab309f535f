"""From a mail that came back to what it changes: the one way in for the mailbox and the listener.

Guarantees: a mail changes something once, however often it is delivered to us; it is kept, encrypted,
as the evidence of what it changed; only what names a message of ours by something that we signed
changes anything, so that nobody can have an address suppressed by writing to us.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from channels import events
from channels.bounces import arf, book, dsn, mail
from channels.bounces.classify import SOFT_KINDS, Kind
from channels.bounces.reports import COMPLAINT, DELAYED, DELIVERED, UNSUBSCRIBE, Report
from channels.consent import SuppressionRow, suppress_many
from channels.events import HARD_BOUNCE, SOFT_BOUNCE, UNDELIVERED, UNSUBSCRIBED, Receipt
from channels.models import BounceReport, EarlyReceipt, Message
from channels.outbox import LEASED
from channels.sql import table_of
from channels.transports import mail_state
from channels.transports.throttle import POLICY_LIMIT, POLICY_S, domain_of, group_of
from core.bulk import bulk_insert
from core.contacts import EMAIL
from core.db import among
from core.models import Member

SOURCE = "bounce"
EARLY = "message:"
"""What early receipts of ours have in place of a provider's id."""
EARLY_BATCH = 1_000
UNREADABLE = "unreadable"
KEPT_BYTES = 32 * 1024
"""What is kept of a report: its fields and the head of what it returns."""


class Incoming(NamedTuple):
    """A mail as it came, with the address it was sent to where the envelope is known."""

    raw: bytes
    envelope_to: str = ""


@dataclass(frozen=True)
class Taken:
    """How many mails were new, how many of them named no message of ours, and reports by kind."""

    new: int = 0
    repeated: int = 0
    foreign: int = 0
    kinds: Mapping[str, int] | None = None


def read(incoming: Incoming) -> list[Report]:
    """What a mail reports; empty when it is no report of ours to understand. Pure but for the key."""
    message = mail.parse(incoming.raw)
    number = mail.ours(message, incoming.raw, incoming.envelope_to)
    if found := arf.arf_reports(message, number):
        return found
    if found := dsn.dsn_reports(message, number):
        return found
    if number is not None and "unsubscribe" in mail.header(message, "Subject").lower():
        return [Report(UNSUBSCRIBE, message_id=number)]
    return dsn.plain_reports(message, number)


def take(session: Session, mails: Sequence[Incoming], now: datetime) -> Taken:
    """Record the mails and act on those that are new; set-based for any number up to a few thousand."""
    read_mails = {_key(incoming): (incoming, read(incoming)) for incoming in mails}
    named = {r.message_id for _, reports in read_mails.values() for r in reports if r.message_id}
    known = _messages(session, named)
    rows = []
    for key, (incoming, reports) in read_mails.items():
        first = next((r for r in reports if r.message_id in known), reports[0] if reports else None)
        number = first.message_id if first is not None and first.message_id in known else None
        kind = first.kind if first is not None else UNREADABLE
        raw = incoming.raw[:KEPT_BYTES].decode("utf-8", "replace").replace("\x00", "\ufffd")
        rows.append((key, number, str(kind), first.code[:20] if first else "", now, raw))
    columns = ("dedupe_key", "message_id", "kind", "status", "received_at", "raw")
    added = bulk_insert(
        session,
        table_of(BounceReport),
        columns,
        rows,
        conflict=("dedupe_key",),
        returning=("dedupe_key", "id"),
    )
    new: dict[str, int] = {key: number for key, number in added}  # noqa: C416 - rows are no pairs to mypy
    found = [
        (report, new[key], known[report.message_id])
        for key, (_, reports) in read_mails.items()
        if key in new
        for report in reports
        if report.message_id in known
    ]
    _act(session, found, now)
    kinds: dict[str, int] = {}
    for report, _, _ in found:
        kinds[str(report.kind)] = kinds.get(str(report.kind), 0) + 1
    foreign = sum(1 for row in rows if row[0] in new and row[1] is None)
    return Taken(len(new), len(read_mails) - len(new), foreign, kinds)


def _key(incoming: Incoming) -> str:
    return f"mail:{hashlib.sha256(incoming.raw).hexdigest()}"


def _messages(session: Session, ids: set[int]) -> dict[int | None, Any]:
    if not ids:
        return {}
    rows = session.execute(
        sa.select(Message.id, Message.member_id, Message.state, Member.email, Member.email_index)
        .join(Member, Member.id == Message.member_id)
        .where(among(session, Message.id, sorted(ids)), Message.channel == EMAIL)
    )
    return {row.id: row for row in rows}


Found = tuple[Report, int, Any]
"""A report, the id of its row, and its message."""


def _act(session: Session, found: Sequence[Found], now: datetime) -> None:
    _suppress(session, found, now)
    receipts = [(one[2].state, receipt) for one in found if (receipt := _receipt(one, now)) is not None]
    # A bounce may overtake the settlement of its message: a relay on the same machine is that fast.
    _keep_early(session, [receipt for state, receipt in receipts if state == LEASED], now)
    events.apply(session, [receipt for state, receipt in receipts if state != LEASED], now)
    apply_early(session, now)
    book.count(
        session,
        EMAIL,
        [
            book.Bounced(row.email_index, row.member_id, report.kind, report.code, now, {"report_id": number})
            for report, number, row in found
            if report.is_bounce and row.email_index is not None
        ],
        SOURCE,
        now,
    )
    _limit(session, found, now)


def _keep_early(session: Session, receipts: Sequence[Receipt], now: datetime) -> None:
    if receipts:
        bulk_insert(
            session,
            table_of(EarlyReceipt),
            ("dedupe_key", "provider_id", "kind", "at", "detail", "received_at"),
            [(r.dedupe_key, f"{EARLY}{r.message_id}", r.kind, r.at, dict(r.detail), now) for r in receipts],
            conflict=("dedupe_key",),
        )


def apply_early(session: Session, now: datetime) -> int:
    """Apply what came back before its message was settled, where it is settled by now; how many that were."""
    waiting = session.scalars(
        sa.select(EarlyReceipt).where(EarlyReceipt.provider_id.startswith(EARLY)).limit(EARLY_BATCH)
    ).all()
    if not waiting:
        return 0
    ids = {int(row.provider_id.removeprefix(EARLY)) for row in waiting}
    settled = session.scalars(
        sa.select(Message.id).where(among(session, Message.id, sorted(ids)), Message.state != LEASED)
    ).all()
    rows = [row for row in waiting if int(row.provider_id.removeprefix(EARLY)) in set(settled)]
    if rows:
        session.execute(
            sa.delete(EarlyReceipt).where(
                among(session, EarlyReceipt.dedupe_key, [row.dedupe_key for row in rows])
            )
        )
        receipts = [
            Receipt(
                row.kind, row.at, row.dedupe_key, int(row.provider_id.removeprefix(EARLY)), detail=row.detail
            )
            for row in rows
        ]
        events.apply(session, receipts, now)
    return len(rows)


def _suppress(session: Session, found: Sequence[Found], now: datetime) -> None:
    """Before the receipts: theirs has no evidence, and the first row of a reason stays."""
    reasons = {Kind.HARD: "hard_bounce", COMPLAINT: "complaint"}
    suppress_many(
        session,
        [
            SuppressionRow(
                EMAIL,
                row.email_index,
                reasons[report.kind],
                SOURCE,
                now,
                {"report_id": number, "message_id": row.id, "code": report.code},
            )
            for report, number, row in found
            if report.kind in reasons and row.email_index is not None and _same(report, row)
        ],
    )


def _same(report: Report, row: Any) -> bool:
    """Whether the report is about the address that the member has now; a report without one is."""
    return not report.recipient or report.kind == COMPLAINT or report.recipient == (row.email or "").lower()


def _receipt(one: Found, now: datetime) -> Receipt | None:
    report, number, row = one
    if report.kind == DELAYED:
        return None
    if report.kind == UNSUBSCRIBE:
        return Receipt(UNSUBSCRIBED, now, f"unsubscribed:{row.id}", row.id, detail={"how": "mail"})
    kinds = {DELIVERED: DELIVERED, COMPLAINT: COMPLAINT, Kind.HARD: HARD_BOUNCE}
    kind = kinds.get(report.kind) or (SOFT_BOUNCE if report.kind in SOFT_KINDS else UNDELIVERED)
    if kind == HARD_BOUNCE and not _same(report, row):
        # The member has another address by now (or the mail was forwarded): the message failed, no more.
        kind = UNDELIVERED
    reason = report.reason.replace(report.recipient, "<address>") if report.recipient else report.reason
    detail = {"code": report.code, "reason": reason[:200], "class": str(report.kind), "report_id": number}
    return Receipt(kind, now, f"{SOURCE}:{row.id}:{kind}", row.id, detail=detail)


def _limit(session: Session, found: Sequence[Found], now: datetime) -> None:
    """Leave receivers alone that refuse us as such."""
    groups: dict[str, list[Report]] = {}
    for report, _, row in found:
        if report.kind == Kind.POLICY and row.email:
            groups.setdefault(group_of(domain_of(row.email)), []).append(report)
    limits = {
        group: (POLICY_S, 0.0, reports[0].reason[:200])
        for group, reports in groups.items()
        if len(reports) >= POLICY_LIMIT
    }
    if limits:
        mail_state.keep_limits(session, limits, now)
