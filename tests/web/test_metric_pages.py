"""Results → Metrics: the ready-made ones, a form that covers every definition, its refusals, its versions."""

from __future__ import annotations

import html
import json
import re
from typing import Any

import pytest
import sqlalchemy as sa

from core.models import AuditEntry
from experiments import catalogue, metrics
from experiments.metric_where import AnyOf
from experiments.metrics import Condition, MetricSpec
from experiments.models import Metric
from tests.web import seed
from tests.web.conftest import Shop

GOOD = {
    "name": "big_orders", "kind": "ratio", "fact": "orders", "value": "net_minor", "denominator": "rows",
    "where-0-column": "status", "where-0-op": "in", "where-0-value": "paid, shipped",
    "where-1-column": "net_minor", "where-1-op": ">=", "where-1-value": "5000",
    "where-2-column": "net_minor", "where-2-op": "<", "where-2-value": "90000",
    "where-4-column": "coupon_code", "where-4-op": "not_set", "where-4-value": "",
    "from_day": "1", "until_day": "28", "winsorise": "99", "covariate_days": "14", "margin": "5",
    "better": "higher", "q": "50",
}  # fmt: skip
SPEC = MetricSpec(
    "big_orders", "ratio", "orders", "net_minor", "rows",
    (
        Condition("status", "in", ["paid", "shipped"]), Condition("net_minor", ">=", 5000),
        Condition("net_minor", "<", 90000), Condition("coupon_code", "is_set", False),
    ),
    1, 28, None, 0.99, 14, 0.05,
)  # fmt: skip


def stored(shop: Shop, name: str) -> MetricSpec:
    with shop.database.read() as session:
        return catalogue.spec_of(catalogue.by_name(session, name))


def with_metrics(shop: Shop) -> dict[str, int]:
    shop.client().post("/results/metrics/ready-made")
    with shop.database.read() as session:
        return dict(session.execute(sa.select(Metric.name, Metric.id)).all())


def test_an_empty_catalogue_teaches_and_one_button_fills_it(empty_shop: Shop) -> None:
    client = empty_shop.client()
    page = client.get("/results/metrics")
    assert page.status_code == 200
    assert "No metrics yet" in page.text
    assert client.post("/results/metrics/ready-made").status_code == 303
    page = client.get("/results/metrics")
    for title in ("Revenue", "Average order value", "Return rate", "Unsubscribes", "Bought again"):
        assert title in page.text
    assert "Add the ready-made metrics" not in page.text
    assert "ready-made" not in empty_shop.client("analyst@example.com").get("/results/metrics").text


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_page_of_every_ready_made_metric_renders(any_shop: Shop, language: str) -> None:
    with any_shop.database.write() as session:
        facts = {fact.name: fact for fact in __import__("segments.facts", fromlist=["FACTS"]).FACTS}
        catalogue.add_built_in(session, facts, "admin@example.com", seed.NOW)
        ids = dict(session.execute(sa.select(Metric.name, Metric.id)).all())
    assert len(ids) == 9
    client = any_shop.client(language=language)
    for metric_id in ids.values():
        for part in ("", "/edit", "/look"):
            page = client.get(f"/results/metrics/{metric_id}{part}")
            assert page.status_code == 200, (metric_id, part)
    page = client.get(f"/results/metrics/{ids['revenue']}").text
    assert "SELECT" in page
    assert "spring-win-back" in page
    assert client.get("/results/metrics/999999").status_code == 404


def test_the_picture_shows_what_the_shop_sold(shop: Shop) -> None:
    ids = with_metrics(shop)
    part = shop.client().get(f"/results/metrics/{ids['revenue']}/look", headers={"HX-Request": "true"})
    assert "<html" not in part.text
    assert "over all 240 members" in part.text
    assert part.text.count('<th scope="row">') == 12
    quiet = shop.client().get(f"/results/metrics/{ids['units']}/look", headers={"HX-Request": "true"})
    assert "chart-box" in quiet.text


def test_a_metric_is_made_with_every_field_of_its_form(shop: Shop) -> None:
    client = shop.client()
    answer = client.post("/results/metrics/new", GOOD)
    assert answer.status_code == 303
    assert stored(shop, "big_orders") == SPEC
    page = client.get(answer.headers["Location"]).text
    assert "status is one of “paid”, “shipped” and net revenue is at least 5000" in page
    assert "coupon code has no value" in page
    again = client.get(answer.headers["Location"] + "/edit").text
    assert 'value="paid, shipped"' in again
    assert re.search(r'<option value="not_set" selected>', again)


def test_a_changed_metric_is_a_version_and_says_what_changed(shop: Shop) -> None:
    client = shop.client()
    address = client.post("/results/metrics/new", GOOD).headers["Location"]
    changed = {**GOOD, "until_day": "14", "name": "ignored"}
    assert client.post(f"{address}/edit", changed).status_code == 303
    page = client.get(address).text
    assert "until_day: 28 → 14" in page
    assert "Version 2" in page
    assert client.post(f"{address}/edit", changed).status_code == 303
    with shop.database.read() as session:
        assert catalogue.by_name(session, "big_orders").version == 2
        entries = session.scalars(
            sa.select(AuditEntry.action).where(AuditEntry.object_type == "metric").order_by(AuditEntry.id)
        ).all()
    assert entries == ["create", "change"]


@pytest.mark.parametrize(
    ("change", "field", "english", "chinese"),
    [
        ({"name": ""}, "name", "This is needed", "必填"),
        ({"value": "nothing"}, "value", "has no column “nothing”", "没有“nothing”列"),
        ({"value": "status"}, "value", "is no number", "不是数字"),
        ({"until_day": "1"}, "until_day", "from_day &lt; until_day", "窗口须满足"),
        ({"kind": "quantile", "q": ""}, "q", "has a q between 0 and 1", "分位数"),
        ({"where-1-value": "many"}, "where-1-value", "is compared with", "须与"),
        ({"where-4-column": "member"}, "where-4-column", "has no column “member”", "没有“member”列"),
        ({"where-2-op": "like"}, "where-2-op", "There is no “like”", "没有“like”"),
        ({"where-0-value": " , "}, "where-0-value", "takes a list", "列表"),
        ({"winsorise": "100"}, "winsorise", "winsorised at a share", "缩尾"),
        ({"margin": "100"}, "margin", "relative share", "相对比例"),
        ({"covariate_days": "0"}, "covariate_days", "looks back 1 to", "回看"),
        ({"fact": "members"}, "fact", "Choose one of the list", "请从列表中选择"),
    ],
)  # fmt: skip
def test_a_refusal_stands_beside_its_field_in_both_languages(
    shop: Shop, change: dict[str, str], field: str, english: str, chinese: str
) -> None:
    for language, text in (("en", english), ("zh", chinese)):
        answer = shop.client(language=language).post("/results/metrics/new", {**GOOD, **change})
        assert answer.status_code == 422
        found = re.search(rf'id="{field}-error".*?</span></span>', answer.text, re.DOTALL)
        assert found is not None, (language, field)
        assert text in found.group(0)
        if field != "fact":
            assert "where-4-column" in answer.text  # what was typed is still there
    with shop.database.read() as session:
        assert session.scalar(sa.select(Metric.id).where(Metric.name == "big_orders")) is None


def test_two_metrics_cannot_have_one_name(shop: Shop) -> None:
    client = shop.client()
    client.post("/results/metrics/new", GOOD)
    answer = client.post("/results/metrics/new", {**GOOD, "until_day": "3"})
    assert answer.status_code == 422
    assert "already a metric" in answer.text


def test_a_property_is_compared_as_it_is_typed(shop: Shop) -> None:
    client = shop.client()
    base: dict[str, Any] = {"kind": "count", "fact": "events", "until_day": "7", "better": "higher"}
    for name, typed, value in (("a", "3", 3), ("b", '"3"', "3"), ("c", "S3", "S3"), ("d", "2.5", 2.5)):
        answer = client.post(
            "/results/metrics/new",
            {
                **base,
                "name": name,
                "where-0-column": "properties.sku",
                "where-0-op": "=",
                "where-0-value": typed,
            },
        )
        assert answer.status_code == 303
        assert stored(shop, name).where == (Condition("properties.sku", "=", value),)
        shown = client.get(answer.headers["Location"] + "/edit").text
        assert f'value="{typed.replace(chr(34), "&#34;")}"' in shown


def test_an_archived_metric_is_offered_no_more_and_comes_back(shop: Shop) -> None:
    ids, client = with_metrics(shop), shop.client()
    address = f"/results/metrics/{ids['units']}"
    client.post(f"{address}/archive")
    assert (
        "Units" not in re.sub(r"(?s)<main.*?<h1", "", client.get("/results/metrics").text).split("<tbody>")[1]
    )
    assert "Units" in client.get("/results/metrics?archived=1").text
    assert 'value="units"' not in client.get("/results/plans/ask").text
    assert client.post(f"{address}/edit", {**GOOD, "name": "units"}).status_code == 422
    client.post(f"{address}/restore")
    assert 'value="units"' in client.get("/results/plans/ask").text
    with shop.database.read() as session:
        assert [one.name for one in metrics.load(session, ["units"])] == ["units"]


NESTED = {
    "any": [
        {"field": "status", "op": "=", "value": "paid"},
        {"not": {"all": [{"field": "net_minor", "op": "<", "value": 500},
                         {"field": "coupon_code", "op": "is_set"}]}},
    ]
}  # fmt: skip


def test_a_nested_rule_is_opened_and_saved_without_loss(shop: Shop) -> None:
    client = shop.client()
    rule = {**GOOD, "match": "groups", "rule": json.dumps(NESTED)}
    address = client.post("/results/metrics/new", rule).headers["Location"]
    assert stored(shop, "big_orders").to_json()["where"] == NESTED
    page = client.get(address).text
    assert "status is “paid” or not (net revenue is below 500 and coupon code has a value)" in page
    form = html.unescape(client.get(f"{address}/edit").text)
    opened = re.search(r'<textarea[^>]*id="rule"[^>]*>(.*?)</textarea>', form, re.DOTALL)
    assert opened is not None
    assert json.loads(opened[1]) == NESTED
    assert '<option value="groups" selected>' in form
    sent = {**rule, "rule": opened[1]}
    assert client.post(f"{address}/edit", sent).status_code == 303
    with shop.database.read() as session:
        assert catalogue.by_name(session, "big_orders").version == 1, "nothing has changed"


def test_the_list_also_holds_conditions_of_which_one_is_enough(shop: Shop) -> None:
    client = shop.client()
    address = client.post("/results/metrics/new", {**GOOD, "match": "any"}).headers["Location"]
    assert stored(shop, "big_orders").where == (AnyOf(SPEC.where),)
    form = client.get(f"{address}/edit").text
    assert '<option value="any" selected>' in form
    assert 'value="paid, shipped"' in form
    answer = client.post("/results/metrics/new", {**GOOD, "name": "x", "match": "any", "where-2-op": "like"})
    found = re.search(r'id="where-2-op-error".*?</span></span>', answer.text, re.DOTALL)
    assert found is not None
    assert "There is no “like”" in found.group(0)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("", "The rule is empty."),
        ("{", "This is not JSON"),
        ('{"any": []}', "where.any: a group needs at least one condition."),
        ('{"not": {"field": "member", "op": "=", "value": 1}}', "where.not.field: “orders” has no column"),
    ],
)
def test_a_rule_that_is_none_comes_back_as_it_was_typed(shop: Shop, rule: str, text: str) -> None:
    answer = shop.client().post("/results/metrics/new", {**GOOD, "match": "groups", "rule": rule})
    assert answer.status_code == 422
    found = re.search(r'id="rule-error".*?</span></span>', answer.text, re.DOTALL)
    assert found is not None
    assert text in html.unescape(found.group(0))
    assert f">\n{html.escape(rule).replace('&quot;', '&#34;')}</textarea>" in answer.text
