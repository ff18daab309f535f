"""Bandits on the shop's own pages: once a week their weights follow what the arms brought.

Guarantees: one row a bandit and week, so that repeating a week changes nothing; who has an arm keeps it.
Weights hold for a whole period, and the arms are compared within the periods only, each at its share of all
members (see :mod:`experiments.stats.bandit`): a good week with many of one arm favours nobody. Windows that
are still open count as far as they went: within a period they are open alike in every arm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo
from typing import Any

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from scipy import special
from sqlalchemy.orm import Session

from core import audit
from core.bulk import bulk_insert
from core.db import Database
from core.errors import Conflict, InvalidInput
from core.warehouse.engine import Engine
from experiments import moments
from experiments.assignment import assigned
from experiments.experiments import BANDIT, MEMBER, OBJECT, RUNNING, SHOP, by_name, closed
from experiments.models import BanditWeek, Experiment
from experiments.moments import Moments
from experiments.stats import bandit, srm
from experiments.stats.estimate import Estimate

ACTOR = "bandit"
PARTS = 10_000
"""Weights are whole multiples of 1/10,000, as finely as the hash tells units apart."""
MAX_PERIODS = 520
CHANGED, KEPT, KNOWN = "changed", "kept", "known"
"""Of a week: new weights; too little to say, so those of before; reckoned already."""


@dataclass(frozen=True)
class Week:
    """What a week's reckoning says. ``found``: arm → n, pooled mean and standard error; empty: too little."""

    experiment_id: int
    name: str
    version: int
    week: date
    before: dict[str, float]
    weights: dict[str, float]
    found: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Outcome:
    """What became of a bandit's week: ``changed``, ``kept`` or ``known``, and the weights that hold."""

    name: str
    week: date
    outcome: str
    weights: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        return {"week": self.week.isoformat(), "outcome": self.outcome, "weights": self.weights}


def week_of(at: datetime, zone: tzinfo) -> date:
    """The Monday of the week of ``at`` in ``zone``."""
    day = at.astimezone(zone).date()
    return day - timedelta(days=day.weekday())


def history(session: Session, experiment_id: int) -> list[BanditWeek]:
    """Every reckoning of a bandit, the oldest first."""
    query = (
        sa.select(BanditWeek)
        .where(BanditWeek.experiment_id == experiment_id)
        .order_by(BanditWeek.week.desc())
        .limit(MAX_PERIODS)
    )
    return list(session.scalars(query))[::-1]


def open_bandits(session: Session, now: datetime) -> list[str]:
    """Names of the bandits that give arms at ``now``."""
    query = (
        sa.select(Experiment)
        .where(Experiment.kind == SHOP, Experiment.allocation == BANDIT, Experiment.status == RUNNING)
        .order_by(Experiment.name)
    )
    return [row.name for row in session.scalars(query) if closed(row, now) is None]


def weights_of(row: Experiment) -> dict[str, float]:
    """Arm → weight of now."""
    return {arm["name"]: float(arm["weight"]) for arm in row.arms}


# --- reckoning -------------------------------------------------------------------------------------------


def by_period(
    assignments: pa.Table, arms: Sequence[str], starts: Sequence[datetime]
) -> tuple[pa.Table, dict[str, tuple[int, str]]]:
    """(the assignments with an arm for each period and arm, what those stand for).

    ``starts``: the moments at which weights changed, ascending: period k ends at ``starts[k]``.
    """
    at = assignments["at"].to_numpy()
    edges = np.array(
        [np.datetime64(one.replace(tzinfo=None), "us") for one in starts], dtype="datetime64[us]"
    )
    period = np.searchsorted(edges, at.astype("datetime64[us]"), side="right")
    place = {arm: str(number) for number, arm in enumerate(arms)}
    labels = [
        f"{k}:{place.get(arm, '')}"
        for k, arm in zip(period.tolist(), assignments["arm"].to_pylist(), strict=True)
    ]
    known = {f"{k}:{place[arm]}": (k, arm) for k in range(len(starts) + 1) for arm in arms}
    column = assignments.schema.get_field_index("arm")
    return assignments.set_column(column, "arm", pa.array(labels, pa.string())), known


def periods(
    engine: Engine, assignments: pa.Table, row: Experiment, weeks: Sequence[BanditWeek], as_of: datetime
) -> list[dict[str, Moments]]:
    """Arm → moments of the goal, a period of equal weights after the other; one scan of the warehouse."""
    arms = list(weights_of(row))
    starts = [one.at for one in weeks if one.before != one.weights]
    table, known = by_period(assignments, arms, starts)
    found = moments.scan(engine, table, window_days=row.window_days or 1, as_of=as_of)
    goal = row.goal or moments.REVENUE
    empty: list[dict[str, Moments]] = [
        dict.fromkeys(arms, Moments(0, 0.0, 0.0)) for _ in range(len(starts) + 1)
    ]
    for label, one in found.items():
        if label in known:
            period, arm = known[label]
            empty[period][arm] = one.metrics[goal]
    return empty


def reckon(session: Session, engine: Engine, row: Experiment, now: datetime, zone: tzinfo) -> Week:
    """The weights that hold from ``now`` on. Writes nothing.

    Conflict: the experiment is no bandit, or gives no arms now.
    """
    if row.allocation != BANDIT or row.unit != MEMBER:
        raise Conflict(f"The weights of “{row.name}” are fixed; only a bandit's follow what its arms bring.")
    if closed(row, now) is not None:
        raise Conflict(f"“{row.name}” gives no arms now; start it first.")
    before = weights_of(row)
    parts = periods(engine, assigned(session, row.id), row, history(session, row.id), now)
    weights, found = decide(parts, before, row.goal or moments.REVENUE, row.floor or bandit.FLOOR)
    return Week(row.id, row.name, row.version, week_of(now, zone), before, weights, found)


def decide(
    parts: Sequence[Mapping[str, Moments]], before: Mapping[str, float], goal: str, floor: float
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """(weights, arm → {n, mean, se}) from the periods; the weights of before where there is too little."""
    try:
        estimates = bandit.pooled(parts)
    except InvalidInput:
        return dict(before), {}
    found = {arm: _told(one) for arm, one in estimates.items()}
    if min(one.n for one in estimates.values()) < bandit.MIN_MEMBERS:
        return dict(before), found
    kind = "proportion" if goal == moments.CONVERTED else "mean"
    return rounded(bandit.reweigh(parts, kind=kind, floor=floor)), found


def _told(one: Estimate) -> dict[str, float]:
    return {"n": one.n, "mean": one.value, "se": math.sqrt(max(one.var, 0.0))}


def rounded(weights: Mapping[str, float]) -> dict[str, float]:
    """Multiples of 1/10,000 that sum to 1, by the largest remainders; no arm loses more than one of them."""
    parts = {arm: weight * PARTS for arm, weight in weights.items()}
    whole = {arm: math.floor(part + 1e-9) for arm, part in parts.items()}
    left = PARTS - sum(whole.values())
    for arm in sorted(parts, key=lambda arm: (whole[arm] - parts[arm], arm))[:left]:
        whole[arm] += 1
    return {arm: count / PARTS for arm, count in whole.items()}


def store(session: Session, week: Week, now: datetime) -> Outcome:
    """Keep a week's weights, which hold from ``now`` on; a week that is there stays as it is."""
    row = by_name(session, week.name, lock=True)
    new = bulk_insert(
        session,
        BanditWeek.__table__,
        ("experiment_id", "week", "at", "before", "weights", "found"),
        [(week.experiment_id, week.week, now, week.before, week.weights, week.found)],
        conflict=["experiment_id", "week"],
        returning=["id"],
    )
    if not new:
        return Outcome(week.name, week.week, KNOWN, weights_of(row))
    if closed(row, now) is not None or weights_of(row) != week.before:
        raise Conflict(f"“{week.name}” was changed meanwhile; reckon its week again.")
    if week.weights == week.before:
        return Outcome(week.name, week.week, KEPT, week.before)
    row.arms = [{"name": arm["name"], "weight": week.weights[arm["name"]]} for arm in row.arms]
    row.version += 1
    detail = {"week": week.week.isoformat(), "weights": [week.before, week.weights]}
    audit.record(session, ACTOR, "experiment.reweigh", OBJECT, week.name, now, detail)
    session.flush()
    return Outcome(week.name, week.week, CHANGED, week.weights)


def reweigh(database: Database, engine: Engine, name: str, now: datetime, zone: tzinfo) -> Outcome:
    """The week of one bandit: reckoned outside of any writing, then kept. NotFound, Conflict: see above."""
    with database.read() as session:
        row = by_name(session, name)
        monday = week_of(now, zone)
        there = sa.select(BanditWeek.id).where(BanditWeek.experiment_id == row.id, BanditWeek.week == monday)
        if session.scalar(there) is not None:
            return Outcome(name, monday, KNOWN, weights_of(row))
        week = reckon(session, engine, row, now, zone)
    with database.write() as session:
        return store(session, week, now)


def reweigh_all(database: Database, engine: Engine, now: datetime, zone: tzinfo) -> dict[str, Outcome | str]:
    """The week of every open bandit. One that is refused (its message) does not keep the others waiting."""
    with database.read() as session:
        names = open_bandits(session, now)
    done: dict[str, Outcome | str] = {}
    for name in names:
        try:
            done[name] = reweigh(database, engine, name, now, zone)
        except Conflict as error:
            done[name] = str(error)
    return done


# --- the split of arms whose weights change --------------------------------------------------------------


@dataclass(frozen=True)
class SplitCheck:
    """Whether the arms are split as planned. ``p``: for one look; ``p_any``: however often one looks."""

    p: float
    p_any: float

    @property
    def tone(self) -> str:
        """``bad``: no chance, however often one looked; ``watch``: no chance, had this been the only look."""
        if self.p_any < srm.ALERT_BELOW:
            return "bad"
        return "watch" if self.p < srm.ALERT_BELOW else "good"


def check_split(
    parts: Sequence[tuple[Mapping[str, float], Sequence[Mapping[str, int]]]],
) -> SplitCheck | None:
    """The split over periods of equal weights: (weights, counts new in each day). None: nobody yet.

    For one look the periods' χ² and their degrees of freedom add up. However often one looks: each period has
    its always-valid p, and the k-th may spend 1 / (k (k + 1)) of the error, which sums to 1 over all.
    """
    chi2, df, anytime, number = 0.0, 0, 1.0, 0
    for weights, days in parts:
        total: dict[str, int] = dict.fromkeys(weights, 0)
        p = 1.0
        for day in days:
            for arm, count in day.items():
                total[arm] = total.get(arm, 0) + count
            p = srm.always_valid(total, weights, p)
        if not sum(total[arm] for arm in weights):
            continue
        number += 1
        one = srm.check_split(total, weights)
        chi2, df = chi2 + one.chi2, df + one.df
        anytime = min(anytime, p * (number * (number + 1) if len(parts) > 1 else 1))
    return SplitCheck(float(special.chdtrc(df, chi2)), min(anytime, 1.0)) if number else None
