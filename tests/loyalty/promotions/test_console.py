"""The console's promotions: the form of every kind, its way back, and the basket to try them on."""

from __future__ import annotations

from typing import Any

import pytest

from loyalty.promotions import store
from tests.conftest import count
from tests.loyalty.promotions.cases import Json, off
from tests.web.conftest import *  # noqa: F403 - its fixtures: a shop with users of every role
from tests.web.conftest import Shop

FORMS: dict[str, tuple[dict[str, str], Json]] = {
    "percent": (
        {"percent": "12.5", "max_amount": "20", "round": "line", "skus": "a, b"},
        {
            "type": "percent",
            "percent": "12.5",
            "max_amount": 2000,
            "round": "line",
            "scope": {"skus": ["a", "b"]},
        },
    ),
    "fixed": ({"amount": "12.50"}, {"type": "fixed", "amount": 1250}),
    "fixed_each": ({"amount": "1", "max_units": "3"}, {"type": "fixed_each", "amount": 100, "max_units": 3}),
    "fixed_price": (
        {"count": "3", "price": "20", "exclude_categories": "tea"},
        {"type": "fixed_price", "count": 3, "price": 2000, "scope": {"exclude_categories": ["tea"]}},
    ),
    "buy_x_get_y": (
        {"buy": "2", "get": "1", "max_times": "1", "percent": ""},
        {"type": "buy_x_get_y", "buy": 2, "get": 1, "max_times": 1},
    ),
    "tiered": (
        {"by": "amount", "repeat": "1", "tier-0-from": "100", "tier-0-off": "10"},
        {"type": "tiered", "by": "amount", "tiers": [{"from": 10000, "off": 1000}], "repeat": True},
    ),
    "free_shipping": ({}, {"type": "free_shipping"}),
    "gift": ({"sku": "bag", "quantity": "2"}, {"type": "gift", "sku": "bag", "quantity": 2}),
    "points": ({"times": "2"}, {"type": "points", "times": "2"}),
}


@pytest.mark.parametrize("kind", FORMS)
def test_a_kind_is_saved_by_the_form_and_shown_in_it_again(shop: Shop, kind: str) -> None:
    fields, benefit = FORMS[kind]
    browser = shop.client()
    sent = {
        "title": "Sale", "name": "sale", "type": kind, "priority": "3", "group": "g", "code": "X", "stock": "9",
        "starts_at": "2026-11-11T00:00", "ends_at": "2026-11-12T00:00", "weekday": "1, sat", "member_day": "8",
        "tier": "gold,silver", "first_order": "1", **fields,
    }  # fmt: skip
    answer = browser.post("/loyalty/promotions/new", sent)
    assert answer.status_code == 303, answer.text
    with shop.database.read() as session:
        row = store.by_name(session, "sale")
        assert row.benefit == benefit
        assert row.conditions == [
            {"type": "member_day", "day": 8},
            {"type": "first_order"},
            {"type": "tier", "in": ["gold", "silver"]},
            {"type": "weekday", "in": [1, "sat"]},
        ]
        assert (row.priority, row.group, row.code, row.stock, row.currency) == (3, "g", "X", 9, "CNY")
        assert row.starts_at is not None
        assert row.starts_at.isoformat() == "2026-11-10T16:00:00+00:00"
        number = row.id
    page = browser.get(f"/loyalty/promotions/{number}").text
    assert 'name="weekday"' in page  # the form, not the stored text
    assert browser.post(f"/loyalty/promotions/{number}", sent).status_code == 303
    with shop.database.read() as session:
        assert store.by_name(session, "sale").version == 1


def test_a_mistake_stands_beside_its_field_and_nothing_is_saved(shop: Shop) -> None:
    browser = shop.client()
    for fields, name in (
        ({"type": "fixed"}, "amount"),
        ({"type": "percent", "percent": "150"}, "percent"),
        ({"type": "tiered", "by": "amount", "tier-0-from": "5"}, "tier-0-from"),
        ({"type": "points"}, "points"),
        ({"type": "fixed", "amount": "1", "weekday": "9"}, "weekday"),
        ({"type": "nope"}, "type"),
    ):
        answer = browser.post("/loyalty/promotions/new", {"title": "T", "name": "t", **fields})
        assert answer.status_code == 422
        assert f'id="{name}-error"' in answer.text, (fields, name)
    assert count(shop.database, "promotions") == 0


def add(shop: Shop, name: str, **definition: Any) -> int:
    with shop.database.write() as session:
        content = {"benefit": off(1000), "currency": "CNY", **definition}
        found = store.save(
            session, name=name, title=name.upper(), definition=content, by="ann", now=shop_now()
        )
        return found.id


def shop_now() -> Any:
    from tests.web import seed

    return seed.NOW


def test_a_richer_promotion_is_shown_as_it_is_and_not_overwritten(shop: Shop) -> None:
    number = add(shop, "rich", conditions=[{"type": "not", "condition": {"type": "first_order"}}])
    browser = shop.client()
    page = browser.get(f"/loyalty/promotions/{number}").text
    assert "richer than the form" in page
    assert "first_order" in page
    sent = {"title": "T", "name": "rich", "type": "fixed", "amount": "1"}
    assert browser.post(f"/loyalty/promotions/{number}", sent).status_code == 409
    assert browser.post(f"/loyalty/promotions/{number}/archive").status_code == 303
    assert "RICH" not in browser.get("/loyalty/promotions").text


def test_a_basket_is_priced_step_by_step_in_the_readers_language(shop: Shop) -> None:
    add(shop, "first", priority=2)
    add(shop, "coded", code="X")
    add(shop, "poor", conditions=[{"type": "min_subtotal", "amount": 100_000}])
    address = "/loyalty/promotions/try?line-0-sku=mug&line-0-price=100&line-0-quantity=2&codes=x&shipping=5"
    page = shop.client().get(address).text
    assert "Needs 1000.00 CNY of qualifying goods; there are 180.00 CNY" in page
    steps = page[page.index("Step by step") :]
    assert steps.index("FIRST") < steps.index("CODED") < steps.index("POOR")
    assert "适用商品需满 1000 元" in shop.client(language="zh").get(address).text
    wrong = shop.client().get("/loyalty/promotions/try?line-0-sku=mug&line-0-price=x&line-0-quantity=1")
    assert (wrong.status_code, 'id="line-0-price-error"' in wrong.text) == (422, True)
    assert count(shop.database, "promotion_takes") == 0
