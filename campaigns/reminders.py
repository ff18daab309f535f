"""Reminders of coupons and points that end soon: whom, when, by which channel, once.

Guarantees: a coupon is reminded of once, a member of points once a month and of at most one coupon a day,
by the messages' dedupe keys, whatever number of runs and workers; consent, suppression, the shop's caps,
the member's own wishes and the global control group count as for campaigns, by the same functions. A
batch is one transaction, so a crash loses nothing and repeats nothing. Right before one leaves, its code
is looked at again: of one that was used meanwhile nobody is reminded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.decide import ArmPlan, Left, Plan, decide
from campaigns.gather import gather
from campaigns.plan import AUDIENCE_SCHEMA, control, shows_points
from campaigns.programme import log_programme
from campaigns.spec import DEFAULT_QUIET_HOURS, CampaignSpec
from channels import consent, outbox, rechecks
from channels.models import Message, Template
from channels.rechecks import Waiting
from core import audit
from core.db import Database, among
from core.errors import InvalidInput
from core.models import IS_CUSTOMER, Member, Preference
from core.settings import Settings
from loyalty import ending, liability, point_facts, points

KEY, DONE = "campaigns.reminders", "campaigns.reminders.done"
COUPONS, POINTS = "coupons", "points"
KINDS = (COUPONS, POINTS)
SOURCE = "reminder"
"""``source_kind`` of the messages; their ``source_id`` is the day, 20260302."""
COUPON_KEY = "reminder:coupon:"
"""How the keys of messages about a code begin; its id follows."""
COUPON_GONE = "coupon_gone"
"""Why a reminder was not sent: its code could not be used any more."""
BATCH = 2000
MAX_DAYS = 90
MAX_TEMPLATES = 5
LIFE = timedelta(days=3)
"""A reminder that could not leave by then is not sent any more."""
_ARM = "reminder"


@dataclass(frozen=True)
class Rule:
    """One kind of reminder."""

    on: bool = False
    days: int | None = 3
    """Before the end. Coupons: a batch's own number counts instead; None: only batches that have one."""
    templates: tuple[str, ...] = ()
    """By name, in the order in which their channels are tried; one a channel."""
    least: int = 1
    """Points: who loses fewer is not reminded."""


@dataclass(frozen=True)
class Reminders:
    """The shop's choice. ``hour``: of the shop's day, from which on the day's reminders are sent."""

    coupons: Rule = field(default_factory=Rule)
    points: Rule = field(default_factory=lambda: Rule(days=7))
    hour: int = 10

    def rule(self, kind: str) -> Rule:
        return self.coupons if kind == COUPONS else self.points


@dataclass(frozen=True)
class Due:
    """Somebody to remind; ``key`` is the message's natural key."""

    member_id: int
    key: str
    context: Mapping[str, Any]
    end: datetime


@dataclass
class Counts:
    """What became of the reminders of a kind."""

    due: int = 0
    queued: Counter[str] = field(default_factory=Counter)
    """By channel."""
    skipped: Counter[str] = field(default_factory=Counter)
    """By reason (``campaigns.decide.REASONS``)."""

    def to_json(self) -> dict[str, Any]:
        return {
            "due": self.due,
            "queued": dict(sorted(self.queued.items())),
            "skipped": dict(sorted(self.skipped.items())),
        }


def load(session: Session) -> Reminders:
    """The stored choice; without any, both kinds are off."""
    stored = session.get(Preference, KEY)
    if stored is None:
        return Reminders()
    rules = {
        kind: Rule(**{**stored.value[kind], "templates": tuple(stored.value[kind]["templates"])})
        for kind in KINDS
    }
    return Reminders(**rules, hour=stored.value["hour"])


def save(session: Session, wanted: Reminders, by: str, now: datetime) -> None:
    """Store the choice, with an audit row. InvalidInput names the field, such as ``coupons.templates``."""
    if not 0 <= wanted.hour <= 23:
        raise InvalidInput("The hour lies between 0 and 23.", "hour")
    for kind in KINDS:
        rule = wanted.rule(kind)
        if rule.days is None and kind == POINTS:
            raise InvalidInput(f"Choose 1 to {MAX_DAYS} days.", f"{kind}.days")
        if rule.days is not None and not 1 <= rule.days <= MAX_DAYS:
            raise InvalidInput(f"Choose 1 to {MAX_DAYS} days.", f"{kind}.days")
        if rule.least < 1:
            raise InvalidInput("Remind from 1 point on, or more.", f"{kind}.least")
        if len(rule.templates) > MAX_TEMPLATES or (rule.on and not rule.templates):
            raise InvalidInput("Choose a template for at least one channel.", f"{kind}.templates")
        _templates(session, kind, rule)
    session.merge(Preference(key=KEY, value=asdict(wanted), updated_at=now))
    if session.get(Preference, DONE) is None:  # so that two workers at once only ever change it
        session.add(Preference(key=DONE, value="", updated_at=now))
    audit.record(session, by, "save", "settings", KEY, now, asdict(wanted))
    session.flush()


def _templates(session: Session, kind: str, rule: Rule) -> dict[str, tuple[int, int]]:
    """channel → (template id, version), in the rule's order."""
    rows = session.execute(
        sa.select(Template.name, Template.channel, Template.id, Template.version).where(
            Template.name.in_(rule.templates),
            Template.archived_at.is_(None),
            Template.purpose == consent.MARKETING,
        )
    )
    known = {row.name: row for row in rows}
    found: dict[str, tuple[int, int]] = {}
    for name in rule.templates:
        if name not in known:
            raise InvalidInput(f"The template “{name}” is gone; choose another.", f"{kind}.templates")
        if known[name].channel in found:
            raise InvalidInput("Choose one template a channel.", f"{kind}.templates")
        found[known[name].channel] = known[name].id, known[name].version
    return found


def is_time(session: Session, settings: Settings, now: datetime) -> bool:
    """Whether the day's reminders are to be sent: its hour has come, and they were not sent yet."""
    wanted = load(session)
    local = now.astimezone(settings.zone)
    done = session.get(Preference, DONE)
    on = any(wanted.rule(kind).on for kind in KINDS)
    return on and local.hour >= wanted.hour and (done is None or done.value != local.date().isoformat())


def send(
    database: Database, settings: Settings, now: datetime, *, dry_run: bool = False
) -> dict[str, Counts]:
    """Queue what is due, in batches of 2,000; counts by kind, of those that are on.

    ``dry_run`` decides the same and writes nothing. InvalidInput, and nothing is queued, where a template
    is gone.
    """
    with database.read() as session:
        wanted = load(session)
        ready = {kind: _ready(session, wanted, kind, now) for kind in KINDS if wanted.rule(kind).on}
    found = {kind: Counts() for kind in ready}
    for kind, batches in ((COUPONS, _coupon_batches), (POINTS, _points_batches)):
        if kind not in ready:
            continue
        for batch in batches(database, settings, wanted.rule(kind), now):
            if dry_run:
                with database.read() as session:
                    _decide(session, ready[kind], batch(session), now, found[kind], lock=False)
            else:
                with database.write() as session:
                    _queue(session, settings, ready[kind], batch(session), now, found[kind])
    if ready and not dry_run:
        with database.write() as session:
            day = now.astimezone(settings.zone).date().isoformat()
            session.merge(Preference(key=DONE, value=day, updated_at=now))
    return found


@dataclass(frozen=True)
class _Ready:
    plan: Plan
    templates: Mapping[str, tuple[int, int]]
    shows_points: bool
    """Whether a template shows facts of the member's points."""


Batch = Callable[[Session], list[Due]]
"""A batch, read in the transaction that writes it."""


def _ready(session: Session, wanted: Reminders, kind: str, now: datetime) -> _Ready:
    templates = _templates(session, kind, wanted.rule(kind))
    channels = tuple(templates)
    share, quarter = control(session, now)
    arms = (ArmPlan(_ARM, 1.0, channels),)
    plan = Plan(f"reminders:{kind}", channels, arms, 0.0, share, quarter, {})
    return _Ready(plan, templates, shows_points(session, templates.values()))


def _day(settings: Settings, now: datetime) -> int:
    return int(f"{now.astimezone(settings.zone):%Y%m%d}")


def _coupon_batches(database: Database, settings: Settings, rule: Rule, now: datetime) -> Iterator[Batch]:
    with database.read() as session:
        due = ending.ending(session, now, within_days=rule.days).subquery()
        key = sa.literal(COUPON_KEY) + sa.cast(due.c.coupon_id, sa.String)
        place = sa.func.row_number().over(
            partition_by=due.c.member_id, order_by=(due.c.valid_until, due.c.coupon_id)
        )
        had = sa.select(Message.member_id).where(
            Message.source_kind == SOURCE,
            Message.source_id == _day(settings, now),
            Message.dedupe_key.like(f"{COUPON_KEY}%"),
        )
        first = (
            sa.select(due.c.member_id, due.c.coupon_id, place.label("place"))
            .join(Member, Member.id == due.c.member_id)
            .where(
                IS_CUSTOMER,
                ~sa.exists().where(Message.dedupe_key == key),
                due.c.member_id.not_in(had),
            )
            .subquery()
        )
        ids = session.scalars(
            sa.select(first.c.coupon_id).where(first.c.place == 1).order_by(first.c.member_id)
        ).all()
    for start in range(0, len(ids), BATCH):
        yield partial(_coupons, coupon_ids=ids[start : start + BATCH], now=now)


def _coupons(session: Session, coupon_ids: Sequence[int], now: datetime) -> list[Due]:
    """Of the codes that can still be used, the messages about them."""
    return [
        Due(
            code.member_id,
            f"{COUPON_KEY}{code.coupon_id}",
            {
                "coupon": {
                    "code": code.code,
                    "title": code.title,
                    "amount": code.benefit.get("amount"),
                    "valid_until": code.valid_until.isoformat(),
                }
            },
            code.valid_until,
        )
        for code in ending.codes(session, coupon_ids, now)
    ]


def used_meanwhile(session: Session, waiting: Sequence[Waiting], now: datetime) -> dict[int, str]:
    """Of queued reminders, those of codes that their member cannot use any more: used, held for an order,
    handed on, revoked or over. One query."""
    about = {
        one.message_id: (one.member_id, one.context["coupon"]["code"])
        for one in waiting
        if "coupon" in one.context
    }
    usable = ending.usable(session, {code for _, code in about.values()}, now)
    return {message_id: COUPON_GONE for message_id, pair in about.items() if pair not in usable}


rechecks.register(SOURCE, used_meanwhile)


def _points_batches(database: Database, settings: Settings, rule: Rule, now: datetime) -> Iterator[Batch]:
    month = f"{now.astimezone(settings.zone):%Y-%m}"
    after: int | None = 0
    while after is not None:
        with database.read() as session:
            page = liability.expiring(session, now, within_days=rule.days or MAX_DAYS, after=after)
        after = page[-1].member_id if len(page) == liability.MAX_EXPIRING else None
        due = [one for one in page if one.points >= rule.least]
        for start in range(0, len(due), BATCH):
            yield partial(_points, due=due[start : start + BATCH], month=month, now=now)


def _points(session: Session, due: Sequence[liability.Expiring], month: str, now: datetime) -> list[Due]:
    """Of those who were not reminded this month, the messages."""
    keys = {one.member_id: f"reminder:points:{one.member_id}:{month}" for one in due}
    had = set(
        session.scalars(
            sa.select(Message.dedupe_key).where(among(session, Message.dedupe_key, keys.values()))
        )
    )
    left = [one for one in due if keys[one.member_id] not in had]
    held = points.balances(session, [one.member_id for one in left], now)
    return [
        Due(
            one.member_id,
            keys[one.member_id],
            {
                "points": {
                    "amount": one.points,
                    "balance": held[one.member_id].available,
                    "expires_at": one.at.isoformat(),
                    "expiring": one.points,
                }
            },
            one.at,
        )
        for one in left
    ]


def _decide(
    session: Session, ready: _Ready, due: Sequence[Due], now: datetime, counts: Counts, *, lock: bool
) -> list[dict[str, Any]]:
    """Who of the batch gets a message, as ``campaigns.decide`` says; the others are counted."""
    ids = [one.member_id for one in due]
    names = dict(
        session.execute(sa.select(Member.id, Member.external_id).where(among(session, Member.id, ids))).all()
    )
    audience = pa.table(
        {"member_id": ids, "external_id": [names[one] for one in ids], "excluded": [False] * len(ids)}
    ).cast(AUDIENCE_SCHEMA)
    spec = CampaignSpec({}, (), ready.plan.channels)
    candidates = gather(session, ready.plan, spec, audience, now, lock=lock)
    decided, _ = decide(candidates, ready.plan, Left())
    if lock:
        log_programme(session, ready.plan, decided, now)
    counts.due += len(due)
    counts.skipped.update(reason for reason in decided["reason"].to_pylist() if reason is not None)
    sends: list[dict[str, Any]] = decided.filter(pc.is_null(decided["reason"])).to_pylist()
    if not lock:
        counts.queued.update(one["channel"] for one in sends)
    return sends


def _queue(
    session: Session, settings: Settings, ready: _Ready, due: Sequence[Due], now: datetime, counts: Counts
) -> None:
    """Write a batch. What another worker queued meanwhile is left out, and not counted."""
    by_member = {one.member_id: one for one in due}
    sends = _decide(session, ready, due, now, counts, lock=True)
    if ready.shows_points and sends:
        facts = point_facts.of(session, [send["member_id"] for send in sends], now)
        for member_id, held in facts.items():
            one = by_member[member_id]
            # A reminder of points says how many go within its days.
            of_points = {"amount": 0, **held.context(), **one.context.get("points", {})}
            by_member[member_id] = replace(one, context={**one.context, "points": of_points})
    for channel in ready.plan.channels:
        mine = [send for send in sends if send["channel"] == channel]
        rows = (_row(settings, ready, send, by_member[send["member_id"]], now) for send in mine)
        counts.queued[channel] += outbox.enqueue(session, rows) if mine else 0
    counts.queued = +counts.queued


def _row(
    settings: Settings, ready: _Ready, send: Mapping[str, Any], one: Due, now: datetime
) -> outbox.OutboxRow:
    fallback = [
        {
            "channel": channel,
            "template_id": ready.templates[channel][0],
            "template_version": ready.templates[channel][1],
        }
        for channel in send["fallback"]
    ]
    return outbox.OutboxRow(
        one.key,
        one.member_id,
        send["channel"],
        consent.MARKETING,
        *ready.templates[send["channel"]],
        one.context,
        SOURCE,
        _day(settings, now),
        fallback,
        DEFAULT_QUIET_HOURS,
        now,
        min(one.end, now + LIFE),
        now,
    )
