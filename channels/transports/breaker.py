"""A circuit breaker: after failures in a row a provider is left alone, longer each time; then one try."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_S = 15.0
MOST_S = 600.0
SILENT = 10
"""Messages in a row without any answer that count as a failure of the provider."""


def wait_s(failures: int) -> float:
    """For how many seconds a provider is left alone after one more than ``failures`` failures in a row."""
    return min(FIRST_S * 2.0**failures, MOST_S)


@dataclass
class Breaker:
    """Times are in the caller's monotonic clock, seconds."""

    failures: int = 0
    open_until: float = 0.0

    def allows(self, now: float) -> bool:
        """Whether the provider may be asked: it is closed, or its time is up and it is probed."""
        return now >= self.open_until

    @property
    def probing(self) -> bool:
        """After a failure a single message goes first."""
        return self.failures > 0

    def failed(self, now: float) -> float:
        """Note a failure; for how many seconds the provider is left alone."""
        seconds = wait_s(self.failures)
        self.failures += 1
        self.open_until = now + seconds
        return seconds

    def succeeded(self) -> None:
        self.failures, self.open_until = 0, 0.0
