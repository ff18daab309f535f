"""Amounts as texts and as minor units."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidInput
from core.money import to_major, to_minor


@pytest.mark.parametrize(
    ("text", "currency", "minor"),
    [("12.50", "CNY", 1250), ("12.5", "CNY", 1250), (" 7 ", "CNY", 700), ("1,234.5", "USD", 123450), ("0.010", "CNY", 1),
     ("-3", "CNY", -300), ("100", "JPY", 100), ("1.234", "KWD", 1234), (12.5, "CNY", 1250), ("1e2", "CNY", 10000),
     (".5", "CNY", 50), ("5.", "CNY", 500)],
)  # fmt: skip
def test_amounts_become_minor_units(text: object, currency: str, minor: int) -> None:
    assert to_minor(text, currency) == minor  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "x", "1.005", "NaN", "Infinity", "1" * 20, "1.2.3", "12,50", "1,5,x"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        to_minor(text, "CNY")


@given(st.decimals(min_value=-(10**12), max_value=10**12, places=2, allow_nan=False))
def test_there_and_back(amount: Decimal) -> None:
    assert to_major(to_minor(str(amount), "CNY"), "CNY") == amount
