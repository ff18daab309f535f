"""Plans of the shop's own experiments: frozen before the start, under the experiment's row lock.

Guarantees: what is planned once the experiment has started is marked as late; a draft may take over the
plan's weights, a started one never.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from core import audit
from core.errors import Conflict
from experiments import experiments, planning
from experiments.assignment import WEIGHT_TOLERANCE
from experiments.models import Experiment, ExperimentPlan
from experiments.planning import Plan


def check_plannable(row: Experiment) -> None:
    """Conflict: visitors have no past here, and a bandit's weights are nobody's to plan."""
    if row.unit != experiments.MEMBER:
        raise Conflict(f"The units of “{row.name}” are visitors, who have no past here to plan by.")
    if row.allocation != experiments.FIXED:
        raise Conflict(f"The weights of “{row.name}” follow what its arms bring, so there is none to plan.")


def started(row: Experiment) -> bool:
    """Whether anybody may have got an arm."""
    return row.status != experiments.DRAFT


def arms_of(row: Experiment, holdout: float) -> dict[str, float]:
    """The arms' weights with the share ``holdout`` in the control; the others keep their proportions."""
    weights = {arm["name"]: float(arm["weight"]) for arm in row.arms}
    others = sum(weight for arm, weight in weights.items() if arm != row.control)
    return {
        arm: holdout if arm == row.control else (1 - holdout) * weight / others
        for arm, weight in weights.items()
    }


def fits(row: Experiment, plan: Plan) -> bool:
    """Whether the experiment has the arms and weights that were planned."""
    weights = {arm["name"]: float(arm["weight"]) for arm in row.arms}
    return weights.keys() == plan.arms.keys() and all(
        abs(weights[arm] - weight) < WEIGHT_TOLERANCE for arm, weight in plan.arms.items()
    )


def freeze(
    session: Session, name: str, plan: Plan, *, by: str, now: datetime, apply: bool = False
) -> ExperimentPlan:
    """Store the experiment's plan; ``apply`` gives a draft the plan's weights.

    NotFound: there is none of that name. Conflict: it has started and cannot take the weights over, or
    nothing can be planned for it. InvalidInput: see :func:`experiments.planning.check`.
    """
    row = experiments.by_name(session, name, lock=True)
    check_plannable(row)
    late = started(row)
    if apply and late:
        raise Conflict(f"“{name}” has started, so its weights stay; plan it without changing them.")
    subject = planning.subject_of(planning.EXPERIMENT, name)
    stored = planning.save(session, subject, plan, started=late, by=by, now=now)
    weights = [{"name": arm, "weight": weight} for arm, weight in plan.arms.items()]
    if apply and weights != row.arms:
        audit.record(session, by, "change", experiments.OBJECT, name, now, {"arms": [row.arms, weights]})
        row.arms = weights
        row.version += 1
        session.flush()
    return stored
