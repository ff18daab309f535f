"""Log-in, roles, CSRF, the second step, limits: who may do what."""

from __future__ import annotations

import base64
import hmac
import re
import struct
import time
from typing import Any

import pytest
import sqlalchemy as sa

from core.errors import Conflict, InvalidInput
from tests.web import seed
from tests.web.conftest import Browser, Shop
from web import users
from web.app import PAGES
from web.models import User
from web.roles import ROLES, Permission, permissions_of

ROLE_OF = {email: roles[0] for email, roles in seed.USERS.items() if email != "boss@example.com"}
VALUES: dict[str, Any] = {
    "hit_id": 1,
    "kind": "device",
    "digest": "0" * 32,
    "program_id": 1,
    "referral_id": 1,
    "op": "approve",
    "offer_id": 1,
    "member_id": 9,
    "name": "tea-week",
    "batch_id": 1,
    "link_id": 1,
    "promotion_id": 1,
    "template_id": 1,
    "message_id": 1,
    "channel": "email",
    "action": "pause",
    "run_id": 1,
    "readout_id": 1,
    "user_id": 4,
    "number": 1,
    "key_id": 1,
    "report_id": 1,
    "adjustment_id": 1,
    "alert_id": 1,
    "rollout_id": 1,
    "metric_id": 1,
    "plan_id": 1,
    "experiment_id": 1,
}
# What each action needs, written down here again on purpose: a slip in a decorator shows.
NEEDS = {
    Permission.EDIT: {
        "watching.seen",
        "watching.resolve",
        "watching.save_rule",
        "watching.save_settings",
        "review.decide",
        "review.withdraw",
        "review.save_rules",
        "referrals.create",
        "referrals.create_post",
        "referrals.edit",
        "referrals.edit_post",
        "referrals.archive",
        "referrals.decide",
        "groups.create",
        "groups.create_post",
        "groups.archive",
        "campaigns.create",
        "campaigns.create_post",
        "campaigns.edit",
        "campaigns.edit_post",
        "campaigns.submit",
        "campaigns.run",
        "campaigns.pause",
        "campaigns.resume",
        "campaigns.archive",
        "campaigns.measure",
        "results.share",
        "results.withdraw",
        "campaigns.undo",
        "segments.create",
        "segments.create_post",
        "segments.edit",
        "segments.edit_post",
        "segments.archive",
        "segments.restore",
        "segments.restore_version",
        "lists.create",
        "lists.create_post",
        "lists.change",
        "lists.rename",
        "lists.archive",
        "lists.restore",
        "lists.freeze",
        "tags.of_member",
        "tags.of_segment",
        "tags.of_list",
        "experiments.create",
        "experiments.create_post",
        "experiments.edit",
        "experiments.edit_post",
        "experiments.start",
        "experiments.ramp",
        "experiments.end",
        "experiments.stop",
        "experiments.measure",
        "metrics.create",
        "metrics.create_post",
        "metrics.edit",
        "metrics.edit_post",
        "metrics.add_built_in",
        "metrics.archive",
        "metrics.restore",
        "planning.freeze",
        "planning.freeze_post",
        "planning.freeze_experiment",
        "planning.freeze_experiment_post",
        "again.page",
        "again.ask",
        "insights.moves_list",
        "insights.funnels_list",
        "loyalty.create",
        "loyalty.create_post",
        "loyalty.issue",
        "loyalty.add_link",
        "loyalty.archive_link",
        "loyalty.import_codes",
        "loyalty.export_codes",
        "loyalty.rejects",
        "loyalty.archive",
        "points.save",
        "points.save_money",
        "points.adjust",
        "points.add_multiplier",
        "points.add_event_rule",
        "points.archive_source",
        "tiers.save",
        "reminders.save",
        "promotions.create",
        "promotions.create_post",
        "promotions.edit_post",
        "promotions.archive",
        "promotions.publish_notice",
        "calendar.save_ceiling",
        "template_editor.create",
        "template_editor.create_post",
        "template_editor.edit",
        "template_editor.edit_post",
        "template_editor.preview_draft",
        "template_editor.send_draft",
        "template_editor.send_new_draft",
        "template_editor.live",
        "template_editor.check_links",
        "template_editor.members",
        "template_editor.send_test",
        "template_editor.restore",
        "wording.create",
        "wording.create_post",
        "wording.save",
        "wording.renew",
        "wording.archive",
        "wording.save_words",
        "channels.archive",
        "messages.retry",
        "channels.switch",
        "delivery_rules.stop_all",
        "delivery_rules.resume",
    },
    Permission.APPROVE: {
        "watching.decide",
        "campaigns.approve",
        "campaigns.reject",
        "points.decide_adjustment",
    },
    Permission.CONTACTS: {"members.show_contact", "members.wallet", "members.wechat", "messages.report"},
    Permission.ADMINISTER: {
        "channels.close_circuit",
        "members.erase",
        "delivery_rules.save",
        "predictions.save",
        "scoring.save",
        "scoring.names_post",
        "settings.people",
        "settings.add_person",
        "settings.change_person",
        "settings.reset_password",
        "settings.api_keys",
        "settings.add_key",
        "settings.revoke_key",
        "settings.audit_log",
    },
}


def console_rules(shop: Shop) -> list[Any]:
    blueprints = {module.bp.name for module in PAGES}
    return [rule for rule in shop.app.url_map.iter_rules() if rule.endpoint.split(".")[0] in blueprints]


def needed(endpoint: str) -> Permission:
    return next((permission for permission, names in NEEDS.items() if endpoint in names), Permission.VIEW)


def test_every_view_is_guarded_by_the_permission_it_needs(shop: Shop) -> None:
    for rule in console_rules(shop):
        view = shop.app.view_functions[rule.endpoint]
        assert getattr(view, "permission", None) == needed(rule.endpoint), rule.endpoint
    known = {rule.endpoint for rule in console_rules(shop)}
    assert {name for names in NEEDS.values() for name in names} <= known


@pytest.mark.parametrize("email", ROLE_OF)
def test_a_role_reaches_just_what_it_may(shop: Shop, email: str) -> None:
    """Each role × each page and action: what is not allowed answers 403, and what is allowed never does."""
    client = shop.client(email)
    allowed = ROLES[ROLE_OF[email]]
    token = client.token()
    for rule in console_rules(shop):
        method = "POST" if "POST" in rule.methods else "GET"
        with shop.app.test_request_context():
            address = shop.app.url_map.bind("localhost").build(
                rule.endpoint, {name: VALUES[name] for name in rule.arguments}, method=method
            )
        may = needed(rule.endpoint) in allowed
        if method == "POST" and may:
            continue  # what an allowed action does is tested where it belongs
        answer = client.client.open(
            address, method=method, data={"csrf_token": token}, headers=client.headers
        )
        assert (answer.status_code == 403) is not may, (rule.endpoint, answer.status_code)


def test_the_roles_are_what_the_documentation_says() -> None:
    assert permissions_of(["admin"]) == frozenset(Permission)
    assert permissions_of(["marketer"]) == {Permission.VIEW, Permission.EDIT, Permission.APPROVE}
    assert permissions_of(["analyst"]) == {Permission.VIEW}
    assert permissions_of(["support"]) == {Permission.VIEW, Permission.CONTACTS}
    assert permissions_of(["analyst", "support"]) == {Permission.VIEW, Permission.CONTACTS}
    assert permissions_of(["stranger"]) == frozenset()


def test_nobody_is_sent_to_the_log_in_and_back(shop: Shop) -> None:
    client = shop.client(None)
    for rule in console_rules(shop):
        if "GET" in rule.methods and not rule.arguments:
            answer = client.get(rule.rule)
            assert answer.status_code == 302, rule.rule
            assert answer.headers["Location"].startswith("/login"), rule.rule
    away = client.get("/campaigns?state=draft").headers["Location"]
    assert away == "/login?next=/campaigns?state%3Ddraft" or "next=" in away
    answer = client.post(away, {"email": "admin@example.com", "password": seed.PASSWORD})
    assert answer.headers["Location"].endswith("/campaigns?state=draft")


def test_a_wrong_password_and_an_unknown_address_get_the_same_answer(shop: Shop) -> None:
    client = shop.client(None)
    texts = []
    for email in ("admin@example.com", "stranger@example.com"):
        page = client.post("/login", {"email": email, "password": "wrong password"})
        assert page.status_code == 200
        assert f'value="{email}"' in page.text  # what was typed is still there
        texts.append(re.sub(r'(value|content)="[^"]*"', "", page.text))  # the address, and the form's token
    assert texts[0] == texts[1]
    assert client.get("/").status_code == 302


def test_a_form_without_its_token_is_refused(shop: Shop) -> None:
    client = shop.client()
    answer = client.client.post("/campaigns/draft-idea/submit", headers=client.headers)
    assert answer.status_code == 400
    assert "Load it again" in answer.text
    with shop.database.read() as session:
        assert session.scalar(sa.text("SELECT state FROM campaigns WHERE name = 'draft-idea'")) == "draft"


def test_htmx_may_send_the_token_as_a_header(shop: Shop) -> None:
    client = shop.client()
    answer = client.client.post(
        "/segments/count",
        data={"rule": '{"field": "rfm.r", "op": "=", "value": 5}'},
        headers={"X-CSRFToken": client.token(), "HX-Request": "true"},
    )
    assert answer.status_code == 200
    assert "members" in answer.text


def test_an_expired_session_tells_htmx_to_go_to_the_log_in(shop: Shop) -> None:
    answer = shop.client(None).get("/jobs", headers={"HX-Request": "true"})
    assert (answer.status_code, answer.headers["HX-Redirect"]) == (401, "/login")


def test_too_many_log_ins_are_stopped(shop: Shop) -> None:
    client = shop.client(None)
    token = client.token()
    data = {"email": "admin@example.com", "password": "wrong password", "csrf_token": token}
    codes = [client.client.post("/login", data=data).status_code for _ in range(12)]
    assert codes[:10] == [200] * 10
    assert codes[10:] == [429, 429]


def test_a_user_who_was_switched_off_is_out_at_once(shop: Shop) -> None:
    marketer, admin = shop.client("marketer@example.com"), shop.client()
    with shop.database.read() as session:
        user_id = session.scalar(sa.select(User.id).where(User.email == "marketer@example.com"))
    admin.post(f"/settings/users/{user_id}", {"roles": "marketer"})
    assert marketer.get("/").status_code == 302
    page = marketer.post("/login", {"email": "marketer@example.com", "password": seed.PASSWORD})
    assert page.status_code == 200


def test_the_last_administrator_stays(shop: Shop) -> None:
    with shop.database.write() as session:
        ids = dict(session.execute(sa.select(User.email, User.id)).all())
        users.change_user(
            session, ids["boss@example.com"], roles=["analyst"], active=True, by="x", now=seed.NOW
        )
        with pytest.raises(Conflict, match="only administrator"):
            users.change_user(
                session, ids["admin@example.com"], roles=["admin"], active=False, by="x", now=seed.NOW
            )
        assert users.active_admins(session) == 1


def test_users_are_checked_as_they_are_made(empty_shop: Shop) -> None:
    database = empty_shop.database
    with pytest.raises(InvalidInput, match="8 to 128"):
        users.create_user(database, "new@example.com", "short", ["admin"])
    with pytest.raises(InvalidInput, match="roles"):
        users.create_user(database, "new@example.com", "long enough", ["king"])
    with pytest.raises(Conflict, match="already"):
        users.create_user(database, "Admin@Example.com", "long enough", ["admin"])
    assert users.create_user(database, "new@example.com", "long enough", ["analyst", "support"]) > 0
    client = empty_shop.client(None)
    client.log_in("new@example.com", "long enough")
    assert client.get("/").status_code == 200


def six_digits(key: str) -> str:
    """What the app on the phone shows now (RFC 6238)."""
    secret = base64.b32decode("".join(c for c in key.upper() if c.isalnum()))
    digest = hmac.digest(secret, struct.pack(">Q", int(time.time()) // 30), "sha1")
    start = digest[-1] & 15
    return f"{(int.from_bytes(digest[start : start + 4], 'big') & 0x7FFFFFFF) % 10**6:06d}"


def test_the_second_step_is_set_up_and_then_asked_for(shop: Shop) -> None:
    client = shop.client()
    page = client.post("/tf-setup", {"setup": "authenticator"})
    assert page.status_code == 200, page.headers.get("Location")
    assert 'src="data:image/svg+xml;base64,' in page.text
    key = re.search(r"<code>([^<]+)</code>", page.text)
    action = re.search(r'action="(/tf-[^"]+)"', page.text)
    assert key is not None
    assert action is not None
    code = six_digits(key.group(1))
    assert client.post(action.group(1), {"code": code}).status_code == 302
    again = Browser(shop.app.test_client(), "en")
    token = {"csrf_token": again.token()}
    data = {**token, "email": "admin@example.com", "password": seed.PASSWORD}
    assert (
        "Second step"
        in again.client.post("/login", data=data, headers=again.headers, follow_redirects=True).text
    )
    assert again.get("/").status_code == 302  # the password alone is not enough
    wrong = again.client.post("/tf-validate", data={**token, "code": "000000"}, headers=again.headers)
    assert again.get("/").status_code == 302
    assert wrong.status_code == 200
    assert "Second step" in wrong.text
    used = again.client.post("/tf-validate", data={**token, "code": code}, headers=again.headers)
    assert used.status_code == 200  # a code works once only
    assert again.get("/").status_code == 302


def test_headers_protect_every_answer(shop: Shop) -> None:
    headers = shop.client().get("/").headers
    policy = headers["Content-Security-Policy"]
    for part in ("default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"):
        assert part in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Cache-Control"] == "no-store"
    cookie = shop.client(None).get("/login").headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie


def test_a_message_preview_runs_no_script_and_has_an_origin_of_its_own(shop: Shop) -> None:
    policy = (
        shop.client().get("/channels/templates/1/preview.html?language=en").headers["Content-Security-Policy"]
    )
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert "sandbox allow-popups" in policy
    assert "allow-scripts" not in policy
    assert "allow-same-origin" not in policy
