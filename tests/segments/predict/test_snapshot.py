"""Predictions of a refresh: a snapshot where the models may be used, and none where not."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta

import pyarrow.parquet as pq
import pytest

from core.db import Database
from segments.predict import settings as predict_settings
from segments.predict.settings import Predicting
from segments.predict.snapshot import PREDICTION_SCHEMA, PREDICTIONS, write_predictions
from segments.scores import snapshot_path
from tests.segments.conftest import AS_OF, ZONE, Shop, ago
from tests.segments.predict.data import buying_days
from tests.segments.predict.test_study import SHOP, spends

MEMBERS, DAYS = 1500, 400


@pytest.fixture
def lively(shop: Shop) -> Shop:
    """A shop of members who buy and leave by the model; member n came on the n-th day, over 100 days."""
    amounts = spends(MEMBERS)
    for member, days in enumerate(buying_days(SHOP, MEMBERS, DAYS, seed=4), 1):
        came = DAYS - member % 100
        for day in days:
            if day < came:
                shop.order(member, came - day - 0.5, int(amounts[member - 1]) + day % 7)
    shop.write()
    return shop


def test_the_snapshot_has_a_row_a_buyer_in_the_promised_columns(lively: Shop) -> None:
    found = write_predictions(lively.engine, Predicting(), AS_OF, ZONE)
    assert (found["usable"], found["reasons"], found["n"]) == (True, [], MEMBERS)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    path = snapshot_path(lively.engine, PREDICTIONS, AS_OF)
    table = pq.read_table(path)
    assert table.schema.remove_metadata() == PREDICTION_SCHEMA
    rows = table.to_pylist()
    assert [row["member_id"] for row in rows] == list(range(1, MEMBERS + 1))
    for row in rows:
        assert 0 <= row["p_alive"] <= 1
        assert row["churn_risk"] == 1 - row["p_alive"]
        assert row["expected_purchases"] >= 0
        assert row["expected_spend"] > 0
        assert row["clv"] >= 0
        assert 0 <= row["recency"] <= row["T"] < DAYS
        assert row["T"] == DAYS - row["member_id"] % 100 - 1
        if row["frequency"] == 0:
            assert (row["recency"], row["p_alive"]) == (0, 1.0)


def test_running_it_again_gives_the_same_to_the_last_bit(lively: Shop) -> None:
    first = write_predictions(lively.engine, Predicting(), AS_OF, ZONE)
    path = snapshot_path(lively.engine, PREDICTIONS, AS_OF)
    assert path is not None
    rows = pq.read_table(path).to_pylist()
    lively.rows["orders"].reverse()
    lively.write()
    second = write_predictions(lively.engine, Predicting(), AS_OF, ZONE)
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    assert pq.read_table(path).to_pylist() == rows


def test_horizon_and_margin_are_the_settings(lively: Shop) -> None:
    def totals(predicting: Predicting) -> tuple[float, float]:
        write_predictions(lively.engine, predicting, AS_OF, ZONE)
        table = pq.read_table(snapshot_path(lively.engine, PREDICTIONS, AS_OF))
        return sum(table["expected_purchases"].to_pylist()), sum(table["clv"].to_pylist())

    usual, half, day = totals(Predicting()), totals(Predicting(margin=0.5)), totals(Predicting(unit="day"))
    assert half == pytest.approx((usual[0], usual[1] / 2))
    assert day == pytest.approx(usual, rel=1e-5)
    assert totals(Predicting(horizon_days=180))[0] > 1.5 * usual[0]


def test_a_refused_model_writes_nothing_and_takes_back_what_was_there(lively: Shop) -> None:
    write_predictions(lively.engine, Predicting(), AS_OF, ZONE)
    assert snapshot_path(lively.engine, PREDICTIONS, AS_OF) is not None
    lively.rows["orders"] = lively.rows["orders"][:20]
    lively.write()
    found = write_predictions(lively.engine, Predicting(), AS_OF, ZONE)
    assert found["usable"] is False
    assert "a fit needs at least 100" in found["reasons"][0]
    assert found["bgnbd"] is None
    assert snapshot_path(lively.engine, PREDICTIONS, AS_OF) is None


def test_an_empty_warehouse_is_refused_and_not_an_error(shop: Shop) -> None:
    found = write_predictions(shop.engine, Predicting(), date(2020, 1, 1), ZONE)
    assert (found["usable"], found["n"], found["until"]) == (False, 0, None)


def test_orders_after_the_date_change_nothing(lively: Shop) -> None:
    earlier = AS_OF - timedelta(days=30)
    before = write_predictions(lively.engine, Predicting(), earlier, ZONE)
    lively.rows["orders"] = [row for row in lively.rows["orders"] if row["ordered_at"] < ago(30)]
    lively.write()
    after = write_predictions(lively.engine, Predicting(), earlier, ZONE)
    assert {**before, "seconds": 0} == {**after, "seconds": 0}


def test_rules_can_name_the_snapshot_without_scipy() -> None:
    code = "import segments.predict.snapshot, sys; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_settings_are_kept(db: Database) -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    with db.read() as session:
        assert predict_settings.load(session) == Predicting()
    with db.write() as session:
        predict_settings.save(session, Predicting(margin=0.4, horizon_days=30), "boss", now)
    with db.read() as session:
        assert predict_settings.load(session) == Predicting(margin=0.4, horizon_days=30)
