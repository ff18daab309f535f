"""Bad input: every mistake is refused with the path of its value, and the limits are named."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from apiflask import APIFlask
from click.testing import CliRunner

from core import settings as core_settings
from core.db import Database
from core.errors import InvalidInput
from core.settings import Settings
from loyalty.promotions.parse import MAX_LINES, read_request
from tests.loyalty.promotions.cases import Json, at_least, basket, off, percent, promotion
from web.api import keys
from web.api.views import create_blueprint
from web.cli import main

NOW = datetime(2026, 11, 11, tzinfo=UTC)
LINE = {"id": "a", "sku": "s", "unit_price": 100, "quantity": 1}


def refusal(request: Any) -> tuple[str | None, str]:
    with pytest.raises(InvalidInput) as caught:
        read_request(request, NOW)
    return caught.value.field, str(caught.value)


def with_line(**changes: Any) -> Json:
    return {**basket(), "lines": [LINE | changes]}


def with_benefit(benefit: Any) -> Json:
    return {**basket(100), "promotions": [{"id": "p", "benefit": benefit}]}


def with_condition(condition: Any) -> Json:
    return {**basket(100), "promotions": [promotion(off(1), conditions=[condition])]}


P, B, C = "promotions[0]", "promotions[0].benefit", "promotions[0].conditions[0]"
TIERED = {"type": "tiered", "by": "amount"}


MISTAKES: list[tuple[Any, str | None, str]] = [
    ([], None, "an object is needed"),
    ({**basket(100), "colour": 1}, "colour", "no such field"),
    ({**basket(100), "currency": "cny"}, "currency", "three capitals"),
    ({**basket(100), "currency": None}, "currency", "missing"),
    ({"currency": "CNY"}, "lines", "missing"),
    ({**basket(100), "lines": {}}, "lines", "a list is needed"),
    ({**basket(100), "at": "2026-11-11T12:00:00"}, "at", "with its offset"),
    ({**basket(100), "at": "0001-01-01T00:00:00+08:00"}, "at", "with its offset"),
    ({**basket(100), "at": 5}, "at", "with its offset"),
    ({**basket(100), "at": "2026-02-30T12:00:00Z"}, "at", "with its offset"),
    ({**basket(100), "at": "11/11/2026"}, "at", "with its offset"),
    ({**basket(100), "at": "3000-01-01T00:00:00Z"}, "at", "with its offset"),
    ({**basket(100), "promotions": [promotion(off(1), starts_at="soon")]}, f"{P}.starts_at", "offset"),
    ({**basket(100), "promotions": [promotion(off(1), ends_at=1)]}, f"{P}.ends_at", "offset"),
    (
        {**basket(100), "promotions": [promotion(off(1), limits={"per_day": 0})]},
        f"{P}.limits.per_day",
        "from 1",
    ),
    (with_benefit(percent(float("nan"))), f"{B}.percent", "not nan"),
    (with_benefit(percent(float("inf"))), f"{B}.percent", "not inf"),
    ({**basket(100), "shipping": -1}, "shipping", "minor units"),
    ({**basket(100), "shipping": 1.5}, "shipping", "minor units"),
    ({**basket(100), "codes": ["a", 1]}, "codes[1]", "a text"),
    ({**basket(100), "codes": "SPRING"}, "codes", "a list"),
    ({**basket(100), "codes": ["x\x00"]}, "codes[0]", "a text"),
    ({**basket(100), "member": {"age": 3}}, "member.age", "no such field"),
    ({**basket(100), "member": {"orders_placed": -1}}, "member.orders_placed", "whole number"),
    ({**basket(100), "member": {"segments": [None]}}, "member.segments[0]", "a text"),
    ({**basket(100), "member": {"birthday": "31-31"}}, "member.birthday", "a day"),
    ({**basket(100), "points_per_unit": "NaN"}, "points_per_unit", "a number"),
    (with_line(unit_price=-1), "lines[0].unit_price", "minor units"),
    (with_line(unit_price=12.5), "lines[0].unit_price", "not 12.5"),
    (with_line(unit_price=100.0), "lines[0].unit_price", "not 100.0"),
    (with_line(unit_price="100"), "lines[0].unit_price", "“100”"),
    (with_line(unit_price=True), "lines[0].unit_price", "not true"),
    (with_line(unit_price=float("nan")), "lines[0].unit_price", "not nan"),
    (with_line(unit_price=float("inf")), "lines[0].unit_price", "not inf"),
    (with_line(quantity=float("-inf")), "lines[0].quantity", "not -inf"),
    (with_line(quantity=-1), "lines[0].quantity", "not -1"),
    (with_line(quantity="2"), "lines[0].quantity", "“2”"),
    (with_line(unit_price=10**15 + 1), "lines[0].unit_price", "1000000000000000"),
    (with_line(unit_price=10**5000), "lines[0].unit_price", "that large a number"),
    (with_line(unit_price=None), "lines[0].unit_price", "missing"),
    (with_line(quantity=0), "lines[0].quantity", "from 1 to 1000000"),
    (with_line(quantity=1.5), "lines[0].quantity", "not 1.5"),
    (with_line(unit_price=10**12, quantity=1001), "lines[0].quantity", "more than 1000000000000000"),
    (with_line(floor_price=-5), "lines[0].floor_price", "minor units"),
    (with_line(currency="USD"), "lines[0].currency", "one currency"),
    (with_line(price=5), "lines[0].price", "no such field"),
    (with_line(id=""), "lines[0].id", "1 to 128"),
    (with_line(sku="s" * 129), "lines[0].sku", "1 to 128"),
    ({**basket(), "lines": [LINE, LINE]}, "lines[1].id", "another line's"),
    ({**basket(), "lines": [LINE | {"unit_price": 10**15}, LINE | {"id": "b"}]}, "lines", "together"),
    ({**basket(), "lines": [LINE | {"unit_price": 10**15}], "shipping": 1}, "lines", "together"),
    ({**basket(100), "promotions": [promotion(off(1))] * 2}, "promotions[1].id", "another promotion's"),
    ({**basket(100), "promotions": [promotion(off(1), currency="USD")]}, f"{P}.currency", "one currency"),
    ({**basket(100), "promotions": [promotion(off(1), nmae=1)]}, f"{P}.nmae", "no such field"),
    ({**basket(100), "promotions": [promotion(off(1), priority="1")]}, f"{P}.priority", "whole number"),
    ({**basket(100), "promotions": [promotion(off(1), exclusive=1)]}, f"{P}.exclusive", "true or false"),
    ({**basket(100), "promotions": [promotion(off(1), code=" ")]}, f"{P}.code", "a text"),
    (
        {**basket(100), "promotions": [promotion(off(1), limits={"stock": -1})]},
        f"{P}.limits.stock",
        "whole",
    ),
    (
        {
            **basket(100),
            "promotions": [
                promotion(off(1), starts_at="2026-01-01T00:00:00Z", ends_at="2026-01-01T08:00:00+08:00")
            ],
        },
        f"{P}.ends_at",
        "not after the start",
    ),
    ({**basket(100), "promotions": [{"id": "p"}]}, B, "missing"),
    (
        with_benefit({"type": "half"}),
        f"{B}.type",
        "“half” is no type of benefit; there are percent, fixed",
    ),
    (with_benefit({"type": ["fixed"]}), f"{B}.type", "a list is no type"),
    (with_benefit({}), f"{B}.type", "null is no type"),
    (with_benefit(off(0)), f"{B}.amount", "from 1"),
    (with_benefit({"type": "fixed"}), f"{B}.amount", "missing"),
    (with_benefit(percent(0)), f"{B}.percent", "above 0"),
    (with_benefit(percent(101)), f"{B}.percent", "at most 100"),
    (with_benefit(percent(1.234)), f"{B}.percent", "two decimals"),
    (with_benefit(percent("1e-999999999")), f"{B}.percent", "two decimals"),
    (with_benefit(percent(True)), f"{B}.percent", "not true"),
    (with_benefit(percent(10, max_amount=0)), f"{B}.max_amount", "from 1"),
    (with_benefit(percent(10, round="up")), f"{B}.round", "total, line"),
    (with_benefit(percent(10, round=[])), f"{B}.round", "total, line"),
    (with_benefit(off(1, scope={"sku": ["a"]})), f"{B}.scope.sku", "no such field"),
    (with_benefit(off(1, scope={"skus": []})), f"{B}.scope.skus", "1 to 1000 items"),
    (with_benefit(off(1, scope=[])), f"{B}.scope", "an object"),
    (with_benefit(TIERED), f"{B}.tiers", "missing"),
    (with_benefit(TIERED | {"tiers": [{"from": 1}]}), f"{B}.tiers[0]", "either off"),
    (
        with_benefit(TIERED | {"tiers": [{"from": 1, "off": 1, "percent": 1}]}),
        f"{B}.tiers[0]",
        "either off",
    ),
    (with_benefit(TIERED | {"tiers": [{"from": 1, "off": 1}] * 2}), f"{B}.tiers[1].from", "another tier"),
    (
        with_benefit(TIERED | {"tiers": [{"from": 1, "percent": 1}], "repeat": True}),
        f"{B}.tiers[0].percent",
        "does not repeat",
    ),
    (with_benefit({"type": "points"}), B, "either amount"),
    (with_benefit({"type": "points", "times": 1}), f"{B}.times", "above 1"),
    (with_benefit({"type": "gift", "quantity": 1}), f"{B}.sku", "missing"),
    (with_benefit({"type": "free_shipping", "amount": 1}), f"{B}.amount", "no such field"),
    (with_benefit({"type": "buy_x_get_y", "buy": 0, "get": 1}), f"{B}.buy", "from 1"),
    (with_benefit({"type": "fixed_price", "count": 3, "price": -1}), f"{B}.price", "minor units"),
    (
        with_condition({"type": "moon"}),
        f"{C}.type",
        "“moon” is no type of condition; there are min_subtotal",
    ),
    (with_condition(5), C, "an object"),
    (with_condition(at_least(-1)), f"{C}.amount", "minor units"),
    (with_condition({"type": "tier", "in": []}), f"{C}.in", "1 to 1000 items"),
    (with_condition({"type": "tier"}), f"{C}.in", "missing"),
    (with_condition({"type": "weekday", "in": [0]}), f"{C}.in[0]", "1 (Monday) to 7"),
    (with_condition({"type": "member_day", "day": 32}), f"{C}.day", "from 1 to 31"),
    (with_condition({"type": "any", "conditions": []}), f"{C}.conditions", "1 to 100 items"),
    (with_condition({"type": "not"}), f"{C}.condition", "an object"),
    (
        with_condition({"type": "any", "conditions": [at_least(1), {"type": "first_order", "n": 1}]}),
        f"{C}.conditions[1].n",
        "no such field",
    ),
]


@pytest.mark.parametrize(("request_", "path", "words"), MISTAKES)
def test_a_mistake_is_named_by_its_path(request_: Any, path: str | None, words: str) -> None:
    sent = copy.deepcopy(request_) if not isinstance(request_, list) else request_
    field, message = refusal(sent)
    assert field == path
    assert words in message
    assert message.startswith(f"{path}: " if path else "the basket: ")
    assert len(message) < 500


def test_ten_thousand_lines_are_refused_with_the_limit() -> None:
    lines = [LINE | {"id": str(number)} for number in range(10_000)]
    field, message = refusal({**basket(), "lines": lines})
    assert field == "lines"
    assert f"0 to {MAX_LINES} items are allowed; there are 10000" in message
    assert len(read_request({**basket(), "lines": lines[:MAX_LINES]}, NOW).basket.lines) == MAX_LINES


def test_conditions_nest_to_the_limit_and_no_deeper() -> None:
    def nested(levels: int) -> Json:
        found: Json = {"type": "first_order"}
        for _ in range(levels - 1):
            found = {"type": "not", "condition": found}
        return found

    assert read_request(with_condition(nested(8)), NOW).promotions
    field, message = refusal(with_condition(nested(9)))
    assert field == C + ".condition" * 8
    assert "at most 8 levels" in message
    field, _ = refusal(with_condition(nested(900)))
    assert field == C + ".condition" * 8


def test_a_promotion_has_a_limit_of_conditions_in_all() -> None:
    many = {"type": "any", "conditions": [{"type": "first_order"}] * 60}
    field, message = refusal({**basket(100), "promotions": [promotion(off(1), conditions=[many, many])]})
    assert (field, "at most 100 conditions" in message) == ("promotions[0].conditions", True)


def test_the_largest_amounts_are_priced_exactly() -> None:
    found = read_request(with_line(unit_price=10**15), NOW)
    assert found.basket.lines[0].subtotal == 10**15


# --- The same by the command line and by HTTP -----------------------------------------------------------


def written(request: Any) -> str | None:
    """As JSON; None for what JSON's own reader does not take (a number of 5,000 digits)."""
    try:
        return json.dumps(request)
    except ValueError:
        return None


def many() -> list[tuple[str, str | None, str]]:
    lines = [LINE | {"id": str(number)} for number in range(10_000)]
    deep: Json = {"type": "first_order"}
    for _ in range(50):
        deep = {"type": "not", "condition": deep}
    more: list[tuple[Any, str | None, str]] = [
        ({**basket(), "lines": lines}, "lines", "0 to 1000 items"),
        (with_condition(deep), C + ".condition" * 8, "at most 8 levels"),
    ]
    found = [(written(request), path, words) for request, path, words in MISTAKES + more]
    return [(text, path, words) for text, path, words in found if text is not None]


def test_the_command_line_names_every_mistake_and_ends_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUILIU_HOME", str(tmp_path / "home"))
    core_settings.load.cache_clear()
    for text, path, words in many():
        result = CliRunner().invoke(main, ["price", "-", "--json"], input=text)
        assert (result.exit_code, result.stdout) == (1, ""), text[:500]
        assert f"{path or 'the basket'}: " in result.stderr, text[:500]
        assert words in result.stderr, text[:500]
        assert len(result.stderr.splitlines()) == 1
    core_settings.load.cache_clear()


def test_the_api_names_every_mistake_and_answers_422(sqlite_db: Database, settings: Settings) -> None:
    app = APIFlask("test", spec_path=None, docs_path=None)
    unlimited = settings.model_copy(update={"api_rate": "100000/minute"})
    app.register_blueprint(create_blueprint(sqlite_db, unlimited, clock=lambda: NOW))
    with sqlite_db.write() as session:
        token = keys.create(session, "till", ["read"], "ann", NOW)[1]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    client = app.test_client()
    for text, path, words in many():
        answer = client.post("/api/v1/promotions/evaluate", data=text, headers=headers)
        error = answer.get_json()["error"]
        assert (answer.status_code, error["code"]) == (422, "invalid_input"), text[:500]
        if text == "[]":
            continue
        assert (error["field"], words in error["message"]) == (path, True), (text[:500], error)


@pytest.mark.parametrize(
    "text", ["{", "", "[" * 100_000, '{"currency": ' * 5_000, '{"shipping": 1' + "0" * 5_000 + "}"]
)
def test_what_is_no_json_is_refused_by_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sqlite_db: Database, settings: Settings, text: str
) -> None:
    monkeypatch.setenv("HUILIU_HOME", str(tmp_path / "home"))
    core_settings.load.cache_clear()
    result = CliRunner().invoke(main, ["price", "-"], input=text)
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    core_settings.load.cache_clear()
    app = APIFlask("test", spec_path=None, docs_path=None)
    app.register_blueprint(create_blueprint(sqlite_db, settings, clock=lambda: NOW))
    with sqlite_db.write() as session:
        token = keys.create(session, "till", ["read"], "ann", NOW)[1]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    answer = app.test_client().post("/api/v1/promotions/evaluate", data=text, headers=headers)
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (400, "bad_request")
