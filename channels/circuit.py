"""The circuit breaker of a channel's account, shared by all workers: a few columns of the account's row.

Closed: everybody sends. Open: nobody asks the provider until the time is up. Half open: one worker sends
one message, which closes it or opens it for longer. Guarantees: a row is written only when its state
changes; failures that began before the same opening count once, however many workers saw them; of workers
that want to try, one may.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from channels import outbox
from channels.models import Account
from channels.transports import breaker

REASON_LENGTH = 300
MOST_FAILURES = 1000
"""Where counting ends: the wait has been the longest for long."""


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Verdict(StrEnum):
    """What a batch tells of the provider."""

    NOTHING = "nothing"
    ANSWERS = "answers"
    FAILS = "fails"


@dataclass(frozen=True, slots=True)
class Seen:
    """The breaker as a claim found it."""

    failures: int = 0
    probing: bool = False
    """This batch is the one try."""


UNSEEN = Seen()
COLUMNS = (Account.circuit_failures, Account.circuit_until)
"""What :func:`state_of` needs, for the statement that reads the account anyway."""


def state_of(failures: int, until: datetime | None, now: datetime) -> State:
    """Pure: what the columns say at ``now``."""
    if not failures:
        return State.CLOSED
    return State.OPEN if until is not None and until > now else State.HALF_OPEN


@dataclass(frozen=True, slots=True)
class Shown:
    """What the account's page tells of a breaker that is not closed."""

    state: State
    failures: int
    since: datetime
    until: datetime
    """When it is tried again."""
    reason: str
    trying: bool
    """A worker makes the one try at this moment."""


def shown(account: Account, now: datetime) -> Shown | None:
    """The breaker of an account; None: it is closed."""
    since, until = account.circuit_opened_at, account.circuit_until
    state = state_of(account.circuit_failures, until, now)
    if state is State.CLOSED or since is None or until is None:
        return None
    probe = account.circuit_probe_until
    trying = state is State.HALF_OPEN and probe is not None and probe > now
    return Shown(state, account.circuit_failures, since, until, account.circuit_reason or "", trying)


def take_probe(session: Session, channel: str, now: datetime, lasts: timedelta) -> bool:
    """Whether the caller is the one who tries; it must settle within ``lasts``, else another may."""
    free = sa.or_(Account.circuit_probe_until.is_(None), Account.circuit_probe_until <= now)
    found: Any = session.execute(
        sa.update(Account)
        .where(
            Account.channel == channel,
            Account.circuit_failures > 0,
            sa.or_(Account.circuit_until.is_(None), Account.circuit_until <= now),
            free,
        )
        .values(circuit_probe_until=now + lasts),
        execution_options={"synchronize_session": False},
    )
    return bool(found.rowcount)


def free_probe(session: Session, channel: str) -> None:
    """The try told nothing: the next worker may make it."""
    session.execute(
        sa.update(Account).where(Account.channel == channel).values(circuit_probe_until=None),
        execution_options={"synchronize_session": False},
    )


def note(
    session: Session, channel: str, seen: Seen, verdict: Verdict, reason: str, now: datetime
) -> float | None:
    """Write what a batch told, where that changes anything: for how many seconds the provider is now left
    alone, or None.
    """
    if verdict is Verdict.FAILS:
        return _open(session, channel, seen.failures, reason, now)
    if verdict is Verdict.ANSWERS and seen.failures:
        _close(session, channel, Account.circuit_failures == seen.failures)
    elif seen.probing:
        free_probe(session, channel)
    return None


def _open(session: Session, channel: str, failures: int, reason: str, now: datetime) -> float | None:
    outbox.account(session, channel)
    seconds = breaker.wait_s(failures)
    found: Any = session.execute(
        sa.update(Account)
        # Who began before somebody else opened it has seen the same failure.
        .where(Account.channel == channel, Account.circuit_failures == failures)
        .values(
            circuit_failures=min(failures + 1, MOST_FAILURES),
            circuit_opened_at=sa.func.coalesce(Account.circuit_opened_at, now),
            circuit_until=now + timedelta(seconds=seconds),
            circuit_reason=reason[:REASON_LENGTH],
            circuit_probe_until=None,
        ),
        execution_options={"synchronize_session": False},
    )
    return seconds if found.rowcount else None


def close(session: Session, channel: str) -> bool:
    """An operator lets everybody send at once; whether it was open."""
    return _close(session, channel, Account.circuit_failures > 0)


def _close(session: Session, channel: str, where: sa.ColumnElement[bool]) -> bool:
    found: Any = session.execute(
        sa.update(Account)
        .where(Account.channel == channel, where)
        .values(
            circuit_failures=0,
            circuit_opened_at=None,
            circuit_until=None,
            circuit_reason=None,
            circuit_probe_until=None,
        ),
        execution_options={"synchronize_session": False},
    )
    return bool(found.rowcount)
