"""Lights of a campaign: what is measured against which threshold makes green, yellow or red. Mostly pure.

Guarantees: the split of the arms and the guardrails may be looked at every day: the split by the χ² test at a
very small p, guardrails red only where the whole always-valid interval (confidence sequence) lies beyond the
margin; yellow is a hint, where the estimate alone does. Rates are judged from ``least_messages`` on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.alerts import GOOD, RED, YELLOW, Light
from campaigns.models import CampaignRun
from campaigns.rollout import estimate_of
from channels.events import COMPLAINT, HARD_BOUNCE, UNSUBSCRIBED
from channels.models import Message, MessageEvent
from core.errors import InvalidInput
from core.warehouse.engine import DuckEngine
from experiments import metrics
from experiments.metric_scan import BELOW, VALUE, Cell, scan_metrics
from experiments.metrics import MetricSpec
from experiments.moments import REVENUE, ArmMoments
from experiments.stats import ratio, sequential, srm
from experiments.stats.estimate import Estimate
from experiments.stats.joint import Ratio

SRM, GUARDRAIL, BUDGET = "srm", "guardrail", "budget"
BOUNCE, COMPLAINTS, UNSUBSCRIBE, NOTHING_SENT = "bounce", "complaint", "unsubscribe", "nothing_sent"
MIN_MEMBERS = 100
"""Members an arm below which a guardrail says nothing."""


@dataclass(frozen=True)
class Thresholds:
    """When a light is yellow or red; rates and margins are shares. ``emails``: who is told."""

    srm_p: float = srm.ALERT_BELOW
    budget_yellow: float = 0.8
    budget_red: float = 1.0
    bounce_yellow: float = 0.02
    bounce_red: float = 0.05
    complaint_yellow: float = 0.001
    complaint_red: float = 0.003
    unsubscribe_yellow: float = 0.01
    unsubscribe_red: float = 0.03
    guardrail_margin: float = 0.05
    """Revenue a member may be lower by this share; stored guardrails have margins of their own."""
    alpha: float = 0.05
    least_messages: int = 100
    nothing_after_hours: int = 24
    days_after: int = 7
    """Days that a campaign is watched on after its windows have closed."""
    emails: tuple[str, ...] = ()

    def validated(self) -> Thresholds:
        """Itself, or InvalidInput naming the field."""
        for name in ("srm_p", "alpha", "guardrail_margin"):
            if not 0 < getattr(self, name) < 1:
                raise InvalidInput("Write a share between 0 and 1.", name)
        for name in ("budget", "bounce", "complaint", "unsubscribe"):
            yellow, red = getattr(self, f"{name}_yellow"), getattr(self, f"{name}_red")
            if not 0 < yellow < red <= (10 if name == "budget" else 1):
                raise InvalidInput("Yellow is above 0 and below red.", f"{name}_yellow")
        for name, most in (("least_messages", 10**9), ("nothing_after_hours", 24 * 30), ("days_after", 90)):
            if not 1 <= getattr(self, name) <= most:
                raise InvalidInput(f"Write a number from 1 to {most}.", name)
        return self


def _tone(value: float, yellow: float, red: float) -> str:
    return RED if value >= red else YELLOW if value >= yellow else GOOD


def budget(spent_minor: float, budget_minor: int | None, thresholds: Thresholds) -> Light:
    """What was spent by the books against the budget; green without one."""
    detail = {"spent": spent_minor, "budget": budget_minor}
    if not budget_minor:
        return Light(BUDGET, GOOD, None, None, detail)
    share = spent_minor / budget_minor
    tone = _tone(share, thresholds.budget_yellow, thresholds.budget_red)
    limit = thresholds.budget_red if tone == RED else thresholds.budget_yellow
    return Light(BUDGET, tone, share, limit, detail)


def split(counts: Mapping[str, int], weights: Mapping[str, float], thresholds: Thresholds) -> Light:
    """Whether the arms are as large as planned."""
    try:
        found = srm.check_split(counts, weights, thresholds.srm_p)
    except InvalidInput:  # one arm, or nobody: there is no split
        return Light(SRM, GOOD)
    detail = {"counts": dict(counts), "expected": found.expected}
    return Light(SRM, GOOD if found.ok else RED, found.p, thresholds.srm_p, detail)


@dataclass(frozen=True)
class Sending:
    """Messages of a campaign's runs: all that left, those that came back, and what members answered."""

    sent: int
    failed: int
    bounced: int
    complained: int
    unsubscribed: int


def sending(session: Session, campaign_id: int) -> Sending:
    """Count a campaign's messages, each once by kind."""
    mine = sa.and_(
        Message.source_kind == "run",
        Message.source_id.in_(sa.select(CampaignRun.id).where(CampaignRun.campaign_id == campaign_id)),
    )
    sent, failed = session.execute(
        sa.select(
            sa.func.count(Message.sent_at),
            sa.func.count(sa.case((sa.and_(Message.state == "failed", Message.sent_at.is_(None)), 1))),
        ).where(mine)
    ).one()
    kinds = (HARD_BOUNCE, COMPLAINT, UNSUBSCRIBED)
    rows = session.execute(
        sa.select(MessageEvent.kind, sa.func.count(sa.distinct(MessageEvent.message_id)))
        .join(Message, Message.id == MessageEvent.message_id)
        .where(mine, MessageEvent.kind.in_(kinds))
        .group_by(MessageEvent.kind)
    )
    found: dict[str, int] = dict(rows.all())
    return Sending(int(sent), int(failed), *(found.get(kind, 0) for kind in kinds))


def delivery(
    found: Sending, runs: Sequence[CampaignRun], thresholds: Thresholds, now: datetime
) -> list[Light]:
    """Messages that came back, complaints, unsubscribing, and a run that sent nothing."""
    tried = found.sent + found.failed
    shown = []
    for name, number, base in (
        (BOUNCE, found.bounced + found.failed, tried),
        (COMPLAINTS, found.complained, found.sent),
        (UNSUBSCRIBE, found.unsubscribed, found.sent),
    ):
        detail = {"number": number, "of": base}
        if base < thresholds.least_messages:
            shown.append(Light(name, GOOD, None, None, detail))
            continue
        yellow, red = getattr(thresholds, f"{name}_yellow"), getattr(thresholds, f"{name}_red")
        tone = _tone(number / base, yellow, red)
        shown.append(Light(name, tone, number / base, red if tone == RED else yellow, detail))
    chosen = sum(sum((run.counts or {}).get("sent", {}).values()) for run in runs)
    late = any(run.started_at <= now - timedelta(hours=thresholds.nothing_after_hours) for run in runs)
    silent = late and not found.sent
    tone = GOOD if not silent else RED if chosen else YELLOW
    detail = {"chosen": chosen, "hours": thresholds.nothing_after_hours}
    shown.append(Light(NOTHING_SENT, tone, float(found.sent), None, detail))
    return shown


def guardrails(
    session: Session,
    engine: DuckEngine,
    members: pa.Table,
    arms: Mapping[str, ArmMoments],
    control: str,
    thresholds: Thresholds,
    now: datetime,
) -> list[Light]:
    """Revenue a member, and every stored metric with a margin, of each variant against the control."""
    own = {name: estimate_of(arm, REVENUE) for name, arm in arms.items()}
    shown = harms(REVENUE, own, control, thresholds.guardrail_margin, thresholds.alpha)
    stored = [spec for spec in metrics.load(session) if spec.margin is not None][: metrics.MAX_AT_ONCE]
    if not stored:
        return shown
    cells = scan_metrics(engine, members, stored, as_of=now)
    for spec in stored:
        found = {
            arm: estimate
            for (arm, dimension), by_name in cells.items()
            if dimension is None and (estimate := _estimate(spec, by_name[spec.name])) is not None
        }
        assert spec.margin is not None
        shown += harms(
            spec.name, found, control, spec.margin, thresholds.alpha, higher_is_better=spec.higher_is_better
        )
    return shown


def _estimate(spec: MetricSpec, cell: Cell) -> Estimate | None:
    if spec.kind == metrics.QUANTILE:
        return None if cell.quantile is None else cell.quantile.estimate
    try:
        if spec.kind == metrics.RATIO:
            return ratio.estimate_of(cell.joint, Ratio(VALUE, BELOW))
        if spec.kind in (metrics.PROPORTION, metrics.RETENTION):
            return Estimate.of_proportion(round(cell.joint.n * float(cell.joint.means[0])), cell.joint.n)
    except InvalidInput:  # nobody, or no denominator yet
        return None
    return Estimate.of_mean(cell.joint.moments(VALUE))


def harms(
    metric: str,
    arms: Mapping[str, Estimate],
    control: str,
    margin: float,
    alpha: float,
    *,
    higher_is_better: bool = True,
) -> list[Light]:
    """A light for each variant: is it worse than the control by more than ``margin`` (relative)?

    Red where the whole confidence sequence lies beyond the margin, yellow where the estimate does. A
    comparison that is refused (no variance, a control of 0), or of fewer than 100 members an arm, is green.
    """
    shown = []
    sign = 1.0 if higher_is_better else -1.0
    for arm, found in arms.items():
        base = arms.get(control)
        if arm == control or base is None:
            continue
        name = f"{GUARDRAIL}:{metric}:{arm}"
        if min(found.n, base.n) < MIN_MEMBERS:
            shown.append(Light(name, GOOD, None, -sign * margin, {"members": min(found.n, base.n)}))
            continue
        try:
            effect = sequential.compare(found, base, alpha).relative
        except InvalidInput:
            effect = None
        if effect is None:
            shown.append(Light(name, GOOD, None, -sign * margin))
            continue
        best = effect.high if higher_is_better else -effect.low
        tone = RED if best < -margin else YELLOW if sign * effect.estimate < -margin else GOOD
        detail = {"low": effect.low, "high": effect.high}
        shown.append(Light(name, tone, effect.estimate, -sign * margin, detail))
    return shown
