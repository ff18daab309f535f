"""``huiliu campaigns`` and ``huiliu deliver``."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from dataclasses import asdict
from typing import Any

import click

from campaigns import campaigns
from campaigns import reminders as _reminders  # noqa: F401 - has them looked at again before they leave
from campaigns import run as runs
from campaigns.decide import REASONS
from channels.delivery import run_delivery
from core import crypto
from core.db import Database
from core.errors import InvalidInput
from core.settings import Settings
from core.times import now
from segments.facts import open_engine
from web.commands.common import answer, json_option, open_installation, progress_bar

MAX_WORKERS = 32
ACTOR = "command line"
REST = click.IntRange(1, 365)


@click.group("campaigns")
def group() -> None:
    """Campaigns: list, simulate and run them."""


@group.command("list")
@json_option
def list_all(as_json: bool) -> None:
    """Campaigns and their states."""
    _, database = open_installation()
    with database.read() as session:
        found = [
            {"name": c.name, "title": c.title, "state": c.state, "scheduled_at": c.scheduled_at}
            for c in campaigns.listing(session)
        ]
    answer(
        {"campaigns": found}, as_json, lambda: (f"{c['name']:24} {c['state']:10} {c['title']}" for c in found)
    )


@group.command()
@click.argument("name")
@click.option("--rest-days", type=REST, help="Of a finished campaign: whom it reached lately rests.")
@json_option
def simulate(name: str, rest_days: int | None, as_json: bool) -> None:
    """Who would get what, and why the others not. Writes nothing."""
    settings, database = open_installation()
    done = runs.simulate(database, open_engine(settings), settings, name, now(settings), rest_days=rest_days)
    value = done.to_json()
    value["sample"] = [
        {**row, "why": REASONS[row["reason"]][0] if row["reason"] else None} for row in value["sample"]
    ]
    answer(value, as_json)


@group.command()
@click.argument("name")
@click.option(
    "--again", is_flag=True, help="Ask for another run of a finished campaign, and run nothing yet."
)
@click.option("--rest-days", type=REST, help="With --again: whom it reached in so many days is left out.")
@json_option
def run(name: str, again: bool, rest_days: int | None, as_json: bool) -> None:
    """Run an approved campaign, or go on with a run that was interrupted.

    A finished one runs again in two steps: ask with --again, and run it once somebody approved it.
    """
    settings, database = open_installation()
    if rest_days is not None and not again:
        raise click.UsageError("--rest-days goes with --again.")
    if again:
        with database.write() as session:
            found = campaigns.by_name(session, name, lock=True)
            campaigns.run_again(
                session, found, ACTOR, now(settings), rest_days=rest_days, budget_minor=found.budget_minor
            )
            asked = {"name": name, "state": found.state, "run_key": found.again_key}
        answer(asked, as_json)
        return
    last = 0
    with progress_bar(name, None, as_json) as advance:

        def progress(done: int, _total: int) -> None:
            nonlocal last
            advance(done - last)
            last = done

        counts = runs.run(database, open_engine(settings), settings, name, now(settings), progress=progress)
    answer(counts.to_json(), as_json)


def _deliver_in_process(settings: Settings, until_empty: bool, results: Any) -> None:
    crypto.install(crypto.open_keyring(settings))
    database = Database(settings.url)
    results.put(asdict(run_delivery(database, settings, until_empty=until_empty, now=lambda: now(settings))))


@click.command()
@click.option("--until-empty", is_flag=True, help="Stop when nothing is due any more.")
@click.option("--workers", default=1, show_default=True, help="Processes that share the work.")
@json_option
def deliver(until_empty: bool, workers: int, as_json: bool) -> None:
    """Send what is in the outbox. Without --until-empty it goes on until it is stopped."""
    settings, database = open_installation()
    if not 1 <= workers <= MAX_WORKERS:
        raise InvalidInput(f"--workers is a number from 1 to {MAX_WORKERS}.")
    if workers == 1:
        answer(
            asdict(run_delivery(database, settings, until_empty=until_empty, now=lambda: now(settings))),
            as_json,
        )
        return
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    processes = [
        context.Process(target=_deliver_in_process, args=(settings, until_empty, results))
        for _ in range(workers)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    total: Counter[str] = Counter()
    seconds = 0.0
    for _ in range(sum(process.exitcode == 0 for process in processes)):
        part = results.get(timeout=5)
        seconds = max(seconds, part.pop("seconds"))
        total.update(part)
    failed = [process.exitcode for process in processes if process.exitcode]
    answer({**total, "seconds": seconds}, as_json)
    if failed:
        raise InvalidInput(
            f"{len(failed)} of {workers} workers ended with an error; what they held is sent later."
        )
