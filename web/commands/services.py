"""``huiliu up``, ``serve``, ``sandbox``, ``demo``, ``doctor`` and ``bench``."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import sqlalchemy as sa
from sqlalchemy.orm import Session

from channels.sandbox.server import serve as serve_sandbox
from core import crypto
from core import settings as core_settings
from core.db import Database
from core.errors import HuiliuError
from core.settings import PROVIDERS, Settings
from migrations.runner import check
from segments.facts import open_engine
from segments.scores import latest_refresh
from web.commands.common import REFUSED, answer, json_option, open_installation
from web.serve import connections
from web.up import Services, start_all


@click.command()
def up() -> None:
    """Start Prefect's server, the deployments, a worker, the console and, without providers, the sandbox."""
    settings, database = open_installation()
    database.dispose()
    with Services(settings, click.echo) as services:
        start_all(services)
        click.echo(f"Console: {settings.base_url}   Prefect: http://127.0.0.1:{settings.prefect_port}")
        if settings.uses_sandbox:
            click.echo("Messages of channels without provider settings go to the sandbox inbox.")
        click.echo("Ctrl-C stops everything.")
        services.watch()
    click.echo("Stopped.")


@click.command()
@click.option("--processes", type=click.IntRange(1, 64), help="How many answer on the port.")
@click.option("--threads", type=click.IntRange(1, 256), help="How many requests each answers at a time.")
def serve(processes: int | None, threads: int | None) -> None:
    """The console, the HTTP API and the public pages alone."""
    from flask import Flask

    from web.app import create_app
    from web.serve import serve as run_server
    from web.serve import serve_many

    settings, database = open_installation()
    database.dispose()  # each process opens its own connections, as many as its threads need
    number, threads = processes or settings.processes, threads or settings.threads
    host, port, proxies = settings.host, settings.port, settings.trusted_proxies

    def make() -> Flask:
        return create_app(settings, Database(settings.url, pool_size=connections(threads)))

    if number == 1:
        run_server(make(), host, port, threads=threads, proxies=proxies)
    else:
        serve_many(make, host, port, processes=number, threads=threads, proxies=proxies)


@click.command()
def sandbox() -> None:
    """The stand-ins for the providers alone."""
    serve_sandbox(core_settings.load())


@click.command()
@click.option(
    "--once", is_flag=True, help="Stop everything after the summary instead of leaving the console up."
)
@json_option
def demo(once: bool, as_json: bool) -> None:
    """A year of real baskets, a win-back campaign, its result: in its own home, var/demo."""
    from web.demo.story import tell

    tell(once=once, as_json=as_json)


def _port_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _findings(settings: Settings) -> Iterator[tuple[str, bool, str]]:
    """(what, fine, words) of everything that an installation needs."""
    home = settings.home
    writable = os.access(home, os.W_OK) if home.exists() else os.access(home.absolute().parent, os.W_OK)
    yield "home", writable, f"{home.absolute()} {'can' if writable else 'cannot'} be written"
    key = home / "secret.key"
    if settings.secret:
        yield "key", True, "from HUILIU_SECRET"
    elif key.exists():
        private = not key.stat().st_mode & 0o077
        yield "key", private, f"{key}{'' if private else ' can be read by others: chmod 600 it'}"
    else:
        yield "key", False, "none yet: run `huiliu init`"
    yield from _database_findings(settings)
    sandboxed = [name for name in PROVIDERS if not getattr(settings, name)]
    yield "channels", True, f"in the sandbox: {', '.join(sandboxed) or 'none'}"
    for name, port in (("console", settings.port), ("Prefect", settings.prefect_port)):
        free = _port_free(port)
        yield f"port {port}", True, f"{'free' if free else 'in use (already up?)'} for {name}"
    free_bytes = shutil.disk_usage(home if home.exists() else ".").free
    yield "disk", free_bytes > 1 << 30, f"{free_bytes >> 20:,} MiB free"


def _database_findings(settings: Settings) -> Iterator[tuple[str, bool, str]]:
    database = Database(settings.url)
    shown = database.engine.url.render_as_string()
    try:
        with database.engine.connect() as connection:
            there = sa.inspect(connection).has_table("alembic_version")
    except sa.exc.OperationalError as error:
        yield "database", False, f"{shown} does not answer: {error.orig}"
        return
    if not there:
        yield "database", False, f"{shown} is empty: run `huiliu init`"
        return
    try:
        check(database)
        yield "database", True, f"{shown} is at the newest revision"
    except Exception as error:  # Alembic has no common base class for its refusals
        yield "database", False, f"{shown} is not at the newest revision; run `huiliu init` ({error})"
        return
    with database.read() as session:
        latest = latest_refresh(session)
        if database.dialect == "postgresql":
            yield _connections(session, settings)
    yield (
        "refresh",
        latest is not None,
        f"last as of {latest.as_of}" if latest else "never: run `huiliu refresh`",
    )
    files = sum(
        len(open_engine(settings).replica.files(name)) for name in open_engine(settings).replica.facts
    )
    yield "warehouse", True, f"{settings.warehouse_url}, {files} files"


OTHERS = 20
"""Connections left to workers, flows and whoever looks into the database."""


def _connections(session: Session, settings: Settings) -> tuple[str, bool, str]:
    """Whether PostgreSQL takes as many connections as the web server may open."""
    most = int(session.scalar(sa.text("SHOW max_connections")) or 0)
    needed = settings.processes * connections(settings.threads)
    words = f"PostgreSQL takes {most}, the web server may open {needed} (2 a thread)"
    if most >= needed + OTHERS:
        return "connections", True, words
    return (
        "connections",
        False,
        f"{words} and workers need about {OTHERS} more: raise max_connections in postgresql.conf, "
        "or lower HUILIU_PROCESSES or HUILIU_THREADS",
    )


@click.command()
@json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Check the set-up and say what to do."""
    settings = core_settings.load()
    try:
        crypto.install(crypto.open_keyring(settings)) if (settings.home / "secret.key").exists() else None
        findings = list(_findings(settings))
    except HuiliuError as error:
        findings = [("settings", False, str(error))]
    rows = [{"check": what, "ok": fine, "detail": words} for what, fine, words in findings]
    marks = {True: "ok ", False: "NO "}
    answer(
        {"checks": rows},
        as_json,
        lambda: (f"{marks[fine]} {what:12} {words}" for what, fine, words in findings),
    )
    if not all(fine for _, fine, _ in findings):
        ctx.exit(REFUSED)


BENCHMARKS = Path(__file__).parents[2] / "tests" / "bench"
"""They stand in the source tree and are no part of the installed package."""


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]…")
@click.option("--quick", is_flag=True, help="Small numbers: whether it works, not how fast.")
@click.option("--repetitions", type=click.IntRange(1, 100), help="Rounds of each comparison.")
@json_option
@click.pass_context
def bench(
    ctx: click.Context, names: tuple[str, ...], quick: bool, repetitions: int | None, as_json: bool
) -> None:
    """Measure this machine: all benchmarks, or those named. --json: one object a comparison."""
    if not BENCHMARKS.is_dir():
        raise HuiliuError("The benchmarks come with the source code: run this in a checkout of it.")
    command = [sys.executable, "-m", "tests.bench", *names]
    command += ["--quick"] if quick else []
    command += ["--repetitions", str(repetitions)] if repetitions else []
    # The objects go to the output and the table to the error stream; people want the table.
    output = None if as_json else subprocess.DEVNULL
    ctx.exit(subprocess.run(command, cwd=BENCHMARKS.parents[1], stdout=output, check=False).returncode)
