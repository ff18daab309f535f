"""The money that a batch may give in all: taken by holds and redemptions, given back with them.

Guarantees: never more is used than the budget, since the check is inside the write; a batch without a
budget is never written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.db import among
from loyalty.models import CouponBatch


def take(session: Session, batch_id: int, amount_minor: int) -> bool:
    """Count ``amount_minor`` in, or answer False where the budget has no room for it."""
    if amount_minor <= 0:
        return True
    done = session.execute(
        sa.update(CouponBatch)
        .where(
            CouponBatch.id == batch_id,
            CouponBatch.budget_used_minor + amount_minor <= CouponBatch.budget_minor,
        )
        .values(budget_used_minor=CouponBatch.budget_used_minor + amount_minor)
        .returning(CouponBatch.id),
        execution_options={"synchronize_session": False},
    )
    return done.one_or_none() is not None


def room(session: Session, batch_ids: Iterable[int]) -> dict[int, int]:
    """Money left of each batch that has a budget; their rows are locked, in id order."""
    wanted = sorted(batch_ids)
    if not wanted:
        return {}
    rows = session.execute(
        sa.select(CouponBatch.id, CouponBatch.budget_minor - CouponBatch.budget_used_minor)
        .where(among(session, CouponBatch.id, wanted), CouponBatch.budget_minor.is_not(None))
        .order_by(CouponBatch.id)
        .with_for_update(key_share=True)
    )
    return {batch: left for batch, left in rows if left is not None}


def move(session: Session, amounts: Mapping[int, int]) -> None:
    """Count in (above 0) or give back (below 0) what was decided, by batch; those without a budget stay."""
    table = CouponBatch.__table__
    assert isinstance(table, sa.Table)
    changes = [{"batch": batch, "amount": amount} for batch, amount in sorted(amounts.items()) if amount]
    if changes:
        session.connection().execute(
            sa.update(table)
            .where(table.c.id == sa.bindparam("batch"), table.c.budget_minor.is_not(None))
            .values(budget_used_minor=table.c.budget_used_minor + sa.bindparam("amount")),
            changes,
        )


def give_back(session: Session, batch_id: int, budget_minor: int | None, amount_minor: int) -> None:
    """Count money of a hold or a redemption out again."""
    if budget_minor is not None:
        move(session, {batch_id: -amount_minor})
