"""``huiliu campaigns watch`` and ``huiliu tree``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import date, timedelta
from typing import Any

import click

from campaigns import watching
from core.errors import InvalidInput
from core.money import shown
from core.times import now
from segments import tree, tree_alerts, tree_scan
from segments.facts import open_engine
from web.commands.common import answer, json_option, open_installation

_MONEY = (tree.GMV, tree.NET, tree.REFUNDS, tree.BASKET, tree.PRICE)
_SHARES = (tree.CONVERSION,)


@click.command()
@json_option
def watch(as_json: bool) -> None:
    """Read out the campaigns that ran lately, once a day each; lights, alerts, stops and proposals."""
    settings, database = open_installation()
    done = watching.watch(database, open_engine(settings), settings, now(settings))

    def lines() -> Iterator[str]:
        words = {"good": "green", "watch": "yellow", "bad": "red", "known": "watched today already"}
        for name, tone in done.campaigns.items():
            yield f"{name:24} {words[tone]}"
        for name, why in done.failed.items():
            yield f"{name:24} not watched: {why}"
        yield f"{done.alerts} new alerts, {len(done.stopped)} paused, {len(done.proposed)} winners proposed"

    answer(done.to_json(), as_json, lines)


@click.command("tree")
@click.option("--week", help="The Monday of a week; without it, the newest whole one.")
@click.option("--against", type=click.Choice(["previous", "year"]), default="previous", show_default=True)
@json_option
def show(week: str | None, against: str, as_json: bool) -> None:
    """The metrics tree of a week, what moved it, and what is out of line."""
    settings, _ = open_installation()
    moment = now(settings)
    last = _week(week) if week else tree_scan.last_whole(moment, settings.zone)
    weeks = tree_scan.series(open_engine(settings), last, settings.zone, moment)
    before, after = weeks[-53 if against == "year" else -2], weeks[-1]
    basis = tree.basis_of((before, after))
    change = tree.change_of(before, after, deep=True, basis=basis)
    found = tree_alerts.anomalies(weeks, moment, settings.zone)
    nodes = {
        name: {"before": before.node(name, basis), "after": after.node(name, basis)} for name in tree.NODES
    }
    value: dict[str, Any] = {
        "week": after.start,
        "against": before.start,
        "basis": basis,
        "nodes": nodes,
        "change": {
            "gmv": change.change,
            "method": change.method,
            "parts": {factor.name: factor.part for factor in change.factors},
        },
        "anomalies": [{**asdict(one), "score": one.score} for one in found],
    }

    def lines() -> Iterator[str]:
        currency = settings.shop_currency
        yield f"Week from {after.start} against {before.start}; visitors are {basis}; money in {currency}"
        for name, pair in nodes.items():
            part = value["change"]["parts"].get(name)
            sign = "+" if part is not None and part > 0 else ""
            tail = "" if part is None else f"   {sign}{shown(part, currency)} of the change"
            old, new = (_written(name, one, currency) for one in (pair["before"], pair["after"]))
            yield f"{name:18} {old:>16} → {new:>16}{tail}"
        for one in found:
            after_, expected, low, high = (
                _written(one.node, number, currency)
                for number in (one.after, one.expected, one.low, one.high)
            )
            yield f"! {one.node}: {after_}, expected {expected} ({low} to {high})"

    answer(value, as_json, lines)


def _week(text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise InvalidInput(f"“{text}” is not a date; write a Monday like 2026-03-02.") from None
    if day.weekday():
        nearest = day - timedelta(days=day.weekday())
        raise InvalidInput(f"{day} is no Monday; its week begins on {nearest}.")
    return day


def _written(node: str, value: float | None, currency: str) -> str:
    """A node's value: money as the shop writes it, shares in per cent, the others plain."""
    if value is None:
        return "–"
    if node in _MONEY:
        return shown(value, currency)
    return f"{value:.2%}" if node in _SHARES else f"{value:,.4f}".rstrip("0").rstrip(".")
