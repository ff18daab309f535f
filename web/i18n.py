"""Languages: which one a request speaks, and how numbers, money and times are written in it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

from babel import Locale
from babel.dates import format_timedelta
from babel.numbers import format_decimal, format_percent
from flask import Flask, Response, g, request
from flask_babel import Babel, get_locale, gettext
from flask_babel import format_date as babel_date
from flask_babel import format_datetime as babel_datetime
from flask_security import current_user

from core.money import exponent, shown, to_major
from core.settings import Settings

LANGUAGES = {"en": "English", "zh": "简体中文"}
COOKIE = "lang"
COOKIE_SECONDS = 365 * 24 * 3600
PUBLIC = "public"
"""The blueprint of the members' pages."""
# Under "zh_Hans_CN" gettext also finds a catalogue named "zh": ours; the log-in's own has the long name.
_LOCALES = {"en": "en", "zh": "zh_Hans_CN"}
_HTML = {"en": "en", "zh": "zh-CN"}


def init(app: Flask, settings: Settings) -> None:
    Babel(
        app,
        default_locale="en",
        default_timezone=settings.shop_timezone,
        default_translation_directories="translations",
        locale_selector=lambda: _LOCALES[language()],
        timezone_selector=lambda: settings.shop_timezone,
    )
    app.after_request(_remember)
    app.jinja_env.filters.update(
        number=number,
        money=money,
        share=share,
        day=day,
        moment=moment,
        clock=clock,
        ago=ago,
        short=short,
        plain=plain_money,
    )
    app.jinja_env.globals.update(
        language=language,
        languages=LANGUAGES,
        html_language=lambda: _HTML[language()],
        shop_currency=settings.shop_currency,
    )


def language() -> str:
    """``en`` or ``zh``: asked for in the address, the user's own, the cookie's, the browser's."""
    if "language" not in g:
        g.language = _choose()
    return str(g.language)


def forget() -> None:
    """Choose again: the user or their setting has changed within the request."""
    g.pop("language", None)
    g.pop("_flask_babel", None)


def content_locale() -> str:
    """The language as rules, verdicts and templates name it: ``en`` or ``zh_CN``."""
    return "zh_CN" if language() == "zh" else "en"


def _choose() -> str:
    own = getattr(current_user, "locale", None) if current_user and current_user.is_authenticated else None
    for wish in (request.args.get("lang"), own, request.cookies.get(COOKIE)):
        if wish and wish.lower()[:2] in LANGUAGES:
            return wish.lower()[:2]
    for tag, _quality in request.accept_languages:
        if tag.lower()[:2] in LANGUAGES:
            return tag.lower()[:2]
    return "en"


def _remember(response: Response) -> Response:
    wish = (request.args.get("lang") or "").lower()[:2]
    if wish in LANGUAGES and request.blueprint != PUBLIC:  # public pages set no cookie
        response.set_cookie(COOKIE, wish, max_age=COOKIE_SECONDS, samesite="Lax", httponly=True)
    return response


def _locale() -> Locale:
    return get_locale() or Locale.parse("en")


def number(value: float | None, digits: int = 0) -> str:
    """With thousands separators; a dash for nothing."""
    if value is None:
        return "–"
    return format_decimal(value, format=f"#,##0{'.' + '#' * digits if digits else ''}", locale=_locale())


def short(value: float | None) -> str:
    """Room for five signs: 万 and 亿 in Chinese from 10,000 on, K and M in English."""
    if value is None:
        return "–"
    if language() == "zh":
        for step, unit in ((10**8, "亿"), (10**4, "万")):
            if abs(value) >= step:
                return f"{format_decimal(value / step, format='#,##0.#', locale=_locale())}{unit}"
        return number(value)
    for step, unit in ((10**6, "M"), (10**4, "K")):
        if abs(value) >= step:
            scaled = value / (step if unit == "M" else 1000)
            return f"{format_decimal(scaled, format='#,##0.#', locale=_locale())}{unit}"
    return number(value)


def money(minor: float | None, currency: str | None = None, *, whole: bool = False) -> str:
    """Minor units in the currency's usual form; ``whole`` leaves the fraction out."""
    if minor is None:
        return "–"
    return shown(minor, currency or _shop_currency(), str(_locale()), whole=whole)


def plain_money(minor: int | None, currency: str | None = None) -> str:
    """Minor units as a form field shows them: ``12.50``."""
    if minor is None:
        return ""
    code = currency or _shop_currency()
    return f"{to_major(minor, code):.{exponent(code)}f}"


def _shop_currency() -> str:
    from web.context import console

    return console().settings.shop_currency


def share(value: float | None, digits: int = 1) -> str:
    """0.031 → 3.1 %."""
    if value is None:
        return "–"
    return format_percent(value, format=f"#,##0.{'#' * digits}%" if digits else "#,##0%", locale=_locale())


def day(value: date | datetime | None, form: str = "medium") -> str:
    """A date in the shop's zone."""
    if value is None:
        return "–"
    # A date has no zone to move it by.
    return str(babel_date(value, form, rebase=isinstance(value, datetime)))


def moment(value: datetime | None, form: str = "short") -> str:
    """Date and time in the shop's zone."""
    if value is None:
        return "–"
    return (
        f"{babel_date(value, 'medium')} {babel_datetime(value, 'HH:mm')}"
        if form == "short"
        else str(babel_datetime(value, form))
    )


def clock(value: datetime) -> str:
    """The time of day in the shop's zone."""
    return str(babel_datetime(value, "HH:mm"))


def ago(value: datetime | None, now: datetime | None = None) -> str:
    """“3 hours ago”; the date where it is longer than a month."""
    if value is None:
        return "–"
    distance = value - (now or datetime.now(UTC))
    if abs(distance) > timedelta(days=30):
        return day(value)
    if abs(distance) < timedelta(seconds=45):
        return str(gettext("just now"))
    return str(format_timedelta(distance, add_direction=True, locale=_locale()))


def text_of(texts: dict[str, Any] | str | None) -> str:
    """A text kept in several languages ({"en": …, "zh": …}) in this request's, or as it is."""
    if isinstance(texts, dict):
        for key in (language(), content_locale(), "en"):
            if texts.get(key):
                return str(texts[key])
        return str(next(iter(texts.values()), ""))
    return texts or ""
