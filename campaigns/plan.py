"""A campaign made ready: names become rows, offers become costs, the audience becomes a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns import campaigns
from campaigns.decide import ArmPlan, Counts, Left, Plan
from campaigns.models import Campaign, CampaignRun
from campaigns.spec import CampaignSpec
from channels.models import Template, TemplateContent
from channels.render import MAX_RECOMMENDED
from core.db import lock_rows
from core.errors import InvalidInput
from core.models import Preference
from core.settings import Settings
from core.warehouse.engine import DuckEngine
from experiments.control import quarter_of
from loyalty.batches import validity
from loyalty.models import CouponBatch
from segments.evaluate import evaluator
from segments.recommend.rank import recommend

CONTROL_KEY = "campaigns.control"
DEFAULT_CONTROL_SHARE = 0.05
POINT_FACTS = ("balance", "points.expires_at", "points.expiring")
"""What templates say where they show facts of the member's points, and not only points of the offer."""
AUDIENCE_SCHEMA = pa.schema(
    [("member_id", pa.int64()), ("external_id", pa.string()), ("excluded", pa.bool_())]
)


@dataclass(frozen=True)
class Ready:
    """A campaign's plan and the rows that its messages refer to."""

    spec: CampaignSpec
    plan: Plan
    templates: Mapping[str, Mapping[str, tuple[int, int]]]
    """arm → channel → (template id, version)."""
    batches: Mapping[str, CouponBatch]
    """arm → its coupon batch, for arms that have one."""
    points: Mapping[str, int]
    shows_points: bool
    """Whether any template shows facts of the member's points, which costs a few queries a batch."""
    recommends: bool = False
    """Whether any template recommends products, which costs a query of the warehouse a batch."""

    @property
    def offers(self) -> dict[str, tuple[bool, int]]:
        return {arm.name: (arm.batch_id is not None, self.points[arm.name]) for arm in self.plan.arms}


def make_ready(
    session: Session, campaign: Campaign, spec: CampaignSpec, as_of: datetime, *, again: bool = False
) -> Ready:
    """Look up everything the spec names. ``again``: earlier runs count. InvalidInput: something is gone."""
    wanted = {name for variant in spec.variants for name in variant.templates.values()}
    rows = session.execute(
        sa.select(Template.name, Template.id, Template.version).where(Template.name.in_(wanted))
    )
    found = {name: (template_id, version) for name, template_id, version in rows}
    named = {variant.coupon_batch for variant in spec.variants if variant.coupon_batch}
    batches = {
        batch.name: batch
        for batch in session.scalars(sa.select(CouponBatch).where(CouponBatch.name.in_(named)))
    }
    for missing in sorted((wanted - found.keys()) | (named - batches.keys())):
        raise InvalidInput(f"“{missing}” is gone; edit the campaign.", "variants")
    arms = tuple(
        ArmPlan(
            variant.name,
            variant.weight,
            tuple(channel for channel in spec.channels if channel in variant.templates),
            batch.id if batch else None,
            batch.per_member_limit if batch else None,
            offer_cost(batch, variant.points, spec),
        )
        for variant in spec.variants
        for batch in [batches.get(variant.coupon_batch or "")]
    )
    control_share, control_quarter = control(session, as_of)
    plan = Plan(
        salt=campaign.name,
        channels=spec.channels,
        arms=arms,
        holdout=spec.holdout,
        control_share=control_share,
        control_quarter=control_quarter,
        message_cost=spec.message_cost_minor,
        cap=spec.cap_messages,
        rests=again and spec.rest_days is not None,
        sticky=again and campaign.experiment_id is not None,
    )
    return Ready(
        spec,
        plan,
        {v.name: {channel: found[name] for channel, name in v.templates.items()} for v in spec.variants},
        {v.name: batches[v.coupon_batch] for v in spec.variants if v.coupon_batch},
        {variant.name: variant.points for variant in spec.variants},
        shows_points(session, found.values()),
        _mentions(session, found.values(), "recommend("),
    )


def control(session: Session, as_of: datetime) -> tuple[float, int]:
    """Share and quarter of the global control group, which gets no marketing.

    It is another one each quarter, so that nobody is left out of everything for good.
    """
    share = session.get(Preference, CONTROL_KEY)
    return float(share.value) if share else DEFAULT_CONTROL_SHARE, quarter_of(as_of)


def offer_cost(batch: CouponBatch | None, points: int, spec: CampaignSpec) -> int:
    """What an offer may cost at most, in minor units: the face borne by the shop, and the points."""
    value = points * spec.point_value_minor
    if batch is not None:
        benefit = batch.benefit
        face = benefit["amount"] if benefit["type"] == "fixed" else benefit.get("max_amount") or 0
        value += face * batch.settlement_share
    return round(value)


def shows_points(session: Session, versions: Iterable[tuple[int, int]]) -> bool:
    """Whether one of the templates (id, version) shows what a member's points are or when they go."""
    return _mentions(session, versions, *POINT_FACTS)


def _mentions(session: Session, versions: Iterable[tuple[int, int]], *texts: str) -> bool:
    query = sa.select(TemplateContent.fields).where(
        sa.tuple_(TemplateContent.template_id, TemplateContent.version).in_(set(versions))
    )
    return any(text in str(fields) for fields in session.scalars(query) for text in texts)


def limits(session: Session, campaign: Campaign, ready: Ready, spent_minor: int, *, lock: bool) -> Left:
    """What is left of budget and codes now. With ``lock``, other issuers wait until the batch is written."""
    ids = sorted({batch.id for batch in ready.batches.values() if batch.total_limit is not None})
    if lock:
        lock_rows(session, CouponBatch.__table__, ids)
    query = sa.select(CouponBatch.id, CouponBatch.total_limit - CouponBatch.issued).where(
        CouponBatch.id.in_(ids)
    )
    budget = None if campaign.budget_minor is None else campaign.budget_minor - spent_minor
    left = {batch_id: int(codes or 0) for batch_id, codes in session.execute(query)} if ids else {}
    return Left(budget, left)


def spent(counts: Counts, ready: Ready) -> int:
    """What decisions may cost, in minor units."""
    messages = sum(
        number * ready.plan.message_cost.get(channel, 0) for channel, number in counts.sent.items()
    )
    offers = {arm.name: arm.offer_cost for arm in ready.plan.arms}
    return messages + sum(number * offers[arm] for arm, number in counts.variants.items())


def spent_before(session: Session, campaign: Campaign, run_id: int | None = None) -> int:
    """What the campaign's earlier runs may have cost: the budget is one for all of them. 0 without a budget.

    ``run_id``: the run under way, which is not counted; runs that were taken back cost nothing.
    """
    if campaign.budget_minor is None:
        return 0
    query = sa.select(CampaignRun).where(
        CampaignRun.campaign_id == campaign.id, CampaignRun.state != campaigns.UNDONE
    )
    runs = session.scalars(query if run_id is None else query.where(CampaignRun.id != run_id))
    return sum(
        spent(
            Counts(**one.counts), make_ready(session, campaign, CampaignSpec.from_json(one.spec), one.as_of)
        )
        for one in runs
    )


def evaluate_audience(
    session: Session, engine: DuckEngine, settings: Settings, spec: CampaignSpec, as_of: datetime
) -> pa.Table:
    """Candidates by the rule as of the shop's day, with those marked who are in an excluded segment."""
    evaluate = evaluator(session, engine, settings, as_of.astimezone(settings.zone).date())
    found = evaluate.members(spec.audience)
    if spec.exclude:
        left_out = evaluate.members({"any": [{"segment": name} for name in spec.exclude]})
        excluded = pc.is_in(found["member_id"], value_set=left_out["member_id"].combine_chunks())
    else:
        excluded = pa.array([False] * found.num_rows, pa.bool_())
    return pa.table(
        {"member_id": found["member_id"], "external_id": found["external_id"], "excluded": excluded}
    ).cast(AUDIENCE_SCHEMA)


def audience_of_run(
    session: Session, engine: DuckEngine, settings: Settings, run: CampaignRun, spec: CampaignSpec
) -> pa.Table:
    """The run's audience, fixed when it first started: a restart goes on with the same members."""
    replica = engine.replica
    parts = ("runs", f"{run.id}.parquet")
    if not replica.fs.exists(replica.path(*parts)):
        replica.write(evaluate_audience(session, engine, settings, spec, run.as_of), *parts)
    with replica.fs.open(replica.path(*parts), "rb") as file:
        return pq.read_table(file, schema=AUDIENCE_SCHEMA)


def recommendations(
    engine: DuckEngine, settings: Settings, ready: Ready, members: Sequence[int], as_of: datetime
) -> dict[int, list[dict[str, Any]]]:
    """Products for each of the members, as templates see them; nothing where no template asks."""
    if not ready.recommends:
        return {}
    day = as_of.astimezone(settings.zone).date()
    found = recommend(engine, members, day, settings.zone, n=MAX_RECOMMENDED)
    return {member: [product.for_template() for product in products] for member, products in found.items()}


def utm_of(spec: CampaignSpec, campaign: Campaign, arm: str, channel: str) -> dict[str, Any]:
    """The part of a message's context that tags its links; empty where the campaign does not."""
    if spec.utm is None:
        return {}
    params = {
        "utm_source": spec.utm["source"],
        "utm_medium": spec.utm.get("medium") or channel,
        "utm_campaign": spec.utm.get("campaign") or campaign.name,
        "utm_content": arm,
    }
    return {"utm": {"params": params, "hosts": list(spec.utm.get("hosts") or ())}}


def context_of(batch: CouponBatch | None, campaign: Campaign, now: datetime) -> dict[str, Any]:
    """The part of a message's context that all members of an arm share."""
    context: dict[str, Any] = {"campaign": {"name": campaign.name, "title": campaign.title}}
    if batch is not None:
        until = validity(batch, now)[1]
        context["coupon"] = {
            "title": batch.title,
            "amount": batch.benefit.get("amount"),
            "valid_until": until.isoformat() if until else None,
        }
    return context
