"""``huiliu reminders``: queue the reminders of coupons and points that end soon."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from campaigns import reminders as stored
from core.times import now
from web.commands.common import answer, json_option, open_installation


@click.command("reminders")
@click.option("--dry-run", is_flag=True, help="Count, and queue nothing.")
@json_option
def reminders(dry_run: bool, as_json: bool) -> None:
    """Remind members of coupons and points that end soon, at whatever hour; nobody is reminded twice."""
    settings, database = open_installation()
    done = stored.send(database, settings, now(settings), dry_run=dry_run)
    found: dict[str, Any] = {"dry_run": dry_run, **{kind: counts.to_json() for kind, counts in done.items()}}

    def lines() -> Iterator[str]:
        for kind, counts in done.items():
            parts = [f"{number} by {channel}" for channel, number in sorted(counts.queued.items())]
            parts += [f"{number} left out ({reason})" for reason, number in sorted(counts.skipped.items())]
            yield f"{kind}: {counts.due} due" + "".join(f", {part}" for part in parts)
        if not done:
            yield "No reminders are on; switch them on under Loyalty → Reminders."

    answer(found, as_json, lines)
