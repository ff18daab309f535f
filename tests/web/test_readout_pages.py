"""The read-out page, its files, and the link for somebody without an account."""

from __future__ import annotations

import csv
import io
import re
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from core.models import AuditEntry
from experiments import readout_links
from experiments.models import Readout
from tests.web import readout_seed, seed
from tests.web.conftest import Shop
from web.readout_files import BOM, safe


@pytest.fixture
def kept(shop: Shop) -> int:
    return readout_seed.fill(shop.database)


def text_of(page: Any) -> str:
    assert page.status_code == 200
    return str(page.text)


def test_the_page_recommends_first_and_shows_everything(shop: Shop, kept: int) -> None:
    text = text_of(shop.client().get(f"/results/{kept}"))
    verdict = re.search(r'<p class="verdict">(.*?)</p>', text)
    assert verdict is not None
    assert verdict.group(1).startswith("Send “B” to everyone: it brought ")
    assert verdict.group(1).endswith("after all costs; “A” lost money.")
    order = [text.index(f"<h2>{heading}</h2>") for heading in (
        "Checks", "Revenue", "How the effect built up", "Profit and cost", "For whom",
        "What it would take to know",
    )]  # fmt: skip
    assert order == sorted(order)
    assert text.index("What it would take to know") < text.index("<summary><strong>Orders</strong>")
    for part in (
        "28.8% of the variance removed",
        "confidence sequence, narrowest at N* = 5,000 members",
        "The effect differs between groups of “Lifecycle stage before”",
        "Incremental revenue for each unit spent (iROAS)",
        "went to members who would have bought anyway",
        "the margin paid for the cost by day 6; by the interval that is not sure",
        "members in both arms",
        "Formula: difference of means, normal",
    ):
        assert part in text, part
    pictures = re.findall(r'<figure class="pic-box">(.*?)</figure>', text, re.DOTALL)
    assert len(pictures) == 4 + 2 + 2 + 2
    for picture in pictures:
        assert picture.count("<svg") == 2
        assert re.search(r'<table class="table">.*<th scope="col">.*<th scope="row">', picture, re.DOTALL)
    assert not re.search(r"<[^>]*\s(style|on\w+)=", text)


def test_another_dimension_is_chosen_in_the_address(shop: Shop, kept: int) -> None:
    client = shop.client()
    text = text_of(client.get(f"/results/{kept}?by=city"))
    assert "The effect does not differ between groups of “City”" in text
    assert "上海" in text
    assert "Lifecycle stage before”" in text_of(client.get(f"/results/{kept}?by=nothing"))


def test_the_page_speaks_chinese_in_its_sentences(shop: Shop, kept: int) -> None:
    text = text_of(shop.client(language="zh").get(f"/results/{kept}"))
    assert "建议全量发送“B”：人均收入多" in text
    assert "；“A”亏损。" in text


def test_a_refusal_within_the_advice_speaks_the_readers_language(shop: Shop, kept: int) -> None:
    with shop.database.write() as session:
        row = session.get_one(Readout, kept)
        refused = "No member differs from another in either arm: there is nothing to test."
        empty = dict.fromkeys(("absolute", "relative", "incremental_total", "adjusted", "always_valid"))
        rows = [{**one, **empty, "refused": refused} for one in row.result["results"]]
        row.result = {**row.result, "results": rows}
    assert f"No recommendation yet: {refused}" in text_of(shop.client().get(f"/results/{kept}"))
    text = text_of(shop.client(language="zh").get(f"/results/{kept}"))
    assert "暂不建议：" in text
    assert "No member differs" not in text
    assert "No member differs" not in text_of(shop.client(language="zh").get("/campaigns/spring-win-back"))


def test_a_read_out_of_before_still_opens(shop: Shop) -> None:
    with shop.database.write() as session:
        row = session.scalars(sa.select(Readout).order_by(Readout.id)).first()
        assert row is not None
        new = {"goal", "measures", "method", "tuning", "looks", "covariate_days", "timeline", "dimensions"}
        result = {name: value for name, value in row.result.items() if name not in new}
        old = {"metric", "arm", "control", "n", "n_control", "mean_control", "mean", "absolute", "relative",
               "incremental_total", "refused"}  # fmt: skip
        result["results"] = [{name: one[name] for name in old} for one in result["results"]]
        row.result, row.settings = result, {}
        readout_id = row.id
    client = shop.client()
    text = text_of(client.get(f"/results/{readout_id}"))
    assert "<h2>Revenue</h2>" in text
    assert "How the effect built up" not in text
    assert client.get(f"/results/{readout_id}/numbers.csv").status_code == 200
    assert client.get(f"/results/{readout_id}/report.pdf").data.startswith(b"%PDF")


def test_a_broken_split_shows_no_number_that_could_be_believed(shop: Shop) -> None:
    kept = readout_seed.fill(shop.database, previous_p=1e-9)
    text = text_of(shop.client().get(f"/results/{kept}"))
    assert "No recommendation: the arms are not split as planned" in text
    assert "<svg class" not in text.partition('<main id="main"')[2].replace('<svg class="icon', "")
    assert "Profit and cost" not in text


def test_a_second_look_says_so(shop: Shop) -> None:
    kept = readout_seed.fill(shop.database, looks=2)
    text = text_of(shop.client().get(f"/results/{kept}"))
    assert "looked at 2 times before: a fixed interval would be wrong in 10.7% of cases" in text
    assert "that hold however often one looks (confidence sequence, N* 5,000)" in text


def test_the_csv_has_every_number_and_no_formula(shop: Shop, kept: int) -> None:
    answer = shop.client().get(f"/results/{kept}/numbers.csv")
    assert answer.headers["Content-Disposition"] == f"attachment; filename=readout-{kept}.csv"
    assert answer.data.startswith(BOM.encode())
    rows = list(csv.DictReader(io.StringIO(answer.text.removeprefix(BOM))))
    found = readout_seed.read_out()

    def value(*place: str) -> str:
        (row,) = [
            one
            for one in rows
            if (one["section"], one["metric"], one["arm"], one["group"], one["name"]) == place
        ]
        return row["value"]

    result = found.result("revenue", "B")
    assert result.absolute is not None
    assert result.adjusted is not None
    assert float(value("results", "revenue", "B", "", "absolute.low")) == result.absolute.low
    assert float(value("results", "revenue", "B", "", "adjusted.theta")) == result.adjusted.theta
    assert float(value("headline", "revenue", "B", "", "high")) == result.adjusted.comparison.absolute.high
    assert float(value("over time", "revenue", "A", "day 14", "n")) == 8000
    assert value("roi", "", "B", "", "cost.coupons") == "150000"
    assert value("checks", "", "", "srm", "ok") == "true"
    groups = {row["group"] for row in rows if row["section"] == "groups"}
    assert f"city: {readout_seed.HOSTILE}" in groups  # its own words stand before it
    for row in rows:
        for cell in row.values():
            assert not cell.startswith(("=", "@", "+")), row
    assert safe("=1+1") == "'=1+1"
    assert (safe(-1.5), safe(None), safe(True)) == ("-1.5", "", "true")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_pdf_has_two_pages_and_its_pictures_are_vectors(shop: Shop, kept: int, language: str) -> None:
    answer = shop.client(language=language).get(f"/results/{kept}/report.pdf")
    assert answer.mimetype == "application/pdf"
    assert answer.data.startswith(b"%PDF")
    assert b"/Subtype /Image" not in answer.data
    assert len(re.findall(rb"/Type /Page\b", answer.data)) == 2
    assert (b"STSong-Light" in answer.data) is True  # a city has a Chinese name in both
    assert answer.data == shop.client(language=language).get(f"/results/{kept}/report.pdf").data


def link_of(shop: Shop, kept: int) -> str:
    with shop.database.read() as session:
        return f"/v/{readout_links.token(readout_links.open_links(session, kept, seed.NOW)[0])}"


def test_a_link_shows_the_read_out_to_nobody_in_particular(shop: Shop, kept: int) -> None:
    client = shop.client("marketer@example.com")
    assert client.post(f"/results/{kept}/share", {"days": "7"}).status_code == 303
    address = link_of(shop, kept)
    assert f"{shop.settings.base_url}{address}" in client.get(f"/results/{kept}").text
    stranger = shop.client(None)
    answer = stranger.client.get(address, headers=stranger.headers)
    text = text_of(answer)
    assert "Send “B” to everyone" in text
    assert "<nav" not in text
    assert "/members" not in text
    assert "<script" not in text
    assert "example.com" not in text
    assert not re.search(r"<[^>]*\s(style|on\w+)=", text)
    assert answer.headers["X-Robots-Tag"] == "noindex, nofollow"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Set-Cookie" not in answer.headers
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    style = re.search(r'href="(/v/style\.css[^"]*)"', text)
    assert style is not None
    assert ".pic-narrow" in stranger.client.get(style.group(1)).text
    chinese = stranger.client.get(f"{address}?lang=zh", headers=stranger.headers)
    assert "人均收入多" in chinese.text
    assert "Set-Cookie" not in chinese.headers, "no page for the public sets one, whatever is asked"
    other = shop.client(None)
    assert "“City”" in other.get(f"{address}?by=city").text
    with shop.database.read() as session:
        rows = session.scalars(sa.select(AuditEntry).where(AuditEntry.object_type == "readout")).all()
    assert [(row.actor, row.action, row.object_id, row.detail["days"]) for row in rows] == [
        ("marketer@example.com", "share", str(kept), 7)
    ]


def test_a_link_ends_and_is_withdrawn(shop: Shop, kept: int) -> None:
    client = shop.client()
    client.post(f"/results/{kept}/share", {"days": "30"})
    address = link_of(shop, kept)
    with shop.database.read() as session:
        link = readout_links.open_links(session, kept, seed.NOW)[0]
        assert link.expires_at == seed.NOW + timedelta(days=30)
        link_id = link.id
    stranger = shop.client(None)
    assert stranger.get(f"{address[:-1]}{'A' if address[-1] != 'A' else 'B'}").status_code == 404
    assert stranger.get(address).status_code == 200
    assert client.post(f"/results/999/links/{link_id}/withdraw").status_code == 404
    assert stranger.get(address).status_code == 200
    assert client.post(f"/results/{kept}/links/{link_id}/withdraw").status_code == 303
    assert stranger.get(address).status_code == 404
    assert "Links for readers" not in client.get(f"/results/{kept}").text


def test_a_term_that_is_none_makes_no_link(shop: Shop, kept: int) -> None:
    client = shop.client()
    client.post(f"/results/{kept}/share", {"days": "3650"})
    with shop.database.read() as session:
        assert readout_links.open_links(session, kept, seed.NOW) == []


def test_measuring_a_campaign_keeps_all_of_it(any_shop: Shop) -> None:
    """From the button on the campaign's page to the read-out's own."""
    from campaigns import campaigns, results

    engine = any_shop.app.extensions["huiliu"].engine()
    engine.replica.sync(any_shop.database)
    with any_shop.database.read() as session:
        campaign = campaigns.by_name(session, "spring-win-back")
        found = results.result(session, engine, campaign, seed.NOW, "CNY")
    assert [check.name for check in found.readout.checks] == [
        "srm", "sample_size", "windows_closed", "multiple_exposure", "covariate_balance", "peeking",
    ]  # fmt: skip
    assert found.readout.looks == 2 - 1
    assert {"city", "stage", "rfm_segment"} <= {one.name for one in found.readout.dimensions}
    assert found.readout.timeline is not None
    assert found.readout.timeline.curves[0].points[-1].day == 14
    assert set(found.subsidies) == {"A", "B"}
