"""A mailbox that bounces come to, read by IMAP or POP.

A mail is marked as read (IMAP) or deleted (POP) after the transaction that recorded it: what is
fetched twice changes nothing the second time.
"""

from __future__ import annotations

import imaplib
import poplib
import re
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from urllib.parse import unquote, urlsplit

from channels.bounces.intake import Incoming, Taken, take
from core.db import Database
from core.errors import HuiliuError, InvalidInput

TIMEOUT_S = 30.0
BATCH = 100
MOST = 5_000
"""Mails taken in one go."""
_PORTS = {"imap": 143, "imaps": 993, "pop3": 110, "pop3s": 995}
_SIZE = re.compile(rb"RFC822\.SIZE (\d+)")
MAX_FETCH = 5 * 1024 * 1024
"""Larger mails are no reports; they are marked and left where they are."""


@dataclass(frozen=True)
class Mailbox:
    """Where bounces are fetched: ``imaps://user:password@host[:port][/folder]``, imap, pop3 or pop3s."""

    scheme: str
    host: str
    port: int
    user: str
    password: str
    folder: str = "INBOX"


def parse_url(url: str) -> Mailbox:
    """``HUILIU_BOUNCE_MAILBOX``. Raises InvalidInput."""
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname or not parts.username:
        raise InvalidInput(
            "HUILIU_BOUNCE_MAILBOX must look like imaps://user:password@host/INBOX "
            "(imap, imaps, pop3 or pop3s)."
        )
    return Mailbox(
        parts.scheme,
        parts.hostname,
        parts.port or _PORTS[parts.scheme],
        unquote(parts.username),
        unquote(parts.password or ""),
        unquote(parts.path.strip("/")) or "INBOX",
    )


class _Open(Protocol):
    """A mailbox that is logged in to."""

    def batches(self) -> Iterator[list[tuple[str, bytes]]]:
        """(name, mail) of what was not taken yet."""
        ...

    def done(self, names: Sequence[str]) -> None: ...


class _Imap:
    def __init__(self, client: imaplib.IMAP4) -> None:
        self._client = client

    def batches(self) -> Iterator[list[tuple[str, bytes]]]:
        _, found = self._client.uid("SEARCH", "UNSEEN")
        names = [name.decode() for name in (found[0] or b"").split()][:MOST]
        for start in range(0, len(names), BATCH):
            yield [(name, self._fetch(name)) for name in names[start : start + BATCH]]

    def _fetch(self, name: str) -> bytes:
        _, sizes = self._client.uid("FETCH", name, "(RFC822.SIZE)")
        size = _SIZE.search(sizes[0] if isinstance(sizes[0], bytes) else b"")
        if size is not None and int(size[1]) > MAX_FETCH:
            return b""
        _, found = self._client.uid("FETCH", name, "(BODY.PEEK[])")
        return next((part[1] for part in found if isinstance(part, tuple)), b"")

    def done(self, names: Sequence[str]) -> None:
        self._client.uid("STORE", ",".join(names), "+FLAGS", r"(\Seen)")


class _Pop:
    def __init__(self, client: poplib.POP3) -> None:
        self._client = client

    def batches(self) -> Iterator[list[tuple[str, bytes]]]:
        _, listing, _ = self._client.list()
        entries = [entry.split() for entry in listing][:MOST]
        for start in range(0, len(entries), BATCH):
            batch = []
            for name, size in entries[start : start + BATCH]:
                large = int(size) > MAX_FETCH
                lines = [] if large else self._client.retr(int(name))[1]
                batch.append((name.decode(), b"\r\n".join([*lines, b""])))
            yield batch

    def done(self, names: Sequence[str]) -> None:
        for name in names:
            self._client.dele(int(name))


@contextmanager
def _opened(mailbox: Mailbox) -> Iterator[_Open]:
    context = ssl.create_default_context()
    try:
        if mailbox.scheme.startswith("imap"):
            imap: imaplib.IMAP4 = (
                imaplib.IMAP4_SSL(mailbox.host, mailbox.port, ssl_context=context, timeout=TIMEOUT_S)
                if mailbox.scheme == "imaps"
                else imaplib.IMAP4(mailbox.host, mailbox.port, timeout=TIMEOUT_S)
            )
            with imap:
                imap.login(mailbox.user, mailbox.password)
                imap.select(f'"{mailbox.folder}"')
                yield _Imap(imap)
            return
        pop = (
            poplib.POP3_SSL(mailbox.host, mailbox.port, timeout=TIMEOUT_S, context=context)
            if mailbox.scheme == "pop3s"
            else poplib.POP3(mailbox.host, mailbox.port, timeout=TIMEOUT_S)
        )
        try:
            pop.user(mailbox.user)
            pop.pass_(mailbox.password)
            yield _Pop(pop)
            pop.quit()  # only now what was deleted is gone
        finally:
            pop.close()
    except (OSError, imaplib.IMAP4.error, poplib.error_proto) as error:
        raise HuiliuError(
            f"The bounce mailbox {mailbox.user}@{mailbox.host}:{mailbox.port} cannot be read: {error}. "
            "Check HUILIU_BOUNCE_MAILBOX."
        ) from None


def collect(database: Database, url: str, now: Callable[[], datetime]) -> Taken:
    """Take everything new from the mailbox; one transaction a hundred mails, none around the network.

    Raises HuiliuError when the mailbox cannot be read, InvalidInput for an address that is none.
    """
    total = Taken(kinds={})
    with _opened(parse_url(url)) as mailbox:
        for batch in mailbox.batches():
            with database.write() as session:
                found = take(session, [Incoming(raw) for _, raw in batch if raw], now())
            mailbox.done([name for name, _ in batch])
            total = _sum(total, found)
    return total


def _sum(one: Taken, other: Taken) -> Taken:
    kinds = dict(one.kinds or {})
    for kind, number in (other.kinds or {}).items():
        kinds[kind] = kinds.get(kind, 0) + number
    return Taken(one.new + other.new, one.repeated + other.repeated, one.foreign + other.foreign, kinds)
