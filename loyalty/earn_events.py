"""Points for events: reviews, check-ins, surveys, sign-ups, birthdays, by the shop's rules.

Guarantees: an event is rewarded by a rule once, however often it is imported or its to-do row is seen; a
member's rewards of a day (of the shop's zone) and in all stay within the rule's limits, since they are
counted under the member's lock; a birthday is rewarded once a year; a sign-up under suspicion is rewarded
once the review has let it pass.
"""

from __future__ import annotations

import calendar
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core import audit
from core.bulk import bulk_insert
from core.db import among
from core.errors import Conflict, InvalidInput, NotFound
from core.imports import EVENT_KINDS, EVENT_QUEUE
from core.models import IS_CUSTOMER, Event, Member, Preference, Todo
from core.times import instant
from loyalty import ledger
from loyalty.abuse.rules import SIGN_UP
from loyalty.abuse.sign_ups import HELD_QUEUE, suspected
from loyalty.earn_rules import MAX_PENDING_DAYS, EarnRule
from loyalty.lots import EARN
from loyalty.models import PointsAward, PointsEventRule
from loyalty.points import MAX_POINTS

BIRTHDAY = "birthday"
KINDS = (SIGN_UP, BIRTHDAY, "review", "check_in", "survey", "referral")
"""Kinds that a page offers; any kind that the shop imports works."""
EVENT = "event"
"""``source_kind`` of lots earned by events."""
MAX_NAME, MAX_KIND, MAX_TIMES = 80, 60, 10_000


@dataclass(frozen=True)
class EventRule:
    """``points`` for an event of ``kind`` in [starts_at, ends_at), at most so often a day and in all."""

    name: str
    kind: str
    points: int
    per_day: int | None = None
    per_member: int | None = None
    pending_days: int = 0
    starts_at: datetime | None = None
    ends_at: datetime | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.name) <= MAX_NAME:
            raise InvalidInput(f"A name has 1 to {MAX_NAME} characters.", "name")
        if not 1 <= len(self.kind) <= MAX_KIND:
            raise InvalidInput(f"The kind of an event has 1 to {MAX_KIND} characters.", "kind")
        if not 1 <= self.points <= MAX_POINTS:
            raise InvalidInput(f"An event brings 1 to {MAX_POINTS} points.", "points")
        for field in ("per_day", "per_member"):
            limit = getattr(self, field)
            if limit is not None and not 1 <= limit <= MAX_TIMES:
                raise InvalidInput(f"A limit is 1 to {MAX_TIMES}; leave it empty for none.", field)
        if not 0 <= self.pending_days <= MAX_PENDING_DAYS:
            raise InvalidInput(f"Pending days lie between 0 and {MAX_PENDING_DAYS}.", "pending_days")
        if self.starts_at and self.ends_at and self.starts_at >= self.ends_at:
            raise InvalidInput("It ends after it has started.", "ends_at")


class _Claim(NamedTuple):
    """Something that a rule may reward."""

    rule: Any
    member_id: int
    key: str
    at: datetime


@dataclass(frozen=True)
class Rewarded:
    """To-do rows done, rewards given, points earned, rewards that a limit stood in the way of."""

    todos: int = 0
    rewards: int = 0
    points: int = 0
    limited: int = 0
    held: int = 0
    """Sign-ups under suspicion, which wait for the review."""


def create(session: Session, new: EventRule, by: str, now: datetime) -> None:
    """Store a rule: events imported from now on are looked at; leaves an audit row."""
    if session.scalar(sa.select(PointsEventRule.id).where(PointsEventRule.name == new.name)) is not None:
        raise Conflict(f"There is a rule “{new.name}” already; choose another name.")
    session.add(PointsEventRule(**asdict(new), created_by=by, created_at=now))
    session.flush()
    _publish_kinds(session, now)
    audit.record(session, by, "create", "points_event_rule", new.name, now, {"kind": new.kind})


def archive(session: Session, name: str, by: str, now: datetime) -> None:
    """No event is rewarded by the rule any more."""
    row = session.scalars(sa.select(PointsEventRule).where(PointsEventRule.name == name)).one_or_none()
    if row is None:
        raise NotFound(f"There is no rule “{name}”.")
    if row.archived_at is None:
        row.archived_at = now
        session.flush()
        _publish_kinds(session, now)
        audit.record(session, by, "archive", "points_event_rule", name, now)


def listed(session: Session) -> Sequence[PointsEventRule]:
    """The rules that are not archived, by name."""
    return session.scalars(
        sa.select(PointsEventRule).where(PointsEventRule.archived_at.is_(None)).order_by(PointsEventRule.name)
    ).all()


def _publish_kinds(session: Session, now: datetime) -> None:
    """Tell imports which kinds of events leave a to-do row."""
    kinds = session.scalars(
        sa.select(PointsEventRule.kind).where(
            PointsEventRule.archived_at.is_(None), PointsEventRule.kind != BIRTHDAY
        )
    )
    session.merge(Preference(key=EVENT_KINDS, value=sorted(set(kinds)), updated_at=now))


def reward_events(session: Session, rule: EarnRule, now: datetime, limit: int) -> Rewarded:
    """Work off at most ``limit`` rows of the queue; ``rule`` says when the points expire.

    Several workers may run at once: each takes rows that no other holds.
    """
    todos = session.execute(
        sa.select(Todo.id, Todo.subject_id)
        .where(Todo.queue == EVENT_QUEUE)
        .order_by(Todo.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    if not todos:
        return Rewarded()
    events = session.execute(
        sa.select(Event.id, Event.member_id, Event.kind, Event.occurred_at)
        .join(Member, Member.id == Event.member_id)
        .where(among(session, Event.id, {event_id for _, event_id in todos}), IS_CUSTOMER)
        .order_by(Event.occurred_at, Event.id)
    ).all()
    held = _held(session, events)
    rules = listed(session)
    claims = [
        _Claim(each, event.member_id, f"event:{event.id}", event.occurred_at)
        for event in events
        if event.id not in held
        for each in rules
        if each.kind == event.kind and _applies(each, event.occurred_at)
    ]
    rewards, points, limited = _reward(session, claims, rule, now)
    waiting = [todo_id for todo_id, event_id in todos if event_id in held]
    if waiting:
        session.execute(sa.update(Todo).where(among(session, Todo.id, waiting)).values(queue=HELD_QUEUE))
    done = (todo_id for todo_id, event_id in todos if event_id not in held)
    session.execute(sa.delete(Todo).where(among(session, Todo.id, done)))
    return Rewarded(len(todos), rewards, points, limited, len(waiting))


def _held(session: Session, events: Sequence[Any]) -> set[int]:
    """Of these events the sign-ups that wait for the review."""
    sign_ups = {event.id: event.member_id for event in events if event.kind == SIGN_UP}
    doubtful = suspected(session, sign_ups.values()) if sign_ups else set()
    return {event_id for event_id, member_id in sign_ups.items() if member_id in doubtful}


def _applies(rule: Any, at: datetime) -> bool:
    return (rule.starts_at is None or rule.starts_at <= at) and (rule.ends_at is None or at < rule.ends_at)


def reward_birthdays(
    session: Session, rule: EarnRule, day: date, now: datetime, *, after: int, limit: int
) -> tuple[Rewarded, int | None]:
    """Reward at most ``limit`` members with an id above ``after`` whose birthday is ``day``.

    Answers what was done, and the last id seen (None: nobody is left). 29 February counts as the 28th
    in other years. A member is rewarded once a year, on whatever day the sweep finds it first.
    """
    members = birthday_members(session, day, after=after, limit=limit)
    if not members:
        return Rewarded(), None
    at = instant(day, ZoneInfo(rule.timezone))
    claims = [
        _Claim(each, member_id, f"birthday:{day.year}:{member_id}", at)
        for each in listed(session)
        if each.kind == BIRTHDAY and _applies(each, at)
        for member_id in members
    ]
    return Rewarded(0, *_reward(session, claims, rule, now)), members[-1]


def birthday_members(session: Session, day: date, *, after: int, limit: int) -> list[int]:
    """Ids of customers whose birthday is ``day``, ascending, above ``after``."""
    days = [(day.month, day.day)]
    if days == [(2, 28)] and not calendar.isleap(day.year):
        days.append((2, 29))
    month, of_month = sa.extract("month", Member.birthday), sa.extract("day", Member.birthday)
    born = sa.or_(*(sa.and_(month == m, of_month == d) for m, d in days))
    return list(
        session.scalars(
            sa.select(Member.id).where(Member.id > after, born, IS_CUSTOMER).order_by(Member.id).limit(limit)
        )
    )


def _reward(
    session: Session, claims: Sequence[_Claim], rule: EarnRule, now: datetime
) -> tuple[int, int, int]:
    """(rewards, points, left out by a limit): those that were not rewarded before, within the limits."""
    if not claims:
        return 0, 0, 0
    zone = ZoneInfo(rule.timezone)
    # Locked before anything is counted.
    ledger.lock_members(session, (claim.member_id for claim in claims))
    done, in_all, in_day = _awarded(session, claims)
    awards, lots = [], []
    limited = 0
    for claim in claims:
        if (claim.rule.id, claim.key) in done:
            continue
        done.add((claim.rule.id, claim.key))
        day = claim.at.astimezone(zone).date().isoformat()
        whose = (claim.rule.id, claim.member_id)
        if not (
            _below(in_all[whose], claim.rule.per_member) and _below(in_day[*whose, day], claim.rule.per_day)
        ):
            limited += 1
            continue
        in_all[whose] += 1
        in_day[*whose, day] += 1
        awards.append((claim.rule.id, claim.key, claim.member_id, day))
        expires_at = rule.expiry(claim.at)
        if expires_at is None or expires_at > now:
            lots.append(_lot(claim, rule, expires_at))
    columns = ("rule_id", "key", "member_id", "day")
    bulk_insert(session, PointsAward.__table__, columns, awards)
    new = ledger.issue(session, lots, EARN, now, prefix="event:")
    if rule.rolling:
        ends: dict[int, datetime] = {}
        for lot in lots:
            if lot.expires_at is not None:
                ends[lot.member_id] = max(lot.expires_at, ends.get(lot.member_id, lot.expires_at))
        ledger.move_ends(session, ends, now)
    ledger.repay_debts(session, {lot.member_id: f"lot:{lot.id}" for lot in new}, now)
    return len(awards), sum(lot.points for lot in new), limited


def _below(number: int, limit: int | None) -> bool:
    return limit is None or number < limit


def _lot(claim: _Claim, rule: EarnRule, expires_at: datetime | None) -> ledger.NewLot:
    available_at = claim.at + timedelta(days=claim.rule.pending_days)
    snapshot = {"rule": claim.rule.name, "points": claim.rule.points}
    source = f"{claim.rule.id}:{claim.key}"
    return ledger.NewLot(
        claim.member_id, claim.rule.points, available_at, expires_at, EVENT, source, snapshot, rule.rolling
    )


def _awarded(
    session: Session, claims: Iterable[_Claim]
) -> tuple[set[tuple[int, str]], Counter[tuple[int, int]], Counter[tuple[int, int, str]]]:
    """What was rewarded before; rewards by (rule, member), and by (rule, member, day)."""
    listed_claims = list(claims)
    of_rules = among(session, PointsAward.rule_id, {claim.rule.id for claim in listed_claims})
    before = session.execute(
        sa.select(PointsAward.rule_id, PointsAward.key).where(
            of_rules, among(session, PointsAward.key, {claim.key for claim in listed_claims})
        )
    )
    done = {(rule_id, key) for rule_id, key in before}
    counted = session.execute(
        sa.select(PointsAward.rule_id, PointsAward.member_id, PointsAward.day, sa.func.count())
        .where(of_rules, among(session, PointsAward.member_id, {claim.member_id for claim in listed_claims}))
        .group_by(PointsAward.rule_id, PointsAward.member_id, PointsAward.day)
    )
    in_all: Counter[tuple[int, int]] = Counter()
    in_day: Counter[tuple[int, int, str]] = Counter()
    for rule_id, member_id, day, number in counted:
        in_all[rule_id, member_id] += number
        in_day[rule_id, member_id, day] += number
    return done, in_all, in_day
