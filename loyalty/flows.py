"""Prefect flows of loyalty: points and coupons of new orders and events, birthdays, tiers, expiry, the
nightly check of the ledger."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict

from prefect import flow
from prefect.logging import get_run_logger

from core import settings as core_settings
from core.db import Database
from core.times import now as clock
from loyalty import birthdays, coupons, earn_events, earning, point_holds, points, settlement
from loyalty.abuse import guesses, signals
from loyalty.groups import groups
from loyalty.promotions import takes
from loyalty.referrals import settling
from loyalty.tiers import review, store

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
        with database.write() as session:
            rewarded = asdict(
                earn_events.reward_events(session, earning.load_rule(session), clock(settings), BATCH)
            )
            done.update({f"event_{name}": number for name, number in rewarded.items()})
        for name, number in done.items():
            total[name] = total.get(name, 0) + number
        if not any(done.values()):
            get_run_logger().info("Accrued and settled: %s", total)
            return total


@flow(name="expire", retries=2, retry_delay_seconds=60)
def expire() -> dict[str, int]:
    """Take points and coupons out of use whose time is over, and free what was held for too long."""
    settings = core_settings.load()
    database = Database(settings.url)
    # Holds first: what they give back to a lot that is over expires with them.
    sweeps = {
        "points_holds": point_holds.expire_holds,
        "points_lots": points.expire,
        "coupons": coupons.expire,
        "promotion_takes": takes.expire,
    }
    total = dict.fromkeys(sweeps, 0)
    for name, sweep in sweeps.items():
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


@flow(name="reward-birthdays", retries=2, retry_delay_seconds=60)
def reward_birthdays() -> dict[str, int]:
    """Points and the tier's coupon for today's birthdays, and for those of days that no run saw."""
    settings = core_settings.load()
    database = Database(settings.url)
    now = clock(settings)
    total = {"points": 0, "coupons": 0}
    for day in birthdays.days(now, settings.zone):
        after: int | None = 0
        while after is not None:
            with database.write() as session:
                done = birthdays.reward(session, day, now, after=after, limit=BATCH)
            after = done.last
            total["points"] += done.points
            total["coupons"] += done.coupons
    get_run_logger().info("Birthdays: %s", total)
    return total


@flow(name="review-tiers", retries=2, retry_delay_seconds=60)
def review_tiers() -> dict[str, int]:
    """Move members on the ladder: one scan says who is due, who is then moved in batches."""
    settings = core_settings.load()
    database = Database(settings.url)
    now = clock(settings)
    with database.read() as session:
        program = store.load_program(session)
        due = [move.member_id for move in review.due(session, program, now)]
    total: Counter[str] = Counter(up=0, down=0, kept=0)
    for start in range(0, len(due), BATCH):
        with database.write() as session:
            total.update(asdict(review.settle(session, program, due[start : start + BATCH], now)))
    get_run_logger().info("Tiers: %s", dict(total))
    return dict(total)


@flow(name="settle-referrals", retries=2, retry_delay_seconds=60)
def settle_referrals() -> dict[str, int]:
    """Find the first orders of friends who joined, and reward both sides once the return window is over."""
    settings = core_settings.load()
    database = Database(settings.url)
    total: Counter[str] = Counter()
    while True:
        with database.write() as session:
            done = Counter(asdict(settling.settle(session, clock(settings), BATCH)))
        total.update(done)
        if not done.total():
            get_run_logger().info("Settled referrals: %s", dict(total))
            return dict(total)


@flow(name="close-groups", retries=2, retry_delay_seconds=30)
def close_groups() -> int:
    """Fail the groups that did not fill in time, and release their seats."""
    settings = core_settings.load()
    database = Database(settings.url)
    total = 0
    while True:
        with database.write() as session:
            number = groups.close_due(session, clock(settings), BATCH)
        total += number
        if number == 0:
            get_run_logger().info("Closed %s groups", total)
            return total


@flow(name="forget-signals", retries=2, retry_delay_seconds=60)
def forget_signals() -> int:
    """Delete what was noted against abuse and no rule reaches any more."""
    settings = core_settings.load()
    database = Database(settings.url)
    total = 0
    while True:
        with database.write() as session:
            number = signals.forget_old(session, clock(settings), BATCH)
            number += guesses.forget_old(session, clock(settings), BATCH)
        total += number
        if number == 0:
            get_run_logger().info("Forgot %s signals and wrong codes", total)
            return total
