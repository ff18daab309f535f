"""Winners: found by intervals that may be looked at every day, rolled out once a second person says so.

Guarantees: a proposal changes nothing. An approved one changes the variants of coming runs only: nobody's
assignment is touched, the experiment that found the winner keeps its arms and its frozen read-outs, and the
holdout stays the same members, as its hash has the same salt. Coming runs are an experiment of their own,
the winner against that holdout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from itertools import combinations
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns import campaigns
from campaigns.alerts import WATCH
from campaigns.models import Campaign, CampaignRun, Rollout
from campaigns.spec import HOLDOUT
from core import audit
from core.bulk import bulk_insert
from core.errors import Conflict, InvalidInput, NotFound
from experiments import assignment
from experiments.models import Assignment
from experiments.moments import CONVERTED, ORDERS, REVENUE, ArmMoments
from experiments.stats import sequential
from experiments.stats.estimate import Estimate

PROPOSED, APPROVED, REJECTED = "proposed", "approved", "rejected"
GOALS = {"revenue": REVENUE, "orders": ORDERS, "conversion": CONVERTED}
MIN_MEMBERS = 100
"""Members an arm below which nobody wins: revenue is too skewed for the normal approximation."""


@dataclass(frozen=True)
class Winner:
    """``beats``: arm → the lower end of the always-valid interval of the difference, above 0."""

    arm: str
    metric: str
    mean: float
    beats: dict[str, float]
    members: dict[str, int]
    alpha: float


def estimate_of(arm: ArmMoments, metric: str) -> Estimate:
    """A metric of an arm."""
    found = arm.metrics[metric]
    if metric == CONVERTED:
        return Estimate.of_proportion(round(found.mean * found.n), found.n)
    return Estimate.of_mean(found)


def winner(arms: Mapping[str, ArmMoments], goal: str, alpha: float = 0.05) -> Winner | None:
    """The variant that beats every other and the holdout, at any look; None: there is none yet.

    Confidence sequences at alpha by the number of pairs (Bonferroni), so that over all looks and all arms
    a variant without an advantage wins with a probability of at most alpha. It takes two variants.
    """
    metric = GOALS[goal]
    variants = [name for name in arms if name != HOLDOUT]
    if len(variants) < 2 or min(arm.n for arm in arms.values()) < MIN_MEMBERS:
        return None
    best = max(variants, key=lambda name: arms[name].metrics[metric].mean)
    level = alpha / len(list(combinations(arms, 2)))
    beats = {}
    for other in arms:
        if other == best:
            continue
        try:
            found = sequential.compare(
                estimate_of(arms[best], metric), estimate_of(arms[other], metric), level
            )
        except InvalidInput:
            return None
        if found.absolute.low <= 0:
            return None
        beats[other] = found.absolute.low
    members = {name: arm.n for name, arm in arms.items()}
    return Winner(best, metric, arms[best].metrics[metric].mean, beats, members, level)


def propose(session: Session, campaign: Campaign, found: Winner, now: datetime) -> bool:
    """Keep a winner as a proposal, once a variant and experiment; whether it is new."""
    before = campaign.spec["variants"]
    row = (campaign.id, campaign.experiment_id, found.arm, PROPOSED, asdict(found), before, now)
    columns = ("campaign_id", "experiment_id", "arm", "state", "evidence", "before", "proposed_at")
    new = bulk_insert(
        session, Rollout.__table__, columns, [row], conflict=["experiment_id", "arm"], returning=["id"]
    )
    if new:
        audit.record(session, WATCH, "propose", "campaign", campaign.name, now, asdict(found))
    return bool(new)


def waiting(session: Session, campaign_id: int | None = None) -> list[tuple[Rollout, Campaign]]:
    """Proposals that wait for somebody, the oldest first."""
    query = (
        sa.select(Rollout, Campaign)
        .join(Campaign, Campaign.id == Rollout.campaign_id)
        .where(Rollout.state == PROPOSED, Campaign.state != campaigns.ARCHIVED)
        .order_by(Rollout.id)
    )
    if campaign_id is not None:
        query = query.where(Rollout.campaign_id == campaign_id)
    return [(row, campaign) for row, campaign in session.execute(query)]


def _take(session: Session, rollout_id: int) -> tuple[Rollout, Campaign]:
    row = session.get(Rollout, rollout_id)
    if row is None:
        raise NotFound("There is no such proposal.")
    campaign = session.get_one(Campaign, row.campaign_id, with_for_update=True)
    session.refresh(row, with_for_update=True)
    if row.state != PROPOSED:
        raise Conflict(f"This proposal is {row.state} already.")
    return row, campaign


def approve(session: Session, rollout_id: int, by: str, now: datetime, *, alone: bool = False) -> Campaign:
    """Give coming runs to the winner; the holdout stays. Nothing is sent by it, no state changes.

    Raises NotFound; Conflict for the campaign's author (unless ``alone``: there is nobody else), while a run
    is not finished, or where the campaign measures by another experiment or lost the variant since.
    """
    row, campaign = _take(session, rollout_id)
    if by == campaign.created_by and not alone:
        raise Conflict("A roll-out is approved by somebody else than the campaign's author.")
    unfinished = session.scalar(
        sa.select(sa.func.count()).where(
            CampaignRun.campaign_id == campaign.id, CampaignRun.state == campaigns.RUNNING
        )
    )
    if unfinished:
        raise Conflict(f"A run of “{campaign.title}” is not finished; let it end, then approve.")
    spec = campaigns.spec_of(campaign)
    chosen = next((variant for variant in spec.variants if variant.name == row.arm), None)
    if chosen is None or campaign.experiment_id != row.experiment_id:
        raise Conflict(f"“{campaign.title}” has changed since; reject this proposal.")
    row.before = [asdict(variant) for variant in spec.variants]
    campaign.spec = replace(spec, variants=(replace(chosen, weight=1.0),)).to_json()
    campaign.experiment_id = None
    if spec.holdout:
        campaign.experiment_id = assignment.create(
            session,
            name=f"campaign:{campaign.name[:50]}:rollout{row.id}",
            salt=campaign.name,
            arms=[(HOLDOUT, spec.holdout), (row.arm, 1 - spec.holdout)],
            control=HOLDOUT,
            now=now,
        ).id
    campaign.updated_at = now
    if campaign.state == campaigns.PENDING:  # who approves its next run looks at what it is now
        campaign.version += 1
    row.state, row.decided_by, row.decided_at = APPROVED, by, now
    detail = {"arm": row.arm, "before": row.before, "experiment": row.experiment_id}
    audit.record(session, by, "roll_out", "campaign", campaign.name, now, detail)
    session.flush()
    return campaign


def measured(session: Session, campaign: Campaign) -> int | None:
    """The experiment that says most about a campaign now: its own once somebody is in it, else the one
    whose winner was rolled out."""
    query = sa.select(Assignment.member_id).where(Assignment.experiment_id == campaign.experiment_id)
    if campaign.experiment_id is not None and session.scalar(query.limit(1)) is not None:
        return campaign.experiment_id
    older = session.scalar(
        sa.select(Rollout.experiment_id)
        .where(Rollout.campaign_id == campaign.id, Rollout.state == APPROVED)
        .order_by(Rollout.id.desc())
        .limit(1)
    )
    return campaign.experiment_id if older is None else older


def owner(session: Session, experiment_id: int) -> Campaign | None:
    """The campaign that an experiment belongs to, or belonged to until its winner was rolled out."""
    rolled_out = sa.select(Rollout.campaign_id).where(
        Rollout.experiment_id == experiment_id, Rollout.state == APPROVED
    )
    query = sa.select(Campaign).where(
        sa.or_(Campaign.experiment_id == experiment_id, Campaign.id.in_(rolled_out))
    )
    return session.scalars(query.limit(1)).first()


def reject(session: Session, rollout_id: int, by: str, now: datetime, why: str = "") -> Campaign:
    """Leave the variants as they are; this variant is not proposed again by this experiment."""
    row, campaign = _take(session, rollout_id)
    row.state, row.decided_by, row.decided_at = REJECTED, by, now
    detail: dict[str, Any] = {"arm": row.arm, "why": why[:500]}
    audit.record(session, by, "reject_roll_out", "campaign", campaign.name, now, detail)
    session.flush()
    return campaign
