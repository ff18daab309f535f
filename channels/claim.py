"""Taking messages from the queue: lease, lost leases, and the last check before sending.

A claim is one short transaction. It leases a batch (PostgreSQL: FOR UPDATE SKIP LOCKED; SQLite:
its one writer), loads members, consents and suppressions by one statement, and settles at once
whatever must not be sent now. A batch is one row of ``leases``: it is handed over and taken over as
a whole. What a lost worker had leased is taken over when the lease ends:

* not handed over yet → queued again, as if nothing had happened;
* handed over (written just before the provider is asked) and the provider drops repetitions of the
  same id for long enough, or the account says ``resend`` → queued again;
* handed over otherwise → ``unknown``: perhaps sent, never sent twice.

A message that is queued again after an attempt without an answer keeps ``handed_over_at``: when the
provider's memory of its id is over before the next attempt, it becomes ``unknown`` instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import sqlalchemy as sa
from sqlalchemy.orm import Session

from channels import caps, circuit, outbox, rechecks
from channels.caps import PAUSED, TEST, Rules
from channels.consent import MARKETING, NO_ADDRESS, SUPPRESSED, TRANSACTIONAL, refusal
from channels.models import Account, Consent, Lease, MemberPreference, Message, Suppression
from channels.outbox import LEASED, QUEUED, RESEND, UNKNOWN, EventRow
from channels.quiet import DROP, quiet_until, zone
from channels.render import MemberView
from channels.sms.hours import Hours
from channels.sql import is_postgres
from channels.stop import EVERYTHING
from channels.stop import current as stop_in_force
from core.contacts import ADDRESS_COLUMN
from core.db import among
from core.models import Member

LEASE = timedelta(seconds=180)
"""Longer than a batch may take to send: ``delivery.SEND_S`` plus a message's own time-outs."""
EXPIRED, QUIET = "expired", "quiet_hours"
FALLBACK_REASONS = frozenset({NO_ADDRESS, SUPPRESSED})
"""Skips after which the next channel is tried; who withdrew consent is left alone."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A leased message with all that is needed to send it."""

    message_id: int
    purpose: str
    template_id: int
    template_version: int
    context: Mapping[str, Any]
    source_kind: str
    source_id: int
    has_fallback: bool
    attempts: int
    """Before this one."""
    created_at: datetime
    expires_at: datetime | None
    member: MemberView
    address: str
    address_index: str
    zone: ZoneInfo
    handed_over_at: datetime | None = None
    """When an earlier attempt was handed over that never got an answer."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What a claim took: messages to send, and what it settled itself."""

    ready: Sequence[Claimed]
    skipped: int = 0
    deferred: int = 0
    unknown: int = 0
    seen: circuit.Seen = circuit.UNSEEN

    @property
    def empty(self) -> bool:
        return not (self.ready or self.skipped or self.deferred or self.unknown)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a claim must know of the channel's provider and account."""

    channel: str
    idempotent_s: int
    fallback_zone: ZoneInfo
    hours: Hours | None = None
    """When the law lets marketing SMS arrive; None: at any time."""


def take_over(session: Session, terms: Terms, now: datetime) -> int:
    """Settle the ended leases of a channel as the module says; the number that became unknown."""
    channel, idempotent_s = terms.channel, terms.idempotent_s
    ended = session.execute(
        sa.select(Lease.owner, Lease.handed_over_at)
        .where(Lease.channel == channel, Lease.until < now)
        .order_by(Lease.owner)
        .with_for_update(skip_locked=True)
    ).all()
    if not ended:
        return 0
    resend = session.scalar(sa.select(Account.on_unknown).where(Account.channel == channel)) == RESEND
    remembered = now - timedelta(seconds=idempotent_s)
    waiting = [row.owner for row in ended if row.handed_over_at is None]
    again = [
        row.owner
        for row in ended
        if row.handed_over_at is not None
        and (resend or (idempotent_s > 0 and row.handed_over_at > remembered))
    ]
    _requeue(session, channel, waiting, {}, now)
    handed_over = sa.select(Lease.handed_over_at).where(Lease.owner == Message.lease_owner).scalar_subquery()
    perhaps = {
        "handed_over_at": sa.func.coalesce(Message.handed_over_at, handed_over),
        "attempts": Message.attempts + 1,
    }
    _requeue(session, channel, again, perhaps, now)
    lost = session.scalars(
        sa.select(Message.id)
        .where(
            Message.state == LEASED,
            Message.channel == channel,
            among(session, Message.lease_owner, sorted({row.owner for row in ended} - {*waiting, *again})),
        )
        .with_for_update()
    ).all()
    _settle_unknown(session, lost, "no answer: the sending process was lost", now)
    session.execute(sa.delete(Lease).where(among(session, Lease.owner, [row.owner for row in ended])))
    return len(lost)


def _requeue(
    session: Session, channel: str, owners: Sequence[str], more: Mapping[str, Any], now: datetime
) -> None:
    if owners:
        session.execute(
            sa.update(Message)
            .where(
                Message.state == LEASED,
                Message.channel == channel,
                among(session, Message.lease_owner, owners),
            )
            .values(state=QUEUED, lease_owner=None, lease_until=None, not_before=now, **more),
            execution_options={"synchronize_session": False},
        )


def _settle_unknown(session: Session, ids: Sequence[int], reason: str, now: datetime) -> None:
    """These were handed over and nobody will ever say what became of them (unless a late answer does)."""
    if not ids:
        return
    handed_over = sa.select(Lease.handed_over_at).where(Lease.owner == Message.lease_owner).scalar_subquery()
    session.execute(
        sa.update(Message)
        .where(among(session, Message.id, ids), Message.state == LEASED)
        .values(
            state=UNKNOWN,
            reason=reason,
            settled_at=now,
            lease_until=None,
            attempts=Message.attempts + sa.case((handed_over.is_not(None), 1), else_=0),
            handed_over_at=sa.func.coalesce(Message.handed_over_at, handed_over),
        ),
        execution_options={"synchronize_session": False},
    )
    outbox.add_events(
        session,
        [EventRow(number, "unknown", now, f"unknown:{number}", "", {"reason": reason}) for number in ids],
    )


def claim(session: Session, terms: Terms, owner: str, limit: int, now: datetime) -> Batch:
    """Lease up to ``limit`` messages that are due, and settle those that must not be sent now.

    None while the account is paused or its circuit is open; one, for one worker, when it is half open.
    """
    channel = terms.channel
    account = session.execute(
        sa.select(Account.paused_at, Account.on_unknown, *circuit.COLUMNS).where(Account.channel == channel)
    ).one_or_none()
    if account is not None and account.paused_at is not None:
        return Batch(())
    stopped = stop_in_force(session)
    if stopped is not None and stopped.scope == EVERYTHING:
        return Batch(())
    # Before this instant the provider has forgotten an id; None: it never matters.
    forgotten = None
    if account is None or account.on_unknown != RESEND:
        forgotten = now - timedelta(seconds=terms.idempotent_s)
    seen = _circuit(session, account, channel, now, marketing=stopped is None)
    if seen is None:
        return Batch(())
    due = _due(channel, 1 if seen.probing else limit, now, marketing=stopped is None)
    leased = session.scalars(
        sa.update(Message)
        .where(Message.id.in_(sa.select(due.c.id)))
        .values(state=LEASED, lease_owner=owner, lease_until=now + LEASE)
        .returning(Message.id),
        execution_options={"synchronize_session": False},
    ).all()
    if not leased:
        return Batch((), seen=seen)
    rules = caps.load(session)
    rows = _load(session, channel, leased)
    usage = _usage(session, rules, rows, now)
    pointless = rechecks.refusals(session, rows, now)
    ready, skips, defers, unknown = [], {}, {}, []
    for row in rows:
        if forgotten is not None and row.handed_over_at is not None and row.handed_over_at < forgotten:
            unknown.append(row.id)
            continue
        local = zone(row.timezone, terms.fallback_zone)
        reason, until = _decide(row, now, local, rules, terms.hours)
        if row.id in pointless and reason is None:
            reason, until = pointless[row.id], None
        if reason is None and until is None and usage is not None and _is_capped(row):
            reason = usage.refusal(row.member_id, channel, row.weekly_max)
            if reason is None:
                usage.add(row.member_id, channel)
        if until is not None:
            defers[row.id] = until
        elif reason is not None:
            skips[row.id] = reason
        else:
            ready.append(_claimed(row, local))
    _settle_refused(session, skips, defers, now)
    _settle_unknown(session, unknown, "no answer, and too late to repeat it", now)
    if ready:
        session.execute(sa.insert(Lease).values(owner=owner, channel=channel, until=now + LEASE))
    elif seen.probing:
        circuit.free_probe(session, channel)
    return Batch(ready, len(skips), len(defers), len(unknown), seen)


def _circuit(
    session: Session, account: Any, channel: str, now: datetime, *, marketing: bool
) -> circuit.Seen | None:
    """The account's breaker as this claim sees it; None: nothing may be sent, or another worker tries."""
    if account is None:
        return circuit.UNSEEN
    match circuit.state_of(account.circuit_failures, account.circuit_until, now):
        case circuit.State.CLOSED:
            return circuit.UNSEEN
        case circuit.State.OPEN:
            return None
    # An idle worker does not write at every look.
    due = session.execute(sa.select(_due(channel, 1, now, marketing=marketing))).first()
    if due is None or not circuit.take_probe(session, channel, now, LEASE):
        return None
    return circuit.Seen(account.circuit_failures, probing=True)


def _due(channel: str, limit: int, now: datetime, *, marketing: bool) -> sa.CTE:
    """The next messages, locked; those in another worker's hands are passed over."""
    wanted = [Message.channel == channel, Message.not_before <= now]
    if marketing:
        wanted.append(Message.state == QUEUED)
    else:  # as the partial index is written, so that it is used
        wanted += [
            Message.state == sa.literal(QUEUED, literal_execute=True),
            Message.purpose == sa.literal(TRANSACTIONAL, literal_execute=True),
        ]
    return (
        sa.select(Message.id)
        .where(*wanted)
        .order_by(Message.not_before, Message.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("due")
    )


def _is_capped(row: Any) -> bool:
    return bool(row.purpose == MARKETING and row.source_kind != TEST)


def _usage(session: Session, rules: Rules, rows: Sequence[Any], now: datetime) -> caps.Usage | None:
    """What was sent to the batch's members lately; None where no cap asks for it."""
    counted = [row for row in rows if _is_capped(row) and (rules.caps or row.weekly_max is not None)]
    if not counted:
        return None
    caps.lock_claims(session)
    members = {row.member_id for row in counted}
    return caps.count(session, rules, members, now, queued=False, apart_from=[row.id for row in rows])


def _load(session: Session, channel: str, ids: Sequence[int]) -> Sequence[Any]:
    column = ADDRESS_COLUMN[channel]
    index = getattr(Member, f"{column}_index")
    consented = sa.and_(
        Consent.member_id == Message.member_id, Consent.channel == channel, Consent.purpose == Message.purpose
    )
    return session.execute(
        sa.select(
            Message.id,
            Message.purpose,
            Message.template_id,
            Message.template_version,
            _text(session, Message.context),
            Message.source_kind,
            Message.source_id,
            _text(session, Message.fallback),
            _text(session, Message.quiet_hours),
            Message.attempts,
            Message.created_at,
            Message.expires_at,
            Message.handed_over_at,
            Message.member_id,
            Member.external_id,
            Member.name,
            Member.gender,
            Member.birthday,
            Member.city,
            Member.province,
            Member.country,
            Member.locale,
            Member.timezone,
            _text(session, Member.tags),
            _text(session, Member.attributes),
            Member.erased_at.is_not(None).label("erased"),
            getattr(Member, column).label("address"),
            index.label("address_index"),
            Consent.granted,
            Suppression.reason.label("suppression"),
            MemberPreference.weekly_max,
            MemberPreference.paused_until,
        )
        .join(Member, Member.id == Message.member_id)
        .outerjoin(MemberPreference, MemberPreference.member_id == Message.member_id)
        .outerjoin(Consent, consented)
        .outerjoin(Suppression, sa.and_(Suppression.channel == channel, Suppression.address_index == index))
        .where(among(session, Message.id, ids))
        .order_by(Message.not_before, Message.id)
    ).all()


def _text(session: Session, column: Any) -> sa.ColumnElement[str]:
    """JSON as its text: orjson reads it in a fifth of the driver's time."""
    found = sa.cast(column, sa.Text) if is_postgres(session) else sa.type_coerce(column, sa.Text)
    return found.label(column.key)


def _json(text: str | None) -> Any:
    return None if text is None else orjson.loads(text)


def _decide(
    row: Any, now: datetime, local: ZoneInfo, rules: Rules, legal: Hours | None = None
) -> tuple[str | None, datetime | None]:
    """(why it is skipped, or until when it waits); both None: send it, unless a cap is reached."""
    if row.expires_at is not None and row.expires_at <= now:
        return EXPIRED, None
    no_address = row.address is None or row.address_index is None
    refused = refusal(row.purpose, row.erased, no_address, bool(row.granted), row.suppression)
    if refused is not None:
        return refused, None
    marketing = row.purpose == MARKETING
    if marketing and row.source_kind != TEST and row.paused_until is not None and row.paused_until > now:
        return PAUSED, None
    # The message's own hours and the shop's: outside both, or not at all.
    hours = [found for found in (_json(row.quiet_hours), rules.quiet_hours if marketing else None) if found]
    ends = [(end, found) for found in hours if (end := quiet_until(found, local, now)) is not None]
    # The law's hours are the recipient's right: they only ever put off.
    if legal is not None and marketing and row.source_kind != TEST:
        opening = legal.opens(row.address, row.timezone, now)
        ends += [(opening, {})] if opening is not None else []
    if not ends:
        return None, None
    if any(found.get("mode") == DROP for _, found in ends):
        return QUIET, None
    until = max(end for end, _ in ends)
    if row.expires_at is not None and row.expires_at <= until:
        return EXPIRED, None
    return None, until


def _claimed(row: Any, local: ZoneInfo) -> Claimed:
    member = MemberView(
        row.member_id,
        row.external_id,
        row.name,
        row.gender,
        row.birthday,
        row.city,
        row.province,
        row.country,
        row.locale,
        row.timezone,
        _json(row.tags) or [],
        _json(row.attributes) or {},
    )
    return Claimed(
        row.id,
        row.purpose,
        row.template_id,
        row.template_version,
        _json(row.context),
        row.source_kind,
        row.source_id,
        row.fallback not in (None, "[]"),
        row.attempts,
        row.created_at,
        row.expires_at,
        member,
        row.address,
        row.address_index,
        local,
        row.handed_over_at,
    )


def _settle_refused(
    session: Session, skips: Mapping[int, str], defers: Mapping[int, datetime], now: datetime
) -> None:
    for reason in sorted(set(skips.values())):
        ids = [number for number, why in skips.items() if why == reason]
        session.execute(
            sa.update(Message)
            .where(among(session, Message.id, ids), Message.state == LEASED)
            .values(state=outbox.SKIPPED, reason=reason, settled_at=now, lease_until=None)
        )
    for until in sorted(set(defers.values())):
        ids = [number for number, when in defers.items() if when == until]
        session.execute(
            sa.update(Message)
            .where(among(session, Message.id, ids), Message.state == LEASED)
            .values(state=QUEUED, not_before=until, reason=QUIET, lease_owner=None, lease_until=None)
        )
    outbox.add_events(
        session,
        [
            EventRow(number, "skipped", now, f"skipped:{number}", "", {"reason": why})
            for number, why in skips.items()
        ]
        + [
            EventRow(number, "deferred", now, f"quiet:{number}:{until:%Y%m%dT%H%M}", "", {"reason": QUIET})
            for number, until in defers.items()
        ],
    )
    another = [number for number, why in skips.items() if why in FALLBACK_REASONS]
    if another:
        outbox.enqueue_fallbacks(session, another, now)


def hand_over(session: Session, owner: str, now: datetime) -> bool:
    """Mark a batch as about to be given to the provider, and renew its lease; whether it may be sent.

    Not when somebody took it over, nor when delivery was stopped since the claim: then it is queued again.
    """
    stopped = stop_in_force(session)
    if stopped is not None and _put_back(session, owner, stopped.scope):
        return False
    found: Any = session.execute(
        sa.update(Lease).where(Lease.owner == owner).values(handed_over_at=now, until=now + LEASE)
    )
    return bool(found.rowcount)


def _put_back(session: Session, owner: str, scope: str) -> bool:
    """Queue a claimed batch again if any of it is stopped; whether it was."""
    mine = sa.and_(Message.lease_owner == owner, Message.state == LEASED)
    purposes = set(session.scalars(sa.select(Message.purpose).where(mine).distinct()))
    if not purposes or (scope != EVERYTHING and MARKETING not in purposes):
        return False
    session.execute(
        sa.update(Message).where(mine).values(state=QUEUED, lease_owner=None, lease_until=None),
        execution_options={"synchronize_session": False},
    )
    release(session, owner)
    return True


def release(session: Session, owner: str) -> None:
    """The batch is settled."""
    session.execute(sa.delete(Lease).where(Lease.owner == owner))
