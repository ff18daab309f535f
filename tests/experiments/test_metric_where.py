"""A metric's filter as a whole rule: compiled, refused with its place, stored, and against plain Python."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.bulk import bulk_insert
from core.db import Database
from core.errors import InvalidInput
from core.models import Event
from core.warehouse.replica import mark
from experiments import metric_where, metrics
from experiments.metric_scan import compile_query, scan_metrics
from experiments.metric_where import All, AnyOf, Condition, Not, parse
from experiments.metrics import MetricSpec
from tests.experiments.test_metrics import AS_OF, DAY, FACTS, SPEND
from tests.experiments.test_readout import START, assigned, warehouse

RULE = {
    "any": [
        {"all": [
            {"field": "status", "op": "=", "value": "paid"},
            {"not": {"field": "net_minor", "op": "<", "value": 500}},
        ]},
        {"not": {"any": [
            {"field": "status", "op": "in", "value": ["paid", "refunded"]},
            {"field": "coupon_code", "op": "is_set"},
        ]}},
    ]
}  # fmt: skip


def spec(rule: Any) -> MetricSpec:
    return metrics.from_json("x", {"kind": "count", "fact": "orders", "where": rule})


def test_a_nested_rule_reads_and_writes_as_the_same_rule() -> None:
    where = parse(RULE)
    assert where == (
        AnyOf((
            All((Condition("status", "=", "paid"), Not(Condition("net_minor", "<", 500)))),
            Not(AnyOf((Condition("status", "in", ["paid", "refunded"]),
                       Condition("coupon_code", "is_set", True)))),
        )),
    )  # fmt: skip
    assert metric_where.to_json(where) == RULE
    assert spec(RULE).to_json()["where"] == RULE
    assert metrics.from_json("x", spec(RULE).to_json()) == spec(RULE)


def test_a_stored_list_stays_a_list_and_an_outermost_all_is_one() -> None:
    stored = [
        {"column": "status", "op": "=", "value": "paid"},
        {"column": "net_minor", "op": ">", "value": 0},
    ]
    leaf = {"field": "status", "op": "=", "value": "paid"}
    assert parse(stored) == parse({"all": [leaf, {"field": "net_minor", "op": ">", "value": 0}]})
    assert metric_where.to_json(parse(stored)) == stored
    assert parse(leaf) == (Condition("status", "=", "paid"),)
    assert parse([]) == parse(None) == ()
    assert metric_where.rule(()) == {"all": []}


@pytest.mark.parametrize(
    ("rule", "place"),
    [
        ({"any": []}, "where.any"),
        ({"any": [{"not": []}]}, "where.any[0].not"),
        ({"all": [{"field": "status", "op": "=", "value": "paid"}, {"or": []}]}, "where.all[1]"),
        ({"any": [{"field": "status", "op": "=", "value": "x", "within": 3}]}, "where.any[0]"),
        ({"any": [{"field": "status", "op": "="}]}, "where.any[0].value"),
        ({"any": [{"field": "status", "op": "is_set", "value": True}]}, "where.any[0].value"),
        ({"any": [{"field": "status", "op": ["="], "value": "x"}]}, "where.any[0].op"),
        ({"not": {"field": "member", "op": "=", "value": "x"}}, "where.not.field"),
        ({"not": {"field": ["status"], "op": "=", "value": "x"}}, "where.not.field"),
        ({"any": [{"not": {"field": "status", "op": "like", "value": "x"}}]}, "where.any[0].not.op"),
        ({"not": {"field": "net_minor", "op": "=", "value": "much"}}, "where.not.value"),
        ({"any": [{"field": "net_minor", "op": "=", "value": 1}] * 21}, "where"),
        ("paid", "where"),
        ([{"column": "status", "op": "="}], "where[0]"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_by_its_place(rule: Any, place: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        metrics.check(spec(rule), FACTS)
    assert refused.value.field == place
    assert "." not in place or str(refused.value).startswith(f"{place}: ")


def test_groups_nest_eight_levels_deep_and_no_deeper() -> None:
    rule: dict[str, Any] = {"field": "status", "op": "=", "value": "paid"}
    for _ in range(metric_where.MAX_DEPTH - 1):
        rule = {"not": rule}
    metrics.check(spec(rule), FACTS)
    with pytest.raises(InvalidInput, match="deeper than 8 levels") as refused:
        spec({"not": rule})
    assert refused.value.field == "where" + ".not" * 8


ROWS: list[tuple[str, int]] = list(itertools.product(("paid", "cancelled", "refunded"), (100, 500, 900)))


@pytest.mark.parametrize(
    ("rule", "holds"),
    [
        (RULE, lambda s, a: (s == "paid" and a >= 500) or s not in ("paid", "refunded")),
        ({"any": [{"field": "status", "op": "=", "value": "paid"},
                  {"field": "total_minor", "op": ">", "value": 800}]}, lambda s, a: s == "paid" or a > 800),
        ({"not": {"all": [{"field": "status", "op": "!=", "value": "paid"},
                          {"field": "total_minor", "op": ">=", "value": 500}]}},
         lambda s, a: s == "paid" or a < 500),
        # Nothing has a coupon: a comparison with a missing value is false, and “not” of it true.
        ({"not": {"field": "coupon_code", "op": "=", "value": "A"}}, lambda s, a: True),
        ({"any": [{"field": "coupon_code", "op": "!=", "value": "A"}, {"not": {"field": "coupon_code",
          "op": "is_not_set"}}]}, lambda s, a: False),
        ({"any": [{"field": "status", "op": "=", "value": "x'; DROP TABLE orders; --"},
                  {"not": {"field": "status", "op": "in", "value": ["$p0", '"']}}]}, lambda s, a: True),
    ],
)  # fmt: skip
def test_a_rule_counts_what_plain_python_counts(
    sqlite_db: Database, home: Path, rule: Any, holds: Any
) -> None:
    orders = [
        (1, START + DAY, status, amount, 0 if status != "refunded" else amount) for status, amount in ROWS
    ]
    engine = warehouse(sqlite_db, home, orders)
    rule_spec = spec(rule)
    flat = replace(SPEND, where=(Condition("status", "=", "paid"),))
    query = compile_query([rule_spec, flat], FACTS, AS_OF)
    assert "DROP" not in query.sql
    assert query.sql.count(" x ON x.member_id") == 1, "one scan of the fact"
    table = assigned([(1, "a", START), (2, "a", START)])
    found = scan_metrics(engine, table, [rule_spec, flat], as_of=AS_OF)["a", None]
    # Net revenue of a cancelled or refunded order is 0, so the rule on it is asked about paid ones alone.
    assert found["x"].joint.means[0] * 2 == sum(bool(holds(*row)) for row in ROWS)
    assert found["spend"].joint.means[0] * 2 == 1500


def test_properties_of_events_are_compared_within_groups(sqlite_db: Database, home: Path) -> None:
    engine = warehouse(sqlite_db, home, [(1, START, "paid", 100, 0)])
    properties = [{"sku": "A", "price": 3}, {"sku": "B"}, {'o"dd.key': "yes"}, {"sku": "3"}]
    rows = [("test", f"e{n}", 1, "view", START + DAY, one) for n, one in enumerate(properties)]
    names = ("source", "external_id", "member_id", "kind", "occurred_at", "properties")
    with sqlite_db.write() as session:
        bulk_insert(session, Event.__table__, names, rows, conflict=["source", "external_id"])
        mark(session, "events", [START + DAY])
    engine.replica.sync(sqlite_db)
    cheap = {"all": [{"field": "properties.price", "op": ">=", "value": 2}]}
    rule = {"any": [cheap, {"field": 'properties.o"dd.key', "op": "=", "value": "yes"}]}
    counted = metrics.from_json("views", {"kind": "count", "fact": "events", "where": rule})
    other = replace(counted, name="others", where=parse({"not": rule}))
    table = assigned([(1, "a", START)])
    found = scan_metrics(engine, table, [counted, other], as_of=AS_OF)["a", None]
    assert (found["views"].joint.means[0], found["others"].joint.means[0]) == (2.0, 2.0)
