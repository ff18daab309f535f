"""Assignment: GrowthBook's published vectors, the vectorised hash, arms, and stickiness."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from core.db import Database
from core.errors import Conflict, InvalidInput
from experiments import assignment as a
from experiments.models import Assignment, Experiment
from tests.conftest import count
from tests.loyalty.data import add_members

NOW = datetime(2026, 3, 1, tzinfo=UTC)

# Published with GrowthBook's SDKs (cases.json, specification 0.7.1): seed, value, version, hash.
HASHES: list[tuple[str, str, int, float | None]] = [
    ("", "a", 1, 0.22),
    ("", "b", 1, 0.077),
    ("b", "a", 1, 0.946),
    ("ef", "d", 1, 0.652),
    ("asdf", "8952klfjas09ujk", 1, 0.549),
    ("", "123", 1, 0.011),
    ("", '___)((*":&', 1, 0.563),
    ("seed", "a", 2, 0.0505),
    ("seed", "b", 2, 0.2696),
    ("foo", "ab", 2, 0.2575),
    ("foo", "def", 2, 0.2019),
    ("89123klj", "8952klfjas09ujkasdf", 2, 0.124),
    ("90850943850283058242805", "123", 2, 0.7516),
    ("()**(%$##$%#$#", '___)((*":&', 2, 0.0128),
    ("abc", "def", 99, None),
]
RANGES = [
    ([0.5, 0.5], 1, [(0, 0.5), (0.5, 1)]),
    ([0.5, 0.5], 0.5, [(0, 0.25), (0.5, 0.75)]),
    ([0.5, 0.5], 0, [(0, 0), (0.5, 0.5)]),
    ([0.25, 0.25, 0.25, 0.25], 1, [(0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1)]),
    ([0.4, 0.6], 1, [(0, 0.4), (0.4, 1)]),
    ([0.2, 0.3, 0.5], 1, [(0, 0.2), (0.2, 0.5), (0.5, 1)]),
    ([0.2, 0.3, 0.5], 0.2, [(0, 0.04), (0.2, 0.26), (0.5, 0.6)]),
    ([0.5, 0.5], -0.2, [(0, 0), (0.5, 0.5)]),
    ([0.5, 0.5], 1.5, [(0, 0.5), (0.5, 1)]),
]
NAMESPACES = [
    ("1", "namespace1", 0, 0.4, False),
    ("1", "namespace1", 0.4, 1, True),
    ("1", "namespace2", 0, 0.4, False),
    ("1", "namespace2", 0.4, 1, True),
    ("2", "namespace1", 0, 0.4, False),
    ("2", "namespace1", 0.4, 1, True),
    ("2", "namespace2", 0, 0.4, False),
    ("2", "namespace2", 0.4, 1, True),
    ("3", "namespace1", 0, 0.4, False),
    ("3", "namespace1", 0.4, 1, True),
    ("3", "namespace2", 0, 0.4, True),
    ("3", "namespace2", 0.4, 1, False),
    ("4", "namespace1", 0, 0.4, False),
    ("4", "namespace1", 0.4, 1, True),
    ("4", "namespace2", 0, 0.4, True),
    ("4", "namespace2", 0.4, 1, False),
]
PLACES = [
    (0.2, [(0, 0.5), (0.5, 1)], 0),
    (0.5, [(0, 0.5), (0.5, 1)], 1),
    (0.4, [(0, 0.25), (0.5, 0.75)], -1),
    (0.25, [(0, 0.25), (0.5, 0.75)], -1),
    (0.6, [(0, 0.25), (0.5, 0.75)], 1),
    (0.5, [(0, 0.5), (0.5, 0.5), (0.5, 1)], 2),
]
ARMS = [("control", 0.2), ("a", 0.3), ("b", 0.5)]


@pytest.mark.parametrize(("seed", "value", "version", "expected"), HASHES)
def test_published_hashes(seed: str, value: str, version: int, expected: float | None) -> None:
    assert a.hash_unit(seed, value, version) == expected
    if expected is None:
        with pytest.raises(InvalidInput, match="version 99"):
            a.hash_units(seed, [value], version)
    else:
        assert a.hash_units(seed, [value, "x", value], version)[[0, 2]].tolist() == [expected, expected]


@pytest.mark.parametrize(("weights", "coverage", "expected"), RANGES)
def test_published_bucket_ranges(
    weights: list[float], coverage: float, expected: list[tuple[float, float]]
) -> None:
    found = a.bucket_ranges(weights, coverage)
    assert np.round(found, 9).tolist() == [list(pair) for pair in expected]


@pytest.mark.parametrize(
    "weights", [[], [0.4, 0.1], [0.7, 0.6], [0.4, 0.5999], [1.2, -0.2], [float("nan"), 1]]
)
def test_weights_that_do_not_sum_to_one_are_refused(weights: list[float]) -> None:
    with pytest.raises(InvalidInput) as caught:
        a.bucket_ranges(weights)
    assert caught.value.field == "arms"


def test_thirds_sum_to_one() -> None:
    assert len(a.bucket_ranges([0.3333333, 0.3333333, 0.3333334])) == 3


@pytest.mark.parametrize(("unit", "namespace", "low", "high", "expected"), NAMESPACES)
def test_published_namespaces(unit: str, namespace: str, low: float, high: float, expected: bool) -> None:
    assert a.in_namespace(unit, namespace, low, high) is expected
    assert a.in_namespace_many([unit], namespace, low, high).tolist() == [expected]


@pytest.mark.parametrize(("place", "ranges", "expected"), PLACES)
def test_published_places(place: float, ranges: list[tuple[float, float]], expected: int) -> None:
    assert a.choose(place, ranges) == expected


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=30),
    st.text("añ回7", max_size=5),
)
def test_many_at_once_are_hashed_as_one_by_one(ids: list[str], seed: str) -> None:
    for version in (1, 2):
        expected = [a.hash_unit(seed, unit, version) for unit in ids]
        assert a.hash_units(seed, ids, version).tolist() == expected


def test_the_form_of_the_ids_does_not_matter() -> None:
    numbers = list(range(990, 1010))
    texts = [str(number) for number in numbers]
    expected = a.hash_units("s", texts).tolist()
    chunked = pa.chunked_array([texts[:7], texts[7:]])
    for form in (
        numbers,
        np.array(numbers),
        np.array(texts),
        pa.array(numbers),
        pa.array(["x", *texts])[1:],
        chunked,
    ):
        assert a.hash_units("s", form).tolist() == expected
    assert a.assign("s", [], ARMS).to_pylist() == []
    with pytest.raises(InvalidInput, match="empty"):
        a.hash_units("s", ["a", None])


def test_a_chunk_boundary_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"member-{number**3}" for number in range(50)]
    whole = a.hash_units("s", ids).tolist()
    monkeypatch.setattr(a, "CHUNK", 7)
    assert a.hash_units("s", ids).tolist() == whole


def test_arms_get_their_shares_and_the_rest_nobody() -> None:
    ids = [f"m{number}" for number in range(100_000)]
    found = a.assign("salt", ids, ARMS, 0.5)
    assert found.type == pa.string()
    shares = {pair["values"]: pair["counts"] / 100_000 for pair in found.value_counts().to_pylist()}
    assert shares == pytest.approx({"control": 0.1, "a": 0.15, "b": 0.25, None: 0.5}, abs=0.006)


def test_raising_the_coverage_moves_nobody() -> None:
    ids = [f"m{number}" for number in range(20_000)]
    half, most = (a.assign("salt", ids, ARMS, coverage).to_pylist() for coverage in (0.4, 0.9))
    assert all(late == early for early, late in zip(half, most, strict=True) if early is not None)
    assert sum(arm is not None for arm in most) > sum(arm is not None for arm in half)


def test_another_salt_assigns_independently() -> None:
    ids = [f"m{number}" for number in range(40_000)]
    first, second = (a.assign(salt, ids, [("x", 0.5), ("y", 0.5)]).to_pylist() for salt in ("s1", "s2"))
    both = sum(one == two == "x" for one, two in zip(first, second, strict=True))
    assert both / 40_000 == pytest.approx(0.25, abs=0.01)


@given(st.integers(0, 2**31))
def test_one_unit_gets_the_arm_it_gets_in_the_crowd(unit: int) -> None:
    crowd = a.assign("salt", [str(unit), "else"], ARMS).to_pylist()
    place = a.hash_unit("salt", str(unit))
    assert place is not None
    assert crowd[0] == ARMS[a.choose(place, a.bucket_ranges([weight for _, weight in ARMS]))][0]


def test_an_experiment_is_stored_with_its_control_first(db: Database) -> None:
    with db.write() as session:
        made = a.create(session, name="win-back", arms=[("b", 0.9), ("hold", 0.1)], control="hold", now=NOW)
        assert made.arms == [{"name": "hold", "weight": 0.1}, {"name": "b", "weight": 0.9}]
        assert len(made.salt) == 32
    with pytest.raises(Conflict, match="another name"), db.write() as session:
        a.create(session, name="win-back", arms=ARMS, control="a", now=NOW)
    for arms, control in (([("a", 1.0)], "a"), (ARMS, "z"), ([("a", 0.5), ("a", 0.5)], "a")):
        with pytest.raises(InvalidInput), db.write() as session:
            a.create(session, name="other", arms=arms, control=control, now=NOW)
    assert count(db, "experiments") == 1


def test_the_first_assignment_stays(db: Database) -> None:
    add_members(db, 5000)
    with db.write() as session:
        experiment = a.create(session, name="x", arms=ARMS, control="control", now=NOW)
        assert a.store_assignments(session, experiment.id, [(n, "a", NOW) for n in range(1, 4001)]) == 4000
        later = NOW + timedelta(days=1)
        assert a.store_assignments(session, experiment.id, [(n, "b", later) for n in range(1, 5001)]) == 1000
    with db.read() as session:
        arms = session.execute(sa.select(Assignment.arm, sa.func.count()).group_by(Assignment.arm)).all()
        assert dict(tuple(row) for row in arms) == {"a": 4000, "b": 1000}
        assert session.get_one(Assignment, (experiment.id, 1)).at == NOW
        assert session.scalars(sa.select(Experiment.name)).all() == ["x"]
