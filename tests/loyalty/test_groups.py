"""Group offers and groups, on both databases."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from core.db import Database
from core.errors import Conflict, InvalidInput, NotFound
from core.models import Member
from loyalty.groups import groups, offers
from loyalty.groups.groups import Refused, Seated
from loyalty.groups.models import Group, GroupSeat
from loyalty.groups.offers import NewOffer
from tests.conftest import count
from tests.loyalty.data import NOW, add_batch, add_members, scalar

OFFER = NewOffer("tea", "Three for tea", seats=3, hours=24, batch_id=1)
DEADLINE = NOW + timedelta(hours=24)


def given_offer(
    database: Database, members: int = 5, batch: dict[str, Any] | None = None, **changes: Any
) -> None:
    add_members(database, members)
    batch_id = add_batch(database, **(batch or {})).id
    with database.write() as session:
        offers.create(session, replace(OFFER, batch_id=batch_id, **changes), "ann", NOW)


def opened(database: Database, leader: int = 1, key: str = "open", at: datetime = NOW) -> Seated:
    with database.write() as session:
        return groups.open_group(session, "tea", leader, idempotency_key=key, now=at)


def joined(database: Database, token: str, member: int, at: datetime = NOW, key: str | None = None) -> Seated:
    with database.write() as session:
        return groups.join(session, token, member, idempotency_key=key or f"join:{member}", now=at)


def filled(database: Database, token: str, members: Iterable[int]) -> None:
    for member in members:
        joined(database, token, member)


def states(database: Database) -> tuple[list[str], list[str]]:
    """States of the groups, and of the seats."""
    with database.read() as session:
        return (
            list(session.scalars(sa.select(Group.state).order_by(Group.id))),
            list(session.scalars(sa.select(GroupSeat.state).order_by(GroupSeat.member_id))),
        )


def test_the_last_seat_unlocks_the_group_with_a_code_for_everybody(db: Database) -> None:
    given_offer(db)
    group = opened(db)
    assert (group.taken, group.state, group.code, group.deadline) == (1, "open", None, DEADLINE.isoformat())
    assert (joined(db, group.token, 2).state, count(db, "coupons")) == ("open", 0)
    last = joined(db, group.token, 3)
    assert (last.taken, last.state) == (3, "unlocked")
    assert states(db) == (["unlocked"], ["unlocked"] * 3)
    with db.engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT issue_key, code FROM coupons ORDER BY issue_key")).all()
    assert [row.issue_key for row in rows] == ["group:1:1", "group:1:2", "group:1:3"]
    assert last.code == rows[2].code


def test_after_that_it_is_full(db: Database) -> None:
    given_offer(db)
    token = opened(db).token
    filled(db, token, (2, 3))
    with pytest.raises(Refused, match="full") as error:
        joined(db, token, 4)
    assert error.value.reason == "full"
    assert (count(db, "group_seats"), count(db, "coupons")) == (3, 3)


def test_from_the_deadline_on_nobody_joins(db: Database) -> None:
    given_offer(db)
    token = opened(db).token
    joined(db, token, 2, DEADLINE - timedelta(microseconds=1))
    with pytest.raises(Refused) as error:
        joined(db, token, 3, DEADLINE)
    assert error.value.reason == "over"
    assert states(db) == (["open"], ["held"] * 2)


def test_a_group_that_did_not_fill_releases_its_seats_once(db: Database) -> None:
    given_offer(db)
    token = opened(db).token
    joined(db, token, 2)
    with db.write() as session:
        assert groups.close_due(session, DEADLINE - timedelta(seconds=1), 10) == 0
        assert [groups.close_due(session, DEADLINE, 10) for _ in range(2)] == [1, 0]
    assert states(db) == (["failed"], ["released"] * 2)
    with pytest.raises(Refused, match="over"):  # even by a clock that is behind
        joined(db, token, 3)
    assert count(db, "coupons") == 0


def test_an_unlocked_group_is_not_closed(db: Database) -> None:
    given_offer(db)
    filled(db, opened(db).token, (2, 3))
    with db.write() as session:
        assert groups.close_due(session, DEADLINE, 10) == 0
    assert states(db) == (["unlocked"], ["unlocked"] * 3)


def test_the_same_key_answers_the_same_and_another_body_is_refused(db: Database) -> None:
    given_offer(db)
    group = opened(db)
    assert opened(db) == group
    first = joined(db, group.token, 2, key="k")
    joined(db, group.token, 3)
    assert joined(db, group.token, 2, key="k") == first
    with pytest.raises(Conflict, match="another request"):
        joined(db, group.token, 4, key="k")
    assert (count(db, "groups"), count(db, "group_seats")) == (1, 3)


def test_who_has_a_seat_keeps_it_and_learns_the_code(db: Database) -> None:
    given_offer(db)
    token = opened(db).token
    assert joined(db, token, 1, key="again").taken == 1
    filled(db, token, (2, 3))
    found = joined(db, token, 1, key="later")
    assert (found.state, found.taken) == ("unlocked", 3)
    assert found.code == scalar(db, "SELECT code FROM coupons WHERE member_id = 1")


def test_a_member_is_in_as_many_open_groups_as_the_offer_says(db: Database) -> None:
    given_offer(db, max_open=2)
    tokens = [opened(db, leader, f"o{leader}").token for leader in (1, 2, 3)]
    joined(db, tokens[0], 4, key="a")
    joined(db, tokens[1], 4, key="b")
    for attempt in (lambda: joined(db, tokens[2], 4, key="c"), lambda: opened(db, 4, "d")):
        with pytest.raises(Refused) as error:
            attempt()
        assert error.value.reason == "too_many_groups"
    with db.write() as session:
        groups.close_due(session, DEADLINE, 10)
    assert opened(db, 4, "e", DEADLINE).state == "open"


def test_where_codes_do_not_suffice_for_all_nobody_gets_one(db: Database) -> None:
    given_offer(db, batch={"total_limit": 2})
    token = opened(db).token
    joined(db, token, 2)
    with pytest.raises(Refused) as error:
        joined(db, token, 3)
    assert error.value.reason == "no_codes"
    assert states(db) == (["open"], ["held"] * 2)
    assert (count(db, "coupons"), scalar(db, "SELECT issued FROM coupon_batches")) == (0, 0)


def test_an_offer_that_is_over_or_archived_opens_no_group_and_open_ones_may_fill(db: Database) -> None:
    given_offer(db, ends_at=NOW + timedelta(hours=1))
    token = opened(db).token
    later = NOW + timedelta(hours=1)
    with pytest.raises(Refused, match="not in force"):
        opened(db, 2, "late", later)
    with db.write() as session:
        offers.archive(session, 1, "ann", NOW)
    with pytest.raises(Refused, match="not in force"):
        opened(db, 2, "archived")
    filled(db, token, (2, 3))
    assert states(db)[0] == ["unlocked"]


def test_what_does_not_exist_is_not_found(db: Database) -> None:
    given_offer(db)
    with pytest.raises(NotFound):
        joined(db, "nothing", 1)
    with pytest.raises(NotFound), db.write() as session:
        groups.open_group(session, "coffee", 1, idempotency_key="k", now=NOW)
    assert count(db, "loyalty_requests") == 0


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": ""}, "name"),
        ({"title": " "}, "title"),
        ({"seats": 1}, "seats"),
        ({"seats": 101}, "seats"),
        ({"hours": 0}, "hours"),
        ({"max_open": 0}, "max_open"),
        ({"ends_at": NOW}, "ends_at"),
        ({"starts_at": NOW + timedelta(2), "ends_at": NOW + timedelta(1)}, "ends_at"),
        ({"batch": {"ends_at": NOW + timedelta(hours=30)}}, "ends_at"),
        ({"batch": {"ends_at": NOW + timedelta(hours=30)}, "ends_at": NOW + timedelta(hours=7)}, "ends_at"),
    ],
)
def test_an_offer_that_makes_no_sense_is_refused_by_field(
    db: Database, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as error:
        given_offer(db, **changes)
    assert error.value.field == field
    assert count(db, "group_offers") == 0


def test_a_name_in_use_and_an_unknown_batch_are_refused(db: Database) -> None:
    given_offer(db)
    with pytest.raises(Conflict, match="already"), db.write() as session:
        offers.create(session, OFFER, "ann", NOW)
    with pytest.raises(InvalidInput, match="in use"), db.write() as session:
        offers.create(session, replace(OFFER, name="x", batch_id=9), "ann", NOW)


def test_a_stranger_sees_initials_and_no_ids(db: Database) -> None:
    given_offer(db)
    with db.write() as session:
        session.execute(sa.update(Member).where(Member.id == 1).values(name="王小明"))
    token = opened(db).token
    joined(db, token, 2, NOW + timedelta(minutes=1))
    with db.read() as session:
        found = groups.look(session, token, NOW)
        assert groups.look(session, token, DEADLINE).state == "failed"
    assert (found.faces, found.taken, found.seats, found.state) == (("王**", "**"), 2, 3, "open")


def test_a_members_link_opens_its_own_group_only() -> None:
    text = groups.member_token(7, 3)
    assert groups.read_member_token(text, 7) == 3
    assert [groups.read_member_token(other, 8) for other in (text, "", text[:-1])] == [None] * 3
