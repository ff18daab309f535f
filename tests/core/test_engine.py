"""The engine over files that change: never a stale row, never another connection's table."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from core.warehouse.engine import DuckEngine, Stored
from core.warehouse.replica import Fact, Replica

_TABLE = sa.table(
    "things",
    sa.column("id", sa.BigInteger),
    sa.column("name", sa.String),
    sa.column("day", sa.Date),
    sa.column("late", sa.Boolean),
)
FACTS = (
    Fact("things", sa.select(_TABLE.c.id, _TABLE.c.name, _TABLE.c.day, _TABLE.c.late), None),
    Fact("others", sa.select(_TABLE.c.id), None),
)


def rows(*ids: int, **more: list[Any]) -> pa.Table:
    return pa.table({"id": list(ids), "name": [f"n{one}" for one in ids], **more})


@pytest.fixture
def engine(tmp_path: Path) -> DuckEngine:
    return DuckEngine(Replica(str(tmp_path / "it's a warehouse"), FACTS))


def ids(engine: DuckEngine, fact: str = "things") -> list[int]:
    found: list[int] = engine.query(f"SELECT id FROM {fact} ORDER BY id").column("id").to_pylist()
    return found


def test_a_table_without_files_is_empty_and_typed(engine: DuckEngine) -> None:
    found = engine.query("SELECT * FROM things")
    assert found.num_rows == 0
    assert [str(kind) for kind in found.schema.types] == ["int64", "string", "date32[day]", "bool"]


def test_files_that_come_change_and_go_are_seen_at_once(engine: DuckEngine) -> None:
    engine.replica.write(rows(1), "things", "2026-01.parquet")
    assert ids(engine) == [1]
    engine.replica.write(rows(2, 3), "things", "2026-02.parquet")
    assert ids(engine) == [1, 2, 3]
    engine.replica.write(rows(9), "things", "2026-01.parquet")
    assert ids(engine) == [2, 3, 9]
    engine.replica.fs.rm(engine.replica.path("things", "2026-02.parquet"))
    assert ids(engine) == [9]
    engine.replica.fs.rm(engine.replica.path("things", "2026-01.parquet"))
    assert ids(engine) == []


def test_a_file_replaced_within_one_tick_of_the_clock_is_read_anew(engine: DuckEngine) -> None:
    path = Path(engine.replica.path("things", "2026-01.parquet"))
    states = set()
    for number in (1, 2, 3):
        engine.replica.write(rows(number), "things", "2026-01.parquet")
        os.utime(path, ns=(10**18, 10**18))
        assert path.stat().st_mtime_ns == 10**18
        assert ids(engine) == [number]
        states.add(engine.state(("things",)))
    assert len(states) == 3


def test_columns_that_some_or_all_files_lack_are_missing_values(engine: DuckEngine) -> None:
    engine.replica.write(rows(1), "things", "2026-01.parquet")
    assert engine.query("SELECT late FROM things").to_pylist() == [{"late": None}]
    engine.replica.write(rows(2, late=[True]), "things", "2026-02.parquet")
    found = engine.query("SELECT id, late, day FROM things ORDER BY id").to_pylist()
    assert found == [{"id": 1, "late": None, "day": None}, {"id": 2, "late": True, "day": None}]


def test_what_one_connection_makes_no_other_sees(engine: DuckEngine) -> None:
    engine.replica.write(rows(1), "things", "2026-01.parquet")
    with engine.connect() as one, engine.connect() as other:
        one.execute("CREATE TABLE mine AS SELECT 5 AS x")
        one.execute("CREATE TEMP TABLE things AS SELECT 77 AS id")
        one.execute("CREATE VIEW seen AS SELECT 1 AS x")
        assert one.execute("SELECT id FROM things").fetchall() == [(77,)]
        assert other.execute("SELECT id FROM things").fetchall() == [(1,)]
        for name in ("mine", "seen"):
            with pytest.raises(duckdb.CatalogException):
                other.execute(f"SELECT * FROM {name}")
    with engine.connect() as later:
        assert later.execute("SELECT count(*) FROM duckdb_tables()").fetchall() == [(0,)]
        assert later.execute("SELECT count(*) FROM duckdb_databases() WHERE NOT internal").fetchall() == [
            (2,)
        ]


def test_an_error_leaves_nothing_behind(engine: DuckEngine) -> None:
    with pytest.raises(duckdb.ConversionException), engine.connect() as connection:
        connection.execute("CREATE TABLE left_over AS SELECT 1")
        connection.execute("SELECT CAST('x' AS INTEGER)")
    with engine.connect() as later:
        assert later.execute("SELECT count(*) FROM duckdb_tables()").fetchall() == [(0,)]


def test_two_replicas_of_one_process_keep_their_rows_apart(tmp_path: Path) -> None:
    one, other = (DuckEngine(Replica(str(tmp_path / name), FACTS)) for name in "ab")
    one.replica.write(rows(1), "things", "x.parquet")
    other.replica.write(rows(2), "things", "x.parquet")
    with one.connect() as first, other.connect() as second:
        assert first.execute("SELECT id FROM things").fetchall() == [(1,)]
        assert second.execute("SELECT id FROM things").fetchall() == [(2,)]
    assert one.state(("things",)) != other.state(("things",))


def test_threads_share_an_engine_while_files_change(engine: DuckEngine) -> None:
    engine.replica.write(rows(0, 0), "things", "2026-01.parquet")

    def read(number: int) -> bool:
        if number % 10 == 0:
            engine.replica.write(rows(number, number), "things", "2026-01.parquet")
        with engine.connect() as connection:
            connection.execute("CREATE TEMP TABLE seen AS SELECT id FROM things")
            found = connection.execute("SELECT count(*), count(DISTINCT id) FROM seen").fetchall()
        return found == [(2, 1)]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(200)))


def test_extra_rows_are_seen_by_their_engine_alone(engine: DuckEngine) -> None:
    engine.replica.write(rows(1), "things", "2026-01.parquet")
    extra = pa.table({"id": [2], "name": ["x"], "day": pa.array([None], pa.date32()), "late": [True]})
    asking = DuckEngine(engine.replica, extra={"things": extra})
    assert (ids(asking), ids(engine)) == ([1, 2], [1])
    assert asking.state(("things",)) is None, "its answers must not be kept for others"
    assert engine.state(("things",)) is not None


def test_a_stored_file_is_a_table_of_the_query(engine: DuckEngine, tmp_path: Path) -> None:
    pq.write_table(rows(4), tmp_path / "s.parquet")
    schema = pa.schema([("id", pa.int64()), ("name", pa.string()), ("score", pa.int8())])
    files = {"snap": Stored(str(tmp_path / "s.parquet"), schema), "none": Stored(None, schema)}
    found = engine.query("SELECT * FROM snap UNION ALL SELECT * FROM none", files=files).to_pylist()
    assert found == [{"id": 4, "name": "n4", "score": None}]


def test_parameters_and_arrow_tables_are_part_of_a_query(engine: DuckEngine) -> None:
    found = engine.query(
        "SELECT id FROM given WHERE name = $name", {"name": "n2"}, tables={"given": rows(1, 2)}
    )
    assert found.to_pylist() == [{"id": 2}]


def test_a_remote_store_is_read_anew_as_well() -> None:
    engine = DuckEngine(Replica("memory://engine-test", FACTS))
    for number in (1, 2):
        engine.replica.write(rows(number), "things", "2026-01.parquet")
        assert ids(engine) == [number]
