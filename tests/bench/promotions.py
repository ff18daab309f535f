"""Promotions evaluated on a basket: how many a second on one core, and whether the cost is linear.

A shop's mix of fifty: every kind of benefit, and reasons not to apply such as codes, thresholds, tiers and
groups; about a third of them applies. The answer is made as JSON, words and all, as a check-out gets it;
the promotions are parsed once, as for many baskets of one request.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

from loyalty.promotions.explain import to_json
from loyalty.promotions.parse import read_request
from loyalty.promotions.stacking import evaluate
from tests.bench.measure import Comparison, Sample, compare, cpu_s, in_child, take_turns

LINES, PROMOTIONS = 20, 50
SECONDS = 1.0
"""Each contestant evaluates this long at least."""
AIM = 2_000
"""Evaluations a second."""
LINEAR = 1.3
"""At most so many times the cost that ten times the size would have by proportion."""
AT = datetime(2026, 11, 11, 4, tzinfo=UTC)
ZONE = ZoneInfo("Asia/Shanghai")
CATEGORIES = ("mugs", "tea", "coffee", "plates")
BENEFITS: tuple[dict[str, Any], ...] = (
    {"type": "percent", "percent": 5, "scope": {"categories": ["mugs"]}},
    {"type": "fixed", "amount": 300},
    {"type": "fixed_each", "amount": 20, "scope": {"categories": ["tea"]}},
    {"type": "fixed_price", "count": 3, "price": 500_000, "scope": {"categories": ["coffee"]}},
    {"type": "buy_x_get_y", "buy": 2, "get": 1, "max_times": 1, "scope": {"categories": ["plates"]}},
    {"type": "tiered", "by": "amount", "tiers": [{"from": 10000, "off": 500}, {"from": 30000, "off": 2000}]},
    {"type": "gift", "sku": "bag"},
    {"type": "points", "amount": 10},
    {"type": "percent", "percent": "2.5", "round": "line", "scope": {"exclude_categories": ["tea"]}},
)
REASONS: tuple[dict[str, Any], ...] = (
    {"code": "HIDDEN"},
    {"conditions": [{"type": "min_subtotal", "amount": 90_000_000}]},
    {"conditions": [{"type": "min_subtotal", "amount": 100, "scope": {"categories": ["mugs"]}}]},
    {"conditions": [{"type": "tier", "in": ["platinum"]}]},
    {"conditions": [{"type": "tier", "in": ["gold"]}]},
    {"group": "one"},
    {"conditions": [{"type": "segment", "in": ["loyal"]}]},
    {"ends_at": "2026-11-01T00:00:00+08:00"},
)


def request(lines: int, promotions: int, *, every: bool = False) -> dict[str, Any]:
    """A basket of so many lines with the shop's mix of so many promotions; ``every``: all of them apply."""
    return {
        "currency": "CNY",
        "at": AT.isoformat(),
        "member": {"id": "m", "tier": "gold", "orders_placed": 4, "segments": ["loyal"]},
        "shipping": 1000,
        "lines": [
            {
                "id": f"l{n}",
                "sku": f"s{n}",
                "category": CATEGORIES[n % 4],
                "unit_price": 190_000 + 3700 * (n % 50),
                "quantity": n % 4 + 1,
                "floor_price": 90_000 if n % 5 == 0 else 0,
            }
            for n in range(lines)
        ],
        "promotions": [
            {
                "id": f"p{n:04}",
                "priority": n % 7,
                "benefit": BENEFITS[n % 9],
                **({} if every else REASONS[n % 8]),
            }
            for n in range(promotions)
        ],
    }


def timed(lines: int, promotions: int, seconds: float, every: bool = False) -> dict[str, Any]:
    """Seconds of one evaluation: the best of the batches, for whoever shares the core only slows it."""
    sent = read_request(request(lines, promotions, every=every), AT)
    assert sent.promotions is not None

    def batch(number: int) -> float:
        start = time.perf_counter()
        for _ in range(number):
            to_json(evaluate(sent.basket, sent.promotions or (), ZONE), ZONE)
        return (time.perf_counter() - start) / number

    number = max(1, int(0.05 / batch(3)))
    used, best, end = cpu_s(), batch(number), time.perf_counter() + seconds
    while time.perf_counter() < end:
        best = min(best, batch(number))
    found = to_json(evaluate(sent.basket, sent.promotions, ZONE), ZONE)
    return {
        "seconds": best,
        "cpu_s": cpu_s() - used,
        "applied": len(found["applied"]),
        "total": found["total"],
    }


def _thousand(sample: Sample) -> Sample:
    """Of a thousand evaluations: a single one's seconds would be rounded away."""
    return Sample(sample.seconds * 1000, sample.cpu_s, sample.peak_mb, sample.answer)


def bench(*, quick: bool, repetitions: int) -> Iterator[Comparison]:
    """The basket against the aim, and ten times the lines and the promotions against proportion."""
    seconds = 0.05 if quick else SECONDS
    run = partial(in_child, "tests.bench.promotions:timed", seconds=seconds)
    sizes = {
        "basket": (LINES, PROMOTIONS),
        "10 × lines": (10 * LINES, PROMOTIONS),
        "10 × promotions": (LINES, 10 * PROMOTIONS),
    }
    every = {"every one applies": (LINES, PROMOTIONS), "100 lines, every": (100, PROMOTIONS)}
    samples = take_turns(
        {
            name: partial(run, lines=lines, promotions=number, every=name in every)
            for name, (lines, number) in (sizes | every).items()
        },
        repetitions,
    )
    thousand = {name: [_thousand(one) for one in found] for name, found in samples.items()}
    thousand["aim"] = [Sample(1000 / AIM, None, None)] * repetitions
    case = f"1,000 evaluations, {LINES} lines, {PROMOTIONS} promotions"
    yield compare("promotions", case, thousand, "basket", "aim", rows=1000, at_most=1.0)
    applies = f"{case}, every one applies"
    yield compare("promotions", applies, thousand, "every one applies", "aim", rows=1000)
    yield compare(
        "promotions",
        "1,000 evaluations, 100 lines, every one applies",
        thousand,
        "100 lines, every",
        "every one applies",
        rows=1000,
        at_most=5 * LINEAR,
    )
    for what, number in (("lines", LINES), ("promotions", PROMOTIONS)):
        yield compare(
            "promotions",
            f"1,000 evaluations, {number} → {10 * number} {what}",
            thousand,
            f"10 × {what}",
            "basket",
            rows=1000,
            at_most=10 * LINEAR,
        )
