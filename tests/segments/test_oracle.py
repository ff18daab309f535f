"""Generated rules over generated shops: DuckDB answers what plain Python answers."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.segments.conftest import Shop, ago
from tests.segments.oracle import matches

SHOPS, MEMBERS = 4, 150
NASTY = (
    "",
    "a",
    "A",
    "ab",
    "北京",
    "it's",
    'q"',
    "\\",
    "%",
    "_",
    "a,b",
    "42",
    "007",
    "-1.5",
    "nan",
    "1e3",
    "\u202e",
)
WORDS = st.sampled_from(NASTY)
NAMES = ("size", "a.b", "x y")
DAYS = (-1, 0, 0.00001, 0.5, 1, 1.00001, 6.9999, 7, 7.0001, 29, 30, 31, 364, 365, 400)
"""Days before the as-of instant: the boundaries of the windows below and what lies beside them."""
SPANS = st.sampled_from(("1d", "7d", "30d", "365d"))
DATES = ("1992-02-29", "2000-03-01", "2025-02-28", "2026-01-29", "2026-02-21", "2026-02-27", "2026-03-01")
NUMBERS = st.sampled_from((-1.5, 0, 0.1, 1, 1, 2, 2, 3, 7, 10, 30, 42))


def people(seed: int) -> Iterator[dict[str, Any]]:
    """Members with what they did, for a shop of that number: many, as few are near any boundary."""
    pick = random.Random(seed)

    def word() -> str | None:
        return pick.choice((None, *NASTY))

    def thing() -> dict[str, Any]:
        values = (None, *NASTY, -3, 1, 7, 42, 0.1, 0.5, -1.5)
        return {name: pick.choice(values) for name in NAMES if pick.random() < 0.6}

    for _ in range(MEMBERS):
        yield {
            "city": word(),
            "has_phone": pick.choice((None, True, False)),
            "birthday": pick.choice((None, *map(date.fromisoformat, DATES))),
            "registered_at": pick.choice((None, *[ago(days) for days in DAYS if days > 0])),
            "tags": json.dumps(pick.sample(NASTY, pick.randrange(3)), ensure_ascii=pick.random() < 0.5),
            "attributes": json.dumps(thing(), ensure_ascii=pick.random() < 0.5),
            "orders": [order(pick) for _ in range(pick.randrange(4))],
            "events": [
                (pick.choice(("view", "pay")), pick.choice(DAYS), thing()) for _ in range(pick.randrange(4))
            ],
        }


def order(pick: random.Random) -> tuple[float, int, dict[str, Any]]:
    amount, status = (
        pick.choice((0, 10, 100, 999, 4200)),
        pick.choice(("paid", "paid", "refunded", "cancelled")),
    )
    columns = {
        "status": status,
        "net_minor": {"paid": amount, "refunded": amount // 2, "cancelled": 0}[status],
        "discount_minor": pick.choice((0, 10, 100)),
        "channel": pick.choice((None, *NASTY)),
    }
    return pick.choice(DAYS), amount, columns


def condition(draw: Any, kind: str) -> dict[str, Any]:
    """{op, value} for a kind of field: every operator that it takes."""
    values = {"text": WORDS, "number": NUMBERS, "date": st.sampled_from(DATES)}[kind]
    ordered = [">", ">=", "<", "<=", "between"]
    own = {
        "text": ["contains", "starts_with"],
        "number": ordered,
        "date": [*ordered, "in_last", "in_next", "anniversary_in"],
    }
    lists = [] if kind == "date" else ["in", "not_in"]
    op = draw(st.sampled_from(["=", "!=", *lists, *own[kind], "is_set", "is_not_set"]))
    if op in ("is_set", "is_not_set"):
        return {"op": op}
    if op in ("in_last", "in_next", "anniversary_in"):
        return {"op": op, "value": draw(SPANS)}
    if op in ("in", "not_in"):
        return {"op": op, "value": draw(st.lists(values, min_size=1, max_size=3))}
    if op == "between":
        return {"op": op, "value": sorted([draw(values), draw(values)])}
    return {"op": op, "value": draw(values)}


@st.composite
def fields(draw: Any) -> dict[str, Any]:
    name = draw(
        st.sampled_from(("city", "birthday", "registered_at", "has_phone", "tags", "attribute", "attribute"))
    )
    if name == "has_phone":
        return {"field": name, "op": "=", "value": draw(st.booleans())}
    if name == "tags":
        op = draw(st.sampled_from(("matches_any", "is_set", "is_not_set")))
        values = {"value": draw(st.lists(WORDS, min_size=1, max_size=2))} if op == "matches_any" else {}
        return {"field": name, "op": op, **values}
    if name == "attribute":
        return {
            "field": f"attributes.{draw(st.sampled_from(NAMES))}",
            **condition(draw, draw(st.sampled_from(("text", "number")))),
        }
    return {"field": name, **condition(draw, "text" if name == "city" else "date")}


@st.composite
def events(draw: Any) -> dict[str, Any]:
    event = draw(st.sampled_from(("order", "view", "pay")))
    typed = {"amount": "number", "discount": "number", "channel": "text", "status": "text"}
    if event == "order":
        where = [
            {"field": name, **condition(draw, typed[name])}
            for name in draw(st.lists(st.sampled_from(list(typed)), max_size=2))
        ]
        numeric, anything = ["amount", "discount"], list(typed)
    else:
        kinds = st.sampled_from(("text", "number"))
        where = [
            {"field": name, **condition(draw, draw(kinds))}
            for name in draw(st.lists(st.sampled_from(NAMES), max_size=2))
        ]
        numeric = anything = ["size", "a.b", "x y"]
    aggregate = draw(st.sampled_from(("count", "sum", "avg", "min", "max", "distinct", "days_since")))
    rule: dict[str, Any] = {"event": event, "where": where, "aggregate": aggregate}
    if aggregate not in ("count", "days_since"):
        rule["of"] = draw(st.sampled_from(anything if aggregate == "distinct" else numeric))
    compared = condition(draw, "number")
    if compared["op"] in ("is_set", "is_not_set"):
        compared = {"op": ">=", "value": 1}
    within = draw(st.one_of(st.none(), SPANS.map(lambda span: {"last": span}), st.sampled_from(DATES).map(lambda day: {"before": day}),
                            st.lists(st.sampled_from(DATES), min_size=2, max_size=2, unique=True).map(lambda two: {"between": sorted(two)})))  # fmt: skip
    return rule | compared | ({} if within is None else {"within": within})


def grouped(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(children, min_size=1, max_size=3)
    return st.one_of(
        several.map(lambda nodes: {"all": nodes}), several.map(lambda nodes: {"any": nodes}),
        children.map(lambda node: {"not": node}),
    )  # fmt: skip


RULES = st.recursive(st.one_of(fields(), events()), grouped, max_leaves=6).filter(
    lambda rule: depth(rule) <= 8
)


def depth(rule: Any) -> int:
    children = rule.get("all") or rule.get("any") or ([rule["not"]] if "not" in rule else [])
    return 1 + max(map(depth, children), default=0)


def lay_out(shop: Shop, seed: int) -> None:
    for number, person in enumerate(people(seed), 1):
        columns = {key: value for key, value in person.items() if key not in ("orders", "events")}
        shop.member(number, **columns)
        for days, amount, more in person["orders"]:
            shop.order(number, days, amount, **more)
        for kind, days, properties in person["events"]:
            shop.event(number, kind, days, json.dumps(properties))
    shop.snapshot()


def expected(shop: Shop, rule: Any) -> set[int]:
    own: dict[int, dict[str, list[Any]]] = defaultdict(lambda: {"orders": [], "events": []})
    for name in ("orders", "events"):
        for row in shop.rows[name]:
            own[row["member_id"]][name].append(row)
    return {m["member_id"] for m in shop.rows["members"] if matches(rule, m, own[m["member_id"]])}


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> list[Shop]:
    made = [Shop(tmp_path_factory.mktemp("oracle")) for _ in range(SHOPS)]
    for seed, shop in enumerate(made):
        lay_out(shop, seed)
    return made


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(number=st.integers(0, SHOPS - 1), rule=RULES)
def test_duckdb_agrees_with_plain_python(shops: list[Shop], number: int, rule: Any) -> None:
    shop = shops[number]
    found = set(shop.evaluator().members(rule).column("member_id").to_pylist())
    assert found == expected(shop, rule), json.dumps(rule, ensure_ascii=False)
