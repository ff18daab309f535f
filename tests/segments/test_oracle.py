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

from segments.compile import compile_many
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
            "lists": [name for name in ("one", "two") if pick.random() < 0.3],
            "orders": [order(pick) for _ in range(pick.randrange(4))],
            "events": [
                (pick.choice(("view", "pay")), pick.choice(DAYS), thing())
                for _ in range(pick.choice((0, 1, 2, 4, 9)))
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
    aggregate = draw(
        st.sampled_from(("count", "sum", "avg", "min", "max", "distinct", "days_since", "first", "last"))
    )
    rule: dict[str, Any] = {"event": event, "where": where, "aggregate": aggregate}
    if aggregate in ("first", "last"):
        compared = extreme(draw, event, rule, anything, typed)
    else:
        if aggregate not in ("count", "days_since"):
            rule["of"] = draw(st.sampled_from(anything if aggregate == "distinct" else numeric))
        compared = condition(draw, "number")
        if compared["op"] in ("is_set", "is_not_set"):
            compared = {"op": ">=", "value": 1}
    within = draw(st.one_of(st.none(), WINDOWS, anchored()))
    return rule | compared | ({} if within is None else {"within": within})


def extreme(draw: Any, event: str, rule: dict[str, Any], names: Any, typed: Any) -> dict[str, Any]:
    """A comparison of the first or last event's date, or of a property of it."""
    of = draw(st.sampled_from((None, *names)))
    if of is None:
        return condition(draw, "date")
    rule["of"] = of
    return condition(draw, typed[of] if event == "order" else draw(st.sampled_from(("text", "number"))))


def ordered(two: list[Any]) -> list[Any]:
    return sorted(two, key=lambda text: -int(text[:-1]) * (24 if text[-1] == "d" else 1))


LENGTHS = ("1h", "12h", "24h", "25h", "1d", "6d", "7d", "30d", "365d")
WINDOWS = st.one_of(
    st.sampled_from(LENGTHS).map(lambda span: {"last": span}),
    st.sampled_from((*DATES, *LENGTHS)).map(lambda bound: {"before": bound}),
    st.lists(st.sampled_from(DATES), min_size=2, max_size=2, unique=True).map(
        lambda two: {"between": sorted(two)}
    ),
    st.lists(st.sampled_from(("1h", "12h", "25h", "2d", "6d", "7d", "30d", "365d")), min_size=2, max_size=2,
             unique=True).map(lambda two: {"between": ordered(two)}),
)  # fmt: skip


@st.composite
def happenings(draw: Any) -> dict[str, Any]:
    event = draw(st.sampled_from(("order", "view", "pay")))
    if draw(st.integers(0, 3)):
        return {"event": event}
    if event == "order":
        return {"event": event, "where": [{"field": "amount", **condition(draw, "number")}]}
    return {"event": event, "where": [{"field": "size", **condition(draw, "text")}]}


@st.composite
def anchored(draw: Any) -> dict[str, Any]:
    which = draw(st.sampled_from(("first", "last")))
    found: dict[str, Any] = {"since_event": {**draw(happenings()), "which": which}}
    limit = draw(st.sampled_from((None, *LENGTHS)))
    return found if limit is None else {**found, "for": limit}


@st.composite
def sequences(draw: Any) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [draw(happenings())]
    size = draw(st.integers(2, 5))
    while len(steps) < size:
        limit = draw(st.sampled_from((None, *LENGTHS)))
        if draw(st.booleans()):
            steps.append(draw(happenings()) | ({} if limit is None else {"within": limit}))
        else:
            steps.append({"not": draw(happenings())})
    last = max(i for i, step in enumerate(steps) if "not" not in step)
    for step in steps[last + 1 :]:
        step["within"] = draw(st.sampled_from(LENGTHS))
    within = draw(st.one_of(st.none(), WINDOWS))
    return {"sequence": steps} | ({} if within is None else {"within": within})


def grouped(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(children, min_size=1, max_size=3)
    return st.one_of(
        several.map(lambda nodes: {"all": nodes}), several.map(lambda nodes: {"any": nodes}),
        children.map(lambda node: {"not": node}),
    )  # fmt: skip


LISTED = st.sampled_from(("one", "two")).map(lambda name: {"list": name})
RULES = st.recursive(st.one_of(fields(), events(), sequences(), LISTED), grouped, max_leaves=6).filter(
    lambda rule: depth(rule) <= 8
)


def depth(rule: Any) -> int:
    children = rule.get("all") or rule.get("any") or ([rule["not"]] if "not" in rule else [])
    return 1 + max(map(depth, children), default=0)


def lay_out(shop: Shop, seed: int) -> None:
    for number, person in enumerate(people(seed), 1):
        columns = {key: value for key, value in person.items() if key not in ("orders", "events", "lists")}
        shop.member(number, **columns)
        for name in person["lists"]:
            shop.add("lists", list=name, member_id=number)
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
    listed: dict[int, set[str]] = defaultdict(set)
    for row in shop.rows["lists"]:
        listed[row["member_id"]].add(row["list"])
    return {
        m["member_id"]
        for m in shop.rows["members"]
        if matches(rule, m | {"lists": listed[m["member_id"]]}, own[m["member_id"]])
    }


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> list[Shop]:
    made = [Shop(tmp_path_factory.mktemp("oracle")) for _ in range(SHOPS)]
    for seed, shop in enumerate(made):
        lay_out(shop, seed)
    return made


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(number=st.integers(0, SHOPS - 1), rule=RULES)
def test_duckdb_agrees_with_plain_python(shops: list[Shop], number: int, rule: Any) -> None:
    shop = shops[number]
    found = set(shop.evaluator().members(rule).column("member_id").to_pylist())
    assert found == expected(shop, rule), json.dumps(rule, ensure_ascii=False)


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(number=st.integers(0, SHOPS - 1), rule=sequences())
def test_sequences_agree_with_trying_every_choice(shops: list[Shop], number: int, rule: Any) -> None:
    shop = shops[number]
    found = set(shop.evaluator().members(rule).column("member_id").to_pylist())
    assert found == expected(shop, rule), json.dumps(rule, ensure_ascii=False)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(number=st.integers(0, SHOPS - 1), rules=st.lists(RULES, min_size=2, max_size=12))
def test_many_rules_in_one_query_agree_with_plain_python(shops: list[Shop], number: int, rules: Any) -> None:
    evaluator = shops[number].evaluator()
    table = evaluator.run(compile_many(rules, evaluator.moment))
    ids = table.column("member_id").to_pylist()
    for place, rule in enumerate(rules):
        flags = table.column(f"b{place}").to_pylist()
        found = {member for member, flag in zip(ids, flags, strict=True) if flag}
        assert found == expected(shops[number], rule), json.dumps(rule, ensure_ascii=False)
