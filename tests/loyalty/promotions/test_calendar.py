"""Loyalty → Calendar: bars over months, the filter, conflicts in words, and the ceiling."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Any

import pytest

from core.db import Database
from core.models import Product
from loyalty.promotions import ceiling, store
from loyalty.promotions.models import PromotionRow
from tests.loyalty.data import NOW
from tests.loyalty.promotions.cases import ZONE, Json, off, percent
from tests.web import seed
from tests.web.conftest import *  # noqa: F403 - its fixtures: a shop with users of every role
from tests.web.conftest import Shop
from web.console.calendar import Bar, bar_of, window_of

TODAY = date(2026, 3, 2)


def add(database: Database, name: str, **definition: Any) -> int:
    with database.write() as session:
        content = {"benefit": off(1000), "currency": "CNY", **definition}
        return store.save(
            session, name=name, title=name.upper(), definition=content, by="ann", now=seed.NOW
        ).id


@pytest.mark.parametrize(
    ("month", "months", "first", "days"),
    [
        ("", "", date(2026, 3, 1), 92),
        ("2024-02", "1", date(2024, 2, 1), 29),
        ("2026-11", "3", date(2026, 11, 1), 92),
        ("2026-13", "x", date(2026, 3, 1), 92),
        ("0001-01", "1", date(2026, 3, 1), 31),
        ("9999-12", "12", date(2026, 3, 1), 365),
    ],
)
def test_the_months_of_an_address(month: str, months: str, first: date, days: int) -> None:
    window = window_of(month, months, TODAY)
    assert (window.first, window.days, sum(length for _, length in window.parts)) == (first, days, days)


def test_a_bar_covers_the_days_of_the_shops_zone() -> None:
    window = window_of("2026-03", "1", TODAY)

    def bar(starts: str | None, ends: str | None) -> tuple[int, ...] | None:
        times = [None if at is None else datetime.fromisoformat(at).astimezone(UTC) for at in (starts, ends)]
        row = PromotionRow(name="x", starts_at=times[0], ends_at=times[1])
        found: Bar | None = bar_of(row, window, ZONE)
        return None if found is None else (found.before, found.days, found.after)

    assert bar(None, None) == (0, 31, 0)
    assert bar("2026-03-08T00:00:00+08:00", "2026-03-10T00:00:00+08:00") == (7, 2, 22)
    assert bar("2026-03-08T23:59:00+08:00", "2026-03-09T00:01:00+08:00") == (7, 2, 22)
    assert bar("2026-02-01T00:00:00+08:00", "2026-03-01T00:00:01+08:00") == (0, 1, 30)
    assert bar("2026-02-01T00:00:00+08:00", "2026-03-01T00:00:00+08:00") is None
    assert bar("2026-04-01T00:00:00+08:00", None) is None


def test_bars_fill_the_row_and_the_table_says_the_same(shop: Shop) -> None:
    add(shop.database, "spring", starts_at="2026-03-08T00:00:00+08:00", ends_at="2026-04-10T00:00:00+08:00")
    add(shop.database, "always", exclusive=True, priority=5)
    add(shop.database, "over", ends_at="2026-01-01T00:00:00Z")
    page = shop.client().get("/loyalty/calendar").text
    assert "OVER" not in page
    for row in re.findall(r"<tbody><tr><th colspan.*?</tbody>", page, re.DOTALL):
        assert sum(map(int, re.findall(r'<td colspan="(\d+)"', row))) == 92
    assert page.count('<div class="time-bar"></div>') == 1
    assert (
        page.count('<div class="time-bar time-bar-alone time-bar-open-start time-bar-open-end"></div>') == 1
    )
    assert "Only “ALWAYS”: it is exclusive, so “SPRING” does not apply beside it." in page
    chinese = shop.client(language="zh").get("/loyalty/calendar").text
    assert "仅 “ALWAYS” 生效：它不与其他优惠同享，“SPRING” 不生效。" in chinese
    assert "Mar 8, 2026" in page


def test_the_filter_finds_by_text_and_kind_and_other_months_are_empty(shop: Shop) -> None:
    add(shop.database, "spring", group="season")
    add(shop.database, "half", benefit=percent(50), ends_at="2026-04-01T00:00:00+08:00")
    browser = shop.client()
    assert "HALF" not in browser.get("/loyalty/calendar?q=SEASON").text
    found = browser.get("/loyalty/calendar?kind=percent").text
    assert ("HALF" in found, "SPRING" in found) == (True, False)
    assert "No two of these promotions can meet in one basket." in found
    assert "HALF" not in browser.get("/loyalty/calendar?month=2026-05&months=1").text
    assert "Nothing in these months" in browser.get("/loyalty/calendar?q=zzz").text
    assert browser.get("/loyalty/calendar?month=%00&months=9&kind=x").status_code == 200


def test_the_catalog_tells_goods_apart_that_never_meet(shop: Shop) -> None:
    mugs: Json = {"categories": ["mugs"]}
    add(shop.database, "one", benefit=off(1, scope={"skus": ["tea-1"]}))
    add(shop.database, "two", benefit=off(1, scope=mugs))
    browser = shop.client()
    assert "Both apply" in browser.get("/loyalty/calendar").text
    with shop.database.write() as session:
        session.add(
            Product(
                source="shop", sku="tea-1", category="tea", currency="CNY", fingerprint="x", updated_at=NOW
            )
        )
    assert "Both apply" not in browser.get("/loyalty/calendar").text
    with shop.database.write() as session:
        session.add(
            Product(
                source="other", sku="tea-1", category="mugs", currency="CNY", fingerprint="x", updated_at=NOW
            )
        )
    assert "Both apply" in browser.get("/loyalty/calendar").text


def test_the_ceiling_is_changed_by_the_form(shop: Shop) -> None:
    add(shop.database, "a", benefit=percent(30))
    add(shop.database, "b", benefit=percent(30))
    browser = shop.client()
    assert "take up to 51 % off together; more than 50 %" in browser.get("/loyalty/calendar").text
    assert browser.post("/loyalty/calendar/ceiling", {"ceiling": "60"}).status_code == 303
    assert "take up to" not in browser.get("/loyalty/calendar").text
    for wrong in ("", "0", "101", "x"):
        browser.post("/loyalty/calendar/ceiling", {"ceiling": wrong})
        assert "Write a percentage from 1 to 100." in browser.get("/loyalty/calendar").text
    with shop.database.read() as session:
        assert ceiling.load(session) == 6000
    assert shop.client("analyst@example.com").post("/loyalty/calendar/ceiling", {}).status_code == 403
