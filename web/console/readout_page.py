"""A frozen read-out as one page: everything ready to be shown, on the console, to a manager, on paper.

Guarantees: built of the frozen row alone, so that every place shows the same numbers at any time; no query,
and nobody's data. Texts are in the request's language.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from flask_babel import gettext

from experiments.models import Readout
from experiments.readout_form import Breakdown, Curve, Dimension, ReadOut, Result
from experiments.stats.effect import Effect
from web import charts, charts_results, i18n
from web.charts_results import Bar, Both, Moment, Picture
from web.console import readouts
from web.console.readout_money import Money, NeedRow, money_of_all, need_row, needs_note
from web.console.readout_words import (
    CheckRow,
    arm_numbers,
    check_row,
    dimension_title,
    guard_row,
    method,
    shown_p,
    two_lines,
    value_title,
    writer,
)
from web.refusals import said
from web.words import word

INTERACTION_BELOW = 0.05


@dataclass(frozen=True)
class Row:
    """One arm of one metric, written out; pairs are an estimate and its interval."""

    arm: str
    number: int
    n: str
    control: str
    mean: str
    raw: tuple[str, str]
    adjusted: tuple[str, str]
    lift: tuple[str, str]
    p: str
    p_adjusted: str
    chance: str
    total: tuple[str, str]
    decided: bool


@dataclass(frozen=True)
class Section:
    """A metric: its picture, a row an arm, and what could not be compared."""

    metric: str
    title: str
    picture: Picture | None
    rows: list[Row]
    refused: list[str]
    adjusted_note: str
    """What the adjustment did, or nothing where there is none."""


@dataclass(frozen=True)
class Split:
    """An arm's effect by a dimension: the picture, and in words whether it differs."""

    arm: str
    picture: Picture | None
    sentence: str


@dataclass(frozen=True)
class Full:
    """The whole page. ``by``: (name, title) of every dimension; ``shown``: the chosen one's name."""

    view: readouts.View
    method: str
    checks: list[CheckRow]
    sections: list[Section]
    over_time: list[Picture]
    over_time_note: str
    by: list[tuple[str, str]]
    shown: str
    splits: list[Split]
    splits_note: str
    money: list[Money]
    needs: list[NeedRow]
    needs_note: str
    measured_at: datetime


def full(row: Readout, by: str = "") -> Full:
    """The page of a stored read-out, broken down by the dimension ``by`` (the first, where it has none)."""
    view = readouts.view(row)
    found, settings = view.found, row.settings
    trusted = found.trusted
    names = [one.metric for one in view.metrics] if trusted else []
    dimensions = {one.name: one for one in found.dimensions} if trusted else {}
    chosen = dimensions.get(by) or next(iter(dimensions.values()), None)
    goal = names[0] if names else ""
    return Full(
        view=view,
        method=method(found),
        checks=[*map(check_row, found.checks), *(map(guard_row, found.guardrails) if trusted else ())],
        sections=[_section(row.id, number, name, found) for number, name in enumerate(names, 1)],
        over_time=_over_time(row.id, found) if trusted else [],
        over_time_note=_over_time_note(found),
        by=[(name, dimension_title(name)) for name in dimensions],
        shown=chosen.name if chosen else "",
        splits=[_split(row.id, one, chosen, found) for one in chosen.breakdowns] if chosen else [],
        splits_note=_splits_note(chosen),
        money=money_of_all(row.id, settings, found) if trusted else [],
        needs=[need_row(one, found) for one in found.results if one.metric == goal and one.mde is not None],
        needs_note=needs_note(found),
        measured_at=row.created_at,
    )


# --- figures -------------------------------------------------------------------------------------


def _section(readout_id: int, number: int, metric: str, found: ReadOut) -> Section:
    unit, name_of = readouts.unit_in(found, metric), readouts.title_in(found, metric)
    results = [result for result in found.results if result.metric == metric]
    numbers = arm_numbers(found)
    rows, bars = [], []
    for result in results:
        effect = found.headline(result)
        if effect is None:
            continue
        name = word("arm", result.arm)
        bars.append(Bar(name, effect.low, effect.estimate, effect.high, numbers[result.arm]))
        rows.append(_row(result, effect, found, unit, numbers[result.arm]))
    title = gettext("%(metric)s: difference from the holdout, by variant", metric=name_of)
    return Section(
        metric,
        name_of,
        _interval_picture(f"r{readout_id}-m{number}", title, bars, unit, found) if bars else None,
        rows,
        [said(result.refused) for result in results if result.refused],
        _adjusted_note(results, found),
    )


def _chance(chance: float | None) -> str:
    """Never a certainty, whatever rounding says."""
    if chance is None:
        return "–"
    return "> 99.9%" if chance > 0.999 else "< 0.1%" if chance < 0.001 else i18n.share(chance)


def _adjusted_note(results: Sequence[Result], found: ReadOut) -> str:
    result = next((result for result in results if result.adjusted), None)
    adjusted = result.adjusted if result is not None else None
    if result is None or adjusted is None:
        return ""
    measure = found.measures.get(result.metric)
    days = found.covariate_days if measure is None else measure.covariate_days
    if adjusted.theta is None:
        return str(
            gettext(
                "Adjusted by both sides of the same ratio in the %(days)s days before assignment (CUPED): "
                "%(share)s of the variance removed. The adjusted difference is the one that counts.",
                days=i18n.number(days),
                share=i18n.share(adjusted.removed),
            )
        )
    return str(
        gettext(
            "Adjusted by the same metric of the %(days)s days before assignment (CUPED, θ %(theta)s): "
            "%(share)s of the variance removed. The adjusted difference is the one that counts.",
            days=i18n.number(days),
            theta=i18n.number(adjusted.theta, 3),
            share=i18n.share(adjusted.removed),
        )
    )


def _interval_picture(
    id_: str, title: str, bars: Sequence[Bar], unit: charts.Unit, found: ReadOut, heading: str = ""
) -> Picture:
    headings = (heading or gettext("Variant"), gettext("Low"), gettext("Estimate"), gettext("High"))
    rows = tuple((bar.name, (bar.low, unit), (bar.estimate, unit), (bar.high, unit)) for bar in bars)
    base = gettext(
        "Difference a member against the holdout, %(level)s%% interval; n = %(n)s",
        level=f"{100 * (1 - found.alpha):g}",
        n=i18n.number(sum(found.arms.values())),
    )
    write = writer(unit, axis=True)
    both = Both(lambda width: charts_results.intervals(width, bars, write))
    return both.picture(id_, title, charts.Table(headings, rows), base=base)


def _row(result: Result, effect: Effect, found: ReadOut, unit: charts.Unit, number: int) -> Row:
    write, total = writer(unit), found.total(result)
    money = unit.kind == "money"

    def whole(value: float) -> str:
        return i18n.money(value, unit.currency, whole=True) if money else i18n.number(value)

    adjusted = result.adjusted.comparison.absolute if result.adjusted else None
    return Row(
        arm=word("arm", result.arm),
        number=number,
        n=i18n.number(result.n),
        control=write(result.mean_control),
        mean=write(result.mean),
        raw=two_lines(result.absolute, write),
        adjusted=two_lines(adjusted, write),
        lift=two_lines(found.headline_relative(result), lambda value: i18n.share(value)),
        p=shown_p(effect.p),
        p_adjusted=shown_p(result.p_adjusted),
        chance=_chance(result.chance_to_win),
        total=("–", "")
        if total is None
        else (whole(total.estimate), f"{whole(total.low)} – {whole(total.high)}"),
        decided=effect.low > 0 or effect.high < 0,
    )


def _over_time(readout_id: int, found: ReadOut) -> list[Picture]:
    if found.timeline is None:
        return []
    unit = readouts.unit_in(found, found.timeline.metric)
    numbers = arm_numbers(found)
    return [_curve(readout_id, curve, unit, found, numbers[curve.arm]) for curve in found.timeline.curves]


def _curve(readout_id: int, curve: Curve, unit: charts.Unit, found: ReadOut, number: int) -> Picture:
    points = [
        Moment(p.day, p.fixed.estimate, p.fixed.low, p.fixed.high, p.always_valid.low, p.always_valid.high)
        for p in curve.points
    ]
    headings = (
        gettext("Day"), gettext("Members"), gettext("Estimate"), gettext("Low"), gettext("High"),
        gettext("Low, every look"), gettext("High, every look"),
    )  # fmt: skip
    rows = tuple(
        (
            i18n.number(p.day),
            (p.n + p.n_control, charts.COUNT),
            *((v, unit) for v in (p.fixed.estimate, p.fixed.low, p.fixed.high)),
            *((v, unit) for v in (p.always_valid.low, p.always_valid.high)),
        )
        for p in curve.points
    )
    write = writer(unit, axis=True)
    both = Both(lambda width: charts_results.over_time(width, points, number, write, i18n.number))
    metric = found.timeline.metric if found.timeline else ""
    title = gettext(
        "%(arm)s: difference in %(metric)s by days since assignment",
        arm=word("arm", curve.arm),
        metric=readouts.title_in(found, metric),
    )
    return both.picture(f"r{readout_id}-days-{number}", title, charts.Table(headings, rows))


def _over_time_note(found: ReadOut) -> str:
    if found.timeline is None:
        return ""
    return str(
        gettext(
            "Of members assigned that many days ago. The dark band is for one look; the light one holds "
            "however often one looks (confidence sequence, narrowest at N* = %(tuning)s members).",
            tuning=i18n.number(found.timeline.tuning),
        )
    ) + _adjusted_too(found.timeline.adjusted)


def _adjusted_too(adjusted: bool) -> str:
    """Said below the days and the groups."""
    if adjusted:
        text = gettext(
            "Adjusted as the headline is: by the same metric before assignment (CUPED), θ from all arms "
            "together."
        )
    else:
        text = gettext("Unadjusted: the raw differences.")
    # Chinese sentences follow each other without a space.
    return f"{'' if i18n.language() == 'zh' else ' '}{text}"


def _splits_note(dimension: Dimension | None) -> str:
    return "" if dimension is None else _adjusted_too(dimension.adjusted).strip()


# --- by dimension --------------------------------------------------------------------------------


def _split(readout_id: int, one: Breakdown, dimension: Dimension, found: ReadOut) -> Split:
    unit = readouts.unit_in(found, dimension.metric)
    number = arm_numbers(found)[one.arm]
    bars = [
        Bar(
            f"{value_title(dimension.name, cell.value)} · {i18n.number(cell.n + cell.n_control)}",
            cell.absolute.low,
            cell.absolute.estimate,
            cell.absolute.high,
            number,
        )
        for cell in one.cells
        if cell.absolute is not None
    ]
    title = gettext(
        "%(arm)s: difference in %(metric)s by %(dimension)s",
        arm=word("arm", one.arm),
        metric=readouts.title_in(found, dimension.metric),
        dimension=dimension_title(dimension.name),
    )
    picture = None
    if bars:
        id_ = f"r{readout_id}-{dimension.name}-{number}"
        picture = _interval_picture(id_, title, bars, unit, found, dimension_title(dimension.name))
    return Split(word("arm", one.arm), picture, _interaction(one, dimension))


def _interaction(one: Breakdown, dimension: Dimension) -> str:
    test = one.interaction
    title = dimension_title(dimension.name)
    if test is None:
        return str(gettext("Too few groups can be compared to say whether the effect differs."))
    clear = [
        value_title(dimension.name, cell.value)
        for cell in one.cells
        if cell.p_adjusted is not None and cell.p_adjusted < INTERACTION_BELOW
    ]
    numbers = gettext(
        "Cochran's Q %(q)s, %(df)s degrees of freedom, p %(p)s",
        q=i18n.number(test.q, 2),
        df=test.df,
        p=shown_p(test.p),
    )
    if test.p >= INTERACTION_BELOW:
        return str(
            gettext(
                "The effect does not differ between groups of “%(dimension)s” as far as these data show "
                "(%(numbers)s): "
                "read the whole, not a group.",
                dimension=title,
                numbers=numbers,
            )
        )
    if not clear:
        return str(
            gettext(
                "The effect differs between groups of “%(dimension)s” (%(numbers)s), but of no single group "
                "it is "
                "clear by itself.",
                dimension=title,
                numbers=numbers,
            )
        )
    return str(
        gettext(
            "The effect differs between groups of “%(dimension)s” (%(numbers)s); clear by itself, adjusted "
            "for looking at all of them: %(groups)s.",
            dimension=title,
            numbers=numbers,
            groups=", ".join(clear),
        )
    )
