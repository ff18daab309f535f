"""Rules that are refused: each with the place of the offending node and a sentence that helps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.errors import InvalidInput
from segments.rules import MAX_DEPTH, MAX_LEAVES, MAX_TEXT, MAX_VALUES, validate
from tests.segments.conftest import Shop
from tests.segments.rules_shop import e, f


def nested(depth: int) -> Any:
    rule: Any = f("city", "is_set")
    for _ in range(depth - 1):
        rule = {"not": rule}
    return rule


leaf = f("city", "=", "x")
MALFORMED = [
    ([], "rule", "must be a JSON object, not list"),
    ("vip", "rule", "must be a JSON object, not str"),
    (None, "rule", "must be a JSON object"),
    ({}, "rule", "one of all, any, not, field, event, segment"),
    ({"all": []}, "all", "at least one condition"),
    ({"any": leaf}, "any", "at least one condition"),
    ({"all": [leaf, 5]}, "all[1]", "must be a JSON object, not int"),
    ({"all": [leaf], "any": [leaf]}, "rule", "“any” is not known here"),
    ({"not": [leaf]}, "not", "must be a JSON object, not list"),
    (
        {"all": [{"any": [leaf, {"not": {"field": "shoe"}}]}]},
        "all[0].any[1].not.field",
        "there is no field “shoe”",
    ),
    (nested(MAX_DEPTH + 1), ".".join(["not"] * MAX_DEPTH), "deeper than 8 levels"),
    ({"any": [leaf] * (MAX_LEAVES + 1)}, f"any[{MAX_LEAVES}]", "at most 100 conditions"),
    (f("shoe", "=", "x"), "field", "there is no field “shoe”; there are lifecycle"),
    ({"field": 5, "op": "="}, "field", "the name of a field is a text"),
    (f("attributes.", "=", "x"), "field", "is not a name"),
    (f('attributes.a"b', "=", "x"), "field", "is not a name"),
    ({"field": "city"}, "op", "“city” cannot be compared by None"),
    (f("city", ">", "x"), "op", "it takes =, !=, in, not_in, contains"),
    (f("tags", "=", "x"), "op", "it takes matches_any"),
    (f("has_email", "!=", True), "op", "it takes ="),
    (f("rfm.r", "contains", "4"), "op", "cannot be compared by 'contains'"),
    (f("city", "="), "value", "the value is missing"),
    (f("city", "=", 5), "value", "5 is not a text"),
    (f("city", "is_set", "x"), "value", "is_set takes no value"),
    (f("city", "in", "x"), "value", "a list of 1 to 1000 values"),
    (f("city", "in", []), "value", "a list of 1 to 1000 values"),
    (f("city", "in", ["x"] * (MAX_VALUES + 1)), "value", "a list of 1 to 1000 values"),
    (f("city", "in", ["a", 5]), "value[1]", "5 is not a text"),
    (f("attributes.a", "in", ["a", 5]), "value", "either all texts or all numbers"),
    (f("attributes.a", "=", True), "value", "a text or a number"),
    (f("attributes.a", "=", ["x"]), "value", "a text or a number"),
    (f("city", "=", "x" * (MAX_TEXT + 1)), "value", "at most 500 characters"),
    (f("city", "=", "\ud83d"), "value", "half a character"),
    (f("rfm.r", ">=", "4"), "value", "'4' is not a number"),
    (f("rfm.r", ">=", True), "value", "True is not a number"),
    (f("rfm.r", ">=", float("nan")), "value", "nan is not a number"),
    (f("rfm.r", ">=", float("inf")), "value", "inf is not a number"),
    (f("rfm.r", ">=", 10**16), "value", "is not a number"),
    (f("rfm.r", "between", [5, 1]), "value", "the smaller value first"),
    (f("rfm.r", "between", [1]), "value", "two values: [from, to]"),
    (f("rfm.r", "between", [1, "x"]), "value[1]", "'x' is not a number"),
    (f("attributes.a", "between", [1, "x"]), "value", "the smaller value first"),
    (f("birthday", "=", "March"), "value", "write it like 2026-03-01"),
    (f("birthday", "between", ["2026-01-01", "soon"]), "value[1]", "'soon' is not a date"),
    (f("birthday", "anniversary_in", 7), "value", "write it like 30d"),
    (f("birthday", "in_last", "0d"), "value", "write it like 30d"),
    (f("birthday", "in_last", "30d\n"), "value", "write it like 30d"),
    (f("has_email", "=", "yes"), "value", "true or false"),
    (f("tags", "matches_any", "vip"), "value", "a list of 1 to 1000 values"),
    (f("lifecycle", "=", "dorment"), "value", "“dorment” is no lifecycle; there are prospect, new"),
    (f("rfm.segment", "in", ["loyal", "royal"]), "value[1]", "“royal” is no rfm.segment"),
    ({**leaf, "values": 1}, "rule", "“values” is not known here"),
    ({"segment": ""}, "segment", "is not a name"),
    ({"segment": "vip\n"}, "segment", "is not a name"),
    ({"segment": "vip", "op": "="}, "rule", "“op” is not known here"),
    (e("'; DROP"), "event", "is not a name"),
    (e("order", where={}), "where", "a list of at most 20 conditions"),
    (e("order", where=[leaf] * 21), "where", "a list of at most 20 conditions"),
    (e("order", where=["x"]), "where[0]", "is a JSON object"),
    (
        e("order", where=[f("colour", "=", "x")]),
        "where[0].field",
        "“order” has no property “colour”; it has amount",
    ),
    (
        e("order", where=[f("amount", "=", 1), f("amount", "contains", "1")]),
        "where[1].op",
        "“amount” cannot be compared",
    ),
    (e("order", where=[f("amount", ">", "many")]), "where[0].value", "'many' is not a number"),
    (e("order", aggregate="median"), "aggregate", "'median' is none of count, sum"),
    (e("order", aggregate="sum"), "of", "None is not a name"),
    (e("order", of="amount"), "of", "count takes no property"),
    (e("order", aggregate="sum", of="channel"), "of", "“channel” is a text; sum needs a number"),
    (e("order", aggregate="sum", of="colour"), "of", "has no property “colour”"),
    ({"event": "order"}, "op", "cannot be compared by None"),
    (e("order", "is_set", None), "op", "compared by its count, for example >= 1"),
    (e("order", ">=", "two"), "value", "'two' is not a number"),
    (e("order", within="30d"), "within", 'a window is {"last": "30d"}'),
    (e("order", within={}), "within", 'a window is {"last": "30d"}'),
    (e("order", within={"last": "1d", "before": "2026-01-01"}), "within", "a window is"),
    (e("order", within={"last": "a month"}), "within.last", "write it like 30d"),
    (
        e("order", within={"since": "2026-01-01"}),
        "within",
        "“since” is no window; there are last, before and between",
    ),
    (e("order", within={"before": "then"}), "within.before", "'then' is not a date"),
    (e("order", within={"between": ["2026-02-01"]}), "within.between", "two dates are needed"),
    (e("order", within={"between": ["2026-02-01", "x"]}), "within.between[1]", "'x' is not a date"),
    (e("order", within={"between": ["2026-02-01", "2026-02-01"]}), "within.between", "before the second"),
    ({"all": [leaf, e("order", within={"last": 5})]}, "all[1].within.last", "write it like 30d"),
]


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
