"""Sign-ups that come by the API are watched: by device, address, phone and IP address, once a member."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from apiflask import APIFlask
from flask.testing import FlaskClient

from core.db import Database
from core.models import Member
from core.settings import Settings
from loyalty import earn_events
from loyalty.abuse import review
from loyalty.abuse.many import Action, observe_many
from loyalty.abuse.models import AbuseAllowance, AbuseHit, AbuseSignal
from loyalty.abuse.signals import CONFIRMED, DISMISSED
from loyalty.abuse.subjects import subjects_of
from loyalty.earn_rules import EarnRule
from loyalty.models import PointsLot
from tests.conftest import count
from tests.loyalty.data import NOW, add_members, together
from web.api import keys
from web.api.views import create_blueprint

Post = Callable[..., tuple[int, dict[str, Any]]]
DEVICE = {"device_id": "d-1"}


@pytest.fixture
def post(db: Database, settings: Settings) -> Post:
    app = APIFlask("test")
    app.register_blueprint(create_blueprint(db, settings, clock=lambda: NOW))
    client: FlaskClient = app.test_client()
    with db.write() as session:
        secret = keys.create(session, "shop", keys.SCOPES, "ann", NOW)[1]

    def send(kind: str, *rows: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        headers = {"Authorization": f"Bearer {secret}"}
        answer = client.post(f"/api/v1/{kind}", json={"rows": rows}, headers=headers)
        return answer.status_code, answer.get_json()

    return send


def hits(database: Database) -> list[tuple[str, str, int]]:
    """(rule, kind, count) of what waits for a decision."""
    with database.read() as session:
        rows = session.scalars(sa.select(AbuseHit).order_by(AbuseHit.rule))
        return [(row.rule, row.kind, row.evidence["count"]) for row in rows]


def test_a_device_that_makes_many_members_is_found(db: Database, post: Post) -> None:
    for number in range(1, 4):
        code, body = post("members", {"member_id": f"m{number}", "client": DEVICE})
        assert (code, body["inserted"], body["watched"]) == (200, 1, [])
    code, body = post("members", {"member_id": "m4", "client": DEVICE})
    assert (code, body["inserted"]) == (200, 1)
    assert body["watched"] == [{"index": 0, "decision": "hold"}]
    assert hits(db) == [("members_per_device", "device", 4), ("sign_up_per_device", "device", 4)]
    with db.read() as session:
        hit = session.scalars(sa.select(AbuseHit).where(AbuseHit.rule == "members_per_device")).one()
        ids = dict(session.execute(sa.select(Member.external_id, Member.id)).all())
        assert (hit.member_id, hit.evidence["members"]) == (ids["m4"], [ids["m1"], ids["m2"], ids["m3"]])
        assert session.scalars(sa.select(Member.attributes)).all() == [{}] * 4, "no client is kept"


def test_a_member_that_was_there_or_comes_again_is_no_sign_up(db: Database, post: Post) -> None:
    there = add_members(db, 5, first=1001)
    for _ in range(2):
        body = post("members", *({"member_id": f"m{n}", "client": DEVICE} for n in there))[1]
        assert body["watched"] == []
    assert count(db, "abuse_signals") == 0
    for _ in range(6):
        assert post("members", {"member_id": "new", "client": DEVICE})[1]["watched"] == []
    assert count(db, "abuse_signals") == 1


def test_members_of_one_request_count_for_each_other(db: Database, post: Post) -> None:
    rows = [
        {"member_id": f"m{number}", "client": {"address": "Nanjing Rd 1", "ip": f"203.0.113.{number}"}}
        for number in range(6)
    ]
    odd = {"member_id": "m9", "client": {"address": "Elsewhere 2"}}
    plain = {"member_id": "m10"}
    body = post("members", odd, *rows, plain)[1]
    assert body["inserted"] == 8
    assert body["watched"] == [{"index": index, "decision": "hold"} for index in range(1, 7)]
    assert hits(db) == [("members_per_address", "address", 6), ("sign_up_per_address", "address", 6)]


def test_the_phone_of_the_row_counts_by_the_hash_of_the_member(db: Database, post: Post) -> None:
    rows = [
        {"member_id": f"m{n}", "phone": phone, "client": {"device_id": f"d{n}"}}
        for n, phone in enumerate(("13800138000", "+86 138 0013 8000", "138-0013-8000"))
    ]
    body = post("members", *rows)[1]
    assert len(body["watched"]) == 3
    assert hits(db) == [("members_per_phone", "phone", 3)]
    with db.read() as session:
        [digest] = session.scalars(sa.select(AbuseSignal.hash).where(AbuseSignal.kind == "phone").distinct())
        assert digest == session.scalars(sa.select(Member.phone_index).distinct()).one()


def test_a_sign_up_event_is_watched_once_whichever_way_it_comes(db: Database, post: Post) -> None:
    one, two, three, four = (f"m{number}" for number in add_members(db, 4, first=1001))
    post("members", {"member_id": "fresh", "client": DEVICE})

    def event(member: str, kind: str = "sign_up", **sent: str) -> dict[str, Any]:
        return {
            "event_id": f"{kind}-{member}", "member_id": member, "kind": kind,
            "occurred_at": NOW.isoformat(), "properties": sent,
        }  # fmt: skip

    sent = [event(name, device_id="d-1") for name in (one, two, three)]
    body = post("events", event("fresh", device_id="d-1"), event(four, "check_in", device_id="d-1"), *sent)[1]
    assert body["inserted"] == 5
    assert body["watched"] == [{"index": index, "decision": "hold"} for index in (2, 3, 4)]
    assert hits(db)[-1] == ("sign_up_per_device", "device", 4)
    assert post("events", *sent)[1]["watched"] == []
    assert count(db, "abuse_signals") == 4


def test_rows_that_were_refused_leave_no_trace(db: Database, post: Post) -> None:
    body = post("members", {"member_id": "m1", "phone": "x", "client": DEVICE})[1]
    assert [row["index"] for row in body["rejected"]] == [0]
    assert (count(db, "members"), count(db, "abuse_signals")) == (0, 0)


@pytest.mark.parametrize(
    ("client", "field"),
    [
        ({"ip": "nowhere"}, "rows[1].client.ip"),
        ({"mac": "x"}, "rows[1].client.mac"),
        ({"device_id": ""}, "rows[1].client.device_id"),
        ("d-1", "rows[1].client"),
    ],
)
def test_a_row_whose_client_cannot_be_read_is_refused_and_the_others_load(
    db: Database, post: Post, client: Any, field: str
) -> None:
    code, body = post(
        "members", {"member_id": "m1"}, {"member_id": "m2", "client": client}, {"member_id": "m3"}
    )
    assert code == 200
    assert (body["rows"], body["inserted"]) == (3, 2)
    [refused] = body["rejected"]
    assert refused["index"] == 1
    assert refused["reason"].startswith(f"{field}: ")
    with db.read() as session:
        assert set(session.scalars(sa.select(Member.external_id))) == {"m1", "m3"}


def test_who_is_allowed_or_dismissed_is_left_alone(db: Database, post: Post) -> None:
    many = [{"member_id": f"m{number}", "client": DEVICE} for number in range(5)]
    assert len(post("members", *many)[1]["watched"]) == 5
    with db.write() as session:
        session.execute(sa.update(AbuseHit).values(state="dismissed"))
    assert post("members", {"member_id": "m5", "client": DEVICE})[1]["watched"] == []
    with db.write() as session:
        session.execute(sa.update(AbuseHit).values(state="confirmed"))
    found = post("members", {"member_id": "m6", "client": DEVICE})[1]["watched"]
    assert found == [{"index": 0, "decision": "block"}]
    with db.write() as session:
        digest = subjects_of({"device": "d-1"})["device"]
        session.add(AbuseAllowance(kind="device", hash=digest, why="ours", by="ann", at=NOW))
    assert post("members", {"member_id": "m7", "client": DEVICE})[1]["watched"] == []


def test_sign_ups_at_once_take_turns(pg_db: Database) -> None:
    """Of nine at once each sees those before it: all after the third are found."""
    add_members(pg_db, 9)
    subjects = subjects_of({"device": "d-1"})
    found: list[dict[str, str]] = []

    def sign_up(number: int) -> None:
        with pg_db.write() as session:
            found.append(observe_many(session, "sign_up", [Action(f"k{number}", subjects, number)], NOW))

    jobs = [lambda number=number: sign_up(number) for number in range(1, 10)]
    assert together(jobs) == {"done": 9}  # type: ignore[arg-type]
    assert sum(bool(one) for one in found) == 6


def test_a_suspected_sign_up_is_rewarded_once_the_review_lets_it_pass(db: Database, post: Post) -> None:
    with db.write() as session:
        earn_events.create(session, earn_events.EventRule("welcome", "sign_up", 50), "ann", NOW)
        earn_events.create(session, earn_events.EventRule("daily", "check_in", 5), "ann", NOW)

    def event(member: str, kind: str, **sent: str) -> dict[str, Any]:
        return {
            "event_id": f"{kind}-{member}", "member_id": member, "kind": kind,
            "occurred_at": NOW.isoformat(), "properties": sent,
        }  # fmt: skip

    def reward() -> earn_events.Rewarded:
        with db.write() as session:
            return earn_events.reward_events(session, EarnRule(), NOW, 1000)

    def earned() -> dict[str, int]:
        with db.read() as session:
            rows = session.execute(
                sa.select(Member.external_id, sa.func.sum(PointsLot.issued))
                .join(PointsLot, PointsLot.member_id == Member.id)
                .group_by(Member.external_id)
            )
            return {name: int(points) for name, points in rows}

    # Three of a device are let be; of the fourth it is too many. Another device is nobody's concern.
    for name in ("a", "b", "c"):
        post("members", {"member_id": name, "client": DEVICE})
    with db.write() as session:
        session.execute(sa.update(AbuseSignal).values(at=NOW - timedelta(minutes=1)))
    assert reward() == earn_events.Rewarded()
    post("members", {"member_id": "d", "client": DEVICE}, {"member_id": "e", "client": {"device_id": "d-2"}})
    post("events", *(event(name, "sign_up") for name in "abcde"), event("d", "check_in"))
    done = reward()
    assert (done.todos, done.held) == (6, 1)
    honest = {"a": 50, "b": 50, "c": 50, "d": 5, "e": 50}
    assert earned() == honest, "what else a suspected member does is rewarded"
    assert reward() == earn_events.Rewarded(), "what waits is not looked at again and again"

    def decide(state: str) -> earn_events.Rewarded:
        with db.write() as session:
            for hit_id in session.scalars(sa.select(AbuseHit.id)).all():
                review.decide(session, hit_id, state, "looked at", "ann", NOW)
        return reward()

    assert decide(CONFIRMED).held == 1
    assert earned() == honest
    passed = decide(DISMISSED)
    assert (passed.rewards, passed.points, passed.held) == (1, 50, 0)
    assert earned() == {**honest, "d": 55}
    assert count(db, "todos") == 0
    assert decide(DISMISSED) == earn_events.Rewarded()


def test_an_allowed_device_frees_the_rewards_that_waited(db: Database, post: Post) -> None:
    with db.write() as session:
        earn_events.create(session, earn_events.EventRule("welcome", "sign_up", 50), "ann", NOW)
    names = [f"m{number}" for number in range(6)]
    post("members", *({"member_id": name, "client": DEVICE} for name in names))
    sign_up = {"kind": "sign_up", "occurred_at": NOW.isoformat()}
    post("events", *({**sign_up, "event_id": f"e-{name}", "member_id": name} for name in names))
    with db.write() as session:
        assert earn_events.reward_events(session, EarnRule(), NOW, 1000).held == 6
        hit_id = session.scalars(sa.select(AbuseHit.id).order_by(AbuseHit.id)).first()
        assert hit_id is not None
        review.allow(session, hit_id, "the till in the shop", "ann", NOW)
        done = earn_events.reward_events(session, EarnRule(), NOW, 1000)
        assert (done.points, done.held) == (300, 0)
