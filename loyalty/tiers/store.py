"""The stored programme, where members stand on its ladder, and what it gives them.

Guarantees: saving a programme moves nobody; every change of it leaves an audit row.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core import audit
from core.db import among
from core.models import Preference
from loyalty.tiers.model import Program, Tier, rules_of
from loyalty.tiers.models import MemberTier, TierMove, TierRow

PREFERENCE = "loyalty.tiers"
TIERS = "tiers"
"""Name of the fact table of the warehouse."""
MAX_MOVES = 100


@dataclass(frozen=True)
class Membership:
    """Where a member stands; without a tier: the next one alone."""

    tier: str | None
    title: str | None
    since: datetime | None
    until: datetime | None
    value: int
    next_tier: str | None
    to_next: int | None
    benefits: dict[str, Any]


def tier_of(session: Session, member_ids: Iterable[int]) -> dict[int, str]:
    """Name of the tier by member, of those who have one."""
    rows = session.execute(
        sa.select(MemberTier.member_id, MemberTier.tier).where(
            among(session, MemberTier.member_id, member_ids)
        )
    )
    return {row.member_id: row.tier for row in rows}


def multipliers(session: Session) -> dict[str, str]:
    """What the points of orders are multiplied by (a decimal as text), by tier."""
    rows = session.execute(sa.select(TierRow.name, TierRow.benefits).where(TierRow.archived_at.is_(None)))
    return {row.name: str(row.benefits["multiplier"]) for row in rows if row.benefits.get("multiplier")}


def load_program(session: Session) -> Program:
    """The stored programme; without any, one without tiers."""
    rows = session.scalars(sa.select(TierRow).order_by(TierRow.rank, TierRow.id)).all()
    ladder = tuple(
        Tier(row.name, row.title, row.threshold, row.title_en, row.benefits)
        for row in rows
        if row.archived_at is None
    )
    retired = {row.name: row.threshold for row in rows if row.archived_at is not None}
    stored = session.get(Preference, PREFERENCE)
    return Program(ladder, retired=retired, **(stored.value if stored is not None else {}))


def save_program(session: Session, program: Program, by: str, now: datetime) -> None:
    """Store the ladder and its rules. Nobody moves before the next review or earning."""
    known = {row.name: row for row in session.scalars(sa.select(TierRow))}
    for rank, tier in enumerate(program.tiers):
        row = known.pop(tier.name, None)
        if row is None:
            row = TierRow(name=tier.name)
            session.add(row)
        row.title, row.title_en, row.rank = tier.title, tier.title_en, rank
        row.threshold, row.benefits, row.archived_at = tier.threshold, dict(tier.benefits), None
    for row in known.values():
        row.archived_at = row.archived_at or now
    session.merge(Preference(key=PREFERENCE, value=rules_of(program), updated_at=now))
    detail = {**rules_of(program), "tiers": [asdict(tier) for tier in program.tiers]}
    audit.record(session, by, "change", "preference", PREFERENCE, now, detail)
    session.flush()


def membership(session: Session, program: Program, member_id: int, value: int) -> Membership:
    """A member's tier, and what is missing to the next one where it has ``value`` in the window."""
    row = session.get(MemberTier, member_id)
    place = program.rank(row.tier) if row is not None else -1
    above = program.tiers[place + 1] if place + 1 < len(program.tiers) else None
    tier = program.tiers[place] if place >= 0 else None
    return Membership(
        tier.name if tier else None,
        tier.title if tier else None,
        row.since if row is not None and tier else None,
        row.until if row is not None and tier else None,
        value,
        above.name if above else None,
        max(0, above.threshold - value) if above else None,
        dict(tier.benefits) if tier else {},
    )


def counts(session: Session) -> dict[str, int]:
    """Members by tier."""
    rows = session.execute(sa.select(MemberTier.tier, sa.func.count()).group_by(MemberTier.tier))
    return {tier: int(number) for tier, number in rows}


def moves(session: Session, *, number: int = MAX_MOVES, member_id: int | None = None) -> list[Any]:
    """The latest moves, newest first; of one member, or of all."""
    query = sa.select(TierMove).order_by(TierMove.at.desc(), TierMove.id.desc()).limit(min(number, MAX_MOVES))
    if member_id is not None:
        query = query.where(TierMove.member_id == member_id)
    return list(session.scalars(query))
