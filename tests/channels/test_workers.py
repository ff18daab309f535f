"""Several workers, lost workers, and receipts that come back over the real public pages."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from flask import Flask
from werkzeug.serving import make_server

from channels.claim import LEASE, Terms, claim, hand_over, take_over
from channels.delivery import Delivered, run_delivery
from channels.models import EarlyReceipt, Message, Suppression
from channels.outbox import LEASED
from channels.polling import poll_receipts
from channels.sandbox import inbox
from channels.settle import Settlement, settle
from core.db import Database
from core.settings import Settings
from tests.channels.seed import (
    NOW,
    add_members,
    add_template,
    enqueue,
    message,
    row,
    sandbox,
    sandbox_settings,
    states,
)
from tests.conftest import SECRET
from tests.postgres import free_port
from web.public.views import create_blueprint


def test_two_workers_at_once_send_everything_once(db: Database, settings: Settings) -> None:
    add_members(db, range(1, 301))
    for channel in ("email", "wechat"):
        template = add_template(db, settings, channel)
        enqueue(db, *[row(n, channel, template) for n in range(1, 301)])
    found: list[Delivered] = []
    with sandbox(db, settings) as (there, _):
        threads = [
            threading.Thread(target=lambda: found.append(run_delivery(db, there, now=lambda: NOW, batch=20)))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(one.sent for one in found) == 600
    assert states(db) == {"sent": 600}
    assert set(Counter((m.channel, m.to) for m in _all(there)).values()) == {1}
    assert inbox.count(there) == 600


def _all(settings: Settings) -> Iterator[inbox.SandboxMessage]:
    for offset in range(0, inbox.count(settings), 500):
        yield from inbox.list_messages(settings, limit=500, offset=offset)


def until(test: Callable[[], bool], what: str, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < end, f"waited too long: {what}"
        time.sleep(0.02)


WORKER = """
import sys
from channels.delivery import run_delivery
from core.db import Database
from core.settings import load
run_delivery(Database(load().url), load(), batch=40)
"""


def test_a_killed_worker_loses_nothing_and_doubles_nothing(db: Database, settings: Settings) -> None:
    add_members(db, range(1, 301))
    for channel in ("email", "wechat"):
        template = add_template(db, settings, channel)
        enqueue(db, *[row(n, channel, template) for n in range(1, 301)])
    with sandbox(db, settings, delay_s=0.05) as (there, running):
        environment = {
            **os.environ,
            "HUILIU_HOME": str(there.home),
            "HUILIU_DATABASE_URL": db.url,
            "HUILIU_SECRET": SECRET,
            "HUILIU_SANDBOX_SMTP_PORT": str(there.sandbox_smtp_port),
            "HUILIU_SANDBOX_HTTP_PORT": str(there.sandbox_http_port),
            "HUILIU_BASE_URL": there.base_url,
        }
        worker = subprocess.Popen([sys.executable, "-c", WORKER], env=environment)
        until(
            lambda: min(inbox.count(there, "email"), inbox.count(there, "wechat")) > 60, "the first messages"
        )
        # In the middle of a batch of e-mails: some of it is there, none of it settled.
        until(lambda: 5 <= inbox.count(there, "email") % 40 <= 30, "the middle of a batch")
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        before = states(db)
        assert before[LEASED] > 0, "it died in the middle of its work"
        # Nobody takes over what may still be under way.
        run_delivery(db, there, channels=["sms"])
        assert states(db)[LEASED] == before[LEASED]
        later = datetime.now(UTC) + LEASE + timedelta(seconds=1)
        again = run_delivery(db, there, now=lambda: later)
        assert again.unknown > 0
        received = Counter((m.channel, m.to) for m in _all(there))
    assert set(received.values()) == {1}, "no message arrived twice"
    assert sum(1 for channel, _ in received if channel == "wechat") == 300, (
        "WeChat drops repetitions: all arrived"
    )
    with db.read() as session:
        rows = session.execute(
            sa.select(Message.channel, Message.state, sa.func.count()).group_by(
                Message.channel, Message.state
            )
        ).all()
    found = {(channel, state): number for channel, state, number in rows}
    assert found["wechat", "sent"] == 300
    assert found.keys() == {("wechat", "sent"), ("email", "sent"), ("email", "unknown")}
    assert found["email", "unknown"] <= 40, "at most one batch a channel"
    arrived = sum(1 for channel, _ in received if channel == "email")
    assert found["email", "sent"] <= arrived <= found["email", "sent"] + found["email", "unknown"]
    assert running.error is None


def test_a_lease_is_respected_and_what_was_not_handed_over_is_taken_over(
    db: Database, settings: Settings
) -> None:
    add_members(db, [1, 2])
    template = add_template(db, settings, "email")
    enqueue(db, row(1, "email", template), row(2, "email", template))
    terms = Terms("email", 0, settings.zone)
    with db.write() as session:
        assert len(claim(session, terms, "a:0", 1, NOW).ready) == 1
    with db.write() as session:
        second = claim(session, terms, "b:0", 5, NOW)
        assert len(second.ready) == 1
        assert hand_over(session, "b:0", NOW)
    with db.write() as session:
        assert take_over(session, terms, NOW + LEASE) == 0
        assert claim(session, terms, "c:0", 5, NOW + LEASE).empty
    after = NOW + LEASE + timedelta(seconds=1)
    with db.write() as session:
        assert take_over(session, terms, after) == 1
        third = claim(session, terms, "c:0", 5, after)
        assert [m.member.id for m in third.ready] == [1]
    assert message(db, "run:1:2:email").state == "unknown"
    # The lost worker was only slow: what it knows of the unknown message is news, of the other it is not.
    with db.write() as session:
        assert not hand_over(session, "a:0", after)
        settle(session, "email", "smtp", "b:0", [Settlement(m, "sent") for m in second.ready], after)
        settle(session, "email", "smtp", "a:0", [Settlement(m, "sent") for m in third.ready], after)
    assert message(db, "run:1:2:email").state == "sent"
    assert message(db, "run:1:1:email").state == LEASED


def test_too_late_to_repeat_means_unknown(db: Database, settings: Settings) -> None:
    add_members(db, [1])
    enqueue(db, row(1, "wechat", add_template(db, settings, "wechat")))
    terms = Terms("wechat", 590, settings.zone)
    with db.write() as session:
        claim(session, terms, "a:0", 5, NOW)
        assert hand_over(session, "a:0", NOW)
    with db.write() as session:
        assert take_over(session, terms, NOW + timedelta(minutes=5)) == 0
    assert message(db, "run:1:1:wechat").state == "queued"
    with db.write() as session:
        found = claim(session, terms, "b:0", 5, NOW + timedelta(minutes=11))
        assert (len(found.ready), found.unknown) == (0, 1)
    assert message(db, "run:1:1:wechat").state == "unknown"


@contextmanager
def public_pages(database: Database, settings: Settings, port: int) -> Iterator[None]:
    app = Flask("test")
    app.register_blueprint(create_blueprint(database, settings))
    server = make_server("127.0.0.1", port, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


def test_receipts_come_back_and_settle_their_messages(db: Database, settings: Settings) -> None:
    add_members(db, range(3, 23))
    add_members(db, [1], phone="+8613800000000", openid="blocked-0001")
    sms, wechat, email = (add_template(db, settings, channel) for channel in ("sms", "wechat", "email"))
    back = [{"channel": "email", "template_id": email[0], "template_version": email[1]}]
    members = [1, *range(3, 23)]
    enqueue(
        db,
        *[row(n, "sms", sms, fallback=back) for n in members],
        *[row(n, "wechat", wechat) for n in members],
    )
    port = free_port()
    changes = {"base_url": f"http://127.0.0.1:{port}"}
    # No delay: many receipts are back before their messages are settled.
    with (
        sandbox(db, settings, changes=changes, callback_delay_s=0.0) as (there, _),
        public_pages(db, there, port),
    ):
        assert run_delivery(db, there).sent == 42
        until(lambda: states(db).get("delivered", 0) + len(_early(db)) >= 40, "the receipts")
        run_delivery(db, there)
        until(
            lambda: bool(run_delivery(db, there)) and states(db).get("delivered") == 40, "the early receipts"
        )
    assert states(db) == {"delivered": 40, "failed": 2, "sent": 1}
    assert (message(db, "run:1:1:sms").reason or "").startswith("undelivered: MOBILE_OFF")
    assert message(db, "run:1:1:wechat").reason == "undelivered:  failed:user block"
    assert message(db, f"fallback:{message(db, 'run:1:1:sms').id}").channel == "email"
    assert _early(db) == []
    with db.read() as session:
        assert session.scalars(sa.select(Suppression.reason)).all() == []


def _early(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.scalars(sa.select(EarlyReceipt.dedupe_key)))


def test_receipts_that_never_came_are_asked_for(db: Database, settings: Settings) -> None:
    add_members(db, range(3, 6))
    add_members(db, [1], phone="+8613800000000")
    sms = add_template(db, settings, "sms")
    enqueue(db, *[row(n, "sms", sms) for n in (1, 3, 4, 5)])
    with sandbox(db, settings) as (there, _):
        sent = datetime.now(UTC)
        assert run_delivery(db, there).sent == 4
        assert asyncio.run(poll_receipts(db, there, sent))["asked"] == 0, "callbacks come first"
        later = sent + timedelta(hours=1)
        assert asyncio.run(poll_receipts(db, there, later)) == {"asked": 4, "answered": 4, "applied": 4}
        assert states(db) == {"delivered": 3, "failed": 1}
        assert asyncio.run(poll_receipts(db, there, later))["asked"] == 0
    # An unanswered request of one message: Aliyun had it after all.
    with sandbox(db, settings) as (there, _):
        enqueue(db, row(5, "sms", sms, key="run:2:5:sms"))
        run_delivery(db, there)
        with db.write() as session:
            session.execute(
                sa.update(Message)
                .where(Message.dedupe_key == "run:2:5:sms")
                .values(state="unknown", provider_id=None)
            )
        assert asyncio.run(poll_receipts(db, there, later)) == {"asked": 1, "answered": 1, "applied": 1}
    assert message(db, "run:2:5:sms").state == "delivered"


def test_the_sandbox_runs_by_itself_and_stops_when_told(sqlite_db: Database, settings: Settings) -> None:
    there = sandbox_settings(sqlite_db, settings)
    environment = {
        **os.environ,
        "HUILIU_HOME": str(there.home),
        "HUILIU_SANDBOX_SMTP_PORT": str(there.sandbox_smtp_port),
        "HUILIU_SANDBOX_HTTP_PORT": str(there.sandbox_http_port),
    }
    process = subprocess.Popen([sys.executable, "-m", "channels.sandbox"], env=environment)

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", there.sandbox_smtp_port)) == 0

    until(answers, "the sandbox")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0
    assert inbox.count(there) == 0
