"""Codes handed on, codes of other systems, and very many codes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from core.db import Database
from core.errors import Conflict, InvalidInput
from loyalty import coupons, foreign_codes, transfers
from loyalty.coupons import Refused
from loyalty.foreign_codes import Line
from loyalty.models import Coupon, CouponBatch
from tests.conftest import count
from tests.loyalty.data import NOW, add_batch, add_members


def issue(database: Database, batch: CouponBatch, *rows: tuple[int | None, str]) -> dict[str, str]:
    with database.write() as session:
        return coupons.issue(session, batch, rows, NOW)


def hand(database: Database, code: str, to: int, key: str = "t1", giver: int = 1) -> transfers.Transferred:
    with database.write() as session:
        return transfers.transfer(session, code, giver, to, idempotency_key=key, now=NOW)


def refusal(what: Any) -> str:
    with pytest.raises(Refused) as caught:
        what()
    return caught.value.reason


def test_a_code_is_handed_on_once_within_the_receivers_limit(db: Database) -> None:
    add_members(db, 3)
    batch = add_batch(db, transferable=True, per_member_limit=1)
    made = issue(db, batch, (1, "a"), (3, "c"))
    done = hand(db, made["a"], 2)
    assert hand(db, made["a"], 2) == done
    with pytest.raises(Conflict, match="another request"):
        hand(db, made["a"], 3)
    assert refusal(lambda: hand(db, made["a"], 3, "t2")) == "other_member"
    assert refusal(lambda: hand(db, made["c"], 2, "t3", 3)) == "per_member_limit"
    with pytest.raises(InvalidInput):
        hand(db, made["c"], 3, "t4", 3)
    with db.read() as session:
        owners = session.scalars(sa.select(Coupon.member_id).order_by(Coupon.id)).all()
    assert owners == [2, 3]


def test_only_usable_codes_of_a_batch_that_allows_it_are_handed_on(db: Database) -> None:
    add_members(db, 2)
    (fixed,) = issue(db, add_batch(db), (1, "a")).values()
    assert refusal(lambda: hand(db, fixed, 2)) == "not_transferable"
    free = add_batch(db, name="free", transferable=True, starts_at=NOW + timedelta(days=1))
    (code,) = issue(db, free, (1, "b")).values()
    assert hand(db, code, 2).to_member_id == 2, "also before it is valid"
    with db.write() as session:
        coupons.revoke(session, [code], "ann", NOW)
    assert refusal(lambda: hand(db, code, 1, "t2", 2)) == "revoked"


def load(database: Database, batch: CouponBatch, *lines: tuple[Any, ...]) -> foreign_codes.Loaded:
    with database.write() as session:
        rows = [Line(number, *line) for number, line in enumerate(lines, 2)]
        return foreign_codes.load(session, batch, rows, "shop", NOW)


def test_codes_of_another_system_are_found_and_typing_errors_still_told(db: Database) -> None:
    add_members(db, 1)
    batch, other = add_batch(db, total_limit=3), add_batch(db, name="other", generic_code="MANY01")
    issue(db, other, (None, "x"))
    lines = [("ab-10", "m1"), ("OLD 0001",), ("AB10",), ("?",), ("z1", "m9"), ("many01",), ("q99", "nobody")]
    loaded = load(db, batch, *lines)
    assert (loaded.inserted, loaded.unchanged) == (2, 0)
    assert [(line.number, reason.split()[0]) for line, reason in loaded.rejected] == [
        (4, "The"), (5, "A"), (6, "A"), (7, "The"), (8, "The")
    ]  # fmt: skip
    assert load(db, batch, *lines).unchanged == 2
    with db.write() as session:
        done = coupons.redeem(
            session, "Old-0001", order_ref="o", basket_minor=5000, currency="CNY",
            member_external_id=None, idempotency_key="k", now=NOW,
        )  # fmt: skip
        assert done.code == "OLD0001"
        assert coupons.look_up(session, "ab10", NOW).member_external_id == "m1"
        with pytest.raises(InvalidInput, match="typing error"):
            coupons.look_up(session, "AB11", NOW)
        assert session.scalar(sa.select(sa.func.count()).where(Coupon.foreign)) == 2
        assert session.scalar(sa.select(CouponBatch.issued).where(CouponBatch.id == batch.id)) == 2


def test_codes_of_another_system_keep_within_every_limit_of_the_batch(db: Database) -> None:
    add_members(db, 3)
    batch = add_batch(db, total_limit=6, daily_limit=4, per_member_limit=1, timezone="UTC")
    issue(db, batch, (1, "before"))
    loaded = load(
        db, batch, ("OLD1", "m1"), ("OLD2", "m2"), ("OLD3", "m2"), ("OLD4",), ("OLD5", "m3"), ("OLD6",)
    )
    assert loaded.inserted == 3
    assert loaded.rejected == (
        (Line(2, "OLD1", "m1"), "The member “m1” has the 1 codes that a member may have."),
        (Line(4, "OLD3", "m2"), "The member “m2” has the 1 codes that a member may have."),
        (Line(7, "OLD6"), "The 4 codes that may be given today are given; load it tomorrow."),
    )
    tomorrow = NOW + timedelta(days=1)
    with db.write() as session:
        lines = [Line(number, f"NEW{number}") for number in range(2, 6)]
        loaded = foreign_codes.load(session, batch, lines, "shop", tomorrow)
    assert loaded.inserted == 2
    assert [reason for _, reason in loaded.rejected] == ["The batch has room for 6 codes in all."] * 2
    with db.read() as session:
        assert session.scalar(sa.select(CouponBatch.issued).where(CouponBatch.id == batch.id)) == 6
        assert session.scalar(sa.select(sa.func.count()).select_from(Coupon)) == 6


def test_a_job_that_makes_codes_goes_on_where_it_stopped(db: Database) -> None:
    batch = add_batch(db)
    with db.write() as session:
        first = foreign_codes.generate_lot(session, batch, "print", 0, 300, NOW).codes
    with db.write() as session:
        again = foreign_codes.generate_lot(session, batch, "print", 0, 300, NOW).codes
        foreign_codes.generate_lot(session, batch, "print", 300, 200, NOW)
    assert (first == again, count(db, "coupons")) == (True, 500)
    with db.read() as session:
        rows = list(foreign_codes.exported(session, batch.id))
    assert (len(rows), {row[0] for row in rows} > set(first.values())) == (500, True)
    assert rows[0][1:] == ("issued", NOW.isoformat(), "", "")
