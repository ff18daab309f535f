"""Baskets of a request priced: their own promotions, or the shop's stored ones, read once for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy.orm import Session

from core.errors import InvalidInput
from loyalty.earning import EarnRule, load_rule
from loyalty.promotions import store
from loyalty.promotions.explain import to_json
from loyalty.promotions.model import Promotion
from loyalty.promotions.parse import Request
from loyalty.promotions.stacking import evaluate

MAX_WORK = 2_000_000
"""Lines times promotions of one call: seconds of a processor at worst."""


def price_all(
    session: Session, requests: Sequence[Request], zone: ZoneInfo, now: datetime
) -> list[dict[str, Any]]:
    """The answers in the order of the requests; what was taken of limited promotions is as of ``now``.
    Reads, and writes nothing."""
    stored = store.active(session, now) if any(one.promotions is None for one in requests) else []
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
    taken = _taken(session, requests, stored, now)
    found = []
    for one in requests:
        promotions: Sequence[Promotion] = stored if one.promotions is None else one.promotions
        if one.promotions is None and one.basket.member is not None:
            mine = taken.get(one.basket.member.id or "", [])
            promotions = store.for_member(stored, mine, one.basket.at, zone)
        found.append(to_json(evaluate(one.basket, promotions, zone, rate), zone))
    return found


def _taken(
    session: Session, requests: Sequence[Request], stored: Sequence[Promotion], now: datetime
) -> dict[str, list[store.MemberTake]]:
    """What the members of the baskets took, one query for all."""
    limited = [one.id for one in stored if (one.per_member, one.per_day) != (None, None)]
    members = [
        one.basket.member.id
        for one in requests
        if one.promotions is None and one.basket.member is not None and one.basket.member.id is not None
    ]
    return store.member_takes(session, members, limited, now)


def price_own(request: Request, zone: ZoneInfo) -> dict[str, Any]:
    """The answer to a request with its own promotions: needs no database.

    Where the request names no rate of points, it is the one that a new shop has.
    """
    return to_json(evaluate(request.basket, request.promotions or (), zone, EarnRule().rate), zone)
