"""Statistics: published values, SciPy and statsmodels as oracles, and coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint, proportions_ztest
from statsmodels.stats.proportion import test_proportions_2indep as ratio_test

from core.errors import InvalidInput
from experiments.moments import Moments, PairMoments
from experiments.stats import mean, proportion, srm

A = Moments.of_sums(1396.87, 52377.9767, 3407)
B = Moments.of_sums(2422.7, 134698.29, 3461)
NUMBERS = st.lists(st.floats(-1e6, 1e6), max_size=20)


def test_the_reference_values_of_absolute_and_relative_difference() -> None:
    found = mean.compare(B, A)
    assert found.relative is not None
    assert found.absolute.estimate == pytest.approx(0.29, abs=1e-9)
    assert (found.absolute.low, found.absolute.high) == pytest.approx((0.04538, 0.53462), abs=5e-6)
    assert found.absolute.p == pytest.approx(0.02016, abs=5e-6)
    assert found.relative.estimate == pytest.approx(0.70732, abs=5e-6)
    assert found.relative.se == pytest.approx(0.37879, abs=5e-6)
    assert (found.relative.low, found.relative.high) == pytest.approx((-0.03526, 1.44989), abs=5e-6)
    assert found.relative.p == pytest.approx(0.06191, abs=5e-6)


def test_welch_agrees_with_scipy() -> None:
    rng = np.random.default_rng(1)
    for size in (2, 5, 300):
        x, y = rng.exponential(3, size), rng.normal(4, 2, size + 3)
        found = mean.compare(Moments.of(x), Moments.of(y), alpha=0.1).absolute
        oracle = stats.ttest_ind(x, y, equal_var=False)
        interval = oracle.confidence_interval(0.9)
        assert found.p == pytest.approx(oracle.pvalue, rel=1e-9)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)


def test_a_tiny_p_is_not_rounded_to_zero() -> None:
    found = mean.compare(Moments(1000, 30.0, 1.0), Moments(1000, 29.0, 1.0))
    assert 0 < found.absolute.p < 1e-80  # 1 − cdf would give 0


def test_a_control_of_zero_has_no_relative_difference() -> None:
    found = mean.compare(Moments(10, 1.0, 1.0), Moments(10, 0.0, 0.0))
    assert found.relative is None
    assert found.absolute.estimate == 1.0


@pytest.mark.parametrize(
    ("treated", "control", "match"),
    [
        (Moments(0, 0, 0), Moments(10, 1, 1), "treated arm has 0 members"),
        (Moments(10, 1, 1), Moments(1, 1, 0), "control arm has 1 members"),
        (Moments(10, 1, 0), Moments(10, 2, 0), "nothing to test"),
    ],
)
def test_what_cannot_be_compared_is_refused(treated: Moments, control: Moments, match: str) -> None:
    with pytest.raises(InvalidInput, match=match):
        mean.compare(treated, control)
    with pytest.raises(InvalidInput, match="alpha"):
        mean.compare(A, B, alpha=5)


@pytest.mark.parametrize(
    ("hits", "n", "base", "base_n"), [(60, 500, 40, 480), (3, 30, 1, 40), (999, 1000, 990, 1000)]
)
def test_proportions_agree_with_statsmodels(hits: int, n: int, base: int, base_n: int) -> None:
    found = proportion.compare(hits, n, base, base_n)
    assert found.relative is not None
    assert found.absolute.p == pytest.approx(proportions_ztest([hits, base], [n, base_n])[1], rel=1e-9)
    newcombe = confint_proportions_2indep(hits, n, base, base_n, method="newcomb", compare="diff")
    assert (found.absolute.low, found.absolute.high) == pytest.approx(newcombe, rel=1e-9)
    katz = confint_proportions_2indep(hits, n, base, base_n, method="log", compare="ratio")
    assert (1 + found.relative.low, 1 + found.relative.high) == pytest.approx(katz, rel=1e-9)
    oracle = ratio_test(hits, n, base, base_n, method="log", compare="ratio")
    assert found.relative.p == pytest.approx(oracle.pvalue, rel=1e-9)
    wilson = proportion_confint(hits, n, method="wilson")
    assert proportion.wilson(hits / n, n, 0.05) == pytest.approx(wilson, rel=1e-9)


def test_the_interval_of_proportions_stays_within_what_is_possible() -> None:
    found = proportion.compare(5, 5, 0, 5)
    assert -1 <= found.absolute.low < found.absolute.estimate == 1.0
    assert found.absolute.high <= 1
    assert found.relative is None


@pytest.mark.parametrize(
    ("numbers", "match"),
    [
        ((0, 0, 1, 10), "treated arm is empty"),
        ((1, 10, 0, 0), "control arm is empty"),
        ((0, 9, 0, 9), "Nobody"),
        ((9, 9, 9, 9), "Everybody"),
        ((11, 10, 1, 10), "11 successes"),
    ],
)
def test_proportions_that_cannot_be_compared_are_refused(
    numbers: tuple[int, int, int, int], match: str
) -> None:
    with pytest.raises(InvalidInput, match=match):
        proportion.compare(*numbers)


def test_the_reference_values_of_the_split() -> None:
    first = srm.check_split({"A": 600, "B": 400}, {"A": 0.5, "B": 0.5})
    assert (first.p, first.ok) == (pytest.approx(2.54e-10, rel=1e-3), False)
    third_without_weight = srm.check_split({"A": 500, "B": 560}, {"A": 0.5, "B": 0.5, "C": 0})
    assert (round(third_without_weight.p, 3), third_without_weight.df) == (0.065, 1)
    assert third_without_weight.ok


def test_the_split_agrees_with_scipy() -> None:
    counts, weights = {"a": 33, "b": 41, "c": 120}, {"a": 0.2, "b": 0.2, "c": 0.6}
    oracle = stats.chisquare([33, 41, 120], [194 * w for w in weights.values()])
    found = srm.check_split(counts, weights)
    assert (found.chi2, found.p, found.df) == pytest.approx((oracle.statistic, oracle.pvalue, 2))


def test_a_split_that_cannot_be_checked_is_refused() -> None:
    with pytest.raises(InvalidInput, match="two arms"):
        srm.check_split({"a": 5}, {"a": 1.0, "b": 0})
    with pytest.raises(InvalidInput, match="Nobody"):
        srm.check_split({}, {"a": 0.5, "b": 0.5})


@given(NUMBERS, NUMBERS)
def test_moments_add_up_as_if_counted_together(first: list[float], second: list[float]) -> None:
    together, merged = Moments.of([*first, *second]), Moments.of(first).merge(Moments.of(second))
    assert merged.n == together.n
    assert merged.mean == pytest.approx(together.mean, abs=1e-6)
    assert merged.var == pytest.approx(together.var, rel=1e-9, abs=1e-3)


def test_covariances_add_up_too() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(5, 2, 200)
    y = x * 3 + rng.normal(0, 1, 200)
    parts = [PairMoments.of(x[low:high], y[low:high]) for low, high in ((0, 1), (1, 80), (80, 200))]
    merged = parts[0].merge(parts[1]).merge(parts[2])
    assert merged.cov == pytest.approx(float(np.cov(x, y)[0, 1]), rel=1e-12)
    assert merged.x.var == pytest.approx(float(x.var(ddof=1)), rel=1e-12)


def test_moments_survive_a_large_mean() -> None:
    data = 1e8 + np.array([-1.0, 0.0, 1.0] * 1000)
    assert Moments.of(data).var == pytest.approx(2000 / 2999, rel=1e-9)
    halves = Moments.of(data[:1500]).merge(Moments.of(data[1500:]))
    assert halves.var == pytest.approx(2000 / 2999, rel=1e-6)


def test_with_no_effect_p_is_uniform_and_intervals_cover() -> None:
    rng = np.random.default_rng(7)
    rounds, size = 2000, 400
    spent = rng.lognormal(0, 1, (rounds, 2, size)) * (rng.random((rounds, 2, size)) < 0.3)
    found = [mean.compare(Moments.of(b), Moments.of(a)) for a, b in spent]
    p = [one.absolute.p for one in found]
    assert stats.kstest(p, "uniform").pvalue > 0.001
    border = 4 * math.sqrt(0.05 * 0.95 / rounds)
    assert np.mean([one.absolute.low <= 0 <= one.absolute.high for one in found]) == pytest.approx(
        0.95, abs=border
    )
    relative = [one.relative for one in found if one.relative is not None]
    assert np.mean([one.low <= 0 <= one.high for one in relative]) == pytest.approx(0.95, abs=border)


def test_proportion_intervals_cover_at_small_shares() -> None:
    rng = np.random.default_rng(8)
    rounds, n = 3000, 300
    hits = np.maximum(rng.binomial(n, [0.05, 0.03], (rounds, 2)), [0, 1])
    found = [proportion.compare(int(a), n, int(b), n) for a, b in hits]
    covered = np.mean([one.absolute.low <= 0.02 <= one.absolute.high for one in found])
    assert covered == pytest.approx(0.95, abs=0.02)
