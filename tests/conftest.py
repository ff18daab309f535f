"""Fixtures: a migrated database on SQLite and on PostgreSQL, a home folder, a fixed key."""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from core import crypto
from core.db import Database
from core.settings import Settings
from tests import postgres

SECRET = base64.b64encode(bytes(range(32))).decode()


def pytest_configure() -> None:
    # Nothing of the developer's own installation may leak into a test, nor a test's into it.
    for name in [name for name in os.environ if name.startswith("HUILIU_")]:
        del os.environ[name]
    os.environ["HUILIU_SECRET"] = SECRET
    crypto.install(crypto.Keyring(base64.b64decode(SECRET)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: a worker that begins one at the end keeps all others waiting."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def need(available: bool, what: str) -> None:
    """Skip with the reason where a server is missing; in CI, fail instead."""
    if available:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is missing, and CI must have it")
    pytest.skip(f"{what} is not installed")


@pytest.fixture(autouse=True)
def _connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A flow and a command end with their process, which closes what they opened; in a test they do not."""
    opened: list[Database] = []
    begin = Database.__init__

    def noted(database: Database, *given: Any, **named: Any) -> None:
        begin(database, *given, **named)
        opened.append(database)

    monkeypatch.setattr(Database, "__init__", noted)
    yield
    for database in opened:
        database.dispose()


@pytest.fixture(scope="session")
def cluster() -> Iterator[postgres.Cluster]:
    """A private PostgreSQL on a free port, with a migrated template database."""
    need(postgres.find() is not None, "PostgreSQL")
    # Not below pytest's own folder: a second pytest closes that to every other account again,
    # and PostgreSQL never runs as root.
    with (
        tempfile.TemporaryDirectory(prefix="huiliu-pg-", dir=postgres.fast_folder()) as folder,
        postgres.running(Path(folder)) as found,
    ):
        yield found


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from migrations.runner import upgrade

    path = tmp_path_factory.mktemp("template") / "huiliu.db"
    database = Database(f"sqlite:///{path}")
    upgrade(database)
    with database.engine.connect() as connection:
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    database.dispose()
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def sqlite_db(home: Path, sqlite_template: Path) -> Iterator[Database]:
    """A migrated SQLite database of its own."""
    shutil.copy(sqlite_template, home / "huiliu.db")
    database = Database(f"sqlite:///{home / 'huiliu.db'}")
    yield database
    database.dispose()


@pytest.fixture
def pg_db(cluster: postgres.Cluster) -> Iterator[Database]:
    """A migrated PostgreSQL database of its own."""
    name = cluster.create()
    database = Database(cluster.url(name), pool_size=40)
    yield database
    database.dispose()
    cluster.drop(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def db(request: pytest.FixtureRequest) -> Database:
    """The same test on both databases."""
    result: Database = request.getfixturevalue("sqlite_db" if request.param == "sqlite" else "pg_db")
    return result


@pytest.fixture
def settings(home: Path) -> Settings:
    """Settings with a home of their own; give ``database_url=db.url`` where a process reads them."""
    return Settings(home=home, secret=SECRET, _env_file=None)


def count(database: Database, table: str) -> int:
    """Rows of a table."""
    with database.engine.connect() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(sa.table(table))).scalar_one())
