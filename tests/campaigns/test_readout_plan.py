"""A plan's level and method are those of the read-out, are kept with it, and are compared with the plan."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest

from campaigns import campaigns, planning, report, results
from core.db import Database
from experiments import experiments, readout_form, readout_plan
from experiments import planning as plans
from experiments.models import Experiment
from experiments.planning import Plan
from experiments.readout_form import FIXED, SEQUENTIAL, ReadOut
from tests.campaigns.conftest import NOW, Shop
from tests.campaigns.test_results_readout import DAY, ran

CLOSED = NOW + DAY * 30
PLAN = Plan(
    "revenue", 0, 100.0, 0.1, "money", 0.05, 0.8, "holdout", {"holdout": 0.2, "A": 0.4, "B": 0.4}, 700, 14,
    "ship what wins",
)  # fmt: skip
METHODS = {plans.OTHER_METHOD, plans.OTHER_ALPHA}


@pytest.fixture
def db(sqlite_db: Database) -> Database:
    """One of the two is enough here: what is measured comes of the warehouse."""
    return sqlite_db


def plan(shop: Shop, found: Plan, subject: str = "campaign:back") -> None:
    with shop.database.write() as session:
        plans.save(session, subject, found, started=False, by="ann", now=NOW)


def read(shop: Shop, as_of: datetime = CLOSED, *, keep: bool = False) -> ReadOut:
    with shop.database.write() as session:
        campaign = campaigns.by_name(session, "back")
        found = results.result(session, shop.engine, campaign, as_of, "CNY")
        if keep:
            row = results.freeze(session, campaign, found, as_of=as_of, now=as_of)
            return readout_form.from_json(row.result)
        return found.readout


def codes(shop: Shop, found: ReadOut, as_of: datetime = CLOSED) -> set[str]:
    with shop.database.read() as session:
        row = campaigns.by_name(session, "back")
        held = planning.held_readout(
            session, planning.subject(row), row.experiment_id, found, as_of=as_of, settings={}
        )
    assert held is not None
    return {one.code for one in held.deviations}


def test_a_sequential_plan_is_read_by_its_intervals_and_kept_so(shop: Shop) -> None:
    ran(shop)
    plan(shop, replace(PLAN, method=SEQUENTIAL, alpha=0.1, tuning=800))
    kept = read(shop, keep=True)
    assert (kept.method, kept.alpha, kept.tuning, kept.window_days, kept.looks) == (
        SEQUENTIAL, 0.1, 800, 14, 0,
    )  # fmt: skip
    result = kept.result("revenue", "B")
    assert result.always_valid is not None
    assert kept.headline(result) == result.always_valid.absolute
    assert not METHODS & codes(shop, kept)
    again = read(shop, CLOSED + DAY)
    check = again.check("peeking")
    assert check is not None
    assert (again.looks, check.ok) == (1, True), "looks are what was planned"


def test_a_fixed_plan_read_on_its_day_is_fixed_at_the_plans_level_whoever_looked_before(shop: Shop) -> None:
    ran(shop)
    plan(shop, replace(PLAN, alpha=0.01))
    early = read(shop, NOW + DAY * 10, keep=True)
    assert early.method == FIXED
    assert codes(shop, early, NOW + DAY * 10) & METHODS == set()
    second = read(shop, NOW + DAY * 11)
    assert (second.method, second.looks) == (SEQUENTIAL, 1), (
        "two early looks: none of them is the planned one"
    )
    assert plans.OTHER_METHOD in codes(shop, second, NOW + DAY * 11)
    found = read(shop)
    assert (found.method, found.alpha, found.looks) == (FIXED, 0.01, 1)
    result = found.result("revenue", "B")
    assert result.adjusted is not None
    assert found.headline(result) == result.adjusted.comparison.absolute
    assert found.check("peeking") is None
    assert codes(shop, found) & METHODS == set()


def test_a_shop_experiment_is_read_by_its_plan_too(shop: Shop) -> None:
    ran(shop)
    plan(shop, replace(PLAN, method=SEQUENTIAL, alpha=0.02), "experiment:own")
    with shop.database.write() as session:
        row = session.get_one(Experiment, campaigns.by_name(session, "back").experiment_id)
        row.name, row.unit, row.allocation = "own", experiments.MEMBER, experiments.FIXED
        session.flush()
        found = report.of_shop(
            session, shop.engine, row, window_days=14, as_of=CLOSED, currency="CNY"
        ).readout
        assert (found.method, found.alpha, found.window_days) == (SEQUENTIAL, 0.02, 14)
        held = planning.held_readout(session, "experiment:own", row.id, found, as_of=CLOSED, settings={})
    assert held is not None
    assert {one.code for one in held.deviations} & METHODS == set()


def test_one_that_was_kept_before_it_knew_its_method_opens_as_fixed(shop: Shop) -> None:
    ran(shop)
    data = readout_form.to_json(read(shop))
    for name in ("method", "tuning", "window_days"):
        del data[name]
    old = readout_form.from_json(data)
    assert (old.method, old.window_days) == (FIXED, None)
    plan(shop, replace(PLAN, method=SEQUENTIAL))
    assert plans.OTHER_METHOD in codes(shop, old), "it was read by another method than planned"


def test_the_method_follows_the_plan_its_day_and_earlier_looks() -> None:
    fixed, anytime = PLAN, replace(PLAN, method=SEQUENTIAL)
    day = NOW + DAY * 14
    assert readout_plan.method_of(anytime, 0, NOW, NOW) == SEQUENTIAL
    assert readout_plan.method_of(anytime, 5, CLOSED, NOW) == SEQUENTIAL
    assert readout_plan.method_of(fixed, 0, NOW, NOW) == FIXED
    assert readout_plan.method_of(fixed, 1, day - DAY, NOW) == SEQUENTIAL
    assert readout_plan.method_of(fixed, 1, day, NOW) == FIXED
    assert readout_plan.method_of(fixed, 1, CLOSED, None) == SEQUENTIAL, "nobody knows its day"
