"""Sequential tests, Bayes, the split, several tests, power and bandits: published values and oracles."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestIndPower
from statsmodels.stats.proportion import samplesize_proportions_2indep_onetail

from core.errors import InvalidInput
from experiments.moments import Moments
from experiments.stats import bandit, bayes, multiplicity, power, sequential, srm
from experiments.stats.estimate import Estimate

A = Moments.of_sums(1396.87, 52377.9767, 3000)
B = Moments.of_sums(2422.7, 134698.29, 3461)
P = (0.118, 0.0211, 0.0213, 0.00218)


def shares(successes: int, n: int) -> Moments:
    share = successes / n
    return Moments(n, share, share * (1 - share) * n / (n - 1))


def test_the_reference_values_of_the_confidence_sequence() -> None:
    found = sequential.compare(Estimate.of_mean(B), Estimate.of_mean(A), tuning=1000).relative
    assert found is not None
    assert (found.estimate, found.low, found.high) == pytest.approx((0.50336, -0.55844, 1.56516), abs=5e-6)
    assert found.p == 1.0


def test_the_sequences_p_is_alpha_where_its_border_is_zero_and_it_is_narrowest_near_its_tuning() -> None:
    half = sequential.half_width(5000, 0.01, 0.05, 5000)
    assert sequential.always_valid_p(5000, half, 0.01, 0.05, 5000) == pytest.approx(0.05, rel=1e-9)
    fixed = float(stats.norm.isf(0.025)) * 0.1
    assert 1.3 * fixed < half < 1.6 * fixed
    ratios = {n: sequential.half_width(5000, 0.01, 0.05, n) for n in (50, 1000, 5000, 25_000, 500_000)}
    assert min(ratios, key=lambda n: ratios[n]) == 5000
    with pytest.raises(InvalidInput, match=r"N\*"):
        sequential.compare(Estimate.of_mean(B), Estimate.of_mean(A), tuning=0)


def test_a_tiny_always_valid_p_and_a_billion_members_are_no_trouble() -> None:
    big = [Estimate.of_mean(Moments(10**9, mean, 100.0)) for mean in (10.01, 10.0)]
    found = sequential.compare(*big, tuning=1e6).absolute
    assert 0 < found.p < 1e-90
    assert found.low < 0.01 < found.high


def test_group_sequential_constants_are_the_published_ones() -> None:
    assert sequential.boundaries(5) == pytest.approx([2.413] * 5, abs=5e-4)
    fleming = sequential.boundaries(5, "obrien-fleming")
    assert fleming[-1] == pytest.approx(2.040, abs=5e-4)
    assert fleming[:2] == pytest.approx([4.562, 3.226], abs=1e-3)
    # Jennison and Turnbull 2000, tables 2.1 and 2.3
    assert [sequential.boundaries(k)[0] for k in (2, 3, 4, 10)] == pytest.approx(
        [2.178, 2.289, 2.361, 2.555], abs=1e-3
    )
    assert [sequential.boundaries(k, "obrien-fleming")[-1] for k in (2, 3, 10)] == pytest.approx(
        [1.977, 2.004, 2.087], abs=1e-3
    )
    assert sequential.boundaries(3, "pocock", 0.01)[0] == pytest.approx(2.873, abs=1e-3)
    assert sequential.boundaries(1) == pytest.approx([1.959964])
    with pytest.raises(InvalidInput, match="looks"):
        sequential.boundaries(0)
    with pytest.raises(InvalidInput, match="more information"):
        sequential.crossing_probability([2.0, 2.0], [0.5, 0.5])


def test_peeking_errs_as_published() -> None:
    found = [round(100 * sequential.peeking_error(looks), 1) for looks in (1, 2, 3, 5, 10, 20)]
    assert found == [5.0, 8.3, 10.7, 14.2, 19.3, 24.8]


def test_the_reference_values_of_bayes() -> None:
    found = bayes.compare(Estimate.of_proportion(51, 100), Estimate.of_proportion(49, 100)).relative
    assert found is not None
    assert (found.estimate, found.low, found.high) == pytest.approx((0.04082, -0.24779, 0.32943), abs=5e-6)
    assert found.chance_to_win == pytest.approx(0.60918, abs=5e-6)


def test_risk_is_the_mean_loss_and_a_prior_shrinks() -> None:
    rng = np.random.default_rng(1)
    found = bayes.posterior(Estimate(100, 0.3, 0.25, math.inf))
    draws = rng.normal(0.3, 0.5, 2_000_000)
    assert found.risk == pytest.approx(float(np.maximum(-draws, 0).mean()), rel=0.01)
    assert found.risk_control == pytest.approx(float(np.maximum(draws, 0).mean()), rel=0.01)
    shrunk = bayes.posterior(Estimate(100, 0.3, 0.25, math.inf), prior=bayes.Prior(0.0, 0.5))
    assert (shrunk.estimate, shrunk.sd**2) == (pytest.approx(0.15), pytest.approx(0.125))
    sure = bayes.posterior(Estimate(100, 50.0, 1e-4, math.inf))
    assert (sure.chance_to_win, sure.risk) == (1.0, 0.0)
    with pytest.raises(InvalidInput, match="prior"):
        bayes.posterior(Estimate(100, 0.3, 0.25, math.inf), prior=bayes.Prior(0, 0))


def test_the_chance_to_be_best_is_integrated() -> None:
    two = bayes.chance_best({"a": bayes.normal(0.49, 0.05), "b": bayes.normal(0.51, 0.05)})
    assert two["b"] == pytest.approx(float(stats.norm.cdf(0.02 / math.hypot(0.05, 0.05))), abs=1e-6)
    rng = np.random.default_rng(2)
    numbers = {"a": (20, 80), "b": (25, 80), "c": (3, 10)}
    drawn = np.array([rng.beta(a, b, 400_000) for a, b in numbers.values()])
    best = np.bincount(drawn.argmax(axis=0), minlength=3) / 400_000
    found = bayes.chance_best({name: bayes.beta(*one) for name, one in numbers.items()})
    assert list(found.values()) == pytest.approx(best.tolist(), abs=0.004)
    assert sum(found.values()) == pytest.approx(1.0)


def test_the_always_valid_split_finds_what_is_off_and_remembers() -> None:
    even = {"A": 0.5, "B": 0.5}
    off = srm.always_valid({"A": 600, "B": 400}, even)
    assert off < 1e-3
    assert srm.always_valid({"A": 5000, "B": 5000}, even) == 1.0
    assert srm.always_valid({"A": 5000, "B": 5000}, even, previous_p=off) == off
    assert srm.always_valid({}, even) == 1.0
    without = srm.always_valid({"A": 500, "B": 560}, even)
    assert 0.065 < without < 1  # looking at any time has its price
    assert srm.always_valid({"A": 500, "B": 560, "C": 9}, {**even, "C": 0}) == without
    assert 0 < srm.always_valid({"A": 500_100_000, "B": 499_900_000}, even) < 1e-3
    with pytest.raises(InvalidInput, match="fewer than no members"):
        srm.always_valid({"A": -1, "B": 3}, even)


def test_holm_and_benjamini_hochberg_are_the_published_values() -> None:
    assert [round(p, 4) for p in multiplicity.holm(P)] == [0.118, 0.0633, 0.0633, 0.0087]
    assert [round(p, 4) for p in multiplicity.benjamini_hochberg(P)] == [0.118, 0.0284, 0.0284, 0.0087]
    many = np.random.default_rng(3).random(50).tolist()
    assert multiplicity.holm(many) == pytest.approx(multipletests(many, method="holm")[1].tolist())
    assert multiplicity.benjamini_hochberg(many) == pytest.approx(
        multipletests(many, method="fdr_bh")[1].tolist()
    )
    assert multiplicity.holm([]) == []
    with pytest.raises(InvalidInput, match="between 0 and 1"):
        multiplicity.holm([0.5, math.nan])


def test_sample_sizes_of_proportions_by_both_conventions_say_their_formula() -> None:
    miller = power.for_proportions(0.2, 0.05, formula=power.BASELINE)
    assert (round(miller.n), miller.explanation.endswith("(Evan Miller)")) == (1030, True)
    pooled = power.for_proportions(0.2, 0.05)
    assert (round(pooled.n, 1), "statsmodels" in pooled.explanation) == (1093.7, True)
    oracle = samplesize_proportions_2indep_onetail(0.05, 0.2, 0.8, alpha=0.05)
    assert pooled.n == pytest.approx(oracle, rel=1e-5)
    assert power.mde_proportion(0.2, pooled.n, pooled.n) == pytest.approx(0.05, abs=1e-9)
    with pytest.raises(InvalidInput, match="between 0 and 1"):
        power.for_proportions(0.99, 0.05)


def test_sample_sizes_of_means_are_the_t_tests() -> None:
    assert [round(power.for_means(d).n, 2) for d in (0.2, 0.5, 0.8)] == [393.41, 63.77, 25.52]
    oracle = TTestIndPower().solve_power(0.3, power=0.9, alpha=0.01, ratio=2, alternative="larger")
    found = power.for_means(0.3, 0.01, 0.9, ratio=2, alternative="greater")
    assert (found.n, found.n_treated, found.formula) == (
        pytest.approx(oracle),
        pytest.approx(2 * oracle),
        power.T_TEST,
    )
    assert power.for_means(-0.3, 0.01, 0.9, alternative="less").n == pytest.approx(
        power.for_means(0.3, 0.01, 0.9, alternative="greater").n
    )
    assert power.for_means(0.001).formula == power.NORMAL
    assert power.for_means(0.001).n == pytest.approx(2 * (1.959964 + 0.841621) ** 2 / 1e-6, rel=1e-5)
    with pytest.raises(InvalidInput, match="never finds"):
        power.for_means(-0.3, alternative="greater")
    with pytest.raises(InvalidInput, match="larger difference"):
        power.for_means(1e-9)


def test_the_mde_falls_by_week_with_the_members_that_come() -> None:
    weeks = power.mde_by_week([(900, 100), (1100, 100)], mean=50.0, variance=400.0, weeks=4)
    assert [(one.n_control, one.n_treated) for one in weeks] == [
        (900, 100),
        (2000, 200),
        (3000, 300),
        (4000, 400),
    ]
    assert weeks[3].mde == pytest.approx((1.959964 + 0.841621) * math.sqrt(400 / 4000 + 400 / 400), rel=1e-6)
    assert weeks[3].mde_relative == pytest.approx(weeks[3].mde / 50)
    assert weeks[3].mde < weeks[2].mde < weeks[1].mde < weeks[0].mde
    with pytest.raises(InvalidInput, match="above 0"):
        power.mde_by_week([(0, 0)], 1.0, 1.0, 2)


def test_a_bandits_new_weights_are_chances_to_be_best() -> None:
    alike = bandit.reweigh([{"a": shares(50, 500), "b": shares(50, 500)}], kind="proportion")
    assert alike == pytest.approx({"a": 0.5, "b": 0.5})
    better = bandit.reweigh([{"a": shares(50, 500), "b": shares(65, 500)}], kind="proportion", floor=0)
    exact = bayes.chance_best({"a": bayes.beta(51, 451), "b": bayes.beta(66, 436)})
    assert better == pytest.approx(exact, abs=0.002)
    fewer = bandit.reweigh(
        [{"a": shares(50, 500), "b": shares(65, 500)}], kind="proportion", floor=0, higher_is_better=False
    )
    assert fewer["a"] == pytest.approx(better["b"], abs=1e-6)
    means = bandit.reweigh(
        [{"a": Moments(500, 10, 4), "b": Moments(500, 20, 4), "c": Moments(500, 5, 4)}], floor=0.05
    )
    assert means == pytest.approx({"a": 0.05, "b": 0.9, "c": 0.05})
    early = bandit.reweigh([{"a": shares(5, 50), "b": shares(30, 50)}], kind="proportion")
    assert early == {"a": 0.5, "b": 0.5}
    with pytest.raises(InvalidInput, match="same two arms"):
        bandit.reweigh([{"a": shares(5, 50)}])
    with pytest.raises(InvalidInput, match="No period"):
        bandit.reweigh([{"a": shares(5, 50), "b": Moments(0, 0, 0)}])


def test_a_good_week_does_not_flatter_the_arm_that_had_more_of_it() -> None:
    quiet = {"a": shares(90, 900), "b": shares(11, 100)}
    festival = {"a": shares(40, 100), "b": shares(390, 900)}
    pooled = bandit.pooled([quiet, festival])
    assert pooled["a"].value == pytest.approx(0.25)  # added up they would be .13 against .40
    assert pooled["b"].value == pytest.approx((0.11 + 390 / 900) / 2)


def test_who_has_an_arm_keeps_it() -> None:
    assert bandit.keep({"m1": "a"}, {"m1": "b", "m2": "b"}) == {"m1": "a", "m2": "b"}
