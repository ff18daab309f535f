"""What a campaign brought: arms compared from the warehouse, costs from the books, profit of both.

The comparison is by assignment: everybody eligible counts in the arm that chance gave, from the
moment of the decision on, whatever became of the message.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns import report, waste
from campaigns.campaigns import spec_of
from campaigns.models import Campaign, CampaignRun, Decision
from campaigns.roi import Cost, Interval, Payback, Roi, cost_of, roi
from campaigns.spec import CampaignSpec
from campaigns.subsidy import Subsidy
from channels.models import Message
from core.contacts import CHANNELS
from core.errors import Conflict
from core.warehouse.engine import DuckEngine
from experiments import readout, readout_guardrails, readout_measure, readout_plan
from experiments.assignment import assigned
from experiments.models import Experiment, Readout
from experiments.moments import REVENUE
from loyalty.models import Coupon, CouponBatch, Redemption

GOALS = {"revenue": "revenue", "orders": "orders", "conversion": "converted"}
"""A campaign's goal → the metric of its read-out, which is shown first unless a plan says another."""


@dataclass(frozen=True)
class CampaignResult:
    """A read-out, its money by variant, and what it was computed from.

    ``subsidies``: a variant's discounts split into wasted and productive, or why they cannot be;
    ``paybacks``: when its margin had paid its cost.
    """

    readout: readout.ReadOut
    money: dict[str, Roi]
    settings: dict[str, Any]
    subsidies: dict[str, Subsidy | str] = field(default_factory=dict)
    paybacks: dict[str, Payback] = field(default_factory=dict)


def result(
    session: Session, engine: DuckEngine, campaign: Campaign, as_of: datetime, currency: str
) -> CampaignResult:
    """Read out a campaign that ran. Raises Conflict when there is nothing to compare yet."""
    if campaign.experiment_id is None:
        raise Conflict(
            f"“{campaign.title}” has not run, or had one variant and no holdout: nothing to compare."
        )
    spec = spec_of(campaign)
    experiment = session.get_one(Experiment, campaign.experiment_id)
    subject, usual = f"campaign:{campaign.name}", GOALS.get(spec.metric, REVENUE)
    wanted = readout_measure.Wanted(
        {arm["name"]: float(arm["weight"]) for arm in experiment.arms},
        experiment.control,
        spec.window_days,
        as_of,
        currency=currency,
        default_margin=spec.margin,
        goal=report.goal(session, engine, subject, usual, spec.window_days),
    )
    assignments = report.with_dimensions(session, engine, assigned(session, experiment.id))
    wanted, known = readout_plan.bind(
        session, subject, experiment.id, wanted, report.known(session, experiment, as_of, subject)
    )
    measured = readout_measure.measure(engine, assignments, wanted, known)
    found = replace(
        measured.readout,
        guardrails=readout_guardrails.evaluate(
            session, engine, assignments, subject, experiment.control, as_of
        ),
    )
    money = _money(session, campaign, spec, found)
    return CampaignResult(
        found,
        money,
        {
            "campaign": campaign.name,
            "window_days": spec.window_days,
            "margin": spec.margin,
            "metric": spec.metric,
            "point_value_minor": spec.point_value_minor,
        },
        waste.subsidies(session, engine, campaign, as_of) if spec.holdout else {},
        report.paybacks(measured.revenue, money, spec.margin),
    )


def _money(
    session: Session, campaign: Campaign, spec: CampaignSpec, found: readout.ReadOut
) -> dict[str, Roi]:
    """Of every variant that could be compared, by the difference that counts."""
    costs = costs_by_arm(session, campaign, spec, this_experiment=True)
    money: dict[str, Roi] = {}
    for item in found.results:
        total = found.total(item) if item.metric == REVENUE else None
        if total is not None:
            interval = Interval(total.estimate, total.low, total.high)
            money[item.arm] = roi(
                interval, margin=spec.margin, cost=costs.get(item.arm, Cost(0, 0, 0, 0)), alpha=found.alpha
            )
    return money


def _runs_of(session: Session, campaign: Campaign, this_experiment: bool) -> sa.ColumnElement[bool]:
    """The campaign's runs; since its experiment began, which a roll-out changes, or all of them."""
    mine = CampaignRun.campaign_id == campaign.id
    if not this_experiment or campaign.experiment_id is None:
        return mine
    began = session.get_one(Experiment, campaign.experiment_id).created_at
    return sa.and_(mine, CampaignRun.started_at >= began)


def costs_by_arm(
    session: Session, campaign: Campaign, spec: CampaignSpec, *, this_experiment: bool = False
) -> dict[str, Cost]:
    """What each variant cost so far: messages, redeemed coupons, granted points, its share of the fixed.

    ``this_experiment``: without the runs of before a roll-out, whose members are another experiment's.
    """
    runs = _runs_of(session, campaign, this_experiment)
    sent: dict[str, dict[str, int]] = {}
    query = (
        sa.select(Decision.arm, Message.channel, sa.func.count())
        .join(CampaignRun, CampaignRun.id == Decision.run_id)
        .join(
            Message,
            sa.and_(Message.source_id == Decision.run_id, Message.member_id == Decision.member_id),
        )
        .where(
            runs,
            Message.source_kind == "run",
            Message.sent_at.is_not(None),
            Decision.reason.is_(None),
        )
        .group_by(Decision.arm, Message.channel)
    )
    for arm, channel, number in session.execute(query):
        sent.setdefault(str(arm), {})[channel] = number
    redeemed = _redeemed(session, runs)
    decided = session.execute(
        sa.select(Decision.arm, sa.func.count(), sa.func.sum(Decision.points))
        .join(CampaignRun, CampaignRun.id == Decision.run_id)
        .where(runs, Decision.reason.is_(None))
        .group_by(Decision.arm)
    ).all()
    everybody = sum(number for _, number, _ in decided)
    prices = {**dict.fromkeys(CHANNELS, 0), **spec.message_cost_minor}
    return {
        str(arm): cost_of(
            sent=sent.get(str(arm), {}),
            price_minor=prices,
            redeemed=redeemed.get(str(arm), {}),
            points=int(points or 0),
            point_value_minor=spec.point_value_minor,
            fixed_minor=spec.fixed_cost_minor * number / everybody,
        )
        for arm, number, points in decided
    }


def _redeemed(session: Session, runs: sa.ColumnElement[bool]) -> dict[str, dict[str, tuple[int, float]]]:
    """arm → batch → (discounts given, the shop's share)."""
    query = (
        sa.select(
            Decision.arm,
            CouponBatch.name,
            sa.func.sum(Redemption.discount_minor - Redemption.returned_discount_minor),
            sa.func.max(CouponBatch.settlement_share),
        )
        .join(CampaignRun, CampaignRun.id == Decision.run_id)
        .join(Coupon, Coupon.code == Decision.coupon_code)
        .join(CouponBatch, CouponBatch.id == Coupon.batch_id)
        .join(Redemption, sa.and_(Redemption.coupon_id == Coupon.id, Redemption.rolled_back_at.is_(None)))
        .where(runs)
        .group_by(Decision.arm, CouponBatch.name)
    )
    found: dict[str, dict[str, tuple[int, float]]] = {}
    for arm, batch, discount, share in session.execute(query):
        found.setdefault(str(arm), {})[batch] = (int(discount), float(share))
    return found


def freeze(
    session: Session,
    campaign: Campaign,
    found: CampaignResult,
    *,
    as_of: datetime,
    now: datetime,
    kind: str = readout.REAL,
    note: str | None = None,
) -> Readout:
    """Keep a result as it is known now; ``note`` says what a simulated one assumes."""
    assert campaign.experiment_id is not None
    settings = {
        **found.settings,
        "roi": {arm: asdict(item) for arm, item in found.money.items()},
        "subsidies": {arm: report.plain(item) for arm, item in found.subsidies.items()},
        "paybacks": {arm: asdict(item) for arm, item in found.paybacks.items()},
    }
    if note:
        settings["note"] = note
    return readout.freeze(
        session, campaign.experiment_id, found.readout, as_of=as_of, settings=settings, now=now, kind=kind
    )


def with_lift(
    engine: DuckEngine, assignments: pa.Table, arms: dict[str, tuple[float, int]], after: timedelta
) -> DuckEngine:
    """An engine whose orders have an effect put in, to show what a read-out looks like when there is one.

    ``arms``: arm → (share of its members who buy once more, minor units of that order), ``after`` the
    decision. Who buys follows from the member's number alone. Nothing of it is written anywhere.
    """
    schema = engine.replica.facts["orders"].schema
    rows: list[dict[str, Any]] = []
    for row in assignments.to_pylist():
        share, amount = arms.get(row["arm"], (0.0, 0))
        # Multiplying by a prime spreads neighbouring ids over [0, 1) without a random generator.
        if row["member_id"] * 2_654_435_761 % 2**32 / 2**32 < share:
            number = -1 - len(rows)
            rows.append(
                {"order_id": number, "member_id": row["member_id"], "external_id": f"simulated{number}",
                 "ordered_at": (row["at"] + after).astimezone(UTC), "status": "paid", "total_minor": amount,
                 "refunded_minor": 0, "net_minor": amount, "discount_minor": 0}
            )  # fmt: skip
    extra = pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema)
    return DuckEngine(engine.replica, extra={"orders": extra})
