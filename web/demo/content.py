"""What the demo's marketer made: segments, templates in two languages, coupon batches, the campaign."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from channels import templates
from core.settings import Settings
from loyalty.coupons import NewBatch
from loyalty.promotions import notices
from loyalty.promotions import store as promotions
from loyalty.referrals import programs
from loyalty.referrals.programs import NewProgram
from loyalty.tiers import review
from loyalty.tiers import store as tiers
from loyalty.tiers.model import Program, Tier

SEGMENTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("win-back", "At risk or dormant 预警与沉睡", {"field": "lifecycle", "op": "in", "value": ["at_risk", "dormant"]}),
    ("champions", "Champions 冠军会员", {"field": "rfm.segment", "op": "=", "value": "champions"}),
    (
        "coffee-lovers",
        "Coffee three times in 90 days 咖啡爱好者",
        {"event": "order", "where": [{"field": "category", "op": "=", "value": "COFFEE"}], "aggregate": "count",
         "op": ">=", "value": 3, "within": {"last": "90d"}},
    ),
    (
        "families-at-risk",
        "Families at risk with high spend 高消费预警家庭",
        {"all": [
            {"field": "attributes.kids", "op": "in", "value": ["1", "2", "3+"]},
            {"field": "lifecycle", "op": "=", "value": "at_risk"},
            {"field": "rfm.m", "op": ">=", "value": 4},
        ]},
    ),
    ("just-bought", "Bought in the last 7 days 近七天已购",
     {"event": "order", "aggregate": "count", "op": ">=", "value": 1, "within": {"last": "7d"}}),
)  # fmt: skip

BATCHES = (
    NewBatch(
        name="five-off", title="$5 off from $25", benefit={"type": "fixed", "amount": 500}, currency="USD",
        min_spend_minor=2500, prefix="BACK", per_member_limit=1, valid_days=28,
    ),
    NewBatch(
        name="ten-percent", title="10 % off, at most $8", benefit={"type": "percent", "percent": 10, "max_amount": 800},
        currency="USD", prefix="TEN", per_member_limit=1, valid_days=28,
    ),
)  # fmt: skip

LADDER = (
    Tier("silver", "银卡会员", 30_000, "Silver", {"multiplier": "1.2"}),
    Tier("gold", "金卡会员", 150_000, "Gold", {"multiplier": "1.5", "free_shipping": True}),
    Tier("black", "黑金会员", 300_000, "Black", {"multiplier": "2", "early_access_hours": 24}),
)
FRIENDS = NewProgram(
    "friends", "Bring a friend 邀请有礼", "USD", referrer_points=500, friend_points=200, min_order_minor=2500
)
COFFEE_WEEKS: dict[str, Any] = {
    "currency": "USD",
    "starts_at": "2017-10-09T00:00:00-04:00",
    "ends_at": "2017-10-30T00:00:00-04:00",
    "priority": 5,
    "conditions": [{"type": "min_subtotal", "amount": 2000, "scope": {"categories": ["COFFEE"]}}],
    "benefit": {"type": "percent", "percent": 20, "scope": {"categories": ["COFFEE"]}},
}

_HTML = """<!doctype html>
<html><body style="margin:0;background:#f4f4f2;font-family:-apple-system,'Segoe UI','PingFang SC',sans-serif">
<table role="presentation" width="100%" cellpadding="0" cellspacing="0"><tr><td align="center" style="padding:32px 12px">
<table role="presentation" width="560" cellpadding="0" cellspacing="0" style="max-width:560px;background:#ffffff;border-radius:8px">
<tr><td style="padding:32px 32px 8px;font-size:22px;font-weight:600;color:#14231d">{greeting}</td></tr>
<tr><td style="padding:8px 32px;font-size:16px;line-height:1.6;color:#33413b">{body}</td></tr>
<tr><td style="padding:16px 32px"><div style="border:1px dashed #0b6b53;border-radius:6px;padding:16px;text-align:center">
<div style="font-size:14px;color:#33413b">{{{{ coupon.title }}}}</div>
<div style="font-size:22px;letter-spacing:2px;font-weight:700;color:#0b6b53;padding-top:6px">{{{{ coupon.code }}}}</div></div></td></tr>
<tr><td style="padding:8px 32px;font-size:15px;line-height:1.7;color:#33413b">{{% for one in recommend(3) %}}{{% if loop.first %}}<b>{picks}</b>{{% endif %}}
<div>{{{{ one.name|title }}}}</div>{{% endfor %}}</td></tr>
<tr><td align="center" style="padding:16px 32px 32px"><a href="{{{{ shop.url }}}}" style="background:#0b6b53;color:#ffffff;
text-decoration:none;padding:12px 28px;border-radius:6px;font-size:16px;display:inline-block">{button}</a></td></tr>
<tr><td style="padding:16px 32px 32px;font-size:12px;line-height:1.6;color:#66726c">{footer}
<a href="{{{{ unsubscribe_url }}}}" style="color:#66726c">{unsubscribe}</a></td></tr>
</table></td></tr></table></body></html>"""

_EN = {
    "subject": "{{ member.name }}, we kept something for you",
    "html": _HTML.format(
        greeting="We miss you, {{ member.name }}",
        body="It has been a while since your last visit. Here is something for the next one.",
        picks="You may want next",
        button="Shop now",
        footer="You get this because you agreed to news from {{ shop.name }}.",
        unsubscribe="Unsubscribe",
    ),
    "text": "We miss you, {{ member.name }}. {{ coupon.title }}: {{ coupon.code }}\n"
    "{{ shop.url }}\n\nUnsubscribe: {{ unsubscribe_url }}",
    "preheader": "{{ coupon.title }}, for four weeks",
}
_ZH = {
    "subject": "{{ member.name }}，好久不见，为您准备了一份心意",
    "html": _HTML.format(
        greeting="{{ member.name }}，好久不见",
        body="距离您上次光临已有一段时间，这份优惠送给下一次相见。",
        picks="您可能需要",
        button="去看看",
        footer="您收到此邮件，是因为您同意接收 {{ shop.name }} 的消息。",
        unsubscribe="退订",
    ),
    "text": "{{ member.name }}，好久不见。{{ coupon.title }}：{{ coupon.code }}\n{{ shop.url }}\n\n退订：{{ unsubscribe_url }}",
    "preheader": "{{ coupon.title }}，四周内有效",
}
TEMPLATES: tuple[tuple[str, str, dict[str, dict[str, Any]]], ...] = (
    ("win-back-email", "email", {"en": _EN, "zh_CN": _ZH}),
    (
        "win-back-sms",
        "sms",
        {
            "en": {"text": "We miss you! {{ coupon.title }}: {{ coupon.code }}. Reply R to opt out",
                   "provider_template": "SMS_100001", "params": {"code": "{{ coupon.code }}"}},
            "zh_CN": {"text": "好久不见！{{ coupon.title }}，券码 {{ coupon.code }}，拒收请回复R",
                      "provider_template": "SMS_100002", "params": {"code": "{{ coupon.code }}"}},
        },
    ),
    (
        "win-back-wechat",
        "wechat",
        {
            "en": {"provider_template": "WINBACK_EN", "url": "{{ shop.url }}",
                   "data": {"thing1": "{{ coupon.title }}", "character_string2": "{{ coupon.code }}"}},
            "zh_CN": {"provider_template": "WINBACK_ZH", "url": "{{ shop.url }}",
                      "data": {"thing1": "{{ coupon.title }}", "character_string2": "{{ coupon.code }}"}},
        },
    ),
    (
        "new-arrivals-sms",
        "sms",
        {
            "en": {"text": "New this week: {{ track(shop.url) }} Reply R to opt out",
                   "provider_template": "SMS_100003", "params": {"link": "{{ track(shop.url) }}"}},
            "zh_CN": {"text": "本周上新：{{ track(shop.url) }} 拒收请回复R",
                      "provider_template": "SMS_100004", "params": {"link": "{{ track(shop.url) }}"}},
        },
    ),
    (
        "back-in-stock-wechat",
        "wechat",
        {
            "en": {"kind": "subscription", "provider_template": "RESTOCK_EN", "url": "{{ shop.url }}",
                   "data": {"thing1": "Back in stock", "thing2": "Order soon, few left"}},
            "zh_CN": {"kind": "subscription", "provider_template": "RESTOCK_ZH", "url": "{{ shop.url }}",
                      "data": {"thing1": "您关注的商品到货了", "thing2": "数量有限，点击查看"}},
        },
    ),
    (
        "coupon-app",
        "webhook",
        {
            "en": {"title": "A coupon for you, {{ member.name }}", "body": "{{ coupon.title }}: {{ coupon.code }}",
                   "url": "{{ shop.url }}", "data": {"screen": "coupons"}},
            "zh_CN": {"title": "{{ member.name }}，送您一张券", "body": "{{ coupon.title }}：{{ coupon.code }}",
                      "url": "{{ shop.url }}", "data": {"screen": "coupons"}},
        },
    ),
)  # fmt: skip


def save_loyalty(session: Session, settings: Settings, by: str, now: datetime) -> None:
    """A ladder with every member on it, a promotion with its public notice, and a referral programme."""
    ladder = Program(LADDER, timezone=settings.shop_timezone, currency=settings.shop_currency)
    tiers.save_program(session, ladder, by, now)
    review.review(session, ladder, now)
    coffee = promotions.save(
        session,
        name="coffee-weeks",
        title="Coffee weeks 咖啡节",
        definition=COFFEE_WEEKS,
        by=by,
        now=now,
        large_sale=True,
    )
    notices.publish(session, coffee, settings.zone, settings.shop_currency, by, now)
    programs.create(session, FRIENDS, by, now)


def save_templates(session: Session, settings: Settings, by: str, now: datetime) -> None:
    """Check and keep the win-back campaign's templates, and one of each kind of message that it does not use."""
    for name, channel, contents in TEMPLATES:
        templates.save(
            session,
            settings,
            name=name,
            channel=channel,
            purpose="marketing",
            contents=contents,
            by=by,
            now=now,
        )


_EVERYWHERE = {channel: f"win-back-{channel}" for channel in ("email", "sms", "wechat")}
WIN_BACK: dict[str, Any] = {
    "audience": {"segment": "win-back"},
    "exclude": ["just-bought"],
    "variants": [
        {"name": "A", "weight": 0.5, "templates": _EVERYWHERE, "coupon_batch": "five-off"},
        {"name": "B", "weight": 0.5, "templates": _EVERYWHERE, "coupon_batch": "ten-percent", "points": 200},
    ],
    "channels": ["email", "wechat", "sms"],
    "holdout": 0.2,
    "metric": "revenue",
    "window_days": 28,
    "cap_messages": 3,
    "cap_days": 7,
    "margin": 0.28,
    "message_cost_minor": {"email": 0, "sms": 4, "wechat": 0},
    "point_value_minor": 0.5,
    "fixed_cost_minor": 15000,
}
