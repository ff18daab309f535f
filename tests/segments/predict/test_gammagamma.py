"""Gamma-Gamma and the value of a customer: the published values, exact derivatives, sums that add up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gamma

from segments.predict import bgnbd, gammagamma
from segments.predict.clv import YEAR_DAYS, predict, purchases
from segments.predict.gammagamma import GammaGamma, GammaGammaLikelihood
from segments.predict.groups import Floats, group
from tests.segments.predict.data import cdnow


def test_the_published_parameters_of_cdnow_come_out() -> None:
    data = cdnow()
    found = gammagamma.fit(data["x"], data["zbar"])
    values = [round(found.parameters[name].value, 2) for name in gammagamma.NAMES]
    assert (values, found.customers) == ([6.25, 3.74, 15.45], 946)
    assert found.usable
    (correlation,) = [check for check in found.checks if check.name == "correlation"]
    assert correlation.value == pytest.approx(0.1139, abs=1e-4)


def log_density(p: float, q: float, v: float, x: int, spend: float) -> float:
    """Equation 1a of the paper, as it stands there."""
    total = gamma(p * x + q) / (gamma(p * x) * gamma(q)) * v**q * x ** (p * x) * spend ** (p * x - 1)
    return float(np.log(total / (v + x * spend) ** (p * x + q)))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(1, 6), st.floats(0.5, 50)), min_size=1, max_size=20),
    point=st.tuples(st.floats(0.3, 6), st.floats(0.5, 8), st.floats(0.5, 40)),
)
def test_likelihood_gradient_and_hessian_are_the_papers(
    rows: list[tuple[int, float]], point: tuple[float, float, float]
) -> None:
    x, spend = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    likelihood, at = GammaGammaLikelihood(x, spend), np.array(point)
    value, gradient, hessian = likelihood(at, True)
    assert value == pytest.approx(np.mean([log_density(*point, *row) for row in rows]), rel=1e-8, abs=1e-9)
    for place in range(3):
        step = np.zeros(3)
        step[place] = 1e-5 * at[place]
        up, down = likelihood(at + step, False), likelihood(at - step, False)
        assert gradient[place] == pytest.approx((up[0] - down[0]) / (2 * step[place]), rel=1e-4, abs=1e-5)
        differences = (up[1] - down[1]) / (2 * step[place])
        assert hessian[place] == pytest.approx(differences, rel=1e-4, abs=1e-5)


def test_expected_spend_lies_between_the_own_mean_and_everybodys() -> None:
    model = GammaGamma(6.25, 3.74, 15.45)
    x, own = np.array([0, 1, 5, 500]), np.array([np.nan, 100.0, 100.0, 100.0])
    found = gammagamma.expected_spend(model, x, own)
    assert found[0] == pytest.approx(model.mean)
    assert model.mean == pytest.approx(35.24, abs=0.01)
    assert model.mean < found[1] < found[2] < found[3] < 100
    assert found[3] == pytest.approx(100, rel=1e-3)
    one = (model.q - 1) / (model.p + model.q - 1)
    assert found[1] == pytest.approx(one * model.mean + (1 - one) * 100)


def test_repeaters_who_paid_nothing_are_left_out_of_the_fit() -> None:
    data = cdnow()
    spend = data["zbar"].copy()
    spend[np.flatnonzero(data["x"])[:10]] = 0.0
    assert gammagamma.fit(data["x"], spend).customers == 936


def value_of(**options: float) -> tuple[Floats, Floats, Floats]:
    """CLV, expected spend and purchases in a year of CDNOW's customers."""
    data = cdnow()
    groups = group(data["x"], data["t_x"], data["T"])
    timing = bgnbd.fit(groups).model
    spending = gammagamma.fit(data["x"], data["zbar"]).model
    found = predict(
        timing,
        spending,
        groups,
        data["x"],
        data["zbar"],
        unit_days=7,
        horizon_days=90,
        clv_days=365,
        **options,
    )
    assert found.clv is not None
    assert found.spend is not None
    return found.clv, found.spend, purchases(timing, groups, 365 / 7)[groups.of]


def test_without_discount_value_is_purchases_times_spend() -> None:
    worth, spend, bought = value_of()
    assert worth == pytest.approx(spend * bought)


def test_value_is_proportional_to_the_margin() -> None:
    assert value_of(margin=0.3)[0] == pytest.approx(0.3 * value_of()[0])


def test_discount_weighs_each_day_by_when_it_comes() -> None:
    data = cdnow()
    groups = group(data["x"], data["t_x"], data["T"])
    timing = bgnbd.fit(groups).model
    by_day = np.array([purchases(timing, groups, day / 7) for day in range(366)])
    weights = 1.2 ** (-(np.arange(365) + 0.5) / YEAR_DAYS)
    expected = (weights @ np.diff(by_day, axis=0))[groups.of]
    worth, spend, _ = value_of(discount=0.2)
    assert worth / spend == pytest.approx(expected, rel=1e-4)


def test_without_a_model_of_spend_there_is_no_value() -> None:
    data = cdnow()
    groups = group(data["x"], data["t_x"], data["T"])
    found = predict(
        bgnbd.fit(groups).model,
        None,
        groups,
        data["x"],
        data["zbar"],
        unit_days=7,
        horizon_days=273,
        clv_days=273,
    )
    assert (found.spend, found.clv) == (None, None)
    assert found.purchases[0] == pytest.approx(1.226, abs=5e-4)
    assert len(found.p_alive) == 2357
