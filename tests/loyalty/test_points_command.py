"""``huiliu points``: the check's exit code, and a balance."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from core import settings as core_settings
from core.db import Database
from core.settings import Settings
from loyalty import points
from loyalty.models import PointsLot
from tests.loyalty.data import NOW, add_members
from web.cli import main


@pytest.fixture
def shop(db: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch, home: Path) -> Database:
    mine = settings.model_copy(update={"database_url": db.url})
    monkeypatch.setattr(core_settings, "load", lambda: mine)
    add_members(db, 1)
    with db.write() as session:
        points.grant_many(session, [(1, 100, "a")], NOW)
    return db


def run(*arguments: str) -> tuple[int, str]:
    found = CliRunner().invoke(main, ["points", *arguments])
    return found.exit_code, found.output


def test_a_sound_ledger_is_said_to_be_sound(shop: Database) -> None:
    code, text = run("check", "--json")
    answer = json.loads(text)
    assert (code, answer["ok"], answer["issued"], answer["differences"]) == (0, True, 100, [])
    assert "Every balance is what its entries say." in run("check")[1]


def test_differences_are_named_and_end_with_one(shop: Database) -> None:
    with shop.write() as session:
        session.execute(sa.update(PointsLot).values(remaining=99))
    code, text = run("check", "--json")
    answer = json.loads(text)
    assert (code, answer["ok"]) == (1, False)
    assert [(each["what"], each["stored"], each["computed"]) for each in answer["differences"]] == [
        ("remaining", 99, 100)
    ]
    code, text = run("check")
    assert code == 1
    assert "remaining is 99, its entries say 100" in text


def test_a_balance_is_shown_by_the_shops_own_id(shop: Database) -> None:
    code, text = run("balance", "m1", "--json")
    answer = json.loads(text)
    assert (code, answer["member"], answer["held"], answer["debt"]) == (0, "m1", 0, 0)
    assert answer["available"] + answer["pending"] in (0, 100)  # 0 once the year is over
    assert run("balance", "nobody")[0] == 1
