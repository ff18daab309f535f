"""A read-out with everything on it: two variants, one of which pays, groups, days, money."""

from __future__ import annotations

from dataclasses import replace

import sqlalchemy as sa

from campaigns.models import Campaign
from campaigns.results import CampaignResult, freeze
from campaigns.roi import Cost, Interval, Payback, Roi, roi
from campaigns.subsidy import Arms, subsidy
from core.db import Database
from experiments import readout, readout_cuped, readout_dimensions, readout_timeline
from experiments.moments import ArmMoments, Moments, PairMoments
from experiments.readout import Known
from experiments.readout_form import ReadOut
from tests.web import seed

WEIGHTS = {"holdout": 0.2, "A": 0.4, "B": 0.4}
SIZES = {"holdout": 4000, "A": 8000, "B": 8000}
LIFT = {"holdout": 0.0, "A": -60.0, "B": 320.0}
HOSTILE = "=cmd|' /C calc'!A0"


def _arm(arm: str, share: float = 1.0, factor: float = 1.0) -> ArmMoments:
    n = int(SIZES[arm] * share)
    lift = LIFT[arm] * factor
    metrics = {
        "revenue": Moments(n, 2600.0 + lift, 2.5e7),
        "orders": Moments(n, 0.2 + lift / 20_000, 0.2),
        "converted": Moments(n, 0.16 + lift / 20_000, 0.13),
        "margin": Moments(n, 780.0 + lift * 0.3, 2.2e6),
    }
    base = {"revenue": 2600.0, "orders": 0.2, "converted": 0.16, "margin": 780.0}
    covariances = {"revenue": 1.2e7, "orders": 0.08, "converted": 0.05, "margin": 1.0e6}
    pairs = {
        (name, f"{name}:before"): PairMoments(
            one, Moments(n, base[name] * 0.9, one.var * 0.8), covariances[name]
        )
        for name, one in metrics.items()
    }
    return ArmMoments(n, metrics, pairs)


def _day(arm: str, day: int) -> ArmMoments:
    n = SIZES[arm]
    revenue = Moments(n, (2600.0 + LIFT[arm]) * day / 14, 2.5e7 * day / 14)
    before = PairMoments(revenue, Moments(n, 2600.0 * 0.9, 2.0e7), 1.2e7 * day / 14)
    return ArmMoments(n, {"revenue": revenue}, {("revenue", "revenue:before"): before})


def read_out(looks: int = 0, previous_p: float = 1.0) -> ReadOut:
    arms = {arm: _arm(arm) for arm in SIZES}
    found = readout.read_out(
        arms,
        WEIGHTS,
        "holdout",
        currency="CNY",
        known=Known(looks=looks, previous_p=previous_p, shared=3, covariate_days=180),
    )
    days = {arm: {day: _day(arm, day) for day in range(1, 15)} for arm in SIZES}
    parts = (("churned", 0.3, 3.0), ("dormant", 0.5, 1.0), ("at_risk", 0.2, -1.0))
    cells = {
        "stage": {(value, arm): _arm(arm, share, factor) for value, share, factor in parts for arm in SIZES},
        "city": {(city, arm): _arm(arm, 0.5) for city in (HOSTILE, "上海") for arm in SIZES},
    }
    treated = ["A", "B"]
    slope = readout_cuped.slope(arms, "revenue")
    assert slope is not None
    return replace(
        found,
        timeline=readout_timeline.timeline(days, "revenue", treated, "holdout", 0.05, 5000, adjusted=True),
        dimensions=readout_dimensions.dimensions(cells, "revenue", treated, "holdout", 0.05, slope.theta),
    )


def money(found: ReadOut) -> dict[str, Roi]:
    costs = {"A": Cost(40_000, 250_000, 0, 50_000), "B": Cost(40_000, 150_000, 60_000, 50_000)}
    shown = {}
    for arm, cost in costs.items():
        total = found.total(found.result("revenue", arm))
        assert total is not None
        shown[arm] = roi(Interval(total.estimate, total.low, total.high), margin=0.4, cost=cost)
    return shown


def fill(database: Database, looks: int = 0, previous_p: float = 1.0) -> int:
    """Freeze it for the seeded campaign; answers its number."""
    found = read_out(looks, previous_p)
    with database.write() as session:
        campaign = session.scalars(sa.select(Campaign).where(Campaign.name == "spring-win-back")).one()
        kept = freeze(
            session,
            campaign,
            CampaignResult(
                found,
                money(found),
                {"window_days": 14, "metric": "revenue", "margin": 0.4},
                {"A": "Nobody redeemed the coupon: there is nothing to split.",
                 "B": subsidy(Arms(8000, 1120, 240, 4000, 400), 150_000)},
                {"A": Payback(None, None, None), "B": Payback(6, 3, None)},
            ),
            as_of=seed.NOW,
            now=seed.NOW,
        )  # fmt: skip
        return kept.id
