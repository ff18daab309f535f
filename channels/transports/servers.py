"""SMTP servers as ``HUILIU_SMTP_URL`` names them, and which of them sends the next message.

Pure: addresses in, a choice out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from urllib.parse import parse_qsl, unquote, urlsplit

import idna

from core.errors import InvalidInput

CONNECTIONS = 10
PER_CONNECTION = 1_000
"""Messages before a connection is closed; for a relay of one's own. Receivers' own limits are smaller."""
MAX_SERVERS = 20
ANY = 2.0**40
"""More messages than anybody sends in a day."""
MAX_CONNECTIONS = 200
DEFAULT_PORT = {"none": 25, "starttls": 587, "ssl": 465}
_EXAMPLE = (
    "HUILIU_SMTP_URL must look like smtp://user:password@host:587?tls=starttls (tls: none, starttls or "
    "ssl; weight, connections, messages: numbers; warmup: first day/messages/factor, like "
    "2026-11-01/50/2). Several servers are separated by spaces."
)


@dataclass(frozen=True)
class WarmUp:
    """A new server's messages a day: ``first`` on day 0, ``factor`` times as many each following day."""

    start: date
    first: int
    factor: float = 2.0

    def allowed(self, day: date) -> int:
        """Messages of ``day``; none before the start."""
        days = (day - self.start).days
        if days < 0:
            return 0
        return int(min(self.first * self.factor ** min(days, 100), ANY))


@dataclass(frozen=True)
class Server:
    """An SMTP server: where, how to log in, and how much it takes."""

    host: str
    port: int
    user: str | None = None
    password: str | None = None
    tls: str = "none"
    weight: int = 1
    connections: int = CONNECTIONS
    per_connection: int = PER_CONNECTION
    warm_up: WarmUp | None = None

    @property
    def name(self) -> str:
        """What the books call it."""
        return f"{self.user}@{self.host}:{self.port}" if self.user else f"{self.host}:{self.port}"


@lru_cache(maxsize=50_000)
def ascii_domain(domain: str) -> str:
    """A domain as DNS has it. Raises UnicodeError for one that cannot exist."""
    return domain if domain.isascii() else idna.encode(domain, uts46=True).decode()


def parse_urls(text: str) -> tuple[Server, ...]:
    """All servers of the setting. Raises InvalidInput."""
    servers = tuple(parse_url(url) for url in text.replace(",", " ").split())
    if not servers or len(servers) > MAX_SERVERS or len({server.name for server in servers}) < len(servers):
        raise InvalidInput(f"HUILIU_SMTP_URL names 1 to {MAX_SERVERS} different servers.")
    return servers


def parse_url(url: str) -> Server:
    """``smtp://[user:password@]host:port[?tls=…&weight=…&connections=…&messages=…&warmup=…]``."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    tls = options.pop("tls", "starttls" if parts.username else "none")
    try:
        port = parts.port or DEFAULT_PORT[tls]
        numbers = {
            "weight": _number(options, "weight", 1, 1000),
            "connections": _number(options, "connections", CONNECTIONS, MAX_CONNECTIONS),
            "per_connection": _number(options, "messages", PER_CONNECTION, 1_000_000),
        }
        warm_up = _warm_up(options.pop("warmup", ""))
    except (KeyError, ValueError):
        raise InvalidInput(_EXAMPLE) from None
    if parts.scheme != "smtp" or not parts.hostname or options:
        raise InvalidInput(_EXAMPLE)
    user, password = parts.username, parts.password
    return Server(
        parts.hostname,
        port,
        unquote(user) if user else None,
        unquote(password) if password else None,
        tls,
        warm_up=warm_up,
        **numbers,
    )


def _number(options: dict[str, str], name: str, default: int, most: int) -> int:
    found = int(options.pop(name, default))
    if not 1 <= found <= most:
        raise ValueError(name)
    return found


def _warm_up(text: str) -> WarmUp | None:
    if not text:
        return None
    start, _, rest = text.partition("/")
    first, _, factor = rest.partition("/")
    found = WarmUp(date.fromisoformat(start), int(first or 50), float(factor or 2))
    if found.first < 1 or not 1 <= found.factor <= 10:
        raise ValueError(text)
    return found


def share(number: int, weights: Mapping[str, int], room: Mapping[str, int]) -> dict[str, int]:
    """``number`` messages shared out by weight; none gets more than its ``room``.

    What a full server leaves goes to the others; the sum is less than ``number`` when all are full.
    Largest remainders first, so that small numbers are shared fairly too.
    """
    found = dict.fromkeys(weights, 0)
    left = number
    while left:
        open_ = [name for name in weights if found[name] < room.get(name, left + number)]
        if not open_:
            break
        total = sum(weights[name] for name in open_)
        exact = {name: left * weights[name] / total for name in open_}
        given = {name: int(exact[name]) for name in open_}
        rest = left - sum(given.values())
        for name in sorted(open_, key=lambda name: (given[name] - exact[name], name))[:rest]:
            given[name] += 1
        for name in open_:
            taken = min(given[name], room.get(name, left + number) - found[name])
            found[name] += taken
            left -= taken
    return found


def names(servers: Sequence[Server]) -> str:
    """For messages to people."""
    return ", ".join(server.name for server in servers)
