"""More of loyalty for the tests that look at its pages: something of everything that a shop may have."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from channels import tracking
from core.models import Member
from loyalty import adjustments, claims, coupon_holds, coupons, earn_events, multipliers, points
from loyalty.abuse import rules, signals
from loyalty.abuse.rules import Rules, Shared, Velocity
from loyalty.batches import NewBatch, create_batch
from loyalty.groups import groups, offers
from loyalty.groups.offers import NewOffer
from loyalty.models import CouponBatch
from loyalty.promotions import notices, store
from loyalty.referrals import joining, links, programs
from loyalty.referrals.programs import NewProgram
from loyalty.tiers import review
from loyalty.tiers import store as tier_store
from loyalty.tiers.model import Program, Tier
from tests.web.conftest import Shop
from tests.web.seed import NOW

BY = "marketer@example.com"
PAGES = (
    "/loyalty/batches/2",
    "/loyalty/promotions",
    "/loyalty/promotions/new",
    "/loyalty/promotions/1",
    "/loyalty/promotions/1/notice",
    "/loyalty/promotions/try?line-0-sku=mug&line-0-category=tea&line-0-price=200&line-0-quantity=3",
    "/loyalty/calendar",
    "/loyalty/points",
    "/loyalty/points/sources",
    "/loyalty/points/adjustments",
    "/loyalty/tiers",
    "/loyalty/referrals",
    "/loyalty/referrals/programs/new",
    "/loyalty/referrals/programs/1",
    "/loyalty/groups",
    "/loyalty/groups/new",
    "/loyalty/review",
    "/loyalty/review/1",
    "/loyalty/review/rules",
    "/loyalty/reminders",
    "/members/1",
)
PROMOTIONS = (
    ("big", "三八大促 Big sale", {"benefit": {"type": "percent", "percent": 40}, "priority": 10,
     "starts_at": "2026-03-06T00:00:00+08:00", "ends_at": "2026-03-12T00:00:00+08:00"}, True),
    ("gold", "金卡 88 折", {"benefit": {"type": "percent", "percent": 12},
     "conditions": [{"type": "tier", "in": ["gold"]}]}, False),
    ("buy-two", "买二送一", {"benefit": {"type": "buy_x_get_y", "buy": 2, "get": 1}, "group": "tea"}, False),
    ("shipping", "免邮", {"benefit": {"type": "free_shipping"},
     "conditions": [{"type": "min_subtotal", "amount": 9900}], "exclusive": True}, False),
)  # fmt: skip


def fill(shop: Shop) -> tuple[str, ...]:
    """Fill the shop; answers the addresses of what its members see."""
    with shop.database.write() as session:
        ids = list(session.scalars(sa.select(Member.id).order_by(Member.id).limit(12)))
        batch = _coupons(session, ids)
        link = claims.create_link(session, batch, claims.NewLink("开业扫码领券", 100), BY, NOW)
        _points(session, ids)
        for name, title, definition, large in PROMOTIONS:
            content = {"currency": "CNY", **definition}
            row = store.save(
                session, name=name, title=title, definition=content, by=BY, now=NOW, large_sale=large
            )
            if name == "gold":
                notices.publish(session, row, shop.settings.zone, "CNY", BY, NOW)
        programs.create(session, NewProgram("friends", "Friends", "CNY", 200, friend_points=100), BY, NOW)
        joining.join(session, links.token_of(ids[0]), ids[1], NOW)
        group = _groups(session, batch, ids)
        paths = (
            f"/claim/{link.token}",
            claims.member_url("", link, ids[6]),
            tracking.wallet_url("", ids[0]),
            f"/r/{links.token_of(ids[0])}",
            f"/g/{group}",
            "/p/gold/notice",
        )
    _abuse(shop, ids)
    return paths


def _coupons(session: Session, ids: list[int]) -> CouponBatch:
    new = NewBatch(
        "member-15", "会员 85 折券", {"type": "percent", "percent": "15", "max_amount": 5000}, "CNY",
        total_limit=1000, budget_minor=500_000, valid_days=30, reminder_days=3, transferable=True,
    )  # fmt: skip
    batch = create_batch(session, new, BY, NOW - timedelta(days=9))
    codes = coupons.issue(session, batch, [(one, f"m{one}") for one in ids[:6]], NOW - timedelta(days=5))
    common: dict[str, Any] = {"basket_minor": 20_000, "currency": "CNY", "now": NOW}
    first, second = (session.get_one(Member, one).external_id for one in ids[:2])
    coupons.redeem(session, codes[f"m{ids[0]}"], order_ref="O-1", idempotency_key="u",
                   member_external_id=first, **common)  # fmt: skip
    coupon_holds.hold(session, codes[f"m{ids[1]}"], order_ref="O-2", idempotency_key="h",
                      member_external_id=second, **common)  # fmt: skip
    return batch


def _points(session: Session, ids: list[int]) -> None:
    points.grant_many(session, [(one, 100 * one, f"s{one}") for one in ids], NOW - timedelta(days=30))
    adjustments.ask(session, ids[2], 5000, "Parcel lost", key="a1", by=BY, now=NOW)
    adjustments.ask(session, ids[3], 50, "Late", key="a2", by=BY, now=NOW)
    weekend = multipliers.Multiplier("tea-weekend", "2", NOW, NOW + timedelta(days=2), ("tea",))
    multipliers.create(session, weekend, BY, NOW)
    earn_events.create(session, earn_events.EventRule("reviews", "review", 20, 1, 100), BY, NOW)
    ladder = (
        Tier("silver", "银卡会员", 10_000, "Silver", {"multiplier": "1.2"}),
        Tier("gold", "金卡会员", 100_000, "Gold", {"multiplier": "1.5", "free_shipping": True}),
    )
    tier_store.save_program(session, Program(ladder), BY, NOW)
    review.review(session, tier_store.load_program(session), NOW)


def _groups(session: Session, batch: CouponBatch, ids: list[int]) -> str:
    """An offer with a group that is open, and one that is full; the open one's token."""
    offers.create(session, NewOffer("tea", "两人拼茶", 2, 24, batch.id, max_open=5), BY, NOW)
    full = groups.open_group(session, "tea", ids[8], idempotency_key="g1", now=NOW)
    groups.join(session, full.token, ids[9], idempotency_key="g2", now=NOW)
    return groups.open_group(session, "tea", ids[10], idempotency_key="g3", now=NOW).token


def _abuse(shop: Shop, ids: list[int]) -> None:
    """A device that claimed too often, and an address with too many members."""
    with shop.database.write() as session:
        found = Rules(
            (Velocity("claims", "claim", "device", 1, 86_400),), (Shared("home", "address", 1, 30 * 86_400),)
        )
        rules.save_rules(session, found, BY, NOW)
        for member in ids[:2]:
            signals.observe(session, "claim", {"device": "d-77", "address": "静安区 1 号"}, member, NOW)
