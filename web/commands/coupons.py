"""``huiliu coupons``: import, export and generate codes of a batch."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from core.errors import Conflict, InvalidInput
from core.files import RejectsFile
from core.times import now
from loyalty import coupons, foreign_codes
from loyalty.codes import MAX_CODES
from web import coupon_files
from web.commands.common import REJECTED_ROWS, answer, json_option, open_installation, progress_bar

ACTOR = "command line"


@click.group("coupons")
def group() -> None:
    """Coupon codes: import, export and generate many of them."""


@group.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--batch", required=True, metavar="NAME", help="The coupon batch that the codes belong to.")
@click.option("--source", default="shop", show_default=True, help="The system that member ids belong to.")
@click.option("--dry-run", is_flag=True, help="Check and count, and write nothing.")
@click.option("--rejects", type=click.Path(path_type=Path), help="Where refused rows go [FILE.rejects.csv].")
@json_option
@click.pass_context
def import_codes(
    ctx: click.Context,
    file: Path,
    batch: str,
    source: str,
    dry_run: bool,
    rejects: Path | None,
    as_json: bool,
) -> None:
    """Take in another system's codes from a CSV with code[,member_id]. Repeating it changes nothing."""
    settings, database = open_installation()
    target = rejects or file.with_name(f"{file.name}.rejects.csv")
    with (
        RejectsFile(target, coupon_files.COLUMNS) as refused,
        progress_bar("codes", None, as_json) as advance,
    ):
        report = coupon_files.load_file(
            database,
            batch,
            file,
            source=source,
            by=ACTOR,
            now=now(settings),
            dry_run=dry_run,
            on_reject=refused.add,
            progress=advance,
        )
    result = {**report, "rejects_file": str(target) if report["rejected"] else None}
    if dry_run:
        result["dry_run"] = True
    answer(result, as_json)
    if report["rejected"]:
        ctx.exit(REJECTED_ROWS)


@group.command()
@click.argument("name")
@click.option("--output", type=click.Path(path_type=Path), help="Where to write [standard output].")
def export(name: str, output: Path | None) -> None:
    """Write a batch's codes as CSV, without anybody's name. It leaves an audit row."""
    settings, database = open_installation()
    with database.read() as session:
        batch_id = coupons.find_batch(session, name).id
    pages = coupon_files.export(database, batch_id, ACTOR, now(settings))
    if output is None:
        sys.stdout.writelines(pages)
        return
    with output.open("w", encoding="utf-8", newline="") as file:
        file.writelines(pages)


@group.command()
@click.argument("name")
@click.option("--count", "number", type=click.IntRange(1, MAX_CODES), required=True, help="How many codes.")
@click.option("--key", help="Name of the job: the same one goes on where it stopped [NAME-COUNT].")
@json_option
def generate(name: str, number: int, key: str | None, as_json: bool) -> None:
    """Make many codes for anybody, 50,000 in a transaction. Stopped, it goes on with the same key."""
    settings, database = open_installation()
    job = key or f"{name}-{number}"
    if not 0 < len(job) <= 100:
        raise InvalidInput("The key has 1 to 100 characters.", "key")
    there = 0
    with progress_bar("codes", number, as_json) as advance:
        for first in range(0, number, foreign_codes.LOT):
            size = min(foreign_codes.LOT, number - first)
            with database.write() as session:
                batch = coupons.find_batch(session, name)
                issued = foreign_codes.generate_lot(session, batch, job, first, size, now(settings))
            there += len(issued.codes)
            advance(size)
            if issued.refused:
                raise Conflict(
                    f"The coupon batch “{name}” reached its limit: {there} of {number} codes are there."
                )
    answer({"batch": name, "key": job, "codes": there}, as_json)
