"""``huiliu init``, ``import`` and ``refresh``."""

from __future__ import annotations

import secrets
from dataclasses import asdict
from pathlib import Path

import click
import sqlalchemy as sa

from channels import optin
from core import crypto
from core import settings as core_settings
from core.db import Database
from core.errors import InvalidInput
from core.files import RejectsFile, open_rows
from core.imports import KINDS, load_rows
from core.times import now
from experiments import catalogue
from migrations.runner import upgrade
from segments.compile import Moment
from segments.facts import open_engine
from segments.refresh import refresh as run_refresh
from web.commands.common import (
    REJECTED_ROWS,
    answer,
    json_option,
    open_installation,
    parse_day,
    progress_bar,
)
from web.models import User
from web.users import create_user

ACTOR = "huiliu init"


@click.command()
@click.option("--email", help="Log-in of the first administrator.")
@click.option("--password", help="Its password; without one, a random one is made and shown once.")
@json_option
def init(email: str | None, password: str | None, as_json: bool) -> None:
    """Create or migrate the database, make keys, the ready-made metrics, and the first administrator."""
    settings = core_settings.load()
    settings.home.mkdir(parents=True, exist_ok=True)
    crypto.install(crypto.open_keyring(settings))
    database = Database(settings.url)
    upgrade(database)
    with database.write() as session:
        catalogue.add_built_in(session, open_engine(settings).replica.facts, ACTOR, now(settings))
    result = {"database": database.engine.url.render_as_string(), "home": str(settings.home)}
    with database.read() as session:
        first = session.scalar(sa.select(User.id).limit(1)) is None
    if first:
        chosen = password or secrets.token_urlsafe(12)
        result["admin"] = email or "admin@example.com"
        create_user(database, result["admin"], chosen, ["admin"])
        if password is None:
            result["password"] = chosen
    elif email is not None:
        raise InvalidInput("There are users already; add more in the console under Settings.")
    answer(result, as_json)


@click.command("import")
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--map", "mapping", multiple=True, metavar="COLUMN=OURS", help="The file's column is our column."
)
@click.option("--source", default="shop", show_default=True, help="The system that the ids belong to.")
@click.option("--dry-run", is_flag=True, help="Check and count, and write nothing.")
@click.option("--rejects", type=click.Path(path_type=Path), help="Where refused rows go [FILE.rejects.csv].")
@json_option
@click.pass_context
def import_file(
    ctx: click.Context,
    kind: str,
    file: Path,
    mapping: tuple[str, ...],
    source: str,
    dry_run: bool,
    rejects: Path | None,
    as_json: bool,
) -> None:
    """Import members, products, orders or events from CSV or Parquet. Repeating it changes nothing."""
    settings, database = open_installation()
    pairs = dict(item.partition("=")[::2] for item in mapping)
    if not all(pairs.values()):
        raise click.UsageError("--map is written COLUMN=OURS.")
    rows = open_rows(file, kind, pairs)
    if rows.ignored and not as_json:
        click.echo(f"Columns that mean nothing here and are left out: {', '.join(rows.ignored)}", err=True)
    target = rejects or file.with_name(f"{file.name}.rejects.csv")
    with RejectsFile(target, rows.columns) as refused, progress_bar(f"{kind}", rows.rows, as_json) as advance:
        report = load_rows(
            database,
            kind,
            rows,
            settings=settings,
            source=source,
            now=now(settings),
            consents=optin.importer(settings),
            dry_run=dry_run,
            on_reject=refused.add,
            progress=advance,
        )
    result = {**asdict(report), "rejects_file": str(target) if report.rejected else None}
    if dry_run:
        result["dry_run"] = True
    answer(result, as_json)
    if report.rejected:
        ctx.exit(REJECTED_ROWS)


@click.command()
@click.option("--as-of", metavar="DATE", help="Everything before this day counts [tomorrow: all of today].")
@json_option
def refresh(as_of: str | None, as_json: bool) -> None:
    """Bring the replica up to date; score, stage and segment every member."""
    settings, database = open_installation()
    moment = Moment(parse_day(as_of, settings), settings.zone, settings.shop_currency)
    done = run_refresh(database, open_engine(settings), moment=moment, now=now(settings))
    answer(done.to_json(), as_json)
