"""Grouping: the same customers, fewer rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segments.predict.groups import codes, group


@settings(max_examples=100, deadline=None)
@given(
    values=st.one_of(
        st.lists(st.integers(0, 20), max_size=30),
        st.lists(st.integers(0, 10**6), max_size=30),
        st.lists(st.integers(0, 2**62), max_size=30),
        st.lists(st.integers(-5, 5), max_size=30),
        st.lists(st.floats(0, 9), max_size=30),
    )
)
def test_codes_are_the_sorted_distinct_values_and_their_places(values: list[float]) -> None:
    array = np.array(values, dtype=np.int64 if all(isinstance(value, int) for value in values) else float)
    for given_values in (array, np.repeat(array, 2)):
        found, places = codes(given_values)
        assert found.tolist() == sorted(set(values))
        assert found[places].tolist() == given_values.tolist()


def test_large_keys_are_sorted_as_well_as_small_ones() -> None:
    values = np.random.default_rng(1).integers(0, 10**9, 50_000)
    values[::3] = values[0]
    found, places = codes(values)
    expected, inverse = np.unique(values, return_inverse=True)
    assert (found == expected).all()
    assert (places == inverse).all()


def test_groups_hold_every_customer_once() -> None:
    random = np.random.default_rng(2)
    age = random.integers(0, 50, 5000)
    x = random.integers(0, 4, 5000) * (age > 0)
    recency = np.where(x > 0, random.integers(0, 50, 5000) % (age + 1), 0)
    groups = group(x, recency, age, unit=7)
    assert groups.customers == 5000
    assert (groups.x[groups.at_x][groups.of] == x).all()
    assert groups.recency[groups.at_recency][groups.of] == pytest.approx(recency / 7)
    assert groups.age[groups.at_age][groups.of] == pytest.approx(age / 7)
    rows = list(zip(groups.at_x.tolist(), groups.at_recency.tolist(), groups.at_age.tolist(), strict=True))
    assert rows == sorted(set(rows))
    assert (np.bincount(groups.of) == groups.count).all()
