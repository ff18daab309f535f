"""The database: engines, column types, transactions, and the one way of writing many rows.

Guarantees: every time that enters is aware and leaves as UTC; contact details are encrypted
before they reach the driver; a write transaction on SQLite takes the writer's lock when it
begins, so that what it read cannot change before it writes.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Connection, Dialect, Engine
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.types import TypeDecorator

from core import crypto
from core.errors import InvalidInput

SQLITE_MAX_VARIABLES = 32_000
CONVERTED_ROWS = 5_000
"""Rows that :func:`bulk_insert` makes ready for the driver at a time."""
FEW_ROWS = 20
"""Up to here one INSERT … VALUES is cheaper on PostgreSQL than COPY by way of a staging table."""
IDLE_S = 10.0
"""After this a pooled connection to a server is tried before it is used."""
# What json.dumps refuses is refused here too, and not written in orjson's own way.
_PLAIN_JSON = (
    orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_SUBCLASS
)
Row = tuple[Any, ...]


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


def bulk_insert(
    session: Session,
    table: sa.FromClause,
    columns: Sequence[str],
    rows: Iterable[Row],
    *,
    conflict: Sequence[str] | None = None,
    returning: Sequence[str] = (),
) -> list[Row]:
    """Insert many rows at the driver's speed; rows that break the unique key are left out.

    ``rows`` are tuples in the order of ``columns``; they are taken thousands at a time before any is
    written. ``conflict`` names the columns of the unique key whose repetition means "already there"
    (None: a repetition is an error; an empty sequence: any unique key). Answers the ``returning``
    columns of the rows that were **new** (nothing where none are named; how many there were:
    :func:`bulk_count`).

    PostgreSQL: COPY into a staging table, then one INSERT … SELECT … ON CONFLICT DO NOTHING; a handful of
    rows in one INSERT … VALUES.
    SQLite: ``executemany``, or multi-row INSERTs where the new rows are asked for.
    """
    return _bulk(session, table, columns, rows, conflict, returning)[0]


def bulk_count(
    session: Session,
    table: sa.FromClause,
    columns: Sequence[str],
    rows: Iterable[Row],
    *,
    conflict: Sequence[str] | None = None,
) -> int:
    """:func:`bulk_insert` where only the number of new rows is wanted, which costs half of listing them."""
    return _bulk(session, table, columns, rows, conflict, ())[1]


def _bulk(
    session: Session,
    table: sa.FromClause,
    columns: Sequence[str],
    rows: Iterable[Row],
    conflict: Sequence[str] | None,
    returning: Sequence[str],
) -> tuple[list[Row], int]:
    assert isinstance(table, sa.Table)
    connection = session.connection()
    data = _ready(table, columns, rows, connection.dialect)
    insert = _insert_postgres if connection.dialect.name == "postgresql" else _insert_sqlite
    return insert(connection, table, columns, data, conflict, returning)


def _ready(table: sa.Table, columns: Sequence[str], rows: Iterable[Row], dialect: Dialect) -> Iterator[Row]:
    """The rows as the driver takes them, converted a column at a time."""
    converters = [(place, _converter(table.c[name].type, dialect)) for place, name in enumerate(columns)]
    iterator = iter(rows)
    while chunk := list(itertools.islice(iterator, CONVERTED_ROWS)):
        values: list[Sequence[Any]] = list(zip(*chunk, strict=True))
        if len(values) != len(columns):
            raise ValueError(
                f"A row has {len(values)} values for the {len(columns)} columns of {table.name}."
            )
        for place, convert in converters:
            if convert is not None:
                values[place] = convert(values[place])
        yield from zip(*values, strict=True)


def _converter(
    kind: sa.types.TypeEngine[Any], dialect: Dialect
) -> Callable[[Sequence[Any]], Sequence[Any]] | None:
    implementation = kind.dialect_impl(dialect)
    if isinstance(implementation, UTCDateTime):
        return partial(_each_once, partial(_time_text, offset=dialect.name == "postgresql"))
    if isinstance(implementation, sa.JSON):
        return partial(_each_once, _json_text)
    process = implementation.bind_processor(dialect)
    return None if process is None else lambda values: [process(value) for value in values]


def _each_once(convert: Callable[[Any], Any], values: Sequence[Any]) -> list[Any]:
    """Every value converted, the same object once: a batch repeats its ``now`` and its settings."""
    converted = {key: convert(value) for key, value in {id(value): value for value in values}.items()}
    return [converted[id(value)] for value in values]


def _time_text(value: datetime | None, *, offset: bool) -> str | None:
    """What :class:`UTCDateTime` stores, as text."""
    if value is None:
        return None
    if value.tzinfo is None:
        raise InvalidInput(f"The time {value.isoformat()} has no zone; give an aware datetime.")
    text = value.astimezone(UTC).isoformat(" ", "microseconds")
    return text if offset else text[: -len("+00:00")]


def _json_text(value: Any) -> str | None:
    if value is None:
        return None
    try:
        return orjson.dumps(value, option=_PLAIN_JSON).decode()
    except TypeError:  # integers beyond 64 bits, keys that are no texts, lone surrogates
        return json.dumps(value)


def _conflict_clause(conflict: Sequence[str] | None) -> str:
    if conflict is None:
        return ""
    target = f" ({', '.join(conflict)})" if conflict else ""
    return f" ON CONFLICT{target} DO NOTHING"


def _insert_postgres(
    connection: Connection,
    table: sa.Table,
    columns: Sequence[str],
    rows: Iterator[Row],
    conflict: Sequence[str] | None,
    returning: Sequence[str],
) -> tuple[list[Row], int]:
    names = ", ".join(f'"{name}"' for name in columns)
    back = f" RETURNING {', '.join(returning)}" if returning else ""
    tail = f"{_conflict_clause(conflict)}{back}"
    few = list(itertools.islice(rows, FEW_ROWS + 1))
    cursor = connection.connection.cursor()
    try:
        if not few:
            return [], 0
        if len(few) <= FEW_ROWS:
            group = f"({', '.join(['%s'] * len(columns))})"
            values = f"VALUES {', '.join([group] * len(few))}"
            cursor.execute(
                f'INSERT INTO "{table.name}" ({names}) {values}{tail}', list(itertools.chain(*few))
            )
            return list(cursor.fetchall()) if returning else [], cursor.rowcount
        if conflict is None and not returning:
            target = f'"{table.name}"'
        else:
            target = f'"_new_{table.name}"'
            like = f'SELECT {names} FROM "{table.name}" LIMIT 0'
            cursor.execute(f"CREATE TEMP TABLE IF NOT EXISTS {target} ON COMMIT DROP AS {like}")
            cursor.execute(f"TRUNCATE {target}")  # a second batch of the same transaction
        with cursor.copy(f"COPY {target} ({names}) FROM STDIN") as copy:
            for row in itertools.chain(few, rows):
                copy.write_row(row)
        if target == f'"{table.name}"':
            return [], cursor.rowcount
        cursor.execute(f'INSERT INTO "{table.name}" ({names}) SELECT {names} FROM {target}{tail}')
        return list(cursor.fetchall()) if returning else [], cursor.rowcount
    finally:
        cursor.close()


def _insert_sqlite(
    connection: Connection,
    table: sa.Table,
    columns: Sequence[str],
    rows: Iterable[Row],
    conflict: Sequence[str] | None,
    returning: Sequence[str],
) -> tuple[list[Row], int]:
    head = f'INSERT INTO "{table.name}" ({", ".join(f"{chr(34)}{c}{chr(34)}" for c in columns)}) VALUES '
    group = f"({', '.join('?' * len(columns))})"
    tail = _conflict_clause(conflict)
    cursor = connection.connection.cursor()
    try:
        if not returning:
            cursor.executemany(head + group + tail, rows)  # type: ignore[arg-type]
            return [], cursor.rowcount
        tail += f" RETURNING {', '.join(returning)}"
        found: list[Row] = []
        iterator = iter(rows)
        size = SQLITE_MAX_VARIABLES // len(columns)
        while chunk := list(itertools.islice(iterator, size)):
            sql = head + ", ".join([group] * len(chunk)) + tail
            cursor.execute(sql, list(itertools.chain.from_iterable(chunk)))
            found.extend(cursor.fetchall())
        return found, len(found)
    finally:
        cursor.close()
