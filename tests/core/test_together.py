"""Requests that share a transaction: who is joined, who is answered what, and when."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.db import Database
from core.errors import Conflict, HuiliuError
from core.models import Preference
from core.together import Together

AT = datetime(2026, 3, 1, tzinfo=UTC)


class Till:
    """Keeps a row a request, and remembers how they came together. ``gate`` holds the first ones up."""

    def __init__(self, database: Database, most: int = 64) -> None:
        self.batches: list[list[str]] = []
        self.alone: list[str] = []
        self.gate = threading.Event()
        self.inside = threading.Event()
        self.together: Together[str, str] = Together(database, self._many, self._one, most=most)

    def _many(self, session: Session, asked: Sequence[str]) -> list[str | HuiliuError | None]:
        self.batches.append(list(asked))
        self.inside.set()
        self.gate.wait(10)
        if "poison" in asked:
            raise RuntimeError("poison")
        found: list[str | HuiliuError | None] = []
        for name in asked:
            if name.startswith("refused"):
                found.append(Conflict(f"{name} may not."))
            elif name.startswith("special"):
                found.append(None)
            else:
                self._keep(session, name)
                found.append(f"done {name}")
        return found

    def _one(self, session: Session, name: str) -> str:
        self.alone.append(name)
        if name == "poison":
            raise RuntimeError("poison")
        self._keep(session, name)
        return f"alone {name}"

    @staticmethod
    def _keep(session: Session, name: str) -> None:
        session.add(Preference(key=name, value={}, updated_at=AT))
        session.flush()


def start(do: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(do())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


def rush(till: Till, names: Sequence[str]) -> dict[str, Any]:
    """One request under way, the others wait behind it; then what each of them got."""
    first = start(lambda: till.together("first"))
    assert till.inside.wait(10)
    others = {name: start(lambda name=name: till.together(name)) for name in names}  # type: ignore[misc]
    deadline = time.monotonic() + 10
    while len(till.together._waiting) < len(names):
        assert time.monotonic() < deadline, "somebody did not wait for the transaction under way"
        time.sleep(0.001)
    till.gate.set()
    for thread, _ in (first, *others.values()):
        thread.join(20)
        assert not thread.is_alive()
    assert first[1] == ["done first"]
    return {name: found[0] for name, (_, found) in others.items()}


def stored(database: Database) -> set[str]:
    with database.read() as session:
        return set(session.scalars(sa.select(Preference.key)))


def test_a_request_alone_is_done_at_once(db: Database) -> None:
    till = Till(db)
    till.gate.set()
    assert till.together("a") == "done a"
    assert till.together("b") == "done b"
    assert till.batches == [["a"], ["b"]]
    assert stored(db) == {"a", "b"}


def test_those_who_come_meanwhile_share_the_next_transaction(db: Database) -> None:
    till = Till(db)
    names = [f"n{number}" for number in range(10)]
    assert rush(till, names) == {name: f"done {name}" for name in names}
    assert [sorted(batch) for batch in till.batches] == [["first"], sorted(names)]
    assert stored(db) == {"first", *names}


def test_no_transaction_takes_more_than_its_limit(db: Database) -> None:
    till = Till(db, most=4)
    names = [f"n{number}" for number in range(10)]
    assert rush(till, names) == {name: f"done {name}" for name in names}
    assert [len(batch) for batch in till.batches] == [1, 4, 4, 2]


def test_a_refusal_is_its_own_alone(db: Database) -> None:
    till = Till(db)
    found = rush(till, ["a", "refused", "b"])
    assert (found["a"], found["b"]) == ("done a", "done b")
    assert isinstance(found["refused"], Conflict)
    assert str(found["refused"]) == "refused may not."
    assert till.alone == []


def test_what_cannot_be_done_together_is_done_alone(db: Database) -> None:
    till = Till(db)
    assert rush(till, ["a", "special", "b"]) == {
        "a": "done a", "special": "alone special", "b": "done b"
    }  # fmt: skip
    assert till.alone == ["special"]
    assert stored(db) == {"first", "a", "special", "b"}


def test_where_the_joint_transaction_fails_only_who_is_at_fault_fails(
    db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    till = Till(db)
    with caplog.at_level(logging.WARNING, "core.together"):
        found = rush(till, ["a", "poison", "b"])
    assert (found["a"], found["b"]) == ("alone a", "alone b")
    assert isinstance(found["poison"], RuntimeError)
    assert "A transaction of 3 requests failed; each is done alone." in caplog.text
    assert stored(db) == {"first", "a", "b"}
    assert till.together("c") == "done c", "it goes on after a failure"


def test_nobody_is_answered_before_the_commit(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    till = Till(db)
    till.gate.set()
    commit = Session.commit
    seen: list[bool] = []

    def slow(session: Session) -> None:
        time.sleep(0.05)
        commit(session)

    monkeypatch.setattr(Session, "commit", slow)

    def ask(name: str) -> Callable[[], None]:
        def run() -> None:
            till.together(name)
            seen.append(name in stored(db))

        return run

    threads = [start(ask(f"n{number}"))[0] for number in range(12)]
    for thread in threads:
        thread.join(20)
    assert seen == [True] * 12
