"""What a campaign's read-out is made of: dimensions from before, members of two arms, paybacks, the command."""

from __future__ import annotations

import json
from datetime import timedelta

import pyarrow as pa
import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from campaigns import campaigns, report, results, run
from campaigns.models import Decision
from campaigns.roi import Cost, Interval, roi
from core import crypto
from core import settings as core_settings
from core.bulk import bulk_insert
from core.errors import Conflict, NotFound
from core.models import Order
from core.warehouse.replica import mark
from experiments import assignment, experiments
from experiments.models import Experiment, ExperimentPlan, Exposure
from experiments.readout_form import Curve, Point, Timeline
from experiments.stats.effect import Effect
from tests.campaigns.conftest import NOW, Shop

DAY = timedelta(days=1)


def ran(shop: Shop, members: int = 700) -> None:
    """A campaign over members, some of whom buy after it, those of B more; all had bought before."""
    shop.members(members)
    with shop.database.write() as session:
        rows = [
            (n, "shop", f"before{n}", n, NOW - DAY * 20, "paid", "CNY", 1000 * (1 + n % 7), 0, 0,
             "app" if n % 2 else "shop", "x", NOW)
            for n in range(1, members + 1)
        ]  # fmt: skip
        _orders(session, rows)
    shop.engine.replica.sync(shop.database)
    shop.campaign(message_cost_minor={"email": 10, "sms": 10, "wechat": 10})
    run.run(shop.database, shop.engine, shop.settings, "back", NOW)
    with shop.database.write() as session:
        campaign = campaigns.by_name(session, "back")
        arms = assignment.assigned(session, campaign.experiment_id or 0).to_pylist()
        rows = [
            (10_000 + one["member_id"], "shop", f"after{one['member_id']}", one["member_id"], NOW + DAY * 3,
             "paid", "CNY", (9000 if one["arm"] == "B" else 1000) * (1 + one["member_id"] % 7), 0, 0, "app",
             "x", NOW)
            for one in arms
            if one["member_id"] % 2
        ]  # fmt: skip
        _orders(session, rows)
    shop.engine.replica.sync(shop.database)


def _orders(session: sa.orm.Session, rows: list[tuple[object, ...]]) -> None:
    bulk_insert(
        session,
        Order.__table__,
        ("id", "source", "external_id", "member_id", "ordered_at", "status", "currency", "total_minor",
         "discount_minor", "refunded_minor", "channel", "fingerprint", "updated_at"),
        rows,
    )  # fmt: skip
    mark(session, "orders", [row[4] for row in rows])  # type: ignore[misc]


def test_a_campaign_is_read_out_with_all_its_parts(shop: Shop) -> None:
    ran(shop)
    with shop.database.read() as session:
        campaign = campaigns.by_name(session, "back")
        found = results.result(session, shop.engine, campaign, NOW + DAY * 30, "CNY")
    out = found.readout
    better = out.headline(out.result("revenue", "B"))
    assert better is not None
    assert better.low > 0
    assert out.looks == 0
    assert out.check("multiple_exposure") is not None
    assert [one.name for one in out.dimensions] == ["channel"]
    assert {cell.value for cell in out.dimensions[0].breakdowns[0].cells} == {"app", "shop"}
    assert out.timeline is not None
    days = {point.day: point.fixed.estimate for point in out.timeline.curves[-1].points}
    assert min(days) == 4  # nobody bought before the third day was over
    assert max(days) == 14
    assert found.paybacks["B"].day == 4
    total = out.total(out.result("revenue", "B"))
    assert total is not None
    assert found.money["B"].incremental_revenue == Interval(total.estimate, total.low, total.high)
    with shop.database.write() as session:
        campaign = campaigns.by_name(session, "back")
        kept = results.freeze(session, campaign, found, as_of=NOW + DAY * 30, now=NOW + DAY * 30)
        assert set(kept.settings["roi"]) == {"A", "B"}
        assert kept.settings["paybacks"]["B"]["day"] == 4
        assert "redeemed" in kept.settings["subsidies"]["B"]
        again = results.result(session, shop.engine, campaign, NOW + DAY * 31, "CNY")
    assert again.readout.looks == 1
    assert again.readout.method == "sequential"


def test_members_whom_a_later_run_treated_otherwise_are_counted(shop: Shop) -> None:
    ran(shop, 60)
    with shop.database.write() as session:
        campaign = campaigns.by_name(session, "back")
        assert report.shared(session, campaign.experiment_id or 0) == 0
        some = session.scalars(sa.select(Decision).where(Decision.arm == "A").limit(3)).all()
        for one in some:
            one.arm = "B"
        session.flush()
        assert report.shared(session, campaign.experiment_id or 0) == 3
        assert report.shared(session, 999) is None


def test_the_difference_planned_for_is_the_one_worth_finding(shop: Shop) -> None:
    with shop.database.write() as session:
        experiment = assignment.create(session, name="x", arms=[("a", 0.5), ("b", 0.5)], control="a", now=NOW)
        for version, mde, late in ((1, 0.12, False), (2, 0.5, True)):
            session.add(
                ExperimentPlan(
                    subject="experiment:x", version=version, plan={"mde_relative": mde}, after_start=late,
                    made_by="a@example.com", made_at=NOW,
                )
            )  # fmt: skip
        session.flush()
        assert report.known(session, experiment, NOW, "experiment:x").mde == 0.12
        assert report.known(session, experiment, NOW, "experiment:y").mde is None


def test_an_assignment_of_nobody_has_no_dimensions(shop: Shop) -> None:
    empty = pa.table({"member_id": pa.array([], pa.int64()), "arm": pa.array([], pa.string())})
    with shop.database.read() as session:
        assert report.with_dimensions(session, shop.engine, empty) is empty


def test_a_payback_follows_the_timelines_margin() -> None:
    def point(day: int, value: float) -> Point:
        effect = Effect(value, value - 5, value + 5, 2.5, 0.01)
        return Point(day, 100, 50, effect, effect)

    timeline = Timeline("revenue", 5000, [Curve("B", [point(1, 4), point(2, 12), point(3, 30)])])
    money = {"B": roi(Interval(3000, 2500, 3500), margin=0.5, cost=Cost(500, 0, 0, 0))}
    found = report.paybacks(timeline, money, 0.5)["B"]  # 5 a member has to come in, of half the revenue
    assert (found.day, found.earliest, found.latest) == (2, 2, 3)
    free = {"B": roi(Interval(3000, 2500, 3500), margin=0.5, cost=Cost(0, 0, 0, 0))}
    assert report.paybacks(timeline, free, 0.5) == {}
    assert report.paybacks(None, money, 0.5) == {}


def test_visitors_are_counted_and_their_split_is_checked(shop: Shop) -> None:
    with shop.database.write() as session:
        experiment = Experiment(
            name="banner", salt="s", arms=[{"name": "old", "weight": 0.5}, {"name": "new", "weight": 0.5}],
            control="old", created_at=NOW, kind=experiments.SHOP, unit=experiments.VISITOR, hash_version=2,
            coverage=1.0, status="running", version=1,
        )  # fmt: skip
        session.add(experiment)
        session.flush()
        for n in range(300):
            session.add(
                Exposure(
                    experiment_id=experiment.id,
                    unit_hash=f"{n:064d}",
                    arm="old" if n % 3 else "new",
                    first_at=NOW,
                )
            )
        session.flush()
        found = report.of_shop(
            session, shop.engine, experiment, window_days=30, as_of=NOW, currency="CNY"
        ).readout
        assert found.arms == {"old": 200, "new": 100}
        assert not found.trusted
        assert found.results == []
        assert report.by_name(session, "banner") == (experiment, None)
        with pytest.raises(NotFound, match="no experiment or campaign"):
            report.by_name(session, "nothing")
    shop.campaign("draft", approve=False)
    with shop.database.read() as session, pytest.raises(Conflict, match="has not run"):
        report.by_name(session, "draft")


def test_the_command_reads_a_campaign_out(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    from web.cli import main

    ran(shop)
    monkeypatch.setattr(core_settings, "load", lambda: shop.settings.model_copy(update={"clock_shift_s": 0}))
    monkeypatch.setattr(crypto, "open_keyring", lambda _settings: crypto.keyring())
    monkeypatch.setattr("web.commands.experiments_readout.now", lambda _settings: NOW + DAY * 30)
    runner = CliRunner()
    answer = runner.invoke(main, ["experiments", "readout", "back", "--by", "channel", "--json"])
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)
    assert found["advice"] in ("send", "choose")
    assert found["verdict"].startswith("Send “B” to everyone")
    assert [one["name"] for one in found["readout"]["dimensions"]] == ["channel"]
    shown = runner.invoke(main, ["experiments", "readout", "back", "--by", "channel"])
    assert "By channel, revenue of B" in shown.stdout
    refused = runner.invoke(main, ["experiments", "readout", "back", "--by", "shoe size"])
    assert refused.exit_code == 1
    assert "there are channel" in refused.stderr
