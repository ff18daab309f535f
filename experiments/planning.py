"""Pre-registered plans: what an experiment will be read by, written down before it runs.

Guarantees: a stored plan is never changed, each decision is a version with who and when; a version made
after the experiment began is marked so and binds nobody; how a read-out keeps to its plan is a pure
function of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core import audit
from core.errors import Conflict, InvalidInput
from experiments.models import ExperimentPlan
from experiments.moments import MAX_WINDOW_DAYS
from experiments.outlook import FIXED, MAX_TUNING, METHODS, MIN_TUNING
from experiments.stats import srm
from experiments.stats.effect import check_alpha

OBJECT = "plan"
CAMPAIGN, EXPERIMENT = "campaign", "experiment"
MAX_RULE, MAX_GUARDRAILS, MAX_ARMS, MAX_ALSO = 2_000, 20, 20, 20
ENOUGH = 0.95
"""Share of the planned members from which the sample counts as the planned one."""
READ_EARLY, OTHER_METRIC, METRIC_CHANGED = "read_early", "other_metric", "metric_changed"
FEWER_MEMBERS, OTHER_SPLIT, OTHER_ARMS = "fewer_members", "other_split", "other_arms"
SHORTER_WINDOW, LONGER_WINDOW = "shorter_window", "longer_window"
OTHER_ALPHA, OTHER_METHOD, PLANNED_LATE = "other_alpha", "other_method", "planned_late"
CODES = (
    PLANNED_LATE, READ_EARLY, OTHER_METRIC, METRIC_CHANGED, SHORTER_WINDOW, LONGER_WINDOW, FEWER_MEMBERS,
    OTHER_ARMS, OTHER_SPLIT, OTHER_ALPHA, OTHER_METHOD,
)  # fmt: skip


@dataclass(frozen=True)
class Guardrail:
    """A metric that may lose at most the relative share ``margin``; ``version``: the one that was meant."""

    metric: str
    version: int
    margin: float


@dataclass(frozen=True)
class Shown:
    """A metric that the read-out shows beside the goal; ``version``: the one that was meant."""

    metric: str
    version: int


@dataclass(frozen=True)
class Plan:
    """What the read-out is held against.

    ``metric`` is the goal, ``metric_version`` its version (0: one of the read-out's own), ``mde`` in its
    unit (``unit``: money in minor units, share, number); ``arms`` are the weights, the ``control`` among
    them; ``members``: eligible members expected in all arms; ``duration_days``: each member's window from
    assignment, and ``ends_at`` the day on which it is read, where that is fixed; ``rule``: what is done on
    which result, in words; ``baseline``: what was known of the metric when planning; ``also``: metrics that
    are shown beside the goal and decide nothing; ``tuning``: N*, the members of both arms at which intervals
    that hold at every look are narrowest (None: as usual).
    """

    metric: str
    metric_version: int
    mde: float
    mde_relative: float | None
    unit: str
    alpha: float
    power: float
    control: str
    arms: dict[str, float]
    members: int
    duration_days: int
    rule: str
    method: str = FIXED
    adjusted: bool = False
    ends_at: datetime | None = None
    guardrails: tuple[Guardrail, ...] = ()
    baseline: dict[str, float] = field(default_factory=dict)
    also: tuple[Shown, ...] = ()
    tuning: float | None = None

    @property
    def holdout(self) -> float:
        """The control arm's weight."""
        return self.arms[self.control]

    def to_json(self) -> dict[str, Any]:
        """As stored."""
        return asdict(self) | {
            "ends_at": None if self.ends_at is None else self.ends_at.isoformat(),
            "guardrails": [asdict(one) for one in self.guardrails],
            "also": [asdict(one) for one in self.also],
        }


def from_json(data: Mapping[str, Any]) -> Plan:
    """What :meth:`Plan.to_json` gave."""
    ends_at = data.get("ends_at")
    return Plan(
        **{
            **data,
            "ends_at": datetime.fromisoformat(ends_at) if ends_at else None,
            "guardrails": tuple(Guardrail(**one) for one in data.get("guardrails") or ()),
            "also": tuple(Shown(**one) for one in data.get("also") or ()),
        }
    )


def check(plan: Plan) -> None:
    """InvalidInput, with the field, unless the plan says all that a read-out can be held against."""
    check_alpha(plan.alpha)
    if not 0.5 <= plan.power < 1:
        raise InvalidInput("The power lies from 0.5 to below 1 (0.8 is usual).", "power")
    if not plan.metric:
        raise InvalidInput("Choose the goal metric.", "metric")
    if not 2 <= len(plan.arms) <= MAX_ARMS or plan.control not in plan.arms:
        raise InvalidInput(
            "A plan has a control arm and at least one other: hold members out, or add a variant.", "holdout"
        )
    if min(plan.arms.values()) <= 0 or abs(sum(plan.arms.values()) - 1) > 1e-6:
        raise InvalidInput("The arms' weights lie above 0 and sum to 1.", "holdout")
    if not 1 <= plan.duration_days <= MAX_WINDOW_DAYS:
        raise InvalidInput(f"The duration has 1 to {MAX_WINDOW_DAYS} days.", "duration_days")
    if plan.mde <= 0:
        raise InvalidInput("The smallest effect to be found lies above 0.", "mde")
    if plan.members < 2:
        raise InvalidInput("A plan needs two members or more.", "members")
    if plan.method not in METHODS:
        raise InvalidInput(f"The method is one of {', '.join(METHODS)}.", "method")
    if not 1 <= len(plan.rule.strip()) <= MAX_RULE:
        raise InvalidInput(f"Say in 1 to {MAX_RULE} characters what will be done on which result.", "rule")
    if len(plan.guardrails) > MAX_GUARDRAILS:
        raise InvalidInput(f"A plan has at most {MAX_GUARDRAILS} guardrails.", "guardrails")
    for one in plan.guardrails:
        if not 0 < one.margin < 1:
            raise InvalidInput("A guardrail's margin is a relative share between 0 and 1.", "guardrails")
    if len(plan.also) > MAX_ALSO:
        raise InvalidInput(f"A plan shows at most {MAX_ALSO} metrics beside its goal.", "also")
    if plan.tuning is not None and not MIN_TUNING <= plan.tuning <= MAX_TUNING:
        raise InvalidInput(f"N* is a number of members from {MIN_TUNING} to {MAX_TUNING}.", "tuning")


def save(
    session: Session, subject: str, plan: Plan, *, started: bool, by: str, now: datetime
) -> ExperimentPlan:
    """Freeze a plan as the subject's next version; the same again changes nothing.

    ``started``: the experiment has begun, so the version is marked as made after the start. Conflict:
    somebody else planned at the same moment.
    """
    check(plan)
    there = versions(session, subject)
    if there and from_json(there[0].plan) == plan:
        return there[0]
    row = ExperimentPlan(
        subject=subject,
        version=there[0].version + 1 if there else 1,
        plan=plan.to_json(),
        after_start=started,
        made_by=by,
        made_at=now,
    )
    try:
        with session.begin_nested():
            session.add(row)
    except sa.exc.IntegrityError as error:
        raise Conflict("Somebody else has just stored a plan for this; look at it first.") from error
    audit.record(session, by, "create", OBJECT, subject, now, {"version": row.version, "plan": row.plan})
    return row


def subject_of(kind: str, name: str) -> str:
    """``campaign:<name>`` or ``experiment:<name>``."""
    return f"{kind}:{name}"


def versions(session: Session, subject: str) -> list[ExperimentPlan]:
    """Every version of a subject's plan, the newest first."""
    query = sa.select(ExperimentPlan).where(ExperimentPlan.subject == subject)
    return list(session.scalars(query.order_by(ExperimentPlan.version.desc())))


def binding(session: Session, subject: str) -> ExperimentPlan | None:
    """The plan that counts: the last from before the start; None where there was none by then."""
    return next((one for one in versions(session, subject) if not one.after_start), None)


def newest(session: Session, limit: int, offset: int = 0) -> list[ExperimentPlan]:
    """The newest version of each subject, the newest first."""
    last = (
        sa.select(ExperimentPlan.subject, sa.func.max(ExperimentPlan.version).label("version"))
        .group_by(ExperimentPlan.subject)
        .subquery()
    )
    query = (
        sa.select(ExperimentPlan)
        .join(
            last,
            sa.and_(last.c.subject == ExperimentPlan.subject, last.c.version == ExperimentPlan.version),
        )
        .order_by(ExperimentPlan.made_at.desc(), ExperimentPlan.id.desc())
        .limit(limit)
        .offset(offset)
    )
    return list(session.scalars(query))


@dataclass(frozen=True)
class Deviation:
    """Where a read-out does not keep to its plan: one of CODES, what was planned, and what was found.

    Times are ISO 8601 texts, shares and numbers plain, so that it is frozen as JSON with the read-out.
    """

    code: str
    planned: Any
    found: Any

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def held_against(
    plan: Plan,
    as_of: datetime,
    assigned: Mapping[str, int],
    metric: str,
    alpha: float,
    method: str,
    *,
    window_days: int | None = None,
    assigned_until: datetime | None = None,
    metric_version: int | None = None,
    after_start: bool = False,
) -> list[Deviation]:
    """Where a read-out ``as_of`` that moment does not keep to ``plan``; empty: it keeps to all of it. Pure.

    ``assigned``: members by arm; ``assigned_until``: the last member's moment, from which the planned
    duration runs; ``window_days`` and ``metric_version`` of the read-out, None: not compared.
    ``after_start``: the plan itself was made when the experiment had begun. Reading early is a deviation of
    the fixed method only: a sequential one may be read at any time.
    """
    found: list[Deviation] = []

    def differs(code: str, planned: Any, seen: Any, wrong: bool) -> None:
        if wrong:
            found.append(Deviation(code, planned, seen))

    end = reading_day(plan, assigned_until)
    early = end is not None and as_of < end and plan.method == FIXED
    differs(PLANNED_LATE, False, True, after_start)
    differs(READ_EARLY, end.isoformat() if end else None, as_of.isoformat(), early)
    differs(OTHER_METRIC, plan.metric, metric, metric != plan.metric)
    changed = metric == plan.metric and metric_version not in (None, plan.metric_version)
    differs(METRIC_CHANGED, plan.metric_version, metric_version, changed)
    if window_days is not None:
        differs(SHORTER_WINDOW, plan.duration_days, window_days, window_days < plan.duration_days)
        differs(LONGER_WINDOW, plan.duration_days, window_days, window_days > plan.duration_days)
    members = sum(assigned.values())
    differs(FEWER_MEMBERS, plan.members, members, members < ENOUGH * plan.members)
    found += _split(plan, assigned)
    differs(OTHER_ALPHA, plan.alpha, alpha, abs(alpha - plan.alpha) > 1e-9)
    differs(OTHER_METHOD, plan.method, method, method != plan.method)
    return found


def reading_day(plan: Plan, assigned_until: datetime | None) -> datetime | None:
    """When the plan says it is read: on its day, and not before the last window has closed."""
    closed = None if assigned_until is None else assigned_until + timedelta(days=plan.duration_days)
    known = [one for one in (plan.ends_at, closed) if one is not None]
    return max(known) if known else None


def _split(plan: Plan, assigned: Mapping[str, int]) -> list[Deviation]:
    if set(assigned) != set(plan.arms):
        return [Deviation(OTHER_ARMS, sorted(plan.arms), sorted(assigned))]
    total = sum(assigned.values())
    if not total or srm.check_split(dict(assigned), plan.arms).ok:
        return []
    shares = {arm: assigned[arm] / total for arm in plan.arms}
    return [Deviation(OTHER_SPLIT, dict(plan.arms), shares)]
