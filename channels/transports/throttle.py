"""How fast a receiver may be written to: groups of domains, their limits, a batch's queue that keeps them.

A group is all domains whose mail the same receiver takes. Its members are found by a table of well-known
domains or, where a resolver is given, by the suffix of their MX host. Limits hold in each worker.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType

from channels.bounces.classify import Kind
from channels.transports.base import Outcome, Outgoing, Reaction, TransportError
from channels.transports.smtp_replies import SILENCE, UNSENT

MINUTE_S = 60.0
POLICY_LIMIT = 3
"""Policy refusals in one batch that make us leave a receiver alone: one may be about a message."""
POLICY_S = 3600.0


CONNECTIONS = 10
CONNECTIONS_TO: Mapping[str, int] = MappingProxyType({"google": 5, "outlook": 5})
"""Connections of one worker that may carry messages to a receiver at once. How many messages one connection
takes is the server's own option: a relay keeps the receivers' limits itself."""
_DOMAINS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("gmail.com", "googlemail.com"), "google"),
        **dict.fromkeys(("outlook.com", "hotmail.com", "live.com", "msn.com", "outlook.cn"), "outlook"),
        **dict.fromkeys(("yahoo.com", "ymail.com", "rocketmail.com", "aol.com", "yahoo.co.uk"), "yahoo"),
        **dict.fromkeys(("icloud.com", "me.com", "mac.com"), "apple"),
        **dict.fromkeys(("qq.com", "foxmail.com", "vip.qq.com"), "tencent"),
        **dict.fromkeys(("163.com", "126.com", "yeah.net", "188.com", "vip.163.com"), "netease"),
    }
)
_SUFFIXES: Mapping[str, str] = MappingProxyType(
    {
        "google.com": "google",
        "googlemail.com": "google",
        "outlook.com": "outlook",
        "yahoodns.net": "yahoo",
        "icloud.com": "apple",
        "qq.com": "tencent",
        "netease.com": "netease",
        "mxhichina.com": "aliyun",
    }
)

Resolve = Callable[[str], str | None]
"""The host of a domain's first MX, or None."""


def group_of(domain: str, mx: str | None = None) -> str:
    """The receiver behind a domain: by its MX host where it is known, else by the domain itself."""
    host = (mx or "").rstrip(".").lower()
    for suffix, group in _SUFFIXES.items():
        if host == suffix or host.endswith(f".{suffix}"):
            return group
    if host:
        # Everybody whose mail goes to hosts of the same domain: two labels, three below ".co.uk".
        labels = host.split(".")
        return ".".join(labels[-3:] if len(labels) > 2 and len(labels[-2]) <= 3 else labels[-2:])
    return _DOMAINS.get(domain, domain)


def connections_to(group: str) -> int:
    return CONNECTIONS_TO.get(group, CONNECTIONS)


@lru_cache(maxsize=50_000)
def domain_of(address: str) -> str:
    return address.rpartition("@")[2].lower()


@dataclass(frozen=True, slots=True)
class Limit:
    """What a receiver asked of us."""

    stopped_until: datetime | None = None
    slow_until: datetime | None = None
    reason: str = ""


def held(group: str, limit: Limit, nth: int, now: datetime) -> Outcome | None:
    """Why the ``nth`` (from 0) message of a batch to a limited receiver waits; None: it goes out."""
    if limit.stopped_until is not None and limit.stopped_until > now:
        return _hold(group, limit.reason, (limit.stopped_until - now).total_seconds())
    if limit.slow_until is not None and limit.slow_until > now and nth > 0:
        return _hold(group, limit.reason, min(nth * MINUTE_S, (limit.slow_until - now).total_seconds()))
    return None


def _hold(group: str, why: str, seconds: float) -> Outcome:
    return Outcome(error=TransportError(f"{group}: {why}"[:200], Reaction.HOLD, code="pace", after_s=seconds))


@dataclass
class Queue:
    """A batch on its way through one server: who may send the next message, and what becomes of it.

    Never more connections busy with a group at once than its pace; after a receiver's request to slow down or
    stop, the rest of its messages are held back.
    """

    items: Sequence[tuple[int, Outgoing, str]]
    """(index in the batch, message, group)."""
    deadline: float
    clock: Callable[[], float]
    outcomes: dict[int, Outcome]
    limits: dict[str, tuple[float, float, str]] = field(default_factory=dict)
    """New requests of receivers: group → (stop s, slow s, reason)."""
    stopped: TransportError | None = None
    """Why nothing more goes through this server."""
    streak: int = 0
    """Messages without any answer since the last one with an answer."""

    def __post_init__(self) -> None:
        self._waiting: dict[str, deque[tuple[int, Outgoing]]] = {}
        for index, message, group in self.items:
            self._waiting.setdefault(group, deque()).append((index, message))
        self._group = {index: group for index, _, group in self.items}
        self._message = {index: message for index, message, _ in self.items}
        self._again: set[int] = set()
        self._lane: dict[int, int] = {}
        self._busy: dict[str, Counter[int]] = {group: Counter() for group in self._waiting}
        self._most = {group: connections_to(group) for group in self._waiting}
        self._policy = dict.fromkeys(self._waiting, 0)

    @property
    def ended(self) -> bool:
        return self.stopped is not None or not self._waiting or self.clock() >= self.deadline

    def take(self, lane: int) -> tuple[int, Outgoing] | None:
        """The next message that may leave on the connection ``lane``: the groups take turns."""
        if self.stopped is not None or self.clock() >= self.deadline:
            return None
        for group, waiting in self._waiting.items():
            busy = self._busy[group]
            if lane not in busy and len(busy) >= self._most[group]:
                continue
            taken = waiting.popleft()
            if len(self._waiting) > 1 or not waiting:
                del self._waiting[group]
                if waiting:
                    self._waiting[group] = waiting
            busy[lane] += 1
            self._lane[taken[0]] = lane
            return taken
        return None

    def settle(self, index: int, outcome: Outcome) -> None:
        group, lane = self._group[index], self._lane.pop(index)
        busy = self._busy[group]
        busy[lane] -= 1
        if not busy[lane]:
            del busy[lane]
        error = outcome.error
        if error is not None and error.code == UNSENT and index not in self._again:
            # Its envelope was on a line that broke: another line takes it, once.
            self._again.add(index)
            self._waiting.setdefault(group, deque()).appendleft((index, self._message[index]))
            return
        if error is not None and error.reaction in (Reaction.PAUSE, Reaction.UNREACHABLE):
            # Refused for the server's sake: another server may take it.
            self.stopped = self.stopped or error
            return
        self.outcomes[index] = outcome
        if error is None:
            self.streak = 0
            return
        self.streak = self.streak + 1 if error.code in (SILENCE, UNSENT) else 0
        if error.stop_s:
            self._limit(group, error.stop_s, 0.0, str(error))
        elif error.slow_s:
            self._limit(group, 0.0, error.slow_s, str(error))
        elif error.bounce == Kind.POLICY:
            self._policy[group] += 1
            if self._policy[group] == POLICY_LIMIT:
                self._limit(group, POLICY_S, 0.0, str(error))

    def _limit(self, group: str, stop_s: float, slow_s: float, why: str) -> None:
        known = self.limits.get(group, (0.0, 0.0, why))
        self.limits[group] = (max(known[0], stop_s), max(known[1], slow_s), known[2])
        waiting: Iterable[tuple[int, Outgoing]] = self._waiting.pop(group, ())
        for nth, (index, _) in enumerate(waiting, 1):
            seconds = stop_s or min(nth * MINUTE_S, slow_s)
            self.outcomes[index] = _hold(group, why, seconds)
