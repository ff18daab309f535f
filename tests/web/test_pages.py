"""Every page renders: seeded and empty, in both languages, on both databases; charts have tables."""

from __future__ import annotations

import re
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from core.imports import load_rows, numbered
from core.models import AuditEntry
from tests.web import addresses, loyalty_seed, seed
from tests.web.conftest import Shop
from web.queries import overview


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_page_of_a_seeded_shop_renders(any_shop: Shop, language: str) -> None:
    client = any_shop.client(language=language)
    for address in addresses.every(any_shop):
        page = client.get(address)
        assert page.status_code == 200, address
        if not address.endswith("preview.html?language=en"):
            assert f'<html lang="{"zh-CN" if language == "zh" else "en"}">' in page.text, address
            assert ("总览" in page.text) is (language == "zh"), address


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_page_of_loyalty_in_full_use_renders(shop: Shop, language: str) -> None:
    public = loyalty_seed.fill(shop)
    client = shop.client(language=language)
    for address in (*loyalty_seed.PAGES, *public):
        page = client.get(address)
        assert page.status_code == 200, address
        assert "built-in method" not in page.text, address
        if address.startswith("/loyalty/") and "tabs-wrap" in page.text:
            assert 'aria-current="page"' in page.text.partition("tabs-wrap")[2].partition("</nav>")[0], (
                address
            )


def test_the_tab_stays_marked_when_a_form_comes_back(shop: Shop) -> None:
    client = shop.client()
    for address, tab in (
        ("/loyalty/tiers", "Tiers"),
        ("/loyalty/points/money", "Ledger and what is owed"),
        ("/loyalty/points/multipliers", "Multipliers and events"),
        ("/loyalty/points/adjustments", "Adjustments"),
        ("/loyalty/reminders", "Reminders"),
    ):
        page = client.post(address, {"do": "save"})
        assert page.status_code == 422, address
        assert f'aria-current="page">{tab}</a>' in page.text, address


def test_a_member_page_names_the_tier_the_inviter_and_what_was_found(shop: Shop) -> None:
    loyalty_seed.fill(shop)
    client = shop.client()
    invited, inviter = client.get("/members/2").text, client.get("/members/1").text
    assert re.search(r"<dt>Invited by</dt><dd><a href=\"/members/1\">", invited)
    assert re.search(r"<dt>Friends invited</dt><dd><a href=\"/loyalty/referrals\">1</a>", inviter)
    assert "/loyalty/review/1" in invited
    assert re.search(r"<dt>Member tier</dt><dd>(<a href=\"/loyalty/tiers\">(Gold|Silver)</a>|<span)", inviter)


def test_large_sales_without_their_notice_are_marked(shop: Shop) -> None:
    loyalty_seed.fill(shop)
    client = shop.client()
    assert "Notice late: due Feb 27, 2026" in client.get("/loyalty/calendar").text
    assert client.get("/loyalty/promotions").text.count("Large sale: notice late") == 1


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_list_of_an_empty_shop_renders_and_says_what_to_do(empty_shop: Shop, language: str) -> None:
    client = empty_shop.client(language=language)
    for address in addresses.EVERYWHERE:
        assert client.get(address).status_code == 200, address
    if language == "en":
        assert "Bring your shop in first" in client.get("/").text
        for address in (
            "/members",
            "/segments",
            "/segments/rfm",
            "/segments/lists",
            "/campaigns",
            "/loyalty",
            "/channels",
            "/results",
        ):
            assert 'class="empty"' in client.get(address).text, address


def test_every_chart_has_its_figures_in_a_table_with_headers(any_shop: Shop) -> None:
    client = any_shop.client()
    seen = 0
    for address in (
        "/",
        "/segments/lifecycle",
        "/segments/dormant-buyers/history",
        "/campaigns/spring-win-back",
        "/results/1",
    ):
        text = client.get(address).text
        figures = re.findall(r'<figure class="chart-box">(.*?)</figure>', text, re.DOTALL)
        seen += len(figures)
        for figure in figures:
            assert re.search(
                r'data-chart="([^"]+)".*?<script type="application/json" id="\1">', figure, re.DOTALL
            )
            assert re.search(
                r'<table class="table">.*<th scope="col">.*<tbody>.*<th scope="row">', figure, re.DOTALL
            )
    assert seen >= 7


def test_no_page_has_inline_scripts_or_styles(any_shop: Shop) -> None:
    client = any_shop.client()
    for address in addresses.every(any_shop):
        if "preview.html" in address:
            continue
        page = client.get(address)
        assert not re.search(r"<[^>]*\s(style|on\w+)=|<style|=\"javascript:", page.text), address
        assert not re.search(r"<script(?![^>]*(src=|application/json))", page.text), address
        assert "script-src 'self';" in page.headers["Content-Security-Policy"]


def test_the_overview_lists_what_waits(any_shop: Shop) -> None:
    text = any_shop.client().get("/").text
    assert "Tea week" in text
    assert "SMS is paused" in text
    assert "failed deliveries by E-mail" in text
    assert "orders.csv" in text  # the running job in the top bar


def test_a_member_page_says_why_it_was_not_messaged(any_shop: Shop) -> None:
    from campaigns.models import Decision

    client = any_shop.client()
    with any_shop.database.read() as session:
        held = session.scalar(sa.select(Decision.member_id).where(Decision.reason == "holdout").limit(1))
        refused = session.scalar(
            sa.select(Decision.member_id).where(Decision.reason == "no_consent").limit(1)
        )
    assert "Held out, to measure what the campaign brings" in client.get(f"/members/{held}").text
    assert "Has not consented to marketing" in client.get(f"/members/{refused}").text


def test_a_member_is_found_by_id_mail_phone_name_and_code(any_shop: Shop) -> None:
    from loyalty.models import Coupon

    client = any_shop.client()
    for wish in ("M0008", "member8@example.com", "138 0013 0008", "张伟"):
        text = client.get("/search", query_string={"q": wish}).text
        assert re.search(r'href="/members/\d+"', text), wish
    assert "Nothing found" in client.get("/search?q=member8@example").text
    with any_shop.database.read() as session:
        code = session.scalar(sa.select(Coupon.code).limit(1))
    assert code in client.get("/search", query_string={"q": code}).text
    assert "/campaigns/tea-week" in client.get("/search?q=tea").text


def test_numbers_money_and_dates_follow_the_language(shop: Shop) -> None:
    member = seed.member_with_a_decision(shop.database)
    english, chinese = (shop.client(language=lang).get(f"/members/{member}").text for lang in ("en", "zh"))
    assert re.search(r"Feb 10, 2026", english)
    assert re.search(r"2026年2月10日", chinese)
    assert re.search(r"¥\d", english)
    assert re.search(r"¥\d", chinese)


def test_the_language_is_kept_with_the_user(shop: Shop) -> None:
    client = shop.client()
    answer = client.post("/language", {"language": "zh", "next": "/campaigns?state=draft"})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/campaigns?state=draft")
    assert 'lang="zh-CN"' in client.get("/").text
    assert 'lang="zh-CN"' in shop.client(language="en").get("/").text


@pytest.mark.parametrize(
    "wish", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)"]
)
def test_the_language_switch_leads_nowhere_else(shop: Shop, wish: str) -> None:
    assert shop.client().post("/language", {"language": "zh", "next": wish}).headers["Location"] == "/"


def test_looking_at_contact_details_leaves_an_audit_row(shop: Shop) -> None:
    support = shop.client("support@example.com")
    before = support.get("/members/9").text
    assert "member8@example.com" not in before
    assert "m***@example.com" in before
    code = support.post("/members/9/wechat", headers={"HX-Request": "true"}).text
    assert "<svg" in code
    assert "good for 30 minutes" in code
    assert "<h1" in support.post("/members/9/wechat").text, "a page of its own without scripts"
    shown = support.post("/members/9/contact", headers={"HX-Request": "true"}).text
    assert "member8@example.com" in shown
    with shop.database.read() as session:
        rows = session.scalars(sa.select(AuditEntry).where(AuditEntry.action == "member.contact_shown")).all()
    assert [(row.actor, row.object_id) for row in rows] == [("support@example.com", "9")]


def test_pages_cost_a_bounded_number_of_queries(shop: Shop) -> None:
    """No page asks the database a question a row."""
    client = shop.client()
    queries: list[str] = []
    sa.event.listen(shop.database.engine, "before_cursor_execute", lambda *args: queries.append(args[2]))
    most: dict[str, int] = {}
    for address in addresses.every(shop):
        if "simulation" in address:
            continue
        queries.clear()
        client.get(address)
        most[address] = len(queries)
    assert max(most.values()) <= 32, max(most.items(), key=lambda pair: pair[1])


def test_an_unknown_object_is_a_page_that_says_so(shop: Shop) -> None:
    client = shop.client()
    for address in (
        "/members/999999",
        "/campaigns/nothing",
        "/segments/nothing",
        "/loyalty/batches/99",
        "/nothing",
    ):
        page = client.get(address)
        assert page.status_code == 404, address
        assert "Not found" in page.text, address


def test_the_time_of_each_answer_is_in_its_headers(shop: Shop) -> None:
    found: Any = shop.client().get("/").headers["Server-Timing"]
    assert re.fullmatch(r"app;dur=\d+\.\d", found)


def test_weeks_begin_on_the_shops_monday_and_gaps_are_zeros(empty_shop: Shop) -> None:
    rows = [
        {"order_id": f"W{n}", "member_id": "M1", "ordered_at": at, "amount": amount, "status": status}
        for n, (at, amount, status) in enumerate(
            (
                ("2026-02-08T23:59:00+08:00", "1.00", "paid"),
                ("2026-02-09T00:00:00+08:00", "2.00", "paid"),  # still Sunday in UTC
                ("2026-02-23T12:00:00+08:00", "4.00", "paid"),
                ("2026-02-24T12:00:00+08:00", "8.00", "cancelled"),
            )
        )
    ]
    load_rows(
        empty_shop.database,
        "orders",
        numbered(rows),
        settings=empty_shop.settings,
        source="shop",
        now=seed.NOW,
        consents=lambda *_: None,
    )
    with empty_shop.database.read() as session:
        found = overview.weeks(session, ZoneInfo("Asia/Shanghai"), 4)
    assert [(week.start.isoformat(), week.orders, week.revenue_minor) for week in found] == [
        ("2026-02-02", 1, 100),
        ("2026-02-09", 1, 200),
        ("2026-02-16", 0, 0),
        ("2026-02-23", 1, 400),
    ]
