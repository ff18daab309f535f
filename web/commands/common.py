"""What the commands share: settings and database, JSON answers, errors as one line and exit code 1."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import click
import sqlalchemy as sa
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

from core import crypto
from core import settings as core_settings
from core.db import Database
from core.errors import HuiliuError, InvalidInput
from core.settings import Settings
from core.times import now

REFUSED, REJECTED_ROWS = 1, 3


class Group(click.Group):
    """Turns a HuiliuError of any command into its message on standard error and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except HuiliuError as error:
            click.echo(f"huiliu: {error}", err=True)
            ctx.exit(REFUSED)
        except sa.exc.OperationalError as error:
            click.echo(f"huiliu: the database does not answer: {error.orig}", err=True)
            ctx.exit(REFUSED)


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Answer as JSON.")(function)


def open_installation() -> tuple[Settings, Database]:
    """Settings, keys and a migrated database. Refuses one that ``huiliu init`` has not seen."""
    settings = core_settings.load()
    crypto.install(crypto.open_keyring(settings))
    database = Database(settings.url)
    file = database.engine.url.database
    missing = database.dialect == "sqlite" and not (file and Path(file).exists())
    if not missing:
        with database.engine.connect() as connection:
            missing = not sa.inspect(connection).has_table("alembic_version")
    if missing:
        raise HuiliuError("There is no database yet. Run `huiliu init` first.")
    return settings, database


def answer(value: dict[str, Any], as_json: bool, lines: Callable[[], Iterator[str]] | None = None) -> None:
    """Print a result: JSON, or lines a person reads."""
    if as_json:
        click.echo(json.dumps(value, ensure_ascii=False, default=str))
    else:
        for line in lines() if lines else (f"{name}: {item}" for name, item in value.items()):
            click.echo(line)


@contextmanager
def progress_bar(label: str, total: int | None, as_json: bool) -> Iterator[Callable[[int], None]]:
    """A bar on standard error; ``advance(n)`` moves it. Silent where nobody watches."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=as_json or not console.is_terminal) as progress:
        task = progress.add_task(label, total=total)
        yield lambda number: progress.advance(task, number)


def parse_day(text: str | None, settings: Settings) -> date:
    """A date of ``--as-of``; without one tomorrow's, so that all of today counts."""
    if text is None:
        return now(settings).astimezone(settings.zone).date() + timedelta(days=1)
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidInput(f"“{text}” is not a date; write it like 2026-03-01.") from None


def read_json(path: str) -> Any:
    """A JSON file, or standard input for ``-``."""
    try:
        with click.open_file(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise InvalidInput(f"{path} is not JSON: {error}.") from None
