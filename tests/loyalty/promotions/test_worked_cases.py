"""The worked cases by the function, the command line and the API, and the form of an answer."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from apiflask import APIFlask
from click.testing import CliRunner
from flask.testing import FlaskClient

from core import settings as core_settings
from core.db import Database
from core.settings import Settings
from loyalty.promotions.parse import read_request
from loyalty.promotions.prices import price_own
from tests.conftest import count
from tests.loyalty.data import NOW
from tests.loyalty.promotions.cases import WORKED, Json, basket, off, percent, promotion, worked
from web.api import keys
from web.api.views import create_blueprint
from web.cli import main

ZONE = ZoneInfo("Asia/Shanghai")
EXAMPLE = {
    "currency": "CNY", "at": "2026-11-11T12:00:00+08:00",
    "member": {"id": "m1", "tier": "gold", "orders_placed": 4, "segments": ["loyal"]},
    "lines": [{"id": "a", "sku": "mug", "category": "mugs", "unit_price": 2000, "quantity": 3, "floor_price": 1500}],
    "shipping": 1000, "codes": ["SPRING"],
    "promotions": [
        {"id": "p1", "priority": 10, "exclusive": False, "group": None, "code": None, "starts_at": None, "ends_at": None,
         "conditions": [], "benefit": {"type": "percent", "percent": 10, "scope": {}, "max_amount": None}},
        {"id": "p2", "conditions": [{"type": "min_subtotal", "amount": 10000, "scope": {"categories": ["mugs"]}}],
         "benefit": {"type": "fixed", "amount": 100}},
    ],
}  # fmt: skip
ANSWER = {
    "lines": [{"id": "a", "subtotal": 6000, "discount": 600, "total": 5400,
               "adjustments": [{"promotion": "p1", "amount": 600}]}],
    "subtotal": 6000, "discount": 600, "shipping": 1000, "shipping_discount": 0, "total": 6400,
    "gifts": [], "points": 0,
    "applied": [{"promotion": "p1", "amount": 600}],
    "rejected": [{"promotion": "p2", "reason": "min_subtotal",
                  "detail": "Needs 100.00 CNY of qualifying goods; there are 54.00 CNY. Add 46.00 CNY.",
                  "detail_zh": "适用商品需满 100 元，现为 54 元，还差 46 元。"}],
}  # fmt: skip
WIDE = {
    **basket(),
    "lines": [{"id": str(n), "sku": "s", "unit_price": 1, "quantity": 1} for n in range(1000)],
    "promotions": [{"id": str(n), "benefit": {"type": "free_shipping"}} for n in range(700)],
}
"""Three of these are more work than one call may ask for."""


def price(request: Json) -> dict[str, Any]:
    return price_own(read_request(request, datetime(2026, 11, 11, tzinfo=UTC)), ZONE)


def check(name: str, found: dict[str, Any]) -> None:
    given, promotions, discounts, total = WORKED[name]
    assert [line["discount"] for line in found["lines"]] == discounts
    assert (found["discount"], found["total"]) == (sum(discounts), total)
    assert found["subtotal"] == sum(line["unit_price"] * line["quantity"] for line in given["lines"])
    judged = [one["promotion"] for one in (*found["applied"], *found["rejected"])]
    assert sorted(judged) == sorted(one["id"] for one in promotions)


@pytest.mark.parametrize("name", WORKED)
def test_a_worked_case_by_the_function(name: str) -> None:
    check(name, price(worked(name)))


def test_the_form_of_the_answer() -> None:
    assert price(EXAMPLE) == ANSWER


def test_the_steps_of_two_promotions_are_told_apart() -> None:
    found = price(
        {**basket(5000, 15000), "promotions": [promotion(off(3000), "x"), promotion(off(5000), "y")]}
    )
    assert [line["adjustments"] for line in found["lines"]] == [
        [{"promotion": "x", "amount": 750}, {"promotion": "y", "amount": 1250}],
        [{"promotion": "x", "amount": 2250}, {"promotion": "y", "amount": 3750}],
    ]
    found = price(
        {**basket(5000, 15000), "promotions": [promotion(percent("10"), "x"), promotion(percent(10.0), "y")]}
    )
    assert [[one["amount"] for one in line["adjustments"]] for line in found["lines"]] == [
        [500, 450],
        [1500, 1350],
    ]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HUILIU_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    core_settings.load.cache_clear()
    yield lambda content, *more: CliRunner().invoke(
        main, ["price", "-", *more], input=content if isinstance(content, str) else json.dumps(content)
    )
    core_settings.load.cache_clear()


def test_the_worked_cases_by_the_command_line_without_a_database(cli: Any, tmp_path: Path) -> None:
    for name in WORKED:
        result = cli(worked(name), "--json")
        assert result.exit_code == 0, result.output
        check(name, json.loads(result.stdout))
    assert json.loads(cli(EXAMPLE, "--json").stdout) == ANSWER
    assert not (tmp_path / "home").exists()


def test_the_command_line_says_it_to_a_person(cli: Any) -> None:
    lines = cli(EXAMPLE).stdout.splitlines()
    assert lines[0].split() == ["a", "6000", "→", "5400", "−600", "p1"]
    assert lines[2] == "to pay: 6400 (minor units of CNY)"
    assert lines[3].startswith("not applied: p2: Needs 100.00 CNY")


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (
            {**EXAMPLE, "lines": [{"id": "a", "sku": "m", "unit_price": 1.5, "quantity": 1}]},
            1,
            "lines[0].unit_price: ",
        ),
        ("{", 1, "is not JSON"),
        ("[]", 1, "an object is needed"),
        ("[" * 100_000, 1, "nested too deeply"),
        (basket(100) | {"promotions": None}, 1, "Run `huiliu init` first"),
    ],
)
def test_the_command_line_refuses_in_one_line(cli: Any, content: Any, code: int, words: str) -> None:
    result = cli(content, "--json")
    assert (result.exit_code, result.stdout) == (code, "")
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_wrong_usage_is_exit_code_2(tmp_path: Path) -> None:
    assert CliRunner().invoke(main, ["price"]).exit_code == 2
    assert CliRunner().invoke(main, ["price", "a.json", "b.json"]).exit_code == 2
    assert CliRunner().invoke(main, ["price", "a.json", "--nope"]).exit_code == 2
    assert CliRunner().invoke(main, ["price", str(tmp_path / "none.json")]).exit_code == 1


@pytest.fixture
def client(db: Database, settings: Settings) -> FlaskClient:
    app = APIFlask("test", title="Huiliu", spec_path="/api/openapi.json", docs_path=None)
    app.register_blueprint(create_blueprint(db, settings, clock=lambda: NOW))
    return app.test_client()


@pytest.fixture
def post(db: Database, client: FlaskClient) -> Any:
    with db.write() as session:
        token = keys.create(session, "till", ["read"], "ann", NOW)[1]

    def send(body: Any) -> tuple[int, Any]:
        answer = client.post(
            "/api/v1/promotions/evaluate", json=body, headers={"Authorization": f"Bearer {token}"}
        )
        return answer.status_code, answer.get_json()

    return send


def test_the_worked_cases_by_the_api_one_by_one_and_all_at_once(db: Database, post: Any) -> None:
    for name in WORKED:
        status, found = post(worked(name))
        assert status == 200, found
        check(name, found)
    status, found = post({"baskets": [worked(name) for name in WORKED]})
    assert status == 200
    for name, one in zip(WORKED, found["results"], strict=True):
        check(name, one)
    assert post(EXAMPLE) == (200, ANSWER)
    assert count(db, "promotions") == count(db, "loyalty_requests") == 0


def documented() -> dict[str, tuple[Json, Json]]:
    """The examples of the documentation: a request, and what it changes in the answer."""
    text = (Path(__file__).parents[3] / "docs/promotions.md").read_text(encoding="utf-8")
    section = text[text.index("## Examples") : text.index("## Limits of a promotion")]
    found = {}
    for part in section.split("\n### ")[1:]:
        request, answer = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", part, re.DOTALL))
        found[part.splitlines()[0]] = (request, answer)
    return found


def test_the_documented_examples_by_the_function_the_command_line_and_the_api(post: Any, cli: Any) -> None:
    examples = documented()
    assert [name.partition(":")[0] for name in examples] == [
        "会员日",
        "限时折扣",
        "秒杀",
        "满赠",
        "满额包邮",
        "积分翻倍",
    ]
    for name, (request, wanted) in examples.items():
        answers = [price(request), json.loads(cli(request, "--json").stdout), post(request)[1]]
        assert answers[0] == answers[1] == answers[2], name
        assert {field: answers[0][field] for field in wanted} == wanted, name
        assert not answers[0]["rejected"], name


def test_a_documented_example_is_refused_outside_its_time_and_beyond_its_limit() -> None:
    examples = list(documented().values())
    for place, changes, reason in (
        (0, {"at": "2026-11-07T23:59:00+08:00"}, "member_day"),
        (0, {"member": {"tier": "basic"}}, "tier"),
        (1, {"at": "2026-11-13T00:00:00+08:00"}, "ended"),
        (1, {"at": "2026-11-10T23:59:59+08:00"}, "not_started"),
        (2, {"member": None}, "member_limit"),
    ):
        found = price({**examples[place][0], **changes})
        assert [one["reason"] for one in found["rejected"]] == [reason]
        assert found["discount"] == 0


def test_a_mistake_in_one_of_many_baskets_is_named_and_none_is_priced(post: Any) -> None:
    wrong = {**basket(100), "promotions": [promotion(off(-1))]}
    status, found = post({"baskets": [EXAMPLE, wrong]})
    assert (status, found["error"]["field"]) == (422, "baskets[1].promotions[0].benefit.amount")
    for body, field in (
        ({"baskets": []}, "baskets"),
        ({"baskets": [EXAMPLE] * 101}, "baskets"),
        ({"baskets": [WIDE] * 3}, "baskets"),
        ({"baskets": [EXAMPLE], "currency": "CNY"}, "currency"),
        ({"baskets": [1]}, "baskets[0]"),
        ({**EXAMPLE, "colour": 1}, "colour"),
        ({}, "currency"),
    ):
        status, found = post(body)
        assert (status, found["error"]["code"], found["error"]["field"]) == (422, "invalid_input", field)


def test_the_endpoint_is_described(client: FlaskClient) -> None:
    document = client.get("/api/openapi.json").get_json()
    found = document["paths"]["/api/v1/promotions/evaluate"]["post"]
    answer = found["responses"]["200"]["content"]["application/json"]["schema"]
    assert set(answer["properties"]) == set(ANSWER)
    assert answer["properties"]["lines"]["items"]["properties"]["discount"] == {
        "title": "Discount",
        "type": "integer",
    }
    assert not found.get("parameters")  # no Idempotency-Key: nothing is written
