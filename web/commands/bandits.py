"""``huiliu experiments reweigh``: the week of the shop's bandits, as the weekly flow does it."""

from __future__ import annotations

from collections.abc import Iterator

import click

from core.times import now
from experiments import bandits
from experiments.bandits import Outcome
from segments.facts import open_engine
from web.commands.common import answer, json_option, open_installation

WORDS = {bandits.CHANGED: "new weights", bandits.KEPT: "too little to say yet", bandits.KNOWN: "done already"}


@click.command("reweigh")
@click.argument("name", required=False)
@json_option
def reweigh(name: str | None, as_json: bool) -> None:
    """Weigh the arms of the bandit NAME, or of every running one, by what they brought. Once a week each."""
    settings, database = open_installation()
    engine = open_engine(settings)
    engine.replica.sync(database)
    at = now(settings)
    found: dict[str, Outcome | str]
    if name is None:
        found = bandits.reweigh_all(database, engine, at, settings.zone)
    else:
        found = {name: bandits.reweigh(database, engine, name, at, settings.zone)}

    def lines() -> Iterator[str]:
        if not found:
            yield "No bandit is running."
        for one, outcome in found.items():
            if isinstance(outcome, str):
                yield f"{one}: not weighed: {outcome}"
                continue
            weights = ", ".join(f"{arm} {weight:.1%}" for arm, weight in outcome.weights.items())
            yield f"{one}: {WORDS[outcome.outcome]} (week of {outcome.week}): {weights}"

    value = {
        one: {"refused": outcome} if isinstance(outcome, str) else outcome.to_json()
        for one, outcome in found.items()
    }
    answer(value, as_json, lines)
