"""The import of followers, from a stand-in that pages as WeChat does."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from channels.consent import suppress
from channels.models import Suppression
from channels.sandbox import wechat_people
from channels.wechat.followers import openid_index
from channels.wechat.import_followers import import_followers
from core.contacts import blind_index
from core.db import Database
from core.errors import HuiliuError
from core.models import Member, WarehouseMark
from core.settings import Settings
from tests.channels.seed import NOW, add_members, openid_of, sandbox
from web.cli import main


def change(db: Database, number: int, **values: Any) -> None:
    for name in ("openid", "unionid"):
        if name in values:
            values[f"{name}_index"] = blind_index(name, values[name])
    with db.write() as session:
        session.execute(sa.update(Member).where(Member.id == number).values(**values))


def ids(db: Database) -> list[tuple[Any, ...]]:
    with db.read() as session:
        rows = session.execute(sa.select(Member.openid, Member.unionid).order_by(Member.id))
        return [tuple(row) for row in rows]


def test_followers_are_matched_by_unionid_then_by_openid_and_a_repetition_changes_nothing(
    db: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wechat_people, "PAGE", 120)
    add_members(db, [1, 2, 3, 4, 5])
    change(db, 1, openid=None, unionid="union-oFollower1")
    change(db, 3, openid=None)
    change(db, 4, openid="oFollower4")
    change(db, 5, openid="oLeft", unionid="union-oFollower4")
    with db.write() as session:
        suppress(session, "wechat", openid_index(openid_of(2)), "unfollowed", "test", NOW)
        session.execute(sa.delete(WarehouseMark))
    with sandbox(db, settings) as (there, running):
        known = ["oFollower1", openid_of(2), "oFollower4"]
        running.sandbox.wechat.people.followers.update(dict.fromkeys(known, 1.0))
        running.sandbox.wechat.people.followers.update({f"oStranger{n:04d}": 1.0 for n in range(300)})
        found = asyncio.run(import_followers(db, there))
        assert found.to_json() == {
            "followers": 303, "matched": 2, "updated": 2, "unknown": 300, "conflicts": 1,
        }  # fmt: skip
        expected = [
            ("oFollower1", "union-oFollower1"),
            (openid_of(2), f"union-{openid_of(2)}"),
            (None, None),
            ("oFollower4", None),
            ("oLeft", "union-oFollower4"),
        ]
        assert ids(db) == expected
        with db.write() as session:
            assert session.scalars(sa.select(Suppression)).all() == [], "who follows can be reached"
            assert len(session.scalars(sa.select(WarehouseMark)).all()) >= 1
            session.execute(sa.delete(WarehouseMark))
        again = asyncio.run(import_followers(db, there))
        assert (again.matched, again.updated) == (2, 0)
        assert ids(db) == expected
        with db.read() as session:
            assert session.scalars(sa.select(WarehouseMark)).all() == []


def test_an_account_without_followers_and_one_that_is_refused(
    sqlite_db: Database, settings: Settings
) -> None:
    with sandbox(sqlite_db, settings) as (there, _):
        assert asyncio.run(import_followers(sqlite_db, there)).followers == 0
        wrong = there.model_copy(update={"wechat_secret": "no", "wechat_appid": "wx-other"})
        with pytest.raises(HuiliuError, match="40013"):
            asyncio.run(import_followers(sqlite_db, wrong))


def test_the_command_prints_counts(
    sqlite_db: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sandbox(sqlite_db, settings) as (there, running):
        running.sandbox.wechat.people.followers["oStranger"] = 1.0
        monkeypatch.setattr("web.commands.wechat.open_installation", lambda: (there, sqlite_db))
        done = CliRunner().invoke(main, ["wechat", "followers", "--json"])
        assert done.exit_code == 0, done.output
        assert json.loads(done.output) == {
            "followers": 1, "matched": 0, "updated": 0, "unknown": 1, "conflicts": 0,
        }  # fmt: skip
        shown = CliRunner().invoke(main, ["wechat", "followers"])
        assert "1 followers" in shown.output
