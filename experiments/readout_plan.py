"""The plan that binds a read-out, applied to it: the level and the method of its intervals.

Guarantees: the headline is by the plan's method. One exception, for a fixed interval holds for one look only:
where a fixed plan is read before its day by somebody who had looked before, the intervals for every look
count, and the read-out keeps that they did, so that it is held against the plan as another method.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from experiments import planning
from experiments.models import Assignment
from experiments.planning import Plan
from experiments.readout import Known
from experiments.readout_form import FIXED, SEQUENTIAL
from experiments.readout_measure import Wanted


def bind(
    session: Session, subject: str, experiment_id: int, wanted: Wanted, known: Known
) -> tuple[Wanted, Known]:
    """What to measure and what is known, with the alpha and the method of the plan that binds ``subject``;
    both as they were where none does. ``experiment_id``: whose members' last moment sets the plan's day."""
    row = planning.binding(session, subject)
    if row is None:
        return wanted, known
    plan = planning.from_json(row.plan)
    until = session.scalar(
        sa.select(sa.func.max(Assignment.at)).where(Assignment.experiment_id == experiment_id)
    )
    method = method_of(plan, known.looks, wanted.as_of, until)
    return replace(wanted, alpha=plan.alpha), replace(known, method=method)


def method_of(plan: Plan, looks: int | None, as_of: datetime, assigned_until: datetime | None) -> str:
    """Which intervals count in a read-out ``as_of`` that moment; ``looks``: kept earlier. Pure."""
    if plan.method != FIXED:
        return plan.method
    day = planning.reading_day(plan, assigned_until)
    early = day is None or as_of < day
    return SEQUENTIAL if looks and early else FIXED
