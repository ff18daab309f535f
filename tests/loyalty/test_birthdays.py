"""The sweep of birthdays, and the flows of points and tiers."""

from __future__ import annotations

from datetime import date

import pytest
import sqlalchemy as sa

from core import settings as core_settings
from core.db import Database
from core.models import Member
from core.settings import Settings
from loyalty import birthdays, earn_events, flows
from loyalty.models import Coupon
from loyalty.tiers import store
from loyalty.tiers.model import Program, Tier
from loyalty.tiers.models import MemberTier
from tests.conftest import count
from tests.loyalty.data import NOW, add_batch, add_members, put_order


@pytest.fixture
def shop(db: Database) -> Database:
    add_members(db, 3)
    add_batch(db, name="cake", title="Cake")
    gold = Tier("gold", "金卡", 1000, "Gold", {"birthday_batch": "cake"})
    with db.write() as session:
        session.execute(sa.update(Member).values(birthday=date(1990, 3, 1)))
        store.save_program(session, Program((gold,), timezone="UTC"), "ann", NOW)
        session.add(MemberTier(member_id=1, tier="gold", since=NOW, until=None, value=0))
        earn_events.create(session, earn_events.EventRule("b", "birthday", 5), "ann", NOW)
    return db


def sweep(database: Database, day: date) -> birthdays.Celebrated:
    with database.write() as session:
        return birthdays.reward(session, day, NOW, after=0, limit=100)


def test_points_for_all_and_the_tiers_coupon_once_a_year(shop: Database) -> None:
    assert sweep(shop, date(2026, 3, 1)) == birthdays.Celebrated(15, 1, 3)
    assert sweep(shop, date(2026, 3, 1)) == birthdays.Celebrated(0, 0, 3)
    assert sweep(shop, date(2026, 3, 2)) == birthdays.Celebrated(0, 0, None)
    assert sweep(shop, date(2027, 3, 1)) == birthdays.Celebrated(15, 1, 3)
    with shop.read() as session:
        keys = sorted(session.scalars(sa.select(Coupon.issue_key)))
    assert keys == ["birthday:2026:1", "birthday:2027:1"]


def test_the_flows_reward_review_accrue_and_expire(
    shop: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = settings.model_copy(update={"database_url": shop.url})
    monkeypatch.setattr(core_settings, "load", lambda: mine)
    monkeypatch.setattr(flows, "clock", lambda _settings: NOW)
    monkeypatch.setattr(flows, "get_run_logger", lambda: __import__("logging").getLogger("test"))
    with shop.write() as session:
        put_order(session, 1, 2, 5000)
    done = flows.accrue_points.fn()
    assert (done["earned"], done["promoted"], done["event_todos"]) == (50, 1, 0)
    assert flows.reward_birthdays.fn() == {"points": 15, "coupons": 2}
    assert flows.reward_birthdays.fn() == {"points": 0, "coupons": 0}
    with shop.write() as session:
        put_order(session, 2, 3, 5000)
    assert flows.review_tiers.fn() == {"up": 1, "down": 0, "kept": 0}
    assert flows.review_tiers.fn() == {"up": 0, "down": 0, "kept": 0}
    assert flows.expire.fn()["points_holds"] == 0
    assert flows.check_ledger.fn() == 0
    assert count(shop, "member_tiers") == 3
