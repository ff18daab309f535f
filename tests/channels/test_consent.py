"""Consent and suppression."""

from __future__ import annotations

import itertools
from datetime import timedelta

import pytest
import sqlalchemy as sa

from channels import consent
from channels.consent import MARKETING, TRANSACTIONAL
from channels.models import Consent, Suppression
from core.contacts import blind_index
from core.db import Database
from core.errors import InvalidInput
from core.imports import ConsentChange
from core.models import Member
from tests.channels.seed import NOW, add_members, email_of
from tests.conftest import count


def test_the_newest_answer_counts_in_whatever_order_they_arrive(db: Database) -> None:
    answers = [
        ConsentChange(1, "email", MARKETING, True, "shop", NOW),
        ConsentChange(1, "email", MARKETING, False, "link", NOW + timedelta(hours=1)),
        ConsentChange(1, "email", MARKETING, True, "form", NOW + timedelta(hours=2)),
        ConsentChange(1, "email", MARKETING, False, "reply", NOW + timedelta(hours=2)),
    ]
    add_members(db, range(1, 25), consent=False)
    for member, order in enumerate(itertools.permutations(answers), 1):
        for answer in order:
            with db.write() as session:
                consent.set_many(session, [answer._replace(member_id=member)])
    with db.read() as session:
        found = session.execute(
            sa.select(Consent.granted, Consent.source, sa.func.count()).group_by(
                Consent.granted, Consent.source
            )
        ).all()
    assert [tuple(r) for r in found] == [(False, "reply", 24)]
    assert count(db, "consent_events") == 24 * 4


def test_a_replay_changes_nothing_and_a_batch_may_repeat_a_member(db: Database) -> None:
    add_members(db, [1], consent=False)
    rows = [
        ConsentChange(1, "sms", MARKETING, n % 2 == 0, "import", NOW + timedelta(seconds=n)) for n in range(5)
    ]
    for _ in range(2):
        with db.write() as session:
            consent.set_many(session, iter(rows))
    with db.read() as session:
        assert session.scalars(sa.select(Consent.granted)).all() == [True]
    assert (count(db, "consents"), count(db, "consent_events")) == (1, 5)


def test_refusals_name_their_reason(db: Database) -> None:
    add_members(db, range(1, 8))
    with db.write() as session:
        session.execute(sa.update(Member).where(Member.id == 1).values(erased_at=NOW))
        session.execute(sa.update(Member).where(Member.id == 2).values(email=None, email_index=None))
        consent.withdraw(session, 3, "email", MARKETING, "test", NOW + timedelta(seconds=1))
        for member, reason in ((4, "hard_bounce"), (5, "complaint")):
            consent.suppress(
                session, "email", blind_index("email", email_of(member)) or "", reason, "test", NOW
            )
        everyone = [*range(1, 8), 99]
        assert consent.refusals(session, everyone, "email", MARKETING) == {
            1: "erased", 2: "no_address", 3: "no_consent", 4: "suppressed", 5: "suppressed", 99: "erased",
        }  # fmt: skip
        assert consent.refusals(session, everyone, "email", TRANSACTIONAL) == {
            1: "erased", 2: "no_address", 4: "suppressed", 99: "erased",
        }  # fmt: skip
        assert consent.allowed(session, everyone, "email", MARKETING) == {6, 7}
        assert consent.allowed(session, range(1, 8), "sms", MARKETING) == {2, 3, 4, 5, 6, 7}


def test_a_hard_reason_replaces_a_soft_one_and_never_the_other_way(db: Database) -> None:
    def reason() -> list[str]:
        with db.read() as session:
            return list(session.scalars(sa.select(Suppression.reason)))

    for given, expected in (
        ("complaint", "complaint"),
        ("hard_bounce", "hard_bounce"),
        ("manual", "hard_bounce"),
    ):
        with db.write() as session:
            consent.suppress(session, "email", "a" * 32, given, "test", NOW, {"why": given})
        assert reason() == [expected]
    with db.write() as session:
        assert consent.unsuppress(session, "email", "a" * 32)
        assert not consent.unsuppress(session, "email", "a" * 32)
    assert reason() == []


@pytest.mark.parametrize(
    ("channel", "purpose", "field"), [("fax", MARKETING, "channel"), ("sms", "spam", "purpose")]
)
def test_unknown_channels_and_purposes_are_refused(
    sqlite_db: Database, channel: str, purpose: str, field: str
) -> None:
    add_members(sqlite_db, [1], consent=False)
    with sqlite_db.write() as session, pytest.raises(InvalidInput) as error:
        consent.grant(session, 1, channel, purpose, "test", NOW)
    assert error.value.field == field
    assert count(sqlite_db, "consent_events") == 0


def test_a_file_does_not_undo_what_a_member_told_us(db: Database) -> None:
    add_members(db, [1, 2, 3], consent=False)
    later = NOW + timedelta(days=1)
    with db.write() as session:
        consent.set_imported(
            session, [ConsentChange(n, "email", MARKETING, True, "import", NOW) for n in (1, 2)]
        )
        consent.withdraw(session, 1, "email", MARKETING, "message:link", NOW + timedelta(hours=1))
        consent.set_imported(
            session, [ConsentChange(2, "email", MARKETING, False, "import", NOW + timedelta(hours=1))]
        )
        assert consent.allowed(session, [1, 2], "email", MARKETING) == set()
        consent.set_imported(
            session, [ConsentChange(n, "email", MARKETING, True, "import", later) for n in (1, 2, 3)]
        )
        assert consent.allowed(session, [1, 2, 3], "email", MARKETING) == {2, 3}
