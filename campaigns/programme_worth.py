"""What all marketing of a quarter was worth after its cost.

The margin of the additional revenue, less what members with marketing cost more than those without.

Guarantees: revenue and cost are of the same members over the same windows; whatever the control group costs
as well (receipts, points of orders, coupons for everybody) is taken off; a cost is a known number, so that
it moves the interval and does not widen it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.models import CampaignRun
from campaigns.roi import Cost, Interval, Roi
from campaigns.spec import CampaignSpec
from channels.sql import TOUCHES
from core.warehouse.engine import DuckEngine
from experiments.assignment import assigned
from experiments.control import CONTROL, MEASURED, name_of
from experiments.models import Experiment
from experiments.moments import MARGIN, REVENUE
from experiments.readout_form import ReadOut
from loyalty import point_value
from loyalty.ledger import POINTS
from loyalty.models import CouponBatch
from loyalty.redemptions import REDEMPTIONS

USUAL_PRICES: dict[str, int] = CampaignSpec({}, ()).message_cost_minor
"""Of messages that are no campaign's: what a campaign's form proposes."""
GIVEN = ("earn", "grant", "revoke")
"""Kinds of the points ledger that give, or take back what was given."""
_PRICES = pa.schema([("run_id", pa.int64()), ("channel", pa.string()), ("price", pa.float64())])
_BATCHES = pa.schema([("batch_id", pa.int64()), ("share", pa.float64())])
_WITHIN = 'AND {time} >= a."at" AND {time} < a."at" + to_days($days) AND {time} < $as_of'


def worth(
    session: Session, engine: DuckEngine, quarter: int, found: ReadOut, *, window_days: int, as_of: datetime
) -> Roi | None:
    """The profit of all members with marketing, from the programme's read-out ``found``; None where it cannot
    be compared. Amounts in minor units; ROI and iROAS are not given, since the cost is a difference."""
    revenue, margin = found.result(REVENUE).absolute, found.result(MARGIN).absolute
    n, without = found.arms.get(MEASURED, 0), found.arms.get(CONTROL, 0)
    if not found.trusted or revenue is None or margin is None or not without:
        return None
    spent = costs(session, engine, quarter, window_days=window_days, as_of=as_of)
    scale = n / without
    cost = Cost(*(
        getattr(spent[MEASURED], kind) - scale * getattr(spent[CONTROL], kind)
        for kind in ("messages", "coupons", "points", "fixed")
    ))  # fmt: skip
    profit = Interval(*(n * value - cost.total for value in (margin.estimate, margin.low, margin.high)))
    more = Interval(*(n * value for value in (revenue.estimate, revenue.low, revenue.high)))
    return Roi(more, profit, cost, None, None)


def costs(
    session: Session, engine: DuckEngine, quarter: int, *, window_days: int, as_of: datetime
) -> dict[str, Cost]:
    """What the members of either group cost within ``window_days`` of their moment, by group.

    Messages at the price of their campaign, others at the usual one; uses of coupons at the shop's share;
    points given, less those taken back, at what a point is worth.
    """
    experiment = session.scalar(sa.select(Experiment).where(Experiment.name == name_of(quarter)))
    tables = {
        "assignments": pa.table({"member_id": [], "arm": [], "at": []})
        if experiment is None
        else assigned(session, experiment.id),
        "prices": _prices(session),
        "batches": pa.Table.from_pylist(
            [
                {"batch_id": number, "share": share}
                for number, share in session.execute(sa.select(CouponBatch.id, CouponBatch.settlement_share))
            ],
            _BATCHES,
        ),
    }
    usual = USUAL_PRICES
    tables["usual"] = pa.table(
        {"channel": list(usual), "price": [float(price) for price in usual.values()]},
        schema=pa.schema([("channel", pa.string()), ("price", pa.float64())]),
    )
    params: dict[str, Any] = {"days": window_days, "as_of": as_of, "given": list(GIVEN)}
    point = float(point_value.load(session))
    rows = {row["arm"]: row for row in engine.query(_sql(engine), params, tables).to_pylist()}
    none = {"messages": 0.0, "coupons": 0.0, "points": 0.0}
    found = {arm: rows.get(arm, none) for arm in (CONTROL, MEASURED)}
    return {
        arm: Cost(float(row["messages"]), float(row["coupons"]), float(row["points"]) * point, 0.0)
        for arm, row in found.items()
    }


def _prices(session: Session) -> pa.Table:
    rows = [
        {"run_id": number, "channel": channel, "price": float(price)}
        for number, spec in session.execute(sa.select(CampaignRun.id, CampaignRun.spec))
        for channel, price in (spec.get("message_cost_minor") or {}).items()
    ]
    return pa.Table.from_pylist(rows, _PRICES)


def _sql(engine: DuckEngine) -> str:
    """One row a group: each fact that the replica has is read once."""
    there = engine.replica.facts
    parts = {
        "messages": (
            TOUCHES,
            "COALESCE(p.price, u.price, 0)",
            "LEFT JOIN prices p ON x.source_kind = 'run' AND p.run_id = x.source_id "
            "AND p.channel = x.channel LEFT JOIN usual u ON u.channel = x.channel",
            "x.sent_at",
            "",
        ),
        "coupons": (
            REDEMPTIONS,
            "x.discount_minor * COALESCE(b.share, 1)",
            "LEFT JOIN batches b ON b.batch_id = x.batch_id",
            "x.redeemed_at",
            "AND x.rolled_back_at IS NULL",
        ),
        "points": (POINTS, "x.delta", "", "x.at", "AND list_contains($given, x.kind)"),
    }
    columns = []
    for name, (fact, value, joined, time, test) in parts.items():
        if fact not in there:
            columns.append(f"0 AS {name}")
            continue
        within = _WITHIN.format(time=time)
        columns.append(f"""COALESCE((SELECT SUM({value}) FROM assignments a
    JOIN "{fact}" x ON x.member_id = a.member_id {joined}
    WHERE a.arm = g.arm {within} {test}), 0) AS {name}""")  # noqa: S608
    listed = ",\n  ".join(columns)
    return f"SELECT g.arm, {listed}\nFROM (SELECT DISTINCT arm FROM assignments) g"  # noqa: S608
