"""The sandbox's memory: every accepted message, in a small SQLite file of its own.

Written in groups: a request is answered once its message is in the file, and messages that
arrive together share one transaction.
"""

from __future__ import annotations

import asyncio
import email.policy
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.parser import BytesHeaderParser, BytesParser
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from core.contacts import EMAIL, SMS
from core.settings import Settings
from core.times import now

MAX_LISTED = 500
_SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
  id INTEGER PRIMARY KEY, channel TEXT NOT NULL, address TEXT NOT NULL, client_id TEXT NOT NULL,
  received_at REAL NOT NULL, content BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS ix_address ON messages (address, id);
CREATE INDEX IF NOT EXISTS ix_channel ON messages (channel, id);
"""


class Received(NamedTuple):
    """A message as it came: an e-mail's bytes, or a JSON object of the request's parts."""

    channel: str
    address: str
    client_id: str
    content: bytes


@dataclass(frozen=True)
class SandboxMessage:
    """A message for the console. Bodies are there when it was asked for by :func:`get`."""

    id: int
    channel: str
    to: str
    client_id: str
    title: str
    """The e-mail's subject, the SMS's text, or the first lines of the WeChat card."""
    received_at: datetime
    html: str | None = None
    text: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)
    """SMS: sign_name, template_code, params · WeChat: template_id, url, data {name: text}."""


def path_of(settings: Settings) -> Path:
    return settings.home / "sandbox.db"


@contextmanager
def _open(settings: Settings) -> Iterator[sqlite3.Connection | None]:
    if not path_of(settings).exists():
        yield None
        return
    connection = sqlite3.connect(path_of(settings), timeout=10)
    try:
        yield connection
    finally:
        connection.close()


def _filter(channel: str | None, to: str | None) -> tuple[str, list[Any]]:
    tests = [(name, value) for name, value in (("channel", channel), ("address", to)) if value is not None]
    where = " AND ".join(f"{name} = ?" for name, _ in tests) or "1"
    return where, [value for _, value in tests]


def list_messages(
    settings: Settings, channel: str | None = None, to: str | None = None, limit: int = 50, offset: int = 0
) -> list[SandboxMessage]:
    """Newest first; ``to`` is an exact address. At most 500 a page."""
    where, values = _filter(channel, to)
    with _open(settings) as connection:
        if connection is None:
            return []
        rows = connection.execute(
            "SELECT id, channel, address, client_id, received_at, content FROM messages "  # noqa: S608 - own names
            f"WHERE {where} ORDER BY id DESC LIMIT ? OFFSET ?",
            [*values, min(limit, MAX_LISTED), offset],
        ).fetchall()
    return [_summary(row) for row in rows]


def count(settings: Settings, channel: str | None = None, to: str | None = None) -> int:
    """How many messages there are."""
    where, values = _filter(channel, to)
    with _open(settings) as connection:
        if connection is None:
            return 0
        row = connection.execute(f"SELECT count(*) FROM messages WHERE {where}", values).fetchone()  # noqa: S608
        return int(row[0])


def get(settings: Settings, message_id: int) -> SandboxMessage | None:
    """One message with its bodies, or None."""
    with _open(settings) as connection:
        row = None
        if connection is not None:
            row = connection.execute(
                "SELECT id, channel, address, client_id, received_at, content FROM messages WHERE id = ?",
                [message_id],
            ).fetchone()
    return None if row is None else _whole(row)


def clear(settings: Settings) -> None:
    """Empty the inbox."""
    with _open(settings) as connection:
        if connection is not None:
            connection.execute("DELETE FROM messages")
            connection.commit()


def annotate(settings: Settings, channel: str, client_id: str, name: str, text: str) -> None:
    """Show ``name`` as ``text`` in the data of every message that came under ``client_id``."""
    with _open(settings) as connection:
        if connection is not None:
            connection.execute(
                "UPDATE messages SET content = CAST(json_set(CAST(content AS TEXT), ?, ?) AS BLOB) "
                "WHERE channel = ? AND client_id = ?",
                [f"$.data.{name}", text, channel, client_id],
            )
            connection.commit()


def _summary(row: Sequence[Any]) -> SandboxMessage:
    number, channel, address, client, at, content = row
    if channel == EMAIL:
        head = BytesHeaderParser(policy=email.policy.default).parsebytes(content)
        title, fields = str(head["subject"] or ""), {}
    else:
        fields = orjson.loads(content)
        title = fields["text"] if channel == SMS else " · ".join(list(fields["data"].values())[:2])
    return SandboxMessage(
        number, channel, address, client, title, datetime.fromtimestamp(at, UTC), fields=fields
    )


def _whole(row: Sequence[Any]) -> SandboxMessage:
    found = _summary(row)
    if found.channel != EMAIL:
        return found
    message = BytesParser(policy=email.policy.default).parsebytes(row[5])
    html, text = message.get_body(("html",)), message.get_body(("plain",))
    return SandboxMessage(
        found.id,
        found.channel,
        found.to,
        found.client_id,
        found.title,
        found.received_at,
        html.get_content() if html is not None else None,
        text.get_content() if text is not None else None,
        {name: str(value) for name, value in message.items()},
    )


class Store:
    """The writer. :meth:`add` returns when the message is in the file."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        path_of(settings).parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path_of(settings), check_same_thread=False, timeout=30)
        self._connection.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; {_SCHEMA}")
        self._waiting: list[tuple[Received, asyncio.Future[None]]] = []
        self._wake = asyncio.Event()

    async def add(self, *messages: Received) -> None:
        loop = asyncio.get_running_loop()
        done = [loop.create_future() for _ in messages]
        self._waiting.extend(zip(messages, done, strict=True))
        self._wake.set()
        await asyncio.gather(*done)

    async def run(self) -> None:
        """Write what waits, again and again, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            group, self._waiting = self._waiting, []
            await asyncio.to_thread(self._write, [message for message, _ in group])
            for _, future in group:
                if not future.done():
                    future.set_result(None)

    def _write(self, group: Sequence[Received]) -> None:
        received_at = now(self._settings).timestamp()
        with self._connection:
            self._connection.executemany(
                "INSERT INTO messages (channel, address, client_id, received_at, content) "
                "VALUES (?, ?, ?, ?, ?)",
                [(m.channel, m.address, m.client_id, received_at, m.content) for m in group],
            )

    def close(self) -> None:
        self._connection.close()
