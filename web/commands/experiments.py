"""``huiliu experiments``: analysis of any experiment's file (no database), read-outs of stored ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from core.errors import InvalidInput
from web.commands.common import answer, json_option
from web.commands.experiments_readout import readout

if TYPE_CHECKING:
    from experiments.analyze import Asked

DEFAULT_TUNING = 5_000
METHODS = ("fixed", "sequential", "bayes", "group-sequential")
BOUNDS = ("obrien-fleming", "pocock")
ADJUSTMENTS = ("holm", "bh", "none")


@click.group("experiments")
def group() -> None:
    """Experiments: what a change did, and how sure that is."""


group.add_command(readout)


@group.command("analyze")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--arm", required=True, metavar="COLUMN", help="The column of the arm.")
@click.option("--control", required=True, metavar="VALUE", help="The value of the control arm.")
@click.option(
    "--metric", "metrics", multiple=True, metavar="NAME=COLUMN[:mean|proportion]", help="Repeatable [:mean]."
)
@click.option("--ratio", "ratios", multiple=True, metavar="NAME=NUM/DEN", help="A ratio of two columns.")
@click.option(
    "--covariate",
    "covariates",
    multiple=True,
    metavar="[METRIC=]COLUMN",
    help="From before: CUPED, of every metric or of one. Of a ratio also NUM/DEN.",
)
@click.option("--by", metavar="COLUMN", help="Also by this column's values, and whether they differ.")
@click.option("--unit", metavar="COLUMN", help="Who was randomised: checks for units in several arms.")
@click.option("--alpha", type=float, default=0.05, show_default=True, help="Intervals are at 1 − alpha.")
@click.option("--method", type=click.Choice(METHODS), default="fixed", show_default=True)
@click.option("--weights", metavar="A=.5,B=.5", help="The planned split [equal].")
@click.option(
    "--tuning",
    type=float,
    default=DEFAULT_TUNING,
    show_default=True,
    help="N* of --method sequential, in rows.",
)
@click.option("--adjust", type=click.Choice(ADJUSTMENTS), default="holm", show_default=True)
@click.option(
    "--looks",
    type=int,
    default=1,
    show_default=True,
    help="Times looked at, this one included; group-sequential: the looks that were planned.",
)
@click.option("--look", type=int, help="Of --method group-sequential: which of the looks this is.")
@click.option("--bounds", type=click.Choice(BOUNDS), default=BOUNDS[0], show_default=True)
@click.option("--stratify", is_flag=True, help="Weigh the values of --by alike in every arm.")
@json_option
def analyze(
    file: Path,
    arm: str,
    control: str,
    metrics: tuple[str, ...],
    ratios: tuple[str, ...],
    covariates: tuple[str, ...],
    by: str | None,
    unit: str | None,
    alpha: float,
    method: str,
    weights: str | None,
    tuning: float,
    adjust: str,
    looks: int,
    look: int | None,
    bounds: Any,
    stratify: bool,
    as_json: bool,
) -> None:
    """Compare the arms of FILE, a CSV or Parquet with a row a unit: checks first, then results.

    Rows are read once and never held in memory. A metric that cannot be compared says why.
    """
    from experiments.analyze import Plan
    from experiments.analyze import analyze as analyse

    asked, shared = _with_covariates([*map(_metric, metrics), *map(_ratio, ratios)], covariates)
    plan = Plan(
        arm=arm,
        control=control,
        metrics=asked,
        covariates=shared,
        by=by,
        unit=unit,
        alpha=alpha,
        method=method,
        weights=None if weights is None else _weights(weights),
        tuning=tuning,
        adjust=adjust,
        looks=looks,
        look=look,
        bounds=bounds,
        stratify=stratify,
    )
    result = analyse(file, plan)
    answer(result, as_json, lambda: _lines(result, alpha, method))


def _named(text: str, option: str, form: str) -> tuple[str, str]:
    name, sign, rest = text.partition("=")
    if not (name.strip() and sign and rest.strip()):
        raise InvalidInput(f"{option}: “{text}” is not of the form {form}.", option)
    return name.strip(), rest.strip()


def _metric(text: str) -> Asked:
    from experiments.analyze import Asked
    from experiments.stats.joint import Mean

    name, column = _named(text, "--metric", "NAME=COLUMN[:mean|proportion]")
    before, sign, kind = column.rpartition(":")
    if sign and kind == "proportion":
        return Asked(name, Mean(before), "proportion")
    return Asked(name, Mean(before if sign and kind == "mean" else column), "mean")


def _ratio(text: str) -> Asked:
    from experiments.analyze import Asked
    from experiments.stats.joint import Ratio

    name, columns = _named(text, "--ratio", "NAME=NUM/DEN")
    top, sign, bottom = (part.strip() for part in columns.partition("/"))
    if not (top and sign and bottom) or "/" in bottom or top == bottom:
        raise InvalidInput(f"--ratio: “{text}” is not of the form NAME=NUM/DEN, of two columns.", "--ratio")
    return Asked(name, Ratio(top, bottom), "ratio")


def _with_covariates(asked: list[Asked], given: tuple[str, ...]) -> tuple[list[Asked], tuple[str, ...]]:
    """(the metrics with their own covariates, those of all metrics). What stands before a first = and is no
    metric's name belongs to the name of a column."""
    from experiments.stats.joint import Mean, Metric

    own: dict[str, list[Metric]] = {one.name: [] for one in asked}
    ratios = {one.name for one in asked if one.kind == "ratio"}
    shared: list[str] = []
    for text in given:
        name, sign, column = (part.strip() for part in text.partition("="))
        if not sign or name not in own:
            shared.append(text)
        elif not column:
            raise InvalidInput(f"--covariate: “{text}” names no column.", "--covariate")
        elif name in ratios and "/" in column:
            own[name].append(_ratio(text).metric)
        else:
            own[name].append(Mean(column))
    found = [replace(one, covariates=tuple(dict.fromkeys(own[one.name]))) for one in asked]
    return found, tuple(dict.fromkeys(shared))


def _weights(text: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for part in text.split(","):
        arm, sign, number = part.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not (arm.strip() and sign and 0 <= weight < math.inf) or arm.strip() in weights:
            raise InvalidInput(
                f"--weights: “{part}” is not of the form ARM=NUMBER, each arm once.", "--weights"
            )
        weights[arm.strip()] = weight
    return weights


def _lines(result: dict[str, Any], alpha: float, method: str) -> Iterator[str]:
    """The answer as a person reads it."""
    sizes = ", ".join(f"{arm} {found['n']:,}" for arm, found in result["arms"].items())
    yield f"Arms: {sizes}"
    verdict = "as planned" if result["srm"]["ok"] else "NOT as planned"
    yield f"Split: {verdict} (p {_p(result['srm']['p'])})"
    for check in result["checks"]:
        yield f"  NO  {check['name']}: {check['message']}"
    headings = (
        "metric",
        "arm",
        "control",
        "mean",
        "difference",
        "relative",
        "chance" if method == "bayes" else "p",
    )
    rows = [_row(found) for found in result["results"]]
    extra = () if method == "bayes" else ("adjusted",)
    table = [(*headings, *extra), *[row if extra else row[:-1] for row in rows]]
    widths = [max(len(row[place]) for row in table) for place in range(len(table[0]))]
    yield ""
    group = result.get("group_sequential")
    if group is None:
        yield f"Against the control, intervals at {1 - alpha:.4g} ({method})"
    else:
        yield (
            f"Against the control, look {group['look']} of {group['looks']} ({group['bounds']}): "
            f"stop where p < {_p(group['stop_below'])}, as the interval then leaves out 0"
        )
    for row in table:
        cells = (
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield f"  {'  '.join(cells)}".rstrip()
    for found in result["results"]:
        if found.get("refused"):
            yield f"  {_label(found)}, {found['arm']}: {found['refused']}"
    for test in result.get("interactions", []):
        yield (
            f"  {test['metric']}, {test['arm']}: the effect differs by {test['by']} with p {_p(test['p'])} "
            f"(Q {test['q']:.2f}, {test['df']} degrees of freedom, I² {test['i2']:.0%})"
        )


def _label(found: dict[str, Any]) -> str:
    return found["metric"] if found["dimension"] is None else f"{found['metric']} [{found['dimension']}]"


def _row(found: dict[str, Any]) -> tuple[str, ...]:
    absolute, relative = found["absolute"], found["relative"]
    chance = None if absolute is None else absolute.get("chance_to_win", absolute["p"])
    return (
        _label(found),
        found["arm"],
        _number(found["mean_control"]),
        _number(found["mean"]),
        _interval(absolute, "{:+,.4g}"),
        _interval(relative, "{:+.2%}"),
        "–" if chance is None else f"{chance:.1%}" if "chance_to_win" in absolute else _p(chance),
        "–" if found["p_adjusted"] is None else _p(found["p_adjusted"]),
    )


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.4f}" if abs(value) < 1e15 else f"{value:.4g}"


def _interval(effect: dict[str, Any] | None, form: str) -> str:
    if effect is None:
        return "–"
    low, middle, high = (form.format(effect[name]) for name in ("low", "estimate", "high"))
    return f"{middle} ({low} to {high})"


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0001 else "< 0.0001"
