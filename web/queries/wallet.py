"""What a member holds, for their own page: a query or two a section, whatever there is in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.contacts import blind_index
from core.models import Member
from loyalty import coupons, ledger, points
from loyalty.coupons import CouponView
from loyalty.groups import groups as group_pages
from loyalty.groups.groups import HELD, OPEN
from loyalty.groups.models import Group, GroupOffer, GroupSeat
from loyalty.models import PointsEntry, PointsLot
from loyalty.points import Balance
from loyalty.referrals import programs
from loyalty.referrals.models import Referral
from loyalty.tiers import review, store
from loyalty.tiers.model import Program
from loyalty.tiers.store import Membership

ENTRIES = 20
MAX_TIMES = 100
"""Different moments at which points become usable or expire that are read."""
MAX_GROUPS = 20


@dataclass(frozen=True)
class Entry:
    """A line of the ledger; what one spend took from several lots is one line."""

    kind: str
    source_id: str
    points: int
    at: datetime


@dataclass(frozen=True)
class OpenGroup:
    """A group that still waits for others; ``link`` is the member's own."""

    title: str
    seats: int
    taken: int
    deadline: datetime
    link: str


@dataclass(frozen=True)
class Invited:
    """Friends who joined by the member's link (those turned down aside), and how many brought a reward."""

    joined: int
    rewarded: int


@dataclass(frozen=True)
class Wallet:
    """All that the page shows. ``tier`` without a ladder, ``invited`` without a programme: None."""

    member_id: int
    name: str | None
    locale: str | None
    program: Program
    tier: Membership | None
    balance: Balance
    pending: Sequence[tuple[datetime, int]]
    """(usable from, points), soonest first."""
    expiring: Sequence[tuple[datetime, int]]
    """(over at, points) of what is usable now, soonest first."""
    entries: Sequence[Entry]
    coupons: Sequence[CouponView]
    invited: Invited | None
    groups: Sequence[OpenGroup]


def load(session: Session, member_id: int, now: datetime) -> Wallet | None:
    """The wallet of a member as of ``now``; None for one who is unknown or erased."""
    member = session.execute(
        sa.select(Member.name, Member.locale).where(Member.id == member_id, Member.erased_at.is_(None))
    ).one_or_none()
    if member is None:
        return None
    program = store.load_program(session)
    tier = None
    if program.tiers:
        value = review.value_of(session, program, member_id, now)
        tier = store.membership(session, program, member_id, value)
    return Wallet(
        member_id,
        member.name,
        member.locale,
        program,
        tier,
        points.balance(session, member_id, now),
        _lots(session, member_id, PointsLot.available_at, PointsLot.available_at > now, now),
        _lots(session, member_id, PointsLot.expires_at, PointsLot.available_at <= now, now),
        _entries(session, member_id),
        coupons.of_member(session, member_id, now),
        _invited(session, member_id) if programs.current(session, now) is not None else None,
        _groups(session, member_id, now),
    )


def _lots(
    session: Session,
    member_id: int,
    at: sa.orm.InstrumentedAttribute[datetime] | sa.orm.InstrumentedAttribute[datetime | None],
    which: sa.ColumnElement[bool],
    now: datetime,
) -> list[tuple[datetime, int]]:
    """Points left by a moment of their lots, the next moments first."""
    rows = session.execute(
        sa.select(at, sa.func.sum(PointsLot.remaining))
        .where(
            PointsLot.member_id == member_id,
            PointsLot.remaining > 0,
            at.is_not(None),
            which,
            ledger.not_over(now),
        )
        .group_by(at)
        .order_by(at)
        .limit(MAX_TIMES)
    )
    return [(moment, int(number)) for moment, number in rows if moment is not None]


def _entries(session: Session, member_id: int) -> list[Entry]:
    """The latest changes of what the member has. Debts repaid cancel out, and are left out."""
    total, last = sa.func.sum(PointsEntry.delta), sa.func.max(PointsEntry.id)
    rows = session.execute(
        sa.select(PointsEntry.kind, PointsEntry.source_id, total, sa.func.max(PointsEntry.at))
        .where(PointsEntry.member_id == member_id)
        .group_by(PointsEntry.kind, PointsEntry.source_id)
        .having(total != 0)
        .order_by(sa.func.max(PointsEntry.at).desc(), last.desc())
        .limit(ENTRIES)
    )
    return [Entry(kind, source, int(number), at) for kind, source, number, at in rows]


def _invited(session: Session, member_id: int) -> Invited:
    joined, rewarded = session.execute(
        sa.select(
            sa.func.count(),
            sa.func.coalesce(sa.func.sum(sa.case((Referral.state == "rewarded", 1), else_=0)), 0),
        ).where(Referral.referrer_id == member_id, Referral.state != "rejected")
    ).one()
    return Invited(int(joined), int(rewarded))


def _groups(session: Session, member_id: int, now: datetime) -> list[OpenGroup]:
    others = sa.orm.aliased(GroupSeat)
    taken = sa.select(sa.func.count()).where(others.group_id == Group.id).scalar_subquery()
    rows = session.execute(
        sa.select(Group.id, Group.token, Group.seats, Group.deadline, GroupOffer.title, taken.label("taken"))
        .join(GroupSeat, GroupSeat.group_id == Group.id)
        .join(GroupOffer, GroupOffer.id == Group.offer_id)
        .where(
            GroupSeat.member_id == member_id,
            GroupSeat.state == HELD,
            Group.state == OPEN,
            Group.deadline > now,
        )
        .order_by(Group.deadline, Group.id)
        .limit(MAX_GROUPS)
    )
    return [
        OpenGroup(
            row.title,
            row.seats,
            int(row.taken),
            row.deadline,
            f"/g/{row.token}?m={group_pages.member_token(row.id, member_id)}",
        )
        for row in rows
    ]


def member_of_openid(session: Session, openid: str) -> int | None:
    """The one member who is bound to a WeChat account; None for nobody, and where several are."""
    found: Iterable[int] = session.scalars(
        sa.select(Member.id)
        .where(Member.openid_index == blind_index("openid", openid), Member.erased_at.is_(None))
        .limit(2)
    )
    ids = list(found)
    return ids[0] if len(ids) == 1 else None
