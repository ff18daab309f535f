"""Many rows at once: the one way of inserting them, and of giving each its own new values.

What is written is what the column types write; on PostgreSQL a statement has the same text for any number of
rows.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.orm import Session

from core.db import Encrypted, UTCDateTime
from core.errors import InvalidInput

SQLITE_MAX_VARIABLES = 32_000
CONVERTED_ROWS = 5_000
"""Rows that :func:`bulk_insert` makes ready for the driver at a time."""
FEW_ROWS = 200
"""Up to here one INSERT is cheaper on PostgreSQL than COPY by way of a staging table."""
# What json.dumps refuses is refused here too, and not written in orjson's own way.
_PLAIN_JSON = (
    orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_SUBCLASS
)
Row = tuple[Any, ...]
_POSTGRES = postgresql.dialect()  # type: ignore[no-untyped-call]


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

    PostgreSQL: COPY into a staging table, then one INSERT … SELECT … ON CONFLICT DO NOTHING; up to
    ``FEW_ROWS`` rows in one INSERT of a single parameter.
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


def update_each(
    session: Session,
    table: sa.FromClause,
    key: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    add: bool = False,
    where: str = "",
    params: Mapping[str, Any] | None = None,
) -> None:
    """Set the columns of ``rows`` (all with the same keys) where ``key`` is each row's.

    With ``add`` the values are added to what is there. ``where`` is a further condition in SQL, with the
    ``params`` it names. PostgreSQL: one UPDATE joined with arrays; SQLite: ``executemany``.
    """
    if not rows:
        return
    assert isinstance(table, sa.Table)
    connection = session.connection()
    columns = (key, *(name for name in rows[0] if name != key))
    postgres = connection.dialect.name == "postgresql"
    statement = _update(table, columns, add, where, postgres)
    if postgres:
        arrays = {name: [row[name] for row in rows] for name in columns}
        connection.execute(statement, {**arrays, **(params or {})})
    else:
        connection.execute(statement, [{**row, **(params or {})} for row in rows])


@lru_cache(maxsize=500)
def _update(
    table: sa.Table, columns: tuple[str, ...], add: bool, where: str, postgres: bool
) -> sa.TextClause:
    key, *names = columns
    changes = []
    for name in names:
        value = f"v.{name}" if postgres else f":{name}"
        changes.append(f"{name} = {table.name}.{name} + {value}" if add else f"{name} = {value}")
    text = f"UPDATE {table.name} SET {', '.join(changes)}"
    if postgres:
        # Arrays, whose number of rows the planner takes for small: for each a look into the key's index.
        arrays = ", ".join(f":{name}" for name in columns)
        text += f" FROM unnest({arrays}) AS v({', '.join(columns)}) WHERE {table.name}.{key} = v.{key}"
    else:
        text += f" WHERE {key} = :{key}"
    kinds = [ARRAY(table.c[name].type) if postgres else table.c[name].type for name in columns]
    typed = [sa.bindparam(name, type_=kind) for name, kind in zip(columns, kinds, strict=True)]
    return sa.text(f"{text} AND {where}" if where else text).bindparams(*typed)


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
            source = f"json_to_recordset(%s::json) AS {_shape(table, tuple(columns))}"
            cursor.execute(
                f'INSERT INTO "{table.name}" ({names}) SELECT * FROM {source}{tail}',
                [_records(table, columns, few)],
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


@lru_cache(maxsize=500)
def _shape(table: sa.Table, columns: tuple[str, ...]) -> str:
    """On PostgreSQL, the table that ``json_to_recordset`` makes of what :func:`_records` wrote.

    The same text for any number of rows, so that the server plans it once and the driver reads it once.
    """
    kinds = (table.c[name].type.compile(_POSTGRES) for name in columns)
    named_ = ", ".join(f'"{name}" {kind}' for name, kind in zip(columns, kinds, strict=True))
    return f"v({named_})"


def _records(table: sa.Table, columns: Sequence[str], rows: Iterable[Row]) -> str:
    """Rows, converted for the driver, as the JSON whose table :func:`_shape` tells."""
    wraps = [(place, wrap) for place, name in enumerate(columns) if (wrap := _in_json(table.c[name].type))]
    found = []
    for row in rows:
        values = list(row)
        for place, wrap in wraps:
            if values[place] is not None:
                values[place] = wrap(values[place])
        found.append(dict(zip(columns, values, strict=True)))
    return orjson.dumps(found, option=orjson.OPT_SERIALIZE_NUMPY).decode()


def _in_json(kind: sa.types.TypeEngine[Any]) -> Callable[[Any], Any] | None:
    """How a converted value is written in JSON, where not as it is."""
    if isinstance(kind, sa.JSON):
        return orjson.Fragment  # it is JSON already
    if isinstance(kind, sa.Float):
        return _float_text  # JSON has no infinity
    if isinstance(kind, sa.LargeBinary | Encrypted):
        return _bytes_text
    return None


def _float_text(value: float) -> str:
    return repr(float(value))


def _bytes_text(value: Any) -> str:
    plain: bytes = getattr(value, "obj", value)  # the driver's wrapper has it inside
    return f"\\x{plain.hex()}"


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
