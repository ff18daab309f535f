"""Bandits through the real store: the better arm wins, nobody is moved, a week counts once."""

from __future__ import annotations

import json
import logging
import random
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from core import settings as core_settings
from core.bulk import bulk_insert
from core.db import Database
from core.errors import Conflict, InvalidInput
from core.facts import FACTS
from core.models import AuditEntry, Order
from core.settings import Settings
from core.warehouse.engine import DuckEngine
from core.warehouse.replica import Replica, mark
from experiments import bandits, experiments, flows
from experiments.experiments import NewExperiment, Split, give
from experiments.models import Assignment, BanditWeek, Experiment
from experiments.moments import Moments
from tests.conftest import count
from tests.loyalty.data import add_members
from web.cli import main

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
WEEK = timedelta(days=7)
ARMS = (("control", 0.34), ("b", 0.33), ("c", 0.33))
BANDIT: dict[str, Any] = {
    "name": "banner", "arms": ARMS, "control": "control", "seed": "s", "allocation": "bandit",
    "goal": "converted", "floor": 0.05, "window_days": 7,
}  # fmt: skip


def start(database: Database, **changes: Any) -> None:
    with database.write() as session:
        experiments.create(session, NewExperiment(**{**BANDIT, **changes}), MONDAY)
        experiments.change(session, "banner", status="running")


def ask(database: Database, ids: list[int], at: datetime) -> dict[int, str | None]:
    """As the API does it: drawn, what is stored asked first, new ones stored."""
    units = {f"m{one}": one for one in ids}
    with database.write() as session:
        row = experiments.by_name(session, "banner")
        given = experiments.keep_stored(session, row, give(experiments.split_of(row), list(units)), units)
        fresh = experiments.unseen(session, row, given, units)
        experiments.log_exposures(session, row, fresh, units, at)
        return {units[one.unit]: one.arm for one in given}


def buy(
    database: Database,
    arms: dict[int, str | None],
    chances: dict[str, float],
    at: datetime,
    luck: random.Random,
) -> None:
    rows = [
        (member, "shop", f"o{member}", member, at, "paid", "CNY", luck.randint(5_000, 15_000), 0, 0, "x", at)
        for member, arm in arms.items()
        if arm is not None and luck.random() < chances[arm]
    ]
    with database.write() as session:
        bulk_insert(
            session, Order.__table__,
            ("id", "source", "external_id", "member_id", "ordered_at", "status", "currency", "total_minor",
             "discount_minor", "refunded_minor", "fingerprint", "updated_at"),
            rows,
        )  # fmt: skip
        mark(session, "orders", [at])


@pytest.fixture
def engine(settings: Settings) -> DuckEngine:
    return DuckEngine(Replica(settings.warehouse_url, FACTS))


@pytest.mark.parametrize(("goal", "seed"), [("converted", 1), ("revenue", 2)])
def test_the_better_arm_gets_most_members_and_nobody_is_moved(
    sqlite_db: Database, engine: DuckEngine, goal: str, seed: int
) -> None:
    add_members(sqlite_db, 4200)
    start(sqlite_db, goal=goal)
    luck, chances = random.Random(seed), {"control": 0.15, "b": 0.32, "c": 0.15}
    seen: dict[int, str | None] = {}
    for week in range(7):
        came = MONDAY + week * WEEK
        new = ask(sqlite_db, list(range(week * 600 + 1, week * 600 + 601)), came + timedelta(hours=9))
        buy(sqlite_db, new, chances, came + timedelta(days=1), luck)
        seen |= new
        engine.replica.sync(sqlite_db)
        at = came + WEEK
        done = bandits.reweigh(sqlite_db, engine, "banner", at, UTC)
        with sqlite_db.read() as session:
            rows, versions = count(sqlite_db, "bandit_weeks"), session.scalar(sa.select(Experiment.version))
        again = bandits.reweigh(sqlite_db, engine, "banner", at + timedelta(days=3), UTC)
        assert (again.outcome, again.weights) == ("known", done.weights)
        with sqlite_db.read() as session:
            assert (count(sqlite_db, "bandit_weeks"), session.scalar(sa.select(Experiment.version))) == (
                rows,
                versions,
            )
        assert sum(done.weights.values()) == pytest.approx(1)
        assert min(done.weights.values()) >= 0.05 - 1e-9
    assert done.weights["b"] >= 0.85
    assert rows == 7
    assert list(new.values()).count("b") > 400, "the last week's members mostly got it"
    assert ask(sqlite_db, list(seen), MONDAY + 8 * WEEK) == seen, "whoever has an arm keeps it"
    with sqlite_db.read() as session:
        stored = dict(session.execute(sa.select(Assignment.member_id, Assignment.arm)).all())
        actions = set(session.scalars(sa.select(AuditEntry.action)))
    assert stored == seen
    assert "experiment.reweigh" in actions


def test_the_flow_and_the_command_do_the_same_week_once(
    sqlite_db: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = settings.model_copy(update={"database_url": sqlite_db.url})
    monkeypatch.setattr(core_settings, "load", lambda: mine)
    monkeypatch.setattr(flows, "get_run_logger", lambda: logging.getLogger("test"))
    monkeypatch.setattr("web.commands.bandits.now", lambda _settings: MONDAY + timedelta(days=2))

    def huiliu(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["experiments", "reweigh", *arguments])
        return done.exit_code, done.output

    assert huiliu() == (0, "No bandit is running.\n")
    start(sqlite_db)
    done = flows.reweigh_bandits.fn(MONDAY)
    assert (done["banner"]["week"], done["banner"]["outcome"]) == ("2026-03-02", "kept")
    code, text = huiliu("banner", "--json")
    assert code == 0
    assert json.loads(text)["banner"] == {**done["banner"], "outcome": "known"}
    assert "banner: done already (week of 2026-03-02): control 34.0%, b 33.0%" in huiliu()[1]
    code, text = huiliu("nothing")
    assert (code, "There is no experiment “nothing”" in text) == (1, True)
    assert count(sqlite_db, "bandit_weeks") == 1


def test_equal_arms_both_go_on(sqlite_db: Database, engine: DuckEngine) -> None:
    add_members(sqlite_db, 1200)
    start(sqlite_db, arms=(("control", 0.5), ("b", 0.5)))
    luck = random.Random(5)
    new = ask(sqlite_db, list(range(1, 1201)), MONDAY + timedelta(hours=9))
    buy(sqlite_db, new, {"control": 0.2, "b": 0.2}, MONDAY + timedelta(days=1), luck)
    engine.replica.sync(sqlite_db)
    done = bandits.reweigh(sqlite_db, engine, "banner", MONDAY + WEEK, UTC)
    assert done.outcome == "changed"
    assert 0.05 <= done.weights["b"] <= 0.95
    assert sum(done.weights.values()) == 1


def test_too_few_members_keep_the_weights_and_the_version(sqlite_db: Database, engine: DuckEngine) -> None:
    add_members(sqlite_db, 90)
    start(sqlite_db)
    empty = bandits.reweigh_all(sqlite_db, engine, MONDAY, UTC)["banner"]
    ask(sqlite_db, list(range(1, 91)), MONDAY + timedelta(hours=9))
    engine.replica.sync(sqlite_db)
    few = bandits.reweigh_all(sqlite_db, engine, MONDAY + WEEK, UTC)["banner"]
    for one in (empty, few):
        assert not isinstance(one, str)
        assert (one.outcome, one.weights) == ("kept", dict(ARMS))
    with sqlite_db.read() as session:
        assert session.scalar(sa.select(Experiment.version)) == 2
        weeks = bandits.history(session, session.scalars(sa.select(Experiment.id)).one())
    assert [week.week for week in weeks] == [date(2026, 3, 2), date(2026, 3, 9)]
    assert weeks[0].found == {}
    assert sum(one["n"] for one in weeks[1].found.values()) == 90


def test_a_good_week_favours_nobody() -> None:
    """All weeks together, b has 0.46 of buyers against 0.22; in each week they are alike."""

    def share(n: int, p: float) -> Moments:
        return Moments(n, p, p * (1 - p))

    weeks = [{"a": share(5000, 0.1), "b": share(5000, 0.1)}, {"a": share(1000, 0.8), "b": share(9000, 0.8)}]
    weights, found = bandits.decide(weeks, {"a": 0.1, "b": 0.9}, "converted", 0.05)
    assert 0.3 < weights["a"] < 0.7
    assert found["a"]["mean"] == pytest.approx(found["b"]["mean"])
    assert found["b"]["n"] == 14_000


def test_the_coverage_of_a_bandit_does_not_depend_on_its_weights() -> None:
    """Else an arm that grows takes in members who came before and were left out."""
    units = [f"u{n}" for n in range(4000)]
    early = Split("s", (("a", 0.5), ("b", 0.5)), 2, 0.3, None, "s:cover")
    late = Split("s", (("a", 0.1), ("b", 0.9)), 2, 0.3, None, "s:cover")
    more = Split("s", (("a", 0.1), ("b", 0.9)), 2, 0.6, None, "s:cover")
    first, second, third = (give(split, units) for split in (early, late, more))
    assert [one.in_experiment for one in first] == [one.in_experiment for one in second]
    assert 0.27 < sum(one.in_experiment for one in first) / 4000 < 0.33
    inside = [one.arm for one in second if one.in_experiment]
    assert 0.87 < inside.count("b") / len(inside) < 0.93
    assert all(b.arm == a.arm for a, b in zip(second, third, strict=True) if a.in_experiment)
    assert {one.why for one in first} == {"assigned", "coverage"}


def test_the_split_is_checked_period_by_period() -> None:
    even, skew = {"a": 0.5, "b": 0.5}, {"a": 0.1, "b": 0.9}
    good = [(even, [{"a": 250, "b": 260}, {"a": 255, "b": 240}]), (skew, [{"a": 95, "b": 905}])]
    found = bandits.check_split(good)
    assert found is not None
    assert found.tone == "good"
    assert found.p > 0.3
    bad = bandits.check_split([(even, [{"a": 250, "b": 260}]), (skew, [{"a": 500, "b": 500}])])
    assert bad is not None
    assert bad.tone == "bad"
    assert bad.p < 1e-6
    few = bandits.check_split([(even, [{"a": 3, "b": 27}])])
    assert few is not None
    assert few.tone == "watch", "a handful convinces one look only"
    assert bandits.check_split([(even, [])]) is None


def test_a_bandit_that_makes_no_sense_is_refused(sqlite_db: Database, engine: DuckEngine) -> None:
    for changes, field in (
        ({"unit": "visitor"}, "unit"),
        ({"goal": "luck"}, "goal"),
        ({"floor": 0.4}, "floor"),
        ({"floor": 0.0}, "floor"),
        ({"arms": (("control", 0.98), ("b", 0.02))}, "arms"),
        ({"window_days": 9999}, "window_days"),
        ({"allocation": "fixed"}, "goal"),
        ({"allocation": "magic"}, "allocation"),
    ):
        with sqlite_db.write() as session, pytest.raises(InvalidInput) as refused:
            experiments.create(session, NewExperiment(**{**BANDIT, **changes}), MONDAY)
        assert refused.value.field == field, changes
    with sqlite_db.write() as session:
        experiments.create(session, NewExperiment(**BANDIT), MONDAY)
        experiments.create(session, NewExperiment(**{**BANDIT, "seed": None}), MONDAY)
        with pytest.raises(Conflict):
            experiments.create(session, NewExperiment(**{**BANDIT, "floor": 0.1}), MONDAY)
    with pytest.raises(Conflict, match="start it first"):
        bandits.reweigh(sqlite_db, engine, "banner", MONDAY, UTC)
    assert bandits.reweigh_all(sqlite_db, engine, MONDAY, UTC) == {}
    with sqlite_db.read() as session, pytest.raises(Conflict, match="from week to week"):
        experiments.read(session, engine, "banner", window_days=7, as_of=MONDAY)


def test_a_week_that_was_reckoned_from_other_weights_is_not_kept(db: Database, engine: DuckEngine) -> None:
    start(db)
    with db.read() as session:
        week = bandits.reckon(session, engine, experiments.by_name(session, "banner"), MONDAY, UTC)
    stale = bandits.Week(**{**vars(week), "before": {"control": 0.2, "b": 0.4, "c": 0.4}})
    with pytest.raises(Conflict, match="meanwhile"), db.write() as session:
        bandits.store(session, stale, MONDAY)
    assert count(db, "bandit_weeks") == 0
    with db.write() as session:
        assert bandits.store(session, week, MONDAY).outcome == "kept"
    with db.write() as session:
        assert bandits.store(session, week, MONDAY).outcome == "known"
    with db.read() as session:
        assert session.scalars(sa.select(BanditWeek.week)).all() == [date(2026, 3, 2)]


def test_weights_are_whole_parts_that_sum_to_one() -> None:
    found = bandits.rounded({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})
    assert sorted(found.values()) == [0.3333, 0.3333, 0.3334]
    assert bandits.week_of(datetime(2026, 3, 1, 20, tzinfo=UTC), UTC) == date(2026, 2, 23)
