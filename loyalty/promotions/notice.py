"""规则公示: a promotion's rules in words for the public, in Chinese and English. Pure.

Everything is said from the rule itself, so that what customers read is what a basket is priced by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from loyalty.promotions.explain import DAYS, DAYS_ZH, Words, money_text
from loyalty.promotions.model import (
    FULL,
    BuyXGetY,
    Condition,
    Fixed,
    FixedEach,
    FixedPrice,
    FreeShipping,
    Gift,
    Percent,
    Points,
    Promotion,
    Scope,
    Tiered,
)
from loyalty.promotions.overlaps import scope_of

AHEAD = timedelta(days=7)
"""How long before its start a large sale's rules have to be public."""
_WHO = ("tier", "segment", "first_order", "nth_order", "birthday")
_WHEN = ("weekday", "member_day")
_SHOWN = 20
"""Values of a list that are written out."""


@dataclass(frozen=True)
class Part:
    """A heading and its text, in English and Chinese."""

    heading: Words
    text: Words


def publish_by(starts_at: datetime | None) -> datetime | None:
    """When a large sale's rules have to be public at the latest; None where it has no start."""
    return None if starts_at is None else starts_at - AHEAD


def notice(promotion: Promotion, zone: ZoneInfo, currency: str) -> list[Part]:
    """What the public has to know: who, when (in the shop's zone), what, conditions, goods, stacking,
    limits, refunds. ``currency`` is that of amounts where the promotion names none."""
    money = promotion.currency or currency
    return [
        Part(("Who", "活动对象"), _who(promotion)),
        Part(("When", "活动时间"), _when(promotion, zone)),
        Part(("What", "优惠内容"), _benefit(promotion, money)),
        Part(("Conditions", "参与条件"), _conditions(promotion, money)),
        Part(("Goods", "适用商品"), _goods(promotion)),
        Part(("With other offers", "叠加规则"), _stacking(promotion)),
        Part(("Limits", "限量说明"), _limits(promotion)),
        Part(("Returns", "退款规则"), _returns(promotion)),
    ]


def to_texts(title: str, parts: Iterable[Part]) -> dict[str, Any]:
    """The notice as it is kept: {"en" | "zh": {"title", "parts": [[heading, text], …]}}."""
    found = list(parts)
    return {
        language: {"title": title, "parts": [[one.heading[place], one.text[place]] for one in found]}
        for place, language in enumerate(("en", "zh"))
    }


def plain(texts: dict[str, Any], language: str) -> str:
    """One language of :func:`to_texts` as lines, to be copied."""
    text, colon = texts[language], "：" if language == "zh" else ": "
    return "\n".join([text["title"], *(f"{heading}{colon}{words}" for heading, words in text["parts"])])


# --- Small words ----------------------------------------------------------------------------------------


def _percent(points: int) -> Words:
    """2000 → “20 % off”, “8 折”."""
    rate = (FULL - points) / 1000
    return f"{points / 100:g} % off", "免费" if points == FULL else f"{rate:g} 折"


def _listed(values: Iterable[str], join: str) -> str:
    found = sorted(values)
    more = "" if len(found) <= _SHOWN else f" … ({len(found)})"
    return join.join(found[:_SHOWN]) + more


def _joined(words: Iterable[Words], english: str = " ", chinese: str = "") -> Words:
    found = list(words)
    return english.join(one for one, _ in found), chinese.join(one for _, one in found)


# --- Who, when, on which conditions ---------------------------------------------------------------------


def _who(promotion: Promotion) -> Words:
    found = [_CONDITIONS[one.type](one, "") for one in promotion.conditions if one.type in _WHO]
    if not found:
        member = promotion.per_member is not None or promotion.per_day is not None
        return ("Every member.", "全体会员。") if member else ("Every customer.", "全体顾客。")
    return _joined([(english + ".", chinese + "。") for english, chinese in found])


def _when(promotion: Promotion, zone: ZoneInfo) -> Words:
    def shown(at: datetime) -> str:
        return f"{at.astimezone(zone):%Y-%m-%d %H:%M}"

    start, end = promotion.starts_at, promotion.ends_at
    if start and end:
        text: Words = (f"From {shown(start)} until {shown(end)}", f"{shown(start)} 至 {shown(end)}")
    elif start:
        text = (f"From {shown(start)} on, until further notice", f"{shown(start)} 起，结束时间另行公告")
    elif end:
        text = (f"Until {shown(end)}", f"即日起至 {shown(end)}")
    else:
        text = ("Until further notice", "长期有效，结束时间另行公告")
    days = [_CONDITIONS[one.type](one, "") for one in promotion.conditions if one.type in _WHEN]
    return _joined(
        [
            (f"{text[0]} ({zone.key}).", f"{text[1]}（{zone.key} 时间）。"),
            *[(english + ".", chinese + "。") for english, chinese in days],
        ]
    )


def _conditions(promotion: Promotion, currency: str) -> Words:
    found = [condition_words(one, currency) for one in promotion.conditions if one.type not in _WHO + _WHEN]
    if promotion.code is not None:
        found.append((f"The code {promotion.code} is entered", f"下单时输入优惠码 {promotion.code}"))
    if not found:
        return ("None.", "无门槛。")
    return _joined([(english + ".", chinese + "。") for english, chinese in found])


def condition_words(condition: Condition, currency: str) -> Words:
    """A condition as a part of a sentence."""
    return _CONDITIONS[condition.type](condition, currency)


def _scoped(scope: Scope) -> Words:
    """Of which goods an amount is asked for; the promotion's own goods need no naming twice."""
    text = scope_words(scope)
    return ("", "") if text is None else (f" of {text[0]}", text[1])


def _min_subtotal(one: Condition, currency: str) -> Words:
    (english, chinese), (of, zh_of) = money_text(one.number, currency), _scoped(one.scope)
    return f"Goods{of} cost at least {english}", f"{zh_of or '商品'}金额满 {chinese}"


def _max_subtotal(one: Condition, currency: str) -> Words:
    (english, chinese), (of, zh_of) = money_text(one.number, currency), _scoped(one.scope)
    return f"Goods{of} cost at most {english}", f"{zh_of or '商品'}金额不超过 {chinese}"


def _min_quantity(one: Condition, _currency: str) -> Words:
    of, zh_of = _scoped(one.scope)
    return f"At least {one.number} units{of}", f"{zh_of or '商品'}满 {one.number} 件"


def _weekday(one: Condition, _currency: str) -> Words:
    days = sorted(int(day) - 1 for day in one.values)
    return (
        "Only on " + ", ".join(DAYS[day] for day in days),
        "仅限" + "、".join("周" + DAYS_ZH[day] for day in days),
    )


def _group(one: Condition, currency: str) -> Words:
    parts = [condition_words(part, currency) for part in one.parts]
    if one.type == "not":
        return f"Not where: {parts[0][0]}", f"以下情形除外：{parts[0][1]}"
    english, chinese = (" or ", "，或") if one.type == "any" else (" and ", "，且")
    return _joined(parts, english, chinese)


_CONDITIONS: dict[str, Callable[[Condition, str], Words]] = {
    "min_subtotal": _min_subtotal,
    "max_subtotal": _max_subtotal,
    "min_quantity": _min_quantity,
    "nth_order": lambda one, _: (
        f"For a member's order number {one.number}",
        f"会员第 {one.number} 笔订单",
    ),
    "first_order": lambda _one, _: ("For a member's first order", "会员首单"),
    "tier": lambda one, _: (
        f"Members of the tier {_listed(one.values, ', ')}",
        f"会员等级为 {_listed(one.values, '、')} 的会员",
    ),
    "segment": lambda _one, _: ("Members who were chosen and told", "收到活动通知的指定会员"),
    "weekday": _weekday,
    "member_day": lambda one, _: (
        f"Only on day {one.number} of each month, or the last day of a shorter month",
        f"仅限每月 {one.number} 日，当月无此日则为当月最后一日",
    ),
    "birthday": lambda one, _: (
        f"Members within {one.number} days of their birthday",
        f"生日前后 {one.number} 天内的会员",
    ),
    "any": _group,
    "all": _group,
    "not": _group,
}


# --- What ------------------------------------------------------------------------------------------------


def _benefit(promotion: Promotion, currency: str) -> Words:
    return _BENEFITS[type(promotion.benefit)](promotion.benefit, currency)


def _percent_off(benefit: Percent, currency: str) -> Words:
    english, chinese = _percent(benefit.points)
    if benefit.max_amount is None:
        return f"{english}.", f"{chinese}。"
    most = money_text(benefit.max_amount, currency)
    return f"{english}, at most {most[0]}.", f"{chinese}，最高优惠 {most[1]}。"


def _fixed(benefit: Fixed, currency: str) -> Words:
    english, chinese = money_text(benefit.amount, currency)
    return f"{english} off the goods that take part.", f"适用商品立减 {chinese}。"


def _fixed_each(benefit: FixedEach, currency: str) -> Words:
    english, chinese = money_text(benefit.amount, currency)
    if benefit.max_units is None:
        return f"{english} off each unit.", f"每件立减 {chinese}。"
    return (
        f"{english} off each of the {benefit.max_units} dearest units.",
        f"每件立减 {chinese}，每单限价格最高的 {benefit.max_units} 件。",
    )


def _times(number: int | None) -> Words:
    return ("", "") if number is None else (f", at most {number} times an order", f"，每单最多 {number} 次")


def _fixed_price(benefit: FixedPrice, currency: str) -> Words:
    (english, chinese), (times, zh_times) = money_text(benefit.price, currency), _times(benefit.max_times)
    return f"{benefit.count} units for {english}{times}.", f"{chinese} 任选 {benefit.count} 件{zh_times}。"


def _buy_x_get_y(benefit: BuyXGetY, _currency: str) -> Words:
    (english, chinese), (times, zh_times) = _percent(benefit.points), _times(benefit.max_times)
    english = "free" if benefit.points == FULL else english
    return (
        f"Of every {benefit.buy + benefit.get} units the {benefit.get} cheapest {english}{times}.",
        f"每满 {benefit.buy + benefit.get} 件，其中价格最低的 {benefit.get} 件{chinese}{zh_times}。",
    )


def _tiered(benefit: Tiered, currency: str) -> Words:
    found = []
    for tier in benefit.tiers:
        start = (
            money_text(tier.start, currency)
            if benefit.by == "amount"
            else (f"{tier.start} units", f"{tier.start} 件")
        )
        if tier.off is None:
            off = _percent(tier.points or 0)
            found.append((f"{off[0]} from {start[0]} on", f"满 {start[1]} {off[1]}"))
        else:
            less = money_text(tier.off, currency)
            each = ("each ", "每") if benefit.repeat else ("", "")
            english = (
                f"{less[0]} off for each {start[0]}"
                if benefit.repeat
                else f"{less[0]} off from {start[0]} on"
            )
            found.append((english, f"{each[1]}满 {start[1]}减 {less[1]}"))
    english, chinese = _joined(found, "; ", "；")
    most = ("; the highest step reached counts", "，按可达到的最高一档计算") if len(found) > 1 else ("", "")
    return f"{english}{most[0]}.", f"{chinese}{most[1]}。"


def _points(benefit: Points, _currency: str) -> Words:
    if benefit.amount is not None:
        return f"{benefit.amount} points more.", f"额外赠送 {benefit.amount} 积分。"
    times = f"{(benefit.times or 100) / 100:g}"
    return f"{times} times the points.", f"积分 {times} 倍。"


_BENEFITS: dict[type, Callable[[Any, str], Words]] = {
    Percent: _percent_off,
    Fixed: _fixed,
    FixedEach: _fixed_each,
    FixedPrice: _fixed_price,
    BuyXGetY: _buy_x_get_y,
    Tiered: _tiered,
    FreeShipping: lambda _benefit, _currency: ("Free shipping.", "免运费。"),
    Gift: lambda benefit, _currency: (
        f"A gift: {benefit.quantity} × {benefit.sku}.",
        f"赠送 {benefit.sku} × {benefit.quantity}。",
    ),
    Points: _points,
}


def _goods(promotion: Promotion) -> Words:
    scope = scope_of(promotion)
    if scope is None:
        return ("The whole order.", "整单。")
    words = scope_words(scope)
    return ("All goods.", "全场商品。") if words is None else (f"{words[0]}.", f"{words[1]}。")


def scope_words(scope: Scope) -> Words | None:
    """The goods of a scope; None: all."""
    taken, left_out = [], []
    if scope.categories:
        taken.append(
            (f"the categories {_listed(scope.categories, ', ')}", f"{_listed(scope.categories, '、')} 品类")
        )
    if scope.skus:
        taken.append((f"the SKUs {_listed(scope.skus, ', ')}", f"商品 {_listed(scope.skus, '、')}"))
    if scope.exclude_categories:
        names = scope.exclude_categories
        left_out.append((f"the categories {_listed(names, ', ')}", f"{_listed(names, '、')} 品类"))
    if scope.exclude_skus:
        names = scope.exclude_skus
        left_out.append((f"the SKUs {_listed(names, ', ')}", f"商品 {_listed(names, '、')}"))
    if not taken and not left_out:
        return None
    english, chinese = _joined(taken, " and ", "及") if taken else ("all goods", "全场商品")
    if left_out:
        without, zh_without = _joined(left_out, " and ", "及")
        return f"{english} without {without}", f"{chinese}（不含 {zh_without}）"
    return english, chinese


# --- Beside others, how many, and back ------------------------------------------------------------------


def _stacking(promotion: Promotion) -> Words:
    if promotion.exclusive:
        return ("It applies alone, beside no other offer.", "不与其他优惠同享。")
    if promotion.group is not None:
        return (
            f"Of the offers “{promotion.group}” one applies; it stacks with others.",
            f"与“{promotion.group}”组内的其他活动不可叠加，可与其他优惠同享。",
        )
    return (
        "It stacks with other offers: each is worked out on what the ones before it left.",
        "可与其他优惠叠加，按先后顺序以剩余金额依次计算。",
    )


def _limits(promotion: Promotion) -> Words:
    found: list[Words] = []
    if promotion.stock is not None:
        found.append(
            (
                f"{promotion.stock} in all, while they last.",
                f"限量 {promotion.stock} 份，先到先得，抢完即止。",
            )
        )
    if promotion.per_member is not None:
        found.append((f"{promotion.per_member} for each member.", f"每位会员限 {promotion.per_member} 份。"))
    if promotion.per_day is not None:
        found.append(
            (f"{promotion.per_day} a day for each member.", f"每位会员每天限 {promotion.per_day} 份。")
        )
    if not found:
        return ("No limit.", "不限量。")
    found.append(
        (
            "A place is kept until the order is paid or its time is over.",
            "下单后为您保留名额，超时未支付自动释放。",
        )
    )
    return _joined(found)


def _returns(promotion: Promotion) -> Words:
    limited = (promotion.stock, promotion.per_member, promotion.per_day) != (None, None, None)
    found: list[Words] = [
        (
            "For goods that come back, what was paid for them is paid back: their price less their share "
            "of the discount.",
            "退货时，按所退商品分摊优惠后的实付金额退款，优惠部分不折现。",
        )
    ]
    if isinstance(promotion.benefit, Gift):
        found.append(("The gift comes back too.", "赠品须一并退回。"))
    if isinstance(promotion.benefit, Points):
        found.append(("Points given for them are taken back.", "相应赠送的积分将扣回。"))
    if limited:
        found.append(("A place that was paid for is not given back.", "已支付订单退款后，活动名额不再恢复。"))
    return _joined(found)
