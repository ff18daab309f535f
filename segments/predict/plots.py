"""What the console draws of a model: hold-out by frequency, histogram of frequencies, tracking curve."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

from segments.predict import bgnbd
from segments.predict.bgnbd import BgNbd
from segments.predict.groups import Floats, Groups
from segments.predict.summary import Observed, Tracking

TOP = 7
"""Frequencies from here on are one bar."""
POINT_DAYS = 7
MAX_POINTS = 260


@dataclass(frozen=True)
class HoldOutBar:
    """Customers of one frequency in the calibration: mean purchases in the hold-out."""

    frequency: int
    """Of the calibration; the last bar is this many or more."""
    customers: int
    actual: float
    expected: float


@dataclass(frozen=True)
class FrequencyBar:
    """How many customers bought again so often, and how many the model expects to."""

    frequency: int
    actual: int
    expected: float


@dataclass(frozen=True)
class TrackingPoint:
    """Repeat purchases since the start, up to and including a day."""

    day: date
    actual: int
    expected: float


def hold_out(observed: Observed, expected: Floats) -> list[HoldOutBar]:
    """By frequency; ``expected`` is what the calibration's model expects of each customer."""
    at = np.minimum(observed.calibration.frequency, TOP)
    customers = np.bincount(at, minlength=TOP + 1)
    actual = np.bincount(at, observed.held_out, TOP + 1)
    forecast = np.bincount(at, expected, TOP + 1)
    return [
        HoldOutBar(place, int(number), float(actual[place] / number), float(forecast[place] / number))
        for place, number in enumerate(customers)
        if number
    ]


def frequencies(model: BgNbd, groups: Groups) -> list[FrequencyBar]:
    """Of everybody who was fitted: 0 … TOP − 1 repeat purchases, and TOP or more."""
    at = np.minimum(groups.x[groups.at_x], TOP).astype(np.intp)
    actual = np.bincount(at, groups.count, TOP + 1)
    by_age = np.bincount(groups.at_age, groups.count, len(groups.age))
    expected = bgnbd.repeat_shares(model, groups.age, TOP) @ by_age
    return [
        FrequencyBar(place, round(float(number)), float(expected[place]))
        for place, number in enumerate(actual)
    ]


def tracking(model: BgNbd, followed: Tracking, unit_days: float) -> list[TrackingPoint]:
    """Cumulative repeat purchases, actual and expected, a point a week, or fewer of a long log."""
    days = len(followed.newcomers)
    nobody = np.zeros(days)
    each = bgnbd.purchases_if_alive(model, nobody, nobody, np.arange(days) / unit_days)
    expected = np.convolve(followed.newcomers, each)[:days]
    actual = np.cumsum(followed.repeats)
    step = POINT_DAYS * -(-days // (POINT_DAYS * MAX_POINTS))
    return [
        TrackingPoint(followed.start + timedelta(days=place), int(actual[place]), float(expected[place]))
        for place in range(days - 1, -1, -step)
    ][::-1]
