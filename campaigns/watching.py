"""The watch: every campaign that ran is read out once a day, and judged by lights.

Guarantees: a campaign has one row and at most one real read-out a day of the shop, by key, whatever number of
watchers and retries; lights, alerts, what was stopped and what is proposed are one transaction with it. No
light looks at an experiment by a p that daily looks would spoil: guardrails and winners go by confidence
sequences. A campaign that cannot be read out keeps no other from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import date, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns import alerts, campaigns, lights, results, rollout, watching_mail
from campaigns.alerts import GOOD, RED, TREE, WATCH, YELLOW, Light
from campaigns.lights import Thresholds
from campaigns.models import Alert, Campaign, CampaignRun, WatchDay, WatchRule
from campaigns.rollout import Winner
from core import audit
from core.bulk import bulk_insert
from core.contacts import normalise_email
from core.db import Database
from core.errors import Conflict, HuiliuError, InvalidInput
from core.models import Preference
from core.settings import Settings
from core.warehouse.engine import DuckEngine
from experiments.assignment import assigned
from experiments.models import Experiment
from experiments.moments import scan
from segments import tree_alerts, tree_scan

KEY = "campaigns.watching"
STOPS = (lights.SRM, lights.GUARDRAIL, lights.BUDGET)
"""Red lights that a rule may pause a campaign for."""
STATES = (campaigns.APPROVED, campaigns.RUNNING, campaigns.PAUSED, campaigns.FINISHED)
MAX_EMAILS = 20
MAX_CAMPAIGNS = 500
"""Campaigns that one watch looks at, the newest first."""


def load(session: Session) -> Thresholds:
    """The stored thresholds, or the defaults."""
    stored = session.get(Preference, KEY)
    if stored is None:
        return Thresholds()
    known = {part.name for part in fields(Thresholds)}
    values = {name: value for name, value in stored.value.items() if name in known}
    values["emails"] = tuple(values.get("emails", ()))
    return replace(Thresholds(), **values)


def save(session: Session, wanted: Thresholds, by: str, now: datetime) -> None:
    """Keep new thresholds; the next watch uses them. InvalidInput names the field."""
    if len(wanted.emails) > MAX_EMAILS:
        raise InvalidInput(f"At most {MAX_EMAILS} addresses.", "emails")
    try:
        emails = tuple(dict.fromkeys(normalise_email(text) for text in wanted.emails))
    except InvalidInput as error:
        raise InvalidInput(str(error), "emails") from None
    value = asdict(replace(wanted.validated(), emails=emails))
    session.merge(Preference(key=KEY, value=value, updated_at=now))
    audit.record(session, by, "save", "settings", KEY, now, value)
    session.flush()


def rule_of(session: Session, campaign_id: int) -> tuple[str, ...]:
    """Red lights that pause the campaign."""
    found = session.get(WatchRule, campaign_id)
    return tuple(found.stop_on) if found else ()


def save_rule(session: Session, campaign: Campaign, stop_on: Sequence[str], by: str, now: datetime) -> None:
    """Choose what pauses a campaign by itself. InvalidInput: no such light."""
    unknown = sorted(set(stop_on) - set(STOPS))
    if unknown:
        raise InvalidInput(f"A campaign stops on {', '.join(STOPS)}; “{unknown[0]}” is none.", "stop_on")
    wanted = [name for name in STOPS if name in stop_on]
    session.merge(WatchRule(campaign_id=campaign.id, stop_on=wanted, changed_by=by, changed_at=now))
    audit.record(session, by, "change", "campaign", campaign.name, now, {"stop_on": wanted})
    session.flush()


@dataclass
class Watched:
    """What a watch did: the answer of ``huiliu campaigns watch --json``."""

    day: str
    campaigns: dict[str, str] = field(default_factory=dict)
    """name → the worst of its lights, or ``known`` where the day had been watched already."""
    stopped: list[str] = field(default_factory=list)
    proposed: list[str] = field(default_factory=list)
    alerts: int = 0
    """That are new or got worse."""
    failed: dict[str, str] = field(default_factory=dict)
    """name → why it could not be read out."""
    emails: int = 0
    fresh: list[int] = field(default_factory=list)
    """Ids of those alerts."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def add(self, found: Sequence[Alert]) -> None:
        """Note alerts that are new or got worse."""
        self.alerts += len(found)
        self.fresh += [alert.id for alert in found]


@dataclass(frozen=True)
class Found:
    """What was measured of a campaign, before anything is written."""

    lights: list[Light]
    result: results.CampaignResult | None
    winner: Winner | None


def to_watch(session: Session, now: datetime, thresholds: Thresholds) -> list[str]:
    """Names of campaigns whose newest run has a window that is open, or closed a few days ago."""
    newest = sa.select(sa.func.max(CampaignRun.id)).group_by(CampaignRun.campaign_id)
    rows = session.execute(
        sa.select(Campaign, CampaignRun.started_at)
        .join(CampaignRun, CampaignRun.campaign_id == Campaign.id)
        .where(Campaign.state.in_(STATES), CampaignRun.id.in_(newest))
        .order_by(CampaignRun.id.desc())
        .limit(MAX_CAMPAIGNS)
    )
    return sorted(
        campaign.name
        for campaign, started in rows
        if started + timedelta(days=campaigns.spec_of(campaign).window_days + thresholds.days_after) > now
    )


def watch(
    database: Database, engine: DuckEngine, settings: Settings, now: datetime, *, sync: bool = True
) -> Watched:
    """Look after every campaign that ran lately, and the newest whole week of the metrics tree."""
    if sync:
        engine.replica.sync(database)
    day = now.astimezone(settings.zone).date()
    done = Watched(day.isoformat())
    with database.read() as session:
        thresholds = load(session)
        names = to_watch(session, now, thresholds)
    for name in names:
        try:
            _watch_one(database, engine, settings, name, thresholds, now, done)
        except HuiliuError as error:
            done.failed[name] = str(error)
    _watch_tree(database, engine, settings, now, done)
    _tell(database, settings, thresholds, now, done)
    return done


def _tell(
    database: Database, settings: Settings, thresholds: Thresholds, now: datetime, done: Watched
) -> None:
    """Queue an e-mail about the alerts that this watch opened or saw get worse."""
    if not done.alerts or not thresholds.emails:
        return
    with database.write() as session:
        fresh = list(session.scalars(sa.select(Alert).where(Alert.id.in_(done.fresh)).order_by(Alert.id)))
        done.emails = watching_mail.send(session, settings, fresh, thresholds.emails, now)


def _watch_one(
    database: Database,
    engine: DuckEngine,
    settings: Settings,
    name: str,
    thresholds: Thresholds,
    now: datetime,
    done: Watched,
) -> None:
    day = now.astimezone(settings.zone).date()
    with database.read() as session:
        campaign = campaigns.by_name(session, name)
        if session.get(WatchDay, (campaign.id, day)) is not None:
            done.campaigns[name] = "known"
            return
        found = measure(session, engine, campaign, thresholds, now, settings.shop_currency)
    with database.write() as session:
        campaign = campaigns.by_name(session, name, lock=True)
        _store(session, campaign, found, day, now, done)


def measure(
    session: Session,
    engine: DuckEngine,
    campaign: Campaign,
    thresholds: Thresholds,
    now: datetime,
    currency: str,
) -> Found:
    """Every light of a campaign as of ``now``; writes nothing."""
    spec = campaigns.spec_of(campaign)
    runs = list(session.scalars(sa.select(CampaignRun).where(CampaignRun.campaign_id == campaign.id)))
    costs = results.costs_by_arm(session, campaign, spec)
    spent = sum(cost.total for cost in costs.values())
    found = [lights.budget(spent, campaign.budget_minor, thresholds)]
    found += lights.delivery(lights.sending(session, campaign.id), runs, thresholds, now)
    try:
        result = results.result(session, engine, campaign, now, currency)
    except (Conflict, InvalidInput):  # nothing to compare: one variant for everybody, or nobody assigned yet
        return Found(found, None, None)
    if not sum(result.readout.arms.values()):
        return Found(found, None, None)
    assert campaign.experiment_id is not None
    experiment = session.get_one(Experiment, campaign.experiment_id)
    split = lights.split(
        result.readout.arms, {arm["name"]: arm["weight"] for arm in experiment.arms}, thresholds
    )
    members = assigned(session, experiment.id)
    arms = scan(engine, members, window_days=spec.window_days, as_of=now, default_margin=spec.margin)
    found += [split, *lights.guardrails(session, engine, members, arms, experiment.control, thresholds, now)]
    best = rollout.winner(arms, spec.metric) if split.tone == GOOD else None
    return Found(found, result, best)


def _store(
    session: Session, campaign: Campaign, found: Found, day: date, now: datetime, done: Watched
) -> None:
    """All of a campaign's day, by whoever comes first."""
    tone = alerts.worst(found.lights)
    row = (campaign.id, day, tone, [light.to_json() for light in found.lights], now)
    new = bulk_insert(
        session,
        WatchDay.__table__,
        ("campaign_id", "day", "tone", "lights", "at"),
        [row],
        conflict=["campaign_id", "day"],
        returning=["campaign_id"],
    )
    if not new:
        done.campaigns[campaign.name] = "known"
        return
    done.campaigns[campaign.name] = tone
    if found.result is not None:
        kept = results.freeze(session, campaign, found.result, as_of=now, now=now)
        session.execute(
            sa.update(WatchDay)
            .where(WatchDay.campaign_id == campaign.id, WatchDay.day == day)
            .values(readout_id=kept.id)
        )
    done.add(alerts.keep(session, f"{alerts.CAMPAIGN}{campaign.name}", found.lights, now))
    if _stop(session, campaign, found.lights, now):
        done.stopped.append(campaign.name)
    if found.winner is not None and rollout.propose(session, campaign, found.winner, now):
        done.proposed.append(campaign.name)


def _stop(session: Session, campaign: Campaign, found: Sequence[Light], now: datetime) -> bool:
    """Pause the campaign where its rule says so and there is something left to pause."""
    rule = rule_of(session, campaign.id)
    why = [light.to_json() for light in found if light.tone == RED and light.family in rule]
    if not why or campaign.state not in (campaigns.RUNNING, campaigns.APPROVED):
        return False
    campaigns.pause(session, campaign, WATCH, now)
    audit.record(session, WATCH, "stop", "campaign", campaign.name, now, {"why": why})
    return True


def _watch_tree(
    database: Database, engine: DuckEngine, settings: Settings, now: datetime, done: Watched
) -> None:
    """Alerts of the newest whole week; those of weeks before are over."""
    last = tree_scan.last_whole(now, settings.zone)
    weeks = tree_scan.series(engine, last, settings.zone, now)
    found = tree_alerts.anomalies(weeks, now, settings.zone)
    divided = tree_alerts.divide(engine, last - timedelta(weeks=1), last, settings.zone, now) if found else ()
    shown = [_tree_light(one, tree_alerts.causes(one, divided)) for one in found]
    with database.write() as session:
        done.add(alerts.keep(session, TREE, shown, now))


def _tree_light(one: tree_alerts.Anomaly, causes: Sequence[tree_alerts.Cause]) -> Light:
    """Red where revenue itself fell out of line, else yellow."""
    tone = RED if one.node == "gmv" and one.after < one.low else YELLOW
    detail = {**asdict(one), "week": one.week.isoformat()}
    detail["causes"] = [
        {"by": cause.by, "group": cause.part.group, "share": cause.share, "size": cause.size}
        for cause in causes
    ]
    return Light(f"{one.node}:{one.week.isoformat()}", tone, one.after, one.expected, detail)


def latest_days(session: Session, campaign_ids: Sequence[int]) -> dict[int, WatchDay]:
    """campaign → its newest day of the watch."""
    newest = (
        sa.select(WatchDay.campaign_id, sa.func.max(WatchDay.day).label("day"))
        .where(WatchDay.campaign_id.in_(campaign_ids))
        .group_by(WatchDay.campaign_id)
        .subquery()
    )
    query = sa.select(WatchDay).join(
        newest, sa.and_(newest.c.campaign_id == WatchDay.campaign_id, newest.c.day == WatchDay.day)
    )
    return {row.campaign_id: row for row in session.scalars(query)}
