"""What was on the way to the orders of a period: touches in their order, and the funnel of each channel.

One scan of the warehouse each. A touch belongs to the member's next order where that came within the
look-back; touches of a period that led to no order are paths without one. Description only: who is sent
more is touched more, whatever it brings (:mod:`campaigns.attribution`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import pyarrow as pa

from campaigns.attribution import Path
from core.errors import InvalidInput
from core.warehouse.engine import Engine

CHANNEL, CAMPAIGN = "channel", "campaign"
BASES = ("sent", "opened", "clicked")
MAX_LOOKBACK_DAYS, MAX_DAYS = 180, 731
LAST_TOUCHES = 10
"""Of a path: what lay further back is left out."""
MAX_PATHS = 50_000
OTHER = "other"
"""A message that no campaign sent, such as a reminder."""


@dataclass(frozen=True)
class Asked:
    """Orders of [start, end). ``basis``: what counts as a touch; ``by``: channels, or campaigns."""

    start: datetime
    end: datetime
    lookback_days: int = 30
    basis: str = "sent"
    by: str = CHANNEL

    def validated(self) -> Asked:
        """Itself. InvalidInput: a choice that is none."""
        if not self.start < self.end or self.end - self.start > timedelta(days=MAX_DAYS):
            raise InvalidInput(f"The period begins before it ends and has at most {MAX_DAYS} days.", "to")
        if not 1 <= self.lookback_days <= MAX_LOOKBACK_DAYS:
            raise InvalidInput(f"A touch counts for 1 to {MAX_LOOKBACK_DAYS} days.", "lookback")
        if self.basis not in BASES or self.by not in (CHANNEL, CAMPAIGN):
            raise InvalidInput("Choose what counts as a touch, and whether by channel or campaign.", "basis")
        return self


@dataclass(frozen=True)
class Funnel:
    """Messages of a channel (or campaign) sent in the period, how far they came, and the members of those
    sent to who ordered within the look-back of one."""

    label: str
    sent: int
    delivered: int
    opened: int
    clicked: int
    members: int
    ordered: int


_TOUCHED = """
touched AS (
  SELECT t.member_id, t.message_id, t.{basis}_at AS "at", {label} AS label,
    t.sent_at, t.delivered_at, t.opened_at, t.clicked_at
  FROM touches t LEFT JOIN runs r ON t.source_kind = 'run' AND r.run_id = t.source_id
  WHERE t.purpose = 'marketing' AND t.{basis}_at IS NOT NULL
    AND t.{basis}_at >= $earliest AND t.{basis}_at < $end
),
ends AS (
  SELECT member_id, order_id, ordered_at AS "at", net_minor AS value
  FROM orders
  WHERE net_minor > 0 AND member_id IS NOT NULL AND ordered_at >= $start AND ordered_at < $end
)"""
# A row for each touch and order; the window looks ahead to the next order, so that no join by time is needed.
_PATHS = """
WITH {touched},
steps AS (
  SELECT member_id, "at", 0 AS is_order, message_id AS place, label, NULL AS value FROM touched
  UNION ALL
  SELECT member_id, "at", 1, order_id, NULL, value FROM ends
),
ahead AS (
  SELECT *,
    FIRST_VALUE(CASE WHEN is_order = 1 THEN "at" END IGNORE NULLS) OVER following AS next_at,
    FIRST_VALUE(CASE WHEN is_order = 1 THEN place END IGNORE NULLS) OVER following AS next_order
  FROM steps
  WINDOW following AS (
    PARTITION BY member_id ORDER BY "at", is_order, place ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING
  )
),
placed AS (
  SELECT *, next_at IS NOT NULL AND "at" >= next_at - to_days(CAST($lookback AS INTEGER)) AS converted
  FROM ahead
),
journeys AS (
  SELECT member_id, next_order, converted, SUM(value) AS value,
    LIST(label ORDER BY "at", place) FILTER (is_order = 0) AS touches
  FROM placed
  WHERE converted OR "at" >= $start
  GROUP BY member_id, next_order, converted
)
SELECT COALESCE(touches[-{most}:], []) AS touches, converted, COUNT(*) AS times,
  CAST(COALESCE(SUM(value), 0) AS DOUBLE) AS value
FROM journeys GROUP BY ALL ORDER BY times DESC, touches LIMIT {limit}"""
_FUNNEL = """
WITH {touched},
reached AS (
  SELECT t.member_id, t.label, MAX(CASE WHEN e.member_id IS NOT NULL THEN 1 ELSE 0 END) AS ordered
  FROM touched t
  LEFT JOIN ends e ON e.member_id = t.member_id AND e."at" >= t."at"
    AND e."at" < t."at" + to_days(CAST($lookback AS INTEGER))
  WHERE t."at" >= $start
  GROUP BY t.member_id, t.label
),
messages AS (
  SELECT label, COUNT(*) AS sent, COUNT(delivered_at) AS delivered, COUNT(opened_at) AS opened,
    COUNT(clicked_at) AS clicked
  FROM touched WHERE "at" >= $start GROUP BY label
),
people AS (SELECT label, COUNT(*) AS members, SUM(ordered) AS ordered FROM reached GROUP BY label)
SELECT m.*, p.members, p.ordered FROM messages m JOIN people p USING (label) ORDER BY sent DESC, label"""
_LABELS = {CHANNEL: "t.channel", CAMPAIGN: f"COALESCE(r.campaign, '{OTHER}')"}


def paths(engine: Engine, asked: Asked, runs: Mapping[int, str]) -> list[Path]:
    """The paths of the period, each with how often it was gone; ``runs``: run → name of its campaign.

    Orders without a touch are paths too. InvalidInput: choices that are none, or too many different paths.
    """
    text = _PATHS.format(touched=_touched(asked.validated()), most=LAST_TOUCHES, limit=MAX_PATHS + 1)
    rows = engine.query(text, _params(asked), {"runs": _runs(runs)}).to_pylist()
    if len(rows) > MAX_PATHS:
        raise InvalidInput(
            f"The period has more than {MAX_PATHS:,} different paths; take a shorter one, or channels.", "by"
        )
    return [
        Path(tuple(row["touches"]), row["converted"], row["value"] / row["times"], row["times"])
        for row in rows
    ]


def funnels(engine: Engine, asked: Asked, runs: Mapping[int, str]) -> list[Funnel]:
    """How far the messages of the period came, the most sent first. InvalidInput: choices that are none."""
    sent = Asked(asked.start, asked.end, asked.lookback_days, by=asked.by).validated()
    text = _FUNNEL.format(touched=_touched(sent))
    rows = engine.query(text, _params(sent), {"runs": _runs(runs)}).to_pylist()
    return [Funnel(**row) for row in rows]


def _touched(asked: Asked) -> str:
    return _TOUCHED.format(basis=asked.basis, label=_LABELS[asked.by])


def _params(asked: Asked) -> dict[str, object]:
    return {
        "start": asked.start,
        "end": asked.end,
        "earliest": asked.start - timedelta(days=asked.lookback_days),
        "lookback": asked.lookback_days,
    }


def _runs(runs: Mapping[int, str]) -> pa.Table:
    return pa.table(
        {"run_id": pa.array(list(runs), pa.int64()), "campaign": pa.array(list(runs.values()), pa.string())}
    )
