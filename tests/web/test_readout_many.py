"""A read-out of eight variants about a metric of the catalogue, on the page, in its files and for a reader."""

from __future__ import annotations

import base64
import csv
import io
import re
import zlib
from dataclasses import replace

import numpy as np
import pytest
import sqlalchemy as sa

from campaigns.models import Campaign
from campaigns.results import CampaignResult, freeze
from campaigns.roi import Cost, Interval, roi
from core.db import Database
from experiments import readout, readout_catalogue_stats
from experiments.metric_scan import Cell
from experiments.metrics import RATIO, MetricSpec
from experiments.moments import ArmMoments, Moments, PairMoments
from experiments.readout import Known, More
from experiments.readout_form import (
    Breakdown,
    CellEffect,
    Curve,
    Dimension,
    Measure,
    Point,
    ReadOut,
    Timeline,
)
from experiments.stats.effect import Effect
from experiments.stats.joint import Joint
from tests.web import seed
from tests.web.conftest import Shop
from web.charts_results import MOST_NAME, NARROW, WIDE, Bar, Text, intervals
from web.readout_files import BOM

ARMS = [f"Variant with a long name {letter}" for letter in "ABCDEFGH"]
WEIGHTS = {"holdout": 0.2, **dict.fromkeys(ARMS, 0.1)}
BASKET = MetricSpec("basket", RATIO, "orders", "net_minor", "rows", covariate_days=60)
DAYS = MetricSpec("days_to_order", "mean", "events", "properties.days", higher_is_better=False)


def _joint(n: int, lift: float) -> Joint:
    means = np.array([2600.0 + lift, 0.5, 2400.0, 0.5])
    cov = np.diag([2.5e7, 0.6, 2.2e7, 0.6])
    cov[0, 2] = cov[2, 0] = 1.2e7
    cov[1, 3] = cov[3, 1] = 0.3
    return Joint(n, ("value", "below", "before", "below_before"), means, cov)


def _arm(n: int, lift: float) -> ArmMoments:
    revenue = Moments(n, 2600.0 + lift, 2.5e7)
    pair = PairMoments(revenue, Moments(n, 2300.0, 2.2e7), 1.2e7)
    metrics = {"revenue": revenue, "converted": Moments(n, 0.16, 0.134)}
    return ArmMoments(n, metrics, {("revenue", "revenue:before"): pair})


def _effect(value: float) -> Effect:
    return Effect(value, value - 40, value + 40, 20.0, 0.01)


def read_out() -> ReadOut:
    sizes = {arm: round(weight * 40_000) for arm, weight in WEIGHTS.items()}
    lifts = {arm: 40.0 * number for number, arm in enumerate(WEIGHTS)}
    cells = {arm: Cell(_joint(n, lifts[arm]), 0) for arm, n in sizes.items()}
    measures = {
        "basket": Measure("basket", 2, RATIO, "money", 0, 28, 60),
        "days_to_order": Measure("days_to_order", 1, "mean", "days", 0, 28, None, False),
        "gone": Measure("gone", 3, "mean", "number", 0, 28),
    }
    moments = {arm: Cell(_days(n, number), 0) for number, (arm, n) in enumerate(sizes.items())}
    asked = {
        "basket": (readout_catalogue_stats.estimates(BASKET, cells, None), cells),
        "days_to_order": (readout_catalogue_stats.estimates(DAYS, moments, None), moments),
        "gone": (readout_catalogue_stats.estimates(None, {}, "The metric of the planned version is not known "
                                                   "any more, so it cannot be measured."), {}),
    }  # fmt: skip
    more = [
        one
        for key, (found, each) in asked.items()
        for one in readout_catalogue_stats.results(
            key, measures[key], found, each, ARMS, "holdout", 0.05, 5000
        )
    ]
    found = readout.read_out(
        {arm: _arm(n, lifts[arm]) for arm, n in sizes.items()}, WEIGHTS, "holdout", currency="CNY",
        known=Known(looks=0, shared=0, covariate_days=180), goal="basket",
        more=More(measures, tuple(more)),
    )  # fmt: skip
    points = [Point(day, 4000, 8000, _effect(day * 5.0), _effect(day * 5.0)) for day in range(1, 15)]
    groups = [CellEffect(f"City {n}", 400, 800, _effect(10.0 * n), 0.5) for n in range(12)]
    return replace(
        found,
        timeline=Timeline("basket", 5000, [Curve(arm, points) for arm in ARMS], True),
        dimensions=[Dimension("city", "basket", [Breakdown(arm, groups, None) for arm in ARMS], True)],
    )


def _days(n: int, number: int) -> Joint:
    return Joint(n, ("value",), np.array([9.0 - number / 10]), np.array([[16.0]]))


def fill(database: Database) -> int:
    found = read_out()
    money = {}
    for arm in ARMS:
        total = found.total(found.result("revenue", arm))
        assert total is not None
        interval = Interval(total.estimate, total.low, total.high)
        money[arm] = roi(interval, margin=0.4, cost=Cost(40_000, 150_000, 60_000, 50_000))
    with database.write() as session:
        campaign = session.scalars(sa.select(Campaign).where(Campaign.name == "spring-win-back")).one()
        settings = {"window_days": 14, "metric": "revenue", "margin": 0.4}
        kept = freeze(session, campaign, CampaignResult(found, money, settings), as_of=seed.NOW, now=seed.NOW)
        return kept.id


@pytest.fixture
def kept(shop: Shop) -> int:
    return fill(shop.database)


def test_the_page_is_about_the_plans_goal_and_shows_the_others_below(shop: Shop, kept: int) -> None:
    text = shop.client().get(f"/results/{kept}").text
    verdict = re.search(r'<p class="verdict">(.*?)</p>', text)
    assert verdict is not None
    assert "more “basket”" in verdict.group(1)
    assert "¥" in verdict.group(1)
    headings = re.findall(r"<h2>(.*?)</h2>|<summary><strong>(.*?)</strong>", text)
    names = [one or other for one, other in headings]
    assert names.index("basket") < names.index("How the effect built up") < names.index("Revenue")
    assert "days_to_order (days)" in names
    assert "Adjusted by both sides of the same ratio in the 60 days before assignment (CUPED)" in text
    assert text.count("Adjusted as the headline is") == 2, "below the days and below the groups"
    assert "not known any more, so it cannot be measured" in text


def test_names_beside_a_picture_are_never_cut_by_its_edge() -> None:
    def names(width: float, name: str) -> tuple[float, str]:
        bars = [Bar(name, -1.0, 0.0, 1.0), Bar("B", -1.0, 0.0, 1.0)]
        drawing = intervals(width, bars, str)
        (text,) = [
            one for one in drawing.shapes if isinstance(one, Text) and one.text[0] == name[0] and one.y < 40
        ]
        return text.x, text.text

    assert names(WIDE, "A") == (138.0, "A")
    x, text = names(WIDE, "Variant with a long name A")
    assert (x > 26 * 6, text) == (True, "Variant with a long name A")
    x, text = names(WIDE, "Name of forty letters and of forty more which nobody wants to read")
    assert x == MOST_NAME - 12
    assert text.endswith("…")
    assert names(NARROW, "很长的版本名称" * 8)[1].endswith("…")


def test_frozen_read_outs_open_on_the_campaigns_page_too(shop: Shop, kept: int) -> None:
    text = shop.client().get("/campaigns/spring-win-back").text
    assert "days_to_order (days)" in text
    assert f"/results/{kept}" in text


def test_the_csv_names_the_goal_and_every_metrics_unit(shop: Shop, kept: int) -> None:
    answer = shop.client().get(f"/results/{kept}/numbers.csv").text.removeprefix(BOM)
    rows = list(csv.DictReader(io.StringIO(answer)))
    told = {row["name"]: row["value"] for row in rows if row["section"] == "read-out"}
    assert told["goal"] == "basket"
    assert "more “basket”" in told["verdict"]
    units = {row["metric"]: row["unit"] for row in rows if row["section"] == "results"}
    assert units == {
        "basket": "minor units of CNY", "days_to_order": "days", "gone": "number", "converted": "share",
        "revenue": "minor units of CNY",
    }  # fmt: skip
    version = [row["value"] for row in rows if (row["section"], row["name"]) == ("metrics", "version")]
    assert version == ["2", "1", "3"]


def pages_of(pdf: bytes) -> list[str]:
    """What is written in Latin letters on each page, as the streams have it."""
    found = []
    for raw in re.findall(rb"stream\r?\n(.*?)endstream", pdf, re.DOTALL):
        content = zlib.decompress(base64.a85decode(raw.strip().removesuffix(b"~>")))
        found.append(b" ".join(re.findall(rb"\((.*?)(?<!\\)\) Tj", content)).decode("latin-1"))
    return found


@pytest.mark.parametrize("language", ["en", "zh"])
def test_eight_variants_need_more_pages_and_nothing_is_cut(shop: Shop, kept: int, language: str) -> None:
    answer = shop.client(language=language).get(f"/results/{kept}/report.pdf")
    assert answer.status_code == 200
    pages = pages_of(answer.data)
    assert len(pages) == len(re.findall(rb"/Type /Page\b", answer.data)) > 3
    for number, page in enumerate(pages, 1):
        assert f"{number} / {len(pages)}" in page
    for letter in "ABCDEFGH":
        # Its rows, its picture by day, its waterfall, its groups, what it takes.
        least = 7 if language == "en" else 5  # of those beside Chinese the letters are not Latin ones
        assert sum(page.count(f"name {letter}") for page in pages) >= least, letter
    if language == "en":
        heads = [page.count("Incremental in all") for page in pages]
        assert sum(heads) > 4, "four tables, one of which goes on on another page below the same head"
