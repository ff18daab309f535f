"""Undo a run of which no message has left: offers taken back, queue emptied, the campaign a draft again.

Guarantees: all of it or nothing. A message that a worker has claimed counts as gone, so that nobody
gets a message whose coupon was taken back.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns import campaigns
from campaigns.decide import UNDONE
from campaigns.models import Campaign, CampaignRun, Decision
from campaigns.programme import unlog_programme
from channels import outbox
from channels.models import Message
from core import audit
from core.db import lock_rows
from core.errors import Conflict
from core.models import Member
from experiments.models import Assignment
from loyalty import coupons, points

SOURCE = "run"
"""``source_kind`` of a run's messages and points."""


def can_undo(session: Session, campaign: Campaign) -> bool:
    """Whether the newest run could be undone as of now."""
    run = _newest(session, campaign)
    return (
        run is not None
        and run.state in (campaigns.RUNNING, campaigns.FINISHED)
        and campaign.state in (campaigns.FINISHED, campaigns.PAUSED)
        and not _left(session, run.id)
    )


def undo(session: Session, campaign: Campaign, by: str, now: datetime) -> CampaignRun:
    """Undo the newest run. Raises Conflict once a message has left or a coupon was used.

    Coupons and points of the run are taken back, queued messages are skipped, those who were sent to are
    recorded as undone, and nobody of the run counts in the comparison. The campaign may be edited again.
    """
    session.refresh(campaign, with_for_update=True)
    if campaign.state not in (campaigns.FINISHED, campaigns.PAUSED):
        raise Conflict(f"“{campaign.title}” is {campaign.state}. Pause it first, then undo its run.")
    run = _newest(session, campaign, lock=True)
    if run is None or run.state == campaigns.UNDONE:
        raise Conflict(f"“{campaign.title}” has no run to undo.")
    # Emptied first: what a worker claims meanwhile waits for this transaction, and finds nothing.
    outbox.cancel(session, SOURCE, run.id, UNDONE, now)
    if _left(session, run.id):
        raise Conflict("Not undone: the first message has left. Pause the channel to stop the others.")
    members = sa.select(Decision.member_id).where(Decision.run_id == run.id, Decision.arm.is_not(None))
    sent_to = session.execute(
        sa.select(Decision.member_id, Decision.coupon_code, Decision.points)
        .where(Decision.run_id == run.id, Decision.reason.is_(None))
        .order_by(Decision.member_id)
    ).all()
    # In the order of a run's own locks: members, then batches.
    lock_rows(session, Member.__table__, [row.member_id for row in sent_to if row.points])
    granted = {f"run:{run.id}:{row.member_id}": row.member_id for row in sent_to if row.points}
    coupons.take_back(session, [row.coupon_code for row in sent_to if row.coupon_code])
    points.take_back(session, SOURCE, granted, now)
    if campaign.experiment_id is not None:
        session.execute(
            sa.delete(Assignment).where(
                Assignment.experiment_id == campaign.experiment_id,
                Assignment.at == run.as_of,
                Assignment.member_id.in_(members),
            )
        )
    unlog_programme(session, run.id, run.as_of)
    session.execute(
        sa.update(Decision)
        .where(Decision.run_id == run.id, Decision.reason.is_(None))
        .values(reason=UNDONE, coupon_code=None, points=0)
    )
    run.state, run.finished_at = campaigns.UNDONE, now
    # A new version, so that its next approval is a run of its own. Earlier runs stay: it is finished again.
    state = campaigns.DRAFT if campaign.again_key is None else campaigns.FINISHED
    campaign.state, campaign.version, campaign.updated_at = state, campaign.version + 1, now
    campaign.approved_by = campaign.approved_at = campaign.again_by = campaign.again_key = None
    audit.record(
        session, by, "undo", "campaign", campaign.name, now, {"run": run.id, "members": len(sent_to)}
    )
    return run


def _newest(session: Session, campaign: Campaign, *, lock: bool = False) -> CampaignRun | None:
    query = sa.select(CampaignRun).where(CampaignRun.campaign_id == campaign.id)
    query = query.order_by(CampaignRun.id.desc()).limit(1)
    return session.scalars(query.with_for_update() if lock else query).first()


def _left(session: Session, run_id: int) -> bool:
    """Whether a message of the run is with a worker or a provider, or was."""
    untouched = (outbox.QUEUED, outbox.SKIPPED)
    query = sa.select(Message.id).where(
        Message.source_kind == SOURCE,
        Message.source_id == run_id,
        sa.or_(Message.state.not_in(untouched), Message.handed_over_at.is_not(None)),
    )
    return session.scalar(query.limit(1)) is not None
