"""Group offers and their groups for the console."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.models import Member
from loyalty.groups.groups import FAILED, OPEN, UNLOCKED
from loyalty.groups.models import Group, GroupOffer, GroupSeat
from loyalty.models import CouponBatch
from web.paging import PAGE_ROWS, Page, offset, page_of


@dataclass(frozen=True)
class OfferRow:
    id: int
    name: str
    title: str
    seats: int
    hours: int
    batch_id: int
    batch: str
    starts_at: datetime | None
    ends_at: datetime | None
    archived_at: datetime | None
    open: int
    unlocked: int
    failed: int

    @property
    def success(self) -> float | None:
        """Share of the groups that are over which filled in time; None: none is over yet."""
        over = self.unlocked + self.failed
        return self.unlocked / over if over else None


@dataclass(frozen=True)
class GroupRow:
    id: int
    offer: str
    leader_id: int
    leader: str
    seats: int
    taken: int
    state: str
    opened_at: datetime
    deadline: datetime


def offers(session: Session) -> list[OfferRow]:
    """Every offer with its groups by state, those in use first; one query."""

    def number(state: str) -> sa.ColumnElement[int]:
        return sa.func.coalesce(sa.func.sum(sa.case((Group.state == state, 1), else_=0)), 0)

    columns = (
        GroupOffer.id,
        GroupOffer.name,
        GroupOffer.title,
        GroupOffer.seats,
        GroupOffer.hours,
        GroupOffer.batch_id,
        CouponBatch.title.label("batch"),
        GroupOffer.starts_at,
        GroupOffer.ends_at,
        GroupOffer.archived_at,
    )
    found = session.execute(
        sa.select(
            *columns, number(OPEN).label("open"), number(UNLOCKED).label("unlocked"),
            number(FAILED).label("failed"),
        )
        .join(CouponBatch, CouponBatch.id == GroupOffer.batch_id)
        .outerjoin(Group, Group.offer_id == GroupOffer.id)
        .group_by(GroupOffer.id, CouponBatch.title)
        .order_by(GroupOffer.archived_at.is_not(None), GroupOffer.id.desc())
    )  # fmt: skip
    return [OfferRow(**row._mapping) for row in found]


def rows(session: Session, number: int, state: str = OPEN) -> Page[GroupRow]:
    """A page of groups in a state (empty: all), the newest first."""
    taken = (
        sa.select(sa.func.count())
        .select_from(GroupSeat)
        .where(GroupSeat.group_id == Group.id)
        .scalar_subquery()
    )
    query = (
        sa.select(
            Group.id,
            GroupOffer.title.label("offer"),
            Group.leader_id,
            sa.func.coalesce(Member.name, Member.external_id).label("leader"),
            Group.seats,
            taken.label("taken"),
            Group.state,
            Group.opened_at,
            Group.deadline,
        )
        .join(GroupOffer, GroupOffer.id == Group.offer_id)
        .join(Member, Member.id == Group.leader_id)
        .order_by(Group.id.desc())
    )
    if state:
        query = query.where(Group.state == state)
    found = session.execute(query.offset(offset(number)).limit(PAGE_ROWS + 1)).all()
    return page_of([GroupRow(**row._mapping) for row in found], number, by_time=True)
