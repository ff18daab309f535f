"""Ratios, CUPED, strata, quantiles, retention, cells: formulas against SciPy, statsmodels and themselves."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.meta_analysis import combine_effects

from core.errors import InvalidInput
from experiments.moments import Moments, PairMoments
from experiments.stats import (
    cells,
    cuped,
    estimate,
    margin,
    mean,
    proportion,
    quantile,
    ratio,
    retention,
    strata,
)
from experiments.stats.estimate import Estimate
from experiments.stats.joint import Joint, Mean, Ratio, merge_all
from experiments.stats.retention import Day

A = Moments.of_sums(1396.87, 52377.9767, 3407)
B = Moments.of_sums(2422.7, 134698.29, 3461)


def arm(rng: np.random.Generator, n: int, lift: float = 0.0) -> dict[str, np.ndarray]:
    before = rng.gamma(2, 5, n)
    orders = 1 + rng.poisson(1, n)
    return {
        "before": before,
        "y": 2 * before + rng.normal(0, 4, n) + lift,
        "orders": orders,
        "revenue": orders * before + lift,
    }


@pytest.mark.parametrize("alternative", ["greater", "less"])
def test_one_sided_tests_agree_with_scipy_and_statsmodels(alternative: str) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(1, 1, 40), rng.normal(0.8, 2, 55)
    found = mean.compare(Moments.of(x), Moments.of(y), 0.05, alternative).absolute  # type: ignore[arg-type]
    oracle = stats.ttest_ind(x, y, equal_var=False, alternative=alternative)
    interval = oracle.confidence_interval(0.95)
    assert found.p == pytest.approx(oracle.pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    shares = proportion.compare(60, 500, 40, 480, 0.05, alternative)  # type: ignore[arg-type]
    both = proportion.compare(60, 500, 40, 480, 0.10)
    larger = "larger" if alternative == "greater" else "smaller"
    assert shares.absolute.p == pytest.approx(
        sm.stats.proportions_ztest([60, 40], [500, 480], alternative=larger)[1]
    )
    assert shares.relative is not None
    assert both.relative is not None
    if alternative == "greater":
        assert (shares.absolute.low, shares.absolute.high) == (pytest.approx(both.absolute.low), math.inf)
        assert shares.relative.low == pytest.approx(both.relative.low)
    else:
        assert (shares.absolute.low, shares.absolute.high) == (-math.inf, pytest.approx(both.absolute.high))
        assert (shares.relative.low, shares.relative.high) == (-1.0, pytest.approx(both.relative.high))


def test_a_loss_has_no_relative_difference() -> None:
    found = mean.compare(Moments(50, -12.0, 4.0), Moments(50, -10.0, 4.0))
    assert found.absolute.estimate == -2.0
    assert found.relative is None


def test_joint_moments_add_up_exactly_at_a_large_mean() -> None:
    rng = np.random.default_rng(2)
    data = {"x": 1e8 + rng.normal(0, 1, 3000), "y": 1e8 + rng.normal(0, 1, 3000)}
    whole = Joint.of(data)
    parts = [
        Joint.of({name: column[a:b] for name, column in data.items()})
        for a, b in ((0, 1), (1, 7), (7, 2000), (2000, 3000))
    ]
    merged = merge_all(parts)
    oracle = np.cov(np.array([data["x"] - 1e8, data["y"] - 1e8]))
    assert merged.n == 3000
    np.testing.assert_allclose(whole.cov, oracle, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(merged.cov, oracle, rtol=1e-6, atol=1e-6)
    empty = Joint.of({"x": [], "y": []})
    assert merged.merge(empty) is merged
    assert empty.merge(merged) is merged
    with pytest.raises(InvalidInput, match="do not add"):
        merged.merge(Joint.of({"x": [1.0]}))


def test_the_ratio_is_the_delta_method_and_agrees_with_linearised_members() -> None:
    rng = np.random.default_rng(3)
    treated, control = arm(rng, 900, 1.0), arm(rng, 800)
    joints = [Joint.of({"revenue": one["revenue"], "orders": one["orders"]}) for one in (treated, control)]
    metric = Ratio("revenue", "orders")
    found = ratio.compare(*joints, metric)
    for one, joint in zip((treated, control), joints, strict=True):
        r = one["revenue"].sum() / one["orders"].sum()
        linear = (one["revenue"] - r * one["orders"]) / one["orders"].mean()
        got = ratio.estimate_of(joint, metric)
        assert (got.value, got.var) == pytest.approx((r, linear.var(ddof=1) / len(linear)), rel=1e-9)
    assert found.absolute.estimate == pytest.approx(found.mean - found.mean_control)
    assert found.relative is not None
    assert found.relative.estimate == pytest.approx(found.mean / found.mean_control - 1)
    pair = Joint.of_pair(
        PairMoments.of(control["revenue"], control["orders"].astype(float)), ("revenue", "orders")
    )
    np.testing.assert_allclose(pair.cov, joints[1].cov, rtol=1e-9)


def test_a_ratio_whose_denominator_may_be_zero_is_refused() -> None:
    metric = Ratio("x", "y")
    good = Joint.of({"x": [1.0, 2.0, 3.0], "y": [1.0, 1.0, 2.0]})
    with pytest.raises(InvalidInput, match="too close"):
        ratio.compare(Joint.of({"x": [1.0, 2.0, 3.0], "y": [0.0, 0.0, 0.0]}), good, metric)
    with pytest.raises(InvalidInput, match="too close"):
        ratio.compare(good, Joint.of({"x": [1.0, 2.0, 3.0], "y": [-1.0, 1.0, 0.5]}), metric)
    with pytest.raises(InvalidInput, match="empty"):
        ratio.compare(Joint.of({"x": [], "y": []}), good, metric)


def test_cuped_is_the_regression_with_the_covariate_and_shares_theta_between_arms() -> None:
    rng = np.random.default_rng(4)
    data = {"A": arm(rng, 3000), "B": arm(rng, 2000, 1.0), "C": arm(rng, 1000, -1.0)}
    joints = {name: Joint.of({"y": one["y"], "before": one["before"]}) for name, one in data.items()}
    adjusted = cuped.adjust(joints, Mean("y"), [Mean("before")])
    y = np.concatenate([one["y"] for one in data.values()])
    x = np.concatenate([one["before"] for one in data.values()])
    dummies = np.repeat(np.eye(3)[:, 1:], [3000, 2000, 1000], axis=0)
    fit = sm.OLS(y, np.column_stack([np.ones(6000), dummies, x])).fit()
    b = adjusted["B"].value - adjusted["A"].value
    assert b == pytest.approx(fit.params[1], rel=1e-9)
    assert adjusted["C"].value - adjusted["A"].value == pytest.approx(fit.params[2], rel=1e-9)
    rho = cuped.correlation(joints, Mean("y"), Mean("before"))
    plain = sum(ratio.estimate_of(joint, Mean("y")).var for joint in joints.values())
    assert sum(one.var for one in adjusted.values()) == pytest.approx(plain * (1 - rho**2), rel=0.1)


def test_cuped_works_on_ratios_and_useless_covariates_change_nothing() -> None:
    rng = np.random.default_rng(5)
    columns = ("revenue", "orders", "before")
    data = {"A": arm(rng, 3000), "B": arm(rng, 3000, 1.0)}
    joints = {name: Joint.of({column: one[column] for column in columns}) for name, one in data.items()}
    metric = Ratio("revenue", "orders")
    plain = {name: ratio.estimate_of(joint, metric) for name, joint in joints.items()}
    adjusted = cuped.adjust(joints, metric, [Mean("before")])
    rho = cuped.correlation(joints, metric, Mean("before"))
    assert rho > 0.85
    assert adjusted["B"].var == pytest.approx(plain["B"].var * (1 - rho**2), rel=0.15)
    constant = {name: Joint.of({"y": one["y"], "c": np.ones(3000)}) for name, one in data.items()}
    same = cuped.adjust(constant, Mean("y"), [Mean("c")])
    assert same["A"].value == pytest.approx(data["A"]["y"].mean())
    assert same["A"].var == pytest.approx(data["A"]["y"].var(ddof=1) / 3000)
    twice = {
        name: Joint.of({"y": one["y"], "b": one["before"], "b2": 2 * one["before"]})
        for name, one in data.items()
    }
    one, two = (
        cuped.adjust(twice, Mean("y"), [Mean(name) for name in names]) for names in (["b"], ["b", "b2"])
    )
    assert two["B"].var == pytest.approx(one["B"].var, rel=1e-6)
    with pytest.raises(InvalidInput, match="empty"):
        cuped.adjust({**constant, "C": Joint.of({"y": [], "c": []})}, Mean("y"), [Mean("c")])


def test_post_stratification_weighs_segments_alike_in_every_arm() -> None:
    cells_of = {
        "A": {"new": Moments(100, 1.0, 1.0), "old": Moments(300, 5.0, 4.0)},
        "B": {"new": Moments(300, 1.0, 1.0), "old": Moments(100, 5.0, 4.0)},
    }
    arms = {
        name: {part: Estimate.of_mean(one) for part, one in parts.items()} for name, parts in cells_of.items()
    }
    found = strata.post_stratify(arms)
    assert (found["A"].value, found["B"].value) == pytest.approx((3.0, 3.0))  # plain means say 4 and 2
    assert found["A"].var == pytest.approx(0.25 * 1 / 100 + 0.25 * 4 / 300)
    assert estimate.compare(found["B"], found["A"]).absolute.p == pytest.approx(1.0)
    with pytest.raises(InvalidInput, match="“old” has 0 members in “B”"):
        strata.post_stratify({"A": arms["A"], "B": {"new": arms["B"]["new"]}})


def test_a_guardrail_holds_only_within_its_margin() -> None:
    control, same, worse = (Estimate(1000, value, 0.01, 999) for value in (10.0, 9.98, 9.5))
    found = margin.check(same, control, 0.5)
    assert found.ok
    assert found.p == pytest.approx(float(stats.t.sf((0.5 - 0.02) / math.sqrt(0.02), 1998)), rel=1e-9)
    assert found.worst == pytest.approx(-0.02 - float(stats.t.isf(0.05, 1998)) * math.sqrt(0.02))
    assert not margin.check(worse, control, 0.5).ok
    complaints = margin.check(Estimate(1000, 10.9, 0.01, 999), control, 0.5, higher_is_better=False)
    assert not complaints.ok
    assert complaints.worst > 0.9
    relative = margin.check(same, control, 0.05, relative=True)
    assert relative.ok
    assert -0.05 < relative.worst < relative.estimate == pytest.approx(-0.002)
    assert not margin.check(worse, control, 0.05, relative=True).ok
    with pytest.raises(InvalidInput, match="above 0"):
        margin.check(same, control, 0.0)


def test_a_quantile_has_the_binomials_ranks() -> None:
    data = np.arange(1, 101.0)
    found = quantile.of(data, 0.5)
    assert (found.value, found.low, found.high, found.method) == (50.5, 40.0, 61.0, "order statistics")
    assert float(stats.binom.cdf(60, 100, 0.5) - stats.binom.cdf(39, 100, 0.5)) >= 0.95
    oracle = stats.quantile_test(data, q=50, p=0.5).confidence_interval(0.95)
    assert (found.low, found.high) == (oracle.low, oracle.high)
    with pytest.raises(InvalidInput, match="500 members"):
        quantile.of(data, 0.99)
    with pytest.raises(InvalidInput, match="infinite or missing"):
        quantile.of([*data, math.nan], 0.5)
    with pytest.raises(InvalidInput, match="equal values"):
        quantile.compare(np.zeros(100), np.zeros(100), 0.5)
    moved = quantile.compare(data + 40, data, 0.5)
    assert moved.absolute.estimate == 40.0
    assert moved.absolute.p < 0.001


def test_retention_is_a_proportion_by_day_adjusted_over_the_days() -> None:
    days = [Day(1, 400, 1000, 350, 1000), Day(7, 200, 800, 190, 790), Day(30, 0, 0, 0, 0)]
    found = retention.curve(days)
    assert [one.day for one in found] == [1, 7, 30]
    first = proportion.compare(400, 1000, 350, 1000)
    assert found[0].comparison == first
    assert found[0].p_adjusted == pytest.approx(2 * first.absolute.p)
    assert (found[2].comparison, found[2].refused) == (
        None,
        "The treated arm is empty; a comparison needs members in both.",
    )
    with pytest.raises(InvalidInput, match="in order"):
        retention.curve([days[1], days[0]])


def test_a_thousand_cells_are_the_same_as_one_by_one_and_quick() -> None:
    rng = np.random.default_rng(6)
    n, m = rng.integers(2, 500, (2, 1000)), rng.normal(5, 0.3, (2, 1000))
    v = rng.uniform(0.5, 2, (2, 1000))
    arms = [cells.Arms.of_means(n[i], m[i], v[i]) for i in (0, 1)]
    cells.compare(*arms)
    start = time.perf_counter()
    found = cells.compare(*arms)
    assert time.perf_counter() - start < 0.2
    for i in (0, 500, 999):
        one = mean.compare(Moments(int(n[0, i]), m[0, i], v[0, i]), Moments(int(n[1, i]), m[1, i], v[1, i]))
        assert one.relative is not None
        for whole, single in ((found.absolute, one.absolute), (found.relative, one.relative)):
            got = (whole.estimate[i], whole.low[i], whole.high[i], whole.se[i], whole.p[i])
            assert got == pytest.approx(
                (single.estimate, single.low, single.high, single.se, single.p), rel=1e-9
            )


def test_cells_that_cannot_be_compared_are_marked_and_count_for_nothing() -> None:
    treated = cells.Arms.of_means(
        [100, 0, 100, 1, 100], [1.0, 0.0, 2.0, 1.0, math.nan], [1.0, 0.0, 1.0, 0.0, 1.0]
    )
    control = cells.Arms.of_means(
        [100, 100, 100, 100, 100], [1.0, 1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0]
    )
    found = cells.compare(treated, control)
    assert found.usable.tolist() == [True, False, True, False, False]
    assert np.isnan(found.absolute.p[[1, 3, 4]]).all()
    assert np.isnan(found.relative.p[2])
    assert found.interaction is not None
    assert (found.interaction.df, found.interaction.q) == (1, pytest.approx(2.0**2 / (4 / 100)))


def test_the_interaction_is_cochrans_q() -> None:
    effects, variances = np.array([0.1, 0.4, 0.9]), np.array([0.01, 0.02, 0.05])
    found = cells.interaction(effects, variances)
    oracle = combine_effects(effects, variances)
    assert (found.q, found.df, found.i2) == (pytest.approx(oracle.q), 2, pytest.approx(oracle.i2))
    assert found.p == pytest.approx(stats.chi2.sf(oracle.q, 2))
    assert found.pooled == pytest.approx(oracle.mean_effect_fe)
    with pytest.raises(InvalidInput, match="two cells"):
        cells.interaction([1.0], [1.0])


@pytest.mark.parametrize(
    ("treated", "match"),
    [
        (Moments(10, math.nan, 1.0), "infinite or missing"),
        (Moments(10, math.inf, 1.0), "infinite or missing"),
        (Moments(10, 1.0, math.inf), "infinite or missing"),
        (Moments(10, 1.0, -1.0), "negative variance"),
        (Moments.of([0.1] * 1000), "nothing to test"),
    ],
)
def test_moments_that_are_no_numbers_or_only_rounding_are_refused(treated: Moments, match: str) -> None:
    with pytest.raises(InvalidInput, match=match):
        mean.compare(treated, Moments(10, 0.1, 0.0))


def test_two_members_an_arm_and_a_billion_are_both_right() -> None:
    two = mean.compare(Moments.of([1.0, 2.0]), Moments.of([5.0, 7.0])).absolute
    assert two.p == pytest.approx(stats.ttest_ind([1.0, 2.0], [5.0, 7.0], equal_var=False).pvalue, rel=1e-9)
    huge = mean.compare(Moments(10**9, 100.01, 1e4), Moments(10**9, 100.0, 1e4)).absolute
    assert huge.p == pytest.approx(2 * float(stats.norm.sf(0.01 / math.sqrt(2e-5))), rel=1e-5)
    all_zero = mean.compare(Moments(50, 0.0, 0.0), Moments(50, 1.0, 4.0))
    assert all_zero.relative is None
    assert all_zero.absolute.p == pytest.approx(2 * stats.t.sf(1 / math.sqrt(4 / 50), 49))
