"""Money: integer minor units with a currency; texts in major units at the edges only."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

from core.errors import InvalidInput

# ISO 4217 currencies whose minor unit is not a hundredth.
_NO_DECIMALS = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_THREE_DECIMALS = "BHD IQD JOD KWD LYD OMR TND"
_EXPONENTS = {**dict.fromkeys(_NO_DECIMALS.split(), 0), **dict.fromkeys(_THREE_DECIMALS.split(), 3)}
_GROUPED = re.compile(r"^-?\d{1,3}(,\d{3})+(\.\d+)?$")
MAX_MINOR = 10**15


def exponent(currency: str) -> int:
    """Digits after the point of a currency's amounts."""
    return _EXPONENTS.get(currency, 2)


def to_minor(text: str | float | int | Decimal, currency: str, field: str = "amount") -> int:
    """``12.50`` → 1250. Refuses what is no number, too precise for the currency, or over 10^15."""
    digits = exponent(currency)
    plain = str(text).strip()
    whole, _, fraction = plain.partition(".")
    # The common case without a Decimal: a third of an import's time went there.
    if whole.isdecimal() and whole.isascii() and len(whole) < 12 and len(fraction) <= digits:
        padded = fraction.ljust(digits, "0")
        if not padded or (padded.isdecimal() and padded.isascii()):
            return int(whole + padded)
    try:
        # "1,234.50" is clear; "12,50" is twelve and a half to some and would become 1250 here.
        amount = Decimal(plain.replace(",", "") if _GROUPED.match(plain) else plain)
    except InvalidOperation:
        raise InvalidInput(f"{field}: “{text}” is not an amount; write it like 12.50.", field) from None
    minor = amount.scaleb(digits)
    if not minor.is_finite() or abs(minor) > MAX_MINOR:
        raise InvalidInput(f"{field}: {text} is out of range.", field)
    if minor != minor.to_integral_value():
        raise InvalidInput(
            f"{field}: {text} has more than {digits} decimals, which {currency} has not.", field
        )
    return int(minor)


def to_major(minor: int, currency: str) -> Decimal:
    """1250 → Decimal("12.50")."""
    return Decimal(minor).scaleb(-exponent(currency))


def shown(minor: float, currency: str, locale: str = "en", *, whole: bool = False) -> str:
    """Minor units as readers of ``locale`` want them, ``¥12.50``; ``whole`` leaves the fraction out."""
    # Babel takes its time to load, and most of what needs money writes none.
    from babel.numbers import format_currency

    text = format_currency(
        to_major(round(minor), currency),
        currency,
        format="¤#,##0;-¤#,##0" if whole else None,
        locale=locale,
        currency_digits=not whole,
    )
    # English writes CN¥; a shop with one currency needs no country before the sign.
    return str(text).replace("CN¥", "¥").replace("\xa0", " ")
