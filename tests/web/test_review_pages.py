"""Loyalty → Review: hits in words, decisions with a reason, the allow-list, the rules."""

from __future__ import annotations

import json
import re
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
    assert "claim_per_device" in admin.get("/loyalty/review/rules?as=json").text
    wrong = {"velocity": [{"name": "x", "action": "buy", "kind": "ip", "limit": 1, "window_s": 60}]}
    for text in ("{", json.dumps(wrong)):
        answer = admin.post("/loyalty/review/rules", {"rules": text})
        assert answer.status_code == 422
        assert "rules-error" in answer.text
    right = Rules((Velocity("x", "claim", "ip", 1, 60),), ())
    assert admin.post("/loyalty/review/rules", {"rules": json.dumps(asdict(right))}).status_code == 303
    with shop.database.read() as session:
        assert rules.load_rules(session) == right


def fields_of(page: str) -> dict[str, str]:
    """What the form of the page would send."""
    fields = dict(
        re.findall(r'<input class="form-control" id="[^"]+" name="([^"]+)"[^>]*?value="([^"]*)"', page)
    )
    for name, options in re.findall(
        r'<select class="form-select" id="[^"]+" name="([^"]+)".*?>(.*?)</select>', page, re.S
    ):
        chosen = re.findall(r'value="([^"]*)" selected', options) or re.findall(r'value="([^"]*)"', options)
        fields[name] = chosen[0]
    return fields


def test_the_rules_form_sent_back_as_it_came_changes_nothing(shop: Shop) -> None:
    admin = shop.client()
    fields = fields_of(admin.get("/loyalty/review/rules").text)
    assert (fields["velocity-0-name"], fields["velocity-0-window_s"]) == ("claim_per_member", "1")
    assert (fields["shared-0-window_s"], fields["shared-0-window_s_unit"]) == ("30", "86400")
    assert admin.post("/loyalty/review/rules", fields).status_code == 303
    with shop.database.read() as session:
        assert rules.load_rules(session) == rules.DEFAULTS


def test_rules_are_changed_added_and_removed_in_the_form(shop: Shop) -> None:
    admin = shop.client()
    fields = fields_of(admin.get("/loyalty/review/rules").text)
    last = len(rules.DEFAULTS.velocity)
    fields |= {
        "velocity-0-limit": "7", "velocity-0-window_s": "90", "velocity-0-window_s_unit": "60",
        "velocity-1-remove": "1", f"velocity-{last}-name": "mine", f"velocity-{last}-action": "group",
        f"velocity-{last}-kind": "ip", f"velocity-{last}-limit": "2", f"velocity-{last}-window_s": "3",
        f"velocity-{last}-window_s_unit": "3600", f"velocity-{last}-verdict": "block",
        "guessing-0-limit": "4", "guessing-0-longest_s": "2", "guessing-0-longest_s_unit": "86400",
    }  # fmt: skip
    assert admin.post("/loyalty/review/rules", fields).status_code == 303
    with shop.database.read() as session:
        stored = rules.load_rules(session)
    kept = (Velocity("claim_per_member", "claim", "member", 7, 5400), *rules.DEFAULTS.velocity[2:])
    assert stored.velocity == (*kept, Velocity("mine", "group", "ip", 2, 10_800, "block"))
    assert stored.shared == rules.DEFAULTS.shared
    assert (stored.guessing.limit, stored.guessing.longest_s) == (4, 172_800)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("velocity-0-limit", "x"),
        ("velocity-0-name", ""),
        ("velocity-2-kind", "shoe"),
        ("velocity-0-action", "buy"),
        ("velocity-0-window_s", "91"),
        ("shared-0-kind", "ip"),
        ("shared-1-window_s", ""),
        ("guessing-0-limit", "1001"),
        ("guessing-0-first_s", "100000"),
    ],
)
def test_a_mistake_in_the_rules_form_stands_beside_its_field(shop: Shop, name: str, value: str) -> None:
    admin = shop.client()
    fields = fields_of(admin.get("/loyalty/review/rules").text)
    answer = admin.post("/loyalty/review/rules", {**fields, name: value, "velocity-1-limit": "77"})
    assert answer.status_code == 422
    assert f'id="{name}-error"' in answer.text
    assert 'value="77"' in answer.text
    with shop.database.read() as session:
        assert rules.load_rules(session) == rules.DEFAULTS


def test_two_rules_of_one_name_are_refused(shop: Shop) -> None:
    admin = shop.client()
    fields = fields_of(admin.get("/loyalty/review/rules").text)
    answer = admin.post("/loyalty/review/rules", {**fields, "velocity-1-name": "claim_per_member"})
    assert answer.status_code == 422
    assert "give each its own name" in answer.text


def test_a_hit_that_is_not_there_is_not_found(shop: Shop) -> None:
    assert shop.client().get("/loyalty/review/99").status_code == 404
