"""A campaign run against the bare insert of the rows that it wrote, on SQLite and on PostgreSQL.

Two arms, a coupon for both, points for one, a fifth held out. The peer gets the finished run's rows
ready-made and puts them with ``executemany`` or COPY into a second database with the same tables,
indexes and members, in batches of the same members and as many commits. PostgreSQL is durable here:
fsync and synchronous_commit are on.
"""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from campaigns.run import run
from core.db import Database
from core.settings import Settings
from migrations.runner import upgrade
from segments.facts import open_engine
from tests import postgres
from tests.bench.measure import Comparison, Sample, compare, cpu_s, in_child, take_turns, warm
from tests.campaigns.conftest import NOW, Shop
from tests.conftest import SECRET

MEMBERS = 200_000
AT_MOST = 3.0
PARENTS = ("experiments", "campaign_runs")
"""Rows that the run makes once and its other rows refer to: put there before the peer's clock starts."""
TABLES = ("decisions", "assignments", "coupons", "points_lots", "points_entries", "messages")
KINDS = ("sqlite", "postgresql")


def settings_of(home: str, url: str) -> Settings:
    return Settings(home=Path(home), secret=SECRET, database_url=url, _env_file=None)


def seed(database: Database, home: Path, members: int) -> None:
    """Members with e-mail and consent, templates, a coupon batch, an approved campaign, the replica."""
    shop = Shop(database, settings_of(str(home), database.url))
    shop.prepare()
    shop.batch()
    shop.members(members, lambda _n: "email")
    shop.control(0.0)
    shop.campaign()
    shop.engine.replica.sync(database)


def timed_run(home: str, url: str) -> dict[str, Any]:
    """The subject: a whole run."""
    settings, database = settings_of(home, url), Database(url)
    engine = open_engine(settings)
    warm(engine)
    start, used = time.perf_counter(), cpu_s()
    counts = run(database, engine, settings, "back", NOW)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "cpu_s": cpu_s() - used, "counts": counts.to_json()}


def timed_insert(home: str, url: str, finished: str) -> dict[str, Any]:
    """The peer: the rows of the database ``finished`` into ``url``."""
    step = settings_of(home, url).batch_size
    source, target = Database(finished), Database(url)
    with source.engine.connect() as connection:
        batches = _batches(connection, step)
        parents = {table: _rows(connection, table) for table in PARENTS}
    columns = {table: _columns(target, table) for table in (*PARENTS, *TABLES)}
    put = _executemany if target.dialect == "sqlite" else _copy
    raw = target.engine.raw_connection()
    cursor = raw.cursor()
    for table in PARENTS:
        put(cursor, table, columns[table], parents[table])
    raw.commit()
    gc.disable()  # a script that had its rows from elsewhere would have none of these million tuples
    start, used = time.perf_counter(), cpu_s()
    for batch in batches:
        if target.dialect == "sqlite":
            cursor.execute("BEGIN IMMEDIATE")
        for table, rows in batch.items():
            put(cursor, table, columns[table], rows)
        raw.commit()
    seconds = time.perf_counter() - start
    written = sum(len(rows) for batch in batches for rows in batch.values())
    return {"seconds": seconds, "cpu_s": cpu_s() - used, "rows": written}


def _columns(database: Database, table: str) -> list[str]:
    return [f'"{column["name"]}"' for column in sa.inspect(database.engine).get_columns(table)]


def _rows(connection: sa.Connection, table: str, condition: str = "") -> list[Any]:
    """Rows as the driver binds them again: JSON stays text."""
    columns, postgresql = sa.inspect(connection).get_columns(table), connection.dialect.name == "postgresql"
    names = ", ".join(
        f'"{column["name"]}"' + ("::text" if "JSON" in str(column["type"]) and postgresql else "")
        for column in columns
    )  # fmt: skip
    return [tuple(row) for row in connection.exec_driver_sql(f"SELECT {names} FROM {table} {condition}")]


def _batches(connection: sa.Connection, step: int) -> list[dict[str, list[Any]]]:
    """The rows by batch of members, as the run wrote them."""
    ids = [row[0] for row in connection.exec_driver_sql("SELECT member_id FROM decisions ORDER BY 1")]
    spans = [(ids[start], ids[min(start + step, len(ids)) - 1]) for start in range(0, len(ids), step)]
    return [
        {
            table: _rows(connection, table, f"WHERE member_id BETWEEN {low} AND {high} ORDER BY 1")
            for table in TABLES
        }
        for low, high in spans
    ]


def _executemany(cursor: Any, table: str, columns: list[str], rows: list[Any]) -> None:
    marks = ", ".join("?" * len(columns))
    cursor.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows)


def _copy(cursor: Any, table: str, columns: list[str], rows: list[Any]) -> None:
    with cursor.copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


class _Bed:
    """A seeded database that every contestant gets a copy of."""

    def __init__(self, kind: str, folder: Path, cluster: postgres.Cluster | None, members: int) -> None:
        self.kind, self.folder, self.cluster = kind, folder, cluster
        self.count = 0
        self.home = folder / "home"
        self.home.mkdir()
        self.seeded = cluster.create() if cluster else str(folder / "seeded.db")
        database = Database(self.url(self.seeded))
        if not cluster:
            upgrade(database)
        seed(database, self.home, members)
        if not cluster:
            with database.engine.connect() as connection:
                connection.exec_driver_sql("COMMIT")
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        else:
            with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("VACUUM ANALYZE")
        database.dispose()

    def url(self, name: str) -> str:
        return self.cluster.url(name) if self.cluster else f"sqlite:///{name}"

    def copy(self) -> str:
        """A fresh copy of the seeded database; its name."""
        if self.cluster:
            return self.cluster.create(self.seeded)
        self.count += 1
        name = str(self.folder / f"copy{self.count}.db")
        shutil.copy(self.seeded, name)
        with open(name, "rb+") as file:
            os.fsync(file.fileno())  # or the contestant's first checkpoint would have to write all of it
        return name

    def drop(self, name: str) -> None:
        if self.cluster:
            self.cluster.drop(name)
        else:
            for path in self.folder.glob(f"{Path(name).name}*"):
                path.unlink()

    def home_copy(self) -> str:
        """A home whose warehouse has the facts but no audience of an earlier run."""
        home = Path(tempfile.mkdtemp(dir=self.folder))
        shutil.copytree(self.home, home, dirs_exist_ok=True, ignore=shutil.ignore_patterns("runs"))
        return str(home)


@contextmanager
def bed(kind: str, members: int) -> Iterator[_Bed]:
    folder = Path(tempfile.mkdtemp(prefix="huiliu-bench-"))
    try:
        if kind == "sqlite":
            yield _Bed(kind, folder, None, members)
        else:
            (folder / "pg").mkdir()
            with postgres.running(folder / "pg", durable=True) as cluster:
                yield _Bed(kind, folder, cluster, members)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def compare_on(kind: str, members: int, repetitions: int) -> Comparison:
    """The run and its bare insert, in turn, on one kind of database."""
    with bed(kind, members) as place:
        finished = place.copy()
        first = in_child("tests.bench.run:timed_run", home=place.home_copy(), url=place.url(finished))
        assert first.answer["counts"]["candidates"] == members, first

        def on_copy(function: str, **arguments: Any) -> Sample:
            name = place.copy()
            try:
                return in_child(function, home=place.home_copy(), url=place.url(name), **arguments)
            finally:
                place.drop(name)

        samples = take_turns(
            {
                "run": partial(on_copy, "tests.bench.run:timed_run"),
                "insert": partial(on_copy, "tests.bench.run:timed_insert", finished=place.url(finished)),
            },
            repetitions,
        )
        assert all(sample.answer["counts"] == first.answer["counts"] for sample in samples["run"])
        return compare(
            "run", f"{members:,} members, {kind}", samples, "run", "insert", rows=members, at_most=AT_MOST
        )


def bench(*, quick: bool, repetitions: int) -> Iterator[Comparison]:
    """A comparison a database."""
    members = 20_000 if quick else MEMBERS
    for kind in KINDS:
        yield compare_on(kind, members, repetitions)
