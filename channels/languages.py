"""Which of a text's languages a reader gets. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from core.settings import Settings


def choose_language(available: Iterable[str], locale: str | None, settings: Settings) -> str:
    """Exact, else the same language, else by the shop's order, else the first by name.

    A member without a locale gets the first of the shop's order. A shop that gave none: English for
    everybody else's language, and Chinese for members without one where it counts in CNY.
    """
    found = sorted(available)
    order = [language.replace("-", "_") for language in settings.shop_languages.split()]
    own = order[0] if order else "zh_CN" if settings.shop_currency == "CNY" else "en"
    wanted = (locale or own).replace("-", "_")
    for test in (wanted, wanted.partition("_")[0], *(order or ("en",))):
        exact = [language for language in found if language.casefold() == test.casefold()]
        base = [language for language in found if language.partition("_")[0].casefold() == test.casefold()]
        if exact or base:
            return (exact or base)[0]
        same = test.partition("_")[0].casefold()
        related = [language for language in found if language.partition("_")[0].casefold() == same]
        if related:
            return related[0]
    return found[0]
