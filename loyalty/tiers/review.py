"""Moving members on the ladder: up right after they earned, up and down at the nightly review.

Guarantees: values are counted by one scan of orders (or of the ledger), grouped; whoever moves is locked
and counted again before anything is written; a repetition at the same moment moves nobody twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.bulk import bulk_insert
from core.db import among, lock_rows
from core.models import IS_CUSTOMER, Member, Order
from core.warehouse.replica import mark
from loyalty.lots import DEBT, EARN, REVOKE
from loyalty.models import PointsEntry
from loyalty.tiers import store
from loyalty.tiers.model import ORDERS, POINTS, REACHED, Decision, Program, Standing, decide
from loyalty.tiers.models import MemberTier, TierMove

MAX_SHOWN = 20


class Move(NamedTuple):
    """What a review decided about a member, where that is news."""

    member_id: int
    from_tier: str | None
    decision: Decision
    value: int


@dataclass(frozen=True)
class Reviewed:
    """Members who went up, went down (or lost their tier), and kept it at their review."""

    up: int = 0
    down: int = 0
    kept: int = 0


@dataclass(frozen=True)
class Simulation:
    """Members by (tier today, tier after the next review), and some of those who would go down."""

    matrix: Counter[tuple[str | None, str | None]] = field(default_factory=Counter)
    down: int = 0
    shown: tuple[tuple[int, str | None, str | None, int], ...] = ()
    """(member id, tier today, tier then, value)."""


def values(
    session: Session, program: Program, now: datetime, member_ids: Iterable[int] | None
) -> sa.Subquery:
    """Member → value in the programme's window, as a subquery: one scan, grouped."""
    start, turn = program.windows(now)
    amount: Any
    if program.basis == POINTS:
        owner, at, amount = PointsEntry.member_id, PointsEntry.at, PointsEntry.delta
        undone = sa.and_(PointsEntry.kind.in_((REVOKE, DEBT)), PointsEntry.origin.like("order:%"))
        counted = sa.or_(PointsEntry.kind == EARN, undone)
    else:
        owner, at = Order.member_id, Order.ordered_at
        net = Order.total_minor - Order.refunded_minor
        counted = sa.and_(Order.status != "cancelled", net > 0)
        if program.basis == ORDERS:
            amount = sa.literal(1)
        else:
            amount, counted = net, sa.and_(counted, Order.currency == program.currency)
    this = sa.func.sum(sa.case((at >= turn, amount), else_=0))
    before = sa.func.sum(sa.case((at < turn, amount), else_=0))
    query = (
        sa.select(owner.label("member_id"), sa.case((this >= before, this), else_=before).label("value"))
        .where(counted, at >= start, at <= now)
        .group_by(owner)
    )
    if member_ids is not None:
        query = query.where(among(session, owner, member_ids))
    return query.subquery()


def _standings(
    session: Session,
    program: Program,
    now: datetime,
    member_ids: Iterable[int] | None,
    *,
    news_only: bool = False,
) -> Iterable[Any]:
    """(member id, value, tier, until) of everybody who has a tier or enough for one; with ``news_only`` of
    those whom :func:`decide` may move or keep: on most nights few of a million."""
    ids = None if member_ids is None else list(member_ids)
    of: Any = values(session, program, now, ids)
    if ids is None:
        # Else each parallel worker of PostgreSQL counts all orders for itself.
        of = sa.select(of).cte("counted").prefix_with("MATERIALIZED", dialect="postgresql")
    value = sa.func.coalesce(of.c.value, 0)
    lowest = program.tiers[0].threshold if program.tiers else 0
    query = (
        sa.select(Member.id, value, MemberTier.tier, MemberTier.until)
        .outerjoin(of, of.c.member_id == Member.id)
        .outerjoin(MemberTier, MemberTier.member_id == Member.id)
        .where(IS_CUSTOMER, sa.or_(MemberTier.tier.is_not(None), value >= lowest))
        .order_by(Member.id)
    )
    if news_only:
        query = query.where(_may_be_news(program, value, now))
    if ids is not None:
        query = query.where(among(session, Member.id, ids))
    return session.execute(query)


def _may_be_news(program: Program, value: Any, now: datetime) -> sa.ColumnElement[bool]:
    """Whom a review may concern: without a tier, of a tier that is no more, above the own tier, or due."""
    higher = [
        sa.and_(MemberTier.tier == tier.name, value >= above.threshold)
        for tier, above in pairwise(program.tiers)
    ]
    return sa.or_(
        MemberTier.tier.is_(None),
        MemberTier.tier.not_in([tier.name for tier in program.tiers]),
        MemberTier.until <= now - timedelta(days=program.grace_days),
        *higher,
    )


def due(
    session: Session, program: Program, now: datetime, member_ids: Iterable[int] | None = None
) -> list[Move]:
    """Everybody who would move or be kept at a review now, in id order; one query."""
    if not program.tiers:
        return []
    found = []
    for member_id, value, tier, until in _standings(session, program, now, member_ids, news_only=True):
        decision = decide(int(value), Standing(tier, until) if tier else None, program, now)
        if decision.why is not None:
            found.append(Move(member_id, tier, decision, int(value)))
    return found


def value_of(session: Session, program: Program, member_id: int, now: datetime) -> int:
    """What a member has in the programme's window."""
    of = values(session, program, now, [member_id])
    return int(session.execute(sa.select(sa.func.coalesce(sa.func.sum(of.c.value), 0))).scalar_one())


def membership(session: Session, member_id: int, now: datetime) -> store.Membership:
    """Where a member stands, with what it has in the window now."""
    program = store.load_program(session)
    return store.membership(session, program, member_id, value_of(session, program, member_id, now))


def settle(
    session: Session, program: Program, member_ids: Iterable[int], now: datetime, *, only_up: bool = False
) -> Reviewed:
    """Move the members who are due, counted again under their locks. ``only_up``: leave reviews alone."""
    ids = sorted(set(member_ids))
    lock_rows(session, Member.__table__, ids)
    found = due(session, program, now, ids)
    if only_up:
        found = [move for move in found if move.decision.why == REACHED]
    _write(session, found, now)
    up = sum(program.rank(move.decision.tier) > program.rank(move.from_tier) for move in found)
    kept = sum(move.decision.tier == move.from_tier for move in found)
    return Reviewed(up, len(found) - up - kept, kept)


def review(session: Session, program: Program, now: datetime) -> Reviewed:
    """Review everybody at once. The flow does the same in batches of :func:`due` and :func:`settle`."""
    return settle(session, program, (move.member_id for move in due(session, program, now)), now)


def promote(session: Session, member_ids: Iterable[int], now: datetime) -> int:
    """Upgrade those of the members who reached a tier; how many. Nobody goes down."""
    ids = list(member_ids)
    program = store.load_program(session)
    if not ids or not program.tiers:
        return 0
    return settle(session, program, ids, now, only_up=True).up


def _write(session: Session, found: Sequence[Move], now: datetime) -> None:
    if not found:
        return
    moves = (
        (move.member_id, move.from_tier, move.decision.tier, now, move.decision.why, move.value)
        for move in found
    )
    # The same moment again is a repetition.
    columns = ("member_id", "from_tier", "to_tier", "at", "why", "value")
    bulk_insert(session, TierMove.__table__, columns, moves, conflict=["member_id", "at"])
    since = _since(session, found)
    session.execute(
        sa.delete(MemberTier).where(among(session, MemberTier.member_id, (m.member_id for m in found)))
    )
    rows = (
        (
            move.member_id,
            move.decision.tier,
            since[move.member_id] if move.decision.tier == move.from_tier else now,
            move.decision.until,
            move.value,
        )
        for move in found
        if move.decision.tier is not None
    )
    bulk_insert(
        session, MemberTier.__table__, ("member_id", "tier", "since", "until", "value"), rows, conflict=[]
    )
    mark(session, store.TIERS, [None])


def _since(session: Session, found: Sequence[Move]) -> dict[int, datetime]:
    rows = session.execute(
        sa.select(MemberTier.member_id, MemberTier.since).where(
            among(session, MemberTier.member_id, (move.member_id for move in found))
        )
    )
    return {row.member_id: row.since for row in rows}


def simulate(session: Session, new_program: Program, now: datetime) -> Simulation:
    """Where everybody would stand after the next review by another programme, as if all were due today.

    Nothing is written; who has no tier and reaches none is not counted.
    """
    matrix: Counter[tuple[str | None, str | None]] = Counter()
    shown: list[tuple[int, str | None, str | None, int]] = []
    down = 0
    old = store.load_program(session)
    # A tier that the new ladder leaves out counts as retired, as it will once the ladder is saved.
    gone = {t.name: t.threshold for t in old.tiers if new_program.rank(t.name) < 0}
    program = replace(new_program, retired={**old.retired, **new_program.retired, **gone}, grace_days=0)
    for member_id, value, tier, _until in _standings(session, program, now, None):
        decision = decide(int(value), Standing(tier, now) if tier else None, program, now)
        matrix[tier, decision.tier] += 1
        if (
            tier is not None
            and decision.tier != tier
            and _height(program, decision.tier) < _height(program, tier)
        ):
            down += 1
            if len(shown) < MAX_SHOWN:
                shown.append((member_id, tier, decision.tier, int(value)))
    return Simulation(matrix, down, tuple(shown))


def _height(program: Program, tier: str | None) -> int:
    """What a tier asks for; -1 for none."""
    if tier is None:
        return -1
    place = program.rank(tier)
    return program.tiers[place].threshold if place >= 0 else program.retired.get(tier, -1)
