"""Rules over a small shop: every operator, aggregate, window and sequence; hostile values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import sqlglot
from sqlglot import exp

from core.warehouse.engine import DuckEngine
from segments.compile import compile_many
from segments.rules import AGGREGATES, EVENTS, FIELDS
from segments.words import in_words
from tests.segments.cases import CASES, RULES, Case, build, evaluator_of, run_case
from tests.segments.conftest import Shop, ago
from tests.segments.rules_shop import e, f, matching, steps, without


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    shop = Shop(tmp_path_factory.mktemp("rules"))
    build(shop)
    shop.snapshot()
    return shop


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_rule_matches_whom_it_describes(small: Shop, case: Case) -> None:
    assert run_case(small.engine, case) == case.expected


@pytest.mark.parametrize("case", CASES[::7], ids=lambda case: case.id)
def test_count_and_matches_agree_with_the_members(small: Shop, case: Case) -> None:
    evaluator = evaluator_of(small.engine)
    found = evaluator.count(case.rule)
    assert (found.count, found.total) == (len(case.expected), 5), "who is not there yet is not in the total"
    assert found.sample == sorted(f"m{member}" for member in case.expected)
    assert found.share == pytest.approx(len(case.expected) / 5)
    for member in (1, 4):
        assert evaluator.matches(case.rule, member) is (member in case.expected)


def test_all_rules_in_one_query_answer_what_each_answers_alone(small: Shop) -> None:
    evaluator = evaluator_of(small.engine)
    for start in range(0, len(CASES), 60):
        some = CASES[start : start + 60]
        query = compile_many([case.rule for case in some], evaluator.moment, RULES.get)
        table = evaluator.run(query)
        ids = table.column("member_id").to_pylist()
        for number, case in enumerate(some):
            flags = table.column(f"b{number}").to_pylist()
            assert {member for member, flag in zip(ids, flags, strict=True) if flag} == case.expected, case.id


@pytest.mark.parametrize("case", CASES[::3], ids=lambda case: case.id)
def test_the_explanation_agrees_and_its_parts_make_the_whole(small: Shop, case: Case) -> None:
    evaluator = evaluator_of(small.engine)
    for member in (1, 3):
        found = evaluator.explain(case.rule, member)
        assert (found.there, found.matched) == (True, member in case.expected)
        assert bool(found.failing()) is not found.matched
    assert evaluator.explain(case.rule, 4).there is False, "registered on the as-of day"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_rules_query_is_one_statement_that_reads_sane_for_spark(small: Shop, case: Case) -> None:
    text = evaluator_of(small.engine).sql(case.rule)
    statements = sqlglot.transpile(text, read="duckdb", write="spark")
    assert len(statements) == 1
    spark = sqlglot.parse_one(statements[0], read="spark")
    assert isinstance(spark, exp.Query)
    assert not list(spark.find_all(exp.Command, exp.Anonymous)), "a function that no dialect knows"
    assert not any(isinstance(kind.this, str) for kind in spark.find_all(exp.DataType))


def test_the_same_aggregate_is_computed_once_for_all_rules(small: Shop) -> None:
    moment = evaluator_of(small.engine).moment
    rules = [e("view", ">=", n, within={"last": "30d"}) for n in range(1, 20)]
    text = compile_many(rules, moment).sql("duckdb")
    assert text.count("COUNT(*)") == 1
    assert text.count("FROM events") == 1


def test_many_short_windows_get_a_scan_of_their_own_beside_a_long_one(small: Shop) -> None:
    moment = evaluator_of(small.engine).moment
    kinds = ("view", "cart", "buy", "wish")
    rules = [e(kind, within={"last": "7d"}) for kind in kinds] + [e("view", ">=", 2)]
    text = compile_many(rules, moment).sql("duckdb")
    assert text.count("FROM events") == 2
    assert compile_many(rules[:4], moment).sql("duckdb").count("FROM events") == 1


def test_a_json_property_is_read_once_a_row_for_all_who_look_at_it(small: Shop) -> None:
    moment = evaluator_of(small.engine).moment
    rules = [e("view", where=[f("sku", "=", sku)]) for sku in "abcdefgh"]
    assert compile_many(rules, moment).sql("duckdb").count("->>") == 1


def test_every_field_operator_event_and_aggregate_is_in_the_table() -> None:
    """A new field, operator or event without a case here is one that nobody tried."""
    text = json.dumps([case.rule for case in CASES])
    nodes: list[Any] = []

    def walk(node: Any) -> None:
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            walk(child)
        if isinstance(node, dict) and "op" in node:
            nodes.append(node)

    walk([case.rule for case in CASES])
    assert {node["event"] for node in nodes if "event" in node} >= set(EVENTS)
    assert {node.get("aggregate") for node in nodes} >= set(AGGREGATES) - {"count"}
    untried = {name for name in FIELDS if f'"{name}"' not in text}
    assert untried <= {"province", "timezone", "has_wechat"}, "columns like their neighbours"
    assert {node["op"] for node in nodes} == {
        "=", "!=", ">", ">=", "<", "<=", "between", "in", "not_in", "contains", "starts_with", "matches_any",
        "is_set", "is_not_set", "in_last", "in_next", "anniversary_in",
    }  # fmt: skip
    properties = {(name, key) for name, source in EVENTS.items() for key in source.properties}
    tried = {(n["event"], w["field"]) for n in nodes if "event" in n for w in n.get("where", [])}
    tried |= {(n["event"], n["of"]) for n in nodes if "of" in n}
    assert properties - tried <= {(name, key) for name in EVENTS for key in ("purpose", "channel")}


def test_rules_do_not_see_the_day_they_are_asked_on_but_yesterdays_midnight(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.member(1)
    shop.event(1, "view", 1 / 86_400)  # a second before midnight in the shop's zone
    shop.member(2)
    shop.event(2, "view", 0)
    shop.snapshot()
    assert matching(shop, e("view")) == {1}
    assert matching(shop, e("view", within={"between": ["2026-02-28", "2026-03-01"]})) == {1}
    assert matching(shop, e("view", "=", 1, aggregate="days_since")) == {1}


def test_a_rule_works_without_a_snapshot_and_without_facts(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    assert matching(shop, e("order")) == set()
    assert shop.evaluator().count(e("order")).share == 0.0
    shop.member(1)
    shop.write()
    assert matching(shop, e("order", "=", 0)) == {1}
    assert matching(shop, f("lifecycle", "is_not_set")) == {1}


def test_who_ordered_was_there_whatever_the_registration_says(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.member(1, registered_at=ago(-3))
    shop.order(1, 5)
    shop.member(2, registered_at=ago(-3))
    shop.order(2, -1)
    shop.write()
    rules = [e("order"), steps("order", without("view", "1d")), e("order", "=", 0), f("city", "is_not_set")]
    evaluator = shop.evaluator()
    assert [matching(shop, rule) for rule in rules] == [{1}, {1}, set(), set()]
    table = evaluator.run(compile_many(rules, evaluator.moment)).sort_by("member_id")
    assert [table.column(f"b{n}").to_pylist() for n in range(4)] == [
        [True, None],
        [True, False],
        [False, False],
        [False, False],
    ]
    assert [evaluator.explain(rule, 1).matched for rule in rules] == [True, True, False, False]
    shop.snapshot()
    assert [matching(shop, rule) for rule in rules] == [{1}, {1}, set(), {1}], "the snapshot knows who bought"


def test_sums_of_money_are_exact(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.member(1)
    for _ in range(10):
        shop.order(1, 5, 10)  # ten times 0.10 is 1, not 0.9999999999999999
    shop.snapshot()
    assert matching(shop, e("order", "=", 1, aggregate="sum", of="amount")) == {1}
    assert matching(shop, e("order", "=", 0.1, aggregate="avg", of="amount")) == {1}


def test_every_rule_of_the_table_has_words() -> None:
    for case in CASES:
        for locale in ("en", "zh"):
            assert in_words(case.rule, locale)


def test_a_what_if_engine_counts_rows_that_no_file_holds(small: Shop) -> None:
    rows = [
        {
            "order_id": 99,
            "member_id": 3,
            "external_id": "x",
            "ordered_at": small.rows["orders"][0]["ordered_at"],
            "status": "paid",
            "total_minor": 1,
            "refunded_minor": 0,
            "net_minor": 1,
            "discount_minor": 0,
        }
    ]
    schema = small.engine.replica.facts["orders"].schema
    extra = pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema)
    engine = DuckEngine(small.engine.replica, extra={"orders": extra})
    assert evaluator_of(engine).count(e("order")).count == 5
    assert evaluator_of(small.engine).count(e("order")).count == 4


def test_the_total_follows_the_files_and_not_what_was_counted_before(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.member(1)
    shop.write()
    assert shop.evaluator().count(e("order")).total == 1
    shop.member(2, registered_at=ago(-1))
    shop.write()
    assert shop.evaluator().count(e("order")).total == 1
    shop.order(2, 3)
    shop.snapshot()
    found = shop.evaluator().count(e("order"), 0)
    assert (found.count, found.total, found.sample) == (1, 2, [])


def test_a_sample_is_as_long_as_asked_and_in_order(small: Shop) -> None:
    evaluator = evaluator_of(small.engine)
    assert evaluator.count(f("member_id", "is_set"), 2).sample == ["m1", "m2"]
    assert evaluator.count(f("member_id", "is_set"), -1).sample == []


def test_overlaps_are_counted_together(small: Shop) -> None:
    count, others = evaluator_of(small.engine).overlap(e("order"), ["beijing", "either", "missing_city"])
    assert count == 4
    assert [(one.name, one.count, one.both) for one in others] == [
        ("beijing", 1, 1), ("either", 2, 2), ("missing_city", 3, 3),
    ]  # fmt: skip
    assert (others[1].share_of_rule, others[1].share_of_segment) == (0.5, 1.0)


def test_suggestions_are_the_commonest_values_first(small: Shop) -> None:
    evaluator = evaluator_of(small.engine)

    def told(name: str, **more: Any) -> list[tuple[str, int]]:
        return [(one.value, one.number) for one in evaluator.suggestions(name, **more)]

    assert told("tags", prefix="VIP") == [("vip", 1), ("vip2", 1)]
    assert told("city", prefix="shang") == [("Shanghai", 1)]
    assert told("attributes.level") == [("Gold", 1), ("gold", 1)]
    assert told("sku", event="view", limit=1) == [("mug", 2)]
    assert told("channel", event="order") == [("app", 1), ("web", 1)], "of the last 90 days alone"
    assert told("city", prefix="' OR 1=1 --") == []


def test_an_explanation_names_the_condition_that_fails_and_the_members_own_value(small: Shop) -> None:
    rule = {
        "all": [
            {"segment": "buyers"},
            {"any": [e("order", ">=", 3), f("city", "=", "Paris")]},
            {"not": {"list": "vip"}},
        ]
    }
    found = evaluator_of(small.engine).explain(rule, 1)
    assert found.matched is False
    assert [(one.path, one.words, one.value) for one in found.failing()] == [
        ("all[1].any[0]", "has at least 3 orders", 2),
        ("all[1].any[1]", "City is “Paris”", "北京"),
        ("all[2].not", "is on the list “vip”", True),
    ]
    segment = found.rule.parts[0]
    assert (segment.path, segment.matched, segment.parts[0].path) == (
        "all[0]",
        True,
        "all[0].segment(buyers)/",
    )
    chinese = evaluator_of(small.engine).explain(rule, 1, "zh")
    assert chinese.failing()[0].words == "有至少 3 笔订单"
