"""Models are used only when they pass every check; otherwise it is said why."""

from __future__ import annotations

import json
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from core.errors import InvalidInput
from segments.predict import plots
from segments.predict.bgnbd import BgNbd
from segments.predict.checks import MIN_REPEATERS, Check
from segments.predict.settings import Predicting
from segments.predict.study import Study, study
from segments.predict.summary import Customers, Observed, Tracking
from tests.segments.predict.data import buying_days

SHOP = BgNbd(0.6, 40.0, 0.8, 2.5)
DAYS = 500
UNTIL = date(2026, 2, 28)


def observed(bought: list[list[int]], spend: Any, cut: int = DAYS) -> Observed:
    """Everybody came on day 0; ``spend`` of each customer a purchase; what is after ``cut`` is held out."""
    before = [[day for day in days if day <= cut] for days in bought]
    x = np.array([len(days) - 1 for days in before])
    customers = Customers(
        pa.array(range(len(x))),
        x,
        np.array([days[-1] for days in before]),
        np.full(len(x), cut),
        np.where(x > 0, spend, np.nan),
    )
    held_out = np.array([len(days) for days in bought]) - x - 1
    newcomers, repeats = np.zeros(DAYS + 1, dtype=np.int64), np.zeros(DAYS + 1, dtype=np.int64)
    newcomers[0] = len(x)
    repeats[:] = np.bincount([day for days in bought for day in days[1:]], minlength=DAYS + 1)
    tracking = Tracking(UNTIL - timedelta(days=DAYS), newcomers, repeats)
    return Observed(UNTIL, customers, customers, UNTIL, held_out, DAYS - cut, tracking)


def spends(customers: int, seed: int = 1) -> Any:
    random = np.random.default_rng(seed)
    return random.gamma(6, 1 / random.gamma(4, 1 / 1500, customers))


def shop(customers: int = 3000) -> list[list[int]]:
    return buying_days(SHOP, customers, DAYS, seed=11)


def failed(found: Study) -> set[str]:
    return {check.name for check in found.checks if not check.ok}


def test_a_shop_that_behaves_as_supposed_is_predicted() -> None:
    found = study(observed(shop(), spends(3000), cut=300), Predicting())
    assert (found.usable, found.reasons, found.hold_out_days) == (True, [], 200)
    assert found.predictions is not None
    assert found.predictions.clv is not None
    assert len(found.predictions.clv) == found.customers == 3000
    assert {check.model for check in found.checks} == {"data", "bgnbd", "gamma_gamma"}
    answer = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert set(answer["bgnbd"]["parameters"]) == {"r", "alpha", "a", "b"}
    assert answer["bgnbd"]["parameters"]["r"]["error"] > 0
    assert answer["tracking"][-1]["day"] == "2026-02-28"


def test_the_pictures_show_what_happened_beside_what_was_expected() -> None:
    bought = shop()
    found = study(observed(bought, spends(3000), cut=300), Predicting())
    x = np.array([sum(day <= 300 for day in days) - 1 for days in bought])
    assert [bar.frequency for bar in found.hold_out] == list(range(plots.TOP + 1))
    assert sum(bar.customers for bar in found.hold_out) == 3000
    later = np.array([sum(day > 300 for day in days) for days in bought])
    assert found.hold_out[1].actual == pytest.approx(later[x == 1].mean())
    assert found.hold_out[-1].actual == pytest.approx(later[x >= plots.TOP].mean())
    for bar in found.hold_out:
        assert bar.expected == pytest.approx(bar.actual, rel=0.35, abs=0.15)
    assert [bar.actual for bar in found.frequencies] == [
        *(int((x == n).sum()) for n in range(plots.TOP)),
        int((x >= plots.TOP).sum()),
    ]
    assert sum(bar.expected for bar in found.frequencies) == pytest.approx(3000)
    for frequency in found.frequencies:
        assert abs(frequency.expected - frequency.actual) < 4 * frequency.expected**0.5
    last = found.tracking[-1]
    assert last.actual == sum(len(days) - 1 for days in bought)
    assert last.expected == pytest.approx(last.actual, rel=0.1)
    actual = [point.actual for point in found.tracking]
    assert actual == sorted(actual)


def test_without_repeaters_nothing_is_fitted() -> None:
    found = study(observed([[0]] * 1000, 5.0), Predicting())
    assert (failed(found), found.bgnbd, found.predictions) == ({"repeaters"}, None, None)
    assert found.reasons == [
        f"0 of them bought again on another day and paid for it; a fit needs at least {MIN_REPEATERS}."
    ]


def test_nobody_at_all_is_a_reason_too() -> None:
    found = study(None, Predicting())
    assert (found.usable, failed(found), found.until) == (False, {"customers", "repeaters"}, None)


def test_spend_that_goes_with_frequency_is_refused() -> None:
    bought = shop()
    x = np.array([len(days) - 1 for days in bought])
    spend = 100 * x + np.random.default_rng(2).uniform(0, 150, len(x))
    found = study(observed(bought, spend), Predicting())
    (check,) = [check for check in found.checks if check.name == "correlation"]
    assert check.value is not None
    assert check.value > 0.9
    assert "correlation" in failed(found)
    assert found.bgnbd is not None
    assert found.bgnbd.usable, "the other model is not at fault"
    assert (found.usable, found.predictions) == (False, None)
    assert any("correlate by" in reason for reason in found.reasons)


def test_spend_against_frequency_is_refused_as_well() -> None:
    bought = shop()
    x = np.array([len(days) - 1 for days in bought])
    found = study(observed(bought, 1000 / (1 + x) + spends(len(x)) / 100), Predicting())
    assert "correlation" in failed(found)


def test_customers_who_are_all_alike_are_refused() -> None:
    found = study(observed([[0, 50, 100]] * 500, 500.0), Predicting())
    assert not found.usable
    assert failed(found) & {"starts", "limits", "determined"}
    assert found.predictions is None
    json.dumps(found.to_json(), allow_nan=False)


def test_customers_who_never_leave_are_refused() -> None:
    random = np.random.default_rng(5)
    bought = [sorted({0, *random.integers(1, DAYS, random.poisson(6)).tolist()}) for _ in range(2000)]
    found = study(observed(bought, spends(2000)), Predicting())
    assert "limits" in failed(found)


def test_a_shop_that_changed_fails_its_hold_out() -> None:
    bought = [[day for day in days if day <= 330] for days in shop()]  # it closed soon after the calibration
    found = study(observed(bought, spends(3000), cut=300), Predicting())
    assert failed(found) == {"hold_out"}
    assert "were expected" in found.reasons[0]
    assert found.predictions is None


def test_numbers_that_are_none_are_null_in_the_answer() -> None:
    check = Check("bgnbd", "gradient", False, float("nan"), float("inf"), "lost")
    answer = Study(Predicting(), UNTIL, 1, 1, (check,)).to_json()
    assert (answer["checks"][0]["value"], answer["checks"][0]["bound"]) == (None, None)
    assert (answer["usable"], answer["reasons"]) == (False, ["lost"])


def test_a_log_without_hold_out_says_that_it_was_not_tried() -> None:
    found = study(observed(shop(), spends(3000)), Predicting())
    (check,) = [check for check in found.checks if check.name == "hold_out"]
    assert (check.ok, check.value, found.hold_out) == (True, None, ())
    assert "too short" in check.message


def test_without_amounts_only_purchases_are_predicted() -> None:
    found = study(observed(shop(), np.nan), Predicting(), with_spend=False)
    assert (found.usable, found.gamma_gamma) == (True, None)
    assert found.predictions is not None
    assert found.predictions.clv is None


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"unit": "month"}, "unit"),
        ({"horizon_days": 0}, "horizon_days"),
        ({"clv_days": 4000}, "clv_days"),
        ({"margin": 0.0}, "margin"),
        ({"margin": 1.1}, "margin"),
        ({"discount": -0.1}, "discount"),
        ({"discount": float("nan")}, "discount"),
    ],
)
def test_settings_that_make_no_sense_name_their_field(values: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as error:
        Predicting(**values).validated()
    assert error.value.field == field
