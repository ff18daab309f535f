"""Loyalty → Calendar: promotions as bars over months, and what happens where two of them meet."""

from __future__ import annotations

import calendar
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask_babel import get_locale, gettext
from werkzeug.wrappers import Response

from core.errors import InvalidInput
from loyalty.promotions import ceiling, notices, store
from loyalty.promotions.conflicts import DEEP, MAX_COMPARED, UNDER_MINIMUM, Conflict, conflicts, in_words
from loyalty.promotions.models import PromotionRow
from loyalty.promotions.overlaps import ALWAYS, together
from web import context
from web.console.promotions import kind_words
from web.context import actor, reading, require, writing
from web.forms import Form
from web.roles import Permission

bp = Blueprint("calendar", __name__, url_prefix="/loyalty/calendar")
MONTHS = (1, 3, 6, 12)
MAX_SHOWN = 200
YEARS = (2000, 2100)


@dataclass(frozen=True)
class Bar:
    """A promotion's row: columns (days) before its bar, in it, and after it."""

    row: PromotionRow
    before: int
    days: int
    after: int
    begun_earlier: bool
    goes_on: bool


@dataclass(frozen=True)
class Window:
    """The months that are shown, in days of the shop's zone: ``first`` to the day before ``end``."""

    first: date
    end: date
    months: int

    @property
    def days(self) -> int:
        return (self.end - self.first).days

    @property
    def parts(self) -> list[tuple[date, int]]:
        """The months' first days, and how many days each has."""
        starts = [_later(self.first, number) for number in range(self.months)]
        return [(start, calendar.monthrange(start.year, start.month)[1]) for start in starts]

    def moved(self, months: int) -> str:
        """The month that begins ``months`` later, as the address has it."""
        return f"{_later(self.first, months):%Y-%m}"


def _later(first: date, months: int) -> date:
    year, month = divmod(first.year * 12 + first.month - 1 + months, 12)
    return date(year, month + 1, 1)


def window_of(month: str, months: str, today: date) -> Window:
    """The window that an address asks for; what cannot be read is this month, and three of them."""
    try:
        first = date.fromisoformat(f"{month}-01")
    except ValueError:
        first = today.replace(day=1)
    if not YEARS[0] <= first.year <= YEARS[1]:
        first = today.replace(day=1)
    number = int(months) if months in map(str, MONTHS) else MONTHS[1]
    return Window(first, _later(first, number), number)


def bar_of(row: PromotionRow, window: Window, zone: ZoneInfo) -> Bar | None:
    """The promotion's bar, over every day that it has a part of; None where it is not in force then."""
    start = row.starts_at.astimezone(zone).date() if row.starts_at else None
    last = (row.ends_at - timedelta(microseconds=1)).astimezone(zone).date() if row.ends_at else None
    first, end = max(start or window.first, window.first), window.end
    if last is not None:
        end = min(last + timedelta(days=1), end)
    if first >= end:
        return None
    return Bar(
        row,
        (first - window.first).days,
        (end - first).days,
        (window.end - end).days,
        start is None or start < window.first,
        last is None or last >= window.end,
    )


def _matches(row: PromotionRow, text: str, kind: str) -> bool:
    if kind and row.benefit["type"] != kind:
        return False
    where = " ".join((row.name, row.title, row.group or "", row.code or ""))
    return text.casefold() in where.casefold()


@bp.get("")
@require(Permission.VIEW)
def index() -> str:
    """Bars of the months asked for, and the conflicts among the promotions that are shown."""
    settings = context.console().settings
    zone, now = settings.zone, context.now()
    window = window_of(
        request.args.get("month", ""), request.args.get("months", ""), now.astimezone(zone).date()
    )
    text, kind = request.args.get("q", "").strip()[:80], request.args.get("kind", "")
    found = [
        bar
        for row in store.live(reading())
        if _matches(row, text, kind)
        for bar in (bar_of(row, window, zone),)
        if bar is not None
    ]
    most = ceiling.load(reading())
    return render_template(
        "loyalty/calendar.html",
        window=window,
        bars=found[:MAX_SHOWN],
        total=len(found),
        compared=min(len(found), MAX_COMPARED),
        today=_today(window, now.astimezone(zone).date()),
        late={
            row_id: one.publish_by
            for row_id, one in notices.standings(
                reading(), [bar.row for bar in found[:MAX_SHOWN]], zone, settings.shop_currency, now
            ).items()
            if one.late
        },
        conflicts=_conflicts([bar.row for bar in found[:MAX_SHOWN]], window, most),
        kinds=kind_words(),
        months=MONTHS,
        form=Form({"month": f"{window.first:%Y-%m}", "months": window.months, "q": text, "kind": kind}),
        limit=Form({"ceiling": f"{most / 100:g}"}),
    )


def _today(window: Window, today: date) -> int | None:
    """Columns before today; None where it is not shown."""
    return (today - window.first).days if window.first <= today < window.end else None


def _conflicts(rows: list[PromotionRow], window: Window, most: int) -> list[dict[str, Any]]:
    """Each conflict in the reader's words, with the time in which both are in force inside the window."""
    settings = context.console().settings
    zone = settings.zone
    promotions = {row.name: store.to_promotion(row) for row in rows}
    found = conflicts(
        list(promotions.values()),
        zone,
        currency=settings.shop_currency,
        catalog=store.categories_of(reading(), promotions.values()),
        max_points=most,
    )
    place = 1 if str(get_locale()).startswith("zh") else 0
    titles = {row.name: row.title for row in rows}
    ids = {row.name: row.id for row in rows}
    first, end = (datetime.combine(day, time(), zone) for day in (window.first, window.end))

    def shown(one: Conflict) -> dict[str, Any] | None:
        overlap = together(promotions[one.first], promotions[one.second])
        if overlap is None or overlap[0] >= end or overlap[1] <= first:
            return None
        return {
            "promotions": [(ids[name], titles[name]) for name in one.names],
            "words": in_words(one, titles)[place],
            "watch": one.kind in (DEEP, UNDER_MINIMUM),
            "starts_at": None if overlap[0] == ALWAYS[0] else overlap[0],
            "ends_at": None if overlap[1] == ALWAYS[1] else overlap[1],
        }

    told = [one for one in map(shown, found) if one is not None]
    return sorted(told, key=lambda one: not one["watch"])


@bp.post("/ceiling")
@require(Permission.EDIT)
def save_ceiling() -> Response:
    """From how much off together on a combination is named."""
    form = Form(request.form)
    share = form.percent("ceiling", low=1, high=100)
    try:
        if share is None or not form.ok:
            raise InvalidInput("Write a percentage from 1 to 100.", "ceiling")
        with writing() as session:
            ceiling.save(session, round(share * 10_000), actor(), context.now())
        flash(gettext("Saved."), "success")
    except InvalidInput:
        flash(gettext("Write a percentage from 1 to 100."), "error")
    return redirect(url_for("calendar.index"), 303)
