"""What a read-out of a stored experiment needs from elsewhere: dimensions, members of several arms, payback.

Guarantees: dimensions are what members were by the day of the first assignment where that is known (scores
and stages from the last snapshot before it, the channel of the last order before one's own moment), else as
the replica has them now; nothing an experiment did can be one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns import rollout
from campaigns.models import Campaign, CampaignRun, Decision
from campaigns.roi import Interval, Payback, Roi, payback
from core.errors import Conflict, NotFound
from core.facts import MEMBERS, ORDERS
from core.warehouse.engine import DuckEngine, Stored
from experiments import (
    planning,
    readout,
    readout_catalogue,
    readout_guardrails,
    readout_measure,
    readout_plan,
)
from experiments.assignment import assigned
from experiments.experiments import VISITOR, check_comparable
from experiments.models import Assignment, Experiment, Exposure
from experiments.moments import REVENUE, ArmMoments
from experiments.readout import Known, ReadOut
from experiments.readout_catalogue import Goal
from experiments.readout_form import Timeline
from loyalty.tiers.store import TIERS
from segments.scores import SNAPSHOT, SNAPSHOT_SCHEMA, latest_refresh, snapshot_path

DIMENSIONS = (
    "stage", "rfm_segment", "value_segment", "tier", "channel", "city", "province", "country", "gender",
    "locale", "source",
)  # fmt: skip
"""What a read-out may be broken down by; those that the replica has, with two values or more, are."""
_OF_MEMBERS = ("city", "province", "country", "gender", "locale", "source")


def with_dimensions(session: Session, engine: DuckEngine, assignments: pa.Table) -> pa.Table:
    """The assignments with a text column for every dimension that this replica knows."""
    if not assignments.num_rows:
        return assignments
    facts = engine.replica.facts
    columns, joins = ["s.stage", "s.rfm_segment", "s.value_segment"], ["LEFT JOIN scores s USING (member_id)"]
    if TIERS in facts:
        columns.append("t.tier")
        joins.append(f'LEFT JOIN "{TIERS}" t USING (member_id)')
    if ORDERS in facts:
        columns.append("c.channel")
        joins.append("LEFT JOIN bought c USING (member_id)")
    if MEMBERS in facts:
        columns += [f"m.{name}" for name in _OF_MEMBERS]
        joins.append(f'LEFT JOIN "{MEMBERS}" m USING (member_id)')
    sql = f"""
WITH bought AS (
  SELECT a.member_id, arg_max(o.channel, o.ordered_at) AS channel
  FROM assignments a JOIN "{ORDERS}" o ON o.member_id = a.member_id
  WHERE o.ordered_at < a."at" GROUP BY a.member_id
)
SELECT a.member_id, a.arm, a."at", {", ".join(columns)} FROM assignments a {" ".join(joins)}"""  # noqa: S608
    first = pc.min(assignments["at"]).as_py()
    refreshed = latest_refresh(session, first.date())
    path = snapshot_path(engine, SNAPSHOT, refreshed.as_of if refreshed else None)
    files = {"scores": Stored(path, SNAPSHOT_SCHEMA)}
    return engine.query(sql, None, {"assignments": assignments}, files)


def known(session: Session, experiment: Experiment, as_of: datetime, subject: str = "") -> Known:
    """What is known of an experiment beside its facts: earlier looks, who saw several arms, and the relative
    difference that the plan of ``subject`` (see :mod:`experiments.planning`) wanted to find."""
    looks, previous_p = readout.looks_before(session, experiment.id, as_of)
    plan = planning.binding(session, subject) if subject else None
    found = Known(looks, previous_p, shared(session, experiment.id))
    if plan is None:
        return found
    return replace(found, mde=plan.plan.get("mde_relative"), tuning=plan.plan.get("tuning") or found.tuning)


def goal(session: Session, engine: DuckEngine, subject: str, usual: str, window_days: int) -> Goal:
    """What the read-out of ``subject`` is about: the goal of the plan that binds it, else ``usual``; and what
    its newest plan shows beside, also where that was made after the start, for it decides nothing."""
    rows = planning.versions(session, subject)
    binds = next((row for row in rows if not row.after_start), None)
    plan = planning.from_json(binds.plan) if binds is not None else None
    also = planning.from_json(rows[0].plan).also if rows else ()
    return readout_catalogue.of_plan(session, engine.replica.facts, plan, also, usual, window_days)


def shared(session: Session, experiment_id: int) -> int | None:
    """Members whom runs of the campaign treated as another arm than the one they count in; None where the
    experiment is no campaign's: an exposure is stored once."""
    campaign = rollout.owner(session, experiment_id)
    experiment = session.get(Experiment, experiment_id)
    if campaign is None or experiment is None:
        return None
    query = (
        sa.select(sa.func.count(Decision.member_id.distinct()))
        .select_from(CampaignRun)
        .join(Decision, Decision.run_id == CampaignRun.id)
        .join(
            Assignment,
            sa.and_(Assignment.member_id == Decision.member_id, Assignment.experiment_id == experiment_id),
        )
        .where(
            CampaignRun.campaign_id == campaign.id,
            # Runs of before a roll-out were another experiment's.
            CampaignRun.started_at >= experiment.created_at,
            Decision.arm.is_not(None),
            Decision.arm != Assignment.arm,
        )
    )
    return int(session.scalar(query) or 0)


def of_shop(
    session: Session,
    engine: DuckEngine,
    experiment: Experiment,
    *,
    window_days: int,
    as_of: datetime,
    currency: str,
) -> readout_measure.Measured:
    """The read-out of an experiment that is no campaign's; of visitors, without orders here, the split.

    Conflict: a bandit's, whose weights changed.
    """
    check_comparable(experiment)
    weights = {arm["name"]: float(arm["weight"]) for arm in experiment.arms}
    if experiment.unit == VISITOR:
        return readout_measure.Measured(_visitors(session, experiment, weights, currency), None)
    subject = f"experiment:{experiment.name}"
    wanted = readout_measure.Wanted(
        weights,
        experiment.control,
        window_days,
        as_of,
        currency=currency,
        goal=goal(session, engine, subject, REVENUE, window_days),
    )
    assignments = with_dimensions(session, engine, assigned(session, experiment.id))
    wanted, about = readout_plan.bind(
        session, subject, experiment.id, wanted, known(session, experiment, as_of, subject)
    )
    found = readout_measure.measure(engine, assignments, wanted, about)
    guarded = readout_guardrails.evaluate(session, engine, assignments, subject, experiment.control, as_of)
    return replace(found, readout=replace(found.readout, guardrails=guarded))


def _visitors(
    session: Session, experiment: Experiment, weights: Mapping[str, float], currency: str
) -> ReadOut:
    query = (
        sa.select(Exposure.arm, sa.func.count())
        .where(Exposure.experiment_id == experiment.id)
        .group_by(Exposure.arm)
    )
    arms = {arm: ArmMoments(number, {}, {}) for arm, number in session.execute(query)}
    return readout.read_out(arms, weights, experiment.control, currency=currency)


def by_name(session: Session, name: str) -> tuple[Experiment, Campaign | None]:
    """The experiment of that name, or of the campaign of that name. NotFound, or Conflict: it has none."""
    campaign = session.scalar(sa.select(Campaign).where(Campaign.name == name))
    if campaign is not None:
        if campaign.experiment_id is None:
            raise Conflict(
                f"“{campaign.title}” has not run, or had one variant and no holdout: nothing to compare."
            )
        return session.get_one(Experiment, campaign.experiment_id), campaign
    experiment = session.scalar(sa.select(Experiment).where(Experiment.name == name))
    if experiment is None:
        raise NotFound(f"There is no experiment or campaign “{name}”; `huiliu campaigns list` shows them.")
    return experiment, rollout.owner(session, experiment.id)


def paybacks(revenue: Timeline | None, money: Mapping[str, Roi], margin: float) -> dict[str, Payback]:
    """When each variant's incremental margin had paid its cost (what is known of it now), day by day."""
    found: dict[str, Payback] = {}
    for curve in revenue.curves if revenue is not None else []:
        if curve.arm not in money or not money[curve.arm].cost.total:
            continue
        days = {
            point.day: Interval(
                *(margin * point.n * value for value in (
                    point.fixed.estimate, point.fixed.low, point.fixed.high
                ))
            )
            for point in curve.points
        }  # fmt: skip
        found[curve.arm] = payback(days, money[curve.arm].cost.total)
    return found


def plain(value: Any) -> Any:
    """A result of this package as JSON; a refusal in words stays as it is."""
    return value if isinstance(value, str) else asdict(value)
