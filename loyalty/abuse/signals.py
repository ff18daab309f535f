"""Signals taken in, rules held against them, hits kept for review.

Guarantees: nothing of what a client sent is kept but keyed hashes; a repeated request (the same key) is no
second action, and is judged by what came before its first try; of one rule, subject and window there is one
hit, however many broke it; who is on the allow-list breaks no rule, and what a marketer decided about a hit
holds until its window's end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from core.bulk import bulk_count
from core.errors import InvalidInput
from loyalty.abuse.models import AbuseAllowance, AbuseHit, AbuseSignal
from loyalty.abuse.rules import ACTIONS, ALLOW, BLOCK, HOLD, MAX_WINDOW_S, Rules, Shared, Velocity, load_rules
from loyalty.abuse.subjects import SHARED_KINDS, Subject, subjects_of

OPEN, CONFIRMED, DISMISSED = "open", "confirmed", "dismissed"
NAMED = 20
"""Ids of other members that a hit's evidence names."""
_ORDER = (ALLOW, HOLD, BLOCK)
_LOCK_SPACE = 0x41425553
"""First key of our advisory locks, so that they meet nobody else's."""
Rule = Velocity | Shared


@dataclass(frozen=True)
class Hit:
    """A rule that was broken: by what, how often or by how many, and the row it is kept in."""

    id: int
    rule: str
    kind: str
    count: int
    limit: int
    verdict: str


@dataclass(frozen=True)
class Verdict:
    """``allow``, ``hold`` (let a person look first) or ``block``; and the hits that say so."""

    decision: str = ALLOW
    hits: tuple[Hit, ...] = ()
    fresh: bool = True
    """Whether this was no repetition of a request seen before."""


def observe(
    session: Session,
    action: str,
    subjects: Mapping[str, str | None],
    member_id: int | None,
    now: datetime,
    *,
    key: str | None = None,
) -> Verdict:
    """Take note of an action, and say what the rules say of it, this time included.

    ``subjects``: kind (device, address, phone, ip) → what the client sent, in plain; ``key``: the
    request's idempotency key. InvalidInput when a value cannot be read; nothing is written then. Of
    several at the same moment with a subject in common each counts those before it: they take turns.
    """
    if action not in ACTIONS:
        raise InvalidInput(f"“{action}” is no action to watch; use one of {', '.join(ACTIONS)}.", "action")
    hashes = subjects_of(subjects, member_id)
    if not hashes:
        return Verdict()
    take_turns(session, hashes.items())
    fresh = _note(session, action, hashes, member_id, now, key)
    allowed = _allowed(session, hashes.items(), now)
    judged = {kind: digest for kind, digest in hashes.items() if (kind, digest) not in allowed}
    last = None if fresh else _last_id(session, action, hashes, key)
    broken = _broken(session, load_rules(session), action, judged, now, last)
    if not broken:
        return Verdict(fresh=fresh)
    hits, states = _keep(session, broken, action, judged, member_id, now, fresh=fresh)
    decisions = [
        BLOCK if state == CONFIRMED else ALLOW if state == DISMISSED else hit.verdict
        for hit, state in zip(hits, states, strict=True)
    ]
    return Verdict(severest(decisions), tuple(hits), fresh)


def severest(decisions: Iterable[str]) -> str:
    """The worst of them; ``allow`` where there is none."""
    return max(decisions, key=_ORDER.index, default=ALLOW)


def take_turns(session: Session, subjects: Iterable[Subject]) -> None:
    """Let nobody else with one of these subjects count until this transaction ends.

    There is no row to lock for a subject that is new. SQLite has one writer anyway.
    """
    if session.get_bind().dialect.name != "postgresql":
        return
    for number in sorted({int(digest[:8], 16) - 2**31 for _, digest in subjects}):  # at most five
        session.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK_SPACE, number)))


def _note(
    session: Session,
    action: str,
    hashes: Mapping[str, str],
    member_id: int | None,
    now: datetime,
    key: str | None,
) -> bool:
    """Write the signals; False when this request had left them before."""
    request = _request(key)
    rows = [(action, member_id, kind, digest, request, now) for kind, digest in sorted(hashes.items())]
    columns = ("action", "member_id", "kind", "hash", "request_key", "at")
    table = AbuseSignal.__table__
    return bulk_count(session, table, columns, rows, conflict=["action", "kind", "request_key"]) > 0


def _request(key: str | None) -> str | None:
    return None if key is None else signature(key)


def signature(key: str) -> str:
    """How a request's key is kept."""
    return hashlib.sha256(key.encode()).hexdigest()


def _last_id(session: Session, action: str, hashes: Mapping[str, str], key: str | None) -> int | None:
    """The last signal that the first try of a repeated request left: what came later is not held against it,
    or the answer to a request that was let through could turn into a refusal."""
    return session.execute(
        sa.select(sa.func.max(AbuseSignal.id)).where(
            AbuseSignal.action == action,
            AbuseSignal.kind.in_(sorted(hashes)),
            AbuseSignal.request_key == _request(key),
        )
    ).scalar_one()


def _allowed(session: Session, subjects: Iterable[Subject], now: datetime) -> set[Subject]:
    rows = session.execute(
        sa.select(AbuseAllowance.kind, AbuseAllowance.hash).where(
            sa.or_(AbuseAllowance.until.is_(None), AbuseAllowance.until > now),
            sa.or_(
                *(
                    sa.and_(AbuseAllowance.kind == kind, AbuseAllowance.hash == digest)
                    for kind, digest in subjects
                )
            ),
        )
    )
    return {(kind, digest) for kind, digest in rows}


def _broken(
    session: Session,
    rules: Rules,
    action: str,
    judged: Mapping[str, str],
    now: datetime,
    last: int | None,
) -> list[tuple[Rule, int]]:
    """The rules that are broken, and the counts that break them; one statement for all."""
    relevant: list[Rule] = [
        *(rule for rule in rules.velocity if rule.action == action and rule.kind in judged),
        *(rule for rule in rules.shared if rule.kind in judged),
    ]
    if not relevant:
        return []
    counts = session.execute(
        sa.select(*(_counter(rule, judged[rule.kind], now, last) for rule in relevant))
    ).one()
    return [(rule, n) for rule, n in zip(relevant, counts, strict=True) if n > rule.limit]


def _counter(rule: Rule, digest: str, now: datetime, last: int | None) -> sa.ScalarSelect[int]:
    number = sa.func.count(AbuseSignal.member_id.distinct()) if isinstance(rule, Shared) else sa.func.count()
    query = sa.select(number).where(
        AbuseSignal.kind == rule.kind,
        AbuseSignal.hash == digest,
        AbuseSignal.at > now - timedelta(seconds=rule.window_s),
    )
    if isinstance(rule, Velocity):
        query = query.where(AbuseSignal.action == rule.action)
    if last is not None:
        query = query.where(AbuseSignal.id <= last)
    return query.scalar_subquery()


def _keep(
    session: Session,
    broken: Sequence[tuple[Rule, int]],
    action: str,
    judged: Mapping[str, str],
    member_id: int | None,
    now: datetime,
    *,
    fresh: bool,
) -> tuple[list[Hit], list[str]]:
    """Write the hits, or count up those that are there; the hits and their states, in one order."""
    others = _members_of(session, judged, {rule.kind for rule, _ in broken}, member_id)
    at = int(now.timestamp())
    rows = [
        {
            "rule": rule.name,
            "action": action,
            "kind": rule.kind,
            "hash": judged[rule.kind],
            "bucket": at - at % rule.window_s,
            "member_id": member_id,
            "times": 1,
            "verdict": rule.verdict,
            "evidence": {
                "count": number,
                "limit": rule.limit,
                "window_s": rule.window_s,
                "shared": isinstance(rule, Shared),
                "members": others[rule.kind],
            },
            "state": OPEN,
            "first_at": now,
            "last_at": now,
        }
        for rule, number in broken
    ]
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    insert: Any = dialect.insert(AbuseHit.__table__).values(rows)
    new = insert.excluded
    statement = insert.on_conflict_do_update(
        index_elements=["rule", "kind", "hash", "bucket"],
        set_={
            "times": AbuseHit.times + (1 if fresh else 0),
            "evidence": new.evidence,
            "verdict": new.verdict,
            "member_id": new.member_id,
            "last_at": new.last_at,
        },
    ).returning(AbuseHit.rule, AbuseHit.id, AbuseHit.state)
    stored = {row.rule: row for row in session.execute(statement)}
    hits = [
        Hit(stored[rule.name].id, rule.name, rule.kind, number, rule.limit, rule.verdict)
        for rule, number in broken
    ]
    return hits, [stored[rule.name].state for rule, _ in broken]


def _members_of(
    session: Session, judged: Mapping[str, str], kinds: set[str], member_id: int | None
) -> dict[str, list[int]]:
    """kind → ids of other members with the same subject, the first :data:`NAMED` of them."""
    found: dict[str, list[int]] = {kind: [] for kind in kinds}
    rows = session.execute(
        sa.select(AbuseSignal.kind, AbuseSignal.member_id)
        .where(
            sa.or_(
                *(
                    sa.and_(AbuseSignal.kind == kind, AbuseSignal.hash == judged[kind])
                    for kind in sorted(kinds)
                )
            ),
            AbuseSignal.member_id.is_not(None),
            AbuseSignal.member_id != (member_id or 0),
        )
        .distinct()
        .order_by(AbuseSignal.kind, AbuseSignal.member_id)
        .limit(NAMED * len(kinds))
    )
    for kind, other in rows:
        if other is not None and len(found[kind]) < NAMED:
            found[kind].append(other)
    return found


def in_common(session: Session, one: int, other: int) -> str | None:
    """The kind of subject (device, address or phone) that two members were both seen with, or None."""
    mine, theirs = sa.orm.aliased(AbuseSignal), sa.orm.aliased(AbuseSignal)
    return session.execute(
        sa.select(mine.kind)
        .join(theirs, sa.and_(theirs.kind == mine.kind, theirs.hash == mine.hash))
        .where(mine.member_id == one, theirs.member_id == other, mine.kind.in_(SHARED_KINDS))
        .order_by(mine.kind)
        .limit(1)
    ).scalar_one_or_none()


def forget_old(session: Session, now: datetime, limit: int) -> int:
    """Delete at most ``limit`` signals that no rule's window can reach any more; how many there were."""
    old = (
        sa.select(AbuseSignal.id)
        .where(AbuseSignal.at <= now - timedelta(seconds=MAX_WINDOW_S))
        .order_by(AbuseSignal.at)
        .limit(limit)
    )
    gone = session.execute(
        sa.delete(AbuseSignal).where(AbuseSignal.id.in_(old)).returning(AbuseSignal.id),
        execution_options={"synchronize_session": False},
    )
    return len(gone.all())


def forget_member(session: Session, member_id: int) -> None:
    """Delete what a member was seen with: for an erasure. Hits keep the bare id, as the books do."""
    session.execute(
        sa.delete(AbuseSignal).where(AbuseSignal.member_id == member_id),
        execution_options={"synchronize_session": False},
    )
