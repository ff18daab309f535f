"""Experiments by the HTTP API, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from apiflask import APIFlask
from flask.testing import FlaskClient

from core.db import Database
from core.models import Member, Preference
from core.settings import Settings
from core.warehouse.replica import mark
from experiments import control, planning_shop
from experiments.planning import Guardrail, Plan
from segments.facts import open_engine
from tests.conftest import count
from tests.loyalty.data import NOW, add_members, put_order
from web.api import keys
from web.api.views import create_blueprint

ARMS = [{"name": "control", "weight": 0.5}, {"name": "b", "weight": 0.5}]
PAGE = {"name": "page", "arms": ARMS, "control": "control", "seed": "s"}
Send = Callable[..., tuple[int, dict[str, Any]]]


class Clock:
    now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def client(db: Database, settings: Settings) -> FlaskClient:
    app = APIFlask("test")
    app.register_blueprint(create_blueprint(db, settings, clock=Clock()))
    return app.test_client()


@pytest.fixture
def send(db: Database, client: FlaskClient) -> Send:
    """POST with a body, GET without: status and JSON."""
    with db.write() as session:
        secret = keys.create(session, "shop", keys.SCOPES, "ann", NOW)[1]

    def ask(path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        headers = {"Authorization": f"Bearer {secret}"}
        url = f"/api/v1/experiments{path}"
        answer = client.post(url, json=body, headers=headers) if body else client.get(url, headers=headers)
        return answer.status_code, answer.get_json()

    return ask


def test_members_get_arms_once_and_the_control_group_none(db: Database, send: Send) -> None:
    add_members(db, 300)
    with db.write() as session:
        session.merge(Preference(key="campaigns.control", value=0.2, updated_at=NOW))
        session.execute(sa.update(Member).where(Member.id == 7).values(erased_at=NOW))
    assert send("", PAGE)[0] == 200
    units = [f"m{n}" for n in range(1, 301)] + ["stranger"]
    status, answer = send("/page/assign", {"units": units})
    assert (status, answer["logged"]) == (200, 0)
    assert {one["why"] for one in answer["units"]} == {"not_running"}
    assert send("/page", {"status": "running", "coverage": 1.0})[1]["open"] is True
    status, answer = send("/page/assign", {"units": units, "log": False})
    assert (status, answer["logged"], count(db, "assignments")) == (200, 0, 0)
    status, answer = send("/page/assign", {"units": units})
    given = {one["unit"]: one for one in answer["units"]}
    assert (status, list(given), answer["version"]) == (200, units, 2)
    left_out, _ = control.groups(units, 0.2, control.quarter_of(NOW))
    for unit, out in zip(units, left_out, strict=True):
        one = given[unit]
        if unit in ("m7", "stranger"):
            assert (one["arm"], one["why"]) == (None, "unknown_member")
        elif out:
            assert (one["arm"], one["in_experiment"], one["why"]) == (None, False, "control")
        else:
            assert (one["arm"] in ("control", "b"), one["in_experiment"], one["why"]) == (
                True, True, "assigned",
            )  # fmt: skip
            assert (one["bucket"] < 0.5) == (one["arm"] == "control")
    inside = sum(one["in_experiment"] for one in given.values())
    assert 200 < inside < 270
    assert answer["logged"] == inside == count(db, "assignments")
    assert send("/page/assign", {"units": units})[1] == {**answer, "logged": 0}
    assert count(db, "assignments") == inside


def test_visitors_need_be_nobody_known(db: Database, send: Send) -> None:
    send("", {**PAGE, "unit": "visitor", "coverage": 0.5, "layer": {"name": "x", "low": 0, "high": 0.8}})
    shown = send("/page", {"status": "running"})[1]
    assert [arm["range"] for arm in shown["arms"]] == [[0.0, 0.25], [0.5, 0.75]]
    assert send("/page")[1] == shown
    units = [f"cookie-{n}" for n in range(1000)]
    answer = send("/page/assign", {"units": units})[1]
    assert {one["why"] for one in answer["units"]} == {"assigned", "coverage", "layer"}
    assert answer["logged"] == count(db, "exposures") == sum(one["in_experiment"] for one in answer["units"])
    twice = send("/page/assign", {"units": ["new", "new"]})[1]
    assert twice["units"][0] == twice["units"][1]
    assert twice["logged"] == int(twice["units"][0]["in_experiment"])


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("", {**PAGE, "arms": [{"name": "control", "weight": 0.5}, {"name": "b", "weight": 0.4}]}, 422),
        ("", {**PAGE, "starts_at": "2026-03-01T00:00:00"}, 422),
        ("", {**PAGE, "control": "z"}, 422),
        ("/page/assign", {"units": []}, 422),
        ("/page/assign", {"units": ["x"] * 1001}, 422),
        ("/page/assign", {"units": [""]}, 422),
        ("/other/assign", {"units": ["x"]}, 404),
        ("/other", {"status": "running"}, 404),
        ("", {**PAGE, "seed": "other"}, 409),
    ],
)
def test_what_makes_no_sense_is_refused(db: Database, send: Send, path: str, body: Any, code: int) -> None:
    send("", PAGE)
    assert send(path, body)[0] == code
    assert count(db, "experiments") == 1
    assert count(db, "assignments") == 0


def test_the_results_of_members_are_read_out_and_visitors_refused(
    db: Database, settings: Settings, send: Send
) -> None:
    add_members(db, 300)
    send("", PAGE)
    send("/page", {"status": "running"})
    given = send("/page/assign", {"units": [f"m{n}" for n in range(1, 301)]})[1]["units"]
    with db.write() as session:
        for number, one in enumerate(given, 1):
            if one["arm"] == "b" and number % 2:
                put_order(session, number, number, 5000 + number, at=NOW + timedelta(hours=1))
        mark(session, "orders", [NOW])
        mark(session, "members", [None])
    Clock.now = NOW + timedelta(days=40)
    try:
        open_engine(settings).replica.sync(db)
        status, answer = send("/page/results?window_days=30")
    finally:
        Clock.now = NOW
    assert (status, answer["window_days"]) == (200, 30)
    arms = [one["arm"] for one in given]
    assert answer["readout"]["arms"] == {"control": arms.count("control"), "b": arms.count("b")}
    found = {one["metric"]: one for one in answer["readout"]["results"]}
    assert found["converted"]["mean_control"] == 0.0
    assert 0.3 < found["converted"]["mean"] < 0.7
    assert "b" in answer["verdict"]
    assert answer["verdicts"]["en"] == answer["verdict"]
    assert (answer["advice"]["code"], answer["advice"]["arms"]) == ("send", ["b"])
    assert answer["advice"]["en"].startswith("Send “b” to everyone: it brought ")
    assert answer["advice"]["zh"].startswith("建议全量发送“b”：")
    checks = {one["name"]: one["ok"] for one in answer["checks"]}
    assert checks["srm"]
    assert checks["windows_closed"]
    assert answer["plan"] is None
    assert answer["guardrails"] == []
    assert send("/page/results?window_days=x")[0] == 422
    assert send("/page/results?window_days=0")[0] == 422
    send("", {**PAGE, "name": "anybody", "unit": "visitor"})
    assert send("/anybody/results")[0] == 409


def test_the_results_are_held_against_the_plan_that_was_frozen(
    db: Database, settings: Settings, send: Send
) -> None:
    add_members(db, 300)
    send("", PAGE)
    plan = Plan(
        "orders", 0, 0.1, None, "number", 0.05, 0.8, "control", {"control": 0.5, "b": 0.5}, 1_000, 28, "Go on.",
        guardrails=(Guardrail("return_rate", 0, 0.1),),
    )  # fmt: skip
    with db.write() as session:
        planning_shop.freeze(session, "page", plan, by="a@x", now=NOW)
    send("/page", {"status": "running"})
    given = send("/page/assign", {"units": [f"m{n}" for n in range(1, 301)]})[1]["units"]
    with db.write() as session:
        for number, one in enumerate(given, 1):
            if one["arm"] == "b" or number % 2:
                put_order(session, number, number, 5000 + number, at=NOW + timedelta(hours=1))
        mark(session, "orders", [NOW])
        mark(session, "members", [None])
    Clock.now = NOW + timedelta(days=10)
    try:
        open_engine(settings).replica.sync(db)
        answer = send("/page/results")[1]
    finally:
        Clock.now = NOW
    held = answer["plan"]
    assert (held["version"], held["after_start"], held["made_by"]) == (1, False, "a@x")
    assert held["plan"]["metric"] == "orders"
    assert {one["code"] for one in held["deviations"]} == {"read_early", "fewer_members"}
    assert answer["readout"]["goal"] == "orders"
    assert [(one["metric"], one["arm"]) for one in answer["guardrails"]] == [("return_rate", "b")]
    assert answer["advice"]["en"].startswith("Preliminary: ")


def test_the_schema_says_what_the_results_are(client: FlaskClient) -> None:
    document = client.get("/openapi.json").get_json()
    assert {"advice", "checks", "guardrails", "plan", "verdicts"} <= set(
        document["components"]["schemas"]["ResultsOut"]["required"]
    )
    schemas = document["components"]["schemas"]
    assert "#/components/schemas/ResultsOut.AdviceOut" in str(schemas["ResultsOut"])
    assert schemas["ResultsOut.AdviceOut"]["properties"]["code"]["enum"][0] == "send"
    assert "fewer_members" in schemas["ResultsOut.DeviationOut"]["properties"]["code"]["enum"]
