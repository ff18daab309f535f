"""Prefect flows of loyalty: points and coupons of new orders, expiry, and the nightly check of the ledger."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict

from prefect import flow
from prefect.logging import get_run_logger

from core import settings as core_settings
from core.db import Database
from core.times import now as clock
from loyalty import coupons, earning, points, settlement

BATCH = 2000


@flow(name="accrue-points", retries=2, retry_delay_seconds=30)
def accrue_points() -> dict[str, int]:
    """Work off the orders that arrived since the last run: points earned and taken back, coupons settled."""
    settings = core_settings.load()
    database = Database(settings.url)
    total: dict[str, int] = {}
    while True:
        # A transaction each: the one locks members, the other codes, and neither waits for the other.
        with database.write() as session:
            done = Counter(
                asdict(earning.accrue_orders(session, earning.load_rule(session), clock(settings), BATCH))
            )
        with database.write() as session:
            done.update(asdict(settlement.settle_orders(session, clock(settings), BATCH)))
        for name, number in done.items():
            total[name] = total.get(name, 0) + number
        if not any(done.values()):
            get_run_logger().info("Accrued and settled: %s", total)
            return total


@flow(name="expire", retries=2, retry_delay_seconds=60)
def expire() -> dict[str, int]:
    """Take points and coupons out of use whose time is over."""
    settings = core_settings.load()
    database = Database(settings.url)
    total = {"points_lots": 0, "coupons": 0}
    for name, sweep in (("points_lots", points.expire), ("coupons", coupons.expire)):
        while True:
            with database.write() as session:
                number = sweep(session, clock(settings), BATCH)
            total[name] += number
            if number == 0:
                break
    get_run_logger().info("Expired: %s", total)
    return total


@flow(name="check-ledger")
def check_ledger() -> int:
    """Recompute every balance from the entries; fails when one differs, so that somebody looks."""
    database = Database(core_settings.load().url)
    with database.read() as session:
        differences = points.check(session)
    if differences:
        raise RuntimeError(f"{len(differences)} balances differ from their entries, first {differences[0]}")
    return 0
