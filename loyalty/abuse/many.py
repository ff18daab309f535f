"""Many actions taken in and judged at once: sign-ups that come by the hundred in one request.

Guarantees: as :mod:`loyalty.abuse.signals` does it for one, in a fixed number of statements; all actions of
a call count for each other, as what happened at the same moment.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from core.bulk import bulk_insert
from core.db import among
from loyalty.abuse.models import AbuseAllowance, AbuseHit, AbuseSignal
from loyalty.abuse.rules import ALLOW, BLOCK, Rules, Shared, Velocity, load_rules
from loyalty.abuse.signals import CONFIRMED, DISMISSED, NAMED, OPEN, Rule, severest, signature, take_turns
from loyalty.abuse.subjects import Subject

MAX_ACTIONS = 1_000
Broken = Mapping[tuple[str, str], tuple[Rule, int]]
"""(rule, keyed hash) → the rule and the count that breaks it."""


@dataclass(frozen=True)
class Action:
    """Somebody did something: kind → keyed hash (``subjects.subjects_of``), and the action's own key."""

    key: str
    subjects: Mapping[str, str]
    member_id: int | None = None


def observe_many(session: Session, action: str, done: Sequence[Action], now: datetime) -> dict[str, str]:
    """Take note of at most 1,000 actions; key → ``hold`` or ``block``, of those that break a rule.

    A key that was seen before is no second action, and nothing is said of it.
    """
    assert len(done) <= MAX_ACTIONS
    pairs = sorted({pair for one in done for pair in one.subjects.items()})
    if not pairs:
        return {}
    take_turns(session, pairs)
    fresh = _note(session, action, done, now)
    seen = [one for one in done if one.key in fresh]
    allowed = _allowed(session, pairs, now)
    judged: defaultdict[str, set[str]] = defaultdict(set)
    for one in seen:
        for kind, digest in one.subjects.items():
            if (kind, digest) not in allowed:
                judged[kind].add(digest)
    broken = _broken(session, load_rules(session), action, judged, now)
    if not broken:
        return {}
    states = _keep(session, action, broken, seen, now)
    return _decisions(seen, broken, states)


def _note(session: Session, action: str, done: Iterable[Action], now: datetime) -> set[str]:
    """Write the signals; the keys that were new."""
    keys = {signature(one.key): one.key for one in done}
    rows = [
        (action, one.member_id, kind, digest, signature(one.key), now)
        for one in done
        for kind, digest in sorted(one.subjects.items())
    ]
    new = bulk_insert(
        session,
        AbuseSignal.__table__,
        ("action", "member_id", "kind", "hash", "request_key", "at"),
        rows,
        conflict=("action", "kind", "request_key"),
        returning=("request_key",),
    )
    return {keys[digest] for (digest,) in new}


def _allowed(session: Session, pairs: Iterable[Subject], now: datetime) -> set[Subject]:
    rows = session.execute(
        sa.select(AbuseAllowance.kind, AbuseAllowance.hash).where(
            sa.or_(AbuseAllowance.until.is_(None), AbuseAllowance.until > now),
            among(session, AbuseAllowance.hash, {digest for _, digest in pairs}),
        )
    )
    return {(kind, digest) for kind, digest in rows}


def _broken(
    session: Session, rules: Rules, action: str, judged: Mapping[str, Collection[str]], now: datetime
) -> Broken:
    """What is broken by whom; one statement for all rules."""
    relevant: list[Rule] = [
        *(rule for rule in rules.velocity if rule.action == action and judged.get(rule.kind)),
        *(rule for rule in rules.shared if judged.get(rule.kind)),
    ]
    if not relevant:
        return {}
    counters = [_counter(session, place, rule, judged[rule.kind], now) for place, rule in enumerate(relevant)]
    return {
        (relevant[place].name, digest): (relevant[place], number)
        for place, digest, number in session.execute(sa.union_all(*counters))
    }


def _counter(
    session: Session, place: int, rule: Rule, hashes: Collection[str], now: datetime
) -> sa.Select[int, str, int]:
    number = sa.func.count(AbuseSignal.member_id.distinct()) if isinstance(rule, Shared) else sa.func.count()
    query = (
        sa.select(sa.literal(place), AbuseSignal.hash, number)
        .where(
            AbuseSignal.kind == rule.kind,
            among(session, AbuseSignal.hash, hashes),
            AbuseSignal.at > now - timedelta(seconds=rule.window_s),
        )
        .group_by(AbuseSignal.hash)
        .having(number > rule.limit)
    )
    return query.where(AbuseSignal.action == rule.action) if isinstance(rule, Velocity) else query


def _keep(
    session: Session, action: str, broken: Broken, seen: Sequence[Action], now: datetime
) -> dict[tuple[str, str], str]:
    """Write the hits or count up those that are there; (rule, hash) → state."""
    last = {pair: one.member_id for one in seen for pair in one.subjects.items()}
    times = Counter(pair for one in seen for pair in one.subjects.items())
    others = _members_of(session, {(rule.kind, digest) for (_, digest), (rule, _) in broken.items()})
    at = int(now.timestamp())
    rows = [
        {
            "rule": name,
            "action": action,
            "kind": rule.kind,
            "hash": digest,
            "bucket": at - at % rule.window_s,
            "member_id": last[rule.kind, digest],
            "times": times[rule.kind, digest],
            "verdict": rule.verdict,
            "evidence": {
                "count": number,
                "limit": rule.limit,
                "window_s": rule.window_s,
                "shared": isinstance(rule, Shared),
                "members": [one for one in others[rule.kind, digest] if one != last[rule.kind, digest]],
            },
            "state": OPEN,
            "first_at": now,
            "last_at": now,
        }
        for (name, digest), (rule, number) in sorted(broken.items())
    ]
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    insert: Any = dialect.insert(AbuseHit.__table__).values(rows)
    new = insert.excluded
    statement = insert.on_conflict_do_update(
        index_elements=["rule", "kind", "hash", "bucket"],
        set_={
            "times": AbuseHit.times + new.times,
            "evidence": new.evidence,
            "verdict": new.verdict,
            "member_id": new.member_id,
            "last_at": new.last_at,
        },
    ).returning(AbuseHit.rule, AbuseHit.hash, AbuseHit.state)
    return {(name, digest): state for name, digest, state in session.execute(statement)}


def _members_of(session: Session, pairs: Collection[Subject]) -> defaultdict[Subject, list[int]]:
    """Subject → ids of members seen with it, the first of them."""
    place = sa.func.row_number().over(
        partition_by=(AbuseSignal.kind, AbuseSignal.hash), order_by=AbuseSignal.member_id
    )
    ranked = (
        sa.select(AbuseSignal.kind, AbuseSignal.hash, AbuseSignal.member_id, place.label("place"))
        .where(
            among(session, AbuseSignal.hash, {digest for _, digest in pairs}),
            AbuseSignal.member_id.is_not(None),
        )
        .group_by(AbuseSignal.kind, AbuseSignal.hash, AbuseSignal.member_id)
        .subquery()
    )
    found: defaultdict[Subject, list[int]] = defaultdict(list)
    rows = session.execute(
        sa.select(ranked.c.kind, ranked.c.hash, ranked.c.member_id)
        .where(ranked.c.place <= NAMED)
        .order_by(ranked.c.kind, ranked.c.hash, ranked.c.place)
    )
    for kind, digest, member_id in rows:
        found[kind, digest].append(member_id)
    return found


def _decisions(
    seen: Iterable[Action], broken: Broken, states: Mapping[tuple[str, str], str]
) -> dict[str, str]:
    """Key → what the worst of its hits says; what a marketer decided about a hit counts first."""
    by_subject: defaultdict[Subject, list[str]] = defaultdict(list)
    for (name, digest), (rule, _) in broken.items():
        state = states[name, digest]
        said = BLOCK if state == CONFIRMED else ALLOW if state == DISMISSED else rule.verdict
        by_subject[rule.kind, digest].append(said)
    found = {
        one.key: severest(said for pair in one.subjects.items() for said in by_subject[pair]) for one in seen
    }
    return {key: decision for key, decision in found.items() if decision != ALLOW}
