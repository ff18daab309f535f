"""The server ends cleanly when told to; work started from a page is one at a time and shows its end."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from core.db import Database
from core.errors import Conflict, HuiliuError
from core.models import Job
from tests.postgres import free_port
from web import work

SCRIPT = """
import sys, time
from web.serve import serve
def app(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        time.sleep(1)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"done"]
serve(app, "127.0.0.1", int(sys.argv[1]))
print("ended", flush=True)
"""


WHO = """
import sys
from web.serve import serve
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{environ['REMOTE_ADDR']} {environ['wsgi.url_scheme']}".encode()]
serve(app, "127.0.0.1", int(sys.argv[1]), proxies=int(sys.argv[2]))
"""


@pytest.mark.parametrize(("proxies", "expected"), [(0, "127.0.0.1 http"), (1, "203.0.113.9 https")])
def test_only_proxies_of_our_own_say_who_asks(proxies: int, expected: str) -> None:
    port = free_port()
    command = [sys.executable, "-c", WHO, str(port), str(proxies)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    headers = {"X-Forwarded-For": "198.51.100.1, 203.0.113.9", "X-Forwarded-Proto": "https"}
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/", headers=headers)
    try:
        for _ in range(100):
            try:
                with urllib.request.urlopen(asked, timeout=2) as answer:
                    found = answer.read().decode()
                break
            except OSError:
                time.sleep(0.1)
        assert found == expected
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_server_returns_on_a_signal(number: signal.Signals) -> None:
    port = free_port()
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(port)],
        cwd=root,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        for _ in range(100):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2) as answer:
                    assert answer.read() == b"done"
                break
            except OSError:
                time.sleep(0.1)
        process.send_signal(number)
        output, _ = process.communicate(timeout=10)
    finally:
        process.kill()
    assert (process.returncode, output) == (0, "ended\n")


MANY = """
import os, sys
from web.serve import serve_many
def make():
    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        if environ["PATH_INFO"] == "/die":
            os._exit(3)
        return [str(os.getpid()).encode()]
    return app
serve_many(make, "127.0.0.1", int(sys.argv[1]), processes=2)
print("ended", flush=True)
"""


def asked(port: int, path: str = "/") -> int | None:
    """The process that answered, None for none."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return int(answer.read())
    except OSError:
        return None


def answering(port: int, number: int, seconds: float = 20) -> set[int]:
    """Wait until so many processes answer."""
    found: set[int] = set()
    end = time.monotonic() + seconds
    while len(found) < number and time.monotonic() < end:
        found |= {process for process in [asked(port)] if process is not None}
        time.sleep(0.02)
    return found


def test_several_processes_share_a_port_and_one_that_dies_is_replaced() -> None:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", MANY, str(port)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        first = answering(port, 2)
        assert len(first) == 2
        assert asked(port, "/die") is None
        assert len(answering(port, 1)) == 1, "the other goes on"
        time.sleep(2)
        now = answering(port, 2)
        assert len(now) == 2
        assert len(now & first) == 1
        process.terminate()
        output, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, output) == (0, "ended\n")
    assert asked(port) is None


def test_a_port_that_somebody_has_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-c", MANY, str(port)]
        done = subprocess.run(
            command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=20
        )
    assert done.returncode == 1
    assert "Address already in use" in done.stderr


def clock() -> datetime:
    return datetime.now(UTC)


def states(database: Database) -> list[tuple[str, str | None]]:
    with database.read() as session:
        return [(job.state, job.message) for job in session.scalars(sa.select(Job).order_by(Job.id))]


def test_work_shows_its_end_and_what_stopped_it(db: Database) -> None:
    def refused(_progress: work.Progress) -> None:
        raise HuiliuError("Approve it first.")

    def broken(_progress: work.Progress) -> None:
        raise ZeroDivisionError("oops")

    for label, action in (("good", lambda _progress: None), ("refused", refused), ("broken", broken)):
        work.start(db, "test", label, action, clock).join(10)
    assert states(db) == [
        ("done", None),
        ("failed", "Approve it first."),
        ("failed", "ZeroDivisionError: oops"),
    ]


def test_the_same_work_is_not_started_twice_at_once(db: Database) -> None:
    go = threading.Event()
    thread = work.start(db, "test", "slow", lambda _progress: go.wait(10), clock)
    with pytest.raises(Conflict, match="under way already"):
        work.start(db, "test", "slow", lambda _progress: None, clock)
    go.set()
    thread.join(10)
    work.start(db, "test", "slow", lambda progress: progress(3, 3), clock).join(10)
    assert [state for state, _ in states(db)] == ["done", "done"]


def test_progress_may_be_reported_from_inside_a_write_transaction(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "PROGRESS_EVERY_S", 0.05)

    def writes(progress: work.Progress) -> None:
        with db.write() as session:
            session.execute(sa.select(Job.id))
            progress(1, 4)
            time.sleep(0.3)
        progress(4, 4)

    thread = work.start(db, "test", "writer", writes, clock)
    thread.join(10)
    assert not thread.is_alive()
    with db.read() as session:
        job = session.scalars(sa.select(Job)).one()
    assert (job.state, job.done, job.total) == ("done", 4, 4)
