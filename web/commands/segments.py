"""``huiliu segments``: list, show, count, export."""

from __future__ import annotations

import csv
import sys
from typing import Any

import click

from core.errors import InvalidInput
from segments import evaluate, settings
from segments import segments as store
from segments.facts import open_engine
from segments.rules import MAX_DEPTH
from segments.words import in_words
from web.commands.common import answer, json_option, open_installation, parse_day, read_json


@click.group("segments")
def group() -> None:
    """Audiences: list, show, count and export them."""


@group.command("list")
@json_option
def list_all(as_json: bool) -> None:
    """Segments with their rule in words."""
    _, database = open_installation()
    with database.read() as session:
        titles = settings.titles(session)
        found = [
            {
                "name": item.name,
                "title": item.title,
                "version": item.version,
                "rule": in_words(item.rule, "en", titles),
            }
            for item in store.live(session)
        ]
    answer({"segments": found}, as_json, lambda: (f"{s['name']:24} {s['title']}: {s['rule']}" for s in found))


@group.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """One segment: its rule and its versions."""
    _, database = open_installation()
    with database.read() as session:
        item = store.by_name(session, name)
        versions = [
            {"version": v.version, "by": v.changed_by, "at": v.changed_at, "rule": v.rule}
            for v in store.versions(session, item)
        ]
        answer({"name": item.name, "title": item.title, "rule": item.rule, "versions": versions}, as_json)


def _rule(session: Any, name: str | None, rule: str | None) -> Any:
    if (name is None) == (rule is None):
        raise click.UsageError("Give the NAME of a segment, or --rule FILE.")
    if rule is None:
        return store.by_name(session, name or "").rule
    try:
        return read_json(rule)
    except RecursionError:
        raise InvalidInput(
            f"{rule} is nested too deeply; conditions nest at most {MAX_DEPTH} levels."
        ) from None


@group.command()
@click.argument("name", required=False)
@click.option("--rule", help="A JSON file with a rule that is not saved (- for standard input).")
@click.option("--sample", default=20, show_default=True, help="How many members to show.")
@click.option("--as-of", metavar="DATE")
@json_option
def count(name: str | None, rule: str | None, sample: int, as_of: str | None, as_json: bool) -> None:
    """How many members match now, and the first of them."""
    settings, database = open_installation()
    if not 0 <= sample <= evaluate.MAX_SAMPLE:
        raise InvalidInput(f"--sample is a number from 0 to {evaluate.MAX_SAMPLE}.")
    engine = open_engine(settings)
    engine.replica.sync(database)
    with database.read() as session:
        evaluator = evaluate.evaluator(session, engine, settings, parse_day(as_of, settings))
        answer(evaluator.count(_rule(session, name, rule), sample).to_json(), as_json)


@group.command()
@click.argument("name")
@click.option("--as-of", metavar="DATE")
def export(name: str, as_of: str | None) -> None:
    """Write the members' ids as CSV to standard output."""
    settings, database = open_installation()
    engine = open_engine(settings)
    engine.replica.sync(database)
    with database.read() as session:
        evaluator = evaluate.evaluator(session, engine, settings, parse_day(as_of, settings))
        found = evaluator.members(store.by_name(session, name).rule)
    writer = csv.writer(sys.stdout)
    writer.writerow(["member_id"])
    writer.writerows([external_id] for external_id in found["external_id"].to_pylist())
