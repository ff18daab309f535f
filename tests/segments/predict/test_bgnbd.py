"""BG/NBD: the published values, the paper's formulas word for word, and exact derivatives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from scipy.integrate import quad
from scipy.special import beta, gamma, roots_jacobi

from core.errors import InvalidInput
from segments.predict import bgnbd
from segments.predict.bgnbd import NAMES, BgNbd, BgNbdLikelihood
from segments.predict.clv import purchases
from segments.predict.groups import Groups, group
from tests.segments.predict.data import buying_days, cdnow

PUBLISHED = BgNbd(0.243, 4.414, 0.793, 2.426)


def cdnow_groups() -> Groups:
    data = cdnow()
    return group(data["x"], data["t_x"], data["T"])


def models(low: float = 0.05, high: float = 20.0) -> st.SearchStrategy[BgNbd]:
    each = st.floats(np.log(low), np.log(high)).map(lambda value: float(np.exp(value)))
    return st.builds(BgNbd, each, each, each, each)


def customers() -> st.SearchStrategy[list[tuple[int, int, int]]]:
    """Customers as (x, t_x, T)."""
    one = st.tuples(st.integers(0, 12), st.integers(0, 40), st.integers(0, 40)).map(
        lambda c: (c[0], min(c[1], c[2]) if c[0] else 0, c[2])
    )
    return st.lists(one, min_size=1, max_size=30)


def arrays(found: list[tuple[int, int, int]]) -> list[NDArray[np.int64]]:
    return [np.array(column, dtype=np.int64) for column in zip(*found, strict=True)]


def vector(model: BgNbd) -> NDArray[np.float64]:
    return np.array([model.r, model.alpha, model.a, model.b])


def test_the_published_parameters_of_cdnow_come_out() -> None:
    found = bgnbd.fit(cdnow_groups())
    values = [found.parameters[name].value for name in NAMES]
    assert [round(value, 3) for value in values] == [0.243, 4.414, 0.793, 2.426]
    assert round(found.log_likelihood, 1) == -9582.4
    assert found.customers == 2357
    assert [check.name for check in found.checks] == [
        "converged",
        "gradient",
        "starts",
        "limits",
        "determined",
    ]
    assert found.usable


def test_the_published_customer_buys_as_often_as_published() -> None:
    found = bgnbd.fit(cdnow_groups())
    one = group(np.array([2]), np.array([30.43]), np.array([38.86]))
    assert purchases(PUBLISHED, one, 39.0)[0] == pytest.approx(1.226, abs=5e-4)
    assert purchases(found.model, one, 39.0)[0] == pytest.approx(1.226, abs=5e-4)


def test_standard_errors_are_those_of_the_information_matrix() -> None:
    groups = cdnow_groups()
    found, likelihood = bgnbd.fit(groups), BgNbdLikelihood(groups)
    at, information = vector(found.model), np.empty((4, 4))
    for place in range(4):  # by central differences of the gradient, on the parameters' own scale
        step = np.zeros(4)
        step[place] = 1e-5 * at[place]
        up, down = (likelihood(at + sign * step, False)[1] for sign in (1, -1))
        information[place] = -(up - down) * groups.customers / (2 * step[place])
    expected = np.sqrt(np.diag(np.linalg.inv((information + information.T) / 2)))
    assert [found.parameters[name].error for name in NAMES] == pytest.approx(expected.tolist(), rel=1e-4)


@settings(max_examples=60, deadline=None)
@given(found=customers(), model=models(0.1, 8))
def test_the_likelihood_is_the_papers(found: list[tuple[int, int, int]], model: BgNbd) -> None:
    r, alpha, a, b = vector(model)
    logs = []
    for x, recency, age in found:  # equation 6
        counts = gamma(r + x) * alpha**r / gamma(r)
        stays = beta(a, b + x) / beta(a, b) * counts / (alpha + age) ** (r + x)
        left = beta(a + 1, b + x - 1) / beta(a, b) * counts / (alpha + recency) ** (r + x) if x else 0.0
        logs.append(np.log(stays + left))
    value, _, _ = BgNbdLikelihood(group(*arrays(found)))(vector(model), False)
    assert value == pytest.approx(np.mean(logs), rel=1e-9, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(found=customers(), model=models())
def test_gradient_and_hessian_are_the_differences_of_the_likelihood(
    found: list[tuple[int, int, int]], model: BgNbd
) -> None:
    likelihood, at = BgNbdLikelihood(group(*arrays(found))), vector(model)
    value, gradient, hessian = likelihood(at, True)
    for place in range(4):
        step = np.zeros(4)
        step[place] = 1e-5 * at[place]
        up, down = likelihood(at + step, False), likelihood(at - step, False)
        scale = 2 * step[place]
        tolerance = 1e-4 * (1 + abs(value)) / at[place]
        assert gradient[place] == pytest.approx((up[0] - down[0]) / scale, rel=1e-5, abs=tolerance)
        differences = (up[1] - down[1]) / scale
        assert hessian[place] == pytest.approx(differences, rel=1e-4, abs=1e-4 * (1 + np.abs(hessian).max()))


def test_grouping_changes_nothing() -> None:
    data = cdnow()
    grouped = cdnow_groups()
    assert len(grouped.count) < 1500 < grouped.customers == 2357
    n = len(data["x"])
    each = np.arange(n)
    alone = Groups(data["x"].astype(float), data["t_x"], data["T"], each, each, each, np.ones(n), each)
    for found, expected in zip(
        BgNbdLikelihood(grouped)(vector(PUBLISHED), True),
        BgNbdLikelihood(alone)(vector(PUBLISHED), True),
        strict=True,
    ):
        assert found == pytest.approx(expected, rel=1e-11)
    assert purchases(PUBLISHED, grouped, 39.0)[grouped.of] == pytest.approx(purchases(PUBLISHED, alone, 39.0))


def test_the_order_of_customers_never_matters() -> None:
    data = cdnow()
    shuffled = np.random.default_rng(7).permutation(len(data["x"]))
    other = bgnbd.fit(group(data["x"][shuffled], data["t_x"][shuffled], data["T"][shuffled]))
    assert other == bgnbd.fit(cdnow_groups()), "to the last bit"


def test_the_unit_of_time_changes_alpha_and_nothing_else() -> None:
    data = cdnow()
    days = [np.rint(data[name] * 7).astype(np.int64) for name in ("t_x", "T")]
    by_day, by_week = group(data["x"], *days), group(data["x"], *days, unit=7)
    daily, weekly = bgnbd.fit(by_day), bgnbd.fit(by_week)
    assert vector(daily.model) == pytest.approx(vector(weekly.model) * [1, 7, 1, 1], rel=1e-6)
    assert purchases(daily.model, by_day, 90) == pytest.approx(purchases(weekly.model, by_week, 90 / 7))
    assert daily.parameters["r"].error == pytest.approx(weekly.parameters["r"].error, rel=1e-5)


def test_starts_on_a_part_lead_to_the_maximum_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bgnbd.fit(cdnow_groups())
    monkeypatch.setattr(bgnbd, "PART", 300)
    assert vector(bgnbd.fit(cdnow_groups()).model) == pytest.approx(vector(whole.model), rel=1e-8)


def test_a_part_has_customers_of_every_kind_and_is_always_the_same() -> None:
    groups = cdnow_groups()
    part = groups.part(200)
    assert part.customers == 200
    zero = [g.count[g.x[g.at_x] == 0].sum() / g.customers for g in (groups, part)]
    assert zero[1] == pytest.approx(zero[0], abs=0.01)
    assert (groups.part(200).at_age == part.at_age).all()
    assert groups.part(10_000) is groups


def test_customers_made_by_the_model_give_their_parameters_back() -> None:
    truth = BgNbd(0.8, 60.0, 0.9, 2.0)
    bought = buying_days(truth, 30_000, 700, seed=3)
    x = np.array([len(days) - 1 for days in bought])
    recency = np.array([days[-1] for days in bought])
    found = bgnbd.fit(group(x, recency, np.full(len(x), 700), unit=7))
    expected = [truth.r, truth.alpha / 7, truth.a, truth.b]
    for name, value in zip(NAMES, expected, strict=True):
        error = found.parameters[name].error
        assert error is not None
        # Whole days lose a little of the frequent buyers, so not only sampling parts them.
        assert abs(found.parameters[name].value - value) < 3 * error + 0.05 * value
    assert found.usable


@settings(max_examples=80, deadline=None)
@given(model=models(), x=st.integers(0, 200), age=st.integers(1, 300))
def test_p_alive_is_a_probability_that_grows_with_recency(model: BgNbd, x: int, age: int) -> None:
    recency = np.linspace(0, age, 20)
    alive = bgnbd.p_alive(model, np.full(20, x), recency, np.full(20, float(age)))
    assert ((alive >= 0) & (alive <= 1)).all()
    assert (np.diff(alive) >= 0).all()
    if x == 0:
        assert (alive == 1).all()


@settings(max_examples=150, deadline=None)
@given(
    model=models(),
    x=st.sampled_from([0, 1, 2, 5, 30, 100]),
    age=st.floats(20, 200),
    ahead=st.floats(0.1, 100),
)
def test_expected_purchases_are_the_integral_over_who_may_leave(
    model: BgNbd, x: int, age: float, ahead: float
) -> None:
    """Given p a customer alive buys ∫ λ e^(−λps) ds times; over λ ~ Gamma and p ~ Beta, by quadrature."""
    nodes, weights = roots_jacobi(300, model.b + x - 1, model.a - 1)
    p, start = (1 + nodes) / 2, model.alpha + age
    values = (1 - (start / (start + p * ahead)) ** (model.r + x)) / p
    expected = float(weights @ values / weights.sum())
    found = bgnbd.purchases_if_alive(model, np.array([float(x)]), np.array([age]), ahead)[0]
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("a", [1.0, 1 + 1e-9, 1 - 1e-6, 1 + 2e-5])
def test_expected_purchases_have_no_pole_at_a_of_1(a: float) -> None:
    age, x = np.array([30.0, 30.0]), np.array([0.0, 4.0])
    around = [bgnbd.purchases_if_alive(BgNbd(0.5, 4, near, 2.0), x, age, 20.0) for near in (0.99, 1.01)]
    assert bgnbd.purchases_if_alive(BgNbd(0.5, 4, a, 2.0), x, age, 20.0) == pytest.approx(
        sum(around) / 2, rel=1e-4
    )
    nobody = bgnbd.purchases_if_alive(BgNbd(0.5, 4, 0.4, 0.6), x, age, 20.0)  # a + b + x − 1 is 0
    near = bgnbd.purchases_if_alive(BgNbd(0.5, 4, 0.4, 0.6001), x, age, 20.0)
    assert nobody == pytest.approx(near, rel=1e-3)


def test_extreme_customers_stay_finite() -> None:
    x, age = np.array([0.0, 1.0, 5000.0]), np.array([0.0, 1e-3, 3000.0])
    for ahead in (1e-6, 1.0, 1e6):
        found = bgnbd.purchases_if_alive(PUBLISHED, x, age, ahead)
        assert np.isfinite(found).all()
        assert (found >= 0).all()
    assert bgnbd.p_alive(PUBLISHED, x, np.array([0.0, 0.0, 1.0]), age)[2] == 0.0


@settings(max_examples=40, deadline=None)
@given(model=models(0.2, 5), age=st.floats(0, 60))
def test_shares_of_frequencies_sum_to_1_and_have_the_expected_mean(model: BgNbd, age: float) -> None:
    most = 400
    shares = bgnbd.repeat_shares(model, np.array([age]), most)[:, 0]
    assert (shares >= -1e-12).all()
    assert shares.sum() == pytest.approx(1)
    tail = max(shares[-1], 0.0)
    mean = bgnbd.purchases_if_alive(model, np.zeros(1), np.zeros(1), age)[0]
    assert np.arange(most) @ shares[:-1] <= mean + 1e-6
    if tail < 1e-9:
        assert np.arange(most) @ shares[:-1] == pytest.approx(mean, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ((1, 5, 4), "recency cannot exceed"),
        ((0, 2, 4), "never bought again"),
        ((-1, 0, 4), "frequency"),
        ((1, np.nan, 4), "recency"),
        ((1.5, 1, 4), "whole number"),
    ],
)
def test_customers_that_cannot_be_are_refused(row: tuple[float, float, float], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        group(*(np.array([value]) for value in row))


@pytest.mark.parametrize(("a", "b"), [(230.6, 10_000.0), (1_000.0, 10.0), (150.0, 2.0)])
def test_where_nearly_everybody_has_left_the_expectation_is_a_number(a: float, b: float) -> None:
    # The formula as it stands is 0 times infinity here; its integral is not.
    model = BgNbd(1.3, 1.25, a, b)
    x, age = np.array([0.0, 0.0, 2.0, 40.0]), np.array([0.0, 3.0, 10.0, 500.0])
    for ahead in (0.1, 52.0, 5_000.0):
        found = bgnbd.purchases_if_alive(model, x, age, ahead)
        for orders, old, value in zip(x, age, found, strict=True):
            left, odds = stats.beta(a - 1, b + orders), ahead / (model.alpha + old)
            remains, _ = quad(
                lambda t, left=left, odds=odds, power=model.r + orders: left.pdf(t) * (1 + odds * t) ** -power,
                0.0, 1.0, points=[left.mean()], limit=400, epsabs=1e-14,
            )  # fmt: skip
            assert value == pytest.approx((a + b + orders - 1) / (a - 1) * (1 - remains), rel=1e-6)
