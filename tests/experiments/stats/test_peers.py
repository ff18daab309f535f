"""Agreement with tea-tasting and spotify-confidence on random data, to nine digits where the method is one.

Where they do it another way the test says so and compares what is common: tea-tasting's relative interval
is that of a logarithm, and its CUPED pools θ over both arms.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import spotify_confidence
import tea_tasting

from experiments.moments import Moments
from experiments.stats import cuped, estimate, margin, mean, multiplicity, power, proportion, ratio, srm
from experiments.stats.effect import ALTERNATIVES, Alternative, Effect
from experiments.stats.estimate import Estimate
from experiments.stats.joint import Joint, Mean, Ratio

NINE = 1e-9
SEEDS = range(5)


@pytest.fixture(autouse=True)
def _their_warnings() -> Iterator[None]:
    """spotify-confidence calls pandas in ways that this deprecates."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def table(seed: int) -> pa.Table:
    """A shop's skewed numbers: arms of unequal size, revenue with many zeros, orders, what came before."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(200, 2_000))
    before = rng.gamma(1.5, 20, n)
    arm = (rng.random(n) < 0.3).astype(int)
    buys = rng.random(n) < 0.4
    return pa.table(
        {
            "variant": arm,
            "before": before,
            "revenue": buys * (0.8 * before + rng.gamma(2, 10, n) + 3 * arm),
            "orders": 1 + rng.poisson(0.5, n),
            "earlier_orders": 1 + rng.poisson(0.7, n),
            "converted": buys.astype(int),
        }
    )


def joints(data: pa.Table) -> tuple[Joint, Joint]:
    """(treated, control)."""
    arm = data["variant"].to_numpy()
    columns = {name: data[name].to_numpy() for name in data.column_names if name != "variant"}
    treated, control = (
        Joint.of({name: values[arm == which] for name, values in columns.items()}) for which in (1, 0)
    )
    return treated, control


def theirs(data: pa.Table, metric: object) -> object:
    return tea_tasting.Experiment(metric=metric).analyze(data)["metric"]  # type: ignore[arg-type]


def agree(ours: Effect, other: object) -> None:
    def near(value: float) -> object:
        return value if math.isinf(value) else pytest.approx(value, rel=NINE, abs=NINE)

    assert ours.estimate == near(other.effect_size)  # type: ignore[attr-defined]
    assert ours.low == near(other.effect_size_ci_lower)  # type: ignore[attr-defined]
    assert ours.high == near(other.effect_size_ci_upper)  # type: ignore[attr-defined]
    assert ours.p == near(other.pvalue)  # type: ignore[attr-defined]


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize("seed", SEEDS)
def test_means_and_ratios_agree_with_tea_tasting(seed: int, alternative: Alternative) -> None:
    data = table(seed)
    treated, control = joints(data)
    for confidence in (0.9, 0.95, 0.99):
        found = mean.compare(
            treated.moments("revenue"), control.moments("revenue"), 1 - confidence, alternative
        )
        other = theirs(
            data, tea_tasting.Mean("revenue", alternative=alternative, confidence_level=confidence)
        )
        agree(found.absolute, other)
        assert found.relative is not None
        assert found.relative.estimate == pytest.approx(other.rel_effect_size, rel=NINE)  # type: ignore[attr-defined]
        by_orders = ratio.compare(treated, control, Ratio("revenue", "orders"), 1 - confidence, alternative)
        agree(
            by_orders.absolute,
            theirs(
                data,
                tea_tasting.RatioOfMeans(
                    "revenue", "orders", alternative=alternative, confidence_level=confidence
                ),
            ),
        )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["mean", "ratio"])
def test_cuped_agrees_with_tea_tasting_where_the_covariates_have_one_mean(seed: int, kind: str) -> None:
    """With equal means of the covariates, pooling over both arms is pooling within them."""
    data = table(seed)
    arm = data["variant"].to_numpy()
    for name in ("before", "earlier_orders"):
        values = data[name].to_numpy().astype(float)
        values[arm == 1] += values[arm == 0].mean() - values[arm == 1].mean()
        data = data.set_column(data.column_names.index(name), name, pa.array(values))
    treated, control = joints(data)
    if kind == "mean":
        metric, before = Mean("revenue"), Mean("before")
        other = theirs(data, tea_tasting.Mean("revenue", "before", use_t=False))
    else:
        metric, before = Ratio("revenue", "orders"), Ratio("before", "earlier_orders")  # type: ignore[assignment]
        other = theirs(
            data,
            tea_tasting.RatioOfMeans("revenue", "orders", "before", "earlier_orders", use_t=False),
        )
    found = cuped.adjust({"treated": treated, "control": control}, metric, [before])
    by_normal = {name: Estimate(one.n, one.value, one.var, math.inf) for name, one in found.items()}
    # A ratio is linearised here in each arm's own point, there in that of both arms together.
    digits = NINE if kind == "mean" else 2e-2
    ours = estimate.compare(by_normal["treated"], by_normal["control"], 0.05).absolute
    assert ours.se == pytest.approx(
        (other.effect_size_ci_upper - other.effect_size_ci_lower) / 2 / 1.959963984540054,
        rel=digits,  # type: ignore[attr-defined]
    )
    if kind == "mean":
        agree(ours, other)


@pytest.mark.parametrize("seed", SEEDS)
def test_shares_and_the_split_agree_with_tea_tasting(seed: int) -> None:
    data = table(seed)
    arm, hits = data["variant"].to_numpy(), data["converted"].to_numpy()
    n, base_n = int((arm == 1).sum()), int((arm == 0).sum())
    ours = proportion.compare(int(hits[arm == 1].sum()), n, int(hits[arm == 0].sum()), base_n)
    for method in ("pearson", "norm"):
        other = theirs(data, tea_tasting.Proportion("converted", method=method, correction=False))  # type: ignore[arg-type]
        assert ours.absolute.p == pytest.approx(other.pvalue, rel=NINE)  # type: ignore[attr-defined]
        assert ours.absolute.estimate == pytest.approx(other.effect_size, rel=NINE)  # type: ignore[attr-defined]
    split = srm.check_split({"a": base_n, "b": n}, {"a": 0.7, "b": 0.3})
    planned = theirs(data, tea_tasting.SampleRatio({0: 7, 1: 3}, method="norm", correction=False))
    assert split.p == pytest.approx(planned.pvalue, rel=NINE)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("d", "n", "alternative"), [(0.2, 300, "two-sided"), (0.5, 40, "greater")])
def test_power_agrees_with_tea_tasting(d: float, n: int, alternative: Alternative) -> None:
    """Equal variances there, a non-central t in both."""
    rng = np.random.default_rng(7)
    values = rng.normal(0, 1, 2 * n)
    values = (values - values.mean()) / values.std(ddof=1)
    metric = tea_tasting.Mean(
        "x", alternative=alternative, equal_var=True, effect_size=d, n_obs=2 * n, alpha=0.05
    )
    other = metric.solve_power(pa.table({"x": values}), "power")
    assert power.t_power(d, n, 1.0, 0.05, alternative) == pytest.approx(other[0].power, rel=1e-8)


# --- spotify-confidence --------------------------------------------------------------------------


def sums(seed: int) -> tuple[pd.DataFrame, dict[str, Moments]]:
    """Sums an arm, and our moments."""
    rng = np.random.default_rng(seed)
    rows, moments = [], {}
    for arm in "abcd":
        values = rng.gamma(1.2, 30, int(rng.integers(100, 900)))
        rows.append((arm, values.sum(), (values**2).sum(), len(values)))
        moments[arm] = Moments(len(values), float(values.mean()), float(values.var(ddof=1)))
    return pd.DataFrame(rows, columns=["arm", "x", "x2", "n"]), moments


@pytest.mark.parametrize("seed", SEEDS)
def test_welch_and_holm_agree_with_spotify(seed: int) -> None:
    frame, moments = sums(seed)
    test = spotify_confidence.StudentsTTest(frame, "x", "x2", "n", "arm", correction_method="holm")
    found = test.multiple_difference("a", level_as_reference=True)
    ours = [mean.compare(moments[arm], moments["a"]).absolute for arm in "bcd"]
    for name, values in (
        ("difference", [one.estimate for one in ours]),
        ("ci_lower", [one.low for one in ours]),
        ("ci_upper", [one.high for one in ours]),
        ("p-value", [one.p for one in ours]),
        ("adjusted p-value", multiplicity.holm([one.p for one in ours])),
    ):
        assert list(found[name]) == pytest.approx(values, rel=NINE), name


@pytest.mark.parametrize("seed", SEEDS)
def test_benjamini_hochberg_agrees_with_spotify(seed: int) -> None:
    frame, moments = sums(seed)
    test = spotify_confidence.StudentsTTest(frame, "x", "x2", "n", "arm", correction_method="fdr_bh")
    found = test.multiple_difference("a", level_as_reference=True)
    ours = [mean.compare(moments[arm], moments["a"]).absolute.p for arm in "bcd"]
    assert list(found["adjusted p-value"]) == pytest.approx(multiplicity.benjamini_hochberg(ours), rel=NINE)


@pytest.mark.parametrize("seed", SEEDS)
def test_shares_agree_with_spotify(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = [int(rng.integers(100, 3_000)) for _ in range(2)]
    hits = [int(rng.binomial(size, share)) for size, share in zip(n, (0.1, 0.13), strict=True)]
    frame = pd.DataFrame({"arm": ["a", "b"], "hits": hits, "n": n})
    found = spotify_confidence.ChiSquared(frame, "hits", "n", "arm").difference("a", "b")
    ours = proportion.compare(hits[1], n[1], hits[0], n[0]).absolute
    assert found["difference"][0] == pytest.approx(ours.estimate, rel=NINE)
    assert found["p-value"][0] == pytest.approx(ours.p, rel=NINE)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("preference", "higher"), [("increase", True), ("decrease", False)])
def test_margins_agree_with_spotify(seed: int, preference: str, higher: bool) -> None:
    """Their margin is relative to the control's mean and taken as fixed: ours in the metric's unit."""
    frame, moments = sums(seed)
    test = spotify_confidence.ZTest(frame, "x", "x2", "n", "arm")
    found = test.difference("a", "b", non_inferiority_margins=(0.05, preference))
    treated, control = (
        Estimate(one.n, one.mean, one.var / one.n, math.inf) for one in (moments["b"], moments["a"])
    )
    ours = margin.check(treated, control, 0.05 * control.value, 0.05, higher_is_better=higher)
    bound = found["ci_lower" if higher else "ci_upper"][0]
    assert ours.p == pytest.approx(found["p-value"][0], rel=NINE)
    assert ours.worst == pytest.approx(bound, rel=NINE)
