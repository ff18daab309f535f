"""The subsidy of a campaign that ran: redeemers, buyers and the held-out, counted from books and warehouse."""

from __future__ import annotations

from datetime import timedelta

import pytest

from campaigns import campaigns
from campaigns.run import run
from campaigns.subsidy import Arms, Subsidy, subsidy
from campaigns.waste import subsidies
from core.bulk import bulk_insert
from core.errors import Conflict
from core.warehouse.replica import mark
from loyalty.models import Redemption
from tests.campaigns.conftest import NOW, Shop
from tests.loyalty.data import put_order

DAY = timedelta(days=1)


def test_the_discounts_are_split_by_what_the_held_out_did(shop: Shop) -> None:
    shop.members(400, lambda _n: "email")
    shop.batch("shared", settlement_share=0.5)
    shop.control(0)
    variant = {"name": "A", "weight": 1.0, "templates": {"email": "back-email"}, "coupon_batch": "shared"}
    shop.campaign(variants=[variant], holdout=0.4)
    with shop.database.read() as session, pytest.raises(Conflict, match="nothing says"):
        subsidies(session, shop.engine, campaigns.by_name(session, "back"), NOW)
    run(shop.database, shop.engine, shop.settings, "back", NOW)
    decided = shop.rows(
        "SELECT d.member_id, d.arm, c.id FROM decisions d LEFT JOIN coupons c ON c.code = d.coupon_code "
        "ORDER BY d.member_id"
    )
    treated = [(member, coupon) for member, arm, coupon in decided if arm == "A"]
    held_out = [member for member, arm, _ in decided if arm == "holdout"]
    late = NOW + 400 * DAY
    with shop.database.write() as session:
        columns = ("coupon_id", "member_id", "order_ref", "basket_minor", "discount_minor", "currency",
                   "redeemed_at", "rolled_back_at", "idempotency_key", "request_hash", "returned_discount_minor")  # fmt: skip
        rows = [
            (coupon, member, f"r{member}", 5000, 1000, "CNY",
             late if place == 60 else NOW + DAY, NOW + 2 * DAY if place == 61 else None, f"k{member}", "x",
             200 if place == 0 else 0)
            for place, (member, coupon) in enumerate(treated[:62])
        ]  # fmt: skip
        bulk_insert(session, Redemption.__table__, columns, rows)
        buyers = [member for member, _ in treated[:60]]  # and after the window, and rolled back: no redeemers
        buyers += [member for member, _ in treated[70:80]] + held_out[:30]
        for number, member in enumerate(buyers, 1):
            put_order(session, number, member, 5000, at=NOW + DAY)
        put_order(session, 900, held_out[40], 5000, at=NOW - DAY)
        put_order(session, 901, held_out[41], 5000, at=NOW + DAY, refunded=5000)
        mark(session, "orders", [NOW, NOW - 2 * DAY])
    shop.engine.replica.sync(shop.database)
    with shop.database.read() as session:
        found = subsidies(session, shop.engine, campaigns.by_name(session, "back"), NOW + 500 * DAY)
    expected = subsidy(Arms(len(treated), 60, 10, len(held_out), 30), (59 * 1000 + 800) * 0.5)
    assert found == {"A": expected}
    assert isinstance(found["A"], Subsidy)
    assert 0 < found["A"].wasted.estimate < 29_900


def test_without_a_redemption_the_refusal_is_in_words(shop: Shop) -> None:
    shop.members(50, lambda _n: "email")
    shop.control(0)
    shop.campaign()
    run(shop.database, shop.engine, shop.settings, "back", NOW)
    with shop.database.read() as session:
        found = subsidies(session, shop.engine, campaigns.by_name(session, "back"), NOW + DAY)
    assert set(found) == {"A", "B"}
    assert all("Nobody redeemed" in str(words) for words in found.values())
