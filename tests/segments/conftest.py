"""A small shop as Arrow tables, laid straight into a warehouse."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest

from core.warehouse.engine import DuckEngine
from core.warehouse.replica import Replica
from segments.compile import Moment
from segments.evaluate import Evaluator
from segments.facts import FACTS
from segments.predict.snapshot import PREDICTIONS
from segments.scores import SNAPSHOT, snapshot_path, write_snapshot
from segments.settings import Scoring

ZONE = ZoneInfo("Asia/Shanghai")
AS_OF = date(2026, 3, 1)
MIDNIGHT = datetime(2026, 2, 28, 16, tzinfo=UTC)
"""The first moment of AS_OF in the shop's zone."""


def ago(days: float) -> datetime:
    """So many days before the as-of instant."""
    return MIDNIGHT - timedelta(days=days)


class Shop:
    """Facts of a shop, written as the replica's files."""

    def __init__(self, folder: Path) -> None:
        self.engine = DuckEngine(Replica(str(folder / "warehouse"), FACTS))
        self.rows: dict[str, list[dict[str, Any]]] = {fact.name: [] for fact in FACTS}

    def member(self, member_id: int, **columns: Any) -> None:
        row = {
            "member_id": member_id,
            "external_id": f"m{member_id}",
            "source": "shop",
            "registered_at": ago(400),
            "has_email": True,
            "has_phone": False,
            "has_wechat": False,
            "tags": "[]",
            "attributes": "{}",
        }
        self.rows["members"].append(row | columns)

    def order(self, member_id: int, days: float, amount: int = 1000, **columns: Any) -> int:
        order_id = len(self.rows["orders"]) + 1
        row = {
            "order_id": order_id,
            "member_id": member_id,
            "external_id": f"o{order_id}",
            "ordered_at": ago(days),
            "status": "paid",
            "total_minor": amount,
            "refunded_minor": 0,
            "net_minor": amount,
            "discount_minor": 0,
        }
        self.rows["orders"].append(row | columns)
        return order_id

    def line(self, order_id: int, **columns: Any) -> None:
        order = self.rows["orders"][order_id - 1]
        row = {
            "order_id": order_id,
            "line_no": len(self.rows["order_lines"]) + 1,
            "member_id": order["member_id"],
            "ordered_at": order["ordered_at"],
            "status": "paid",
            "source": "shop",
            "quantity": 1,
            "amount_minor": 100,
            "discount_minor": 0,
            "refunded": False,
        }
        self.rows["order_lines"].append(row | columns)

    def event(self, member_id: int, kind: str, days: float, properties: str = "{}") -> None:
        number = len(self.rows["events"]) + 1
        row = {
            "event_id": number,
            "member_id": member_id,
            "kind": kind,
            "occurred_at": ago(days),
            "properties": properties,
        }
        self.rows["events"].append(row)

    def add(self, fact: str, **columns: Any) -> None:
        self.rows[fact].append(columns)

    def write(self) -> None:
        for fact in FACTS:
            rows = [{name: row.get(name) for name in fact.schema.names} for row in self.rows[fact.name]]
            self.engine.replica.write(pa.Table.from_pylist(rows, fact.schema), fact.name, "all.parquet")

    def snapshot(
        self, scoring: Scoring | None = None, as_of: date = AS_OF, previous: date | None = None
    ) -> list[dict[str, Any]]:
        """Write the facts, score them, and answer the snapshot's rows by member."""
        self.write()
        self.read_out = write_snapshot(self.engine, scoring or Scoring(), as_of, ZONE, previous)
        path = snapshot_path(self.engine, SNAPSHOT, as_of)
        table = self.engine.query(f"SELECT * FROM read_parquet('{path}') ORDER BY member_id")
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows

    def evaluator(self, rules: dict[str, Any] | None = None) -> Evaluator:
        return Evaluator(
            self.engine,
            Moment(AS_OF, ZONE),
            (rules or {}).get,
            snapshot_path(self.engine, SNAPSHOT, AS_OF),
            snapshot_path(self.engine, PREDICTIONS, AS_OF),
        )


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)
