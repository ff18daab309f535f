"""Loyalty → Review: hits in words, decisions with a reason, the allow-list, the rules."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
import sqlalchemy as sa

from core.models import AuditEntry, Member
from loyalty.abuse import rules, signals
from loyalty.abuse.models import AbuseAllowance, AbuseHit
from loyalty.abuse.rules import Rules, Shared, Velocity
from tests.web import seed
from tests.web.conftest import Shop

SECRETS = ("device-77", "上海市静安区南京西路1号")


def given_hits(shop: Shop) -> list[int]:
    """Two hits: a device that claimed too often, an address with too many members; answers their ids."""
    with shop.database.write() as session:
        found = Rules(
            (Velocity("claims", "claim", "device", 1, 86_400),), (Shared("home", "address", 1, 30 * 86_400),)
        )
        rules.save_rules(session, found, "ann", seed.NOW)
        one, other = session.scalars(sa.select(Member.id).order_by(Member.id).limit(2))
        for member in (one, other):
            sent = {"device": SECRETS[0], "address": SECRETS[1]}
            signals.observe(session, "claim", {**sent}, member, seed.NOW)
    with shop.database.read() as session:
        return list(session.scalars(sa.select(AbuseHit.id).order_by(AbuseHit.id)))


def states(shop: Shop) -> list[str]:
    with shop.database.read() as session:
        return list(session.scalars(sa.select(AbuseHit.state).order_by(AbuseHit.id)))


def test_the_queue_says_in_words_what_was_found_and_names_nothing_that_was_sent(shop: Shop) -> None:
    given_hits(shop)
    page = shop.client().get("/loyalty/review").text
    assert "2 times by the same device within a day; the rule allows 1" in page
    assert "2 members with the same delivery address within 30 days; the rule allows 1" in page
    assert [secret for secret in SECRETS if secret in page] == []


def test_the_tab_says_how_many_wait(shop: Shop) -> None:
    admin = shop.client()
    assert ">Review</a>" in admin.get("/loyalty/points").text
    given_hits(shop)
    assert ">Review 2</a>" in admin.get("/loyalty/points").text


def test_filters_keep_what_was_asked_for(shop: Shop) -> None:
    ids = given_hits(shop)
    page = shop.client().get("/loyalty/review?kind=address").text
    assert f"/loyalty/review/{ids[1]}" in page
    assert f'/loyalty/review/{ids[0]}"' not in page
    assert "Nothing here" in shop.client().get("/loyalty/review?state=confirmed").text


@pytest.mark.parametrize(
    ("decision", "after"),
    [
        ("confirmed", ["confirmed", "open"]),
        ("dismissed", ["dismissed", "open"]),
        ("allow", ["dismissed", "open"]),
    ],
)
def test_a_decision_is_kept_with_its_reason(shop: Shop, decision: str, after: list[str]) -> None:
    ids = given_hits(shop)
    marketer = shop.client("marketer@example.com")
    answer = marketer.post(f"/loyalty/review/{ids[0]}", {"decision": decision, "reason": "A family of five"})
    assert answer.status_code == 303
    assert states(shop) == after
    with shop.database.read() as session:
        entry = session.scalars(sa.select(AuditEntry).where(AuditEntry.object_type == "abuse_hit")).one()
        assert (entry.actor, entry.detail["reason"]) == ("marketer@example.com", "A family of five")
        assert session.scalar(sa.select(sa.func.count()).select_from(AbuseAllowance)) == (decision == "allow")
    assert "A family of five" in marketer.get(f"/loyalty/review/{ids[0]}").text


@pytest.mark.parametrize(
    "form",
    [
        {"decision": "confirmed", "reason": " "},
        {"decision": "burn", "reason": "x"},
        {"decision": "allow", "reason": "x", "until": "2020-01-01T00:00"},
    ],
)
def test_a_form_with_a_mistake_comes_back_and_decides_nothing(shop: Shop, form: dict[str, Any]) -> None:
    ids = given_hits(shop)
    answer = shop.client().post(f"/loyalty/review/{ids[0]}", form)
    assert answer.status_code == 422
    assert "Not saved yet" in answer.text
    assert states(shop) == ["open", "open"]


def test_what_was_allowed_can_be_taken_off_again(shop: Shop) -> None:
    ids = given_hits(shop)
    admin = shop.client()
    admin.post(f"/loyalty/review/{ids[0]}", {"decision": "allow", "reason": "The counter's tablet"})
    assert "The counter&#39;s tablet" in admin.get("/loyalty/review").text
    with shop.database.read() as session:
        row = session.scalars(sa.select(AbuseAllowance)).one()
    for _ in range(2):  # the second click finds nothing, and says so
        assert admin.post(f"/loyalty/review/allowed/{row.kind}/{row.hash}/remove").status_code == 303
    with shop.database.read() as session:
        assert session.scalars(sa.select(AbuseAllowance)).all() == []


def test_who_may_only_look_decides_nothing(shop: Shop) -> None:
    ids = given_hits(shop)
    analyst = shop.client("analyst@example.com")
    assert analyst.get(f"/loyalty/review/{ids[0]}").status_code == 200
    form = {"decision": "confirmed", "reason": "x"}
    assert analyst.post(f"/loyalty/review/{ids[0]}", form).status_code == 403
    assert states(shop) == ["open", "open"]


def test_the_rules_are_changed_as_json_and_wrong_ones_refused(shop: Shop) -> None:
    admin = shop.client()
    assert "claim_per_device" in admin.get("/loyalty/review/rules").text
    wrong = {"velocity": [{"name": "x", "action": "buy", "kind": "ip", "limit": 1, "window_s": 60}]}
    for text in ("{", json.dumps(wrong)):
        assert admin.post("/loyalty/review/rules", {"rules": text}).status_code == 422
    right = Rules((Velocity("x", "claim", "ip", 1, 60),), ())
    assert admin.post("/loyalty/review/rules", {"rules": json.dumps(asdict(right))}).status_code == 303
    with shop.database.read() as session:
        assert rules.load_rules(session) == right


def test_a_hit_that_is_not_there_is_not_found(shop: Shop) -> None:
    assert shop.client().get("/loyalty/review/99").status_code == 404
