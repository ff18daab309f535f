"""What SMS will cost, before any is sent. Pure.

A message costs its segments times the price of a segment in its number's country. Prices have fractions
of a cent (0.045, 0.0079), so a message is counted in whole micro-units (millionths) of the currency,
rounded up, and only the sum becomes minor units, rounded up once: a campaign is never dearer than said,
and not dearer than it is by a cent a message either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from functools import lru_cache

import phonenumbers

from channels.consent import MARKETING
from channels.sms.segments import Count, count, is_mainland
from channels.sms.text import arriving
from core.errors import InvalidInput
from core.money import exponent
from core.settings import Settings

MICRO = 6
"""Decimals of a micro-unit."""
ELSEWHERE = "*"
MAX_PRICE = Decimal(100)


@dataclass(frozen=True, slots=True)
class MessageCost:
    """One message: the text as it arrives, its count, its country and its cost in micro-units."""

    text: str
    count: Count
    country: str
    cost_micro: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a number of messages cost together."""

    messages: int
    segments: int
    cost_minor: int
    """In the shop's currency, rounded up once."""
    currency: str
    segments_by_country: Mapping[str, int] = field(default_factory=dict)
    too_long: int = 0
    """Messages above the 500 characters that mainland China's providers take."""


def message_cost(settings: Settings, text: str, phone: str, purpose: str = MARKETING) -> MessageCost:
    """The cost of a rendered text to an E.164 number. Raises InvalidInput for prices that cannot be read."""
    shown = arriving(settings, text, phone, purpose)
    counted, country = count(shown, phone), country_of(phone)
    price = price_of(prices(settings.sms_prices), country)
    return MessageCost(shown, counted, country, _micro(price, counted.segments))


def estimate(
    settings: Settings,
    texts_by_number: Mapping[str, str] | Iterable[tuple[str, str]],
    purpose: str = MARKETING,
) -> Estimate:
    """The cost of rendered texts: {E.164 number: text}, or pairs where a number gets several.

    Raises InvalidInput for prices that cannot be read.
    """
    known = prices(settings.sms_prices)
    pairs = texts_by_number.items() if isinstance(texts_by_number, Mapping) else texts_by_number
    by_country: Counter[str] = Counter()
    messages = too_long = micro = 0
    for phone, text in pairs:
        counted, country = count(arriving(settings, text, phone, purpose), phone), country_of(phone)
        by_country[country] += counted.segments
        micro += _micro(price_of(known, country), counted.segments)
        too_long += counted.too_long
        messages += 1
    currency = settings.shop_currency
    return Estimate(
        messages, by_country.total(), to_minor(micro, currency), currency, dict(by_country), too_long
    )


def to_minor(micro: int, currency: str) -> int:
    """Micro-units to minor units, rounded up."""
    unit: int = 10 ** (MICRO - exponent(currency))
    return -(-micro // unit)


def _micro(price: Decimal, segments: int) -> int:
    return int((price * segments).scaleb(MICRO).to_integral_value(ROUND_CEILING))


@lru_cache(maxsize=16)
def prices(text: str) -> Mapping[str, Decimal]:
    """``CN:0.045 US:0.0079 *:0.05`` → price of a segment by country. Raises InvalidInput."""
    found: dict[str, Decimal] = {}
    for part in text.split():
        country, _, price = part.partition(":")
        try:
            amount = Decimal(price)
        except InvalidOperation:
            amount = Decimal(-1)
        known = country == ELSEWHERE or country in phonenumbers.SUPPORTED_REGIONS
        if not known or not amount.is_finite() or not 0 <= amount <= MAX_PRICE:
            raise InvalidInput(
                f"HUILIU_SMS_PRICES: “{part}” must be a country's two letters (or *) and a price from 0 to "
                f"{MAX_PRICE}, like CN:0.045.",
                "sms_prices",
            )
        found[country] = amount
    return found


def price_of(known: Mapping[str, Decimal], country: str) -> Decimal:
    """The price of a segment to a country. Raises InvalidInput where none is set."""
    price = known.get(country, known.get(ELSEWHERE))
    if price is None:
        missing = country or "numbers of no country"
        raise InvalidInput(f"HUILIU_SMS_PRICES has no price for {missing}; add one, or *:….", "sms_prices")
    return price


@lru_cache(maxsize=100_000)
def country_of(phone: str) -> str:
    """The two letters of a number's country; empty where it has none."""
    if is_mainland(phone):
        return "CN"
    try:
        return phonenumbers.region_code_for_number(phonenumbers.parse(phone)) or ""
    except phonenumbers.NumberParseException:
        return ""
