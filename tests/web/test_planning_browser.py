"""Metrics and plans in a real browser: no policy violation, no overflow, texts that can be read, a working way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from experiments.models import ExperimentPlan, Metric
from tests.web import browser, seed
from tests.web.conftest import Shop
from tests.web.test_assets import built
from tests.web.test_contrast import FAINT, HEADLESS, NAMELESS
from tests.web.test_planning import WISH

pytestmark = pytest.mark.browser


@pytest.fixture
def chromium(shop: Shop) -> Iterator[tuple[Any, str]]:
    browser.need_browser()
    built()
    with browser.serving(shop.app) as base, browser.browser() as found:
        yield found, base


def addresses(shop: Shop) -> list[str]:
    client = shop.client()
    client.post("/results/metrics/ready-made")
    client.post("/results/plans/campaigns/spring-win-back/freeze", WISH)
    with shop.database.read() as session:
        metric = session.scalar(sa.select(Metric.id).where(Metric.name == "order_value"))
        plan = session.scalar(sa.select(ExperimentPlan.id))
    return [
        "/results/metrics", f"/results/metrics/{metric}", f"/results/metrics/{metric}/edit", "/results/plans",
        "/results/plans/ask", "/results/plans/ask?campaign=draft-idea",
        "/results/plans/campaigns/draft-idea/freeze", f"/results/plans/{plan}",
    ]  # fmt: skip


@pytest.mark.parametrize(("width", "language", "dark"), [(1280, "en", False), (390, "zh", True)])
def test_pages_fit_their_width_and_can_be_read(
    chromium: tuple[Any, str], shop: Shop, width: int, language: str, dark: bool
) -> None:
    found = addresses(shop)
    page = browser.open_page(*chromium, width=width, language=language, dark=dark)
    browser.log_in(page, "admin@example.com", seed.PASSWORD)
    wrong: dict[str, Any] = {}
    for address in found:
        page.goto(address)
        page.wait_for_load_state("networkidle")
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        problems = [*page.evaluate(FAINT), *page.evaluate(NAMELESS), *page.evaluate(HEADLESS), *page.problems]
        if problems or wide > 0:
            wrong[address] = (wide, problems)
    assert wrong == {}


def test_from_the_campaign_to_a_frozen_plan(chromium: tuple[Any, str], shop: Shop) -> None:
    page = browser.open_page(*chromium, width=1280, language="en")
    browser.log_in(page, "marketer@example.com", seed.PASSWORD)
    page.goto("/campaigns/draft-idea")
    page.click("a:has-text('Plan')")
    page.wait_for_selector("#mde")
    page.click("#mde tbody tr:nth-child(4) td a >> nth=2")
    assert page.input_value("#holdout") == "30"
    assert page.input_value("#days") == "28"
    page.click("button:has-text('Freeze the plan')")
    page.wait_for_selector("text=before the start")
    assert "30%" in page.inner_text("dl.figures")
    assert page.problems == []


def test_a_condition_is_added_and_a_kind_shows_its_fields(chromium: tuple[Any, str]) -> None:
    page = browser.open_page(*chromium, width=1280, language="en")
    browser.log_in(page, "marketer@example.com", seed.PASSWORD)
    page.goto("/results/metrics/new")
    assert not page.is_visible("#denominator")
    page.select_option("#kind", "ratio")
    assert page.is_visible("#denominator")
    page.click("button:has-text('Another condition')")
    page.fill("#where-0-column", "status")
    page.fill("#where-0-value", "paid")
    for name, value in (("name", "basket"), ("value", "net_minor"), ("denominator", "rows")):
        page.fill(f"#{name}", value)
    page.click("button:has-text('Save')")
    page.wait_for_selector("text=Does it look right?")
    page.wait_for_selector("#metric-weeks-data", state="attached")
    assert "status is “paid”" in page.inner_text("main")
    assert page.problems == []
