"""Rules evaluated against the warehouse: how many, who, and whether a given member matches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.settings import Settings
from core.warehouse.engine import DuckEngine
from segments.compile import Moment, compile_rule
from segments.models import Segment
from segments.scores import SNAPSHOT, SNAPSHOT_SCHEMA, latest_refresh, snapshot_path

Lookup = Callable[[str], Mapping[str, Any] | None]
MAX_SAMPLE = 1000
EVERYBODY = {"field": "member_id", "op": "is_set"}
"""The rule of everybody who was there as of the moment."""


@dataclass(frozen=True)
class Count:
    """The answer of ``huiliu segments count --json``. ``total`` counts who was there as of the moment."""

    count: int
    total: int
    share: float
    sample: list[str]
    """External ids, the smallest first."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def live_rules(session: Session) -> dict[str, Mapping[str, Any]]:
    """Rules of the live segments by name."""
    query = sa.select(Segment.name, Segment.rule).where(Segment.archived_at.is_(None))
    return dict(session.execute(query).all())


def lookup(session: Session) -> Lookup:
    """Finds the rule of a live segment by name; reads them all once, as a rule may refer to many."""
    return live_rules(session).get


@dataclass(frozen=True)
class Evaluator:
    """Everything a rule is evaluated with: the engine, the moment, and the other segments."""

    engine: DuckEngine
    moment: Moment
    lookup: Lookup
    snapshot: str | None
    """The Parquet file of scores and stages to use."""

    def run(self, sql: str) -> pa.Table:
        with self.engine.connect() as connection:
            self.engine.add_view(connection, "snapshot", self.snapshot, SNAPSHOT_SCHEMA)
            return connection.sql(sql).to_arrow_table()

    def sql(self, rule: Any) -> str:
        """The query of the matching member ids. Raises InvalidInput for a malformed rule."""
        return compile_rule(rule, self.moment, self.lookup).sql("duckdb")

    def members(self, rule: Any) -> pa.Table:
        """Arrow table (member_id, external_id) of everybody who matches, by member id."""
        matched = f"member_id IN ({self.sql(rule)})"
        return self.run(f"SELECT member_id, external_id FROM members WHERE {matched} ORDER BY member_id")

    def count(self, rule: Any, sample: int = 20) -> Count:
        """How many match, of how many, and the first ``sample`` of them."""
        wanted = min(max(sample, 0), MAX_SAMPLE)
        text = f"""
            WITH matched AS MATERIALIZED ({self.sql(rule)}),
            first AS (
                SELECT external_id FROM members WHERE member_id IN (SELECT member_id FROM matched)
                ORDER BY external_id LIMIT {wanted}
            )
            SELECT (SELECT count(*) FROM matched) AS count,
                   (SELECT count(*) FROM ({self.sql(EVERYBODY)})) AS total,
                   (SELECT list(external_id) FROM first) AS sample
        """
        row = self.run(text).to_pylist()[0]
        share = row["count"] / row["total"] if row["total"] else 0.0
        return Count(int(row["count"]), int(row["total"]), share, list(row["sample"] or []))

    def matches(self, rule: Any, member_id: int) -> bool:
        found = self.run(f"SELECT 1 FROM ({self.sql(rule)}) WHERE member_id = {int(member_id)}")
        return bool(found.num_rows)


def evaluator(session: Session, engine: DuckEngine, settings: Settings, as_of: date) -> Evaluator:
    """An evaluator as of a date, with the newest scores up to it."""
    latest = latest_refresh(session, as_of)
    path = snapshot_path(engine, SNAPSHOT, latest.as_of if latest else None)
    return Evaluator(engine, Moment(as_of, settings.zone, settings.shop_currency), lookup(session), path)
