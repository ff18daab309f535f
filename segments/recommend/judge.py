"""How good the recommendations would have been: the past predicts what came after, against popularity."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa

from core.times import instant
from core.warehouse.engine import DuckEngine
from segments.recommend.model import Recommending, fit
from segments.recommend.rank import recommend
from segments.scores import named, sql

AT = 10
BATCH = 5000
HITS = "SELECT count(DISTINCT g.member_id) AS hits FROM guesses AS g JOIN truth AS t USING (member_id, sku)"


@dataclass(frozen=True)
class Judged:
    """Of the members who bought something new to their last days in the hold-out, the share that was
    recommended at least one of it among ten; and the same of the ten most popular products."""

    as_of: date
    days: int
    members: int
    hit_rate: float
    baseline: float

    @property
    def lift(self) -> float:
        return self.hit_rate / self.baseline if self.baseline else 0.0

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "as_of": self.as_of.isoformat(), "lift": self.lift}


def judge(
    engine: DuckEngine, as_of: date, zone: ZoneInfo, *, days: int = 28, how: Recommending | None = None
) -> Judged:
    """Fit as of ``days`` before, recommend, and compare with what was bought in the days after.

    Both sides may name anything but what a member bought just before the cut, and are asked about the
    same members. The snapshots of the cut date stay: they are what a fit then would have written.
    """
    chosen = how or Recommending()
    cut = as_of - timedelta(days=days)
    fit(engine, cut, zone, chosen)
    params = {**chosen.params(cut, zone), "until": instant(as_of, zone), "n": AT}
    text = sql("recommend_truth")
    truth = engine.query(text, named(text, params))
    members = sorted(set(truth["member_id"].to_pylist()))
    hits = 0
    for start in range(0, len(members), BATCH):
        batch = members[start : start + BATCH]
        found = recommend(engine, batch, cut, zone, n=AT, how=chosen)
        rows = [(member, product.sku) for member, products in found.items() for product in products]
        guesses = pa.table({"member_id": [row[0] for row in rows], "sku": [row[1] for row in rows]})
        hits += engine.query(HITS, tables={"guesses": guesses, "truth": truth})["hits"][0].as_py()
    text = sql("recommend_baseline")
    popular = engine.query(text, named(text, params), tables={"truth": truth})["hits"][0].as_py()
    total = len(members)
    return Judged(as_of, days, total, hits / total if total else 0.0, popular / total if total else 0.0)
