"""Loyalty → Group buying: offers by form, their groups, the success rate."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from core.models import AuditEntry, Member
from loyalty.groups import groups, offers
from loyalty.groups.models import GroupOffer
from loyalty.groups.offers import NewOffer
from tests.loyalty.data import add_batch
from tests.web import seed
from tests.web.conftest import Shop

FORM = {"name": "tea", "title": "Three for tea", "seats": "3", "hours": "24", "max_open": "1"}


def given_batch(shop: Shop) -> int:
    return add_batch(shop.database, name="group-tea", title="Tea for all").id


def given_groups(shop: Shop) -> None:
    """One unlocked, one failed, one open; 2 seats each."""
    batch_id = given_batch(shop)
    with shop.database.write() as session:
        members = session.scalars(sa.select(Member.id).order_by(Member.id).limit(4)).all()
        new = NewOffer("tea", "Two for tea", 2, 1, batch_id, max_open=9)
        offers.create(session, new, "ann", seed.NOW)
        made = [
            groups.open_group(session, "tea", member, idempotency_key=f"o{member}", now=seed.NOW)
            for member in members[:2]
        ]
        groups.join(session, made[0].token, members[2], idempotency_key="j", now=seed.NOW)
        groups.close_due(session, seed.NOW.replace(hour=23), 10)
        groups.open_group(session, "tea", members[3], idempotency_key="o", now=seed.NOW)


def test_an_empty_page_teaches_what_an_offer_is(shop: Shop) -> None:
    assert "No group offers yet" in shop.client().get("/loyalty/groups").text


def test_an_offer_is_made_by_the_form_and_archived(shop: Shop) -> None:
    admin = shop.client()
    form = {**FORM, "batch_id": str(given_batch(shop))}
    assert admin.post("/loyalty/groups/new", form).status_code == 303
    page = admin.get("/loyalty/groups").text
    assert "Three for tea" in page
    assert "Tea for all" in page
    assert admin.post("/loyalty/groups/1/archive").status_code == 303
    with shop.database.read() as session:
        assert session.scalars(sa.select(GroupOffer.archived_at)).one() == seed.NOW
        query = sa.select(AuditEntry.action).where(AuditEntry.object_type == "group_offer")
        assert list(session.scalars(query)) == ["create", "archive"]


@pytest.mark.parametrize(
    "changes",
    [{"seats": "1"}, {"hours": ""}, {"batch_id": ""}, {"batch_id": "999"}, {"ends_at": "2020-01-01T00:00"}],
)
def test_a_form_with_a_mistake_comes_back_filled_in(shop: Shop, changes: dict[str, str]) -> None:
    form = {**FORM, "batch_id": str(given_batch(shop)), **changes}
    answer = shop.client().post("/loyalty/groups/new", form)
    assert answer.status_code == 422
    assert "Three for tea" in answer.text
    with shop.database.read() as session:
        assert session.scalars(sa.select(GroupOffer)).all() == []


def test_groups_are_counted_by_state_and_listed(shop: Shop) -> None:
    given_groups(shop)
    admin = shop.client()
    page = admin.get("/loyalty/groups").text
    assert "50%" in page
    assert "of 2" in page
    assert "1 <span" in page  # seats taken of the open one
    assert "2 <span" in admin.get("/loyalty/groups?state=unlocked").text
    assert "No groups here." not in admin.get("/loyalty/groups?state=failed").text


def test_who_may_only_look_makes_no_offer(shop: Shop) -> None:
    form = {**FORM, "batch_id": str(given_batch(shop))}
    analyst = shop.client("analyst@example.com")
    assert analyst.get("/loyalty/groups").status_code == 200
    assert analyst.post("/loyalty/groups/new", form).status_code == 403
    with shop.database.read() as session:
        assert session.scalars(sa.select(GroupOffer)).all() == []
