"""Insight pages in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.web import browser, seed
from tests.web.conftest import Shop
from tests.web.test_assets import built
from tests.web.test_insights import PAGES, RESULTS

pytestmark = pytest.mark.browser


@pytest.fixture
def chromium(shop: Shop) -> Iterator[tuple[Any, str]]:
    browser.need_browser()
    built()
    with browser.serving(shop.app) as base, browser.browser() as found:
        yield found, base


@pytest.mark.parametrize(("width", "language"), [(1440, "en"), (390, "zh")])
def test_answers_arrive_break_no_policy_and_fit_their_width(
    chromium: tuple[Any, str], width: int, language: str
) -> None:
    page = browser.open_page(*chromium, width=width, height=844, language=language)
    browser.log_in(page, "admin@example.com", seed.PASSWORD)
    for address in (*PAGES, *(result.replace("/result", "") for result in RESULTS)):
        page.goto(address)
        if page.locator("#result").count():
            page.wait_for_selector("#result .panel, #result .empty")
            if page.locator("#result [data-chart]").count():
                page.wait_for_selector("#result [data-chart] svg")
        assert page.problems == [], address
        assert page.evaluate("document.documentElement.scrollWidth") <= width, address


def test_a_funnel_is_built_by_hand_counted_and_followed_to_who_stopped(chromium: tuple[Any, str]) -> None:
    page = browser.open_page(*chromium)
    browser.log_in(page, "marketer@example.com", seed.PASSWORD)
    page.goto("/segments/funnels")
    page.locator("#steps select").nth(0).select_option("product_viewed")
    page.locator("#steps select").nth(1).select_option("message_opened")
    page.click("[data-add-row='#steps']")
    page.locator("#steps select").nth(2).select_option("order")
    page.locator("#steps [data-remove-row]").nth(1).click()
    page.click("button:has-text('Count')")
    page.wait_for_selector("#result .steps-bars")
    assert page.url.count("step=") == 2
    assert page.locator("#result .bar-step").count() == 2
    lost = page.locator(".bar-step .lost a").first
    number = int(lost.inner_text().split()[0])
    lost.click()
    page.wait_for_selector("h1:has-text('and no further')")
    assert page.locator("main tbody tr").count() == min(number, 50)
    assert page.locator("main a[rel=next]").count() == (number > 50)
    assert page.problems == []
