"""Wrong codes, counted by subject; who guesses is locked out, each time for twice as long.

Guarantees: however many wrong codes come at once, each is counted, since one statement counts, locks and
computes the end; a wrong code that arrives during a lock-out changes nothing, so that a storm is one
lock-out and not many.

A refused redemption rolls its own transaction back, and the count must not go with it: the caller (the
API's view) opens another transaction for :func:`failed` **after** that one has ended; within it, SQLite's
single writer would wait for itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from loyalty.abuse.models import AbuseGuess
from loyalty.abuse.rules import Guessing, load_rules
from loyalty.abuse.subjects import IP

CROWD = 20
"""Behind one IP address are many people (an office, a mobile network): so many times the wrong codes are
needed before all of them are locked out."""
Subjects = Mapping[str, str]
"""kind → keyed hash, as :func:`loyalty.abuse.subjects.subjects_of` makes them."""


def failed(session: Session, subjects: Subjects, now: datetime) -> datetime | None:
    """Count one wrong code for each of the subjects; until when one of them is locked out, or None.

    Give it a transaction of its own (see the module).
    """
    if not subjects:
        return None
    at = int(now.timestamp())
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    rule = load_rules(session).guessing
    # In one order everywhere, so that two guessers who share subjects never wait for each other in a ring.
    rows = []
    for kind, digest in sorted(subjects.items()):
        at_once = rule.limit == 1 and kind != IP
        rows.append({
            "kind": kind, "hash": digest, "failures": 0 if at_once else 1, "since_s": at,
            "lockouts": 1 if at_once else 0, "locked_until_s": at + rule.lockouts_s[0] if at_once else 0,
            "last_s": at,
        })  # fmt: skip
    insert: Any = dialect.insert(AbuseGuess.__table__).values(rows)
    statement = insert.on_conflict_do_update(
        index_elements=["kind", "hash"], set_=_counted(rule, at)
    ).returning(AbuseGuess.locked_until_s)
    until = max(session.execute(statement).scalars())
    return datetime.fromtimestamp(until, UTC) if until > at else None


def _counted(rule: Guessing, at: int) -> dict[str, Any]:
    """The row after one more wrong code, computed from the row as the write finds it."""
    old = AbuseGuess.__table__.c
    locked = old.locked_until_s > at
    stale = old.since_s <= at - rule.window_s
    number = sa.case((stale, 1), else_=old.failures + 1)
    limit = sa.case((old.kind == IP, rule.limit * CROWD), else_=rule.limit)
    full = sa.and_(~locked, number >= limit)
    lockouts_s = rule.lockouts_s
    length = sa.case(*((old.lockouts == n, s) for n, s in enumerate(lockouts_s[:-1])), else_=lockouts_s[-1])
    return {
        "failures": sa.case((locked, old.failures), (full, 0), else_=number),
        "since_s": sa.case((locked, old.since_s), (sa.or_(full, stale), at), else_=old.since_s),
        "lockouts": sa.case((full, old.lockouts + 1), else_=old.lockouts),
        "locked_until_s": sa.case((full, at + length), else_=old.locked_until_s),
        "last_s": at,
    }


def locked_until(session: Session, subjects: Subjects, now: datetime) -> datetime | None:
    """Until when one of the subjects may not try a code, or None when all may."""
    return standing(session, subjects, now)[0]


def standing(session: Session, subjects: Subjects, now: datetime) -> tuple[datetime | None, bool]:
    """:func:`locked_until` and :func:`any_of` in one look."""
    if not subjects:
        return None, False
    found = session.execute(
        sa.select(sa.func.max(AbuseGuess.locked_until_s)).where(_of(subjects))
    ).scalar_one()
    until = datetime.fromtimestamp(found, UTC) if found and found > int(now.timestamp()) else None
    return until, found is not None


def any_of(session: Session, subjects: Subjects) -> bool:
    """Whether wrong codes are kept of one of the subjects."""
    return bool(subjects) and session.execute(sa.select(sa.exists().where(_of(subjects)))).scalar_one()


def succeeded(session: Session, subjects: Subjects) -> None:
    """Forget the wrong codes of the subjects: they had a right one."""
    if subjects:
        session.execute(
            sa.delete(AbuseGuess).where(_of(subjects)), execution_options={"synchronize_session": False}
        )


def forget_old(session: Session, now: datetime, limit: int) -> int:
    """Delete at most ``limit`` rows that no lock-out grows from any more; how many there were.

    A lock-out is remembered for as long as the longest one: until then the next is longer.
    """
    rule = load_rules(session).guessing
    table = AbuseGuess.__table__.c
    before = int(now.timestamp()) - max(rule.window_s, rule.longest_s)
    old = sa.and_(table.last_s <= before, table.locked_until_s <= before)
    some = sa.select(table.kind, table.hash).where(old).order_by(table.last_s).limit(limit)
    # Said again of the row itself: one that was counted up meanwhile is old no more.
    gone = session.execute(
        sa.delete(AbuseGuess).where(sa.tuple_(table.kind, table.hash).in_(some), old).returning(table.kind),
        execution_options={"synchronize_session": False},
    )
    return len(gone.all())


def _of(subjects: Subjects) -> sa.ColumnElement[bool]:
    return sa.or_(
        *(
            sa.and_(AbuseGuess.kind == kind, AbuseGuess.hash == digest)
            for kind, digest in sorted(subjects.items())
        )
    )
