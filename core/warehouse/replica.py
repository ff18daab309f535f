"""The replica: Parquet files of the database's facts, rewritten month by month.

Guarantees: a write leaves a mark (table, month) in its own transaction; :func:`sync` rewrites
each marked month whole, by temporary file and rename, and deletes only the marks that it read
before it read the facts. So a crash at any point leaves a readable replica and the marks for
what is still to do, and the folder can be deleted at any time and rebuilt.
"""

from __future__ import annotations

import fcntl
import hashlib
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.bulk import bulk_insert
from core.db import Database, UTCDateTime
from core.models import WarehouseMark

ALL = "all"
"""The "month" of a fact table without months."""
FETCH_ROWS = 100_000
MEMBER = "member_id"


@dataclass(frozen=True)
class Fact:
    """A fact table of the replica: its query over the database, and the column that gives the month."""

    name: str
    query: sa.Select[*tuple[Any, ...]]
    month_column: str | None

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([(column.name, _arrow_type(column.type)) for column in self.query.selected_columns])


def _arrow_type(kind: sa.types.TypeEngine[Any]) -> pa.DataType:
    if isinstance(kind, UTCDateTime):
        return pa.timestamp("us", tz="UTC")
    pairs: list[tuple[type, pa.DataType]] = [
        (sa.Boolean, pa.bool_()),
        (sa.Integer, pa.int64()),
        (sa.Float, pa.float64()),
        (sa.Date, pa.date32()),
    ]
    return next((arrow for generic, arrow in pairs if isinstance(kind, generic)), pa.string())


def mark(session: Session, table: str, times: Iterable[datetime | None]) -> None:
    """Note that these months of ``table`` changed: one row a month, in the caller's transaction."""
    months = sorted({ALL if at is None else f"{at.astimezone(UTC):%Y-%m}" for at in times})
    bulk_insert(
        session, WarehouseMark.__table__, ("table_name", "month"), [(table, month) for month in months]
    )


@dataclass(frozen=True)
class Synced:
    """What a sync rewrote: months and rows."""

    months: int
    rows: int


class Replica:
    """The files under ``url`` (a folder, or any fsspec URL)."""

    def __init__(self, url: str, facts: Sequence[Fact]) -> None:
        self.facts = {fact.name: fact for fact in facts}
        self.fs, root = fsspec.core.url_to_fs(url)
        self.root = str(root).rstrip("/")

    def path(self, *parts: str) -> str:
        return "/".join((self.root, *parts))

    def files(self, *parts: str) -> list[str]:
        """The Parquet files of a folder, sorted; none when the folder does not exist."""
        try:
            names = self.fs.ls(self.path(*parts), detail=False)
        except FileNotFoundError:
            return []
        return sorted(name for name in names if name.endswith(".parquet"))

    def write(self, table: pa.Table, *parts: str) -> None:
        """Write a file by temporary file and rename: a reader sees the old one or the new one, whole."""
        with self.replacing(*parts) as temporary, self.fs.open(temporary, "wb") as file:
            pq.write_table(table, file, compression="zstd", row_group_size=250_000)

    @contextmanager
    def replacing(self, *parts: str) -> Iterator[str]:
        """A temporary path that becomes the file's when the block ends without an exception."""
        target = self.path(*parts)
        temporary = f"{target}.{uuid.uuid4().hex}.tmp"
        self.fs.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
        try:
            yield temporary
            self.fs.mv(temporary, target)
        finally:
            if self.fs.exists(temporary):
                self.fs.rm(temporary)

    def sync(self, database: Database) -> Synced:
        """Rewrite every marked month. One sync at a time: a second one waits, then finds nothing to do."""
        with _exclusive(database, self.root):
            with database.read() as session:
                marks = session.execute(
                    sa.select(WarehouseMark.id, WarehouseMark.table_name, WarehouseMark.month)
                ).all()
            wanted = sorted({(name, month) for _, name, month in marks if name in self.facts})
            rows = sum(self._rewrite(database, self.facts[name], month) for name, month in wanted)
            with database.write() as session:
                for start in range(0, len(marks), 10_000):
                    done = [mark_id for mark_id, _, _ in marks[start : start + 10_000]]
                    session.execute(sa.delete(WarehouseMark).where(WarehouseMark.id.in_(done)))
            return Synced(len(wanted), rows)

    def rebuild(self, database: Database) -> Synced:
        """Mark every month that has facts, then sync: the way back from a lost or doubted replica."""
        with database.write() as session:
            for fact in self.facts.values():
                mark(session, fact.name, _months(session, fact))
        for fact in self.facts.values():
            for stale in self.files(fact.name):
                self.fs.rm(stale)
        return self.sync(database)

    def _rewrite(self, database: Database, fact: Fact, month: str) -> int:
        table = _clustered(read(database, fact, month))
        parts = (fact.name, f"{month}.parquet")
        if table.num_rows or month == ALL:
            self.write(table, *parts)
        elif self.fs.exists(self.path(*parts)):
            self.fs.rm(self.path(*parts))
        return int(table.num_rows)


def read(database: Database, fact: Fact, month: str = ALL) -> pa.Table:
    """The rows of one month of a fact, from the database, in the fact's Arrow schema."""
    query = fact.query
    if fact.month_column is not None and month != ALL:
        column = query.selected_columns[fact.month_column]
        start = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
        end = start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
        query = query.where(column >= start, column < end)
    batches = []
    with database.engine.connect() as connection:
        sql = query.compile(connection, compile_kwargs={"literal_binds": True})
        # The driver's own rows: SQLAlchemy's result types would cost more than the whole rest.
        cursor = connection.connection.cursor()
        cursor.execute(str(sql))
        while rows := cursor.fetchmany(FETCH_ROWS):
            batches.append(_to_arrow(rows, fact.schema))
        cursor.close()
    return pa.concat_tables(batches) if batches else fact.schema.empty_table()


def _clustered(table: pa.Table) -> pa.Table:
    """The rows by member where there is one: what is asked is mostly asked by member.

    Aggregations by member of 10 million orders take a tenth less time, windows over them a fifth.
    """
    return table.sort_by(MEMBER) if MEMBER in table.schema.names else table


def _to_arrow(rows: Sequence[Sequence[Any]], schema: pa.Schema) -> pa.Table:
    arrays = []
    for field, values in zip(schema, zip(*rows, strict=True), strict=True):
        sample = next((value for value in values if value is not None), None)
        if isinstance(sample, str) and not pa.types.is_string(field.type):
            array = pa.array(values, pa.string()).cast(
                field.type if not pa.types.is_timestamp(field.type) else pa.timestamp("us")
            )
            arrays.append(array.cast(field.type))
        elif pa.types.is_boolean(field.type) and isinstance(sample, int):
            arrays.append(pa.array([None if v is None else bool(v) for v in values], field.type))
        else:
            arrays.append(pa.array(values, field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _months(session: Session, fact: Fact) -> list[datetime | None]:
    if fact.month_column is None:
        return [None]
    column = fact.query.selected_columns[fact.month_column]
    low, high = session.execute(
        fact.query.with_only_columns(
            sa.func.min(column), sa.func.max(column), maintain_column_froms=True
        ).order_by(None)
    ).one()
    months: list[datetime | None] = []
    while low is not None and (low.year, low.month) <= (high.year, high.month):
        months.append(low)
        low = low.replace(year=low.year + low.month // 12, month=low.month % 12 + 1, day=1)
    return months


@contextmanager
def _exclusive(database: Database, name: str) -> Iterator[None]:
    """One holder of ``name`` among all processes that share the database."""
    if database.dialect == "postgresql":
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        with database.engine.connect() as connection:
            connection.execute(sa.select(sa.func.pg_advisory_lock(key)))
            try:
                yield
            finally:
                connection.execute(sa.select(sa.func.pg_advisory_unlock(key)))
        return
    path = Path(f"{database.engine.url.database}.sync-lock")
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
