"""The database: engines, column types, transactions, locks.

Guarantees: every time that enters is aware and leaves as UTC; contact details are encrypted
before they reach the driver; a write transaction on SQLite takes the writer's lock when it
begins, so that what it read cannot change before it writes.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Connection, Dialect, Engine
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.types import TypeDecorator

from core import crypto
from core.errors import InvalidInput

IDLE_S = 10.0
"""After this a pooled connection to a server is tried before it is used."""


class UTCDateTime(TypeDecorator[datetime]):
    """An aware datetime, stored and answered in UTC. A naive one is refused."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise InvalidInput(f"The time {value.isoformat()} has no zone; give an aware datetime.")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Encrypted(TypeDecorator[str]):
    """Text encrypted at rest with the process's keyring (AES-256-GCM)."""

    impl = sa.LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> bytes | None:
        return None if value is None else crypto.keyring().encrypt(value)

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> str | None:
        return None if value is None else crypto.keyring().decrypt(bytes(value))


BigId = sa.BigInteger().with_variant(sa.Integer, "sqlite")
"""Integer key; SQLite only makes INTEGER PRIMARY KEY its row id."""
Json = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
Minor = sa.BigInteger
"""Money in the currency's minor units."""


class Base(DeclarativeBase):
    """Base of every table, with predictable constraint names for Alembic."""

    metadata = sa.MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Database:
    """An engine with two doors: :meth:`read` and :meth:`write`, each one transaction."""

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        self.url = url
        options: dict[str, Any] = {} if ":memory:" in url else {"pool_size": pool_size}
        self.engine: Engine = sa.create_engine(_driver_url(url), **options)
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", _configure_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        else:
            event.listen(self.engine, "checkin", _note_use)
            event.listen(self.engine, "checkout", partial(_ping_idle, self.engine.dialect))
        self._writer = self.engine.execution_options(huiliu_write=True)

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return self.engine.dialect.name

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction: commits at the end, rolls back on any exception."""
        with Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A consistent view; whatever is changed in it is thrown away."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    def dispose(self) -> None:
        self.engine.dispose()


def _note_use(_connection: Any, record: Any) -> None:
    record.info["used"] = time.monotonic()


def _ping_idle(dialect: Dialect, connection: Any, record: Any, _proxy: Any) -> None:
    """Try a server's connection that was idle for a while; where it is gone, a new one is opened.

    Each time would cost every short transaction a round trip of its own.
    """
    if time.monotonic() - record.info.get("used", math.inf) < IDLE_S:
        return
    try:
        dialect.do_ping(connection)
    except dialect.loaded_dbapi.Error as error:
        raise sa.exc.DisconnectionError from error


def _driver_url(url: str) -> str:
    for prefix in ("postgres://", "postgresql://"):
        if url.startswith(prefix):
            return "postgresql+psycopg://" + url[len(prefix) :]
    return url


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # BEGIN is ours: see _begin_sqlite
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=30000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A deferred BEGIN that turns writer half-way fails at once with SQLITE_BUSY, whatever the
    # time-out, when somebody else wrote in between. Writers therefore begin as writers.
    write = connection.get_execution_options().get("huiliu_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def lock_rows(session: Session, table: sa.FromClause, ids: Sequence[int]) -> None:
    """Lock the rows of ``ids`` in id order until the transaction ends.

    FOR NO KEY UPDATE: it excludes itself, but not the share locks that an import's foreign keys
    take on the same members, with which a plain FOR UPDATE deadlocks.

    SQLite's writer already holds the whole database, so there it does nothing.
    """
    if session.get_bind().dialect.name == "postgresql" and ids:
        session.execute(_lock_of(table), {"ids": list(ids)})


@lru_cache(maxsize=100)
def _lock_of(table: sa.FromClause) -> sa.Select[*tuple[Any, ...]]:
    key = next(iter(table.primary_key))
    return (
        sa.select(key)
        .where(key == sa.any_(sa.bindparam("ids", type_=sa.ARRAY(sa.BigInteger))))
        .order_by(key)
        .with_for_update(key_share=True)
    )


def among_named(dialect: str, column: Any, name: str) -> sa.ColumnElement[bool]:
    """:func:`among` in a statement that is made once and run often: its values are the parameter ``name``,
    as :func:`named` gives them."""
    if dialect == "postgresql":
        kind = sa.BigInteger if isinstance(column.type, sa.Integer) else sa.Text
        condition: sa.ColumnElement[bool] = column == sa.any_(sa.bindparam(name, type_=sa.ARRAY(kind)))
        return condition
    each = sa.func.json_each(sa.bindparam(name)).table_valued("value")
    listed: sa.ColumnElement[bool] = column.in_(sa.select(each.c.value))
    return listed


def named(dialect: str, values: Iterable[int | str | None]) -> list[Any] | str:
    """Values for a parameter of :func:`among_named`."""
    found = list(values)
    return found if dialect == "postgresql" else json.dumps(found)


def dialect_of(session: Session) -> str:
    """``sqlite`` or ``postgresql``."""
    return session.get_bind().dialect.name


def among(session: Session, column: Any, values: Iterable[int | str | None]) -> sa.ColumnElement[bool]:
    """``column IN values`` as one parameter: 50,000 ids neither meet SQLite's limit of variables
    nor make a statement text per length. None among the values matches nothing."""
    found = list(values)
    if session.get_bind().dialect.name == "postgresql":
        kind = sa.BigInteger if isinstance(column.type, sa.Integer) else sa.Text
        condition: sa.ColumnElement[bool] = column == sa.any_(sa.cast(found, sa.ARRAY(kind)))
        return condition
    each = sa.func.json_each(json.dumps(found)).table_valued("value")
    listed: sa.ColumnElement[bool] = column.in_(sa.select(each.c.value))
    return listed
