"""Wrong codes and signals that come at once, on PostgreSQL; each race is lost without what wins it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import sqlalchemy as sa

from core.db import Database
from loyalty.abuse import guesses, rules, signals
from loyalty.abuse.models import AbuseGuess
from loyalty.abuse.rules import Guessing, Rules, Velocity
from loyalty.abuse.subjects import subjects_of
from tests.loyalty.data import NOW, scalar, together

GUESSER = subjects_of({"device": "d-1", "ip": "203.0.113.7"})
MANY = 30


def test_every_wrong_code_is_counted_however_many_come_at_once(pg_db: Database) -> None:
    with pg_db.write() as session:
        rules.save_rules(session, Rules((), (), Guessing(limit=1000)), "ann", NOW)

    def run() -> None:
        with pg_db.write() as session:
            guesses.failed(session, GUESSER, NOW)

    assert together([run] * MANY) == {"done": MANY}
    assert scalar(pg_db, "SELECT min(failures) FROM abuse_guesses") == MANY


def test_counted_by_reading_and_then_writing_some_are_lost(pg_db: Database) -> None:
    with pg_db.write() as session:
        guesses.failed(session, GUESSER, NOW)
    gate = threading.Barrier(MANY)

    def run() -> None:
        with pg_db.write() as session:
            number = session.execute(sa.select(sa.func.min(AbuseGuess.failures))).scalar_one()
            gate.wait(timeout=30)
            session.execute(sa.update(AbuseGuess).values(failures=number + 1))

    assert together([run] * MANY) == {"done": MANY}
    assert scalar(pg_db, "SELECT min(failures) FROM abuse_guesses") == 2


def test_a_storm_of_wrong_codes_is_one_lock_out(pg_db: Database) -> None:
    def run() -> None:
        with pg_db.write() as session:
            guesses.failed(session, GUESSER, NOW)

    together([run] * MANY)
    assert scalar(pg_db, "SELECT max(lockouts) FROM abuse_guesses") == 1
    assert scalar(pg_db, "SELECT max(locked_until_s) FROM abuse_guesses") == int(NOW.timestamp()) + 900


def allowed_of_thirty(database: Database) -> int:
    with database.write() as session:
        rule = Velocity("claims", "claim", "device", 3, 86_400)
        rules.save_rules(session, Rules((rule,), ()), "ann", NOW)
    decisions = []

    def run() -> None:
        with database.write() as session:
            decisions.append(signals.observe(session, "claim", {"device": "d"}, None, NOW).decision)

    assert together([run] * MANY) == {"done": MANY}
    return decisions.count("allow")


def test_of_thirty_at_once_as_many_pass_as_the_rule_allows(pg_db: Database) -> None:
    assert allowed_of_thirty(pg_db) == 3
    assert scalar(pg_db, "SELECT count(*) FROM abuse_hits") == 1
    assert scalar(pg_db, "SELECT times FROM abuse_hits") == MANY - 3


def test_without_taking_turns_all_pass(pg_db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, broken = threading.Barrier(MANY), signals._broken

    def count_and_wait(*arguments: Any) -> Any:
        found = broken(*arguments)
        gate.wait(timeout=30)
        return found

    monkeypatch.setattr(signals, "take_turns", lambda *_: None)
    monkeypatch.setattr(signals, "_broken", count_and_wait)
    assert allowed_of_thirty(pg_db) == MANY
