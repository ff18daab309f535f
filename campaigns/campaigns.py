"""Campaigns and their way: draft → pending → approved → running → finished; paused, archived.

Only a draft or a rejected campaign is edited; who wrote it does not approve it; a finished one runs again
once somebody else than who asked for it approves; every step is an audit row. Whatever changes state does
so under the campaign's row lock.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.models import Campaign, CampaignRun
from campaigns.spec import CampaignSpec, Variant
from channels.models import Message, Template
from channels.outbox import FAILED, SKIPPED
from channels.settle import STOP_QUEUE
from core import audit
from core.db import among
from core.errors import Conflict, InvalidInput, NotFound
from core.models import Todo
from loyalty.models import CouponBatch
from segments.models import Segment
from segments.rules import segments_in, validate

__all__ = ["CampaignSpec", "Variant"]

DRAFT, PENDING, APPROVED, RUNNING = "draft", "pending", "approved", "running"
FINISHED, PAUSED, ARCHIVED = "finished", "paused", "archived"
UNDONE = "undone"
"""State of a run that was taken back before its first message left."""
STATES = (DRAFT, PENDING, APPROVED, RUNNING, PAUSED, FINISHED, ARCHIVED)
_DONE = {
    "submit": "submitted",
    "reject": "rejected",
    "approve": "approved",
    "pause": "paused",
    "resume": "resumed",
    "archive": "archived",
    "run_again": "run again",
}
STOP_BATCH = 1000
"""To-do rows of refused runs that one call takes."""
PROVIDER = "provider"
"""Who the audit rows of campaigns name that a provider's refusal paused."""
CLOCK = "clock"
"""Who they name that a late start paused."""
LATE = timedelta(hours=24)
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,79}")


def by_name(session: Session, name: str, *, lock: bool = False) -> Campaign:
    """The campaign of this name. Raises NotFound."""
    query = sa.select(Campaign).where(Campaign.name == name)
    found = session.scalars(query.with_for_update() if lock else query).first()
    if found is None:
        raise NotFound(f"There is no campaign “{name}”.")
    return found


def listing(session: Session, *, archived: bool = False) -> list[Campaign]:
    """Campaigns, the newest first."""
    query = sa.select(Campaign).order_by(Campaign.id.desc())
    return list(session.scalars(query if archived else query.where(Campaign.state != ARCHIVED)))


def spec_of(campaign: Campaign) -> CampaignSpec:
    """The campaign's spec as an object."""
    return CampaignSpec.from_json(campaign.spec)


def create(
    session: Session,
    *,
    name: str,
    title: str,
    spec: CampaignSpec,
    by: str,
    now: datetime,
    budget_minor: int | None = None,
    scheduled_at: datetime | None = None,
) -> Campaign:
    """A new draft. Raises InvalidInput, also for templates, batches and segments that do not exist."""
    if not _NAME.fullmatch(name):
        raise InvalidInput("A name has lower-case letters, digits, - and _, at most 80.", "name")
    if session.scalar(sa.select(Campaign.id).where(Campaign.name == name)) is not None:
        raise InvalidInput(f"There is already a campaign “{name}”.", "name")
    _check(session, title, spec, budget_minor)
    campaign = Campaign(
        name=name,
        title=title.strip(),
        state=DRAFT,
        spec=spec.to_json(),
        version=1,
        budget_minor=budget_minor,
        scheduled_at=scheduled_at,
        created_by=by,
        created_at=now,
        updated_at=now,
    )
    session.add(campaign)
    session.flush()
    audit.record(session, by, "create", "campaign", name, now, spec.to_json())
    return campaign


def update(
    session: Session,
    campaign: Campaign,
    *,
    title: str,
    spec: CampaignSpec,
    by: str,
    now: datetime,
    budget_minor: int | None = None,
    scheduled_at: datetime | None = None,
) -> None:
    """Change a campaign that is not approved yet; it becomes a draft again."""
    _need(campaign, (DRAFT, PENDING), "edited")
    if campaign.again_key is not None:
        raise Conflict(
            f"“{campaign.title}” waits to run again as it was. To change it, make a new campaign of it."
        )
    _check(session, title, spec, budget_minor)
    campaign.title, campaign.spec, campaign.budget_minor = title.strip(), spec.to_json(), budget_minor
    campaign.scheduled_at, campaign.state, campaign.updated_at = scheduled_at, DRAFT, now
    campaign.version += 1
    audit.record(session, by, "change", "campaign", campaign.name, now, spec.to_json())


def _check(session: Session, title: str, spec: CampaignSpec, budget_minor: int | None) -> None:
    if not title.strip() or len(title) > 200:
        raise InvalidInput("The title is missing, or longer than 200 characters.", "title")
    if budget_minor is not None and budget_minor <= 0:
        raise InvalidInput("A budget is more than 0; leave it empty for none.", "budget")
    templates = {name: i for i, v in enumerate(spec.variants) for name in v.templates.values()}
    rows = session.execute(sa.select(Template.name, Template.channel).where(Template.name.in_(templates)))
    channels: dict[str, str] = dict(rows.all())
    for index, variant in enumerate(spec.variants):
        for channel, template in variant.templates.items():
            if channels.get(template) != channel:
                raise InvalidInput(
                    f"{variant.name}: there is no {channel} template “{template}”.",
                    f"variants[{index}].templates.{channel}",
                )
    batches = {variant.coupon_batch for variant in spec.variants if variant.coupon_batch}
    query = sa.select(CouponBatch.name).where(
        CouponBatch.name.in_(batches), CouponBatch.archived_at.is_(None)
    )
    missing = sorted(batches - set(session.scalars(query)))
    if missing:
        raise InvalidInput(f"There is no coupon batch “{missing[0]}”.", "variants.coupon_batch")
    wanted = {*spec.exclude, *segments_in(validate(spec.audience))}
    live = set(
        session.scalars(
            sa.select(Segment.name).where(Segment.name.in_(wanted), Segment.archived_at.is_(None))
        )
    )
    unknown = sorted(wanted - live)
    if unknown:
        raise InvalidInput(
            f"There is no segment “{unknown[0]}”.", "exclude" if unknown[0] in spec.exclude else "audience"
        )


def _need(campaign: Campaign, states: tuple[str, ...], what: str) -> None:
    if campaign.state not in states:
        raise Conflict(
            f"“{campaign.title}” is {campaign.state}; only {' or '.join(states)} campaigns can be {what}."
        )


def _move(
    session: Session,
    campaign: Campaign,
    states: tuple[str, ...],
    state: str,
    action: str,
    by: str,
    now: datetime,
    detail: dict[str, Any] | None = None,
) -> None:
    session.flush()
    session.refresh(campaign, with_for_update=True)
    _need(campaign, states, _DONE[action])
    campaign.state, campaign.updated_at = state, now
    audit.record(session, by, action, "campaign", campaign.name, now, detail)


def submit(session: Session, campaign: Campaign, by: str, now: datetime) -> None:
    """Ask for approval."""
    _check(session, campaign.title, spec_of(campaign), campaign.budget_minor)
    _move(session, campaign, (DRAFT,), PENDING, "submit", by, now)


def reject(session: Session, campaign: Campaign, by: str, now: datetime, why: str = "") -> None:
    """Send a campaign back to its author; one that was to run again stays finished."""
    # Locked before it is asked which of both it is.
    session.flush()
    session.refresh(campaign, with_for_update=True)
    state = DRAFT if campaign.again_key is None else FINISHED
    _move(session, campaign, (PENDING, APPROVED), state, "reject", by, now, {"why": why})
    campaign.approved_by = campaign.approved_at = campaign.again_by = campaign.again_key = None


def approve(session: Session, campaign: Campaign, by: str, now: datetime, *, alone: bool = False) -> None:
    """Let a campaign run. Its author, or who asked for it to run again, cannot, unless ``alone``: there is
    nobody else who could."""
    if by == asked_by(campaign) and not alone:
        raise Conflict(
            "A campaign is approved by somebody else than its author or who wants it to run again."
        )
    _move(session, campaign, (PENDING,), APPROVED, "approve", by, now, {"version": campaign.version})
    campaign.approved_by, campaign.approved_at = by, now


def asked_by(campaign: Campaign) -> str:
    """Who may not approve it: the author, or who asked for it to run again."""
    return campaign.again_by or campaign.created_by


def run_again(
    session: Session,
    campaign: Campaign,
    by: str,
    now: datetime,
    *,
    rest_days: int | None = None,
    budget_minor: int | None = None,
    scheduled_at: datetime | None = None,
) -> None:
    """Ask for a finished campaign to run once more, as it is; somebody else approves it.

    ``rest_days``: whoever it reached in so many days is left out; ``budget_minor``: for all runs together.
    The run has a key of its own, by the UTC day of ``now`` and the version. Conflict: it is not finished.
    """
    _move(session, campaign, (FINISHED,), PENDING, "run_again", by, now, {"rest_days": rest_days})
    spec = CampaignSpec.from_json(replace(spec_of(campaign), rest_days=rest_days).to_json())
    _check(session, campaign.title, spec, budget_minor)
    campaign.spec, campaign.budget_minor, campaign.scheduled_at = spec.to_json(), budget_minor, scheduled_at
    campaign.version += 1
    campaign.again_by, campaign.again_key = by, f"{now:%Y-%m-%d}-v{campaign.version}"
    campaign.approved_by = campaign.approved_at = None
    session.flush()


def pause(session: Session, campaign: Campaign, by: str, now: datetime) -> None:
    """Stop a run after the batch under way; messages already queued still leave."""
    _move(session, campaign, (RUNNING, APPROVED), PAUSED, "pause", by, now)


def stop_refused(session: Session, now: datetime) -> list[str]:
    """Pause the campaigns whose template a provider refused for good; their names.

    Channels leave a to-do row with the run's id. The provider's words are in the audit row, and the
    campaign goes on with :func:`resume` once somebody has mended the template. What is not running
    or approved any more has nothing left to stop.
    """
    todos = session.execute(
        sa.select(Todo.id, Todo.subject_id)
        .where(Todo.queue == STOP_QUEUE)
        .order_by(Todo.id)
        .limit(STOP_BATCH)
        .with_for_update(skip_locked=True)
    ).all()
    if not todos:
        return []
    reasons = _refusals(session, {run_id for _, run_id in todos})
    of_runs = sa.select(CampaignRun.campaign_id).where(among(session, CampaignRun.id, reasons))
    found = session.scalars(
        sa.select(Campaign).where(Campaign.id.in_(of_runs)).order_by(Campaign.id).with_for_update()
    ).all()
    newest = session.execute(
        sa.select(CampaignRun.campaign_id, sa.func.max(CampaignRun.id))
        .where(among(session, CampaignRun.id, reasons))
        .group_by(CampaignRun.campaign_id)
    )
    runs: dict[int, int] = dict(newest.all())
    stopped = [campaign for campaign in found if campaign.state in (RUNNING, APPROVED)]
    for campaign in stopped:
        campaign.state, campaign.updated_at = PAUSED, now
        detail = {"why": reasons[runs[campaign.id]], "run": runs[campaign.id]}
        audit.record(session, PROVIDER, "pause", "campaign", campaign.name, now, detail)
    session.execute(sa.delete(Todo).where(among(session, Todo.id, (todo_id for todo_id, _ in todos))))
    return [campaign.name for campaign in stopped]


def _refusals(session: Session, run_ids: set[int]) -> dict[int, str]:
    """What the provider said about each run: of the messages that were stopped, else of those that failed."""
    stopped = sa.func.max(sa.case((Message.state == SKIPPED, Message.reason)))
    failed = sa.func.max(sa.case((Message.state == FAILED, Message.reason)))
    rows = session.execute(
        sa.select(Message.source_id, sa.func.coalesce(stopped, failed))
        .where(
            Message.source_kind == "run",
            among(session, Message.source_id, run_ids),
            sa.or_(
                sa.and_(Message.state == SKIPPED, Message.reason.startswith("stopped: ")),
                Message.state == FAILED,
            ),
        )
        .group_by(Message.source_id)
    )
    said = {run_id: reason.removeprefix("stopped: ") for run_id, reason in rows if reason}
    return {run_id: said.get(run_id, "a provider refused its template") for run_id in run_ids}


def resume(session: Session, campaign: Campaign, by: str, now: datetime) -> None:
    """Let a paused campaign go on where it stopped."""
    _move(session, campaign, (PAUSED,), APPROVED, "resume", by, now)


def archive(session: Session, campaign: Campaign, by: str, now: datetime) -> None:
    """Take a campaign out of the lists; its decisions and results stay."""
    _move(session, campaign, (DRAFT, PENDING, PAUSED, FINISHED), ARCHIVED, "archive", by, now)


def pause_missed(session: Session, now: datetime) -> list[str]:
    """Pause what should have begun more than ``LATE`` ago, after a downtime say; their names.

    An offer of last week is no good surprise: somebody decides, and :func:`resume` runs it after all.
    """
    since = sa.case(
        (Campaign.updated_at > Campaign.scheduled_at, Campaign.updated_at), else_=Campaign.scheduled_at
    )
    begun = sa.exists().where(
        CampaignRun.campaign_id == Campaign.id, CampaignRun.started_at >= Campaign.approved_at
    )
    missed = session.scalars(
        sa.select(Campaign)
        .where(Campaign.state == APPROVED, since <= now - LATE, ~begun)
        .order_by(Campaign.id)
        .with_for_update()
    ).all()
    for campaign in missed:
        campaign.state, campaign.updated_at = PAUSED, now
        why = f"it should have begun at {campaign.scheduled_at:%Y-%m-%d %H:%M} UTC"
        audit.record(session, CLOCK, "pause", "campaign", campaign.name, now, {"why": why})
    return [campaign.name for campaign in missed]


def due(session: Session, now: datetime) -> list[str]:
    """Names of approved campaigns whose time has come, and of those a crash left half-way."""
    query = sa.select(Campaign.name).where(
        sa.or_(
            sa.and_(Campaign.state == APPROVED, Campaign.scheduled_at <= now),
            Campaign.state == RUNNING,
        )
    )
    return list(session.scalars(query.order_by(Campaign.id)))
