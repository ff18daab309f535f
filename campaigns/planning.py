"""Planning a campaign's experiment: its audience's past, its plan, and whether a read-out keeps to it.

Guarantees: the plan is frozen under the campaign's row lock, so that a run that begins at the same moment is
either before it or after it; once a run has begun, what is planned is marked as late.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns import campaigns
from campaigns.models import Campaign, CampaignRun
from campaigns.spec import HOLDOUT, CampaignSpec
from core.errors import InvalidInput
from core.settings import Settings
from core.warehouse.engine import DuckEngine
from experiments import catalogue, outlook, planning
from experiments.metrics import RETENTION, MetricSpec
from experiments.models import Assignment, ExperimentPlan, Metric
from experiments.outlook import DURATIONS, History
from experiments.planning import Deviation, Plan
from experiments.readout_form import ReadOut
from segments.evaluate import evaluator

GOALS = {"revenue": "revenue", "orders": "orders", "conversion": "converted"}
"""A campaign's goal → the metric of that name."""
MAX_PLANS = 500
"""Newest plans that are looked through for what uses a metric."""


@dataclass(frozen=True)
class Goal:
    """A metric that a plan may aim at; ``version`` 0: ready-made, and not stored in this shop."""

    spec: MetricSpec
    version: int


@dataclass(frozen=True)
class Held:
    """The plan that binds a campaign, and where its read-out does not keep to it."""

    row: ExperimentPlan
    plan: Plan
    deviations: list[Deviation]


def goals(session: Session) -> dict[str, Goal]:
    """Every metric that a plan may aim at, by name: the shop's live ones, and the ready-made beside them."""
    rows = session.scalars(sa.select(Metric).order_by(Metric.name)).all()
    found = {row.name: Goal(catalogue.spec_of(row), row.version) for row in rows if row.archived_at is None}
    taken = {row.name for row in rows}
    for spec in catalogue.BUILT_IN:
        if spec.name not in taken:
            found[spec.name] = Goal(spec, 0)
    return found


def goal(session: Session, name: str) -> Goal:
    """The goal of that name. InvalidInput: none that a plan may have."""
    found = goals(session).get(name)
    if found is None:
        raise InvalidInput(f"There is no metric “{name}” to plan for; choose one of the list.", "metric")
    return found


def audience(
    session: Session,
    engine: DuckEngine,
    settings: Settings,
    rule: Mapping[str, Any],
    exclude: Sequence[str],
    now: datetime,
) -> pa.Table:
    """(member_id) of who matches the rule as of the shop's day, without members of ``exclude``."""
    evaluate = evaluator(session, engine, settings, now.astimezone(settings.zone).date())
    found = evaluate.run(evaluate.sql(dict(rule))).select(["member_id"])
    if not exclude:
        return found
    left_out = evaluate.run(evaluate.sql({"any": [{"segment": name} for name in exclude]}))
    return found.filter(pc.invert(pc.is_in(found["member_id"], left_out["member_id"].combine_chunks())))


def history(
    session: Session,
    engine: DuckEngine,
    settings: Settings,
    rule: Mapping[str, Any],
    exclude: Sequence[str],
    spec: MetricSpec,
    now: datetime,
    days: Sequence[int] = DURATIONS,
) -> list[History]:
    """The goal over the audience in the windows just before ``now``, as :mod:`experiments.outlook` has it."""
    return outlook.history(engine, audience(session, engine, settings, rule, exclude, now), spec, now, days)


def arms_of(spec: CampaignSpec, holdout: float) -> dict[str, float]:
    """The weights of a campaign's arms with that share held out, the control first."""
    weights = {one.name: (1 - holdout) * one.weight for one in spec.variants}
    return {HOLDOUT: holdout, **weights} if holdout else weights


def smallest_arm(spec: CampaignSpec) -> float:
    """Of those who are sent to, the share in the smallest variant: what the comparison has to do with."""
    return min(one.weight for one in spec.variants)


def started(session: Session, campaign: Campaign) -> bool:
    """Whether a run has begun that was not taken back."""
    query = sa.select(CampaignRun.id).where(
        CampaignRun.campaign_id == campaign.id, CampaignRun.state != campaigns.UNDONE
    )
    return session.scalar(query.limit(1)) is not None


def freeze(
    session: Session, campaign: Campaign, plan: Plan, *, by: str, now: datetime, apply: bool = False
) -> ExperimentPlan:
    """Store the campaign's plan; the caller holds the campaign's row lock.

    ``apply`` also gives a campaign that is not approved yet the plan's holdout and window: it becomes a
    draft again. Conflict: it is approved already. InvalidInput: see :func:`experiments.planning.check`.
    """
    late = started(session, campaign)
    row = planning.save(session, subject(campaign), plan, started=late, by=by, now=now)
    if apply:
        spec = campaigns.spec_of(campaign)
        wanted = replace(
            spec,
            holdout=plan.arms.get(HOLDOUT, 0.0),
            window_days=plan.duration_days,
            metric=next((name for name, metric in GOALS.items() if metric == plan.metric), spec.metric),
        )
        if wanted != spec:
            campaigns.update(
                session,
                campaign,
                title=campaign.title,
                spec=CampaignSpec.from_json(wanted.to_json()),
                by=by,
                now=now,
                budget_minor=campaign.budget_minor,
                scheduled_at=campaign.scheduled_at,
            )
    return row


def subject(campaign: Campaign) -> str:
    """What the plans of a campaign are stored under."""
    return planning.subject_of(planning.CAMPAIGN, campaign.name)


def held(
    session: Session,
    subject: str,
    experiment_id: int | None,
    *,
    as_of: datetime,
    assigned: Mapping[str, int],
    metric: str,
    alpha: float,
    method: str = outlook.FIXED,
    window_days: int | None = None,
    metric_version: int | None = None,
) -> Held | None:
    """A read-out held against the plan of ``subject``; None where nothing was planned at all.

    ``experiment_id``: whose members' last moment says when the windows close; ``assigned``: members by arm;
    ``metric``: the one that the read-out answers first, as it names it. Where the only plans are from after
    the start, the first of them is taken and said to be late.
    """
    rows = planning.versions(session, subject)
    if not rows:
        return None
    row = next((one for one in rows if not one.after_start), rows[-1])
    plan = planning.from_json(row.plan)
    until = None
    if experiment_id is not None:
        until = session.scalar(
            sa.select(sa.func.max(Assignment.at)).where(Assignment.experiment_id == experiment_id)
        )
    deviations = planning.held_against(
        plan,
        as_of,
        assigned,
        metric,
        alpha,
        method,
        window_days=window_days,
        assigned_until=until,
        metric_version=metric_version,
        after_start=row.after_start,
    )
    return Held(row, plan, deviations)


def held_readout(
    session: Session,
    subject: str,
    experiment_id: int | None,
    found: ReadOut,
    *,
    as_of: datetime,
    settings: Mapping[str, Any],
) -> Held | None:
    """As :func:`held`, of a read-out as it was kept, by the method and alpha that it was computed with;
    ``settings``: the goal and the window of one that was kept before it knew them itself."""
    goal = found.goal or GOALS.get(str(settings.get("metric")), "revenue")
    measure = found.measures.get(goal)
    days = settings.get("window_days") if found.window_days is None else found.window_days
    if measure is not None:
        # Retention has days of its own, which the plan's only have to reach.
        days = None if measure.kind == RETENTION else measure.until_day
    return held(
        session,
        subject,
        experiment_id,
        as_of=as_of,
        assigned=found.arms,
        metric=goal if measure is None else measure.name,
        alpha=found.alpha,
        method=found.method,
        window_days=days,
        metric_version=None if measure is None else measure.version,
    )


def uses(session: Session) -> dict[str, list[tuple[str, str, str]]]:
    """Metric → what names it: (``campaign`` or ``plan``, name, title); archived campaigns are left out."""
    query = sa.select(Campaign.name, Campaign.title, Campaign.spec).where(
        Campaign.state != campaigns.ARCHIVED
    )
    found: dict[str, list[tuple[str, str, str]]] = {}
    titles: dict[str, str] = {}
    for name, title, spec in session.execute(query.order_by(Campaign.title)):
        titles[name] = title
        metric = GOALS.get(str(spec.get("metric", "revenue")), "revenue")
        found.setdefault(metric, []).append((planning.CAMPAIGN, name, title))
    for row in planning.newest(session, MAX_PLANS):
        kind, _, name = row.subject.partition(":")
        if kind == planning.CAMPAIGN and name not in titles:
            continue
        plan = planning.from_json(row.plan)
        beside = [*(one.metric for one in plan.guardrails), *(one.metric for one in plan.also)]
        for metric in dict.fromkeys((plan.metric, *beside)):
            found.setdefault(metric, []).append((planning.OBJECT, name, titles.get(name, name)))
    return found
