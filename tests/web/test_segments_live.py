"""Rules while they are written: counted, compared, tried on a member, helped by the data; and their versions."""

from __future__ import annotations

import json
import re
from html import unescape
from typing import Any

import pytest
import sqlalchemy as sa

from core.errors import InvalidInput
from segments import segments as saved
from segments.models import Segment, SegmentVersion
from tests.web import seed
from tests.web.conftest import Browser, Shop
from web import builder, rule_diff

DORMANT = {"field": "lifecycle", "op": "in", "value": ["dormant", "churned", "at_risk"]}
VIP = {"field": "tags", "op": "matches_any", "value": ["vip"]}


def count(client: Browser, rule: Any) -> str:
    text = rule if isinstance(rule, str) else json.dumps(rule)
    return unescape(client.post("/segments/count", {"rule": text}).text)


def problem(text: str) -> tuple[str, str] | None:
    found = re.search(r'data-problem-path="([^"]*)" data-problem-text="([^"]*)"', text)
    return (found.group(1), found.group(2)) if found else None


def test_the_count_says_the_rule_how_many_which_share_and_who(any_shop: Shop) -> None:
    text = count(any_shop.client("analyst@example.com"), VIP)
    assert "<strong>22</strong>" in text
    assert "9.2% of 240" in text
    assert "Tags include “vip”" in text
    assert len(re.findall(r'href="/members/\d+"', text)) == 5
    assert problem(text) is None
    assert re.search(r'id="count-mini" hx-swap-oob="true">22 members<', text)


@pytest.mark.parametrize(
    ("rule", "path", "message"),
    [
        (
            {"all": [VIP, {"field": "rfm.r", "op": "=", "value": "x"}]},
            "all[1].value",
            "'x' is not a number.",
        ),
        ({"all": [VIP, {"any": [{"segment": "nowhere"}]}]}, "all[1].any[0].segment", "there is no segment"),
        ({"not": {"list": "nowhere"}}, "not.list", "there is no list"),
        ({"all": []}, "all", "a group needs at least one condition."),
        ({"field": "rfm.r", "op": "=", "value": 1, "x": 2}, "", "“x” is not known here"),
        ("{not json", "json", "This is not JSON"),
        ("", "json", "The rule is empty."),
        ("[" * 100_001, "json", "The rule is too long."),
    ],
)
def test_a_problem_names_its_place_and_is_said_without_it(
    shop: Shop, rule: Any, path: str, message: str
) -> None:
    found = problem(count(shop.client(), rule))
    assert found is not None
    assert found[0] == path
    assert found[1].startswith(message)


def test_of_two_segments_the_unknown_one_is_named(shop: Shop) -> None:
    found = problem(count(shop.client(), {"all": [{"segment": "vip"}, {"segment": "nowhere"}]}))
    assert found is not None
    assert found[0] == "all[1].segment"


def test_the_overlap_compares_with_every_other_segment_and_not_with_itself(any_shop: Shop) -> None:
    client = any_shop.client()
    text = client.post("/segments/overlap", {"segment": "vip"}).text
    rows = re.findall(
        r'href="/segments/([\w-]+)">.*?<td class="num">([\d,]+)</td><td class="num">([\d.]+%)</td><td class="num">([\d.]+%)</td>',
        text,
    )
    assert [int(both) for _, both, *_ in rows] == sorted((int(both) for _, both, *_ in rows), reverse=True)
    assert {name for name, *_ in rows} == {"coffee-lovers", "dormant-buyers"}
    assert "22 members match this rule" in text
    both = {name: int(both) for name, both, *_ in rows}
    for name, number in both.items():
        shown = count(client, {"all": [{"segment": "vip"}, {"segment": name}]})
        assert f"<strong>{number}</strong>" in shown
    unsaved = client.post("/segments/overlap", {"rule": json.dumps(VIP), "own": "coffee-lovers"}).text
    assert {*re.findall(r'href="/segments/([\w-]+)"', unsaved)} == {"dormant-buyers", "vip"}


def test_the_overlap_of_a_rule_that_is_wrong_says_why(shop: Shop) -> None:
    text = shop.client().post("/segments/overlap", {"rule": '{"segment": "nowhere"}'}).text
    assert "there is no segment" in text


def member_where(shop: Shop, tagged: bool) -> str:
    from core.models import Member

    with shop.database.read() as session:
        rows = session.execute(sa.select(Member.external_id, Member.tags).order_by(Member.id)).all()
    return next(one for one, tags in rows if bool(tags) is tagged)


def test_a_member_is_tried_against_a_rule_and_the_failing_condition_is_named(any_shop: Shop) -> None:
    client = any_shop.client("analyst@example.com")
    rule = {"all": [{"field": "member_id", "op": "is_set"}, VIP]}
    inside, outside = member_where(any_shop, True), member_where(any_shop, False)
    text = client.post("/segments/check", {"rule": json.dumps(rule), "member": inside}).text
    assert "does not match" not in text
    assert "matches" in text
    assert "here: coffee, vip" in text
    text = client.post("/segments/check", {"rule": json.dumps(rule), "member": outside}).text
    assert "does not match" in text
    failing = re.search(r'<ul class="failing">(.*?)</ul>', text, re.DOTALL)
    assert failing is not None
    assert "Tags include" in failing.group(1)
    assert "Member id" not in failing.group(1)
    assert f"here: {outside}" in text


def test_codes_are_said_in_words_also_inside_a_segment_and_below_a_not(shop: Shop) -> None:
    client = shop.client(language="zh")
    rule = {"not": {"all": [{"segment": "dormant-buyers"}, {"segment": "vip"}]}}
    text = client.post("/segments/check", {"rule": json.dumps(rule), "member": "M0004"}).text
    assert "实际：活跃" in text
    assert text.count("is-wanted") >= 2  # the not itself, and what must not be met


def test_a_member_is_found_by_mail_and_phone_and_several_are_offered(shop: Shop) -> None:
    client = shop.client()
    for wish in ("member8@example.com", "138 0013 0008"):
        text = client.post("/segments/check", {"segment": "vip", "member": wish}).text
        assert 'href="/members/9"' in text, wish
    text = client.post("/segments/check", {"segment": "vip", "member": "张伟"}).text
    ids = re.findall(r"&#34;member_id&#34;: (\d+)|\"member_id\": (\d+)", text)
    assert len(ids) == 6
    assert "There are more" in text
    told = client.post("/segments/check", {"segment": "vip", "member_id": "9"}).text
    assert 'href="/members/9"' in told
    assert "Nobody is found" in client.post("/segments/check", {"segment": "vip", "member": "nobody"}).text


def test_a_member_who_is_not_in_the_warehouse_yet_is_said_to_be(shop: Shop) -> None:
    from core.models import Member

    with shop.database.write() as session:
        session.add(
            Member(source="shop", external_id="fresh", tags=[], attributes={}, fingerprint="",
                   created_at=seed.NOW, updated_at=seed.NOW)
        )  # fmt: skip
    text = shop.client().post("/segments/check", {"segment": "vip", "member": "fresh"}).text
    assert "in the warehouse yet" in text


def suggested(client: Browser, **query: str) -> list[tuple[str, int]]:
    answer = client.get("/segments/suggest", query_string=query)
    assert answer.status_code == 200
    return [(one["value"], one["number"]) for one in answer.get_json()["values"]]


def test_values_and_names_are_suggested_with_how_often(any_shop: Shop) -> None:
    client = any_shop.client("analyst@example.com")
    tags = suggested(client, field="tags")
    assert tags == [("coffee", 22), ("vip", 22)]
    cities = suggested(client, field="city")
    assert len(cities) == 6
    assert sum(number for _, number in cities) == 240
    assert suggested(client, field="city", q="上") == [pair for pair in cities if pair[0] == "上海"]
    assert suggested(client, field="attributes.favourite", q="TE")[0][0] == "tea"
    assert suggested(client, field="sku", event="product_viewed") == [
        ("S3", 237)
    ]  # three are later than the as-of date
    assert {value for value, _ in suggested(client, field="category", event="order")} == set(seed.CATEGORIES)
    assert suggested(client, names="attributes") == [("favourite", 240)]
    assert suggested(client, names="attributes", q="x") == []
    assert suggested(client, names="properties", event="product_viewed") == [("sku", 240)]


def test_what_has_no_values_suggests_nothing(shop: Shop) -> None:
    client = shop.client()
    assert suggested(client, field="nonsense") == []
    assert suggested(client, field="attributes.") == []
    assert suggested(client, field="") == []
    assert suggested(client, field="colour", event="never_happened") == []


# Versions


def save(client: Browser, rule: Any, title: str = "Sleepy") -> None:
    data = {"name": "sleepy", "title": title, "rule": json.dumps(rule)}
    address = (
        "/segments/new" if client.get("/segments/sleepy").status_code == 404 else "/segments/sleepy/edit"
    )
    assert client.post(address, data).status_code == 303


def test_versions_show_who_changed_what_and_an_old_one_comes_back_as_a_new_one(shop: Shop) -> None:
    admin, marketer = shop.client(), shop.client("marketer@example.com")
    save(admin, {"all": [DORMANT, VIP]})
    save(marketer, {"all": [DORMANT, {"not": {"any": [VIP, {"segment": "vip"}]}}]})
    text = marketer.get("/segments/sleepy").text
    changed = re.search(r'<ul class="diff">(.*?)</ul>', text, re.DOTALL)
    assert changed is not None
    lines = re.findall(
        r'<li class="diff-(\w+) deep-(\d)">(?:<\w+><span class="visually-hidden">[^<]*</span>)?([^<]*)',
        unescape(changed.group(1)),
    )
    assert lines == [
        ("kept", "0", "All of these"),
        ("kept", "1", "Lifecycle stage is Dormant, Churned or At risk"),
        ("gone", "1", "Tags include “vip”"),
        ("added", "1", "None of these"),
        ("added", "2", "Tags include “vip”"),
        ("added", "2", "is in the segment “vip”"),
    ]
    assert text.index("marketer@example.com", text.index("Version 2")) < text.index("Version 1")
    assert marketer.post("/segments/sleepy/versions/1/restore").status_code == 303
    with shop.database.read() as session:
        segment = saved.by_name(session, "sleepy")
        versions = session.scalars(
            sa.select(SegmentVersion)
            .where(SegmentVersion.segment_id == segment.id)
            .order_by(SegmentVersion.version)
        ).all()
    assert (segment.version, segment.rule, segment.title) == (3, {"all": [DORMANT, VIP]}, "Sleepy")
    assert [one.changed_by for one in versions] == [
        "admin@example.com",
        "marketer@example.com",
        "marketer@example.com",
    ]


def test_restoring_the_version_in_use_changes_nothing_and_an_unknown_one_is_not_found(shop: Shop) -> None:
    client = shop.client()
    assert client.post("/segments/vip/versions/1/restore").status_code == 303
    assert client.post("/segments/vip/versions/9/restore").status_code == 404
    with shop.database.read() as session:
        assert saved.by_name(session, "vip").version == 1


def test_a_segment_is_duplicated_into_the_editor_without_writing(shop: Shop) -> None:
    text = shop.client().get("/segments/new?copy=vip").text
    assert 'value="Copy of VIP"' in text
    assert 'value="vip-copy"' in text
    assert "matches_any" in text
    with shop.database.read() as session:
        assert session.scalar(sa.select(Segment.id).where(Segment.name == "vip-copy")) is None


def test_a_refused_rule_comes_back_as_typed_with_the_place_of_its_error(shop: Shop) -> None:
    rule = json.dumps({"all": [DORMANT, {"field": "rfm.m", "op": ">=", "value": "lots"}]})
    page = shop.client().post("/segments/new", {"name": "rich", "title": "Rich", "rule": rule})
    assert page.status_code == 422
    text = unescape(page.text)
    assert problem(text) == ("all[1].value", "'lots' is not a number.")
    assert '"value": "lots"' in text


def test_names_that_pages_have_are_refused(shop: Shop) -> None:
    """Every page one step below /segments has its name reserved, whoever adds one."""
    taken = {
        rule.rule.split("/")[2]
        for rule in shop.app.url_map.iter_rules()
        if rule.rule.startswith("/segments/") and "<" not in rule.rule.split("/")[2]
    }
    assert {"rfm", "lists", "predictions", "count", "new"} <= taken
    assert taken <= saved.RESERVED
    with shop.database.write() as session:
        for name in sorted(taken):
            with pytest.raises(InvalidInput, match="name of a page") as caught:
                saved.save(session, name=name, title="T", rule=VIP, by="a", now=seed.NOW)
            assert caught.value.field == "name"
    page = shop.client().post("/segments/new", {"name": "rfm", "title": "T", "rule": json.dumps(VIP)})
    assert page.status_code == 422
    assert "name of a page" in page.text


def test_a_rule_that_is_not_valid_any_more_is_compared_as_json(shop: Shop) -> None:
    with shop.app.test_request_context():
        found = rule_diff.diff({"field": "gone", "op": "="}, VIP, "en")
    assert ("gone", '"field": "gone",') in [(line.change, line.text) for line in found]
    assert found[-1] == rule_diff.Line(0, "Tags include “vip”", rule_diff.ADDED)


def test_a_part_of_a_rule_is_found_by_its_path() -> None:
    rule = {"all": [DORMANT, {"not": {"any": [VIP]}}]}
    assert builder.node_at(rule, "all[1].not.any[0]") == VIP
    assert builder.node_at(rule, "") == rule
    assert builder.node_at(rule, "all[7].not") is None
    assert builder.node_at(rule, "any[0]") is None


def test_the_history_of_a_segment_is_asked_for_once_its_page_is_there(shop: Shop) -> None:
    client = shop.client()
    page = client.get("/segments/dormant-buyers").text
    assert 'hx-get="/segments/dormant-buyers/history" hx-trigger="load"' in page
    assert "data-chart" not in page
    assert "charts" in page
    assert "data-chart" in client.get("/segments/dormant-buyers/history").text
