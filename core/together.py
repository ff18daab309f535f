"""Requests that arrive while one transaction is under way share the next one (a group commit).

Under a rush a request's own transaction costs more than what it does: statements that find one row each, and
a wait for the disk. Together, a statement finds the rows of all, and the disk is waited for once.

Guarantees: nobody waits to be joined, so a request alone is done at once; one that cannot be done together
with others, or whose joint transaction failed, gets a transaction of its own; nobody answers before the
transaction that did the work is committed.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from sqlalchemy.orm import Session

from core.db import Database
from core.errors import HuiliuError

MOST = 64
"""Requests in one transaction at most."""
_LOG = logging.getLogger(__name__)

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class _Seat(Generic[Asked, Answer]):
    """One waiting request, and what became of it."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.called = threading.Lock()
        self.called.acquire()  # until it is this one's turn
        self.leads = False
        self.answer: Answer | HuiliuError | None = None


class Together(Generic[Asked, Answer]):
    """Called with a request by any number of threads; answers it, or raises its refusal."""

    def __init__(
        self,
        database: Database,
        many: Callable[[Session, Sequence[Asked]], Sequence[Answer | HuiliuError | None]],
        one: Callable[[Session, Asked], Answer],
        *,
        most: int = MOST,
    ) -> None:
        """``many`` does several requests in one transaction and answers, in their order, what each got: its
        answer, its refusal (as a value: the others go on), or None where it must be done by ``one``."""
        self._database, self._many, self._one, self._most = database, many, one, most
        self._door = threading.Lock()
        self._waiting: deque[_Seat[Asked, Answer]] = deque()
        self._busy = False

    def __call__(self, asked: Asked) -> Answer:
        seat: _Seat[Asked, Answer] = _Seat(asked)
        with self._door:
            self._waiting.append(seat)
            seat.leads = not self._busy
            self._busy = True
        if not seat.leads:
            seat.called.acquire()
        if seat.leads:
            self._lead()
        if seat.answer is None:
            with self._database.write() as session:
                return self._one(session, asked)
        if isinstance(seat.answer, HuiliuError):
            raise seat.answer
        return seat.answer

    def _lead(self) -> None:
        """Do the work of those who wait, then call whoever came meanwhile to lead the next."""
        with self._door:
            seats = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
        try:
            with self._database.write() as session:
                answers = self._many(session, [seat.asked for seat in seats])
            for seat, answer in zip(seats, answers, strict=True):
                seat.answer = answer
        except Exception:
            # Whose fault it is shows when each is done alone.
            _LOG.warning(
                "A transaction of %d requests failed; each is done alone.", len(seats), exc_info=True
            )
        finally:
            self._hand_on(seats)

    def _hand_on(self, seats: Sequence[_Seat[Asked, Answer]]) -> None:
        with self._door:
            self._busy = bool(self._waiting)
            if self._waiting:
                self._waiting[0].leads = True
                self._waiting[0].called.release()
        for seat in seats:
            seat.called.release()
