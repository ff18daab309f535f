"""``huiliu experiments readout``: a stored experiment read out now, as a page of text or as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from core.errors import InvalidInput
from core.times import now
from web.commands.common import answer, json_option, open_installation

if TYPE_CHECKING:
    from experiments.readout_form import Dimension, ReadOut
    from experiments.stats.effect import Effect

DEFAULT_WINDOW_DAYS = 30


@click.command("readout")
@click.argument("name")
@click.option("--by", metavar="DIM", help="Also by a dimension, such as stage, city or channel.")
@click.option(
    "--window-days",
    type=int,
    help=f"Of an experiment on the shop's pages [{DEFAULT_WINDOW_DAYS}]; a campaign has its own.",
)
@json_option
def readout(name: str, by: str | None, window_days: int | None, as_json: bool) -> None:
    """Read out the campaign or experiment NAME as of now. Keeps nothing."""
    from campaigns import report, results
    from experiments.readout import to_json
    from experiments.readout_advice import advise
    from segments.facts import open_engine

    settings, database = open_installation()
    engine = open_engine(settings)
    engine.replica.sync(database)
    as_of = now(settings)
    money: dict[str, Any] = {}
    with database.read() as session:
        experiment, campaign = report.by_name(session, name)
        if campaign is not None:
            if window_days is not None:
                raise InvalidInput("A campaign has its own window; leave --window-days out.")
            whole = results.result(session, engine, campaign, as_of, settings.shop_currency)
            found = whole.readout
            money = {arm: asdict(one) for arm, one in whole.money.items()}
        else:
            found = report.of_shop(
                session,
                engine,
                experiment,
                window_days=window_days or DEFAULT_WINDOW_DAYS,
                as_of=as_of,
                currency=settings.shop_currency,
            ).readout
    _check_by(found, by)
    profits = {
        arm: (one["profit"]["low"], one["profit"]["high"])
        for arm, one in money.items()
        if sum(one["cost"].values())
    }
    advice = advise(found, "en", profits=profits)
    shown = to_json(found)
    shown["dimensions"] = [one for one in shown["dimensions"] if one["name"] == by]
    value = {
        "name": name,
        "as_of": as_of.isoformat(),
        "verdict": advice.sentence,
        "advice": advice.kind,
        "ok": found.ok,
        "readout": shown,
        "money": money,
    }
    answer(value, as_json, lambda: _lines(advice.sentence, found, by))


def _check_by(found: ReadOut, by: str | None) -> None:
    names = [one.name for one in found.dimensions]
    if by is not None and by not in names:
        there = ", ".join(names) or "none: all members are alike"
        raise InvalidInput(f"There is no dimension “{by}” here; there are {there}.", "by")


def _lines(sentence: str, found: ReadOut, by: str | None) -> Iterator[str]:
    yield sentence
    yield ""
    yield "Arms: " + ", ".join(f"{arm} {number:,}" for arm, number in found.arms.items())
    for check in found.checks:
        detail = ", ".join(f"{key} {_number(value)}" for key, value in check.detail.items())
        yield f"  {'ok' if check.ok else 'NO':<3} {check.name}: {detail}"
    if not found.trusted:
        return
    yield ""
    yield f"Against {found.control}, intervals at {1 - found.alpha:.4g} ({found.method}), CUPED if possible"
    for result in found.results:
        effect = found.headline(result)
        goal = "*" if result.metric == found.goal else " "
        if effect is None:
            yield f"{goal} {result.metric}, {result.arm}: {result.refused}"
            continue
        shown = _change(found, result.metric, effect)
        yield (
            f"{goal} {result.metric:<12} {result.arm:<12} {shown}  p {effect.p:.4f}, "
            f"adjusted {result.p_adjusted or 0:.4f}"
        )
    yield f"* the goal; money in {found.currency}, p adjusted over all of these (Holm)"
    for one in found.dimensions:
        if one.name == by:
            yield from _groups(one, found)


def _change(found: ReadOut, metric: str, effect: Effect) -> str:
    """A difference with its interval, as the metric is written."""
    from experiments.readout_words import Shower

    write = Shower(found.unit(metric), found.currency).signed
    return f"{write(effect.estimate):>12} ({write(effect.low)} to {write(effect.high)})"


def _groups(one: Dimension, found: ReadOut) -> Iterator[str]:
    for part in one.breakdowns:
        yield ""
        yield f"By {one.name}, {one.metric} of {part.arm}"
        for cell in part.cells:
            effect = cell.absolute
            shown = "cannot be compared" if effect is None else _change(found, one.metric, effect)
            yield f"  {cell.value or '(unknown)':<20} {cell.n + cell.n_control:>8,}  {shown}"
        if part.interaction is not None:
            yield f"  do they differ? p {part.interaction.p:.4f}"


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
