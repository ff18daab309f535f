"""Fixtures of the console's tests: a seeded shop, copied for each test; and clients of every role."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from core.db import Database
from core.settings import Settings
from tests.conftest import SECRET
from tests.web import quick, seed
from web.app import create_app
from web.assets.build import compile_translations


@dataclass(frozen=True)
class Shop:
    """A database with the console over it."""

    database: Database
    settings: Settings
    app: Any

    def client(self, email: str | None = "admin@example.com", language: str = "en") -> Browser:
        """A browser, logged in as ``email`` (None: nobody)."""
        browser = Browser(self.app.test_client(), language)
        if email is not None:
            # A shop that many tests share sees more log-ins in a minute than the real limit allows.
            for limiter in self.app.extensions["limiter"]:
                limiter.reset()
            browser.log_in(email)
        return browser


class Browser:
    """A test client that sends the page's CSRF token along, as a browser's form does."""

    def __init__(self, client: FlaskClient, language: str) -> None:
        self.client = client
        self.headers = {"Accept-Language": "zh-CN" if language == "zh" else "en"}

    def get(self, address: str, **options: Any) -> Any:
        return self.client.get(address, headers={**self.headers, **options.pop("headers", {})}, **options)

    def post(self, address: str, data: dict[str, Any] | None = None, **options: Any) -> Any:
        token = self.token()
        headers = {**self.headers, **options.pop("headers", {})}
        return self.client.post(
            address, data={"csrf_token": token, **(data or {})}, headers=headers, **options
        )

    def token(self) -> str:
        page = self.get("/settings/account")
        if page.status_code != 200:
            page = self.get("/login")
        found = re.search(r'name="csrf_token" value="([^"]+)"', page.text)
        assert found is not None
        return found.group(1)

    def log_in(self, email: str, password: str = seed.PASSWORD) -> Any:
        answer = self.post("/login", {"email": email, "password": password})
        assert answer.status_code == 302, answer.text
        return answer


def open_shop(database: Database, settings: Settings) -> Shop:
    app = create_app(settings, database, clock=lambda: seed.NOW)
    app.testing = True
    return Shop(database, settings, app)


@pytest.fixture(scope="session", autouse=True)
def _translations() -> None:
    compile_translations()


@pytest.fixture(scope="session", autouse=True)
def _quick_apps() -> Iterator[None]:
    """A thousand applications are made: what each would work out anew, they share."""
    with pytest.MonkeyPatch.context() as patch:
        quick.apply(patch)
        yield


@pytest.fixture(scope="session")
def sqlite_shop_folder(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Path:
    """A home with the seeded shop in SQLite and its warehouse, to be copied."""
    home = tmp_path_factory.mktemp("shop")
    shutil.copy(sqlite_template, home / "huiliu.db")
    settings = Settings(home=home, secret=SECRET, _env_file=None)
    database = Database(settings.url)
    seed.fill(database, settings)
    with database.engine.connect() as connection:
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    database.dispose()
    return home


@pytest.fixture
def shop(tmp_path: Path, sqlite_shop_folder: Path) -> Iterator[Shop]:
    """The seeded shop on SQLite, a copy of its own."""
    home = tmp_path / "shop"
    shutil.copytree(sqlite_shop_folder, home)
    settings = Settings(home=home, secret=SECRET, _env_file=None)
    database = Database(settings.url)
    yield open_shop(database, settings)
    database.dispose()


@pytest.fixture(scope="session")
def pg_shop_template(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Database and home of the seeded shop on PostgreSQL, to be copied."""
    name = cluster.create()
    home = tmp_path_factory.mktemp("pg-shop")
    settings = Settings(home=home, secret=SECRET, database_url=cluster.url(name), _env_file=None)
    database = Database(settings.url)
    seed.fill(database, settings)
    database.dispose()
    yield name, home
    cluster.drop(name)


@pytest.fixture
def pg_shop(cluster: Any, tmp_path: Path, pg_shop_template: tuple[str, Path]) -> Iterator[Shop]:
    """The seeded shop on PostgreSQL, a copy of its own."""
    template, folder = pg_shop_template
    name, home = cluster.create(template), tmp_path / "pg-shop"
    shutil.copytree(folder, home)
    settings = Settings(home=home, secret=SECRET, database_url=cluster.url(name), _env_file=None)
    database = Database(settings.url)
    yield open_shop(database, settings)
    database.dispose()
    cluster.drop(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def any_shop(request: pytest.FixtureRequest) -> Shop:
    """The seeded shop on both databases."""
    found: Shop = request.getfixturevalue("shop" if request.param == "sqlite" else "pg_shop")
    return found


@pytest.fixture
def empty_shop(db: Database, home: Path) -> Shop:
    """Nothing but users, on both databases."""
    settings = Settings(home=home, secret=SECRET, database_url=db.url, _env_file=None)
    seed.add_users(db)
    return open_shop(db, settings)


@pytest.fixture
def open_app() -> Callable[[Database, Settings], Shop]:
    return open_shop
