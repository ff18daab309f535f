"""Results of catalogue metrics from their moments, against plain numbers; how their sentences are written."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from experiments import readout, readout_catalogue, readout_catalogue_stats
from experiments.metric_scan import Cell
from experiments.metrics import MetricSpec
from experiments.moments import ArmMoments, Moments
from experiments.readout import More
from experiments.readout_advice import advise
from experiments.readout_form import OTHER, Measure, ReadOut, Result
from experiments.readout_words import Shower
from experiments.stats import quantile
from experiments.stats.estimate import Estimate
from experiments.stats.joint import Joint
from tests.experiments.test_readout import HALVES

MEAN = MetricSpec("m", "mean", "orders", "net_minor", covariate_days=30)
RATIO = MetricSpec("r", "ratio", "orders", "net_minor", "rows", covariate_days=30)
QUANTILE = MetricSpec("q", "quantile", "orders", "net_minor", q=0.5)
SHARE = MetricSpec("s", "proportion", "orders")


def measure(spec: MetricSpec, unit: str = "money", higher: bool = True) -> Measure:
    return Measure(spec.name, 1, spec.kind, unit, 0, 28, spec.covariate_days, higher)


def results(spec: MetricSpec, cells: dict[str, Cell], **more: bool) -> list[Result]:
    found = readout_catalogue_stats.estimates(spec, cells, None)
    return readout_catalogue_stats.results(
        spec.name, measure(spec, **more), found, cells, ["send"], "hold", 0.05, 5000
    )


def members(n: int, lift: float, seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    before = draw.gamma(2.0, 500.0, n)
    return {"value": before * 0.8 + draw.normal(500 + lift, 200, n), "before": before}


def test_a_mean_is_adjusted_by_one_slope_of_both_arms() -> None:
    arms = {"send": members(800, 40, 1), "hold": members(700, 0, 2)}
    (found,) = results(MEAN, {arm: Cell(Joint.of(data), 0) for arm, data in arms.items()})
    parts = [np.cov(data["value"], data["before"]) * (len(data["value"]) - 1) for data in arms.values()]
    theta = sum(part[0, 1] for part in parts) / sum(part[1, 1] for part in parts)
    left = [data["value"] - theta * data["before"] for data in arms.values()]
    assert found.adjusted is not None
    effect = found.adjusted.comparison.absolute
    assert found.adjusted.theta == pytest.approx(theta)
    assert effect.estimate == pytest.approx(left[0].mean() - left[1].mean())
    assert effect.se == pytest.approx(math.sqrt(sum(np.var(one, ddof=1) / len(one) for one in left)))
    assert found.absolute is not None
    assert found.absolute.se > effect.se
    assert found.incremental_total is not None
    assert found.incremental_total.estimate == pytest.approx(800 * found.absolute.estimate)


def test_a_ratio_has_two_slopes_and_no_sum_over_members() -> None:
    draw = np.random.default_rng(4)

    def arm(n: int) -> Cell:
        orders, earlier = draw.poisson(1.5, n) + 1.0, draw.poisson(1.5, n) + 1.0
        return Cell(
            Joint.of({"value": orders * draw.gamma(9, 300, n), "below": orders,
                      "before": earlier * draw.gamma(9, 300, n), "below_before": earlier}), 0
        )  # fmt: skip

    (found,) = results(RATIO, {"send": arm(600), "hold": arm(600)})
    assert found.adjusted is not None
    assert found.adjusted.theta is None
    assert 0 <= found.adjusted.removed < 0.1, "nothing of before says anything about after here"
    assert found.incremental_total is None
    assert found.refused is None


def test_what_cannot_be_measured_says_why() -> None:
    def cell(n: int, spread: float) -> Cell:
        flat = Estimate(n, 100.0, spread, math.inf)
        joint = Joint.of({"value": np.full(n, 100.0)})
        return Cell(joint, 0, quantile.Quantile(0.5, 100.0, 100.0, 100.0, flat))

    (equal,) = results(QUANTILE, {"send": cell(500, 0.0), "hold": cell(500, 0.0)})
    assert "lies among equal values" in (equal.refused or "")
    (few,) = results(QUANTILE, {"send": cell(8, 1.0), "hold": cell(500, 1.0)})
    assert "8 members in an arm" in (few.refused or "")
    (nobody,) = results(MEAN, {})
    assert "Nobody was assigned yet" in (nobody.refused or "")
    none = Joint.of(
        {"value": [0.0] * 50, "below": [0.0] * 50, "before": [0.0] * 50, "below_before": [0.0] * 50}
    )
    (empty,) = results(RATIO, {"send": Cell(none, 0), "hold": Cell(none, 0)})
    assert "too close to 0 for a ratio" in (empty.refused or "")


def about(spec: MetricSpec, unit: str, higher: bool, send: float, hold: float, var: float) -> ReadOut:
    cells = {
        arm: Cell(Joint(4000, ("value",), np.array([value]), np.array([[var]])), 0)
        for arm, value in (("send", send), ("hold", hold))
    }
    plain = MetricSpec(spec.name, spec.kind, spec.fact, spec.value, higher_is_better=higher)
    found = readout_catalogue_stats.estimates(plain, cells, None)
    told = measure(plain, unit, higher)
    rows = readout_catalogue_stats.results(spec.name, told, found, cells, ["send"], "hold", 0.05, 5000)
    arms = {arm: ArmMoments(4000, {"revenue": Moments(4000, 100.0, 50.0)}, {}) for arm in HALVES}
    return readout.read_out(
        arms, HALVES, "hold", currency="CNY", goal=spec.name, more=More({spec.name: told}, tuple(rows))
    )


DAYS = MetricSpec("wait", "mean", "events", "properties.days")
CASES = [
    (SHARE, "share", True, 0.25, 0.2, 0.2, "Send “send” to everyone: it brought 3.17 to 6.82 more percentage "
     "points of “s”.", "建议全量发送“send”：“s”（百分点）多 3.17 至 6.82。"),
    (SHARE, "share", False, 0.15, 0.2, 0.2, "it brought 3.34 to 6.66 less percentage points of “s”.", "少 3.34 至 6.66。"),
    (SHARE, "share", False, 0.25, 0.2, 0.2, "Stop “send”: it brought 3.17 to 6.82 more percentage points of “s”.",
     "建议停止“send”：“s”（百分点）多 3.17 至 6.82。"),
    (DAYS, "days", False, 7.0, 8.0, 9.0, "it brought 0.87 days to 1.13 days less “wait”.", "“wait”少 0.87天 至 1.13天。"),
    (MEAN, "money", True, 1200.0, 1000.0, 1e6, "it brought ¥1.56 to ¥2.44 more “m”.", "“m”多 ¥1.56 至 ¥2.44。"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_advice_is_about_the_goal_in_its_unit(
    case: tuple[MetricSpec, str, bool, float, float, float, str, str],
) -> None:
    *given, english, chinese = case
    found = about(*given)
    assert english in advise(found, "en").sentence
    assert chinese in advise(found, "zh_CN").sentence
    verdict = readout.verdict(found, "en")
    assert "4,000 members against 4,000" in verdict
    assert readout.verdict(found, "zh").count("4,000 人") == 2


def test_a_gain_shows_its_sign_and_a_refusal_is_said_in_the_readers_words() -> None:
    assert Shower("money", "CNY").signed(160) == "+¥1.60"
    assert Shower("money", "CNY").signed(-160) == "-¥1.60"
    assert Shower("share", None).signed(0.016) == "+1.60 %"
    assert Shower("days", None, "zh")(3) == "3.00天"
    found = about(MEAN, "money", True, 1000.0, 1000.0, 0.0)
    assert advise(found, "zh", said=lambda text: f"<{text[:9]}>").sentence == "暂不建议：<No member>"
    assert readout.verdict(found, "zh", said=lambda text: f"<{text[:9]}>") == "暂无结果：<No member>"


def test_rare_values_of_a_dimension_are_one_group() -> None:
    column = pa.chunked_array([[f"v{n % 30:02d}" for n in range(300)] + [None] * 3])
    merged, values = readout_catalogue._merged(column)
    assert len(values) == 13
    assert values[-2:] == [OTHER, ""]
    assert sorted(set(merged.to_pylist())) == sorted(values)
    few, names = readout_catalogue._merged(pa.chunked_array([["b", "a", "b"]]))
    assert (few.to_pylist(), names) == (["b", "a", "b"], ["b", "a"])


def test_the_days_of_a_goals_timeline_end_with_its_window() -> None:
    assert readout_catalogue.days_of(Measure("m", 1, "mean", "money", 0, 7)) == [1, 2, 3, 4, 5, 6, 7]
    assert readout_catalogue.days_of(Measure("m", 1, "mean", "money", 7, 9)) == [8, 9]
    long = readout_catalogue.days_of(Measure("m", 1, "mean", "money", 0, 90))
    assert (len(long), long[-1]) == (14, 90)
