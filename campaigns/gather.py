"""Candidates of a batch as Arrow, from the database as it is now: one query a question, none a member."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns import campaigns
from campaigns.decide import CONTROL, Plan, candidate_schema, limited_batches
from campaigns.models import Campaign, CampaignRun, Decision
from campaigns.spec import HOLDOUT, CampaignSpec
from channels import caps, consent, preferences
from channels.models import Message
from core.db import among, lock_rows
from core.models import Member
from experiments.models import Assignment
from loyalty.models import Coupon


def gather(
    session: Session,
    plan: Plan,
    spec: CampaignSpec,
    audience: pa.Table,
    now: datetime,
    *,
    lock: bool,
    campaign: Campaign | None = None,
) -> pa.Table:
    """The batch's candidates. ``audience`` has member_id, external_id, excluded, by member id.

    With ``lock`` (a run, not a simulation) the members' rows are locked first where a limit per
    member is counted: two campaigns at once would each see room for their message. ``campaign``: whose
    earlier runs are asked, where the plan rests members or keeps their arms.
    """
    ids: list[int] = audience["member_id"].to_pylist()
    rules, wishes = caps.load(session), preferences.wishes(session, ids)
    counted = bool(rules.caps) or any(wish.weekly_max is not None for wish in wishes.values())
    if lock and (counted or plan.cap is not None or limited_batches(plan)):
        lock_rows(session, Member.__table__, ids)
    columns: dict[str, pa.Array] = {
        "member_id": audience["member_id"],
        "external_id": audience["external_id"],
        "excluded": audience["excluded"],
        "recent": pa.array(
            _recent(session, spec, ids, now) if plan.cap is not None else [0] * len(ids), pa.int64()
        ),
    }
    if campaign is not None and plan.rests:
        reached = _reached(session, campaign.id, spec.rest_days or 0, ids, now)
        columns["resting"] = pa.array([member in reached for member in ids], pa.bool_())
    if campaign is not None and plan.sticky:
        arms = _arms(session, campaign.experiment_id, ids)
        columns["assigned"] = pa.array([arms.get(member) for member in ids], pa.string())
    usage = caps.count(session, rules, ids, now, queued=True) if counted else caps.Usage(rules)
    for channel in plan.channels:
        refused = consent.refusals(session, ids, channel, consent.MARKETING)
        for member in ids if counted or wishes else ():
            if member not in refused and (why := _limited(usage, wishes, member, channel, now)):
                refused[member] = why
        columns[f"refusal_{channel}"] = pa.array([refused.get(member) for member in ids], pa.string())
    for batch in limited_batches(plan):
        held = _held(session, batch, ids)
        columns[f"held_{batch}"] = pa.array([held.get(member, 0) for member in ids], pa.int64())
    schema = candidate_schema(plan)
    return pa.table({name: columns[name] for name in schema.names}).cast(schema)


def _limited(
    usage: caps.Usage, wishes: Mapping[int, preferences.Wish], member: int, channel: str, now: datetime
) -> str | None:
    """Why a member who agreed gets nothing by this channel now: the member's own wishes, the shop's caps."""
    wish = wishes.get(member, preferences.NO_WISH)
    return caps.PAUSED if wish.paused(now) else usage.refusal(member, channel, wish.weekly_max)


def _recent(session: Session, spec: CampaignSpec, ids: Sequence[int], now: datetime) -> list[int]:
    """Marketing messages of each member in the cap's window, queued ones too."""
    query = (
        sa.select(Message.member_id, sa.func.count())
        .where(
            among(session, Message.member_id, ids),
            Message.purpose == consent.MARKETING,
            Message.created_at > now - timedelta(days=spec.cap_days),
            Message.state.not_in(("skipped", "failed")),
        )
        .group_by(Message.member_id)
    )
    found: dict[int, int] = dict(session.execute(query).all())
    return [found.get(member, 0) for member in ids]


def _reached(session: Session, campaign_id: int, days: int, ids: Sequence[int], now: datetime) -> set[int]:
    """Whom runs of the campaign decided to send to in so many days, and their like who were held out or in
    the control group: were these not to rest too, the next run's arms would differ by more than chance."""
    query = (
        sa.select(Decision.member_id)
        .join(CampaignRun, CampaignRun.id == Decision.run_id)
        .where(
            CampaignRun.campaign_id == campaign_id,
            CampaignRun.state != campaigns.UNDONE,
            among(session, Decision.member_id, ids),
            Decision.at > now - timedelta(days=days),
            sa.or_(Decision.reason.is_(None), Decision.reason.in_((HOLDOUT, CONTROL))),
        )
    )
    return set(session.scalars(query))


def _arms(session: Session, experiment_id: int | None, ids: Sequence[int]) -> dict[int, str]:
    query = sa.select(Assignment.member_id, Assignment.arm).where(
        Assignment.experiment_id == experiment_id, among(session, Assignment.member_id, ids)
    )
    return dict(session.execute(query).all())


def _held(session: Session, batch: int, ids: Sequence[int]) -> dict[int, int]:
    query = (
        sa.select(Coupon.member_id, sa.func.count())
        .where(Coupon.batch_id == batch, among(session, Coupon.member_id, ids))
        .group_by(Coupon.member_id)
    )
    return {member: number for member, number in session.execute(query) if member is not None}
