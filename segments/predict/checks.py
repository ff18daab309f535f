"""What a model must pass before anybody acts on it: each check with its number, bound and words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segments.predict.maximum import GRADIENT_BOUND, MAX_STEPS, Maximum

MIN_CUSTOMERS = 100
MIN_REPEATERS = 50
MAX_CORRELATION = 0.3
MAX_SPREAD = 0.01
"""How far apart, relatively, the parameters of two starts may end."""
EDGE = 1.01
"""A parameter within this factor of its limit is at it."""
MAX_MISS = 0.25
"""How far, relatively, all purchases of the hold-out may be from the expected ones …"""
MISS_ERRORS = 2.0
"""… or this many standard errors of so many purchases, where that is more."""


@dataclass(frozen=True)
class Check:
    """``value`` against ``bound``; None where there was nothing to measure."""

    model: str
    """``data``, ``bgnbd`` or ``gamma_gamma``."""
    name: str
    ok: bool
    value: float | None
    bound: float | None
    message: str


def enough(customers: int, repeaters: int, paid: bool) -> list[Check]:
    """Whether there are enough customers, and enough of them who bought again (``paid``: for money)."""
    again = "bought again on another day" + (" and paid for it" if paid else "")
    return [
        Check(
            "data", "customers", customers >= MIN_CUSTOMERS, customers, MIN_CUSTOMERS,
            f"{customers:,} customers bought; a fit needs at least {MIN_CUSTOMERS}.",
        ),
        Check(
            "data", "repeaters", repeaters >= MIN_REPEATERS, repeaters, MIN_REPEATERS,
            f"{repeaters:,} of them {again}; a fit needs at least {MIN_REPEATERS}.",
        ),
    ]  # fmt: skip


def search(
    model: str, names: Sequence[str], found: Maximum, errors: Sequence[float] | None
) -> tuple[Check, ...]:
    """Whether a search ended at a maximum that one can rely on.

    A parameter that is told loosely is no fault: a and b often go up and down together without any
    difference to what is predicted. A likelihood without a peak, of which no standard error exists, is.
    """
    slope = float(np.abs(found.gradient).max())
    relative = None if errors is None else float((np.asarray(errors) / found.parameters).max())
    loose = names[int(np.argmax(np.asarray(errors) / found.parameters))] if errors is not None else ""
    return (
        Check(
            model, "converged", found.converged, found.steps, MAX_STEPS,
            f"The search ended after {found.steps} steps." if found.converged
            else f"The search did not end within {MAX_STEPS} steps.",
        ),
        Check(
            model, "gradient", slope <= GRADIENT_BOUND, slope, GRADIENT_BOUND,
            f"The slope where the search ended is {slope:.1e}; at a maximum it is next to 0.",
        ),
        Check(
            model, "starts", found.spread <= MAX_SPREAD, found.spread, MAX_SPREAD,
            f"Searches from different starts end within {found.spread:.2%} of each other."
            if found.spread <= MAX_SPREAD
            else f"Searches from different starts end {found.spread:.0%} apart: there is no one answer.",
        ),
        _limits(model, names, found),
        Check(
            model, "determined", relative is not None, relative, None,
            "The data do not tell the parameters: the likelihood is flat." if relative is None
            else f"The least certain parameter, {loose}, has a standard error of {relative:.0%} of it.",
        ),
    )  # fmt: skip


def _limits(model: str, names: Sequence[str], found: Maximum) -> Check:
    """The least factor between a parameter and one of its limits."""
    room = np.minimum(found.parameters / found.low, found.high / found.parameters)
    nearest, factor = names[int(np.argmin(room))], float(room.min())
    words = (
        f"Every parameter is well inside its limits ({nearest} is nearest)."
        if factor >= EDGE
        else f"{nearest} ran to a limit: the customers do not differ as the model supposes."
    )
    return Check(model, "limits", factor >= EDGE, factor, EDGE, words)


def correlation(value: float) -> Check:
    """Spend must not go with frequency: Gamma-Gamma supposes that they are independent."""
    fine = abs(value) <= MAX_CORRELATION  # false for NaN too
    words = f"Spend and frequency correlate by {value:.2f}; "
    words += (
        f"up to {MAX_CORRELATION:g} they count as independent."
        if fine
        else (f"above {MAX_CORRELATION:g} spend cannot be predicted apart from frequency.")
    )
    return Check(
        "gamma_gamma", "correlation", fine, value if np.isfinite(value) else None, MAX_CORRELATION, words
    )


def finite_mean(q: float) -> Check:
    """Gamma-Gamma has a mean spend only where q exceeds 1."""
    return Check(
        "gamma_gamma", "finite_mean", q > 1, q, 1.0,
        f"q is {q:.2f}; the mean spend exists where it exceeds 1.",
    )  # fmt: skip


def hold_out(expected: float, actual: float, days: int) -> Check:
    """All repeat purchases of the hold-out against what the calibration expected of them."""
    miss = abs(expected - actual) / max(actual, 1.0)
    bound = max(MAX_MISS, MISS_ERRORS / max(actual, 1.0) ** 0.5)
    return Check(
        "bgnbd", "hold_out", bool(miss <= bound), miss, bound,
        f"In the {days} days held out, {expected:,.0f} purchases were expected and {actual:,.0f} came: "
        f"{miss:.0%} off, {'within' if miss <= bound else 'beyond'} {bound:.0%}.",
    )  # fmt: skip


def not_held_out(why: str) -> Check:
    """The hold-out could not be tried; nothing speaks against the model."""
    return Check("bgnbd", "hold_out", True, None, MAX_MISS, f"Not tried on held-out days: {why}")
