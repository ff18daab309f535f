"""The reference's worked cases about an evaluation, and short ways to write baskets down."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

Json = dict[str, Any]
ZONE = ZoneInfo("Asia/Shanghai")


def basket(*prices: int | tuple[int, int], **more: Any) -> Json:
    """A basket of CNY: a line a price, or (price, quantity); ids a, b, c …"""
    lines = []
    for number, price in enumerate(prices):
        unit_price, quantity = price if isinstance(price, tuple) else (price, 1)
        name = chr(ord("a") + number)
        lines.append({"id": name, "sku": f"sku-{name}", "unit_price": unit_price, "quantity": quantity})
    return {"currency": "CNY", "at": "2026-11-11T12:00:00+08:00", "lines": lines, "promotions": [], **more}


def promotion(benefit: Json, name: str = "p", **more: Any) -> Json:
    return {"id": name, "benefit": benefit, **more}


def off(amount: int, **more: Any) -> Json:
    return {"type": "fixed", "amount": amount, **more}


def percent(number: Any, **more: Any) -> Json:
    return {"type": "percent", "percent": number, **more}


def at_least(amount: int, **more: Any) -> Json:
    return {"type": "min_subtotal", "amount": amount, **more}


THREE_FOR_20 = {"type": "fixed_price", "count": 3, "price": 2000}
BUY_2_GET_1 = {"type": "buy_x_get_y", "buy": 2, "get": 1, "max_times": 1}
BUY_2_GET_2 = {"type": "buy_x_get_y", "buy": 2, "get": 2}
BY_QUANTITY = {
    "type": "tiered",
    "by": "quantity",
    "tiers": [{"from": 1, "off": 1000}, {"from": 2, "off": 6000}, {"from": 10, "off": 10000}],
}
OVER_100 = [at_least(10001)]

# name: basket, promotions, discounts of the lines, total
WORKED: dict[str, tuple[Json, list[Json], list[int], int]] = {
    "1: 4 off three of 2, largest remainder": (
        basket(200, 200, 200),
        [promotion(off(400))],
        [134, 133, 133],
        200,
    ),
    "2: three for 20, of four of 8": (basket((800, 4)), [promotion(THREE_FOR_20)], [400], 2800),
    "2: three for 20, of three of 7": (basket((700, 3)), [promotion(THREE_FOR_20)], [100], 2000),
    "2: three for 20, of three of 6": (basket((600, 3)), [promotion(THREE_FOR_20)], [0], 1800),
    "3: two of 100 off on 20": (
        basket(2000),
        [promotion(off(10000), "x"), promotion(off(10000), "y")],
        [2000],
        0,
    ),
    "4: buy 2 get 1 once": (basket((400, 4), (200, 4)), [promotion(BUY_2_GET_1)], [0, 200], 2200),
    "5: by line": (basket(106, 206, 306, 406), [promotion(percent(10, round="line"))], [11, 21, 31, 41], 920),
    "5: by total": (basket(106, 206, 306, 406), [promotion(percent(10))], [11, 21, 30, 40], 922),
    "6: 400 over 200 and 600": (basket(20000, 60000), [promotion(off(40000))], [10000, 30000], 40000),
    "6: 30, then 50": (
        basket(5000, 15000),
        [promotion(off(3000), "x"), promotion(off(5000), "y")],
        [750 + 1250, 2250 + 3750],
        12000,
    ),
    "7: 10 % twice": (
        basket(5000, 15000),
        [promotion(percent(10), "x"), promotion(percent(10), "y")],
        [500 + 450, 1500 + 1350],
        16200,
    ),
    "8: buy 2 get 2 of four": (basket((25000, 4)), [promotion(BUY_2_GET_2)], [50000], 50000),
    "8: buy 2 get 2 of three": (basket((25000, 3)), [promotion(BUY_2_GET_2)], [0], 75000),
    "10: 10 % first": (
        basket(10500),
        [promotion(percent(10), "x", priority=2), promotion(percent(20), "y", conditions=OVER_100)],
        [1050],
        9450,
    ),
    "10: 20 % first": (
        basket(10500),
        [promotion(percent(10), "x"), promotion(percent(20), "y", conditions=OVER_100, priority=2)],
        [2100 + 840],
        7560,
    ),
    "11: 100 points on 200 and 150": (basket(20000, 15000), [promotion(off(100))], [57, 43], 34900),
    "12: tiers by quantity": (basket((5000, 4)), [promotion(BY_QUANTITY)], [6000], 14000),
    "12: 70 off 200 and 150": (
        basket(20000, 15000),
        [promotion({"type": "tiered", "by": "amount", "tiers": [{"from": 30000, "off": 7000}]})],
        [4000, 3000],
        28000,
    ),
    "13: a coupon of 380 on 400, then 50 off": (
        basket(40000),
        [
            promotion(off(38000), "coupon", priority=9, code="C"),
            promotion({"type": "tiered", "by": "amount", "tiers": [{"from": 1, "off": 5000}]}, "shop"),
        ],
        [40000],
        0,
    ),
    "20: a limit of 4 that is used up": (
        basket(1000),
        [promotion(off(100), limits={"stock": 4, "used": 4})],
        [0],
        1000,
    ),
}


def worked(name: str) -> Json:
    """The case's input as the command line and the API take it."""
    found, promotions, _, _ = WORKED[name]
    return {**found, "codes": ["C"], "promotions": promotions}
