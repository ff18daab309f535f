"""The small shop that rules are tried on, and short ways of writing them."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import pyarrow as pa

from segments.predict.snapshot import PREDICTION_SCHEMA, PREDICTIONS
from tests.segments.conftest import AS_OF, Shop, ago

EVIL = "100%_\\'\"; DROP TABLE members;--"
RULES: dict[str, Any] = {
    "beijing": {"field": "city", "op": "=", "value": "北京"},
    "either": {"any": [{"segment": "beijing"}, {"field": "city", "op": "=", "value": "Shanghai"}]},
    "buyers": {"event": "order", "op": ">=", "value": 1},
    "missing_city": {"field": "city", "op": "!=", "value": "x"},
}


def build(shop: Shop) -> None:
    """Members 1 … 6; 4 registers at the first moment of the as-of day and so is not there yet."""
    shop.member(1, gender="f", birthday=date(1990, 3, 5), city="北京", country="CN", locale="zh_CN",
                has_phone=True, tags='["vip", "新客"]',
                attributes='{"size": 42, "code": "007", "a.b": "dot", "level": "gold", "nan": "nan"}',
                )  # fmt: skip
    shop.member(2, gender="m", birthday=date(1992, 2, 29), city="Shanghai", registered_at=ago(10),
                tags='["vip2"]', has_email=False, attributes='{"size": "38", "level": null}')  # fmt: skip
    shop.member(3, registered_at=None)
    shop.member(4, city="北京", gender="f", registered_at=ago(0), tags='["vip"]')
    shop.member(5, registered_at=ago(-3), attributes='{"size": -1.5, "level": "Gold"}')
    shop.member(6, city=EVIL, registered_at=ago(1), tags=json.dumps(['x"vip', "a,b", "\\", "新"]),
                attributes=json.dumps({"note": EVIL}))  # fmt: skip
    orders(shop)
    behaviour(shop)
    others(shop)
    sequences(shop)
    predicted(shop)


def orders(shop: Shop) -> None:
    first = shop.order(1, 10, 5000, channel="app", coupon_code="SPRING", discount_minor=500)
    second = shop.order(1, 100, 2000, channel="web")
    cancelled = shop.order(1, 5, 9999, net_minor=0, status="cancelled", refunded_minor=9999)
    third = shop.order(2, 0.25, 1234, channel="web")
    partly = shop.order(5, 200, 3000, net_minor=1000, status="refunded", refunded_minor=2000)
    shop.order(6, 30, 100)
    shop.order(6, -0.5, 100_000)  # on the as-of day: not yet
    shop.line(first, sku="mug", category="coffee", quantity=2, amount_minor=3000)
    shop.line(first, sku="tea", amount_minor=2000, discount_minor=500)
    shop.line(second, sku="mug", category="coffee", amount_minor=2000)
    shop.line(cancelled, sku="mug", category="coffee", amount_minor=9999, refunded=True, status="cancelled")
    shop.line(third, sku="tea", amount_minor=1234)
    shop.line(partly, sku="mug", category="coffee", amount_minor=1000, status="refunded")
    shop.line(partly, sku="tea", amount_minor=2000, refunded=True, status="refunded")
    shop.add("products", product_id=1, source="shop", sku="tea", category="tea", brand="Leaf")
    shop.add("products", product_id=2, source="other", sku="tea", category="not ours", brand="Not ours")


def behaviour(shop: Shop) -> None:
    shop.event(1, "view", 1, '{"sku": "mug", "price": 10.5, "dot.ted": "y"}')
    shop.event(1, "view", 2, '{"sku": "mug", "price": "20", "dot": {"ted": "n"}}')
    shop.event(1, "view", 40, '{"sku": "tea", "price": "dear"}')
    shop.event(2, "view", 7, json.dumps({"sku": EVIL}))
    shop.event(2, "view", 7.0001, '{"price": "inf"}')
    shop.event(3, "search", 3, '{"q": "100%"}')
    shop.event(6, "view", -1, '{"sku": "mug"}')
    for _ in range(10):
        shop.event(5, "pay", 3, '{"amount": 0.1}')


def others(shop: Shop) -> None:
    shop.add("touches", message_id=1, member_id=1, channel="email", purpose="marketing", created_at=ago(5),
             sent_at=ago(5), opened_at=ago(4))  # fmt: skip
    shop.add("touches", message_id=2, member_id=2, channel="sms", purpose="transactional", created_at=ago(3),
             sent_at=ago(3), opened_at=ago(-1), clicked_at=ago(2))  # fmt: skip
    shop.add("redemptions", redemption_id=1, member_id=1, redeemed_at=ago(10), discount_minor=500)
    shop.add(
        "redemptions",
        redemption_id=2,
        member_id=2,
        redeemed_at=ago(8),
        rolled_back_at=ago(2),
        discount_minor=1,
    )
    shop.add(
        "redemptions",
        redemption_id=3,
        member_id=5,
        redeemed_at=ago(8),
        rolled_back_at=ago(-1),
        discount_minor=20,
    )
    for number, (member, kind, delta, days) in enumerate(
        [(1, "earn", 100, 20), (1, "spend", -30, 2), (2, "earn", 10, -1), (3, "grant", 5, 1)]
    ):
        shop.add("points", entry_id=number, member_id=member, kind=kind, delta=delta, at=ago(days))
    for member, tier in ((1, "gold"), (2, "silver"), (6, "gold")):
        shop.add("tiers", member_id=member, tier=tier, since=ago(30))
    for member, channel, granted, purpose in [
        (1, "email", True, "marketing"), (1, "sms", False, "marketing"), (2, "sms", True, "marketing"),
        (3, "email", False, "marketing"), (5, "email", True, "transactional"),
    ]:  # fmt: skip
        shop.add("consents", member_id=member, channel=channel, purpose=purpose, granted=granted, at=ago(50))


def sequences(shop: Shop) -> None:
    for member, kind, days in [
        (1, "cart", 20), (1, "buy", 19), (1, "cart", 5),
        (2, "cart", 10), (2, "buy", 6.5), (2, "cart", -1),
        (3, "cart", 2),
        (5, "cart", 8), (5, "buy", 8),
        (6, "buy", 12), (6, "cart", 11), (6, "wish", 10.5), (6, "buy", 10),
    ]:  # fmt: skip
        shop.event(member, kind, days)
    shop.event(1, "tie", 3, '{"v": "a"}')
    shop.event(1, "tie", 3, '{"v": "b"}')
    shop.event(2, "tie", 4, '{"v": "x"}')
    shop.event(2, "tie", 3, "{}")


def predicted(shop: Shop) -> None:
    for name, member in (("vip", 1), ("vip", 2), ("vip", 4), ("others", 3)):
        shop.add("lists", list=name, member_id=member)
    rows = [
        {"member_id": 1, "p_alive": 0.9, "churn_risk": 0.1, "expected_purchases": 1.5,
         "expected_spend": 4000.0, "clv": 12345.6},
        {"member_id": 5, "p_alive": 0.2, "churn_risk": 0.8, "expected_purchases": 0.1,
         "expected_spend": 1000.0, "clv": 150.0},
    ]  # fmt: skip
    shop.engine.replica.write(
        pa.Table.from_pylist(rows, PREDICTION_SCHEMA),
        "snapshots",
        PREDICTIONS,
        f"{AS_OF.isoformat()}.parquet",
    )


def matching(shop: Shop, rule: Any) -> set[int]:
    return set(shop.evaluator(RULES).members(rule).column("member_id").to_pylist())


def f(field: str, op: str, value: Any = None) -> dict[str, Any]:
    return {"field": field, "op": op} | ({} if value is None else {"value": value})


def e(event: str, op: str = ">=", value: Any = 1, **more: Any) -> dict[str, Any]:
    return {"event": event, "op": op, "value": value, **more}


def last(days: int) -> dict[str, str]:
    return {"last": f"{days}d"}


def since(event: str, *, which: str = "last", limit: str | None = None, **more: Any) -> dict[str, Any]:
    """A window after the member's own event."""
    anchor = {"event": event, "which": which, **more}
    return {"since_event": anchor} | ({} if limit is None else {"for": limit})


def then(event: str, within: str | None = None, **more: Any) -> dict[str, Any]:
    return {"event": event, **more} | ({} if within is None else {"within": within})


def without(event: str, within: str | None = None, **more: Any) -> dict[str, Any]:
    return {"not": {"event": event, **more}} | ({} if within is None else {"within": within})


def steps(*listed: str | dict[str, Any], within: Any = None) -> dict[str, Any]:
    """A sequence; a step that is a name alone happens some time."""
    found = [{"event": one} if isinstance(one, str) else one for one in listed]
    return {"sequence": found} | ({} if within is None else {"within": within})
