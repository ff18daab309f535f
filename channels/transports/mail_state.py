"""What the workers share about SMTP servers and receivers: pauses, requests to slow down, warm-up counts.

Short transactions of its own, none around any network: read before a batch (at most every few seconds)
and written after it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from channels.models import DomainLimit, MailServer
from channels.sql import is_postgres, table_of
from channels.transports.servers import Server, WarmUp
from channels.transports.throttle import Limit
from core.bulk import bulk_insert
from core.db import Database

log = logging.getLogger(__name__)

READ_EVERY = timedelta(seconds=5)


@dataclass(frozen=True)
class Known:
    """A reading of the tables."""

    at: datetime
    paused: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, Limit] = field(default_factory=dict)


class MailState:
    """The door to the tables, with a reading kept for a few seconds."""

    def __init__(self, database: Database, servers: Sequence[Server]) -> None:
        self._database, self._servers = database, servers
        self._known: Known | None = None

    def read(self, now: datetime) -> Known:
        """Pauses and requests as they are now, or were some seconds ago."""
        if self._known is not None and timedelta(0) <= now - self._known.at < READ_EVERY:
            return self._known
        with self._database.read() as session:
            paused = {
                row.name: row.paused_reason or "paused"
                for row in session.execute(
                    sa.select(MailServer.name, MailServer.paused_reason).where(
                        MailServer.paused_at.is_not(None)
                    )
                )
            }
            limits = {
                row.group: Limit(row.stopped_until, row.slow_until, row.reason)
                for row in session.scalars(
                    sa.select(DomainLimit).where(
                        sa.or_(DomainLimit.stopped_until > now, DomainLimit.slow_until > now)
                    )
                )
            }
        self._known = Known(now, paused, limits)
        return self._known

    def write_limits(self, limits: Mapping[str, tuple[float, float, str]], now: datetime) -> None:
        """Keep what receivers asked for: group → (stop s, slow s, reason). A longer request stays."""
        if not limits:
            return
        for group, (stop_s, slow_s, reason) in limits.items():
            log.warning("%s: %s for %d s: %s", group, "stop" if stop_s else "slow", stop_s or slow_s, reason)
        with self._database.write() as session:
            keep_limits(session, limits, now)
        self._known = None

    def pause(self, name: str, reason: str, now: datetime) -> None:
        """Send nothing more by this server until :func:`resume_server`."""
        log.error("Mail server %s paused: %s", name, reason)
        with self._database.write() as session:
            _make(session, [name])
            session.execute(
                sa.update(MailServer)
                .where(MailServer.name == name, MailServer.paused_at.is_(None))
                .values(paused_at=now, paused_reason=reason[:300])
            )
        self._known = None

    def resume_all(self) -> None:
        """When every server is paused, the channel itself is; who resumes that gets them all back."""
        with self._database.write() as session:
            session.execute(sa.update(MailServer).values(paused_at=None, paused_reason=None))
        self._known = None

    def reserve(self, server: Server, wanted: int, now: datetime) -> int:
        """How many of ``wanted`` messages a server's warm-up still takes today; counted at once."""
        plan = server.warm_up
        if plan is None or not wanted:
            return wanted
        with self._database.write() as session:
            _make(session, [server.name])
            return _reserve(session, server.name, plan, wanted, now)

    def give_back(self, server: Server, number: int, now: datetime) -> None:
        """Reserved and not sent."""
        if server.warm_up is None or number <= 0:
            return
        with self._database.write() as session:
            session.execute(
                sa.update(MailServer)
                .where(MailServer.name == server.name, MailServer.warm_day == now.date())
                .values(warm_sent=MailServer.warm_sent - number)
            )


def _make(session: Session, names: Sequence[str]) -> None:
    bulk_insert(session, table_of(MailServer), ("name",), [(name,) for name in names], conflict=("name",))


def _reserve(session: Session, name: str, plan: WarmUp, wanted: int, now: datetime) -> int:
    day = now.date()
    row = session.execute(
        sa.select(MailServer.warm_day, MailServer.warm_sent).where(MailServer.name == name).with_for_update()
    ).one()
    sent = row.warm_sent if row.warm_day == day else 0
    granted = max(0, min(wanted, plan.allowed(day) - sent))
    session.execute(
        sa.update(MailServer).where(MailServer.name == name).values(warm_day=day, warm_sent=sent + granted)
    )
    return granted


def keep_limits(session: Session, limits: Mapping[str, tuple[float, float, str]], now: datetime) -> None:
    """Keep what receivers asked for: group → (stop s, slow s, reason). A longer request stays."""
    table = table_of(DomainLimit)
    insert: Any = postgresql.insert(table) if is_postgres(session) else sqlite.insert(table)
    new = insert.excluded
    rows = [
        {
            "group": group[:120],
            "stopped_until": now + timedelta(seconds=stop_s) if stop_s else None,
            "slow_until": now + timedelta(seconds=slow_s) if slow_s else None,
            "reason": reason[:300],
            "at": now,
        }
        for group, (stop_s, slow_s, reason) in sorted(limits.items())
    ]

    def later(name: str) -> sa.ColumnElement[Any]:
        old, fresh = table.c[name], new[name]
        return sa.case((sa.or_(old.is_(None), fresh > old), sa.func.coalesce(fresh, old)), else_=old)

    session.execute(
        insert.on_conflict_do_update(
            index_elements=["group"],
            set_={
                "stopped_until": later("stopped_until"),
                "slow_until": later("slow_until"),
                "reason": new.reason,
                "at": new.at,
            },
        ),
        rows,
    )


def resume_server(session: Session, name: str) -> None:
    """An operator lets a paused server send again."""
    session.execute(
        sa.update(MailServer).where(MailServer.name == name).values(paused_at=None, paused_reason=None)
    )


def lift_limit(session: Session, group: str) -> None:
    """An operator writes to a receiver again before its time is up."""
    session.execute(sa.delete(DomainLimit).where(DomainLimit.group == group))
