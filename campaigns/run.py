"""Simulate and run a campaign: the same decisions, thrown away or written down.

Guarantees: one transaction a batch writes decisions, assignments, coupons, points and outbox
rows and moves the run's cursor; so a crash, a restart or a second worker finds whole batches
and goes on behind them. A candidate has one decision a run, by primary key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns import campaigns, plan
from campaigns.decide import BUDGET, COUPONS_USED_UP, Counts, decide
from campaigns.gather import gather
from campaigns.models import Campaign, CampaignRun, Decision
from campaigns.plan import Ready
from campaigns.programme import log_programme
from campaigns.spec import HOLDOUT, CampaignSpec
from channels import consent, outbox
from core.bulk import bulk_insert
from core.collector import paused
from core.db import Database
from core.errors import Conflict
from core.settings import Settings
from core.warehouse.engine import DuckEngine
from experiments import assignment
from experiments.models import Experiment
from loyalty import coupons, point_facts, points

SAMPLE = 20


@dataclass(frozen=True)
class Simulation:
    """What a run would do now, counted, and a few of the members by outcome."""

    counts: Counts
    sample: list[dict[str, Any]] = field(default_factory=list)
    """[{member, arm, channel, reason}], at most 20 of each outcome."""

    def to_json(self) -> dict[str, Any]:
        return {**self.counts.to_json(), "sample": self.sample}


def simulate(
    database: Database,
    engine: DuckEngine,
    settings: Settings,
    name: str,
    now: datetime,
    *,
    rest_days: int | None = None,
) -> Simulation:
    """Decide about everybody and write nothing. The numbers are those that a run now would have.

    A finished campaign is simulated as one that runs again, with ``rest_days`` of its choice.
    """
    engine.replica.sync(database)
    counts, samples = Counts(), []
    with database.read() as session:
        campaign = campaigns.by_name(session, name)
        spec = campaigns.spec_of(campaign)
        over = campaign.state == campaigns.FINISHED
        if over:
            spec = replace(spec, rest_days=rest_days)
        ready = plan.make_ready(session, campaign, spec, now, again=over or campaign.again_key is not None)
        audience = plan.evaluate_audience(session, engine, settings, spec, now)
        left = plan.limits(session, campaign, ready, plan.spent_before(session, campaign), lock=False)
        for start in range(0, audience.num_rows, settings.batch_size):
            batch = audience.slice(start, settings.batch_size)
            with paused():
                candidates = gather(session, ready.plan, spec, batch, now, lock=False, campaign=campaign)
                decided, left = decide(candidates, ready.plan, left)
            counts.add(decided, ready.offers)
            samples.append(decided)
    return Simulation(counts, _sample(samples))


def _sample(batches: list[pa.Table]) -> list[dict[str, Any]]:
    seen: dict[tuple[Any, Any], int] = {}
    found = []
    for row in (row for batch in batches for row in batch.slice(0, 2000).to_pylist()):
        outcome = (row["reason"], row["arm"])
        seen[outcome] = seen.get(outcome, 0) + 1
        if seen[outcome] <= SAMPLE:
            found.append(
                {"member": row["external_id"], **{key: row[key] for key in ("arm", "channel", "reason")}}
            )
    return found


def run(
    database: Database,
    engine: DuckEngine,
    settings: Settings,
    name: str,
    now: datetime,
    *,
    run_key: str | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Counts:
    """Run an approved campaign, or go on with a run that was interrupted. Answers its counts.

    ``run_key`` names the run (default: :func:`run_key_of`, so that an approval runs once);
    the same key again continues or, when it is finished, answers its counts and does nothing.
    """
    engine.replica.sync(database)
    with database.write() as session:
        started = _start(session, name, run_key, now)
    if started.state == campaigns.FINISHED:
        return Counts(**started.counts)
    with database.read() as session:
        spec = CampaignSpec.from_json(started.spec)
        audience = plan.audience_of_run(session, engine, settings, started, spec)
        campaign = campaigns.by_name(session, name)
        again = campaign.again_key is not None
        ready = plan.make_ready(session, campaign, spec, started.as_of, again=again)
        before = plan.spent_before(session, campaign, started.id)
    ids = np.array(audience["member_id"])
    done = int(np.searchsorted(ids, started.cursor, side="right"))
    while True:
        # Asked of the warehouse before the transaction, which should be short. Should another worker have
        # gone on meanwhile, the transaction asks again.
        ahead = ids[done : done + settings.batch_size].tolist()
        products = Products(engine, settings, ready, started.as_of, ahead)
        with paused(), database.write() as session:
            current = session.get_one(CampaignRun, started.id, with_for_update=True)
            campaign = session.get_one(Campaign, current.campaign_id, with_for_update=True)
            if campaign.state != campaigns.RUNNING:
                break
            place = int(np.searchsorted(ids, current.cursor, side="right"))
            done = min(place + settings.batch_size, len(ids))
            if place < len(ids):
                batch = audience.slice(place, settings.batch_size)
                _write_batch(session, campaign, current, ready, batch, products, before)
            if done == len(ids):
                _finish(campaign, current, now)
        progress(done, len(ids))  # outside the transaction: whoever listens may write too
        if done == len(ids):
            break
    with database.read() as session:
        return Counts(**session.get_one(CampaignRun, started.id).counts)


def run_key_of(campaign: Campaign) -> str:
    """The key of the run that the last approval is for: of the version, or of the asking to run again."""
    return campaign.again_key or f"v{campaign.version}"


def _start(session: Session, name: str, run_key: str | None, now: datetime) -> CampaignRun:
    campaign = campaigns.by_name(session, name, lock=True)
    key = run_key or run_key_of(campaign)
    query = sa.select(CampaignRun).where(CampaignRun.campaign_id == campaign.id, CampaignRun.run_key == key)
    found = session.scalars(query).first()
    if found is not None and found.state == campaigns.FINISHED:
        return found
    if campaign.state not in (campaigns.APPROVED, campaigns.RUNNING):
        raise Conflict(f"“{campaign.title}” is {campaign.state}; only an approved campaign runs.")
    campaign.state = campaigns.RUNNING
    if found is not None:
        return found
    spec = campaigns.spec_of(campaign)
    if campaign.experiment_id is None and (spec.holdout or len(spec.variants) > 1):
        campaign.experiment_id = _make_experiment(session, campaign, spec, now).id
    found = CampaignRun(
        campaign_id=campaign.id,
        run_key=key,
        state=campaigns.RUNNING,
        as_of=now,
        spec=spec.to_json(),
        cursor=0,
        candidates=0,
        counts=Counts().to_json(),
        started_at=now,
    )
    session.add(found)
    session.flush()
    return found


def _make_experiment(session: Session, campaign: Campaign, spec: CampaignSpec, now: datetime) -> Experiment:
    weights = [(variant.name, (1 - spec.holdout) * variant.weight) for variant in spec.variants]
    arms = [(HOLDOUT, spec.holdout), *weights] if spec.holdout else weights
    return assignment.create(
        session,
        name=f"campaign:{campaign.name}"[:80],
        salt=campaign.name,
        arms=arms,
        control=arms[0][0],
        now=now,
    )


class Products:
    """Recommended products of the members of a batch, looked up at once."""

    def __init__(
        self, engine: DuckEngine, settings: Settings, ready: Ready, as_of: datetime, members: list[int]
    ) -> None:
        self._look_up = partial(plan.recommendations, engine, settings, ready, as_of=as_of)
        self._known = self._look_up(members)

    def of(self, members: list[int]) -> dict[int, list[dict[str, Any]]]:
        """member → products, as templates see them."""
        missing = [member for member in members if member not in self._known]
        if missing:
            self._known |= self._look_up(missing)
        return self._known


def _write_batch(
    session: Session,
    campaign: Campaign,
    current: CampaignRun,
    ready: Ready,
    audience: pa.Table,
    products: Products,
    before: int,
) -> None:
    """Decide about a batch and write all of it. ``now`` is the run's, also after a restart; ``before``: what
    earlier runs spent of the budget."""
    now = current.as_of
    counts = Counts(**current.counts)
    candidates = gather(session, ready.plan, ready.spec, audience, now, lock=True, campaign=campaign)
    left = plan.limits(session, campaign, ready, before + plan.spent(counts, ready), lock=True)
    left.stopped = next((why for why in (BUDGET, COUPONS_USED_UP) if why in counts.skipped), None)
    decided, _ = decide(candidates, ready.plan, left)
    sends = decided.filter(pc.is_null(decided["reason"])).to_pylist()
    keys = {row["member_id"]: f"run:{current.id}:{row['member_id']}" for row in sends}
    codes = _issue(session, ready, sends, keys, now)
    _grant(session, ready, sends, keys, now)
    _record(session, current.id, ready, decided, codes, now)
    _assign(session, campaign, decided, now)
    log_programme(session, ready.plan, decided, now)
    _enqueue(session, campaign, current, ready, sends, keys, codes, products)
    counts.add(decided, ready.offers)
    current.counts = counts.to_json()
    current.candidates = counts.candidates
    current.cursor = audience["member_id"][-1].as_py()


Rows = list[dict[str, Any]]


def _issue(
    session: Session, ready: Ready, sends: Rows, keys: dict[int, str], now: datetime
) -> dict[int, str]:
    """Coupons of the batch: member → code. The limits were read under lock, so nobody is refused."""
    codes: dict[int, str] = {}
    batches = {batch.id: batch for batch in ready.batches.values()}
    for batch_id, batch in batches.items():
        arms = {arm for arm, other in ready.batches.items() if other.id == batch_id}
        wanted = [row["member_id"] for row in sends if row["arm"] in arms]
        issued = coupons.issue(session, batch, [(member, keys[member]) for member in wanted], now)
        codes.update({member: issued[keys[member]] for member in wanted})
    return codes


def _grant(session: Session, ready: Ready, sends: Rows, keys: dict[int, str], now: datetime) -> None:
    rows = [
        (row["member_id"], ready.points[row["arm"]], keys[row["member_id"]])
        for row in sends
        if ready.points[row["arm"]]
    ]
    if rows:
        points.grant_many(session, rows, now)


def _record(
    session: Session, run_id: int, ready: Ready, decided: pa.Table, codes: dict[int, str], now: datetime
) -> None:
    members, reasons = decided["member_id"].to_pylist(), decided["reason"].to_pylist()
    arms, channels = decided["arm"].to_pylist(), decided["channel"].to_pylist()
    rows = (
        (run_id, member, reason, arm, channel, codes.get(member), 0 if reason else ready.points[arm], now)
        for member, reason, arm, channel in zip(members, reasons, arms, channels, strict=True)
    )
    columns = ("run_id", "member_id", "reason", "arm", "channel", "coupon_code", "points", "at")
    bulk_insert(session, Decision.__table__, columns, rows)


def _assign(session: Session, campaign: Campaign, decided: pa.Table, now: datetime) -> None:
    """Arms of everybody who was eligible, held out or sent to, from this moment on."""
    if campaign.experiment_id is None:  # one variant for everybody: there is nothing to compare
        return
    eligible = decided.filter(pc.is_valid(decided["arm"]))
    pairs = zip(eligible["member_id"].to_pylist(), eligible["arm"].to_pylist(), strict=True)
    assignment.store_assignments(
        session, campaign.experiment_id, [(member, arm, now) for member, arm in pairs]
    )


def _enqueue(
    session: Session,
    campaign: Campaign,
    current: CampaignRun,
    ready: Ready,
    sends: Rows,
    keys: dict[int, str],
    codes: dict[int, str],
    products: Products,
) -> None:
    now, spec = current.as_of, ready.spec
    shared = {
        arm.name: plan.context_of(ready.batches.get(arm.name), campaign, now) for arm in ready.plan.arms
    }
    facts = point_facts.of(session, keys, now) if ready.shows_points and keys else {}
    wanted = products.of(list(keys)) if ready.recommends else {}
    expires_at = now + timedelta(hours=spec.expires_hours)
    fallbacks: dict[tuple[str, tuple[str, ...]], list[dict[str, Any]]] = {}

    def row(send: dict[str, Any]) -> outbox.OutboxRow:
        member, arm = send["member_id"], send["arm"]
        template_id, version = ready.templates[arm][send["channel"]]
        context = {**shared[arm], **plan.utm_of(spec, campaign, arm, send["channel"])}
        if member in codes:
            context["coupon"] = {**context["coupon"], "code": codes[member]}
        if ready.points[arm] or ready.shows_points:
            held = facts.get(member) or point_facts.PointFacts()
            context["points"] = {"amount": ready.points[arm], **held.context()}
        if ready.recommends:
            context["recommendations"] = wanted[member]
        pattern = (arm, tuple(send["fallback"]))
        if pattern not in fallbacks:
            fallbacks[pattern] = _fallback(ready, *pattern)
        return outbox.OutboxRow(
            keys[member], member, send["channel"], consent.MARKETING, template_id, version, context, "run",
            current.id, fallbacks[pattern], spec.quiet_hours, now, expires_at, now,
        )  # fmt: skip

    outbox.enqueue(session, map(row, sends))


def _fallback(ready: Ready, arm: str, channels: tuple[str, ...]) -> list[dict[str, Any]]:
    pairs = ((channel, ready.templates[arm].get(channel)) for channel in channels)
    return [
        {"channel": channel, "template_id": found[0], "template_version": found[1]}
        for channel, found in pairs
        if found is not None
    ]


def _finish(campaign: Campaign, current: CampaignRun, now: datetime) -> None:
    current.state = campaign.state = campaigns.FINISHED
    current.finished_at = campaign.updated_at = now
