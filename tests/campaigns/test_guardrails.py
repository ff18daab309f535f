"""Guardrails of a frozen plan in a campaign's read-out: by the planned version, with margin and interval."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from campaigns import campaigns, planning, results
from experiments import catalogue, readout_form, readout_guardrails
from experiments import planning as plans
from experiments.metrics import MEAN, MetricSpec
from experiments.models import Readout
from experiments.planning import Guardrail, Plan
from experiments.readout_form import BROKEN, KEPT, UNSURE, Guarded
from tests.campaigns.conftest import NOW, Shop
from tests.campaigns.test_results_readout import DAY, ran

LATER = NOW + DAY * 40
PLAN = Plan(
    "revenue", 0, 100.0, 0.1, "money", 0.05, 0.8, "holdout", {"holdout": 0.2, "A": 0.4, "B": 0.4}, 700, 14,
    "ship what wins",
)  # fmt: skip
SPEND = MetricSpec("spend", MEAN, "orders", "net_minor", until_day=14)


def planned(shop: Shop, *guardrails: Guardrail) -> None:
    """A plan for the campaign of :func:`ran`, stored before its run, as the seed's run is the first."""
    with shop.database.write() as session:
        plans.save(
            session, "campaign:back", replace(PLAN, guardrails=guardrails), started=False, by="ann", now=NOW
        )


def guards(shop: Shop) -> list[Guarded]:
    with shop.database.read() as session:
        campaign = campaigns.by_name(session, "back")
        return results.result(session, shop.engine, campaign, LATER, "CNY").readout.guardrails


def store(shop: Shop, spec: MetricSpec, change: bool = False) -> int:
    with shop.database.write() as session:
        save = catalogue.change if change else catalogue.create
        return save(session, spec, shop.engine.replica.facts, "ann", NOW).version


def test_a_planned_guardrail_is_kept_or_broken_and_frozen_with_the_read_out(shop: Shop) -> None:
    ran(shop)
    version = store(shop, SPEND)
    fewer = store(shop, replace(SPEND, name="less_spend", higher_is_better=False))
    planned(shop, Guardrail("spend", version, 0.2), Guardrail("less_spend", fewer, 0.2))
    found = guards(shop)
    assert [(one.metric, one.arm) for one in found] == [
        ("spend", "A"), ("spend", "B"), ("less_spend", "A"), ("less_spend", "B"),
    ]  # fmt: skip
    better, worse = found[1], found[3]
    assert (better.state, worse.state) == (KEPT, BROKEN), "B sells nine times as much"
    assert better.estimate == worse.estimate
    for one in found:
        assert one.low is not None
        assert one.estimate is not None
        assert one.high is not None
        assert one.low < one.estimate < one.high
        assert (one.margin, one.alpha, one.refused) == (0.2, 0.05, None)
    assert better.low is not None
    assert better.low > -0.2
    assert worse.low is not None
    assert worse.low > 0.2, "even the good end is beyond the margin"
    with shop.database.write() as session:
        campaign = campaigns.by_name(session, "back")
        whole = results.result(session, shop.engine, campaign, LATER, "CNY")
        row = results.freeze(session, campaign, whole, as_of=LATER, now=LATER)
        session.flush()
        session.expire_all()
        stored = session.get_one(Readout, row.id)
        assert readout_form.from_json(stored.result).guardrails == found
        old = {name: value for name, value in stored.result.items() if name != "guardrails"}
        assert readout_form.from_json(old).guardrails == []


def test_a_guardrail_is_reckoned_by_the_version_that_was_planned(shop: Shop) -> None:
    ran(shop)
    version = store(shop, SPEND)
    planned(shop, Guardrail("spend", version, 0.1))
    before = guards(shop)
    assert store(shop, replace(SPEND, until_day=1), change=True) == version + 1
    assert guards(shop) == before
    with shop.database.write() as session:
        catalogue.archive(session, "spend", "ann", NOW)
        assert catalogue.spec_at(session, "spend", version + 1) == replace(SPEND, until_day=1)
        assert catalogue.spec_at(session, "spend", 99) is None
    assert guards(shop) == before


def test_what_cannot_be_said_is_there_with_the_reason(shop: Shop) -> None:
    ran(shop)
    planned(shop, Guardrail("revenue", 0, 0.05), Guardrail("gone", 3, 0.05))
    found = guards(shop)
    assert [one.state for one in found[2:]] == [UNSURE, UNSURE]
    assert found[2].refused == readout_guardrails.UNKNOWN
    assert found[0].refused is None, "a ready-made metric need not be stored"


def test_without_a_plan_or_with_one_from_after_the_start_there_are_none(shop: Shop) -> None:
    ran(shop)
    assert guards(shop) == []
    with shop.database.write() as session:
        campaign = campaigns.by_name(session, "back")
        late = replace(PLAN, guardrails=(Guardrail("revenue", 0, 0.1),))
        planning.freeze(session, campaign, late, by="ann", now=LATER)
    assert guards(shop) == []


def test_before_anybody_is_assigned_nothing_is_said(shop: Shop) -> None:
    found: list[Any] = readout_guardrails.judge(
        replace(PLAN, guardrails=(Guardrail("spend", 1, 0.1),)), {"spend": SPEND}, {}, {}, "holdout"
    )
    assert [(one.arm, one.state, one.refused) for one in found] == [
        (arm, UNSURE, readout_guardrails.NOBODY) for arm in ("A", "B")
    ]
