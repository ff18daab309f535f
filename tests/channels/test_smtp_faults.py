"""Delivery against an SMTP server with each of its faults: nothing lost, nothing doubled.

The same runs with 20,000 messages through the command line are marked slow.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import timedelta

import pytest
import sqlalchemy as sa

from channels import outbox
from channels.claim import LEASE
from channels.delivery import BATCH, LANES, run_delivery
from channels.models import Message
from channels.render import client_id
from channels.transports.breaker import SILENT
from channels.transports.smtp_connection import CONNECT_S
from core.db import Database
from core.models import Member
from core.settings import Settings
from tests.channels.seed import NOW, add_members, add_template, enqueue, row, states
from tests.channels.smtp import Sink, sink
from tests.conftest import SECRET
from tests.postgres import Cluster, free_port

MANY = 300
LOTS = 20_000


def fill(database: Database, settings: Settings, number: int) -> None:
    """``number`` messages to as many members."""
    template = add_template(database, settings, "email")
    for start in range(1, number + 1, 5_000):
        numbers = range(start, min(start + 5_000, number + 1))
        add_members(database, numbers)
        enqueue(database, *[row(n, "email", template) for n in numbers])


def pointed(database: Database, settings: Settings, url: str) -> Settings:
    return Settings(
        home=settings.home, secret=SECRET, database_url=database.url, smtp_url=url, _env_file=None
    )


def counts(found: object) -> dict[str, int]:
    values = asdict(found) if not isinstance(found, dict) else found  # type: ignore[call-overload]
    return {name: number for name, number in values.items() if name != "seconds" and number}


def check_books(database: Database, server: Sink, number: int) -> None:
    """Every message is in the books once; what was received is sent or unknown there, and only once."""
    with database.read() as session:
        rows = session.execute(sa.select(Message.id, Message.state)).all()
    assert len(rows) == number
    state = {client_id(message_id): state for message_id, state in rows}
    received = server.received()
    assert set(received.values()) <= {1}, "nothing arrived twice"
    came = {name.partition("@")[0] for name in received}
    sent = {name for name, found in state.items() if found == "sent"}
    unknown = {name for name, found in state.items() if found == "unknown"}
    assert sent <= came, "what the books call sent arrived"
    assert came <= sent | unknown, "what arrived is sent or unknown in the books"


def test_every_message_arrives_once(db: Database, settings: Settings) -> None:
    fill(db, settings, MANY)
    with sink(keep=True) as server:
        assert counts(run_delivery(db, pointed(db, settings, server.url), now=lambda: NOW)) == {"sent": MANY}
        check_books(db, server, MANY)
        assert len(server.received()) == MANY


def test_without_pipelining_every_message_arrives_once(db: Database, settings: Settings) -> None:
    fill(db, settings, MANY)
    with sink("-p", keep=True) as server:
        assert counts(run_delivery(db, pointed(db, settings, server.url), now=lambda: NOW)) == {"sent": MANY}
        check_books(db, server, MANY)


def test_a_slow_server_gets_everything(db: Database, settings: Settings) -> None:
    fill(db, settings, 40)
    with sink("-w", "1", keep=True) as server:
        assert counts(run_delivery(db, pointed(db, settings, server.url), now=lambda: NOW)) == {"sent": 40}
        check_books(db, server, 40)


def test_connections_that_a_server_lets_wait_hold_up_nothing(
    sqlite_db: Database, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """smtp-sink greets five clients at once; the others hang until one of these leaves."""
    fill(sqlite_db, settings, MANY)
    begun = time.monotonic()
    with sink("-m", "5", keep=True) as server:
        there = pointed(sqlite_db, settings, f"{server.url}?connections=20")
        assert counts(run_delivery(sqlite_db, there, now=lambda: NOW)) == {"sent": MANY}
        check_books(sqlite_db, server, MANY)
    assert time.monotonic() - begun < CONNECT_S, "who still waited for a connection at the end gave up"
    assert "left alone" not in caplog.text


def test_recipients_refused_for_now_are_all_tried_later(db: Database, settings: Settings) -> None:
    fill(db, settings, MANY)
    with sink("-r", "RCPT", keep=True) as server:
        there = pointed(db, settings, server.url)
        assert counts(run_delivery(db, there, now=lambda: NOW)) == {"deferred": MANY}
        assert counts(run_delivery(db, there, now=lambda: NOW)) == {}
        check_books(db, server, MANY)
    with db.read() as session:
        assert session.scalars(sa.select(Message.attempts).distinct()).all() == [1]
    with sink(keep=True) as server:
        later = NOW + timedelta(minutes=10)
        assert counts(run_delivery(db, pointed(db, settings, server.url), now=lambda: later)) == {
            "sent": MANY
        }
        check_books(db, server, MANY)


def test_recipients_refused_for_good_fail_and_nothing_arrives(db: Database, settings: Settings) -> None:
    fill(db, settings, MANY)
    with sink("-f", "RCPT", keep=True) as server:
        there = pointed(db, settings, server.url)
        assert counts(run_delivery(db, there, now=lambda: NOW)) == {"failed": MANY}
        check_books(db, server, MANY)
        assert server.received() == {}


def test_a_server_that_closes_at_data_is_left_alone_for_a_while(db: Database, settings: Settings) -> None:
    fill(db, settings, MANY)
    with sink("-Q", "DATA", keep=True) as server:
        there = pointed(db, settings, server.url)
        found = counts(run_delivery(db, there, now=lambda: NOW))
        assert found == {"deferred": MANY}
        assert states(db) == {"queued": MANY}
        check_books(db, server, MANY)
    with db.read() as session:
        tried = session.scalar(sa.select(sa.func.count()).where(Message.attempts > 0))
        assert tried is not None
        assert 0 < tried <= 20, "after the first answers the rest was held back, at no attempt's cost"


@pytest.mark.parametrize("choice", ["keep", "resend"])
def test_no_answer_to_the_dot_is_unknown_for_few_messages(
    db: Database, settings: Settings, choice: str
) -> None:
    fill(db, settings, MANY)
    with db.write() as session:
        outbox.set_on_unknown(session, "email", choice)
    with sink("-q", ".", keep=True) as server:
        found = counts(run_delivery(db, pointed(db, settings, server.url), now=lambda: NOW))
        assert states(db).get("sent", 0) == 0
        if choice == "keep":
            assert SILENT <= found["unknown"] <= SILENT + 20, (
                "the breaker opened, and the rest was not handed over"
            )
        else:
            assert "unknown" not in found
        assert sum(states(db).values()) == MANY
    # The server is well again.
    with sink(keep=True) as server:
        later = NOW + timedelta(minutes=10)
        again = counts(run_delivery(db, pointed(db, settings, server.url), now=lambda: later))
        assert again == {"sent": MANY - found.get("unknown", 0)}
        check_books(db, server, MANY)


def environment(settings: Settings, **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "HUILIU_HOME": str(settings.home),
        "HUILIU_DATABASE_URL": settings.database_url,
        "HUILIU_SECRET": SECRET,
        "HUILIU_SMTP_URL": settings.smtp_url,
        **more,
    }


def command(settings: Settings, workers: int = 1) -> subprocess.Popen[bytes]:
    words = ["deliver", "--until-empty", "--json", "--workers", str(workers)]
    return subprocess.Popen(
        [sys.executable, "-c", "from web.cli import main; main()", *words],
        env=environment(settings),
        stdout=subprocess.PIPE,
    )


def by_command(settings: Settings, workers: int = 1) -> dict[str, int]:
    """The counts that ``huiliu deliver --until-empty --json`` prints."""
    process = command(settings, workers)
    output, _ = process.communicate(timeout=280)
    assert process.returncode == 0
    found: dict[str, int] = json.loads(output)
    return counts(found)


def sent(database: Database) -> int:
    return states(database).get("sent", 0)


def _die_and_come_back(database: Database, settings: Settings, number: int, workers: int) -> None:
    port = free_port()
    there = pointed(database, settings, f"smtp://127.0.0.1:{port}")
    with sink(port=port, keep=True) as first:
        process = command(there, workers)
        end = time.monotonic() + 60
        while len(os.listdir(first.folder)) < number // 4:
            assert time.monotonic() < end, "nothing arrives"
            time.sleep(0.005)
        first.kill()
        process.communicate(timeout=120)
        check_books(database, first, number)
        found = states(database)
        assert found.get("unknown", 0) <= 10 * workers, "at most what was on the wire"
        assert found["sent"] + found.get("unknown", 0) + found["queued"] == number
        before = set(first.received())
    with sink(port=port, keep=True) as second:
        later = NOW + timedelta(days=3650)
        run_delivery(database, there, now=lambda: later)
        after = set(second.received())
    assert not before & after, "nothing was sent to the second server that the first one had"
    end_states = states(database)
    assert end_states["sent"] + end_states.get("unknown", 0) == number
    assert len(before | after) >= end_states["sent"]


def test_a_server_that_dies_in_the_middle(db: Database, settings: Settings) -> None:
    fill(db, settings, 2_000)
    _die_and_come_back(db, settings, 2_000, 1)


def _killed_workers(database: Database, settings: Settings, number: int) -> None:
    """Workers die by -9 again and again; after the leases have ended the rest is sent."""
    with sink(keep=True) as server:
        there = pointed(database, settings, server.url)
        for turn in range(2):
            target = number * (turn + 1) // 4
            worker = subprocess.Popen([sys.executable, "-c", _WORKER], env=environment(there))
            end = time.monotonic() + 60
            while len(os.listdir(server.folder)) < target:
                assert time.monotonic() < end, "nothing arrives"
                time.sleep(0.002)
            worker.send_signal(signal.SIGKILL)
            worker.wait()
        with database.read() as session:
            leased = session.scalar(sa.select(sa.func.count()).where(Message.state == "leased"))
        assert leased, "they died in the middle of their work"
        later = NOW + timedelta(days=3650)
        run_delivery(database, there, now=lambda: later + LEASE)
        check_books(database, server, number)
        found = states(database)
        assert found["sent"] + found.get("unknown", 0) == number
        assert found.get("unknown", 0) <= 2 * LANES * BATCH, "at most a batch a lane of each worker"


_WORKER = """
from channels.delivery import run_delivery
from core.db import Database
from core.settings import load
run_delivery(Database(load().url), load(), channels=["email"])
"""


def test_workers_killed_again_and_again(pg_db: Database, settings: Settings) -> None:
    fill(pg_db, settings, 5_000)
    _killed_workers(pg_db, settings, 5_000)


def test_an_erased_address_is_not_sent_what_waits(sqlite_db: Database, settings: Settings) -> None:
    fill(sqlite_db, settings, 3)
    with sqlite_db.write() as session:
        session.execute(sa.update(Member).where(Member.id == 2).values(erased_at=NOW))
    with sink(keep=True) as server:
        found = run_delivery(sqlite_db, pointed(sqlite_db, settings, server.url), now=lambda: NOW)
        assert counts(found) == {"sent": 2, "skipped": 1}


# --- 20,000 messages, through the command line ---------------------------------------------------


@pytest.fixture(scope="module")
def lots(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a database with so many messages, which each test copies."""
    name = cluster.create()
    database = Database(cluster.url(name))
    fill(database, Settings(home=tmp_path_factory.mktemp("lots"), secret=SECRET, _env_file=None), LOTS)
    database.dispose()
    yield name
    cluster.drop(name)


@pytest.fixture
def lots_db(cluster: Cluster, lots: str) -> Iterator[Database]:
    name = cluster.create(lots)
    database = Database(cluster.url(name))
    yield database
    database.dispose()
    cluster.drop(name)


SLOW: Sequence[tuple[Sequence[str], dict[str, int] | None]] = (
    ((), {"sent": LOTS}),
    (("-r", "RCPT"), {"deferred": LOTS}),
    (("-f", "RCPT"), {"failed": LOTS}),
    (("-Q", "DATA"), {"deferred": LOTS}),
    (("-q", "."), None),
    (("-p",), {"sent": LOTS}),
)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("options", "expected"), SLOW, ids=lambda value: "".join(value) if isinstance(value, tuple) else ""
)
def test_twenty_thousand(
    lots_db: Database, settings: Settings, options: Sequence[str], expected: dict[str, int] | None
) -> None:
    with sink(*options, keep=True) as server:
        found = by_command(pointed(lots_db, settings, server.url), 2)
        if expected is not None:
            assert found == expected
        else:
            assert found["unknown"] <= 2 * (SILENT + 20)
            assert sum(states(lots_db).values()) == LOTS
        check_books(lots_db, server, LOTS)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twenty_thousand_to_a_slow_server(lots_db: Database, settings: Settings) -> None:
    _spread(lots_db)
    # Its own limit of 256 clients would let the rest wait for a greeting: that has a test of its own.
    with sink("-w", "1", "-m", "512", keep=True) as server:
        there = pointed(lots_db, settings, f"{server.url}?connections=200")
        found = by_command(there, 2)
        assert found["sent"] == LOTS
        assert found.keys() <= {"sent", "deferred"}, (
            "what a batch had no time for goes back and is sent later"
        )
        assert states(lots_db) == {"sent": LOTS}
        check_books(lots_db, server, LOTS)


def _spread(database: Database) -> None:
    """Members at a hundred receivers: each takes ten connections."""
    from core.contacts import blind_index

    with database.write() as session:
        addresses = {
            number: f"m{number}@example{number % 100}.com" for number in session.scalars(sa.select(Member.id))
        }
        session.execute(
            sa.update(Member),
            [
                {"id": number, "email": address, "email_index": blind_index("email", address)}
                for number, address in addresses.items()
            ],
        )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twenty_thousand_and_a_server_that_dies(lots_db: Database, settings: Settings) -> None:
    _die_and_come_back(lots_db, settings, LOTS, 2)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twenty_thousand_and_killed_workers(lots_db: Database, settings: Settings) -> None:
    _killed_workers(lots_db, settings, LOTS)
