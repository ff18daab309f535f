"""The rule builder in a real browser: built by clicking, counted as it grows, followed both ways."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from segments import segments as saved
from tests.web import browser, seed
from tests.web.conftest import Shop
from tests.web.test_assets import built

pytestmark = pytest.mark.browser
DORMANT = {"field": "lifecycle", "op": "in", "value": ["dormant"]}


@pytest.fixture(scope="module")
def found() -> Iterator[Any]:
    browser.need_browser()
    built()
    with browser.browser() as chromium:
        yield chromium


@pytest.fixture
def page(shop: Shop, found: Any) -> Iterator[Any]:
    with browser.serving(shop.app) as base:
        opened = browser.open_page(found, base)
        browser.log_in(opened, "marketer@example.com", seed.PASSWORD)
        yield opened
        opened.context.close()


def at(page: Any, place: str) -> Any:
    """A control by where it stands: ``r`` is the rule, ``r.1`` its second condition."""
    return page.locator(f'#builder [data-at="{place}"]')


def rule_of(page: Any) -> Any:
    return json.loads(page.input_value("#rule"))


def open_editor(page: Any, rule: Any, name: str = "") -> None:
    page.goto("/segments/new")
    page.evaluate(
        "details => document.querySelectorAll(details).forEach((one) => (one.open = true))", "details.more"
    )
    write(page, json.dumps(rule))


def write(page: Any, text: str) -> None:
    page.fill("#rule", text)
    page.locator("#rule").dispatch_event("change")


def problems(page: Any) -> list[str]:
    """What went wrong on the page; a count that a newer one replaced did not."""
    return [text for text in page.problems if not text.startswith(("htmx:sendAbort", "htmx:afterRequest"))]


def counted(page: Any, words: str) -> None:
    page.wait_for_selector(f"#count .rule-words:has-text('{words}')")


def add_value(page: Any, place: str, text: str) -> None:
    """Choose a value out of the list below a chips field."""
    field = at(page, place)
    field.click()
    field.fill(text)
    # By its text: the list of before is there until the new one has come.
    option = page.locator("#builder .combo-list:visible [role=option]").filter(has_text=text).first
    option.wait_for()
    option.click()


def test_a_nested_rule_is_built_by_clicking_saved_and_opened_again(page: Any, shop: Shop) -> None:
    page.goto("/segments/new")
    page.fill("#title", "Looked and left")
    page.fill("#name", "looked-left")
    at(page, "r.1:remove").click()
    at(page, "r.0:remove").click()
    assert rule_of(page) == {"all": []}
    at(page, "r:add-field").click()
    add_value(page, "r.0:value", "dorm")
    add_value(page, "r.0:value", "chur")
    page.keyboard.press("Escape")
    at(page, "r:add-kind").click()  # a group: any of …
    at(page, "r.1.0:field").select_option("city")
    at(page, "r.1.0:op").select_option("=")
    at(page, "r.1.0:value").fill("上")
    page.locator("#builder .combo-list:visible [role=option]").first.click()
    at(page, "r.1:add-sequence").click()
    at(page, "r.1.1:add-step").click()
    at(page, "r.1.1:step2:remove").click()
    at(page, "r.1.1:step1:within").fill("5")
    at(page, "r.1:add-event").click()
    at(page, "r.1.2:event").select_option("product_viewed")
    at(page, "r.1.2:add-where").click()
    at(page, "r.1.2:where0:property").fill("sku")
    at(page, "r.1.2:where0:value").fill("S3")
    at(page, "r.1.2:window").select_option("since_event")
    at(page, "r.1.2:since:for").fill("12")
    at(page, "r.1.2:since:for-unit").select_option("h")
    at(page, "r.1.2:since:which").select_option("first")
    at(page, "r:add-segment").click()
    at(page, "r.2:segment").select_option("vip")
    at(page, "r.2:not").click()
    wanted = {
        "all": [
            {"field": "lifecycle", "op": "in", "value": ["dormant", "churned"]},
            {
                "any": [
                    {"field": "city", "op": "=", "value": "上海"},
                    {
                        "sequence": [
                            {"event": "product_viewed"},
                            {"not": {"event": "order"}, "within": "5d"},
                        ]
                    },
                    {
                        "event": "product_viewed",
                        "aggregate": "count",
                        "op": ">=",
                        "value": 1,
                        "within": {"since_event": {"event": "order", "which": "first"}, "for": "12h"},
                        "where": [{"field": "sku", "op": "=", "value": "S3"}],
                    },
                ]
            },
            {"not": {"segment": "vip"}},
        ]
    }
    assert rule_of(page) == wanted
    counted(page, "vip")
    assert page.locator("#count .count-box strong").inner_text().isdigit()
    page.click("button:has-text('Save')")
    page.wait_for_url("**/segments/looked-left")
    page.goto("/segments/looked-left/edit")
    assert rule_of(page) == wanted
    at(page, "r.0:copy").click()
    at(page, "r.1:remove").click()
    assert rule_of(page) == wanted
    with shop.database.read() as session:
        assert saved.by_name(session, "looked-left").rule == wanted
    assert problems(page) == []


def test_a_bad_value_is_refused_beside_its_condition_and_kept_as_typed(page: Any) -> None:
    open_editor(page, {"all": [DORMANT, {"field": "rfm.m", "op": ">=", "value": 4}]})
    page.fill("#title", "Rich")
    page.fill("#name", "rich")
    at(page, "r.1:value").fill("lots")
    live = page.locator("#builder .leaf").nth(1).locator(".node-problem.is-watch")
    live.wait_for()
    page.click("button:has-text('Save')")
    problem = page.locator("#builder .leaf").nth(1).locator(".node-problem.is-bad")
    problem.wait_for()
    assert problem.inner_text().strip() == "'lots' is not a number."
    field = at(page, "r.1:value")
    assert field.input_value() == "lots"
    assert field.get_attribute("aria-invalid") == "true"
    assert field.get_attribute("aria-describedby") == "node-problem"
    assert page.locator("#builder .node-problem").count() == 1
    assert page.input_value("#title") == "Rich"
    field.fill("5")
    page.wait_for_selector("#count .count-box strong")
    assert page.locator("#builder .node-problem").count() == 0
    assert page.locator("#builder .is-invalid").count() == 0


def test_the_builder_follows_the_json_and_waits_while_it_is_none(page: Any) -> None:
    open_editor(page, {"all": [DORMANT]})
    assert at(page, "r.0:field").input_value() == "lifecycle"
    page.fill("#rule", '{"any": [\n  {"field": "city" "op"}]}')
    broken = page.locator("#json-problem")
    broken.wait_for()
    assert "line 2, column 20" in broken.inner_text()
    assert page.evaluate("document.querySelector('#builder').inert")
    assert page.input_value("#rule") == '{"any": [\n  {"field": "city" "op"}]}'
    assert at(page, "r.0:field").input_value() == "lifecycle"
    page.fill("#rule", '{"not": {"any": [{"field": "city", "op": "=", "value": "x"}, {"odd": 1}]}}')
    page.wait_for_selector("#json-problem", state="detached")
    assert at(page, "r:kind").input_value() == "notAny"
    assert at(page, "r.0:field").input_value() == "city"
    assert "can only be edited as JSON" in page.locator("#builder .leaf").nth(1).inner_text()
    at(page, "r:kind").select_option("all")
    assert rule_of(page) == {"all": [{"field": "city", "op": "=", "value": "x"}, {"odd": 1}]}


def test_a_rule_of_one_condition_stays_one(page: Any) -> None:
    open_editor(page, {"not": {"field": "city", "op": "is_set"}})
    assert rule_of(page) == {"not": {"field": "city", "op": "is_set"}}
    at(page, "r.0:not").click()
    assert rule_of(page) == {"field": "city", "op": "is_set"}
    at(page, "r:add-event").click()
    assert [next(iter(one)) for one in rule_of(page)["all"]] == ["field", "event"]


EVERY_KIND = {
    "all": [
        {"field": "attributes.favourite", "op": "in", "value": ["tea", "7"]},
        {"field": "registered_at", "op": "between", "value": ["2025-01-01", "2026-01-01"]},
        {"field": "birthday", "op": "anniversary_in", "value": "14d"},
        {"field": "consent.email", "op": "=", "value": True},
        {"field": "rfm.monetary", "op": ">=", "value": 12.5},
        {"field": "rfm.segment", "op": "=", "value": "champions"},
        {"field": "city", "op": "not_in", "value": ["上海"]},
        {"event": "order", "aggregate": "sum", "of": "amount", "op": ">", "value": 9.5, "within": {"last": "12h"}},
        {"event": "order", "aggregate": "distinct", "of": "sku", "op": "between", "value": [2, 5]},
        {"event": "order", "aggregate": "first", "op": "in_last", "value": "30d"},
        {"event": "order", "aggregate": "last", "of": "channel", "op": "=", "value": "web"},
        {"event": "order", "aggregate": "days_since", "op": "<", "value": 9, "within": {"before": "2026-02-01"}},
        {"event": "order", "aggregate": "count", "op": ">=", "value": 1, "within": {"before": "30d"}},
        {"event": "order", "aggregate": "count", "op": "=", "value": 0, "within": {"between": ["60d", "30d"]}},
        {"event": "order", "aggregate": "count", "op": "=", "value": 0,
         "within": {"between": ["2025-01-01", "2025-02-01"]}},
        {"event": "view", "where": [{"field": "sku", "op": "starts_with", "value": "S"},
                                    {"field": "price", "op": ">", "value": 5}],
         "aggregate": "max", "of": "price", "op": ">=", "value": 1,
         "within": {"since_event": {"event": "message_opened", "which": "last",
                                    "where": [{"field": "channel", "op": "=", "value": "email"}]}}},
        {"sequence": [{"event": "view", "where": [{"field": "sku", "op": "is_set"}]}, {"not": {"event": "order"}},
                      {"event": "add_to_cart", "within": "2h"}, {"not": {"event": "order"}, "within": "3d"}],
         "within": {"last": "90d"}},
        {"any": [{"segment": "vip"}, {"not": {"all": [{"list": "few"}, {"field": "tags", "op": "is_set"}]}}]},
    ]
}  # fmt: skip


def test_every_kind_of_condition_goes_through_the_builder_unchanged(page: Any, shop: Shop) -> None:
    shop.client().post("/segments/lists/new", {"name": "few", "title": "Few", "ids": "M0001"})
    open_editor(page, EVERY_KIND)
    last = len(EVERY_KIND["all"]) - 1
    # Moving a condition away and back draws everything again out of what the builder holds.
    at(page, f"r.{last}:up").click()
    assert rule_of(page) != EVERY_KIND
    at(page, f"r.{last - 1}:down").click()
    assert rule_of(page) == EVERY_KIND
    page.wait_for_selector("#count .count-box strong")
    assert page.locator("#builder .of-raw").count() == 0
    unlabelled = page.evaluate(
        "[...document.querySelectorAll('#builder input, #builder select')].filter((one) => !one.getAttribute('aria-label')).length"
    )
    assert unlabelled == 0
    assert problems(page) == []


def test_conditions_move_out_of_their_group_and_the_keyboard_stays_with_them(page: Any) -> None:
    open_editor(page, {"all": [DORMANT, {"any": [{"segment": "vip"}, {"field": "city", "op": "is_set"}]}]})
    at(page, "r.1.0:up").focus()
    page.keyboard.press("Enter")
    assert rule_of(page) == {
        "all": [DORMANT, {"segment": "vip"}, {"any": [{"field": "city", "op": "is_set"}]}]
    }
    assert page.evaluate("document.activeElement.dataset.at") == "r.1:up"
    page.keyboard.press("Enter")
    assert rule_of(page)["all"][0] == {"segment": "vip"}
    assert at(page, "r.0:up").is_disabled()


def test_chips_are_typed_pasted_and_taken_away_by_keyboard(page: Any) -> None:
    open_editor(page, {"all": [{"field": "city", "op": "in", "value": []}]})
    field = at(page, "r.0:value")
    field.click()
    page.keyboard.type("甲，乙")
    page.keyboard.press("Enter")
    page.keyboard.type("北")
    page.wait_for_selector("#builder .combo-list:visible [role=option]")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert rule_of(page)["all"][0]["value"] == ["甲", "乙", "北京"]
    assert page.evaluate("location.pathname") == "/segments/new"  # Enter did not send the form
    page.keyboard.press("Backspace")
    page.click('#builder .chip button[aria-label="Remove 甲"]')
    assert rule_of(page)["all"][0]["value"] == ["乙"]


def test_values_of_an_attribute_are_all_numbers_or_all_texts(page: Any) -> None:
    open_editor(page, {"all": [{"field": "attributes.size", "op": "in", "value": []}]})
    at(page, "r.0:value").click()
    page.keyboard.type("7,8.5,007,")
    assert rule_of(page)["all"][0]["value"] == ["7", "8.5", "007"]
    for _ in range(3):
        page.keyboard.press("Backspace")
    page.keyboard.type("7,8.5,")
    assert rule_of(page)["all"][0]["value"] == [7, 8.5]
    page.keyboard.type("large")
    page.keyboard.press("Enter")
    assert rule_of(page)["all"][0]["value"] == ["7", "8.5", "large"]


def test_another_operator_keeps_of_the_value_what_it_can(page: Any) -> None:
    open_editor(page, {"all": [{"field": "rfm.r", "op": ">=", "value": 4}]})
    for op, value in (("in", [4]), ("between", [4, 4]), ("=", 4), ("is_set", None), (">", 1)):
        at(page, "r.0:op").focus()
        at(page, "r.0:op").select_option(op)
        assert rule_of(page)["all"][0].get("value") == value, op
        assert page.evaluate("document.activeElement.dataset.at") == "r.0:op"


def test_the_member_check_names_the_failing_condition_of_a_rule_that_is_not_saved(page: Any) -> None:
    open_editor(page, {"all": [{"field": "member_id", "op": "is_set"}, {"segment": "vip"}]})
    page.fill("#check-member", "M0001")
    page.keyboard.press("Enter")
    page.wait_for_selector("#check .failing")
    assert "Tags include “vip”" in page.inner_text("#check .failing")
    assert "does not match" in page.inner_text("#check")
    assert page.locator("#check .told-root .is-unwanted").count() >= 2
    assert "/segments/new" in page.url
    page.click("#overlapping ~ button")
    page.wait_for_selector("#overlap table")
    assert page.locator("#overlap tbody tr").count() == 3


def test_only_the_last_of_many_changes_is_counted(page: Any) -> None:
    open_editor(page, {"all": [{"field": "rfm.r", "op": ">=", "value": 1}]})
    # What opening it asks for is behind us: the page's own clock orders the two waits, however slow it is.
    page.evaluate("new Promise((done) => setTimeout(done, 1000))")
    page.wait_for_selector("#count .count-box strong")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if request.url.endswith("/count") else None)
    # In one go: on a slow machine the pauses between four commands from here are longer than the builder waits.
    at(page, "r.0:value").evaluate(
        """(field) => ["2", "3", "4", "5"].forEach((sign) => {
            field.value = sign;
            field.dispatchEvent(new Event("input", {bubbles: true}));
        })"""
    )
    counted(page, "5")
    assert len(asked) == 1


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_builder_fits_a_phone(shop: Shop, found: Any, language: str) -> None:
    with browser.serving(shop.app) as base:
        page = browser.open_page(found, base, width=390, height=844, language=language)
        browser.log_in(page, "marketer@example.com", seed.PASSWORD)
        open_editor(page, EVERY_KIND)
        assert page.locator("#builder .leaf").count() == len(EVERY_KIND["all"]) + 2
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        at(page, "r.6:value").scroll_into_view_if_needed()
        at(page, "r.6:value").click()
        page.wait_for_selector("#builder .combo-list:visible [role=option]")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert problems(page) == []
        page.context.close()
