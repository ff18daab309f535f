"""What the benchmarks rest on: equal work by all contestants, and ratios that mean what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.db import Database
from tests.bench import refresh, run
from tests.bench.__main__ import table
from tests.bench.made_up import warehouse
from tests.bench.measure import Sample, compare, in_child, take_turns
from tests.conftest import count as rows


def test_refresh_duckdb_and_pandas_score_and_stage_everybody_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pandas")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    facts = warehouse(3_000, 30_000)
    home = refresh._home(tmp_path, facts, with_segments=True)
    ours = refresh.timed_refresh(str(home))
    snapshot = home / "warehouse" / "snapshots" / "members" / f"{refresh.AS_OF}.parquet"
    for name in ("duckdb", "pandas"):
        (tmp_path / name).mkdir()
    theirs = refresh.timed_duckdb(str(facts), str(tmp_path / "duckdb"), with_segments=True)
    refresh.timed_pandas(str(facts), str(tmp_path / "pandas"))
    refresh.assert_same(snapshot, tmp_path / "duckdb" / "snapshot.parquet")
    refresh.assert_same(snapshot, tmp_path / "pandas" / "snapshot.parquet")
    assert ours["segments"] == theirs["segments"]
    assert all(0 < count < 3_000 for count in ours["segments"].values()), ours["segments"]


def test_the_peer_of_a_run_writes_the_rows_that_the_run_wrote() -> None:
    with run.bed("sqlite", 60) as place:
        finished, empty = place.copy(), place.copy()
        done = in_child("tests.bench.run:timed_run", home=place.home_copy(), url=place.url(finished))
        in_child(
            "tests.bench.run:timed_insert",
            home=place.home_copy(), url=place.url(empty), finished=place.url(finished),
        )  # fmt: skip
        assert done.answer["counts"]["candidates"] == 60
        ours, theirs = Database(place.url(finished)), Database(place.url(empty))
        for name in (*run.PARENTS, *run.TABLES):
            assert rows(ours, name) == rows(theirs, name) > 0, name
        ours.dispose()
        theirs.dispose()


def test_a_ratio_is_the_median_of_the_rounds_and_is_judged_in_its_direction() -> None:
    samples = {
        "us": [Sample(s, 1.0, 100.0) for s in (2.0, 6.0, 3.0)],
        "them": [Sample(s, None, None) for s in (1.0, 2.0, 2.0)],
    }
    found = compare("b", "c", samples, "us", "them", rows=300, at_most=2.0)
    assert (found.ratio, found.ratio_low, found.ratio_high, found.met) == (2.0, 1.5, 3.0, True)
    assert (found.seconds, found.rows_per_s, found.peak_mb, found.peer_peak_mb) == (3.0, 100, 100.0, None)
    assert compare("b", "c", samples, "us", "them", rows=1, at_most=1.9).met is False
    faster = compare("b", "c", samples, "them", "us", rows=1, at_least=2.1)
    assert (faster.ratio, faster.met, faster.cpu_s) == (2.0, False, None)
    assert compare("b", "c", samples, "them", "us", rows=1, at_least=2.0).met is True
    lines = table([found]).splitlines()
    assert len(lines) == 3
    assert "at most 2: met" in lines[2]


def test_contestants_take_turns_and_each_begins_a_round() -> None:
    order: list[str] = []

    def contestant(name: str) -> Sample:
        order.append(name)
        return Sample(len(order), None, None)

    found = take_turns({name: lambda name=name: contestant(name) for name in "abc"}, 3)  # type: ignore[misc]
    assert "".join(order) == "abcbcacab"
    assert [sample.seconds for sample in found["a"]] == [1, 6, 8]


def test_the_peak_is_the_childs_own_and_not_its_parents() -> None:
    ballast = b"x" * (700 * 1024 * 1024)
    small, large = (in_child("tests.bench.allocate:allocate", megabytes=size) for size in (1, 300))
    assert small.peak_mb is not None
    assert large.peak_mb is not None
    assert small.peak_mb < 500 < len(ballast) / 1024**2
    assert 250 < large.peak_mb - small.peak_mb < 350
