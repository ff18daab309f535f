"""The guardrails of a plan in a read-out: every metric as it was meant when planned, held to its margin.

Guarantees: a metric that changed since is reckoned by the definition that was planned; what cannot be said is
there with the reason, never left out; one scan for all of them. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

import pyarrow as pa
from sqlalchemy.orm import Session

from core.errors import InvalidInput
from core.warehouse.engine import Engine
from experiments import catalogue, metric_scan, metrics, planning
from experiments.metrics import MetricSpec
from experiments.planning import Guardrail, Plan
from experiments.readout_form import BROKEN, KEPT, UNSURE, Guarded
from experiments.stats.margin import NonInferiority

UNKNOWN = "The metric of the planned version is not known any more, so nothing can be said."
NOBODY = "Nobody was assigned to it or to the control arm yet."


def evaluate(
    session: Session, engine: Engine, assignments: pa.Table, subject: str, control: str, as_of: datetime
) -> list[Guarded]:
    """A row an arm and guardrail of the plan that binds ``subject``; empty where none was planned.

    ``assignments``: (member_id, arm, at), a row a member.
    """
    row = planning.binding(session, subject)
    plan = planning.from_json(row.plan) if row is not None else None
    if plan is None or not plan.guardrails:
        return []
    specs: dict[str, MetricSpec] = {}
    refused: dict[str, str] = {}
    for one in plan.guardrails:
        found = catalogue.spec_at(session, one.metric, one.version)
        try:
            if found is None:
                raise InvalidInput(UNKNOWN)
            metrics.check(found, engine.replica.facts)
        except InvalidInput as error:
            refused[one.metric] = str(error)
        else:
            specs[one.metric] = replace(found, margin=one.margin)
    cells: metric_scan.Cells = {}
    if specs and assignments.num_rows:
        cells = metric_scan.scan_metrics(
            engine, assignments, list(specs.values()), as_of=as_of, alpha=plan.alpha
        )
    return judge(plan, specs, refused, cells, control)


def judge(
    plan: Plan,
    specs: Mapping[str, MetricSpec],
    refused: Mapping[str, str],
    cells: metric_scan.Cells,
    control: str,
) -> list[Guarded]:
    """The plan's guardrails by what was scanned. Pure."""
    found: list[Guarded] = []
    for one in plan.guardrails:
        treated = [arm for arm in plan.arms if arm != control]
        if one.metric in refused:
            found += [_refused(one, arm, refused[one.metric]) for arm in treated]
            continue
        spec = specs[one.metric]
        arms = {arm: cell[one.metric] for (arm, part), cell in cells.items() if part is None}
        results = metric_scan.guardrail(spec, arms, control, plan.alpha) if control in arms else {}
        for arm in [*treated, *(arm for arm in results if arm not in treated)]:
            result = results.get(arm, NOBODY)
            found.append(
                _refused(one, arm, result)
                if isinstance(result, str)
                else _guarded(one, arm, result, plan.alpha, spec.higher_is_better)
            )
    return found


def _refused(one: Guardrail, arm: str, why: str) -> Guarded:
    return Guarded(one.metric, one.version, arm, one.margin, UNSURE, refused=why)


def _guarded(one: Guardrail, arm: str, result: NonInferiority, alpha: float, higher: bool) -> Guarded:
    """Kept where even the bad end stays within the margin; broken where even the good end does not. Both ends
    are one-sided bounds at 1 − alpha, and lie as far from the estimate, as the contrast's do."""
    state = KEPT if result.ok else BROKEN if result.p > 1 - alpha else UNSURE
    ends = sorted((result.worst, 2 * result.estimate - result.worst))
    return Guarded(
        one.metric, one.version, arm, one.margin, state, higher, result.estimate, ends[0], ends[1], alpha
    )
