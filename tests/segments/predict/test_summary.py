"""Transactions become customers: day by day of the shop's zone, net of refunds, with a hold-out."""

from __future__ import annotations

import random
from datetime import date, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segments.predict import log as logs
from segments.predict.log import LogFile
from segments.predict.summary import MAX_HOLD_OUT_DAYS, Observed, from_orders, from_rows
from tests.segments.conftest import AS_OF, ZONE, Shop
from tests.segments.predict.data import Rows, cdnow, cdnow_rows, write_csv


def observe(shop: Shop) -> Observed:
    shop.write()
    with shop.engine.connect() as connection:
        found = from_orders(connection, AS_OF, ZONE)
    assert found is not None
    return found


def read(path: str | Path, until: date | None = None, amount: str | None = "amount") -> Observed:
    with duckdb.connect(":memory:") as connection:
        logs.load(connection, LogFile(Path(path), "customer", "date", amount), ZONE)
        found = from_rows(connection, until)
    assert found is not None
    return found


def test_orders_of_a_day_are_one_purchase_and_the_first_is_not_a_repeat(shop: Shop) -> None:
    shop.order(1, 30.5, 1000)
    shop.order(1, 30.2, 500)  # the same day
    shop.order(1, 10.5, 700)
    shop.order(1, 10.4, 200)
    shop.order(1, 4.5, 100)
    shop.order(2, 0.5, 300)
    found = observe(shop).customers
    assert found.ids.to_pylist() == [1, 2]
    assert (found.frequency.tolist(), found.recency.tolist(), found.age.tolist()) == (
        [2, 0],
        [26, 0],
        [30, 0],
    )
    assert found.spend[0] == 500  # 900 and 100
    assert np.isnan(found.spend[1])
    assert (len(found), found.repeaters) == (2, 1)


def test_cancelled_and_fully_refunded_orders_are_none_and_refunds_are_taken_off(shop: Shop) -> None:
    shop.order(1, 30, 1000)
    shop.order(1, 20, 1000, status="cancelled", net_minor=0)
    shop.order(1, 15, 1000, status="refunded", net_minor=0, refunded_minor=1000)
    shop.order(1, 10, 1000, status="refunded", net_minor=400, refunded_minor=600)
    shop.order(1, 5, 0)  # a free order is one
    shop.order(1, -0.1, 5000)  # after the as-of date
    found = observe(shop).customers
    assert (found.frequency.tolist(), found.recency.tolist(), found.spend.tolist()) == ([2], [25], [200.0])


def test_days_are_the_shops(shop: Shop) -> None:
    shop.order(1, 10.0001)
    shop.order(1, 9.9999)  # a moment later, and the next day in Shanghai
    assert observe(shop).customers.frequency.tolist() == [1]


def test_a_shop_without_orders_has_nothing_to_observe(shop: Shop) -> None:
    shop.order(1, 5, status="cancelled", net_minor=0)
    shop.write()
    with shop.engine.connect() as connection:
        assert from_orders(connection, AS_OF, ZONE) is None


def test_the_last_third_is_held_out_up_to_a_limit(shop: Shop) -> None:
    shop.order(1, 89.5)  # the log's first day
    for days in (70.5, 31.5, 29.5, 28.5, 1.5):
        shop.order(1, days)
    shop.order(2, 10.5)  # came in the hold-out
    found = observe(shop)
    assert (found.hold_out_days, found.calibration_end) == (30, AS_OF - timedelta(days=31))
    assert found.apart
    assert found.calibration.ids.to_pylist() == [1]
    assert (found.calibration.frequency.tolist(), found.held_out.tolist()) == ([2], [3])
    assert (found.calibration.recency.tolist(), found.calibration.age.tolist()) == ([58], [59])
    assert (found.customers.frequency.tolist(), found.customers.age.tolist()) == ([5, 0], [89, 10])
    shop.order(3, 2000)
    assert observe(shop).hold_out_days == MAX_HOLD_OUT_DAYS


def test_a_short_log_holds_nothing_out(shop: Shop) -> None:
    for days in (60.5, 1.5):
        shop.order(1, days)
    found = observe(shop)
    assert (found.hold_out_days, found.apart, found.held_out.tolist()) == (0, False, [0])


def test_tracking_counts_newcomers_and_repeats_by_day(shop: Shop) -> None:
    for member, days in ((1, 119.5), (1, 118.5), (1, 10.5), (2, 118.5), (3, 5.5), (3, 4.5)):
        shop.order(member, days)
    followed = observe(shop).tracking
    assert followed.start == AS_OF - timedelta(days=120)
    assert (len(followed.newcomers), followed.newcomers.sum(), followed.repeats.sum()) == (120, 2, 2)
    assert followed.newcomers[:2].tolist() == [1, 1]
    assert np.flatnonzero(followed.repeats).tolist() == [1, 109], "member 3 came in the hold-out"


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    orders=st.lists(
        st.tuples(st.integers(1, 5), st.integers(0, 120), st.integers(0, 9)), min_size=1, max_size=40
    ),
    seed=st.integers(0, 9),
)
def test_the_summary_is_the_definition_whatever_the_order_of_rows(
    tmp_path_factory: pytest.TempPathFactory, orders: list[tuple[int, int, int]], seed: int
) -> None:
    shop = Shop(tmp_path_factory.mktemp("shop"))
    for member, days, amount in orders:
        shop.order(member, days + 0.5, amount)
    random.Random(seed).shuffle(shop.rows["orders"])
    found = observe(shop).customers
    rows = zip(
        found.ids.to_pylist(), found.frequency.tolist(), found.recency.tolist(), found.age.tolist(),
        np.nan_to_num(found.spend, nan=-1).tolist(), strict=True,
    )  # fmt: skip
    expected = []
    for member in sorted({order[0] for order in orders}):
        days = sorted({order[1] for order in orders if order[0] == member}, reverse=True)
        spent = sum(order[2] for order in orders if order[0] == member and order[1] != days[0])
        x = len(days) - 1
        expected.append((member, x, days[0] - days[-1], days[0], spent / x if x else -1))
    assert list(rows) == expected


def test_cdnows_transactions_give_the_published_summary(tmp_path: Path) -> None:
    data = cdnow()
    found = read(write_csv(tmp_path / "log.csv", cdnow_rows()), date(1997, 9, 30))
    assert len(found.customers) == 2357
    assert (found.customers.frequency == data["x"]).all()
    assert found.customers.recency / 7 == pytest.approx(data["t_x"], abs=0.0051)
    assert found.customers.age / 7 == pytest.approx(data["T"], abs=0.0051)
    assert np.nan_to_num(found.customers.spend) == pytest.approx(data["zbar"], abs=0.0051)
    assert (found.hold_out_days, found.apart, int(found.held_out.sum())) == (273, False, 1882)


def test_a_log_from_parquet_is_read_alike(tmp_path: Path) -> None:
    rows = cdnow_rows()
    days = [date(int(day[:4]), int(day[4:6]), int(day[6:])) for _, day, _ in rows]
    table = pa.table({
        "customer": pa.array([int(row[0]) for row in rows]),
        "date": pa.array(days, pa.date32()),
        "amount": pa.array([float(row[2]) for row in rows]),
    })  # fmt: skip
    pa.parquet.write_table(table, tmp_path / "log.parquet")
    stored, text = read(tmp_path / "log.parquet"), read(write_csv(tmp_path / "log.csv", rows))
    assert len(stored.customers) == 2357
    for name in ("frequency", "recency", "age"):
        # ids as texts sort alike: CSV's have leading zeros
        assert sorted(getattr(stored.customers, name)) == sorted(getattr(text.customers, name))
    assert np.nansum(stored.customers.spend) == pytest.approx(np.nansum(text.customers.spend))


def test_instants_of_a_parquet_file_are_days_of_the_zone(tmp_path: Path) -> None:
    late = pa.array(
        [1_772_294_399, 1_772_294_400], pa.timestamp("s", tz="UTC")
    )  # around midnight in Shanghai
    table = pa.table({"customer": ["a", "a"], "date": late, "amount": [1, 2]})
    pa.parquet.write_table(table, tmp_path / "log.parquet")
    found = read(tmp_path / "log.parquet")
    assert (found.customers.frequency.tolist(), found.until) == ([1], date(2026, 3, 1))


@pytest.mark.parametrize(
    "text",
    [
        "2026-03-01",
        "20260301",
        "2026/3/1",
        "2026.03.01",
        "2026-03-01 23:59",
        "2026-03-01T23:59:59.5+08:00",
        " 20260301 ",
    ],
)
def test_dates_may_be_written_in_these_ways(tmp_path: Path, text: str) -> None:
    assert read(write_csv(tmp_path / "log.csv", [("a", text, "1.50")])).until == date(2026, 3, 1)


def test_refused_rows_have_their_line_and_reason(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(
        b"\xef\xbb\xbfcustomer,note,date,amount\r\n"
        b'a,"two\r\nlines",2026-01-01,1\r\n'
        b"a,,yesterday,1\r\n"
        b",,2026-01-02,1\r\n"
        b"a,,2026-02-30,1\r\n"
        b"a,,2026-01-03,-5\r\n"
        b'a,,2026-01-04,"12,50"\r\n'
        b"a,,2026-01-05,\r\n"
        b"a,,2026-01-06\r\n"
        b"\r\n"
        b"\xff,,2026-01-07,1\r\n"
        b"a,,1890-01-01,1\r\n"
        b"a,,2026-01-08,2\r\n"
    )
    file = LogFile(path, "customer", "date", "amount")
    with duckdb.connect(":memory:") as connection:
        loaded = logs.load(connection, file, ZONE)
        refused = list(logs.rejects(connection, file))
        kept = connection.execute("SELECT count(*) FROM parsed WHERE reason IS NULL").fetchall()
    assert (loaded.rows, loaded.rejected, kept) == (11, 9, [(2,)])
    words = {reject.line: reject.reason for reject in refused}
    assert list(words) == [4, 5, 6, 7, 8, 9, 10, 12, 13]
    assert words[4] == "date: “yesterday” is not a date; write it like 2026-03-01."
    assert words[5] == "customer is missing."
    assert "2026-02-30" in words[6]
    assert "negative" in words[7]
    assert "“12,50” is not an amount" in words[8]
    assert words[9] == "amount is missing."
    assert words[10] == "the line has 3 cells, but the header names 4 columns."
    assert words[12] == "the line is not UTF-8."
    assert "out of range" in words[13]
    assert refused[0].row == {"customer": "a", "date": "yesterday", "amount": "1"}


def test_without_amounts_only_days_count(tmp_path: Path) -> None:
    rows: Rows = [("a", "2026-01-01", "x"), ("a", "2026-01-05", "")]
    found = read(write_csv(tmp_path / "log.csv", rows), amount=None)
    assert found.customers.frequency.tolist() == [1]
    assert np.isnan(found.customers.spend).all()
