"""The predictions page: what was found, whether to trust it, and what it assumes."""

from __future__ import annotations

import random

import pyarrow as pa
import sqlalchemy as sa

from segments.facts import open_engine
from segments.models import Refresh
from segments.predict.settings import load
from segments.predict.snapshot import PREDICTION_SCHEMA, PREDICTIONS
from tests.web.conftest import Shop

FOUND = {
    "usable": True,
    "reasons": [],
    "n": 3,
    "repeaters": 2,
    "settings": {"horizon_days": 90, "clv_days": 365, "margin": 0.4, "discount": 0.1, "unit": "week"},
    "bgnbd": {
        "parameters": {"r": {"value": 0.2426, "error": 0.0126}, "alpha": {"value": 4.41, "error": None}},
        "log_likelihood": -9582.4,
        "customers": 3,
        "usable": True,
    },
    "gamma_gamma": None,
    "checks": [
        {"model": "bgnbd", "name": "converged", "ok": True, "value": 12, "bound": 500, "message": "The search ended."},
        {"model": "gamma_gamma", "name": "correlation", "ok": True, "value": 0.1, "bound": 0.3, "message": "Fine."},
    ],
    "hold_out_days": 60,
    "hold_out": [{"frequency": 0, "customers": 2, "actual": 0.5, "expected": 0.4}],
    "frequencies": [{"frequency": 0, "actual": 2, "expected": 1.8}],
    "tracking": [{"day": "2026-01-07", "actual": 1, "expected": 1.1}],
}  # fmt: skip


def with_predictions(shop: Shop, found: dict[str, object], rows: list[tuple[int, float, float]]) -> None:
    """Have the newest refresh say ``found``; rows are (member id, churn risk, value)."""
    with shop.database.write() as session:
        newest = session.scalar(sa.select(sa.func.max(Refresh.as_of)))
        assert newest is not None
        session.execute(sa.update(Refresh).where(Refresh.as_of == newest).values(predictions=found))
    table = pa.Table.from_pylist(
        [
            {"member_id": member, "frequency": 2, "recency": 20, "T": 40, "p_alive": 1 - risk, "churn_risk": risk,
             "expected_purchases": 1.5, "expected_spend": 2500.0, "clv": value}
            for member, risk, value in rows
        ],
        PREDICTION_SCHEMA,
    )  # fmt: skip
    open_engine(shop.settings).replica.write(table, "snapshots", PREDICTIONS, f"{newest.isoformat()}.parquet")


def test_the_page_adds_up_who_may_leave_and_what_they_are_worth(shop: Shop) -> None:
    with_predictions(shop, FOUND, [(1, 0.05, 10_000.0), (2, 0.95, 2_000.0), (3, 1.0, 500.0)])
    page = shop.client().get("/segments/predictions").text
    assert "0.2426" in page
    assert "-9582.4" in page
    assert "¥125.00" in page, "the value of all three"
    assert "expected in the next 90 days" in page
    table = page[page.index("Buyers and their value by churn risk") :]
    cells = [text.partition("<")[0] for text in table.split('<td class="num">')[1:11]]
    assert cells == ["1", "¥100.00", "0", "¥0.00", "0", "¥0.00", "0", "¥0.00", "2", "¥25.00"]


def test_a_refused_model_says_which_check_failed_in_the_readers_language(shop: Shop) -> None:
    failed = {
        "model": "bgnbd",
        "name": "hold_out",
        "ok": False,
        "value": 0.6,
        "bound": 0.25,
        "message": "60 % off.",
    }
    with_predictions(shop, {**FOUND, "usable": False, "reasons": ["60 % off."], "checks": [failed]}, [])
    english = shop.client().get("/segments/predictions").text
    assert "Not used" in english
    assert "60 % off." in english
    chinese = shop.client(language="zh").get("/segments/predictions").text
    assert "留出期预测准确" in chinese
    assert "测得 0.6，界限 0.25" in chinese
    assert "60 % off." not in chinese


def test_the_members_page_shows_risk_and_value(shop: Shop) -> None:
    member = random.Random(1).randint(1, 5)
    with_predictions(shop, FOUND, [(member, 0.25, 123_400.0)])
    page = shop.client().get(f"/members/{member}").text
    assert "25%" in page
    assert "¥1,234.00" in page
    assert "Churn risk" not in shop.client().get(f"/members/{member + 1}").text


def test_what_predictions_assume_is_checked_and_kept(shop: Shop) -> None:
    client = shop.client()
    data = {"horizon_days": "30", "clv_days": "180", "margin": "35", "discount": "12", "unit": "day"}
    assert client.post("/segments/predictions", data).status_code == 303
    with shop.database.read() as session:
        found = load(session)
    assert (found.horizon_days, found.clv_days, found.margin, found.discount, found.unit) == (
        30,
        180,
        0.35,
        0.12,
        "day",
    )
    page = client.post("/segments/predictions", {**data, "margin": "0", "horizon_days": "soon"})
    assert page.status_code == 422
    assert 'value="soon"' in page.text
