"""A provider that is out of reach, or takes messages and says nothing, is left alone; then one try."""

from __future__ import annotations

import socket
import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from channels.delivery import run_delivery
from channels.transports import breaker
from core.db import Database
from core.settings import Settings
from tests.channels.seed import NOW, add_members, add_template, enqueue, message, row, states
from tests.postgres import free_port


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


def test_what_cannot_be_reached_is_tried_again_and_sent_when_it_is_back(
    sqlite_db: Database, settings: Settings, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    there = waiting(sqlite_db, settings, provider, 40)
    timer = threading.Timer(1.5, provider.on)
    timer.start()
    found = run_delivery(
        sqlite_db, there, channels=["webhook"], until_empty=False, max_seconds=9, now=lambda: NOW
    )
    timer.join()
    provider.off()
    assert (found.sent, found.unknown, found.failed) == (40, 0, 0)
    assert message(sqlite_db, "run:1:7:webhook").attempts == 1, "what never left cost no attempt"
    warnings = [one for one in caplog.records if "left alone" in one.message]
    assert 1 <= len(warnings) <= 6, "it waits longer each time"
    assert provider.hits == 40


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
