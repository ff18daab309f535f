"""The console in a real browser: no policy violation, no overflow, and it can be worked with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.web import addresses, browser, loyalty_seed, seed
from tests.web.conftest import Shop
from tests.web.test_assets import built

pytestmark = pytest.mark.browser


@pytest.fixture
def chromium(shop: Shop) -> Iterator[tuple[Any, str]]:
    browser.need_browser()
    built()
    with browser.serving(shop.app) as base, browser.browser() as found:
        yield found, base


@pytest.mark.parametrize(("width", "language"), [(1440, "zh"), (390, "en")])
def test_pages_break_no_policy_and_fit_their_width(
    chromium: tuple[Any, str], shop: Shop, width: int, language: str
) -> None:
    _fits(chromium, tuple(addresses.browsed(shop)), width, language)


@pytest.mark.parametrize(("width", "language"), [(1280, "zh"), (390, "en"), (390, "zh")])
def test_pages_of_loyalty_in_full_use_fit_their_width(
    chromium: tuple[Any, str], shop: Shop, width: int, language: str
) -> None:
    public = loyalty_seed.fill(shop)
    _fits(chromium, (*loyalty_seed.PAGES, *public), width, language)


def _fits(chromium: tuple[Any, str], paths: tuple[str, ...], width: int, language: str) -> None:
    page = browser.open_page(*chromium, width=width, height=844, language=language)
    browser.log_in(page, "admin@example.com", seed.PASSWORD)
    for address in paths:
        page.goto(address)
        if page.locator("[data-chart]:visible").count():
            page.wait_for_selector("[data-chart]:visible svg")
        assert page.problems == [], address
        assert page.evaluate("document.documentElement.scrollWidth") <= width, address
        for chart in page.query_selector_all("[data-chart]"):
            if chart.is_visible():
                assert chart.query_selector("svg") is not None, address


def test_a_link_with_a_mistake_comes_back_in_its_dialog(chromium: tuple[Any, str]) -> None:
    page = browser.open_page(*chromium, width=390, height=844)
    browser.log_in(page, "marketer@example.com", seed.PASSWORD)
    page.goto("/loyalty/batches/1")
    page.click("button[data-dialog='#link']")
    page.fill("#link #title", "At the door")
    page.fill("#link #limit", "none")
    page.click("#link button:has-text('Make the link')")
    page.wait_for_selector("#link[open] #limit-error")
    assert page.input_value("#link #title") == "At the door"
    assert [problem for problem in page.problems if "422" not in problem] == []


def test_what_is_not_undone_is_asked_twice(chromium: tuple[Any, str], shop: Shop) -> None:
    loyalty_seed.fill(shop)
    page = browser.open_page(*chromium)
    browser.log_in(page, "admin@example.com", seed.PASSWORD)
    page.goto("/loyalty/points/adjustments")
    page.click("button:has-text('Approve')")
    page.wait_for_selector("dialog[open]:has-text('+5,000 points, because: Parcel lost')")
    page.click("dialog[open] button.btn-main")
    page.wait_for_selector("text=Approved.")


def test_the_slash_key_searches_and_leaving_a_changed_form_asks(chromium: tuple[Any, str]) -> None:
    page = browser.open_page(*chromium)
    browser.log_in(page, "marketer@example.com", seed.PASSWORD)
    page.keyboard.press("/")
    page.keyboard.type("M0008")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search?q=M0008")
    assert page.locator("main a[href='/members/9']").count() == 1
    asked: list[str] = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
    page.goto("/campaigns/draft-idea/edit")
    page.fill("#title", "Changed")
    page.goto("/campaigns")
    assert asked == ["beforeunload"]


def test_an_approval_wakes_only_when_the_name_is_typed(chromium: tuple[Any, str]) -> None:
    page = browser.open_page(*chromium, width=390, height=844)
    browser.log_in(page, "admin@example.com", seed.PASSWORD)
    page.goto("/campaigns/tea-week")
    page.wait_for_selector("#simulation .funnel")
    page.click("button[data-dialog='#approve']")
    button = page.locator("#approve [data-locked]")
    assert button.is_disabled()
    page.fill("#approve-word", "tea")
    assert button.is_disabled()
    page.fill("#approve-word", "tea-week")
    button.click()
    page.wait_for_selector("text=Approved. It can run now")
    assert page.problems == []


def test_a_variant_is_added_and_taken_away(chromium: tuple[Any, str]) -> None:
    page = browser.open_page(*chromium)
    browser.log_in(page, "marketer@example.com", seed.PASSWORD)
    page.goto("/campaigns/draft-idea/edit")
    assert page.locator("#variants [data-row]").count() == 2
    page.click("[data-add-row='#variants']")
    page.wait_for_selector("#variant-2-name")
    page.locator("#variants [data-row]").nth(1).locator("[data-remove-row]").click()
    page.fill("#variant-2-name", "C")
    page.fill("#variant-2-weight", "50")
    page.select_option("#variant-2-email", "win-back-mail")
    page.click("button:has-text('Save the draft')")
    page.wait_for_url("**/campaigns/draft-idea")
    assert page.locator("main tbody th:has-text('C')").count() == 1
