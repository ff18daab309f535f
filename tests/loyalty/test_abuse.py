"""Signals, rules, hits, the allow-list, and wrong codes, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from core.contacts import blind_index
from core.db import Database
from core.errors import InvalidInput, NotFound
from core.models import AuditEntry
from loyalty.abuse import guesses, review, rules, signals
from loyalty.abuse.models import AbuseAllowance, AbuseHit, AbuseSignal
from loyalty.abuse.rules import BLOCK, DEFAULTS, Guessing, Rules, Shared, Velocity
from loyalty.abuse.signals import Verdict
from loyalty.abuse.subjects import subjects_of
from tests.conftest import count
from tests.loyalty.data import NOW, add_members, scalar

TWO_A_DAY = Rules(
    (Velocity("claims", "claim", "device", 2, 86_400),), (Shared("home", "address", 2, 30 * 86_400),)
)
DEVICE = {"device": "d-1"}


def given_rules(database: Database, found: Rules = TWO_A_DAY) -> None:
    with database.write() as session:
        rules.save_rules(session, found, "ann", NOW)


def seen(
    database: Database,
    subjects: dict[str, str | None],
    member: int | None = None,
    *,
    action: str = "claim",
    at: datetime = NOW,
    key: str | None = None,
) -> Verdict:
    with database.write() as session:
        return signals.observe(session, action, subjects, member, at, key=key)


def hits(database: Database) -> list[AbuseHit]:
    with database.read() as session:
        return list(session.scalars(sa.select(AbuseHit).order_by(AbuseHit.id)))


def test_nothing_that_a_client_sent_is_kept_in_plain(db: Database) -> None:
    add_members(db, 1)
    sent = {
        "device": "device-77",
        "address": "上海市 静安区 1 号",
        "phone": "13800138000",
        "ip": "203.0.113.7",
    }
    seen(db, {**sent}, 1)
    with db.read() as session:
        rows = session.scalars(sa.select(AbuseSignal)).all()
    assert {row.kind for row in rows} == {"member", "device", "address", "phone", "ip"}
    assert {len(row.hash) for row in rows} == {32}
    assert {row.hash for row in rows if row.kind == "phone"} == {blind_index("phone", "+8613800138000")}
    stored = " ".join(str(vars(row)) for row in rows)
    assert [value for value in sent.values() if value in stored] == []


def test_the_same_thing_written_differently_is_the_same_subject() -> None:
    one = subjects_of({"address": "上海市静安区南京西路1号", "phone": "138 0013 8000", "ip": "2001:db8::1"})
    other = subjects_of(
        {"address": " 上海市 静安区，南京西路１号 ", "phone": "+8613800138000", "ip": "2001:db8::9"}
    )
    assert one == other
    assert subjects_of({"ip": "203.0.113.7"}) == subjects_of({"ip": "::ffff:203.0.113.7"})
    assert subjects_of({"ip": "203.0.113.7"}) != subjects_of({"ip": "203.0.113.8"})


@pytest.mark.parametrize(
    ("subjects", "field"),
    [
        ({"phone": "abc"}, "phone"),
        ({"ip": "1.2.3"}, "ip"),
        ({"address": "，。"}, "address"),
        ({"device": "x" * 501}, "device"),
        ({"cookie": "x"}, "cookie"),
    ],
)
def test_a_value_that_cannot_be_read_is_named_and_nothing_written(
    db: Database, subjects: dict[str, str | None], field: str
) -> None:
    with pytest.raises(InvalidInput) as error:
        seen(db, {"device": "fine", **subjects})
    assert error.value.field == field
    assert count(db, "abuse_signals") == 0


def test_an_unknown_action_is_refused(db: Database) -> None:
    with pytest.raises(InvalidInput, match="“buy” is no action"):
        seen(db, DEVICE, action="buy")


def test_without_anything_to_know_somebody_by_nothing_is_noted(db: Database) -> None:
    assert seen(db, {"device": " ", "ip": None}) == Verdict()
    assert count(db, "abuse_signals") == 0


def test_up_to_the_limit_is_allowed_and_one_more_is_held(db: Database) -> None:
    given_rules(db)
    assert [seen(db, DEVICE).decision for _ in range(3)] == ["allow", "allow", "hold"]
    (hit,) = hits(db)
    assert (hit.rule, hit.kind, hit.state, hit.verdict, hit.times) == ("claims", "device", "open", "hold", 1)
    assert hit.evidence == {"count": 3, "limit": 2, "window_s": 86_400, "shared": False, "members": []}


def test_other_actions_other_subjects_and_times_outside_the_window_do_not_count(db: Database) -> None:
    given_rules(db)
    for _ in range(2):
        seen(db, DEVICE, at=NOW - timedelta(days=1))
        seen(db, {"device": "d-2"})
        seen(db, DEVICE, action="redeem")
    assert [seen(db, DEVICE).decision for _ in range(2)] == ["allow", "allow"]
    assert hits(db) == []


def test_a_storm_makes_one_hit_with_a_counter(db: Database) -> None:
    given_rules(db)
    for _ in range(12):
        seen(db, DEVICE)
    (hit,) = hits(db)
    assert (hit.times, hit.evidence["count"]) == (10, 12)


def test_the_next_window_has_a_hit_of_its_own(db: Database) -> None:
    given_rules(db)
    for at in (NOW, NOW + timedelta(days=1)):
        for _ in range(3):
            seen(db, DEVICE, at=at)
    assert [hit.bucket for hit in hits(db)] == [
        int(datetime(2026, 3, day, tzinfo=UTC).timestamp()) for day in (1, 2)
    ]


def test_a_repeated_request_is_no_second_action(db: Database) -> None:
    given_rules(db)
    for _ in range(5):
        assert seen(db, DEVICE, key="same").decision == "allow"
    assert count(db, "abuse_signals") == 1
    for key in ("b", "c", "c", "c"):
        seen(db, DEVICE, key=key)
    assert [hit.times for hit in hits(db)] == [1]


def test_too_many_members_at_one_address_are_held_and_the_others_named(db: Database) -> None:
    add_members(db, 4)
    given_rules(db)
    found = [seen(db, {"address": "1 Main St"}, member).decision for member in (1, 2, 2, 1, 3)]
    assert found == ["allow", "allow", "allow", "allow", "hold"]
    (hit,) = hits(db)
    assert (hit.rule, hit.member_id, hit.evidence["members"]) == ("home", 3, [1, 2])


def test_a_rule_that_blocks_outweighs_one_that_holds(db: Database) -> None:
    given_rules(
        db,
        Rules(
            (Velocity("a", "claim", "device", 1, 60), Velocity("b", "claim", "device", 1, 3600, BLOCK)), ()
        ),
    )
    seen(db, DEVICE)
    verdict = seen(db, DEVICE)
    assert verdict.decision == "block"
    assert [(hit.rule, hit.verdict, hit.count, hit.limit) for hit in verdict.hits] == [
        ("a", "hold", 2, 1),
        ("b", "block", 2, 1),
    ]


def test_a_dismissed_hit_lets_its_subject_pass_and_a_confirmed_one_blocks_it(db: Database) -> None:
    given_rules(db)
    for _ in range(3):
        seen(db, DEVICE)
    (hit,) = hits(db)
    for state, decision in (("dismissed", "allow"), ("confirmed", "block")):
        with db.write() as session:
            review.decide(session, hit.id, state, "I asked them", "ann", NOW)
        assert seen(db, DEVICE).decision == decision
    with db.read() as session:
        actions = session.scalars(sa.select(AuditEntry.action).where(AuditEntry.object_type == "abuse_hit"))
        assert list(actions) == ["abuse.dismissed", "abuse.confirmed"]


def test_who_is_on_the_allow_list_breaks_no_rule_until_it_ends(db: Database) -> None:
    given_rules(db)
    for _ in range(3):
        seen(db, DEVICE)
    until = NOW + timedelta(hours=1)
    with db.write() as session:
        review.allow(session, hits(db)[0].id, "the counter's tablet", "ann", NOW, until)
    assert hits(db)[0].state == "dismissed"
    assert seen(db, DEVICE, at=NOW + timedelta(minutes=59)) == Verdict()
    assert seen(db, DEVICE, at=until).hits != ()
    with db.write() as session:
        row = session.scalars(sa.select(AbuseAllowance)).one()
        review.withdraw(session, row.kind, row.hash, "ann", NOW)
    assert count(db, "abuse_allowances") == 0


@pytest.mark.parametrize(("state", "reason"), [("open", "x"), ("confirmed", " "), ("dismissed", "x" * 301)])
def test_a_decision_without_sense_or_reason_changes_nothing(db: Database, state: str, reason: str) -> None:
    given_rules(db)
    for _ in range(3):
        seen(db, DEVICE)
    with pytest.raises(InvalidInput), db.write() as session:
        review.decide(session, hits(db)[0].id, state, reason, "ann", NOW)
    assert [hit.state for hit in hits(db)] == ["open"]


def test_a_hit_that_does_not_exist_cannot_be_decided(db: Database) -> None:
    with pytest.raises(NotFound), db.write() as session:
        review.decide(session, 7, "confirmed", "x", "ann", NOW)


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"velocity": [{"name": "x"}]}, "velocity"),
        ({"velocity": [{"name": "x", "action": "buy", "kind": "ip", "limit": 1, "window_s": 60}]}, "action"),
        ({"velocity": [{"name": "x", "action": "claim", "kind": "dna", "limit": 1, "window_s": 60}]}, "kind"),
        ({"velocity": [{"name": "x", "action": "claim", "kind": "ip", "limit": 0, "window_s": 60}]}, "limit"),
        (
            {"velocity": [{"name": "x", "action": "claim", "kind": "ip", "limit": 1, "window_s": 5}]},
            "window_s",
        ),
        ({"shared": [{"name": "x", "kind": "ip", "limit": 1, "window_s": 60}]}, "kind"),
        ({"shared": [{"name": "x", "kind": "phone", "limit": 1, "window_s": 60}] * 2}, "name"),
        ({"guessing": {"limit": True}}, "limit"),
        ({"guessing": {"first_s": 7200, "longest_s": 3600}}, "first_s"),
        ({"other": []}, "rules"),
    ],
)
def test_rules_that_make_no_sense_are_refused_by_field(value: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as error:
        rules.parse(value)
    assert error.value.field == field


def test_the_defaults_are_rules_that_can_be_saved_and_read_again(db: Database) -> None:
    given_rules(db, DEFAULTS)
    with db.read() as session:
        assert rules.load_rules(session) == DEFAULTS


def test_signals_that_no_rule_reaches_are_forgotten(db: Database) -> None:
    seen(db, DEVICE, at=NOW - timedelta(days=90))
    seen(db, DEVICE, at=NOW - timedelta(days=89))
    with db.write() as session:
        assert [signals.forget_old(session, NOW, 10) for _ in range(2)] == [1, 0]
    assert count(db, "abuse_signals") == 1


def test_what_two_members_have_in_common_is_found(db: Database) -> None:
    add_members(db, 3)
    seen(db, {"device": "a", "ip": "203.0.113.7"}, 1)
    seen(db, {"device": "a"}, 2, action="redeem")
    seen(db, {"device": "b", "ip": "203.0.113.7"}, 3)
    with db.read() as session:
        assert signals.in_common(session, 1, 2) == "device"
        assert signals.in_common(session, 1, 3) is None  # an IP address is no sign
    with db.write() as session:
        signals.forget_member(session, 2)
        assert signals.in_common(session, 1, 2) is None


# --- Wrong codes ---------------------------------------------------------------------------------------

GUESSER = subjects_of({"device": "d-1", "ip": "203.0.113.7"})


def wrong(database: Database, at: datetime = NOW, subjects: dict[str, str] = GUESSER) -> datetime | None:
    with database.write() as session:
        return guesses.failed(session, subjects, at)


def locked(database: Database, at: datetime, subjects: dict[str, str] = GUESSER) -> datetime | None:
    with database.read() as session:
        return guesses.locked_until(session, subjects, at)


def test_the_fifth_wrong_code_locks_for_a_quarter_of_an_hour(db: Database) -> None:
    assert [wrong(db) for _ in range(5)] == [None] * 4 + [NOW + timedelta(minutes=15)]
    assert locked(db, NOW + timedelta(minutes=14, seconds=59)) == NOW + timedelta(minutes=15)
    assert locked(db, NOW + timedelta(minutes=15)) is None
    assert locked(db, NOW, subjects_of({"device": "d-2"})) is None


def test_one_subject_in_common_is_enough_to_be_locked_out(db: Database) -> None:
    for _ in range(5):
        wrong(db)
    assert locked(db, NOW, {**subjects_of({"device": "another"}), **GUESSER}) is not None


def test_who_shares_an_ip_address_with_a_guesser_is_locked_out_much_later(db: Database) -> None:
    neighbour = subjects_of({"device": "another", "ip": "203.0.113.7"})
    for number in range(5 * guesses.CROWD):
        assert locked(db, NOW, neighbour) is None, number
        wrong(db, NOW, subjects_of({"device": f"d-{number}", "ip": "203.0.113.7"}))
    assert locked(db, NOW, neighbour) == NOW + timedelta(minutes=15)


def test_wrong_codes_further_apart_than_the_window_lock_nobody_out(db: Database) -> None:
    for turn in range(20):
        assert wrong(db, NOW + timedelta(minutes=10 * turn)) is None


def test_each_lock_out_is_twice_as_long_up_to_a_day(db: Database) -> None:
    at, lengths = NOW, []
    for _ in range(9):
        for _ in range(5):
            until = wrong(db, at)
        assert until is not None
        lengths.append((until - at) / timedelta(minutes=1))
        at = until
    assert lengths == [15, 30, 60, 120, 240, 480, 960, 1440, 1440]


def test_wrong_codes_during_a_lock_out_do_not_lengthen_it(db: Database) -> None:
    for _ in range(50):
        until = wrong(db)
    assert until == NOW + timedelta(minutes=15)
    assert scalar(db, "SELECT max(lockouts) FROM abuse_guesses") == 1


def test_a_right_code_forgets_the_wrong_ones(db: Database) -> None:
    for _ in range(4):
        wrong(db)
    with db.write() as session:
        guesses.succeeded(session, GUESSER)
    assert count(db, "abuse_guesses") == 0
    assert wrong(db) is None


def test_a_limit_of_one_locks_at_once(db: Database) -> None:
    given_rules(db, Rules((), (), Guessing(limit=1)))
    assert wrong(db) == NOW + timedelta(minutes=15)


def test_nobody_to_count_for_is_no_error(db: Database) -> None:
    assert wrong(db, subjects={}) is None
    assert locked(db, NOW, {}) is None
