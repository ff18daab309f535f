"""Baskets of a request priced: their own promotions, or the shop's stored ones, read once for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy.orm import Session

from core.errors import InvalidInput
from loyalty.earning import EarnRule, load_rule
from loyalty.promotions import store
from loyalty.promotions.explain import to_json
from loyalty.promotions.parse import Request
from loyalty.promotions.stacking import evaluate

MAX_WORK = 2_000_000
"""Lines times promotions of one call: seconds of a processor at worst."""


def price_all(session: Session, requests: Sequence[Request], zone: ZoneInfo) -> list[dict[str, Any]]:
    """The answers in the order of the requests. Reads, and writes nothing."""
    stored = store.active(session) if any(one.promotions is None for one in requests) else []
    work = sum(
        len(one.basket.lines) * len(stored if one.promotions is None else one.promotions) for one in requests
    )
    if work > MAX_WORK:
        raise InvalidInput(
            f"The baskets have {work} pairs of a line and a promotion together; "
            f"send at most {MAX_WORK} at once.",
            "baskets",
        )
    rate = load_rule(session).rate
    return [
        to_json(evaluate(one.basket, stored if one.promotions is None else one.promotions, zone, rate), zone)
        for one in requests
    ]


def price_own(request: Request, zone: ZoneInfo) -> dict[str, Any]:
    """The answer to a request with its own promotions: needs no database.

    Where the request names no rate of points, it is the one that a new shop has.
    """
    return to_json(evaluate(request.basket, request.promotions or (), zone, EarnRule().rate), zone)
