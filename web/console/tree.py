"""Results → Metrics tree: what a week's revenue is made of, what moved it and for whom, what is unusual."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from flask import Blueprint, render_template, request
from flask_babel import gettext, lazy_gettext

from segments import tree, tree_alerts, tree_scan
from segments.tree import Decomposition, GroupPart, Week
from segments.tree_alerts import Anomaly, Cause
from web import charts, charts_tree, context, i18n
from web.context import require
from web.roles import Permission
from web.words import word

bp = Blueprint("tree", __name__, url_prefix="/results/tree")
CHOICE = 26
"""Weeks that can be chosen."""
LISTED = 12
"""Groups that are listed one by one."""
PREVIOUS, YEAR = "previous", "year"
TITLES: Mapping[str, object] = {
    tree.GMV: lazy_gettext("Revenue before refunds"),
    tree.NET: lazy_gettext("Revenue net of refunds"),
    tree.REFUNDS: lazy_gettext("Refunds"),
    tree.VISITORS: lazy_gettext("Visitors"),
    tree.CONVERSION: lazy_gettext("Conversion"),
    tree.REPURCHASE: lazy_gettext("Orders a buyer"),
    tree.BASKET: lazy_gettext("Basket"),
    tree.UNITS_AN_ORDER: lazy_gettext("Units an order"),
    tree.PRICE: lazy_gettext("Price a unit"),
    tree.ORDERS: lazy_gettext("Orders"),
    tree.BUYERS: lazy_gettext("Buyers"),
    tree.NEW: lazy_gettext("New buyers"),
    tree.RETURNING: lazy_gettext("Returning buyers"),
}
GROUP_TITLES: Mapping[str, object] = {
    tree_scan.CITY: lazy_gettext("City"),
    tree_scan.STAGE: lazy_gettext("Lifecycle stage"),
    tree_scan.RFM: lazy_gettext("RFM segment"),
    tree_scan.CHANNEL: lazy_gettext("Channel of the first order"),
}
_MONEY = (tree.GMV, tree.NET, tree.REFUNDS, tree.BASKET, tree.PRICE)
_NUMBERS = (tree.REPURCHASE, tree.UNITS_AN_ORDER)


@dataclass(frozen=True)
class Card:
    """A node in the picture. ``part``: of the change of revenue, for its factors."""

    code: str
    title: str
    value: str
    before: str
    change: float | None
    part: float | None
    alert: bool


@dataclass(frozen=True)
class Asked:
    """What the address asks for."""

    week: date
    against: str
    by: str
    node: str

    @property
    def before(self) -> date:
        return self.week - timedelta(weeks=tree_alerts.YEAR if self.against == YEAR else 1)

    def address(self, **changes: str) -> dict[str, str]:
        return {
            "week": self.week.isoformat(),
            "against": self.against,
            "by": self.by,
            "node": self.node,
            **changes,
        }


def title(node: str, basis: str) -> str:
    """The node's name; who counts as a visitor where nobody is seen coming."""
    if node == tree.VISITORS and basis == tree.MEMBERS:
        return str(gettext("Members"))
    return str(TITLES[node])


def unit_of(node: str) -> charts.Unit:
    if node in _MONEY:
        return charts.Unit("money", context.console().settings.shop_currency)
    return charts.Unit("share" if node == tree.CONVERSION else "number" if node in _NUMBERS else "count")


def figure(node: str, value: float | None) -> str:
    """A node's value as it is read."""
    if value is None:
        return "–"
    if node in _MONEY:
        return i18n.money(value, whole=node not in (tree.BASKET, tree.PRICE))
    if node == tree.CONVERSION:
        return i18n.share(value, 2)
    return i18n.number(value, 2 if node in _NUMBERS else 0)


def _asked() -> Asked:
    console = context.console()
    last = tree_scan.last_whole(context.now(), console.settings.zone)
    try:
        wish = tree_scan.monday(date.fromisoformat(request.args.get("week", "")))
    except (ValueError, OverflowError):
        wish = last
    oldest = last - timedelta(weeks=CHOICE - 1)
    against, by, node = (request.args.get(name, "") for name in ("against", "by", "node"))
    return Asked(
        min(max(wish, oldest), last),
        against if against == YEAR else PREVIOUS,
        by if by in tree_scan.GROUPS else tree_scan.CITY,
        node if node in tree.NODES else tree.GMV,
    )


def _weeks(last: date) -> tuple[Week, ...]:
    console = context.console()
    return tree_scan.series(console.engine(), last, console.settings.zone, context.now())


@bp.get("")
@require(Permission.VIEW)
def index() -> str:
    asked = _asked()
    console = context.console()
    zone, now = console.settings.zone, context.now()
    weeks = _weeks(asked.week)
    found = {week.start: week for week in weeks}
    before, after = found[asked.before], found[asked.week]
    last = tree_scan.last_whole(now, zone)
    about: dict[str, Any] = {
        "asked": asked,
        "choices": [last - timedelta(weeks=back) for back in range(CHOICE)],
        "before": before,
        "after": after,
        "nothing": not (before.orders or after.orders),
    }
    if about["nothing"]:
        return render_template("tree/page.html", **about)
    basis = tree.basis_of((before, after))
    change = tree.change_of(before, after, deep=True, basis=basis)
    alerts = tree_alerts.anomalies(weeks, now, zone)
    parts = tree_scan.groups(console.engine(), asked.by, asked.before, asked.week, zone, now)
    listed, rest = _listed(tree.explain(asked.node, parts.before, parts.after, basis))
    return render_template(
        "tree/page.html",
        **about,
        basis=basis,
        change=change,
        sentence=sentence(change, basis, asked.against),
        beside=beside(weeks, asked.against),
        with_year=any(one.year is not None for one in alerts),
        cards=_cards(before, after, change, basis, {one.node for one in alerts}),
        picture=_waterfall(change, basis, asked),
        alerts=_explained(asked.week, alerts, why=request.args.get("why") == "1"),
        groups=[(group_name(asked.by, part.group), part) for part in listed],
        rest=rest,
        all_change=_difference(asked.node, before, after, basis),
        divided=parts,
        unit=unit_of(asked.node),
        figure=figure,
        node_title=title(asked.node, basis),
        nodes=[(node, title(node, basis)) for node in tree.NODES],
        ways=[(name, str(text)) for name, text in GROUP_TITLES.items()],
        picture_weeks=_chart(weeks[-CHOICE:], asked.node, basis),
    )


def _explained(week: date, alerts: Sequence[Anomaly], *, why: bool) -> list[tuple[str, list[str] | None]]:
    """What is out of line, and which groups explain it. Four scans of the warehouse, so they are left out
    (None) unless asked for."""
    console = context.console()
    divided = (
        tree_alerts.divide(
            console.engine(), week - timedelta(weeks=1), week, console.settings.zone, context.now()
        )
        if alerts and why
        else ()
    )
    return [
        (
            anomaly_sentence(one),
            [cause_sentence(c, one.basis) for c in tree_alerts.causes(one, divided)] if why else None,
        )
        for one in alerts
    ]


@bp.get("/why")
@require(Permission.VIEW)
def why() -> str:
    """The part of the page that says which groups explain what is out of line; asked for after the page."""
    week = _asked().week
    alerts = tree_alerts.anomalies(_weeks(week), context.now(), context.console().settings.zone)
    return render_template("tree/alerts.html", alerts=_explained(week, alerts, why=True))


def _difference(node: str, before: Week, after: Week, basis: str) -> float | None:
    was, now = before.node(node, basis), after.node(node, basis)
    return None if was is None or now is None else now - was


def _cards(before: Week, after: Week, change: Decomposition, basis: str, alerts: set[str]) -> dict[str, Card]:
    parts: dict[str, float] = {factor.name: factor.part for factor in change.factors}
    if tree.UNITS_AN_ORDER in parts:
        parts[tree.BASKET] = parts[tree.UNITS_AN_ORDER] + parts[tree.PRICE]
    cards = {}
    for node in tree.NODES:
        was, now = before.node(node, basis), after.node(node, basis)
        relative = now / was - 1 if was and now is not None else None
        cards[node] = Card(
            node,
            title(node, basis),
            figure(node, now),
            figure(node, was),
            relative,
            parts.get(node),
            node in alerts,
        )
    return cards


def _waterfall(change: Decomposition, basis: str, asked: Asked) -> charts_tree.Waterfall:
    steps = [(f.name, title(f.name, basis), f.part, f.before, f.after) for f in change.factors]
    return charts_tree.waterfall(
        gettext("From the revenue of one week to that of the other, factor by factor"),
        (i18n.day(asked.before), change.before),
        steps,
        (i18n.day(asked.week), change.after),
    )


def _listed(parts: Sequence[GroupPart]) -> tuple[list[GroupPart], tuple[int, float] | None]:
    """The largest parts one by one, and (how many, their sum) of the others."""
    others = parts[LISTED:]
    return list(parts[:LISTED]), (len(others), sum(part.part for part in others)) if others else None


def _chart(weeks: Sequence[Week], node: str, basis: str) -> charts.Chart:
    known = [week for week in weeks if week.events or basis == tree.MEMBERS]
    values = [week.node(node, basis) for week in known]
    return charts.over(
        "tree-weeks",
        gettext("%(what)s by week", what=title(node, basis)),
        [i18n.day(week.start, "short") for week in known],
        [
            charts.Series(
                title(node, basis), values, unit_of(node), mark="line" if node in tree.RATIOS else "bar"
            )
        ],
        heading=gettext("Week from"),
        base=gettext(
            "Weeks from %(start)s to %(end)s",
            start=i18n.day(known[0].start),
            end=i18n.day(known[-1].start),
        )
        if known
        else "",
    )


def group_name(by: str, value: str) -> str:
    """A group as the page calls it."""
    if not value:
        return str(gettext("not known"))
    kind = {tree_scan.STAGE: "stage", tree_scan.RFM: "rfm"}.get(by)
    return word(kind, value) if kind else value


def sentence(change: Decomposition, basis: str, against: str) -> str:
    """What moved and why, in one sentence."""
    than = (
        gettext("than in the same week last year") if against == YEAR else gettext("than in the week before")
    )
    if not change.change:
        return str(gettext("Revenue was the same in both weeks."))
    size, share = i18n.money(abs(change.change), whole=True), ""
    if change.before:
        share = f" ({'+' if change.change > 0 else '−'}{i18n.share(abs(change.change) / change.before)})"
    first = (
        gettext("Revenue was %(size)s%(share)s higher %(than)s", size=size, share=share, than=than)
        if change.change > 0
        else gettext("Revenue was %(size)s%(share)s lower %(than)s", size=size, share=share, than=than)
    )
    ranked = sorted(change.factors, key=lambda factor: -factor.part * (1 if change.change > 0 else -1))
    named = [
        gettext("%(what)s (%(part)s)", what=title(f.name, basis), part=signed(f.part))
        for f in ranked[:2]
        if f.part * change.change > 0
    ]
    against_it = [f for f in ranked if f.part * change.change < 0 and abs(f.part) > abs(change.change) / 4]
    text = (
        gettext("%(first)s, above all through %(named)s", first=first, named=gettext(" and ").join(named))
        if named
        else first
    )
    if against_it:
        worst = against_it[-1]
        other = gettext("%(what)s (%(part)s)", what=title(worst.name, basis), part=signed(worst.part))
        text = gettext("%(text)s; the other way went %(other)s", text=text, other=other)
    return str(gettext("%(text)s.", text=text))


def signed(minor: float) -> str:
    """Money with its sign."""
    return f"{'+' if minor > 0 else '−' if minor < 0 else ''}{i18n.money(abs(minor), whole=True)}"


def anomaly_sentence(one: Anomaly) -> str:
    """What is out of line, with what was expected."""
    values = {
        "what": title(one.node, one.basis),
        "value": figure(one.node, one.after),
        "expected": figure(one.node, one.expected),
        "low": figure(one.node, one.low),
        "high": figure(one.node, one.high),
        "weeks": one.weeks,
    }
    if one.after < one.low:
        text = gettext(
            "%(what)s is unusually low: %(value)s, where %(weeks)s weeks let expect %(expected)s "
            "(%(low)s to %(high)s).",
            **values,
        )
    else:
        text = gettext(
            "%(what)s is unusually high: %(value)s, where %(weeks)s weeks let expect %(expected)s "
            "(%(low)s to %(high)s).",
            **values,
        )
    if one.year is None or one.year_before is None:
        return str(text)
    return str(
        gettext(
            "%(text)s In the same week last year it was %(year)s, after %(before)s the week before.",
            text=text,
            year=figure(one.node, one.year),
            before=figure(one.node, one.year_before),
        )
    )


def beside(weeks: Sequence[Week], against: str) -> str:
    """Revenue of the last of the weeks against the other week that it may be compared with, in one sentence;
    empty where that one is not known."""
    after = weeks[-1]
    start = after.start - timedelta(weeks=1 if against == YEAR else tree_alerts.YEAR)
    other = next((week for week in weeks if week.start == start), None)
    if other is None or other.gmv <= 0:
        return ""
    change = after.gmv / other.gmv - 1
    sign = "+" if change > 0 else "−" if change < 0 else ""
    values = {"change": f"{sign}{i18n.share(abs(change))}", "value": figure(tree.GMV, other.gmv)}
    if against == YEAR:
        return str(gettext("Against the week before: %(change)s (was %(value)s).", **values))
    return str(gettext("Against the same week last year: %(change)s (was %(value)s).", **values))


def cause_sentence(cause: Cause, _basis: str) -> str:
    """A group that explains it."""
    return str(
        gettext(
            "%(by)s %(group)s: %(share)s of the change, %(size)s of the figure before",
            by=str(GROUP_TITLES[cause.by]),
            group=group_name(cause.by, cause.part.group),
            share=i18n.share(cause.share, 0),
            size=i18n.share(cause.size, 0),
        )
    )


@bp.get("/sentence")
@require(Permission.VIEW)
def moved() -> str:
    """The part of the overview that says what moved and why; asked for after the page is there."""
    console = context.console()
    zone, now = console.settings.zone, context.now()
    weeks = _weeks(tree_scan.last_whole(now, zone))
    before, after = weeks[-2:]
    empty = not (before.orders or after.orders)
    basis = tree.basis_of((before, after))
    return render_template(
        "tree/moved.html",
        after=after,
        sentence="" if empty else sentence(tree.change_of(before, after, deep=True), basis, PREVIOUS),
        beside=beside(weeks, PREVIOUS),
        alerts=[anomaly_sentence(one) for one in tree_alerts.anomalies(weeks, now, zone)],
    )
