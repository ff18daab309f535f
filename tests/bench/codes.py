"""A million codes made and stored against the bare COPY of the same rows, on PostgreSQL.

The subject does what ``huiliu coupons generate`` does: codes drawn, each with its issue key, 50,000 in a
transaction. The peer has the finished rows in memory and copies them, as many in a transaction, into a
table with the same columns and indexes. PostgreSQL is durable here: fsync and synchronous_commit are on.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from core.db import Database
from loyalty import coupons, foreign_codes
from loyalty.batches import NewBatch
from tests import postgres
from tests.bench.measure import Comparison, Sample, compare, cpu_s, in_child, take_turns

CODES = 1_000_000
QUICK = 100_000
AT_MOST = 2.0
NOW = datetime(2026, 3, 1, tzinfo=UTC)
NAME = "bench"
COLUMNS = (
    'code, batch_id, member_id, issue_key, state, issued_at, valid_from, valid_until, "foreign", freed_at'
)


def seed(database: Database) -> None:
    """The batch: a percentage, codes valid for sixty days."""
    new = NewBatch(NAME, "Bench", {"type": "percent", "percent": 10}, "CNY", valid_days=60)
    with database.write() as session:
        coupons.create_batch(session, new, "bench", NOW)


def timed_codes(url: str, number: int) -> dict[str, Any]:
    """The subject: codes made and stored, a lot a transaction."""
    database = Database(url)
    with database.read() as session:  # the first connection is the process's, not the codes'
        coupons.find_batch(session, NAME)
    start, used, made = time.perf_counter(), cpu_s(), 0
    for first in range(0, number, foreign_codes.LOT):
        size = min(foreign_codes.LOT, number - first)
        with database.write() as session:
            batch = coupons.find_batch(session, NAME)
            made += len(foreign_codes.generate_lot(session, batch, "bench", first, size, NOW).codes)
    return {"seconds": time.perf_counter() - start, "cpu_s": cpu_s() - used, "rows": made}


def timed_copy(url: str, finished: str, number: int) -> dict[str, Any]:
    """The peer: the rows of the database ``finished`` into a bare table with the same indexes."""
    with Database(finished).engine.connect() as connection:
        rows = [
            tuple(row) for row in connection.exec_driver_sql(f"SELECT {COLUMNS} FROM coupons ORDER BY id")
        ]
    raw = Database(url).engine.raw_connection()
    cursor: Any = raw.cursor()
    cursor.execute("CREATE TABLE bare (LIKE coupons INCLUDING ALL)")
    raw.commit()
    gc.disable()  # a script that had its rows from elsewhere would have none of these million tuples
    start, used = time.perf_counter(), cpu_s()
    for first in range(0, len(rows), foreign_codes.LOT):
        with cursor.copy(f"COPY bare ({COLUMNS}) FROM STDIN") as copy:
            for row in rows[first : first + foreign_codes.LOT]:
                copy.write_row(row)
        raw.commit()
    seconds, used = time.perf_counter() - start, cpu_s() - used
    assert len(rows) == number
    return {"seconds": seconds, "cpu_s": used, "rows": number}


def bench(*, quick: bool, repetitions: int) -> Iterator[Comparison]:
    """One comparison, on a cluster of its own."""
    number = QUICK if quick else CODES
    with (
        tempfile.TemporaryDirectory(prefix="huiliu-bench-") as folder,
        postgres.running(Path(folder), durable=True) as cluster,
    ):
        seeded = cluster.create()
        database = Database(cluster.url(seeded))
        seed(database)
        database.dispose()
        finished = cluster.create(seeded)
        in_child("tests.bench.codes:timed_codes", url=cluster.url(finished), number=number)

        def on_copy(function: str, **arguments: Any) -> Sample:
            name = cluster.create(seeded)
            try:
                return in_child(function, url=cluster.url(name), number=number, **arguments)
            finally:
                cluster.drop(name)

        samples = take_turns(
            {
                "codes": partial(on_copy, "tests.bench.codes:timed_codes"),
                "copy": partial(on_copy, "tests.bench.codes:timed_copy", finished=cluster.url(finished)),
            },
            repetitions,
        )
    assert all(one.answer["rows"] == number for found in samples.values() for one in found)
    yield compare("codes", f"{number:,} codes", samples, "codes", "copy", rows=number, at_most=AT_MOST)
