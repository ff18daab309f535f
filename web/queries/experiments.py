"""Experiments of every kind, and how units came into one of the shop's pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns import rollout
from campaigns.models import Campaign, Rollout
from core.times import instant
from experiments.experiments import SHOP, STOPPED, VISITOR
from experiments.models import Assignment, Experiment, Exposure, Readout
from experiments.readout import REAL
from web.paging import PAGE_ROWS, Page, offset, page_of

DAYS = 42
"""Days of the picture; who came before them is counted together."""
MAX_LAYER = 40


@dataclass(frozen=True)
class Row:
    """An experiment of the list: ``units`` so far, the ``first`` of them, its campaign, its last read-out."""

    experiment: Experiment
    campaign: str | None
    title: str | None
    units: int
    first: datetime | None
    readout_id: int | None


def listing(session: Session, number: int, *, kind: str = "") -> Page[Row]:
    """The shop's own first, then the newest."""
    query = (
        sa.select(Experiment, Campaign.name, Campaign.title)
        .outerjoin(
            Rollout, sa.and_(Rollout.experiment_id == Experiment.id, Rollout.state == rollout.APPROVED)
        )
        .outerjoin(
            Campaign, sa.or_(Campaign.experiment_id == Experiment.id, Campaign.id == Rollout.campaign_id)
        )
        .order_by(Experiment.kind != SHOP, Experiment.id.desc())
        .offset(offset(number))
        .limit(PAGE_ROWS + 1)
    )
    if kind:
        query = query.where(Experiment.kind == kind)
    found = session.execute(query).all()
    ids = [row[0].id for row in found]
    units = {**_units(session, Assignment.experiment_id, Assignment.at, ids)}
    units |= _units(session, Exposure.experiment_id, Exposure.first_at, ids)
    newest = dict(
        session.execute(
            sa.select(Readout.experiment_id, sa.func.max(Readout.id))
            .where(Readout.experiment_id.in_(ids), Readout.kind == REAL)
            .group_by(Readout.experiment_id)
        ).all()
    )
    rows = []
    for one, name, title in found:
        number_of, first = units.get(one.id, (0, None))
        rows.append(Row(one, name, title, number_of, first, newest.get(one.id)))
    return page_of(rows, number, by_time=True)


def _units(
    session: Session,
    experiment: sa.orm.InstrumentedAttribute[int],
    at: sa.orm.InstrumentedAttribute[datetime],
    ids: Sequence[int],
) -> dict[int, tuple[int, datetime]]:
    query = sa.select(experiment, sa.func.count(), sa.func.min(at)).where(experiment.in_(ids))
    return {row[0]: (row[1], row[2]) for row in session.execute(query.group_by(experiment))}


@dataclass(frozen=True)
class Span:
    """New units an arm in [start, end); ``day`` in the shop's zone, None for all before the picture."""

    start: datetime
    end: datetime
    day: date | None
    arms: dict[str, int]


def arrivals(
    session: Session, row: Experiment, zone: ZoneInfo, now: datetime, cuts: Sequence[datetime] = ()
) -> list[Span]:
    """How many new units each arm got: a span a day, cut also at the moments of ``cuts``; by one query."""
    model, at = (Exposure, Exposure.first_at) if row.unit == VISITOR else (Assignment, Assignment.at)
    bounds = sa.select(sa.func.min(at), sa.func.max(at)).where(model.experiment_id == row.id)
    first, last = session.execute(bounds).one()
    if first is None:
        return []
    end = max(last, now).astimezone(zone).date()
    begin = max(first.astimezone(zone).date(), end - timedelta(days=DAYS - 1))
    days = [begin + timedelta(days=step) for step in range((end - begin).days + 1)]
    starts = [instant(day, zone) for day in days]
    finish = instant(end + timedelta(days=1), zone)
    early = [min(first, starts[0])]
    edges = sorted({*early, *starts, finish, *(cut for cut in cuts if first < cut < finish)})
    columns = [
        sa.func.count().filter(sa.and_(at >= low, at < high)).label(f"s{index}")
        for index, (low, high) in enumerate(pairwise(edges))
    ]
    found = session.execute(
        sa.select(model.arm, *columns).where(model.experiment_id == row.id).group_by(model.arm)
    ).all()
    return [
        Span(
            low,
            high,
            None if low < starts[0] else low.astimezone(zone).date(),
            {one[0]: int(one[index + 1]) for one in found},
        )
        for index, (low, high) in enumerate(pairwise(edges))
    ]


def in_layer(session: Session, row: Experiment) -> list[Experiment]:
    """The experiments of the same layer that are not over, this one with them, by their part."""
    if row.layer is None:
        return []
    query = (
        sa.select(Experiment)
        .where(
            Experiment.kind == SHOP,
            Experiment.layer == row.layer,
            sa.or_(Experiment.status != STOPPED, Experiment.id == row.id),
        )
        .order_by(Experiment.layer_low, Experiment.id)
        .limit(MAX_LAYER)
    )
    return list(session.scalars(query))


def newest_readout(session: Session, experiment_id: int) -> Readout | None:
    """The newest real read-out that was kept."""
    query = (
        sa.select(Readout)
        .where(Readout.experiment_id == experiment_id, Readout.kind == REAL)
        .order_by(Readout.id.desc())
        .limit(1)
    )
    return session.scalars(query).first()
