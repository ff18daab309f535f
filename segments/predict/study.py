"""Fits both models to what was observed, checks them, and says whether they may be used.

A model that fails a check is reported and not used: :class:`Study` then has no predictions, and says why.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import date
from math import isfinite
from typing import Any

import numpy as np

from segments.predict import bgnbd, checks, clv, gammagamma, plots
from segments.predict.bgnbd import BgNbd
from segments.predict.checks import Check
from segments.predict.clv import Predictions
from segments.predict.fitted import Fitted
from segments.predict.gammagamma import GammaGamma
from segments.predict.groups import Groups, group
from segments.predict.plots import FrequencyBar, HoldOutBar, TrackingPoint
from segments.predict.settings import Predicting
from segments.predict.summary import Customers, Observed


@dataclass(frozen=True)
class Study:
    """Models, checks and what to draw. ``predictions``: by customer, in their order, where usable."""

    settings: Predicting
    until: date | None
    customers: int
    repeaters: int
    checks: tuple[Check, ...]
    bgnbd: Fitted[BgNbd] | None = None
    gamma_gamma: Fitted[GammaGamma] | None = None
    hold_out: tuple[HoldOutBar, ...] = ()
    hold_out_days: int = 0
    frequencies: tuple[FrequencyBar, ...] = ()
    tracking: tuple[TrackingPoint, ...] = ()
    predictions: Predictions | None = None

    @property
    def usable(self) -> bool:
        return all(check.ok for check in self.checks)

    @property
    def reasons(self) -> list[str]:
        """Why the models are not used, in words."""
        return [check.message for check in self.checks if not check.ok]

    def to_json(self) -> dict[str, Any]:
        """Everything but the customers' own predictions, as JSON takes it: dates as texts, no NaN."""
        found = {
            "usable": self.usable,
            "reasons": self.reasons,
            "until": self.until.isoformat() if self.until else None,
            "settings": asdict(self.settings),
            "n": self.customers,
            "repeaters": self.repeaters,
            "bgnbd": self.bgnbd.to_json() if self.bgnbd else None,
            "gamma_gamma": self.gamma_gamma.to_json() if self.gamma_gamma else None,
            "checks": [asdict(check) for check in self.checks],
            "hold_out_days": self.hold_out_days,
            "hold_out": [asdict(bar) for bar in self.hold_out],
            "frequencies": [asdict(bar) for bar in self.frequencies],
            "tracking": [{**asdict(point), "day": point.day.isoformat()} for point in self.tracking],
        }
        return {name: _finite(value) for name, value in found.items()}


def _finite(value: Any) -> Any:
    """With None for NaN and infinity, which a search that failed may leave and a database refuses."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def study(observed: Observed | None, settings: Predicting, *, with_spend: bool = True) -> Study:
    """Fit, check and, where every check passes, predict. ``with_spend``: amounts are known."""
    if observed is None:
        return Study(settings, None, 0, 0, tuple(checks.enough(0, 0, with_spend)))
    found = observed.customers
    repeaters = len(gammagamma.repeaters(found.frequency, found.spend)) if with_spend else found.repeaters
    first = checks.enough(len(found), repeaters, with_spend)
    result = Study(settings, observed.until, len(found), found.repeaters, tuple(first))
    if not result.usable:
        return result
    groups = _group(found, settings)
    timing = bgnbd.fit(groups)
    spending = gammagamma.fit(found.frequency, found.spend) if with_spend else None
    result = _held_out(replace(result, bgnbd=timing, gamma_gamma=spending), observed, settings)
    more = (*timing.checks, *(spending.checks if spending else ()))
    result = replace(
        result,
        checks=(*first, *more, *result.checks[len(first) :]),
        frequencies=tuple(plots.frequencies(timing.model, groups)),
    )
    return replace(result, predictions=_predict(result, found, groups)) if result.usable else result


def _group(customers: Customers, settings: Predicting) -> Groups:
    return group(customers.frequency, customers.recency, customers.age, settings.unit_days)


def _held_out(result: Study, observed: Observed, settings: Predicting) -> Study:
    """Add the check on days that the model has not seen, and the curves of the model so tested."""
    assert result.bgnbd is not None
    model, days, earlier = result.bgnbd.model, observed.hold_out_days, observed.calibration
    if days == 0:
        check = checks.not_held_out("the log is too short.")
    elif earlier.repeaters < checks.MIN_REPEATERS or len(earlier) < checks.MIN_CUSTOMERS:
        check = checks.not_held_out("too few customers bought before them.")
    else:
        groups = _group(earlier, settings)
        model = bgnbd.fit(groups).model if observed.apart else model
        expected = clv.purchases(model, groups, days / settings.unit_days)[groups.of]
        check = checks.hold_out(float(expected.sum()), float(observed.held_out.sum()), days)
        bars = tuple(plots.hold_out(observed, expected))
        result = replace(result, hold_out=bars, hold_out_days=days)
    curve = tuple(plots.tracking(model, observed.tracking, settings.unit_days))
    return replace(result, checks=(*result.checks, check), tracking=curve)


def _predict(result: Study, customers: Customers, groups: Groups) -> Predictions:
    assert result.bgnbd is not None
    settings = result.settings
    return clv.predict(
        result.bgnbd.model,
        result.gamma_gamma.model if result.gamma_gamma else None,
        groups,
        customers.frequency,
        np.asarray(customers.spend),
        unit_days=settings.unit_days,
        horizon_days=settings.horizon_days,
        clv_days=settings.clv_days,
        margin=settings.margin,
        discount=settings.discount,
    )
