"""Loyalty's forms in a real browser: they fit, can be read, and every field has a name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.web import browser, seed
from tests.web.conftest import Shop
from tests.web.test_assets import built
from tests.web.test_contrast import FAINT, HEADLESS, NAMELESS

pytestmark = pytest.mark.browser
ADDRESSES = (
    "/loyalty/points",
    "/loyalty/points/sources",
    "/loyalty/review/rules",
    "/loyalty/review/rules?as=json",
)


@pytest.fixture
def chromium(shop: Shop) -> Iterator[tuple[Any, str]]:
    browser.need_browser()
    built()
    with browser.serving(shop.app) as base, browser.browser() as found:
        yield found, base


@pytest.mark.parametrize(("width", "language", "dark"), [(1280, "en", False), (390, "zh", True)])
def test_forms_fit_their_width_and_can_be_read(
    chromium: tuple[Any, str], width: int, language: str, dark: bool
) -> None:
    page = browser.open_page(*chromium, width=width, language=language, dark=dark)
    browser.log_in(page, "admin@example.com", seed.PASSWORD)
    wrong: dict[str, Any] = {}
    for address in ADDRESSES:
        page.goto(address)
        page.wait_for_load_state("networkidle")
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        problems = [*page.evaluate(FAINT), *page.evaluate(NAMELESS), *page.evaluate(HEADLESS), *page.problems]
        if problems or wide > 0:
            wrong[address] = (wide, problems)
    assert wrong == {}
