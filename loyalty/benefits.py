"""What a coupon is worth on a basket: validation and arithmetic, pure."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any

from core.errors import InvalidInput

MAX_AMOUNT_MINOR = 10**12


def validate(benefit: Mapping[str, Any]) -> dict[str, Any]:
    """The benefit as it is stored: {type: "fixed", amount} or {type: "percent", percent, max_amount}.

    Amounts are minor units; ``percent`` is 0 < p ≤ 100 with at most two decimals, kept as a string.
    """
    kind = benefit.get("type")
    if kind == "fixed":
        return {"type": "fixed", "amount": _amount(benefit.get("amount"), "benefit.amount")}
    if kind == "percent":
        cap = benefit.get("max_amount")
        return {
            "type": "percent",
            "percent": str(_percent(benefit.get("percent"))),
            "max_amount": None if cap is None else _amount(cap, "benefit.max_amount"),
        }
    raise InvalidInput("A coupon's benefit has the type “fixed” or “percent”.", "benefit.type")


def _amount(value: Any, field: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MAX_AMOUNT_MINOR:
        raise InvalidInput(f"{field} is a whole number of minor units above 0 (1250 for 12.50).", field)
    return value


def _percent(value: Any) -> Decimal:
    try:
        percent = Decimal(str(value))
    except InvalidOperation:
        percent = Decimal(0)
    if not percent.is_finite() or not 0 < percent <= 100 or percent != round(percent, 2):
        raise InvalidInput(
            "The percentage lies above 0 and at most at 100, with two decimals.", "benefit.percent"
        )
    return percent.normalize() if percent != 100 else Decimal(100)


def discount(benefit: Mapping[str, Any], basket_minor: int) -> int:
    """Minor units off a basket: never more than the basket; percentages round half up."""
    if benefit["type"] == "fixed":
        return min(int(benefit["amount"]), basket_minor)
    exact = Decimal(basket_minor) * Decimal(benefit["percent"]) / 100
    off = int(exact.to_integral_value(ROUND_HALF_UP))
    cap = benefit.get("max_amount")
    return min(off, basket_minor, off if cap is None else int(cap))
