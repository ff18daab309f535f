"""Rules that are refused: each with the place of the offending node and a sentence that helps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.errors import InvalidInput
from segments.rules import MAX_DEPTH, MAX_LEAVES, MAX_TEXT, MAX_VALUES, validate
from tests.segments.bad_rules import MALFORMED, leaf, nested
from tests.segments.conftest import Shop
from tests.segments.rules_shop import f, steps


@pytest.mark.parametrize(("rule", "path", "words"), MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_rule_is_refused_with_its_place(rule: Any, path: str, words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        validate(rule)
    assert refused.value.field == path
    assert words in str(refused.value)
    assert str(refused.value).endswith(".")
    assert str(refused.value).startswith(path if path != "rule" else "the rule")


def test_the_limits_themselves_are_allowed() -> None:
    validate(nested(MAX_DEPTH))
    validate({"any": [leaf] * MAX_LEAVES})
    validate(f("city", "in", ["x"] * MAX_VALUES))
    validate(f("city", "=", "x" * MAX_TEXT))
    validate({"all": [leaf] * (MAX_LEAVES - 5) + [steps(*"abcde")]})


def chain(length: int) -> dict[str, Any]:
    """s1 … sn, each naming the next."""
    rules: dict[str, Any] = {f"s{n}": {"segment": f"s{n + 1}"} for n in range(1, length)}
    return rules | {f"s{length}": leaf}


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({}, "there is no segment “s1”"),
        ({"s1": {"segment": "s1"}}, "in a circle: s1 → s1"),
        ({"s1": {"not": {"segment": "s2"}}, "s2": {"any": [{"segment": "s1"}]}}, "in a circle: s1 → s2 → s1"),
        (chain(9), "over more than 8 steps"),
        (
            {f"s{n}": {"all": [{"segment": f"s{n + 1}"}] * 20} for n in range(1, 7)} | {"s7": leaf},
            "more than 1000",
        ),
    ],
)
def test_segments_that_cannot_be_put_together_are_refused(tmp_path: Path, rules: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        Shop(tmp_path).evaluator(rules).sql({"segment": "s1"})


def test_a_chain_as_long_as_allowed_runs(tmp_path: Path) -> None:
    assert Shop(tmp_path).evaluator(chain(8)).count({"segment": "s1"}).count == 0


def test_a_list_that_is_not_there_is_refused_where_lists_are_known(tmp_path: Path) -> None:
    evaluator = replace(Shop(tmp_path).evaluator(), lists=frozenset({"vip"}))
    assert evaluator.count({"not": {"list": "vip"}}).count == 0
    with pytest.raises(InvalidInput, match="there is no list “vips”"):
        evaluator.count({"all": [leaf, {"list": "vips"}]})
