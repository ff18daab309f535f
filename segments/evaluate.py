"""Rules evaluated against the warehouse: how many, who, how they overlap, and why a member matches."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlglot import exp

from core.settings import Settings
from core.warehouse.engine import DuckEngine, Engine, Stored
from segments import explain, lists, suggest
from segments.compile import Lookup, Moment, compile_many, compile_rule
from segments.models import Segment
from segments.planning.plan import Plan
from segments.predict.snapshot import PREDICTION_SCHEMA, PREDICTIONS
from segments.scores import SNAPSHOT, SNAPSHOT_SCHEMA, latest_refresh, snapshot_path
from segments.settings import TITLES, Titles

MAX_SAMPLE = 1000
MAX_OTHERS = 200
TOTALS_KEPT = 64
EVERYBODY = {"field": "member_id", "op": "is_set"}
"""The rule of everybody who was there as of the moment."""


@dataclass(frozen=True)
class Count:
    """The answer of ``huiliu segments count --json``. ``total`` counts who was there as of the moment."""

    count: int
    total: int
    share: float
    sample: list[str]
    """External ids, in order: of those who came first into the database."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Overlap:
    """How a rule and a segment overlap. Shares are of the rule's and of the segment's members."""

    name: str
    count: int
    both: int
    share_of_rule: float
    share_of_segment: float


class _Totals:
    """How many were there, by the state of the files: the same number for every rule until they change."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, int] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> int | None:
        with self._lock:
            return self._kept.get(key)

    def put(self, key: Hashable, total: int) -> None:
        with self._lock:
            self._kept[key] = total
            while len(self._kept) > TOTALS_KEPT:
                self._kept.popitem(last=False)


_totals = _Totals()


def live_rules(session: Session) -> dict[str, Mapping[str, Any]]:
    """Rules of the live segments by name."""
    query = sa.select(Segment.name, Segment.rule).where(Segment.archived_at.is_(None))
    return dict(session.execute(query).all())


def lookup(session: Session) -> Lookup:
    """Finds the rule of a live segment by name; reads them all once, as a rule may refer to many."""
    return live_rules(session).get


@dataclass(frozen=True)
class Evaluator:
    """Everything a rule is evaluated with: the engine, the moment, the other segments and the lists.

    Every method raises InvalidInput, with the place, for a rule that is malformed or names what
    is not there.
    """

    engine: Engine
    moment: Moment
    lookup: Lookup
    snapshot: str | None
    """The Parquet file of scores and stages to use."""
    predictions: str | None = None
    """The Parquet file of predictions to use."""
    lists: Collection[str] | None = None
    """Names of the lists there are; None: any name will do."""

    def run(self, query: exp.Expr | str) -> pa.Table:
        """A query over the facts, ``snapshot`` and ``predictions``."""
        text = query if isinstance(query, str) else query.sql("duckdb")
        files = {
            "snapshot": Stored(self.snapshot, SNAPSHOT_SCHEMA),
            "predictions": Stored(self.predictions, PREDICTION_SCHEMA),
        }
        return self.engine.query(text, files={name: one for name, one in files.items() if name in text})

    def sql(self, rule: Any) -> str:
        """The query of the matching member ids, in DuckDB's dialect."""
        return self._query(rule).sql("duckdb")

    def _query(self, rule: Any, member_id: int | None = None) -> exp.Select:
        return compile_rule(rule, self.moment, self.lookup, self.lists, member_id)

    def members(self, rule: Any) -> pa.Table:
        """Arrow table (member_id, external_id) of everybody who matches, by member id."""
        return self.run(self._query(rule).select("m.external_id").order_by("m.member_id"))

    def count(self, rule: Any, sample: int = 20) -> Count:
        """How many match, of how many, and the first ``sample`` of them."""
        wanted = min(max(sample, 0), MAX_SAMPLE)
        matched = self.sql(rule)
        if wanted:
            text = f"""
                WITH matched AS MATERIALIZED ({matched}),
                chosen AS (SELECT member_id FROM matched ORDER BY member_id LIMIT {wanted})
                SELECT count(*) AS matching, CAST(NULL AS VARCHAR) AS external_id FROM matched
                UNION ALL
                SELECT NULL, external_id FROM members WHERE member_id IN (SELECT member_id FROM chosen)
            """
        else:
            text = f"SELECT count(*) AS matching FROM ({matched}) AS matched"
        rows = self.run(text).to_pylist()
        number = next(int(row["matching"]) for row in rows if row["matching"] is not None)
        chosen = sorted(row["external_id"] for row in rows if row["matching"] is None)
        total = self.total()
        return Count(number, total, number / total if total else 0.0, chosen)

    def total(self) -> int:
        """How many were there as of the moment."""
        state = self.engine.state(("members",), (self.snapshot,))
        key = (state, self.moment.instant)
        found = None if state is None else _totals.get(key)
        if found is None:
            row = self.run(f"SELECT count(*) AS number FROM ({self.sql(EVERYBODY)}) AS there").to_pylist()[0]
            found = int(row["number"])
            if state is not None:
                _totals.put(key, found)
        return found

    def matches(self, rule: Any, member_id: int) -> bool:
        return bool(self.run(self._query(rule, member_id)).num_rows)

    def overlap(self, rule: Any, others: Sequence[str]) -> tuple[int, list[Overlap]]:
        """How many match ``rule``, and for each of the segments ``others`` how many of them are in it.

        One query for all of them; at most ``MAX_OTHERS``.
        """
        names = list(others)[:MAX_OTHERS]
        inner = compile_many(
            [rule, *({"segment": name} for name in names)], self.moment, self.lookup, self.lists
        )
        numbers = [
            f"count(*) FILTER (WHERE b{n}) AS c{n}, count(*) FILTER (WHERE b0 AND b{n}) AS t{n}"
            for n in range(len(names) + 1)
        ]
        row = self.run(f"SELECT {', '.join(numbers)} FROM ({inner.sql('duckdb')}) AS everybody").to_pylist()[
            0
        ]
        own = int(row["c0"])
        return own, [
            Overlap(
                name,
                count := int(row[f"c{n}"]),
                both := int(row[f"t{n}"]),
                both / own if own else 0.0,
                both / count if count else 0.0,
            )
            for n, name in enumerate(names, 1)
        ]

    def explain(
        self, rule: Any, member_id: int, locale: str = "en", titles: Titles = TITLES
    ) -> explain.Explanation:
        """Whether a member matches, condition by condition, with the values looked at: one query.

        Raises NotFound for who is not in the warehouse.
        """
        question = explain.Question(
            Plan(self.moment, self.lookup, self.lists, member_id), rule, locale, titles
        )
        return question.answer(self.run(question.query()).to_pylist())

    def suggestions(
        self, name: str, *, event: str | None = None, prefix: str = "", limit: int = suggest.LIMIT
    ) -> list[suggest.Suggestion]:
        """The commonest values of a field, or of a property of ``event``, that start with ``prefix``."""
        query = suggest.query(Plan(self.moment, self.lookup), name, event, prefix, limit)
        return [suggest.Suggestion(row["value"], int(row["number"])) for row in self.run(query).to_pylist()]


def _on_cluster(master: str, engine: DuckEngine) -> Engine:
    from core.warehouse.spark import engine_on  # an extra: most installations do without

    return engine_on(master, engine.replica)


def evaluator(session: Session, engine: DuckEngine, settings: Settings, as_of: date) -> Evaluator:
    """An evaluator as of a date, with the newest scores and predictions up to it.

    On the cluster of ``settings.spark_master`` where there is one, else in this process.
    """
    latest = latest_refresh(session, as_of)
    day = latest.as_of if latest else None
    return Evaluator(
        _on_cluster(settings.spark_master, engine) if settings.spark_master else engine,
        Moment(as_of, settings.zone, settings.shop_currency),
        lookup(session),
        snapshot_path(engine, SNAPSHOT, day),
        snapshot_path(engine, PREDICTIONS, day),
        lists.names(session),
    )
