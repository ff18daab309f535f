"""A friend joins by a member's link, and what a marketer decides about a referral that is held.

Guarantees: a friend has one referrer ever; a repetition changes nothing and answers the same; whatever
decides is read under the lock of both members' rows.

Order of locks: member rows, then the referral's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core import audit
from core.db import lock_rows
from core.errors import Conflict, NotFound
from core.models import Member, Order
from loyalty.abuse import signals
from loyalty.abuse.models import AbuseSignal
from loyalty.abuse.rules import ALLOW, BLOCK
from loyalty.abuse.subjects import PHONE, SHARED_KINDS, subjects_of
from loyalty.referrals import links, programs, reasons
from loyalty.referrals.models import Referral, ReferralProgram
from loyalty.sets import insert_new

JOINED, ORDERED, HELD, REWARDED, REJECTED = "joined", "ordered", "held", "rewarded", "rejected"
STATES = (JOINED, ORDERED, HELD, REWARDED, REJECTED)
WEEK = timedelta(days=7)
CANCELLED = "cancelled"


@dataclass(frozen=True)
class Joined:
    """A referral as it stands; ``reason`` says why it is held or rejected, in ``words`` (en, zh)."""

    referral_id: int
    referrer_id: int
    friend_id: int
    state: str
    reason: str | None
    joined_at: datetime

    @property
    def words(self) -> tuple[str, str] | None:
        return None if self.reason is None else reasons.WORDS[self.reason]


def join(
    session: Session,
    token: str,
    friend_id: int,
    now: datetime,
    *,
    client: Mapping[str, str | None] | None = None,
    decision: str = ALLOW,
) -> Joined:
    """Note that a friend came by the link ``token``; what speaks against it is kept with its reason.

    ``client``: what the friend's side is known by (device, address, phone), in plain; ``decision``: what
    the rules against abuse said of this request. NotFound: no such link, or its member is gone.
    Conflict: no programme is in force, or another member brought this friend.
    """
    referrer_id = links.read_token(token)
    subjects = subjects_of(client or {})
    _lock_members(session, referrer_id, friend_id)
    before = _stored(session, friend_id, referrer_id)
    if before is not None:
        return before
    _check_members(session, referrer_id, friend_id)
    program = programs.current(session, now)
    if program is None:
        raise Conflict("No referral programme is in force now; nobody can join as a friend.")
    state, reason = _judge(session, program, referrer_id, friend_id, subjects, decision, now)
    if state != REJECTED and _brought(session, friend_id):
        raise Conflict("Another member brought this friend before; a friend has one referrer.")
    values = {
        "program_id": program.id,
        "referrer_id": referrer_id,
        "friend_id": friend_id,
        "state": state,
        "reason": reason,
        "joined_at": now,
    }
    key = insert_new(session, Referral.__table__, values, ["friend_id", "referrer_id"])
    assert key is not None, "both members are locked, and there was no such row"
    return Joined(key[0], referrer_id, friend_id, state, reason, now)


def _lock_members(session: Session, *member_ids: int) -> None:
    lock_rows(session, Member.__table__, sorted(set(member_ids)))


def _stored(session: Session, friend_id: int, referrer_id: int) -> Joined | None:
    row = session.execute(
        sa.select(Referral).where(Referral.friend_id == friend_id, Referral.referrer_id == referrer_id)
    ).scalar_one_or_none()
    if row is None:
        return None
    return Joined(row.id, row.referrer_id, row.friend_id, row.state, row.reason, row.joined_at)


def _brought(session: Session, friend_id: int) -> bool:
    query = sa.select(sa.exists().where(Referral.friend_id == friend_id, Referral.state != REJECTED))
    return session.execute(query).scalar_one()


def _check_members(session: Session, referrer_id: int, friend_id: int) -> None:
    found = session.scalars(
        sa.select(Member.id).where(Member.id.in_((referrer_id, friend_id)), Member.erased_at.is_(None))
    ).all()
    if referrer_id not in found:
        raise NotFound("This invitation link is not valid any more; its member is gone.")
    if friend_id not in found:
        raise NotFound("The friend is not a member; send them to /api/v1/members first.")


def _judge(
    session: Session,
    program: ReferralProgram,
    referrer_id: int,
    friend_id: int,
    subjects: Mapping[str, str],
    decision: str,
    now: datetime,
) -> tuple[str, str | None]:
    """(state, reason) of a new referral; what rejects it comes before what holds it."""
    if referrer_id == friend_id:
        return REJECTED, reasons.ONESELF
    if decision == BLOCK:
        return REJECTED, reasons.ABUSE
    if _ordered(session, friend_id, now):
        return REJECTED, reasons.ORDERED_BEFORE
    kind = same_hands(session, referrer_id, friend_id, subjects)
    if kind is not None:
        return REJECTED, f"same_{kind}"
    if decision != ALLOW:
        return HELD, reasons.SUSPICIOUS
    lately = session.execute(
        sa.select(sa.func.count()).where(
            Referral.referrer_id == referrer_id, Referral.state != REJECTED, Referral.joined_at > now - WEEK
        )
    ).scalar_one()
    return (HELD, reasons.WEEKLY_LIMIT) if lately >= program.weekly_limit else (JOINED, None)


def _ordered(session: Session, member_id: int, now: datetime) -> bool:
    return session.execute(
        sa.select(
            sa.exists().where(Order.member_id == member_id, Order.ordered_at < now, Order.status != CANCELLED)
        )
    ).scalar_one()


def same_hands(session: Session, referrer_id: int, friend_id: int, subjects: Mapping[str, str]) -> str | None:
    """The kind (device, address or phone) of what both members have in common, or None.

    ``subjects`` (kind → keyed hash) is what the friend's client sent now; what both were seen with before
    counts as well, and their phone numbers.
    """
    rows = session.execute(
        sa.select(Member.id, Member.phone_index).where(Member.id.in_((referrer_id, friend_id)))
    )
    phones = {row.id: row.phone_index for row in rows}
    theirs = {phones.get(friend_id), subjects.get(PHONE)} - {None}
    if phones.get(referrer_id) in theirs:
        return PHONE
    sent = {(kind, digest) for kind, digest in subjects.items() if kind in SHARED_KINDS}
    sent |= {(PHONE, digest) for digest in theirs if digest is not None}
    if sent:
        found = session.execute(
            sa.select(AbuseSignal.kind)
            .where(
                AbuseSignal.member_id == referrer_id,
                sa.or_(
                    *(sa.and_(AbuseSignal.kind == kind, AbuseSignal.hash == digest) for kind, digest in sent)
                ),
            )
            .order_by(AbuseSignal.kind)
            .limit(1)
        ).scalar_one_or_none()
        if found is not None:
            return found
    return signals.in_common(session, referrer_id, friend_id)


def decide(session: Session, referral_id: int, *, approve: bool, by: str, now: datetime) -> Referral:
    """Let a held referral go on where it was, or reject it for good. Conflict when it is not held."""
    row = session.get(Referral, referral_id, with_for_update=True)
    if row is None:
        raise NotFound(f"There is no referral number {referral_id}.")
    if row.state != HELD:
        raise Conflict("This referral is not held any more; load the page again.")
    if approve:
        row.state, row.reason = JOINED if row.order_id is None else ORDERED, None
    else:
        row.state, row.reason = REJECTED, reasons.BY_HAND
    row.decided_by, row.decided_at = by, now
    audit.record(session, by, "approve" if approve else "reject", "referral", referral_id, now)
    return row
