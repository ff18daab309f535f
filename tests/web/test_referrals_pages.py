"""Loyalty → Referrals: programmes by form, the funnel, decisions about those held."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from core.models import AuditEntry, Member
from loyalty.models import CouponBatch
from loyalty.referrals import joining, links, programs, settling
from loyalty.referrals.models import Referral, ReferralProgram
from loyalty.referrals.programs import NewProgram
from tests.loyalty.data import put_order
from tests.web import seed
from tests.web.conftest import Shop

FORM = {
    "name": "friends", "title": "Bring a friend", "referrer_kind": "points", "referrer_points": "200",
    "friend_kind": "nothing", "return_days": "14", "weekly_limit": "1", "min_order": "50.00",
}  # fmt: skip


def given_referrals(shop: Shop) -> tuple[int, int]:
    """One rewarded, one held for the weekly limit; the ids of the referrer and of the held referral."""
    old = seed.NOW - timedelta(days=30)
    with shop.database.write() as session:
        new = NewProgram("friends", "Friends", "CNY", referrer_points=200, return_days=14, weekly_limit=1)
        programs.create(session, new, "ann", old)
        values = dict.fromkeys(("name", "email", "phone"), None)
        made = [
            Member(source="shop", external_id=f"friend-{n}", tags=[], attributes={}, fingerprint="x",
                   created_at=old, updated_at=old, **values)
            for n in range(2)
        ]  # fmt: skip
        session.add_all(made)
        session.flush()
        referrer = session.scalars(sa.select(Member.id).order_by(Member.id).limit(1)).one()
        found = [joining.join(session, links.token_of(referrer), friend.id, old) for friend in made]
        links.opened(session, 1, referrer, old)
        put_order(session, 900_001, made[0].id, 9000, at=old)
        settling.settle(session, seed.NOW, 10)
    return referrer, found[1].referral_id


def states(shop: Shop) -> list[str]:
    with shop.database.read() as session:
        return list(session.scalars(sa.select(Referral.state).order_by(Referral.id)))


def test_an_empty_page_teaches_what_a_programme_is(shop: Shop) -> None:
    assert "No referral programme yet" in shop.client().get("/loyalty/referrals").text


def test_a_programme_is_made_by_the_form_and_shown(shop: Shop) -> None:
    admin = shop.client()
    assert admin.post("/loyalty/referrals/programs/new", FORM).status_code == 303
    with shop.database.read() as session:
        row = session.scalars(sa.select(ReferralProgram)).one()
    assert (row.referrer_points, row.friend_points, row.min_order_minor) == (200, None, 5000)
    page = admin.get("/loyalty/referrals").text
    assert "Bring a friend" in page
    assert "200 points" in page
    assert "In force" in page


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": ""}, "This is needed."),
        ({"referrer_points": ""}, "This is needed."),
        ({"referrer_kind": "coupon", "referrer_batch": "99"}, "Choose a coupon batch that is in use."),
        ({"referrer_kind": "nothing"}, "At least one side gets something"),
        ({"return_days": "400"}, "Write a number from 0 to 365."),
        ({"min_order": "x"}, "Write an amount like 12.50."),
    ],
)
def test_a_form_with_a_mistake_comes_back_filled_in(shop: Shop, changes: dict[str, str], said: str) -> None:
    answer = shop.client().post("/loyalty/referrals/programs/new", {**FORM, **changes})
    assert answer.status_code == 422
    assert said in answer.text
    assert "Bring a friend" in answer.text
    with shop.database.read() as session:
        assert session.scalars(sa.select(ReferralProgram)).all() == []


def test_a_programme_is_changed_and_archived(shop: Shop) -> None:
    admin = shop.client()
    admin.post("/loyalty/referrals/programs/new", FORM)
    with shop.database.read() as session:
        batch = session.scalars(sa.select(CouponBatch.id).where(CouponBatch.archived_at.is_(None))).first()
    assert 'value="200"' in admin.get("/loyalty/referrals/programs/1").text
    changed = {**FORM, "friend_kind": "coupon", "friend_batch": str(batch), "name": "smuggled"}
    assert admin.post("/loyalty/referrals/programs/1", changed).status_code == 303
    assert admin.post("/loyalty/referrals/programs/1/archive").status_code == 303
    with shop.database.read() as session:
        row = session.scalars(sa.select(ReferralProgram)).one()
        actions = session.scalars(
            sa.select(AuditEntry.action).where(AuditEntry.object_type == "referral_program")
        ).all()
    assert (row.name, row.friend_batch_id, row.archived_at) == ("friends", batch, seed.NOW)
    assert actions == ["create", "change", "archive"]


def test_the_funnel_the_list_and_who_brings_most(shop: Shop) -> None:
    given_referrals(shop)
    page = shop.client().get("/loyalty/referrals").text
    assert "1 held, 0 rejected" in page
    assert "More friends joined within a week" in page
    assert "Who brings most" in page
    held = shop.client().get("/loyalty/referrals?state=held").text
    assert "friend-1" in held
    assert "friend-0" not in held
    assert "一周内邀请的好友超过上限" in shop.client(language="zh").get("/loyalty/referrals?state=held").text


@pytest.mark.parametrize(("op", "state"), [("approve", "joined"), ("reject", "rejected")])
def test_who_is_held_is_decided_by_a_person(shop: Shop, op: str, state: str) -> None:
    _, held = given_referrals(shop)
    assert states(shop) == ["rewarded", "held"]
    analyst = shop.client("analyst@example.com")
    assert analyst.post(f"/loyalty/referrals/{held}/{op}").status_code == 403
    assert states(shop) == ["rewarded", "held"]
    marketer = shop.client("marketer@example.com")
    assert marketer.post(f"/loyalty/referrals/{held}/{op}").status_code == 303
    assert states(shop) == ["rewarded", state]
    marketer.post(f"/loyalty/referrals/{held}/{op}")  # the second click is refused in words
    assert states(shop) == ["rewarded", state]


def test_pages_work_on_both_databases(empty_shop: Shop) -> None:
    given: Any = empty_shop
    with given.database.write() as session:
        session.add(
            Member(source="shop", external_id="m1", tags=[], attributes={}, fingerprint="x",
                   created_at=seed.NOW, updated_at=seed.NOW)
        )  # fmt: skip
    given_referrals(given)
    assert given.client().get("/loyalty/referrals").status_code == 200
    assert given.client().get("/loyalty/review").status_code == 200
    assert given.client().get("/loyalty/groups").status_code == 200
