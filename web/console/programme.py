"""Results beyond one campaign: all marketing of a quarter, two campaigns' overlap, and attribution.

The first two compare members whom chance put apart. Attribution describes what was on the way to orders,
and its page says so.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from flask import Blueprint, render_template, request
from flask_babel import gettext

from campaigns import attribution, paths, programme_worth
from campaigns.overlap import Overlap, overlap, scan_cells
from campaigns.roi import Roi
from campaigns.spec import HOLDOUT
from core.errors import InvalidInput
from experiments import control, readout
from experiments.assignment import assigned
from experiments.moments import MARGIN, MAX_WINDOW_DAYS, REVENUE
from web import charts, charts_results, context, i18n
from web.charts_results import Both, Picture
from web.console import insight_forms, readouts
from web.console.readout_money import waterfall_steps
from web.console.readout_words import CheckRow, check_row, writer
from web.context import reading, require
from web.forms import Form
from web.queries import campaigns as queries
from web.refusals import said
from web.roles import Permission
from web.words import word

bp = Blueprint("programme", __name__, url_prefix="/results")
USUAL_WINDOW_DAYS, USUAL_LOOKBACK_DAYS = 30, 30
SHOWN_LABELS = 30
OVERLAP_METRICS = (REVENUE, MARGIN, "orders", "converted")


# --- All marketing of a quarter --------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A metric: its comparison, and the picture of it."""

    title: str
    result: readout.Result
    unit: charts.Unit
    chart: charts.Chart


@dataclass(frozen=True)
class Programme:
    """A quarter's read-out, ready for its page."""

    sentence: str
    found: readout.ReadOut
    checks: list[CheckRow]
    rows: list[Row]
    profit: Profit | None


@dataclass(frozen=True)
class Profit:
    """All marketing after its cost: a sentence, the waterfall, and the amounts."""

    sentence: str
    picture: Picture
    worth: Roi


@bp.get("/programme")
@require(Permission.VIEW)
def programme() -> str:
    """What everything together brought a member: the global control group against its measured slice."""
    session, form = reading(), Form(request.args)
    quarters = queries.control_quarters(session)
    names = [control.name_of(quarter).partition(":")[2] for quarter in quarters]
    chosen = form.choice("quarter", names, names[0] if names else "")
    window = form.integer("window", low=1, high=MAX_WINDOW_DAYS) or USUAL_WINDOW_DAYS
    shown: Programme | None = None
    if names and form.ok:
        found = control.read_programme(
            session,
            context.console().engine(),
            quarters[names.index(chosen)],
            window_days=window,
            as_of=context.now(),
            currency=context.console().settings.shop_currency,
        )
        worth = programme_worth.worth(
            session,
            context.console().engine(),
            quarters[names.index(chosen)],
            found,
            window_days=window,
            as_of=context.now(),
        )
        shown = _programme(chosen, found, window, worth)
    return render_template(
        "programme/programme.html",
        form=form,
        quarters=[(name, name) for name in names],
        chosen=chosen,
        window=window,
        shown=shown,
    )


def _programme(quarter: str, found: readout.ReadOut, window: int, worth: Roi | None) -> Programme:
    rows = []
    for result in found.results:
        if result.absolute is not None:
            unit = readouts.unit_of(result.metric, found.currency)
            title = word("metric", result.metric)
            name = gettext("Members who got marketing")
            picture = _intervals(f"programme-{result.metric}", title, [(name, result.absolute)], unit)
            rows.append(Row(title, result, unit, picture))
    return Programme(
        _sentence(quarter, found, window),
        found,
        [check_row(check) for check in found.checks],
        rows,
        None if worth is None else _profit(worth, quarter, window, found),
    )


def _profit(worth: Roi, quarter: str, window: int, found: readout.ReadOut) -> Profit:
    """What is left after messages, coupons and points, in one sentence and as a waterfall."""
    currency = found.currency or ""
    unit = charts.Unit("money", currency)
    steps = waterfall_steps(asdict(worth))
    write = writer(unit, axis=True)
    both = Both(lambda width: charts_results.waterfall(width, steps, write))
    rows = tuple((step.name, (step.amount, unit)) for step in steps)
    table = charts.Table((gettext("Step"), gettext("Amount")), rows)
    title = gettext("All marketing of %(quarter)s: from incremental revenue to profit", quarter=quarter)
    picture = both.picture("programme-money", title, table)
    return Profit(_profit_sentence(worth, window, found), picture, worth)


def _profit_sentence(worth: Roi, window: int, found: readout.ReadOut) -> str:
    currency, profit = found.currency or "", worth.profit

    def whole(value: float) -> str:
        return i18n.money(value, currency, whole=True)

    values = {
        "low": whole(profit.low), "high": whole(profit.high), "estimate": whole(profit.estimate),
        "cost": whole(worth.cost.total), "n": i18n.number(found.arms.get(control.MEASURED, 0)),
        "days": window,
    }  # fmt: skip
    if profit.low > 0:
        return str(gettext(
            "After a cost of %(cost)s it earned: the profit of the %(n)s members with marketing within "
            "%(days)s days is %(estimate)s, between %(low)s and %(high)s.",
            **values,
        ))  # fmt: skip
    if profit.high < 0:
        return str(gettext(
            "It cost more than it earned: after a cost of %(cost)s the profit of the %(n)s members with "
            "marketing within %(days)s days is %(estimate)s, between %(low)s and %(high)s.",
            **values,
        ))  # fmt: skip
    return str(gettext(
        "Whether it paid for its cost of %(cost)s is open: the profit of the %(n)s members with marketing "
        "within %(days)s days lies between %(low)s and %(high)s.",
        **values,
    ))  # fmt: skip


def _sentence(quarter: str, found: readout.ReadOut, window: int) -> str:
    """What it brought, in one sentence; nothing of it where the split is broken."""
    if not found.trusted:
        return str(
            gettext(
                "The two groups of %(quarter)s are not split as planned: find out why before reading on.",
                quarter=quarter,
            )
        )
    result = found.result(REVENUE)
    effect = result.absolute
    if effect is None:
        return str(
            gettext(
                "Nothing can be said of %(quarter)s yet: %(why)s", quarter=quarter, why=result.refused or ""
            )
        )
    currency = found.currency or ""
    low, high = (i18n.money(value, currency) for value in (effect.low, effect.high))
    if effect.low > 0:
        text = gettext(
            "All marketing of %(quarter)s together brought %(low)s to %(high)s more a member within "
            "%(days)s days than no marketing.",
            quarter=quarter, low=low, high=high, days=window,
        )  # fmt: skip
    elif effect.high < 0:
        text = gettext(
            "Members without any marketing in %(quarter)s spent more within %(days)s days: the difference "
            "lies between %(low)s and %(high)s a member.",
            quarter=quarter, low=low, high=high, days=window,
        )  # fmt: skip
    else:
        text = gettext(
            "No difference between marketing and none was found for %(quarter)s within %(days)s days: it "
            "lies between %(low)s and %(high)s a member.",
            quarter=quarter, low=low, high=high, days=window,
        )  # fmt: skip
    return str(text)


def _intervals(id_: str, title: str, rows: list[tuple[str, Any]], unit: charts.Unit) -> charts.Chart:
    return charts.intervals(
        id_,
        gettext("%(metric)s: difference a member", metric=title),
        [charts.Interval(name, effect.low, effect.estimate, effect.high) for name, effect in rows],
        unit,
        heading=gettext("Group"),
        words=(gettext("Low"), gettext("Estimate"), gettext("High")),
        base=gettext("Difference a member, interval at 95 per cent"),
    )


# --- Two campaigns at once -------------------------------------------------------------------------


@bp.get("/overlap")
@require(Permission.VIEW)
def overlap_page() -> str:
    """Do two campaigns take from each other? Members of both, by what chance gave them in each."""
    session, form = reading(), Form(request.args)
    tested = {one.key: one for one in queries.with_holdout(session)}
    options = [(key, _tested_title(one)) for key, one in tested.items()]
    names = [name for name, _ in options]
    first = form.choice("first", names, names[0] if names else "")
    second = form.choice("second", names, names[1] if len(names) > 1 else "")
    metric = form.choice("metric", OVERLAP_METRICS, REVENUE)
    window = form.integer("window", low=1, high=MAX_WINDOW_DAYS) or USUAL_WINDOW_DAYS
    found: Overlap | None = None
    if len(names) > 1 and form.ok and "first" in request.args:
        if first == second:
            form.error("second", gettext("Choose two different campaigns."))
        else:
            try:
                found = _overlap(tested[first], tested[second], metric, window)
            except InvalidInput as error:
                form.error("second", said(error))
    unit = readouts.unit_of(metric, context.console().settings.shop_currency)
    return render_template(
        "programme/overlap.html",
        form=form,
        options=options,
        chosen={"first": first, "second": second, "metric": metric, "window": window},
        metrics=[(name, word("metric", name)) for name in OVERLAP_METRICS],
        found=found,
        unit=unit,
        sentence=None if found is None else _overlap_sentence(found, dict(options), first, second, unit),
        picture=None if found is None else _overlap_picture(found, dict(options), first, second, unit),
    )


def _tested_title(one: queries.Tested) -> str:
    """The campaign's title; of an experiment of before a roll-out, also when that ended."""
    if one.until is None:
        return one.title
    return str(gettext("%(title)s, until %(day)s", title=one.title, day=i18n.day(one.until)))


def _overlap(first: queries.Tested, second: queries.Tested, metric: str, window: int) -> Overlap:
    tables = [assigned(reading(), one.experiment_id) for one in (first, second)]
    cells = scan_cells(
        context.console().engine(),
        tables[0],
        HOLDOUT,
        tables[1],
        HOLDOUT,
        window_days=window,
        as_of=context.now(),
        metric=metric,
    )
    return overlap(cells)


def _overlap_sentence(
    found: Overlap, titles: dict[str, str], first: str, second: str, unit: charts.Unit
) -> str:
    names = {"first": titles[first], "second": titles[second]}
    low, high = (_figure(value, unit) for value in (found.interaction.low, found.interaction.high))
    if found.cannibalised:
        return str(
            gettext(
                "“%(first)s” and “%(second)s” take from each other: to members of both they bring %(low)s to "
                "%(high)s a member less than the sum of each alone.",
                **names,
                low=_figure(-found.interaction.high, unit),
                high=_figure(-found.interaction.low, unit),
            )
        )
    if found.interaction.low > 0:
        return str(gettext(
            "“%(first)s” and “%(second)s” help each other: to members of both they bring %(low)s to "
            "%(high)s a member more than the sum of each alone.",
            **names, low=low, high=high,
        ))  # fmt: skip
    return str(gettext(
        "That “%(first)s” and “%(second)s” touch each other's effect was not found: together they bring "
        "between %(low)s and %(high)s a member beside the sum of each alone.",
        **names, low=low, high=high,
    ))  # fmt: skip


def _figure(value: float, unit: charts.Unit) -> str:
    if unit.kind == "money":
        return i18n.money(value, unit.currency)
    return i18n.share(value) if unit.kind == "share" else i18n.number(value, 3)


def _overlap_picture(
    found: Overlap, titles: dict[str, str], first: str, second: str, unit: charts.Unit
) -> charts.Chart:
    rows = [
        (gettext("“%(name)s” alone", name=titles[first]), found.first),
        (gettext("“%(name)s” alone", name=titles[second]), found.second),
        (gettext("Both"), found.both),
        (gettext("Both, beyond the sum"), found.interaction),
    ]
    return _intervals("overlap", gettext("Against neither"), rows, unit)


# --- Attribution -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Credited:
    """A channel or campaign: model → (conversions, value); its funnel where it has one."""

    name: str
    credits: dict[str, attribution.Credit]
    funnel: paths.Funnel | None


@bp.get("/attribution")
@require(Permission.VIEW)
def attribution_page() -> str:
    """What was on the way to orders, by five models side by side."""
    form = Form({"model": attribution.MARKOV, **request.args})
    asked = _asked(form)
    model = form.choice("model", attribution.MODELS, attribution.MARKOV)
    rows: list[Credited] = []
    totals: dict[str, float] = {}
    if form.ok:
        try:
            rows, totals = _credits(asked)
        except InvalidInput as error:
            form.refuse(error)
    currency = context.console().settings.shop_currency
    unit = charts.Unit("money", currency)
    shown = sorted(rows, key=lambda row: -row.credits[model].value_minor)[:SHOWN_LABELS]
    picture = charts.ranked(
        "attribution",
        gettext("Revenue by %(model)s", model=word("attribution", model)),
        [(row.name, row.credits[model].value_minor) for row in shown],
        heading=gettext("Channel") if asked.by == paths.CHANNEL else gettext("Campaign"),
        figure=gettext("Revenue"),
        unit=unit,
    )
    return render_template(
        "programme/attribution.html",
        form=form,
        asked=asked,
        model=model,
        models=[(name, word("attribution", name)) for name in attribution.MODELS],
        bases=[(name, word("touch", name)) for name in paths.BASES],
        groups=[(paths.CHANNEL, gettext("Channel")), (paths.CAMPAIGN, gettext("Campaign"))],
        rows=shown,
        totals=totals,
        unit=unit,
        picture=picture if shown else None,
    )


def _asked(form: Form) -> paths.Asked:
    today = context.now().astimezone(context.console().settings.zone).date()
    first, last = insight_forms.period(form, today + timedelta(days=1))
    return paths.Asked(
        first,
        last,
        form.integer("lookback", low=1, high=paths.MAX_LOOKBACK_DAYS) or USUAL_LOOKBACK_DAYS,
        form.choice("basis", paths.BASES, "sent"),
        form.choice("group", (paths.CHANNEL, paths.CAMPAIGN), paths.CHANNEL),
    )


def _credits(asked: paths.Asked) -> tuple[list[Credited], dict[str, float]]:
    engine, runs = context.console().engine(), queries.run_titles(reading())
    gone = paths.paths(engine, asked, runs)
    by_model = {model: attribution.attribute(gone, model) for model in attribution.MODELS}
    funnels = {one.label: one for one in paths.funnels(engine, asked, runs)}
    labels = sorted({*by_model[attribution.LAST], *funnels})
    none = attribution.Credit(0, 0)
    rows = [
        Credited(
            _label(label, asked.by),
            {model: credits.get(label, none) for model, credits in by_model.items()},
            funnels.get(label),
        )
        for label in labels
    ]
    converted = [path for path in gone if path.converted]
    return rows, {
        "orders": sum(path.times for path in converted),
        "touched": sum(path.times for path in converted if path.touches),
        "value": sum(path.value_minor * path.times for path in converted if path.touches),
        "conversion": attribution.markov(gone).conversion if gone else 0.0,
        "paths": sum(path.times for path in gone),
    }


def _label(label: str, by: str) -> str:
    if by == paths.CHANNEL:
        return word("channel", label)
    return str(gettext("Other messages")) if label == paths.OTHER else label
