"""``huiliu points``: a member's balance, and the ledger checked against its entries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import click

from core.times import now
from loyalty import points, points_check
from web.api.known import known_member
from web.api.schemas import SOURCE
from web.commands.common import REFUSED, answer, json_option, open_installation


@click.group("points")
def group() -> None:
    """Points of members: balances, and the check of the ledger."""


@group.command("check")
@json_option
@click.pass_context
def check(ctx: click.Context, as_json: bool) -> None:
    """Compute every balance anew from its entries; exit code 1 and the differences where one is wrong."""
    settings, database = open_installation()
    with database.read() as session:
        differences = points.check(session)
        totals = points_check.totals(session, now(settings))
    good = not differences and totals.conserved
    found: dict[str, Any] = {
        "ok": good,
        **asdict(totals),
        "differences": [asdict(difference) for difference in differences],
    }

    def lines() -> Iterator[str]:
        parts = ", ".join(f"{name} {number}" for name, number in asdict(totals).items())
        yield f"points: {parts}"
        if not totals.conserved:
            yield "The parts do not add up to what was issued."
        for each in differences:
            lot = f", lot {each.lot_id}" if each.lot_id is not None else ""
            yield (
                f"member {each.member_id}{lot}: {each.what} is {each.stored}, its entries say {each.computed}"
            )
        if good:
            yield "Every balance is what its entries say."

    answer(found, as_json, lines)
    if not good:
        ctx.exit(REFUSED)


@group.command("balance")
@click.argument("member")
@click.option("--source", default=SOURCE, show_default=True, help="Whose ids they are.")
@json_option
def balance(member: str, source: str, as_json: bool) -> None:
    """Points of MEMBER (the shop's own id): to spend, pending, held, owed."""
    settings, database = open_installation()
    with database.read() as session:
        found = points.balance(session, known_member(session, source, member), now(settings))
    answer({"member": member, **asdict(found)}, as_json)
