"""The wallet's texts, and numbers, money and days as its reader writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from babel.dates import format_date
from babel.numbers import format_currency, format_decimal

from core.money import to_major

TEXTS = {
    "title": ("我的券包", "Your wallet"),
    "tier": ("会员等级", "Your tier"),
    "no_tier": ("暂无等级", "No tier yet"),
    "until": ("有效期至 {}", "Valid until {}"),
    "to_next": ("再{}即可升级为{}", "{} more to {}"),
    "top": ("您已是最高等级", "This is the highest tier"),
    "points": ("积分", "Points"),
    "available": ("可用积分", "to spend now"),
    "pending": ("{} 起可用 {} 积分", "{1} points more from {0}"),
    "expiring": ("{} 积分将于 {} 到期", "{} points expire on {}"),
    "held": ("{} 积分已被订单占用", "{} points are set aside for an order"),
    "debt": ("待抵扣 {} 积分，将从之后获得的积分中扣除", "{} points are owed and taken from the next ones"),
    "history": ("积分明细", "What happened to your points"),
    "no_points": ("还没有积分，下单即可获得。", "No points yet: your orders bring some."),
    "coupons": ("优惠券", "Coupons"),
    "no_coupons": ("暂无可用优惠券", "No coupon to use now"),
    "minimum": ("满 {} 可用", "from {}"),
    "no_minimum": ("无使用门槛", "on any order"),
    "fixed": ("立减 {}", "{} off"),
    "percent": ("优惠 {}", "{} off"),
    "most": ("最多减 {}", "{} at most"),
    "forever": ("长期有效", "No end"),
    "kept": ("已用于待付款订单", "Kept for an order that waits for its payment"),
    "code": ("券码", "Code"),
    "qr": ("显示二维码", "Show the QR code"),
    "qr_of": ("券码 {} 的二维码", "QR code of {}"),
    "coming": ("即将生效", "Coming"),
    "from_day": ("{} 起可用", "usable from {}"),
    "past": ("已使用和已过期", "Used and expired"),
    "redeemed": ("已使用", "Used"),
    "expired": ("已过期", "Expired"),
    "more": ("另有 {} 张", "and {} more"),
    "invite": ("邀请好友", "Invite friends"),
    "invited": ("已有 {} 位好友加入", "{} joined so far"),
    "rewarded": ("{} 位已获奖励", "{} brought a reward"),
    "invite_qr": ("邀请链接二维码", "QR code of your link"),
    "groups": ("进行中的拼团", "Your open groups"),
    "left": ("{} / {} 人，还差 {} 人", "{} of {}, {} more needed"),
    "by": ("截止 {}", "until {}"),
    "preferences": ("消息订阅偏好", "What we may send you"),
    "private": (
        "请勿转发本页链接：打开者可使用您的券码。",
        "Keep this link to yourself: whoever opens it can use your codes.",
    ),
}
ENTRY_WORDS = {
    "order": ("购物获得", "For an order"),
    "event": ("互动奖励", "A reward"),
    "earn": ("获得积分", "Earned"),
    "grant": ("商家赠送", "A gift from the shop"),
    "spend": ("下单抵扣", "Spent on an order"),
    "refund": ("退单返还", "Given back for a return"),
    "expire": ("积分过期", "Expired"),
    "revoke": ("积分扣回", "Taken back"),
    "debt": ("积分扣回（待抵扣）", "Taken back, still owed"),
    "hold": ("订单占用", "Set aside for an order"),
    "release": ("取消占用", "Free again"),
    "transfer": ("转赠好友", "Given to a friend"),
    "receive": ("好友转赠", "From a friend"),
}
UNITS = {
    "points": ("获得 {} 积分", "{} points"),
    "orders": ("下 {} 单", "{} orders"),
    "spend": ("消费 {}", "{}"),
}
BENEFITS = {
    "multiplier": ("{} 倍积分", "{} times the points"),
    "free_shipping": ("包邮", "Free shipping"),
    "early_access_hours": ("提前 {} 小时抢购", "{} hours of early access"),
    "birthday_batch": ("生日礼券", "A coupon on your birthday"),
}
UNKNOWN_ENTRY = ("积分变动", "A change")


@dataclass(frozen=True)
class Words:
    """Texts and formats of one language (``zh`` or ``en``) in the shop's zone."""

    language: str
    zone: ZoneInfo

    def pick(self, pair: tuple[str, str]) -> str:
        return pair[self.language == "en"]

    def text(self, name: str, *values: object) -> str:
        return self.pick(TEXTS[name]).format(*values)

    @property
    def locale(self) -> str:
        return "zh_CN" if self.language == "zh" else "en"

    def number(self, value: int) -> str:
        return format_decimal(value, locale=self.locale)

    def signed(self, value: int) -> str:
        """With its sign; a minus of its own width."""
        return f"{'+' if value > 0 else '−'}{self.number(abs(value))}"

    def money(self, minor: int, currency: str) -> str:
        """Without decimals where there are none: ¥20, ¥12.50."""
        amount = to_major(minor, currency)
        whole = amount == amount.to_integral_value()
        return format_currency(
            amount,
            currency,
            format="¤#,##0" if whole else None,
            locale=self.locale,
            currency_digits=not whole,
        )

    def day(self, at: datetime) -> str:
        """The day of the shop's zone; with the time of day where something starts within it."""
        local = at.astimezone(self.zone)
        shown = format_date(local.date(), "medium", locale=self.locale)
        return shown if local.time() == time() else f"{shown} {local:%H:%M}"

    def date(self, at: datetime) -> str:
        return format_date(at.astimezone(self.zone).date(), "medium", locale=self.locale)

    def until(self, end: datetime) -> str:
        """The last day of what is over at ``end``; with the time where it ends within that day."""
        local = end.astimezone(self.zone)
        if local.time() == time():
            return self.date(end - timedelta(seconds=1))
        if (local.hour, local.minute) == (23, 59):
            return self.date(end)
        return self.day(end)

    def by_day(
        self, moments: Sequence[tuple[datetime, int]], shown: int, *, ends: bool
    ) -> list[tuple[str, str]]:
        """(day, points) of the next ``shown`` days; several moments of a day are one."""
        found: dict[str, int] = {}
        for at, number in moments:
            label = self.until(at) if ends else self.date(at)
            found[label] = found.get(label, 0) + number
        return [(label, self.number(number)) for label, number in list(found.items())[:shown]]

    def gives(self, benefit: dict[str, Any], currency: str) -> str:
        """What a coupon takes off."""
        if benefit.get("type") == "percent":
            share = f"{Decimal(str(benefit['percent'])):f}%"
            off = self.text("percent", share)
            most = benefit.get("max_amount")
            if not most:
                return off
            end = self.text("most", self.money(most, currency))
            return f"{off}，{end}" if self.language == "zh" else f"{off}, {end}"
        return self.text("fixed", self.money(int(benefit.get("amount") or 0), currency))

    def entry(self, kind: str, source_id: str) -> str:
        """A line of the points' history in words."""
        start = source_id.partition(":")[0]
        name = start if kind == "earn" and start in ("order", "event") else kind
        return self.pick(ENTRY_WORDS.get(name, UNKNOWN_ENTRY))
