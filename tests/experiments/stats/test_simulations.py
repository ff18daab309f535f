"""What the statistics promise, counted: seeded simulations, whole arrays at a time.

A share of R rounds is judged within four of its own standard errors, so that a right method fails one seed
in some ten thousand, and a wrong one by a point or more.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from experiments.moments import Moments
from experiments.stats import (
    bandit,
    bayes,
    cells,
    cuped,
    estimate,
    proportion,
    quantile,
    sequential,
    srm,
    strata,
)
from experiments.stats.estimate import Estimate
from experiments.stats.joint import Joint, Mean

pytestmark = pytest.mark.slow
Floats = npt.NDArray[np.float64]


def near(share: float, level: float, rounds: int) -> bool:
    return abs(share - level) <= 4 * math.sqrt(level * (1 - level) / rounds)


def spent(rng: np.random.Generator, rounds: int, n: int) -> Floats:
    """Skewed revenue of which most members have none."""
    return rng.lognormal(0, 1, (rounds, n)) * (rng.random((rounds, n)) < 0.3)


def arms_of(values: Floats) -> cells.Arms:
    rounds, n = values.shape
    return cells.Arms.of_means(np.full(rounds, n), values.mean(axis=1), values.var(axis=1, ddof=1))


def covered(effects: cells.Effects, truth: float) -> float:
    return float(np.mean((effects.low <= truth) & (truth <= effects.high)))


def test_without_an_effect_p_is_uniform_and_both_intervals_cover() -> None:
    rng = np.random.default_rng(11)
    rounds = 10_000
    found = cells.compare(arms_of(spent(rng, rounds, 1000)), arms_of(spent(rng, rounds, 1000)))
    assert stats.kstest(found.absolute.p, "uniform").pvalue > 0.001
    assert near(covered(found.absolute, 0.0), 0.95, rounds)
    assert near(covered(found.relative, 0.0), 0.95, rounds)


def test_with_an_effect_both_intervals_cover_it() -> None:
    rng = np.random.default_rng(12)
    rounds, base = 10_000, 0.3 * math.exp(0.5)
    found = cells.compare(arms_of(1.2 * spent(rng, rounds, 1500)), arms_of(spent(rng, rounds, 500)))
    assert covered(found.absolute, 0.2 * base) == pytest.approx(0.95, abs=0.012)  # skewness and unequal arms
    assert covered(found.relative, 0.2) == pytest.approx(0.95, abs=0.012)


def test_intervals_of_ratios_cover_though_members_order_differently_often() -> None:
    rng = np.random.default_rng(13)
    rounds, n = 4000, 800
    estimates = []
    for lift in (1.1, 1.0):
        orders = 1.0 + rng.poisson(1, (rounds, n))
        revenue = lift * orders * rng.gamma(4, 5, (rounds, n))
        r = revenue.sum(axis=1) / orders.sum(axis=1)
        linear = (revenue - r[:, None] * orders) / orders.mean(axis=1)[:, None]
        size = np.full(rounds, float(n))
        estimates.append(cells.Arms(size, r, linear.var(axis=1, ddof=1) / n, size - 1))
    found = cells.compare(*estimates)
    assert near(covered(found.absolute, 2.0), 0.95, rounds)
    assert near(covered(found.relative, 0.1), 0.95, rounds)


def test_intervals_of_proportions_cover() -> None:
    rng = np.random.default_rng(14)
    rounds, n = 4000, 400
    hits = rng.binomial(n, [0.12, 0.10], (rounds, 2))
    found = [proportion.compare(int(a), n, int(b), n) for a, b in hits]
    assert np.mean([one.absolute.low <= 0.02 <= one.absolute.high for one in found]) == pytest.approx(
        0.95, abs=0.015
    )
    ratios = [one.relative for one in found if one.relative is not None]
    assert np.mean([one.low <= 0.2 <= one.high for one in ratios]) == pytest.approx(0.95, abs=0.015)


def test_intervals_of_quantiles_cover() -> None:
    rng = np.random.default_rng(15)
    rounds, n = 1500, 500
    own, differences = 0, 0
    truth = float(stats.lognorm.ppf(0.9, 1))
    for a, b in rng.lognormal(0, 1, (rounds, 2, n)):
        one = quantile.of(a, 0.9)
        own += one.low <= truth <= one.high
        effect = quantile.compare(a, b, 0.9).absolute
        differences += effect.low <= 0 <= effect.high
    assert own / rounds >= 0.95 - 4 * math.sqrt(0.95 * 0.05 / rounds)
    assert differences / rounds == pytest.approx(0.95, abs=0.025)


def test_credible_intervals_hold_what_the_prior_draws() -> None:
    rng = np.random.default_rng(16)
    rounds, prior = 4000, bayes.Prior(0.1, 0.5)
    truth = rng.normal(prior.mean, prior.sd, rounds)
    seen = truth + rng.normal(0, 0.4, rounds)
    found = [bayes.posterior(Estimate(100, float(one), 0.16, math.inf), prior=prior) for one in seen]
    inside = [one.low <= real <= one.high for one, real in zip(found, truth, strict=True)]
    assert near(float(np.mean(inside)), 0.95, rounds)
    # Choosing by the posterior loses, on average, just what the risk says.
    lost = np.mean(np.maximum(-truth, 0))
    assert np.mean([one.risk for one in found]) == pytest.approx(lost, rel=0.1)


def test_cuped_takes_the_variance_down_by_the_squared_correlation_and_stays_unbiased() -> None:
    rng = np.random.default_rng(17)
    rounds, n = 1500, 200
    for rho in (0.0, 0.6, 0.9):
        before = rng.normal(0, 1, (rounds, 2, n))
        after = rho * before + math.sqrt(1 - rho**2) * rng.normal(0, 1, (rounds, 2, n))
        after[:, 1] += 0.1
        differences, variances = [], []
        for x, y in zip(before, after, strict=True):
            arms = {name: Joint.of({"y": y[i], "x": x[i]}) for i, name in enumerate("AB")}
            adjusted = cuped.adjust(arms, Mean("y"), [Mean("x")])
            differences.append(adjusted["B"].value - adjusted["A"].value)
            variances.append(adjusted["A"].var + adjusted["B"].var)
        expected = (1 - rho**2) * 2 / n
        assert np.var(differences) == pytest.approx(expected, rel=0.15)
        assert np.mean(variances) == pytest.approx(expected, rel=0.02)
        assert np.mean(differences) == pytest.approx(0.1, abs=4 * math.sqrt(expected / rounds))


def looks(rng: np.random.Generator, rounds: int, days: int, a_day: int) -> tuple[Floats, Floats, Floats]:
    """Differences without an effect after each day, their variances, and members an arm: (rounds, days)."""
    n = np.cumsum(np.full(days, a_day, dtype=np.float64))
    parts = []
    for _ in range(2):
        values = rng.exponential(1.0, (rounds, days, a_day))
        total = np.cumsum(values.sum(axis=2), axis=1)
        squares = np.cumsum((values**2).sum(axis=2), axis=1)
        parts.append((total / n, (squares - total**2 / n) / (n - 1) / n))
    return parts[1][0] - parts[0][0], parts[0][1] + parts[1][1], n


def test_thirty_daily_looks_keep_the_sequences_error_at_alpha_where_plain_p_errs_a_quarter() -> None:
    rng = np.random.default_rng(18)
    rounds, days = 4000, 30
    difference, var, n = looks(rng, rounds, days, 40)
    for tuning in (500, 2000):
        unit = np.array([sequential.half_width(int(2 * size), 1.0, 0.05, tuning) for size in n])
        ever = float(np.mean((np.abs(difference) > np.sqrt(var) * unit).any(axis=1)))
        assert ever <= 0.05
    plain = float(np.mean((np.abs(difference) > 1.959964 * np.sqrt(var)).any(axis=1)))
    assert plain == pytest.approx(sequential.peeking_error(days), abs=0.03)
    assert plain > 0.2


@pytest.mark.parametrize(
    ("number", "published"), [(1, 5.0), (2, 8.3), (3, 10.7), (5, 14.2), (10, 19.3), (20, 24.8)]
)
def test_the_error_of_peeking_counted_is_the_error_computed(number: int, published: float) -> None:
    rng = np.random.default_rng(19)
    rounds = 100_000
    steps = np.cumsum(rng.normal(0, 1, (rounds, number)), axis=1) / np.sqrt(np.arange(1, number + 1))
    counted = float(np.mean((np.abs(steps) > 1.959964).any(axis=1)))
    assert near(counted, published / 100, rounds)
    for shape in ("pocock", "obrien-fleming"):
        bounds = sequential.boundaries(number, shape)  # type: ignore[arg-type]
        assert near(float(np.mean((np.abs(steps) > bounds).any(axis=1))), 0.05, rounds)


def test_the_split_looked_at_every_day_cries_wolf_at_most_at_alpha() -> None:
    rng = np.random.default_rng(20)
    rounds, days, alpha = 1500, 40, 0.05
    counts = np.cumsum(rng.multinomial(200, [0.5, 0.3, 0.2], (rounds, days)), axis=1)
    weights = {"a": 5.0, "b": 3.0, "c": 2.0}
    wolves, plain = 0, 0
    for history in counts:
        p, cried = 1.0, False
        for row in history:
            named = dict(zip("abc", map(int, row), strict=True))
            p = srm.always_valid(named, weights, p)
            cried = cried or srm.check_split(named, weights).p < alpha
        wolves += p < alpha
        plain += cried
    assert wolves / rounds <= alpha
    assert plain / rounds > 0.15


def test_a_bandit_regrets_less_than_an_equal_split_and_finds_the_best_arm() -> None:
    rng = np.random.default_rng(21)
    rates = {"a": 0.10, "b": 0.12, "c": 0.16}
    weeks, members, rounds = 12, 1000, 60
    regret, ended = [], []
    for _ in range(rounds):
        weights = dict.fromkeys(rates, 1 / 3)
        periods: list[dict[str, Moments]] = []
        lost = 0.0
        for _ in range(weeks):
            came = dict(zip(rates, rng.multinomial(members, list(weights.values())), strict=True))
            won = {arm: int(rng.binomial(n, rates[arm])) for arm, n in came.items()}
            periods.append({arm: share(won[arm], int(n)) for arm, n in came.items()})
            lost += sum(int(n) * (0.16 - rates[arm]) for arm, n in came.items())
            weights = bandit.reweigh(periods, kind="proportion")
        regret.append(lost)
        ended.append(weights["c"])
    equal = weeks * members * sum(0.16 - rate for rate in rates.values()) / 3
    assert np.mean(regret) < 0.5 * equal
    assert np.mean(np.array(ended) > 0.5) > 0.95


def share(won: int, n: int) -> Moments:
    p = won / n if n else 0.0
    return Moments(n, p, p * (1 - p) * n / (n - 1) if n > 1 else 0.0)


def test_strata_cover_at_their_level_and_take_away_the_variance_between_them() -> None:
    rng, rounds, n, effect = np.random.default_rng(23), 4_000, 400, 0.3
    weights, levels, spreads = (0.5, 0.3, 0.2), (0.0, 2.0, 6.0), (1.0, 1.0, 2.0)
    inside = sum(w * s**2 for w, s in zip(weights, spreads, strict=True))
    mean = sum(w * m for w, m in zip(weights, levels, strict=True))
    between = sum(w * (m - mean) ** 2 for w, m in zip(weights, levels, strict=True))
    covering, plain_errors, errors = 0, np.empty(rounds), np.empty(rounds)
    claimed = np.empty(rounds)
    for number in range(rounds):
        stratum = rng.choice(3, size=(2, n), p=weights)
        values = rng.normal(np.take(levels, stratum), np.take(spreads, stratum))
        values[1] += effect
        parts = {
            arm: {
                str(one): Estimate.of_mean(Moments.of(values[place, stratum[place] == one]))
                for one in range(3)
            }
            for place, arm in enumerate(("control", "treated"))
        }
        whole = strata.post_stratify(parts)
        found = estimate.compare(whole["treated"], whole["control"]).absolute
        covering += found.low <= effect <= found.high
        errors[number] = found.estimate - effect
        claimed[number] = whole["treated"].var + whole["control"].var
        plain_errors[number] = values[1].mean() - values[0].mean() - effect
    assert near(covering / rounds, 0.95, rounds)
    # Theory: what is left is the variance within strata, and of order 1/n more.
    left = float(np.var(errors) / np.var(plain_errors))
    assert left == pytest.approx(inside / (inside + between), rel=4 * math.sqrt(4 / rounds) + 3 / n)
    assert float(claimed.mean()) == pytest.approx(float(np.var(errors)), rel=4 * math.sqrt(2 / rounds))
