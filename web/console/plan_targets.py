"""What a plan is made for: a campaign, or an experiment on the shop's own pages, as planning pages see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flask import url_for
from sqlalchemy.orm import Session

from campaigns import campaigns as stored
from campaigns import planning, rollout
from campaigns.models import Campaign
from campaigns.plan import control
from campaigns.spec import CampaignSpec
from core.errors import NotFound
from experiments import experiments, planning_shop
from experiments import planning as plans
from experiments.models import Experiment, ExperimentPlan
from experiments.planning import Plan
from web.console.rules import rule_in_words

USUAL_DAYS = 28


@dataclass(frozen=True)
class Target:
    """``holdout``: the control's share now; ``arm_share``: of the others, the share of the smallest;
    ``days``: each member's window now, None where it has none; ``can_apply``: whether the plan's holdout may
    still become its own; ``reach``: the share of an audience that it can reach."""

    kind: str
    name: str
    title: str
    address: str
    holdout: float
    arm_share: float
    days: int | None
    started: bool
    can_apply: bool
    reach: float
    measured: int | None
    """The experiment whose read-outs are held against its plan."""
    spec: CampaignSpec | None = None
    experiment: Experiment | None = None
    experiment_id: int | None = None
    """The experiment whose members' moments count."""

    @property
    def subject(self) -> str:
        return plans.subject_of(self.kind, self.name)

    @property
    def audience(self) -> str | None:
        """A campaign's audience in words; None of an experiment, to whose pages anybody may come."""
        return rule_in_words(self.spec.audience) if self.spec is not None else None

    def arms(self, holdout: float) -> tuple[str, dict[str, float]]:
        """The control, and the weights with that share in it."""
        if self.experiment is not None:
            return self.experiment.control, planning_shop.arms_of(self.experiment, holdout)
        assert self.spec is not None
        found = planning.arms_of(self.spec, holdout)
        return next(iter(found)), found

    def freeze_address(self, query: Mapping[str, Any], *, post: bool = False) -> str:
        """Where its plan is frozen."""
        ending = "_post" if post else ""
        campaign = self.kind == plans.CAMPAIGN
        return url_for(
            f"planning.freeze{ending}" if campaign else f"planning.freeze_experiment{ending}",
            name=self.name,
            **query,
        )


def find(session: Session, kind: str, name: str, now: datetime) -> Target:
    """The campaign or experiment of that name. NotFound: there is none; Conflict: nothing can be planned."""
    if kind == plans.CAMPAIGN:
        return _campaign(session, stored.by_name(session, name), now)
    return _experiment(session, experiments.by_name(session, name), now)


def of_subject(session: Session, subject: str, now: datetime) -> Target | None:
    """What a stored plan was made for; None where it is there no more."""
    kind, _, name = subject.partition(":")
    try:
        return find(session, kind, name, now)
    except NotFound:
        return None


def _campaign(session: Session, row: Campaign, now: datetime) -> Target:
    spec = stored.spec_of(row)
    share, _ = control(session, now)
    return Target(
        plans.CAMPAIGN,
        row.name,
        row.title,
        url_for("campaigns.page", name=row.name),
        spec.holdout,
        planning.smallest_arm(spec),
        spec.window_days,
        planning.started(session, row),
        # Only a campaign that is not approved yet takes over the plan's holdout and window.
        row.state in (stored.DRAFT, stored.PENDING),
        1 - share,
        rollout.measured(session, row),
        spec=spec,
        experiment_id=row.experiment_id,
    )


def _experiment(session: Session, row: Experiment, now: datetime) -> Target:
    planning_shop.check_plannable(row)
    weights = {arm["name"]: float(arm["weight"]) for arm in row.arms}
    holdout = weights[row.control]
    others = [weight for arm, weight in weights.items() if arm != row.control]
    share, _ = control(session, now)
    layer = 1.0 if row.layer_low is None or row.layer_high is None else row.layer_high - row.layer_low
    return Target(
        plans.EXPERIMENT,
        row.name,
        row.name,
        url_for("experiments.page", experiment_id=row.id),
        holdout,
        min(others) / (1 - holdout) if holdout < 1 else 1.0,
        None,
        planning_shop.started(row),
        not planning_shop.started(row),
        (1 - share) * row.coverage * layer,
        row.id,
        experiment=row,
        experiment_id=row.id,
    )


def freeze(
    session: Session, target: Target, plan: Plan, *, by: str, now: datetime, apply: bool
) -> ExperimentPlan:
    """Store the plan under the row lock of what it is for."""
    if target.kind == plans.CAMPAIGN:
        row = stored.by_name(session, target.name, lock=True)
        return planning.freeze(session, row, plan, by=by, now=now, apply=apply)
    return planning_shop.freeze(session, target.name, plan, by=by, now=now, apply=apply)
