"""Why a promotion was not applied, in English and Chinese words a shop can show; an answer as JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from zoneinfo import ZoneInfo

from core.money import exponent
from loyalty.promotions.model import Priced, Reason

Words = tuple[str, str]
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
DAYS_ZH = "一二三四五六日"


def to_json(priced: Priced, zone: ZoneInfo) -> dict[str, Any]:
    """The answer of ``huiliu price`` and of the API. Money in minor units; times of the words in ``zone``."""
    return {
        "lines": [
            {
                "id": line.id,
                "subtotal": line.subtotal,
                "discount": line.discount,
                "total": line.total,
                "adjustments": [{"promotion": one, "amount": amount} for one, amount in line.adjustments],
            }
            for line in priced.lines
        ],
        "subtotal": priced.subtotal,
        "discount": priced.discount,
        "shipping": priced.shipping,
        "shipping_discount": priced.shipping_discount,
        "total": priced.total,
        "gifts": [{"promotion": one, "sku": sku, "quantity": number} for one, sku, number in priced.gifts],
        "points": priced.points,
        "applied": [{"promotion": one.promotion, "amount": one.amount} for one in priced.applied],
        "rejected": [
            {
                "promotion": one.promotion,
                "reason": one.reason.code,
                "detail": words[0],
                "detail_zh": words[1],
            }
            for one in priced.rejected
            for words in (in_words(one.reason, priced.currency, zone),)
        ],
    }


def in_words(reason: Reason, currency: str, zone: ZoneInfo) -> Words:
    """A reason in English and Chinese."""
    fixed = _FIXED.get(reason.code)
    if fixed is not None:
        return fixed
    return _WORDS[reason.code](reason.facts, currency, zone)


def money_text(minor: int, currency: str) -> Words:
    """1250 → “12.50 CNY”, “12.50 元”; 1200 → “12.00 CNY”, “12 元”. Without a Decimal: most of an
    evaluation's words are amounts."""
    unit_zh, digits = _CURRENCIES_ZH.get(currency, currency), exponent(currency)
    if not digits:
        return f"{minor} {currency}", f"{minor} {unit_zh}"
    whole, rest = divmod(minor, 10**digits)
    exact = f"{whole}.{rest:0{digits}d}"
    return f"{exact} {currency}", f"{exact if rest else whole} {unit_zh}"


_CURRENCIES_ZH = {
    "CNY": "元", "USD": "美元", "EUR": "欧元", "GBP": "英镑", "JPY": "日元", "KRW": "韩元", "HKD": "港元",
    "MOP": "澳门元", "TWD": "新台币", "SGD": "新加坡元", "AUD": "澳元", "CAD": "加元",
}  # fmt: skip


def _min_subtotal(facts: dict[str, Any], currency: str, _zone: ZoneInfo) -> Words:
    need, need_zh = money_text(facts["amount"], currency)
    have, have_zh = money_text(facts["have"], currency)
    more, more_zh = money_text(facts["amount"] - facts["have"], currency)
    return (
        f"Needs {need} of qualifying goods; there are {have}. Add {more}.",
        f"适用商品需满 {need_zh}，现为 {have_zh}，还差 {more_zh}。",
    )


def _max_subtotal(facts: dict[str, Any], currency: str, _zone: ZoneInfo) -> Words:
    most, most_zh = money_text(facts["amount"], currency)
    have, have_zh = money_text(facts["have"], currency)
    return (
        f"Only up to {most} of qualifying goods; there are {have}.",
        f"仅限适用商品金额不超过 {most_zh}，现为 {have_zh}。",
    )


def _min_quantity(facts: dict[str, Any], _currency: str, _zone: ZoneInfo) -> Words:
    need, have = facts["quantity"], facts["have"]
    return (f"Needs {need} qualifying items; there are {have}.", f"适用商品需满 {need} 件，现有 {have} 件。")


def _units(facts: dict[str, Any], _currency: str, _zone: ZoneInfo) -> Words:
    need, have = facts["need"], facts["have"]
    return (f"Needs {need} qualifying items; there are {have}.", f"适用商品需满 {need} 件，现有 {have} 件。")


def _tier_amount(facts: dict[str, Any], currency: str, _zone: ZoneInfo) -> Words:
    need, need_zh = money_text(facts["need"], currency)
    have, have_zh = money_text(facts["have"], currency)
    return (
        f"The first tier begins at {need}; the qualifying goods cost {have}.",
        f"最低一档需满 {need_zh}，适用商品现为 {have_zh}。",
    )


def _tier_quantity(facts: dict[str, Any], _currency: str, _zone: ZoneInfo) -> Words:
    need, have = facts["need"], facts["have"]
    return (
        f"The first tier begins at {need} items; there are {have}.",
        f"最低一档需满 {need} 件，现有 {have} 件。",
    )


def _nth_order(facts: dict[str, Any], _currency: str, _zone: ZoneInfo) -> Words:
    number, have = facts["n"], facts["have"]
    if have is None:
        return (
            f"Only for order number {number} of a member whose orders are known.",
            f"仅限已知订单记录的会员的第 {number} 单。",
        )
    return (
        f"Only for order number {number}; this is number {have}.",
        f"仅限第 {number} 单，当前为第 {have} 单。",
    )


def _listed(values: frozenset[str], join: str) -> str:
    found = sorted(values)
    return join.join(found[:5]) + (" …" if len(found) > 5 else "")


def _tier(facts: dict[str, Any], _currency: str, _zone: ZoneInfo) -> Words:
    return (
        f"Only for members of the tier {_listed(facts['in'], ', ')}.",
        f"仅限会员等级 {_listed(facts['in'], '、')}。",
    )


def _weekday(facts: dict[str, Any], _currency: str, _zone: ZoneInfo) -> Words:
    days = sorted(int(day) - 1 for day in facts["in"])
    english, chinese = ", ".join(DAYS[day] for day in days), "、".join("周" + DAYS_ZH[day] for day in days)
    return (f"Only on {english}.", f"仅限{chinese}。")


def _member_day(facts: dict[str, Any], _currency: str, _zone: ZoneInfo) -> Words:
    return (
        f"Only on the members' day, the {facts['day']}. of the month.",
        f"仅限每月 {facts['day']} 日会员日。",
    )


def _birthday(facts: dict[str, Any], _currency: str, _zone: ZoneInfo) -> Words:
    days = facts["days"]
    return (f"Only within {days} days of the member's birthday.", f"仅限会员生日前后 {days} 天内。")


def _not_started(facts: dict[str, Any], _currency: str, zone: ZoneInfo) -> Words:
    at = f"{facts['at'].astimezone(zone):%Y-%m-%d %H:%M}"
    return (f"Begins on {at}.", f"{at} 开始。")


def _ended(facts: dict[str, Any], _currency: str, zone: ZoneInfo) -> Words:
    at = f"{facts['at'].astimezone(zone):%Y-%m-%d %H:%M}"
    return (f"Ended on {at}.", f"已于 {at} 结束。")


def _currency(facts: dict[str, Any], currency: str, _zone: ZoneInfo) -> Words:
    own = facts["currency"]
    return (f"Is in {own}; the basket is in {currency}.", f"仅适用于 {own}，购物车币种为 {currency}。")


def _sold_out(facts: dict[str, Any], _currency: str, _zone: ZoneInfo) -> Words:
    return (f"All {facts['stock']} are taken.", f"限量 {facts['stock']} 份，已抢完。")


def _member_limit(facts: dict[str, Any], _currency: str, _zone: ZoneInfo) -> Words:
    in_all, per_day = facts["limit"], facts["per_day"]
    english = " and ".join(
        ([f"{in_all} for each member"] if in_all else []) + ([f"{per_day} a day"] if per_day else [])
    )
    chinese = "，".join(
        ([f"每人限 {in_all} 份"] if in_all else []) + ([f"每人每天限 {per_day} 份"] if per_day else [])
    )
    if not facts["known"]:
        return (f"Only {english}; the member has to be known.", f"{chinese}，需登录会员账户。")
    return (f"Only {english}; all are taken.", f"{chinese}，您的名额已用完。")


def _group(facts: dict[str, Any], _currency: str, _zone: ZoneInfo) -> Words:
    return (
        f"Does not stack with “{facts['by']}”, which was applied.",
        f"与已使用的“{facts['by']}”同组，不可叠加。",
    )


def _exclusive(facts: dict[str, Any], _currency: str, _zone: ZoneInfo) -> Words:
    return (f"“{facts['by']}” applies alone.", f"“{facts['by']}”不与其他优惠同享。")


def _any(facts: dict[str, Any], currency: str, zone: ZoneInfo) -> Words:
    each = [in_words(reason, currency, zone) for reason in facts["reasons"]]
    return (
        "One of these is needed: " + " / ".join(english for english, _ in each),
        "需满足以下任一条件：" + "／".join(chinese for _, chinese in each),
    )


_FIXED: dict[str, Words] = {
    "code": ("Needs its code.", "需要输入优惠码。"),
    "first_order": ("Only for a member's first order.", "仅限会员首单。"),
    "segment": ("Only for chosen members.", "仅限指定会员。"),
    "scope": ("None of the goods takes part.", "购物车中没有适用商品。"),
    "no_effect": ("It would not lower the price any further.", "无法进一步降低价格。"),
    "no_shipping": ("There is no shipping to pay.", "没有需支付的运费。"),
    "not": ("This basket or member is left out.", "此购物车或会员不在适用范围内。"),
}
_WORDS: dict[str, Callable[[dict[str, Any], str, ZoneInfo], Words]] = {
    "min_subtotal": _min_subtotal,
    "max_subtotal": _max_subtotal,
    "min_quantity": _min_quantity,
    "units": _units,
    "tier_amount": _tier_amount,
    "tier_quantity": _tier_quantity,
    "nth_order": _nth_order,
    "tier": _tier,
    "weekday": _weekday,
    "member_day": _member_day,
    "birthday": _birthday,
    "not_started": _not_started,
    "ended": _ended,
    "currency": _currency,
    "sold_out": _sold_out,
    "member_limit": _member_limit,
    "group": _group,
    "exclusive": _exclusive,
    "any": _any,
}
REASONS = (*_FIXED, *_WORDS)
"""Every code of a reason."""
