"""What other packages look at once more right before a message leaves, by the kind of its source.

Channels know consent and addresses; whether a message still has a reason (its coupon was used meanwhile,
say) is known above. Who queues such messages registers a check when its module is imported; the processes
that deliver import it. A check reads, in the claim's transaction, all messages of a batch at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True)
class Waiting:
    """A claimed message, with what its sender put into it (also where it fell back to another channel)."""

    message_id: int
    member_id: int
    context: Mapping[str, Any]


Check = Callable[[Session, Sequence[Waiting], datetime], Mapping[int, str]]
"""Message id → why it is not sent any more, of those that are not."""
_CHECKS: dict[str, Check] = {}


def register(source_kind: str, check: Check) -> None:
    """Have messages of this source looked at by ``check``."""
    _CHECKS[source_kind] = check


def refusals(session: Session, rows: Iterable[Any], now: datetime) -> dict[int, str]:
    """Message id → reason, of rows with id, member_id, source_kind and context (JSON); one check a source."""
    by_source: defaultdict[str, list[Waiting]] = defaultdict(list)
    for row in rows:
        if row.source_kind in _CHECKS:
            by_source[row.source_kind].append(Waiting(row.id, row.member_id, orjson.loads(row.context)))
    found: dict[int, str] = {}
    for source_kind, waiting in by_source.items():
        found |= _CHECKS[source_kind](session, waiting, now)
    return found
