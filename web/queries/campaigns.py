"""Campaigns: the list, choices for the editor, and what became of a run's messages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns import rollout
from campaigns.models import Campaign, CampaignRun, Decision, Rollout
from campaigns.spec import HOLDOUT
from channels.models import Message, MessageEvent, Template
from core.models import Job, Member
from experiments.control import quarter_named
from experiments.models import Experiment, Readout
from loyalty.models import Coupon, Redemption
from web.paging import PAGE_ROWS, Page, offset, page_of

MOST_CHOICES = 200


@dataclass(frozen=True)
class CampaignRow:
    name: str
    title: str
    state: str
    created_by: str
    updated_at: datetime
    scheduled_at: datetime | None
    candidates: int
    sent: int


@dataclass(frozen=True)
class ArmFunnel:
    """What became of an arm: decided to send, then by message and coupon."""

    arm: str
    decided: int
    sent: int
    delivered: int
    failed: int
    waiting: int
    """With an employee who has to confirm the message."""
    opened: int
    clicked: int
    opened_all: int
    """Machines counted too."""
    clicked_all: int
    coupons: int
    redeemed: int


@dataclass(frozen=True)
class DecisionRow:
    member_id: int
    member: str
    reason: str | None
    arm: str | None
    channel: str | None
    coupon_code: str | None
    points: int


def newest_runs() -> sa.Subquery:
    """(campaign_id, run_id) of each campaign's newest run."""
    return (
        sa.select(CampaignRun.campaign_id, sa.func.max(CampaignRun.id).label("run_id"))
        .group_by(CampaignRun.campaign_id)
        .subquery()
    )


def rows(session: Session, number: int, *, state: str) -> Page[CampaignRow]:
    """Campaigns, newest first, with their newest run's numbers; the archived only where asked for."""
    newest = newest_runs()
    query = (
        sa.select(Campaign, CampaignRun.candidates, CampaignRun.counts)
        .outerjoin(newest, newest.c.campaign_id == Campaign.id)
        .outerjoin(CampaignRun, CampaignRun.id == newest.c.run_id)
        .where(Campaign.state == state if state else Campaign.state != "archived")
        .order_by(Campaign.id.desc())
        .offset(offset(number))
        .limit(PAGE_ROWS + 1)
    )
    found = [
        CampaignRow(
            one.name,
            one.title,
            one.state,
            one.created_by,
            one.updated_at,
            one.scheduled_at,
            candidates or 0,
            sum((counts or {}).get("sent", {}).values()),
        )
        for one, candidates, counts in session.execute(query)
    ]
    return page_of(found, number, by_time=True)


def runs(session: Session, campaign_id: int) -> list[CampaignRun]:
    """A campaign's runs, newest first."""
    query = (
        sa.select(CampaignRun).where(CampaignRun.campaign_id == campaign_id).order_by(CampaignRun.id.desc())
    )
    return list(session.scalars(query))


def templates_by_channel(session: Session) -> dict[str, list[str]]:
    """channel → names of its marketing templates, for choices."""
    query = (
        sa.select(Template.channel, Template.name)
        .where(Template.archived_at.is_(None), Template.purpose == "marketing")
        .order_by(Template.name)
    )
    found: dict[str, list[str]] = {}
    for channel, name in session.execute(query):
        found.setdefault(channel, []).append(name)
    return found


def template_ids(session: Session, names: list[str]) -> dict[str, int]:
    return dict(session.execute(sa.select(Template.name, Template.id).where(Template.name.in_(names))).all())


def funnels(session: Session, run_id: int) -> list[ArmFunnel]:
    """Each sent-to arm's way from decision to purchase; four grouped queries."""
    decided = session.execute(
        sa.select(Decision.arm, sa.func.count(), sa.func.count(Decision.coupon_code))
        .where(Decision.run_id == run_id, Decision.reason.is_(None))
        .group_by(Decision.arm)
        .order_by(Decision.arm)
    ).all()
    of_run = sa.and_(
        Decision.run_id == run_id,
        Message.member_id == Decision.member_id,
        Message.source_kind == "run",
        Message.source_id == run_id,
    )
    reached = sa.func.count(sa.distinct(sa.case((Message.sent_at.is_not(None), Message.member_id))))
    arrived = sa.func.count(sa.distinct(sa.case((Message.state == "delivered", Message.member_id))))
    failed = sa.func.count(sa.distinct(sa.case((Message.state == "failed", Message.member_id))))
    waiting = sa.func.count(sa.distinct(sa.case((Message.state == "created", Message.member_id))))
    messages: dict[Any, Any] = {
        row[0]: row
        for row in session.execute(
            sa.select(Decision.arm, reached, arrived, failed, waiting)
            .join(Message, of_run)
            .group_by(Decision.arm)
        )
    }
    touched = session.execute(
        sa.select(
            Decision.arm,
            MessageEvent.kind,
            sa.func.count(sa.distinct(sa.case((MessageEvent.actor == "human", Message.member_id)))),
            sa.func.count(sa.distinct(Message.member_id)),
        )
        .join(Message, of_run)
        .join(MessageEvent, MessageEvent.message_id == Message.id)
        .where(MessageEvent.kind.in_(("opened", "clicked")))
        .group_by(Decision.arm, MessageEvent.kind)
    ).all()
    touches = {(arm, kind): (human, total) for arm, kind, human, total in touched}
    redeemed = dict(
        session.execute(
            sa.select(Decision.arm, sa.func.count())
            .join(Coupon, Coupon.code == Decision.coupon_code)
            .join(Redemption, sa.and_(Redemption.coupon_id == Coupon.id, Redemption.rolled_back_at.is_(None)))
            .where(Decision.run_id == run_id)
            .group_by(Decision.arm)
        ).all()
    )
    return [
        ArmFunnel(
            str(arm),
            count,
            *_four(messages.get(arm)),
            *_visits(touches, arm),
            coupons,
            redeemed.get(arm, 0),
        )
        for arm, count, coupons in decided
    ]


def _visits(touches: dict[tuple[Any, str], tuple[int, int]], arm: Any) -> tuple[int, int, int, int]:
    """Opened and clicked by people, then by machines as well."""
    opened, clicked = (touches.get((arm, kind), (0, 0)) for kind in ("opened", "clicked"))
    return opened[0], clicked[0], opened[1], clicked[1]


def _four(row: Any) -> tuple[int, int, int, int]:
    """Sent, delivered, failed and waiting of an arm; noughts where it has no messages."""
    return (row[1], row[2], row[3], row[4]) if row is not None else (0, 0, 0, 0)


def decisions(session: Session, run_id: int, number: int, *, reason: str) -> Page[DecisionRow]:
    """Who got what in a run, and why the others did not; ``reason`` ``sent`` shows the first only."""
    query = (
        sa.select(
            Decision.member_id,
            sa.func.coalesce(Member.name, Member.external_id),
            Decision.reason,
            Decision.arm,
            Decision.channel,
            Decision.coupon_code,
            Decision.points,
        )
        .join(Member, Member.id == Decision.member_id)
        .where(Decision.run_id == run_id)
        .order_by(Decision.member_id)
        .offset(offset(number))
        .limit(PAGE_ROWS + 1)
    )
    if reason == "sent":
        query = query.where(Decision.reason.is_(None))
    elif reason:
        query = query.where(Decision.reason == reason)
    return page_of([DecisionRow(*row) for row in session.execute(query)], number)


def readouts(session: Session, experiment_id: int | None) -> list[Readout]:
    """Frozen read-outs of an experiment: the newest real one, then the newest simulated one."""
    if experiment_id is None:
        return []
    newest = (
        sa.select(Readout.kind, sa.func.max(Readout.id).label("id"))
        .where(Readout.experiment_id == experiment_id)
        .group_by(Readout.kind)
        .subquery()
    )
    query = sa.select(Readout).join(newest, newest.c.id == Readout.id).order_by(Readout.kind)
    return list(session.scalars(query))


@dataclass(frozen=True)
class ResultRow:
    readout: Readout
    experiment: str
    campaign: str | None
    title: str | None


def all_readouts(session: Session, number: int) -> Page[ResultRow]:
    """The newest read-out of each experiment and kind, the newest first."""
    newest = (
        sa.select(sa.func.max(Readout.id).label("id"))
        .group_by(Readout.experiment_id, Readout.kind)
        .subquery()
    )
    query = (
        sa.select(Readout, Experiment.name, Campaign.name, Campaign.title)
        .join(newest, newest.c.id == Readout.id)
        .join(Experiment, Experiment.id == Readout.experiment_id)
        .outerjoin(
            Rollout, sa.and_(Rollout.experiment_id == Experiment.id, Rollout.state == rollout.APPROVED)
        )
        .outerjoin(
            Campaign, sa.or_(Campaign.experiment_id == Experiment.id, Campaign.id == Rollout.campaign_id)
        )
        .order_by(Readout.id.desc())
        .offset(offset(number))
        .limit(PAGE_ROWS + 1)
    )
    return page_of([ResultRow(*row) for row in session.execute(query)], number, by_time=True)


def last_job(session: Session, kind: str, label: str) -> Job | None:
    """The newest job of this work."""
    query = sa.select(Job).where(Job.kind == kind, Job.label == label).order_by(Job.id.desc()).limit(1)
    return session.scalars(query).first()


def campaign_of(session: Session, experiment_id: int) -> Campaign | None:
    """The campaign that an experiment belongs to, or belonged to until its winner was rolled out."""
    return rollout.owner(session, experiment_id)


def by_name(session: Session, name: str) -> Campaign | None:
    return session.scalar(sa.select(Campaign).where(Campaign.name == name))


def run_titles(session: Session) -> dict[int, str]:
    """Every run → the title of its campaign."""
    query = sa.select(CampaignRun.id, Campaign.title).join(Campaign, Campaign.id == CampaignRun.campaign_id)
    return {row.id: row.title for row in session.execute(query)}


@dataclass(frozen=True)
class Tested:
    """An experiment of a campaign with members held out. ``key``: the campaign's name; of an experiment of
    before a roll-out, the experiment's. ``until``: when that ended, None of the current one."""

    key: str
    title: str
    experiment_id: int
    until: datetime | None


def with_holdout(session: Session) -> list[Tested]:
    """Every experiment in which a campaign held members out, those of before a roll-out too, the newest
    first."""
    query = (
        sa.select(Experiment.id, Experiment.name, Campaign.name, Campaign.title, Campaign.experiment_id,
                  Rollout.decided_at)
        .outerjoin(
            Rollout, sa.and_(Rollout.experiment_id == Experiment.id, Rollout.state == rollout.APPROVED)
        )
        .join(Campaign, sa.or_(Campaign.experiment_id == Experiment.id, Campaign.id == Rollout.campaign_id))
        .where(Experiment.control == HOLDOUT)
        .order_by(Experiment.created_at.desc(), Campaign.id.desc(), Experiment.id.desc())
        .limit(MOST_CHOICES)
    )  # fmt: skip
    found: dict[int, Tested] = {}
    for number, experiment, name, title, current, decided in session.execute(query):
        mine = current == number
        found.setdefault(
            number, Tested(name if mine else experiment, title, number, None if mine else decided)
        )
    return list(found.values())


def control_quarters(session: Session) -> list[int]:
    """The quarters whose global control group was met, the newest first."""
    query = (
        sa.select(Experiment.name).where(Experiment.kind == "control").order_by(Experiment.created_at.desc())
    )
    return [quarter_named(name) for name in session.scalars(query)]
