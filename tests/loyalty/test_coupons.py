"""Coupon batches and codes: issue, redeem, roll back, expire, revoke."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from core.db import Database
from core.errors import Conflict, HuiliuError, InvalidInput, NotFound
from core.models import AuditEntry, WarehouseMark
from loyalty import codes, coupons
from loyalty.benefits import discount, validate
from loyalty.coupons import Refused
from loyalty.models import Coupon, CouponBatch, Redemption
from tests.conftest import count
from tests.loyalty.data import NOW, add_batch, add_members


def redeem(database: Database, code: str, key: str = "k1", **changes: Any) -> coupons.Redeemed:
    values: dict[str, Any] = {
        "order_ref": "o1",
        "basket_minor": 5000,
        "currency": "CNY",
        "member_external_id": None,
        "now": NOW,
        **changes,
    }
    with database.write() as session:
        return coupons.redeem(session, code, idempotency_key=key, **values)


def one_code(database: Database, member: int | None = None, key: str = "i1", **batch: Any) -> str:
    made = add_batch(database, **batch)
    with database.write() as session:
        return coupons.issue(session, made, [(member, key)], NOW)[key]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": " "}, "name"),
        ({"title": ""}, "title"),
        ({"benefit": {"type": "free"}}, "benefit.type"),
        ({"benefit": {"type": "fixed", "amount": 0}}, "benefit.amount"),
        ({"benefit": {"type": "fixed", "amount": 1.5}}, "benefit.amount"),
        ({"benefit": {"type": "percent", "percent": 100.5}}, "benefit.percent"),
        ({"benefit": {"type": "percent", "percent": "x"}}, "benefit.percent"),
        ({"benefit": {"type": "percent", "percent": 10, "max_amount": -1}}, "benefit.max_amount"),
        ({"currency": "yuan"}, "currency"),
        ({"min_spend_minor": -1}, "min_spend_minor"),
        ({"total_limit": 0}, "total_limit"),
        ({"per_member_limit": 0}, "per_member_limit"),
        ({"valid_days": 0}, "valid_days"),
        ({"ends_at": NOW}, "ends_at"),
        ({"starts_at": NOW + timedelta(days=2), "ends_at": NOW + timedelta(days=1)}, "ends_at"),
        ({"settlement_share": 1.1}, "settlement_share"),
        ({"random_chars": 8}, "random_chars"),
        ({"prefix": "OK!"}, "prefix"),
    ],
)
def test_a_wrong_batch_is_refused_with_its_field(
    sqlite_db: Database, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        add_batch(sqlite_db, **changes)
    assert caught.value.field == field
    assert count(sqlite_db, "coupon_batches") == 0


def test_a_batch_is_stored_once_with_an_audit_row(db: Database) -> None:
    batch = add_batch(db, prefix="vp")
    assert (batch.prefix, batch.issued, batch.created_by) == ("VP", 0, "ann")
    with pytest.raises(Conflict, match="another name"):
        add_batch(db)
    with db.read() as session:
        assert session.scalars(sa.select(AuditEntry.action)).all() == ["create"]


def test_five_thousand_members_get_a_code_each_and_the_same_one_again(db: Database) -> None:
    add_members(db, 5000)
    batch = add_batch(db, prefix="VP")
    rows = [(n, f"run:1:{n}") for n in range(1, 5001)]
    with db.write() as session:
        first = coupons.issue(session, batch, rows, NOW)
    assert len(first) == len(set(first.values())) == 5000
    with db.write() as session:
        assert coupons.issue(session, batch, [*rows, (1, "run:2:1")], NOW) == {
            **first,
            "run:2:1": session.scalars(sa.select(Coupon.code).where(Coupon.issue_key == "run:2:1")).one(),
        }
    assert count(db, "coupons") == 5001
    with db.read() as session:  # without a limit the batch's row is never touched
        assert session.get_one(CouponBatch, batch.id).issued == 0


def test_an_issue_key_of_another_member_or_batch_is_a_conflict(db: Database) -> None:
    add_members(db, 2)
    batch, other = add_batch(db), add_batch(db, name="other")
    with db.write() as session:
        coupons.issue(session, batch, [(1, "k")], NOW)
    for given, rows in ((batch, [(2, "k")]), (other, [(1, "k")]), (batch, [(1, "z"), (2, "z")])):
        with pytest.raises(Conflict), db.write() as session:
            coupons.issue(session, given, rows, NOW)
    assert count(db, "coupons") == 1


def test_the_total_limit_goes_to_the_first_rows_and_says_who_got_none(db: Database) -> None:
    add_members(db, 5)
    batch = add_batch(db, total_limit=3)
    rows = [(n, f"k{n}") for n in range(1, 6)]
    with db.write() as session:
        issued = coupons.issue_detailed(session, batch, rows, NOW)
    assert set(issued.codes) == {"k1", "k2", "k3"}
    assert issued.refused == {"k4": "total_limit", "k5": "total_limit"}
    with db.write() as session:  # a repetition takes nothing off the limit
        assert coupons.issue(session, batch, rows, NOW) == issued.codes
    with db.read() as session:
        assert session.get_one(CouponBatch, batch.id).issued == 3


def test_the_limit_a_member_counts_earlier_and_same_call_codes(db: Database) -> None:
    add_members(db, 2)
    batch = add_batch(db, per_member_limit=2)
    with db.write() as session:
        coupons.issue(session, batch, [(1, "a")], NOW)
        issued = coupons.issue_detailed(
            session, batch, [(1, "b"), (1, "c"), (2, "d"), (None, "e"), (None, "f"), (None, "g")], NOW
        )
    assert set(issued.codes) == {"b", "d", "e", "f", "g"}
    assert issued.refused == {"c": "per_member_limit"}


def test_an_archived_or_ended_batch_issues_nothing(db: Database) -> None:
    batch = add_batch(db, ends_at=NOW + timedelta(days=1))
    with db.write() as session, pytest.raises(Conflict, match="ended"):
        coupons.issue(session, batch, [(None, "k")], NOW + timedelta(days=1))
    with db.write() as session:
        found = coupons.find_batch(session, "spring")
        coupons.archive_batch(session, found, "ann", NOW)
        with pytest.raises(Conflict, match="archived"):
            coupons.issue(session, found, [(None, "k")], NOW)
    assert count(db, "coupons") == 0


@pytest.mark.parametrize(
    ("ends", "days", "starts", "expected"),
    [(None, None, None, None), (9, None, None, 9), (None, 3, None, 3), (2, 3, None, 2), (9, 3, 2, 5)],
)
def test_a_code_ends_with_its_days_or_its_batch(
    ends: int | None, days: int | None, starts: int | None, expected: int | None
) -> None:
    def at(offset: int | None) -> datetime | None:
        return None if offset is None else NOW + timedelta(days=offset)

    from loyalty.batches import validity_end

    assert validity_end(at(ends), days, at(starts), NOW) == at(expected)


@pytest.mark.parametrize(
    ("benefit", "basket", "off"),
    [
        ({"type": "fixed", "amount": 1000}, 5000, 1000),
        ({"type": "fixed", "amount": 1000}, 300, 300),
        ({"type": "percent", "percent": 10}, 1105, 111),  # 110.5 rounds half up
        ({"type": "percent", "percent": 12.5}, 1000, 125),
        ({"type": "percent", "percent": 100}, 777, 777),
        ({"type": "percent", "percent": 50, "max_amount": 200}, 1000, 200),
        ({"type": "percent", "percent": 1}, 0, 0),
    ],
)
def test_what_a_code_takes_off(benefit: dict[str, Any], basket: int, off: int) -> None:
    assert discount(validate(benefit), basket) == off


def test_a_code_is_redeemed_once_and_the_same_request_gets_the_same_answer(db: Database) -> None:
    add_members(db, 1)
    code = one_code(db, member=1)
    first = redeem(db, f" {code.lower()[:4]}-{code[4:]} ", member_external_id="m1")
    assert (first.discount_minor, first.batch, first.order_ref) == (1000, "spring", "o1")
    assert redeem(db, code, member_external_id="m1", now=NOW + timedelta(days=9)) == first
    with pytest.raises(Conflict, match="another request"):
        redeem(db, code, member_external_id="m1", basket_minor=6000)
    with pytest.raises(Refused) as caught:
        redeem(db, code, "k2", order_ref="o2")
    assert caught.value.reason == "already_redeemed"
    assert count(db, "redemptions") == 1
    with db.read() as session:
        marks = session.execute(sa.select(WarehouseMark.table_name, WarehouseMark.month)).all()
        assert [tuple(row) for row in marks] == [("redemptions", "2026-03")]
        assert session.scalars(sa.select(Redemption.member_id)).one() == 1


@pytest.mark.parametrize(
    ("batch", "request_", "reason"),
    [
        ({"ends_at": NOW + timedelta(days=1)}, {"now": NOW + timedelta(days=1)}, "expired"),
        ({"valid_days": 2}, {"now": NOW + timedelta(days=2)}, "expired"),
        ({"starts_at": NOW + timedelta(days=1)}, {}, "not_yet_valid"),
        ({}, {"member_external_id": "m2"}, "other_member"),
        ({}, {"member_external_id": "nobody"}, "other_member"),
        ({"min_spend_minor": 5001}, {}, "below_min_spend"),
        ({}, {"currency": "USD"}, "wrong_currency"),
    ],
)
def test_every_refusal_says_why_and_writes_nothing(
    db: Database, batch: dict[str, Any], request_: dict[str, Any], reason: str
) -> None:
    add_members(db, 2)
    code = one_code(db, member=1, **batch)
    with pytest.raises(Refused) as caught:
        redeem(db, code, **request_)
    assert caught.value.reason == reason
    assert reason in coupons.redeem.__globals__["REASONS"]
    assert count(db, "redemptions") == 0
    assert count(db, "warehouse_marks") == 0


def test_archived_and_revoked_codes_are_refused(db: Database) -> None:
    code = one_code(db)
    with db.write() as session:
        assert coupons.revoke(session, [code], "ann", NOW) == 1
        assert coupons.revoke(session, [code], "ann", NOW) == 0
    with pytest.raises(Refused, match="revoked"):
        redeem(db, code)
    with db.write() as session:
        batch = coupons.find_batch(session, "spring")
        other = coupons.issue(session, batch, [(None, "i2")], NOW)["i2"]
        coupons.archive_batch(session, batch, "ann", NOW)
    with pytest.raises(Refused) as caught:
        redeem(db, other)
    assert caught.value.reason == "archived"


def test_an_unknown_code_is_told_apart_from_a_mistyped_one(db: Database) -> None:
    code = one_code(db)
    unknown = next(c for c in codes.generate("", 12, 2) if c != code)
    with pytest.raises(NotFound):
        redeem(db, unknown)
    wrong = code[:-1] + next(s for s in codes.ALPHABET if s != code[-1])
    with pytest.raises(InvalidInput, match="typing error"):
        redeem(db, wrong)


def test_anybodys_code_notes_the_member_where_it_is_known(db: Database) -> None:
    add_members(db, 1)
    batch = add_batch(db)
    with db.write() as session:
        made = coupons.issue(session, batch, [(None, "a"), (None, "b")], NOW)
    redeem(db, made["a"], "k1", member_external_id="m1")
    redeem(db, made["b"], "k2", member_external_id="a guest")
    with db.read() as session:
        assert session.scalars(sa.select(Redemption.member_id).order_by(Redemption.id)).all() == [1, None]


def test_a_rollback_gives_the_code_back_once(db: Database) -> None:
    code = one_code(db)
    redeem(db, code)

    def roll(key: str, order: str = "o1") -> coupons.Redeemed:
        with db.write() as session:
            return coupons.rollback(session, code, order_ref=order, idempotency_key=key, now=NOW)

    with pytest.raises(Conflict, match="not redeemed on the order"):
        roll("r0", "another")
    first = roll("r1")
    assert first.rolled_back_at == NOW
    redeem(db, code, "k2")  # on the same order, anew
    assert roll("r1") == first  # a late repetition does not undo the second redemption
    with pytest.raises(Conflict, match="another request"):
        roll("r1", "another")
    with db.read() as session:
        assert coupons.look_up(session, code, NOW).state == "redeemed"
        live = session.scalars(sa.select(Redemption).where(Redemption.rolled_back_at.is_(None))).one()
        assert live.idempotency_key == "k2"
    assert redeem(db, code).rolled_back_at is None  # the first request's answer stays what it was


def test_a_code_that_is_over_comes_back_expired(db: Database) -> None:
    code = one_code(db, valid_days=1)
    redeem(db, code)
    later = NOW + timedelta(days=2)
    with db.write() as session:
        coupons.rollback(session, code, order_ref="o1", idempotency_key="r", now=later)
    with pytest.raises(Refused, match="valid until"):
        redeem(db, code, "k2", now=later)


def test_expiry_sweeps_only_issued_codes_that_are_over(db: Database) -> None:
    batch, lasting = add_batch(db, valid_days=1), add_batch(db, name="lasting")
    with db.write() as session:
        made = coupons.issue(session, batch, [(None, f"k{n}") for n in range(5)], NOW)
        coupons.issue(session, lasting, [(None, "l")], NOW)
    redeem(db, made["k0"])
    with db.write() as session:
        assert coupons.expire(session, NOW + timedelta(hours=23), 100) == 0
        assert coupons.expire(session, NOW + timedelta(days=1), 3) == 3
        assert coupons.expire(session, NOW + timedelta(days=1), 3) == 1
        assert coupons.expire(session, NOW + timedelta(days=1), 3) == 0
    with db.read() as session:
        states = session.execute(sa.select(Coupon.state, sa.func.count()).group_by(Coupon.state)).all()
    assert dict(tuple(row) for row in states) == {"redeemed": 1, "expired": 4, "issued": 1}


def test_a_code_is_shown_with_what_it_gives(db: Database) -> None:
    add_members(db, 1)
    code = one_code(db, member=1, valid_days=1)
    with db.read() as session:
        view = coupons.look_up(session, code, NOW)
        assert (view.batch, view.member_external_id, view.state) == ("spring", "m1", "issued")
        assert view.valid_until == NOW + timedelta(days=1)
        assert coupons.look_up(session, code, NOW + timedelta(days=1)).state == "expired"
        with pytest.raises(HuiliuError, match="not known"):
            coupons.look_up(session, codes.generate("", 12, 1)[0], NOW)
