"""A provider that is out of reach, or takes messages and says nothing, is left alone; then one try."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from channels import circuit, outbox
from channels.claim import LEASE, Terms, claim
from channels.delivery import run_delivery
from channels.models import Account, Message
from channels.transports import breaker
from core.db import Database
from core.settings import Settings
from tests.channels.seed import NOW, add_members, add_template, enqueue, message, row, states
from tests.postgres import free_port

NOW_ZONE = ZoneInfo("Asia/Shanghai")


class Provider:
    """A shop's address on a fixed port that can be switched on and off; it counts what reaches it."""

    def __init__(self) -> None:
        self.port, self.hits, self.silent = free_port(), 0, False
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/in"

    def on(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.hits += 1
                self.rfile.read(int(self.headers["Content-Length"]))
                if outer.silent:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def off(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Provider:
    monkeypatch.setattr(breaker, "FIRST_S", 0.3)
    return Provider()


def waiting(database: Database, settings: Settings, provider: Provider, number: int) -> Settings:
    add_members(database, range(1, number + 1))
    template = add_template(database, settings, "webhook")
    enqueue(database, *[row(n, "webhook", template) for n in range(1, number + 1)])
    return settings.model_copy(update={"webhook_url": provider.url, "webhook_allow_private": True})


def ticking() -> Callable[[], datetime]:
    """A clock that begins at noon of the tests and goes on as the real one."""
    started = time.monotonic()
    return lambda: NOW + timedelta(seconds=time.monotonic() - started)


def account_of(database: Database, channel: str = "webhook") -> Account:
    with database.read() as session:
        return session.execute(sa.select(Account).where(Account.channel == channel)).scalar_one()


def claimed(database: Database, owner: str, now: datetime, limit: int = 50) -> list[int]:
    """What a worker of this name takes."""
    with database.write() as session:
        batch = claim(session, Terms("webhook", 0, NOW_ZONE), owner, limit, now)
    return [message.message_id for message in batch.ready]


def opened(database: Database, failures: int = 1, at: datetime = NOW) -> None:
    with database.write() as session:
        for seen in range(failures):
            circuit.note(session, "webhook", circuit.Seen(seen), circuit.Verdict.FAILS, "nobody answers", at)


def test_what_cannot_be_reached_is_tried_again_and_sent_when_it_is_back(
    sqlite_db: Database, settings: Settings, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    there = waiting(sqlite_db, settings, provider, 40)
    timer = threading.Timer(1.5, provider.on)
    timer.start()
    found = run_delivery(
        sqlite_db, there, channels=["webhook"], until_empty=False, max_seconds=9, now=ticking()
    )
    timer.join()
    provider.off()
    assert (found.sent, found.unknown, found.failed) == (40, 0, 0)
    assert message(sqlite_db, "run:1:7:webhook").attempts == 1, "what never left cost no attempt"
    warnings = [one for one in caplog.records if "left alone" in one.message]
    assert 1 <= len(warnings) <= 6, "it waits longer each time"
    assert provider.hits == 40
    account = account_of(sqlite_db)
    assert (account.circuit_failures, account.circuit_until, account.circuit_reason) == (0, None, None)


def test_a_silent_provider_gets_no_more_than_a_batch(
    sqlite_db: Database, settings: Settings, provider: Provider
) -> None:
    there = waiting(sqlite_db, settings, provider, 200)
    provider.silent = True
    provider.on()
    found = run_delivery(sqlite_db, there, channels=["webhook"], batch=20, now=lambda: NOW)
    assert found.sent == 0
    assert 10 <= provider.hits <= 40, "two lanes, a batch each"
    assert states(sqlite_db)["queued"] >= 160
    provider.silent = False
    later = run_delivery(sqlite_db, there, channels=["webhook"], now=lambda: NOW + timedelta(days=4))
    provider.off()
    assert later.sent >= 160


def test_what_one_worker_learns_keeps_the_others_away(
    db: Database, settings: Settings, provider: Provider
) -> None:
    there = waiting(db, settings, provider, 10)
    provider.off()
    run_delivery(db, there, channels=["webhook"], now=lambda: NOW)
    account = account_of(db)
    assert account.circuit_failures == 1
    assert account.circuit_opened_at == NOW
    assert account.circuit_until == NOW + timedelta(seconds=0.3)
    assert "127.0.0.1" in str(account.circuit_reason)
    provider.on()
    second = run_delivery(db, there, channels=["webhook"], now=lambda: NOW)
    assert (second.sent, provider.hits) == (0, 0), "another worker, its memory empty, asks nobody"
    third = run_delivery(db, there, channels=["webhook"], now=lambda: NOW + timedelta(seconds=1))
    provider.off()
    assert third.sent == 10
    assert account_of(db).circuit_failures == 0


def test_a_half_open_circuit_lets_one_worker_try_one_message(
    db: Database, settings: Settings, provider: Provider
) -> None:
    waiting(db, settings, provider, 10)
    opened(db)
    later = NOW + timedelta(seconds=1)
    assert claimed(db, "early", NOW) == [], "open"
    first = claimed(db, "a", later)
    assert len(first) == 1
    assert claimed(db, "b", later) == [], "somebody tries already"
    after = later + LEASE
    assert len(claimed(db, "c", after)) == 1, "who tried was lost"
    with db.write() as session:
        circuit.note(session, "webhook", circuit.Seen(1, True), circuit.Verdict.NOTHING, "", after)
    assert len(claimed(db, "d", after)) == 1, "a try that told nothing is made again"
    with db.write() as session:
        circuit.note(session, "webhook", circuit.Seen(1, True), circuit.Verdict.ANSWERS, "", after)
    assert len(claimed(db, "e", after)) == 7, "closed: everybody sends"


def test_a_try_without_a_message_that_may_go_out_is_not_used_up(
    db: Database, settings: Settings, provider: Provider
) -> None:
    waiting(db, settings, provider, 2)
    opened(db)
    with db.write() as session:
        session.execute(sa.update(Message).where(Message.member_id == 1).values(expires_at=NOW))
    later = NOW + timedelta(seconds=1)
    assert claimed(db, "a", later) == [], "expired"
    assert account_of(db).circuit_probe_until is None
    assert len(claimed(db, "b", later)) == 1


def test_of_many_workers_one_tries(pg_db: Database, settings: Settings, provider: Provider) -> None:
    waiting(pg_db, settings, provider, 20)
    opened(pg_db)
    later, gate = NOW + timedelta(seconds=1), threading.Barrier(8)

    def worker(number: int) -> int:
        gate.wait()
        return len(claimed(pg_db, f"w{number}", later))

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(worker, range(8))) == [0] * 7 + [1]


def test_failures_that_began_before_the_same_opening_count_once(db: Database) -> None:
    with db.write() as session:
        seen = circuit.Seen(0)
        assert circuit.note(session, "sms", seen, circuit.Verdict.FAILS, "first", NOW) == breaker.FIRST_S
        assert circuit.note(session, "sms", seen, circuit.Verdict.FAILS, "second", NOW) is None
        assert circuit.note(session, "sms", seen, circuit.Verdict.ANSWERS, "", NOW) is None
    account = account_of(db, "sms")
    assert (account.circuit_failures, account.circuit_reason) == (1, "first")
    later = NOW + timedelta(minutes=1)
    with db.write() as session:
        again = circuit.note(session, "sms", circuit.Seen(1, True), circuit.Verdict.FAILS, "third", later)
    account = account_of(db, "sms")
    assert again == 2 * breaker.FIRST_S
    assert (account.circuit_failures, account.circuit_opened_at) == (2, NOW), "since when it was out of reach"


def test_closing_by_hand_lets_everybody_send(db: Database, settings: Settings, provider: Provider) -> None:
    waiting(db, settings, provider, 5)
    opened(db, failures=5)
    assert claimed(db, "a", NOW) == []
    with db.write() as session:
        assert circuit.close(session, "webhook")
        assert not circuit.close(session, "webhook"), "it is closed"
        assert outbox.account(session, "webhook").circuit_failures == 0
    assert len(claimed(db, "b", NOW)) == 5
