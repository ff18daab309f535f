"""Lots of codes copied straight into the table, on PostgreSQL: where keys are there already, as before."""

from __future__ import annotations

import pytest

from core.db import Database
from loyalty import coupons, issuing
from tests.conftest import count
from tests.loyalty.data import NOW, add_batch, add_members, scalar, together


@pytest.fixture(autouse=True)
def _straight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(issuing, "STRAIGHT_ROWS", 10)


def test_a_lot_of_which_some_was_there_keeps_it_and_adds_the_rest(pg_db: Database) -> None:
    batch = add_batch(pg_db)
    with pg_db.write() as session:
        first = coupons.issue(session, batch, [(None, f"i{n}") for n in range(40)], NOW)
    with pg_db.write() as session:
        found = coupons.issue(session, batch, [(None, f"i{n}") for n in range(30, 90)], NOW)
    assert count(pg_db, "coupons") == 90
    assert len(found) == 60
    assert {key: found[key] for key in list(first)[30:]} == {key: first[key] for key in list(first)[30:]}


def test_what_the_transaction_did_before_a_lot_that_was_there_is_kept(pg_db: Database) -> None:
    batch = add_batch(pg_db, total_limit=100)
    rows = [(None, f"i{n}") for n in range(50)]
    for _ in range(2):
        with pg_db.write() as session:
            coupons.issue(session, batch, rows, NOW)
    assert (count(pg_db, "coupons"), scalar(pg_db, "SELECT issued FROM coupon_batches")) == (50, 50)


def test_the_same_lot_at_once_gives_the_same_codes(pg_db: Database) -> None:
    add_members(pg_db, 200)
    batch = add_batch(pg_db)
    answers = []

    def run() -> None:
        with pg_db.write() as session:
            answers.append(coupons.issue(session, batch, [(n, f"i{n}") for n in range(1, 201)], NOW))

    assert together([run] * 8) == {"done": 8}
    assert all(answer == answers[0] for answer in answers)
    assert count(pg_db, "coupons") == 200
