"""The whole journey in a real browser: made, simulated, approved, run, opened, clicked, redeemed, found again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from channels.delivery import run_delivery
from core.db import Database
from core.settings import Settings
from tests.channels.seed import sandbox
from tests.postgres import free_port
from tests.web import browser as browsers
from tests.web import seed
from web.api import keys
from web.app import create_app

clock: list[datetime] = [seed.NOW]
"""The time of the console under test: moved on for the result."""


@pytest.fixture
def served(db: Database, settings: Settings) -> Iterator[tuple[Database, Settings]]:
    """A seeded shop behind a real server, with the sandbox beside it."""
    browsers.need_browser()
    seed.fill(db, settings)
    base = f"http://127.0.0.1:{free_port()}"
    clock[0] = seed.NOW
    with sandbox(db, settings, changes={"base_url": base}) as (found, _):
        found = found.model_copy(update={"batch_size": 100})
        app = create_app(found, db, clock=lambda: clock[0])
        with browsers.serving(app, int(base.rsplit(":", 1)[1])):
            yield db, found


def fill_campaign(page: Any) -> None:
    page.goto("/campaigns/new")
    page.fill("#title", "Tea for VIPs")
    page.fill("#name", "tea-for-vips")
    page.select_option("#segment", "vip")
    page.fill("#variant-0-name", "A")
    page.select_option("#variant-0-batch", label="回归礼 20 元券")
    page.fill("#variant-0-points", "50")
    page.select_option("#variant-0-email", "win-back-mail")
    page.select_option("#channel-1", "email")
    page.select_option("#channel-2", "")
    page.select_option("#channel-3", "")
    page.fill("#cap_messages", "")
    page.uncheck("#quiet-1")
    page.fill("#holdout", "20")
    page.click("button:has-text('Save')")


def simulate(page: Any) -> dict[str, int]:
    """The funnel that the campaign's page shows: audience and sent."""
    page.wait_for_selector("#simulation .funnel, #simulation table", timeout=20_000)
    text = page.inner_text("#simulation")
    numbers = {}
    for name in ("Audience", "Sent"):
        found = re.search(rf"{name}\s+([\d,]+)", text)
        assert found is not None, text
        numbers[name] = int(found.group(1).replace(",", ""))
    return numbers


def log_in(chromium: Any, base: str, email: str) -> Any:
    page = browsers.open_page(chromium, base)
    browsers.log_in(page, email, seed.PASSWORD)
    return page


@pytest.mark.browser
@pytest.mark.slow
def test_a_campaign_from_its_making_to_the_members_page(served: tuple[Database, Settings]) -> None:
    database, settings = served
    with browsers.browser() as chromium:
        marketer = log_in(chromium, settings.base_url, "marketer@example.com")
        fill_campaign(marketer)
        assert marketer.url.endswith("/campaigns/tea-for-vips"), marketer.inner_text("main")
        expected = simulate(marketer)
        assert 0 < expected["Sent"] < expected["Audience"]
        marketer.click("button:has-text('Submit for approval')")
        assert marketer.locator("button:has-text('Approve')").count() == 0, "an author does not approve"

        boss = log_in(chromium, settings.base_url, "boss@example.com")
        approve_and_run(boss)
        run_page = boss.inner_text("main")
        assert re.search(rf"Sent\s+{expected['Sent']:,}", run_page), run_page

        moment = seed.NOW + timedelta(minutes=1)
        with ThreadPoolExecutor(1) as pool:  # Playwright holds this thread's event loop
            done = pool.submit(run_delivery, database, settings, now=lambda: moment).result()
        assert (done.sent, done.failed, done.unknown) == (expected["Sent"], 0, 0)
        code, member_url = open_message(boss, settings.base_url)
        secret = make_key(database)
        redeem(settings, secret, code)
        buy(settings, secret, code)
        find_it_again(boss, member_url, code)
        assert marketer.problems == boss.problems == []


def approve_and_run(page: Any) -> None:
    page.goto("/campaigns/tea-for-vips")
    page.click("button:has-text('Approve')")
    page.fill("input[name=confirm]", "tea-for-vips")
    page.locator("dialog[open] button.btn-main").click()
    page.click("button:has-text('Run now')")
    confirm = page.locator("dialog[open] input[name=confirm]")
    if confirm.count():
        confirm.fill("tea-for-vips")
    page.locator("dialog[open] button.btn-main").click()
    for _ in range(60):
        page.goto("/campaigns/tea-for-vips")
        if page.locator("[aria-current=step]").inner_text() == "Finished":
            return
        page.wait_for_timeout(300)
    raise AssertionError(page.inner_text("main"))


def open_message(page: Any, base: str) -> tuple[str, str]:
    """Open a message in the sandbox inbox and follow its link; the coupon's code, and the member's page."""
    page.goto("/channels/inbox")
    page.click(".inbox-list a >> nth=0")
    frame = page.frame_locator("iframe")
    code = frame.locator("b").inner_text()
    assert re.fullmatch(r"[A-Z0-9-]{12,}", code)
    href = frame.locator("a >> nth=0").get_attribute("href")
    assert href is not None
    assert href.startswith(f"{base}/t/c/"), "the link is a tracked one"
    with page.context.expect_event("response", lambda answer: "/t/c/" in answer.url) as answered:
        frame.locator("a >> nth=0").click()
    # The shop itself is out of reach from here: where the link leads is what counts.
    assert answered.value.status == 302
    assert answered.value.headers["location"].startswith("https://shop.example.com/sale")
    page.fill("#search", code)
    page.press("#search", "Enter")
    page.wait_for_load_state("networkidle")
    if "/members/" not in page.url:
        page.locator("main a[href^='/members/']").first.click()
    page.wait_for_url("**/members/*")
    return code, page.url


def make_key(database: Database) -> str:
    with database.write() as session:
        _, secret = keys.create(session, "till", ["loyalty", "ingest"], "boss@example.com", seed.NOW)
    return secret


def buy(settings: Settings, secret: str, code: str) -> None:
    """The shop reports the orders of the next days, the one with the coupon among them."""
    at = (seed.NOW + timedelta(days=2)).isoformat()
    rows = [
        {"order_id": f"after-{n}", "member_id": f"M{n:04d}", "ordered_at": at, "amount": f"{20 + n % 37}.50"}
        for n in range(1, 200)
    ]
    rows[0] |= {"order_id": "till-1", "coupon_code": code, "amount": "150"}
    headers = {"Authorization": f"Bearer {secret}"}
    done = httpx.post(
        f"{settings.base_url}/api/v1/orders", json={"rows": rows}, headers=headers, trust_env=False
    )
    assert done.status_code == 200, done.text
    assert done.json()["inserted"] == len(rows)


def redeem(settings: Settings, secret: str, code: str) -> None:
    """The shop's counter redeems the code by HTTP, twice by mistake."""
    body = {"code": code, "order_id": "till-1", "basket_minor": 15_000, "currency": "CNY"}
    headers = {"Authorization": f"Bearer {secret}", "Idempotency-Key": "till-1"}
    address = f"{settings.base_url}/api/v1/coupons/redeem"
    first = httpx.post(address, json=body, headers=headers, trust_env=False)
    assert first.status_code == 200, first.text
    assert httpx.post(address, json=body, headers=headers, trust_env=False).json() == first.json()
    other = httpx.post(address, json=body, headers={**headers, "Idempotency-Key": "till-2"}, trust_env=False)
    assert other.status_code == 409


def find_it_again(page: Any, member_url: str, code: str) -> None:
    page.goto(member_url)
    timeline = page.inner_text("main")
    assert "Tea for VIPs" in timeline, "why the member was messaged"
    assert code in timeline
    for word in ("Clicked", "redeemed", "50"):
        assert re.search(word, timeline, re.IGNORECASE), (word, timeline)
    clock[0] = seed.NOW + timedelta(days=20)
    page.goto("/campaigns/tea-for-vips")
    page.click("button:has-text('Measure now')")
    page.wait_for_load_state("networkidle")
    result = page.inner_text("main")
    assert re.search(r"No difference found|“A” (raised|lowered) revenue", result), result
    cells = page.locator("tr", has_text="A").all_inner_texts()
    assert any(re.search(r"\b1\b", row) for row in cells), "one click and one redemption are counted"
