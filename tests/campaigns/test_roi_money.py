"""iROAS, payback, subsidy, overlap: exact cases, and simulations with a known truth."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from campaigns import overlap, roi, subsidy
from campaigns.roi import Interval
from core.db import Database
from core.errors import InvalidInput
from experiments.moments import Moments, PairMoments
from tests.experiments.test_readout import START, assigned, warehouse


def spending(draw: np.random.Generator, n: int, revenue: float, cost: float) -> PairMoments:
    """Members whose revenue and cost go together: who buys uses a coupon."""
    buys = draw.random(n) < 0.2
    x = np.where(buys, draw.gamma(2.0, 500.0, n), 0.0) + revenue
    return PairMoments.of(x, np.where(buys, draw.gamma(4.0, cost / 0.8, n), 0.0) if cost else np.zeros(n))


@pytest.mark.parametrize("cost", [20.0, 0.6])
def test_the_iroas_interval_covers_the_truth_at_its_level(cost: float) -> None:
    draw = np.random.default_rng(5)
    truth = 60.0 / cost
    covered, kinds = 0, set()
    for _ in range(1200):
        found = roi.iroas(spending(draw, 400, 60.0, cost), spending(draw, 300, 0.0, 0.0))
        kinds.add(found.kind)
        assert found.low is not None
        assert found.high is not None
        covered += (found.low <= truth <= found.high) == (found.kind == roi.BOUNDED)
    assert covered / 1200 == pytest.approx(0.95, abs=0.02)
    assert kinds == {roi.BOUNDED}


def test_fiellers_interval_covers_where_the_denominator_may_be_zero() -> None:
    draw = np.random.default_rng(6)
    covered, kinds = 0, set()
    for _ in range(4000):
        y, x = draw.normal(2.0, 1.0), draw.normal(1.0, 1.0)
        found = roi.fieller(y, 1.0, x, 1.0, 0.0, 1.959964)
        kinds.add(found.kind)
        if found.kind == roi.EVERYWHERE:
            covered += 1
            continue
        assert found.low is not None
        assert found.high is not None
        covered += (found.low <= 2.0 <= found.high) == (found.kind == roi.BOUNDED)
    assert covered / 4000 == pytest.approx(0.95, abs=0.01)
    assert kinds == {roi.BOUNDED, roi.OUTSIDE, roi.EVERYWHERE}


def test_an_unbounded_interval_is_said_in_words() -> None:
    bounded = roi.FiellerInterval(5.0, 1.5, 8.5, roi.BOUNDED)
    assert roi.in_words(bounded, "en") == "5.00, between 1.50 and 8.50"
    outside = roi.FiellerInterval(5.0, -3.0, 1.5, roi.OUTSIDE)
    assert "unbounded" in roi.in_words(outside, "en")
    assert "无界" in roi.in_words(outside, "zh_CN")
    assert roi.in_words(roi.FiellerInterval(None, None, None, roi.EVERYWHERE), "en").startswith("unbounded")


def test_an_iroas_of_nobody_is_refused() -> None:
    nobody = PairMoments.of(np.zeros(0), np.zeros(0))
    with pytest.raises(InvalidInput):
        roi.iroas(nobody, nobody)


def test_payback_is_the_day_from_which_the_cost_stays_covered() -> None:
    days = {
        1: Interval(50, 10, 90),
        7: Interval(120, 60, 180),
        14: Interval(90, 20, 160),  # purchases were only brought forward
        30: Interval(150, 80, 220),
        60: Interval(200, 130, 270),
    }
    assert roi.payback(days, 100) == roi.Payback(30, 7, 60)
    assert roi.payback(days, 1000) == roi.Payback(None, None, None)
    assert roi.payback({}, 1) == roi.Payback(None, None, None)
    assert roi.payback(days, 0) == roi.Payback(1, 1, 1)
    with pytest.raises(InvalidInput):
        roi.payback(days, -1)


def test_the_subsidy_of_plain_numbers() -> None:
    # Of 1,000, 100 buy without an offer; 30 of the treated buy without the coupon, 140 with it.
    found = subsidy.subsidy(subsidy.Arms(1000, 140, 30, 1000, 100), 14_000)
    assert found.share.estimate == pytest.approx(0.5)
    assert found.share.low < 0.5 < found.share.high
    assert found.wasted.estimate == pytest.approx(7000)
    assert found.productive.low == pytest.approx(14_000 - found.wasted.high)
    assert (found.at_most, found.certain, found.consistent) == (pytest.approx(100 / 140), True, True)
    none = subsidy.subsidy(subsidy.Arms(1000, 140, 110, 1000, 100), 14_000)
    assert (none.share.estimate, none.consistent) == (0.0, False)
    few = subsidy.subsidy(subsidy.Arms(1000, 1, 90, 1000, 100), 100)
    assert (few.certain, few.share.low, few.share.high) == (False, 0.0, 1.0)


@pytest.mark.parametrize(
    "arms",
    [(100, 0, 10, 100, 10), (100, 10, 10, 0, 0), (100, 60, 50, 100, 10), (100, 10, -1, 100, 10), (100, 10, 10, 9, 10)],
)  # fmt: skip
def test_counts_that_cannot_be_split_are_refused(arms: tuple[int, int, int, int, int]) -> None:
    with pytest.raises(InvalidInput):
        subsidy.subsidy(subsidy.Arms(*arms), 100)


def test_the_injected_subsidy_is_recovered_and_covered() -> None:
    """Strata: 12 % always buy, of whom 70 % use the coupon when they have one; 9 % buy because of it."""
    draw = np.random.default_rng(11)
    truth = 0.12 * 0.7 / (0.12 * 0.7 + 0.09)
    estimates, covered = [], 0
    for _ in range(1500):
        always, _, persuaded, _ = draw.multinomial(3000, [0.12 * 0.7, 0.12 * 0.3, 0.09, 0.79])
        without = draw.binomial(3000 - always - persuaded, 0.12 * 0.3 / (0.12 * 0.3 + 0.79))
        held_out = draw.binomial(1500, 0.12)
        found = subsidy.subsidy(subsidy.Arms(3000, always + persuaded, without, 1500, held_out), 1)
        estimates.append(found.share.estimate)
        covered += found.share.low <= truth <= found.share.high
    assert np.mean(estimates) == pytest.approx(truth, abs=0.005)
    assert covered / 1500 == pytest.approx(0.95, abs=0.015)


def cells(draw: np.random.Generator, n: int, effect: tuple[float, float, float]) -> overlap.Cells:
    first, second, interaction = effect
    return {
        (a, b): Moments.of(draw.normal(100 + first * a + second * b + interaction * (a and b), 20, n))
        for a in (False, True)
        for b in (False, True)
    }


def test_the_interaction_of_two_campaigns_is_recovered_and_covered() -> None:
    draw = np.random.default_rng(3)
    covered, flagged, false_alarms = 0, 0, 0
    for _ in range(1000):
        found = overlap.overlap(cells(draw, 200, (5, 4, -6)))
        covered += found.interaction.low <= -6 <= found.interaction.high
        flagged += found.cannibalised
        false_alarms += overlap.overlap(cells(draw, 200, (5, 4, 0))).p < 0.05
    assert covered / 1000 == pytest.approx(0.95, abs=0.02)
    assert false_alarms / 1000 == pytest.approx(0.05, abs=0.02)
    assert 0.45 < flagged / 1000 < 0.65, "the power that n = 200 a cell has"
    assert found.both.estimate == pytest.approx(
        found.first.estimate + found.second.estimate + found.interaction.estimate
    )


def test_missing_cells_and_no_variance_are_refused() -> None:
    draw = np.random.default_rng(3)
    whole = dict(cells(draw, 50, (1, 1, 0)))
    with pytest.raises(InvalidInput, match="1 of the four"):
        overlap.overlap({key: value for key, value in whole.items() if key != (True, True)})
    with pytest.raises(InvalidInput, match="vary"):
        overlap.overlap({key: Moments(10, 1.0, 0.0) for key in whole})


def test_the_cells_are_counted_from_the_later_moment_on(db: Database, home: Path) -> None:
    day = timedelta(days=1)
    orders = [(n, START + 3 * day, "paid", 100 * n, 0) for n in range(1, 9)]
    orders += [(1, START, "paid", 5000, 0)]  # before the second campaign: counts for neither
    engine = warehouse(db, home, orders)
    first = assigned([(n, "a" if n <= 4 else "holdout", START) for n in range(1, 10)])
    second = assigned([(n, "x" if n % 2 else "hold", START + 2 * day) for n in range(1, 9)])
    found = overlap.scan_cells(
        engine, first, "holdout", second, "hold", window_days=30, as_of=START + 60 * day
    )
    assert {key: (cell.n, cell.mean) for key, cell in found.items()} == {
        (True, True): (2, 200.0),
        (True, False): (2, 300.0),
        (False, True): (2, 600.0),
        (False, False): (2, 700.0),
    }
    assert overlap.overlap(found).interaction.estimate == 0.0
