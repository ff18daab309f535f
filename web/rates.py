"""Counts of requests by window, in this process: what the limits of the API and of public pages are kept in.

The library's own storage in memory starts a thread a hundred times a second to forget what is over, which
costs a busy till more than counting. Here what is over is forgotten as new windows come.
"""

from __future__ import annotations

import threading
import time

from limits.storage import Storage
from limits.strategies import FixedWindowRateLimiter

SWEEP = 1_000
"""New windows after which those that are over are forgotten."""


class Counts(Storage):
    """Counts that end by time. Windows are kept for as many keys as met in them, and few more."""

    STORAGE_SCHEME = None

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[str, tuple[int, float]] = {}
        self._new = 0
        self._lock = threading.Lock()

    @property
    def base_exceptions(self) -> type[Exception]:
        return ValueError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        now = time.time()
        with self._lock:
            count, end = self._counts.get(key, (0, 0.0))
            if end <= now:
                count, end = 0, now + expiry
                self._new += 1
                if self._new >= SWEEP:
                    self._sweep(now)
            self._counts[key] = (count + amount, end)
            return count + amount

    def _sweep(self, now: float) -> None:
        self._counts = {key: kept for key, kept in self._counts.items() if kept[1] > now}
        self._new = 0

    def get(self, key: str) -> int:
        count, end = self._counts.get(key, (0, 0.0))
        return count if end > time.time() else 0

    def get_expiry(self, key: str) -> float:
        return self._counts.get(key, (0, time.time()))[1]

    def check(self) -> bool:
        return True

    def reset(self) -> int:
        with self._lock:
            before = len(self._counts)
            self._counts = {}
        return before

    def clear(self, key: str) -> None:
        with self._lock:
            self._counts.pop(key, None)


def fixed_windows() -> FixedWindowRateLimiter:
    """A limiter of windows that begin with their first request."""
    return FixedWindowRateLimiter(Counts())
