"""Forms and actions: what was typed stays, the error stands beside its field, and what is sent is written."""

from __future__ import annotations

import html
import re
import time
from dataclasses import fields
from typing import Any

import sqlalchemy as sa

from campaigns.models import Campaign, CampaignRun, Decision
from channels.models import Account, Consent, Suppression, Template
from core.models import AuditEntry, Job, Member
from loyalty.models import Coupon, CouponBatch
from segments.models import Segment
from segments.scores import latest_refresh
from segments.settings import load
from tests.web import seed
from tests.web.conftest import Shop
from web import users
from web.models import ApiKey

CAMPAIGN = {
    "name": "autumn",
    "title": "Autumn",
    "audience_kind": "segment",
    "segment": "dormant-buyers",
    "metric": "revenue",
    "window_days": "14",
    "holdout": "12.5",
    "channel-1": "email",
    "channel-2": "sms",
    "channel-3": "",
    "cap_messages": "2",
    "cap_days": "7",
    "quiet": "1",
    "quiet_start": "22:00",
    "quiet_end": "07:30",
    "quiet_mode": "defer",
    "expires_hours": "48",
    "margin": "30",
    "cost-sms": "0.05",
    "point_value": "0.01",
    "budget": "1,250.50",
    "scheduled_at": "2026-04-01T09:30",
    "exclude": "vip",
    "variant-0-name": "A",
    "variant-0-weight": "60",
    "variant-0-email": "win-back-mail",
    "variant-0-batch": "win-back-20",
    "variant-3-name": "B",
    "variant-3-weight": "40",
    "variant-3-email": "win-back-mail",
    "variant-3-points": "150",
}


def one(shop: Shop, query: Any) -> Any:
    with shop.database.read() as session:
        return session.scalars(query).one()


def campaign(shop: Shop, name: str) -> Campaign:
    found: Campaign = one(shop, sa.select(Campaign).where(Campaign.name == name))
    return found


def error_beside(text: str, field: str) -> str:
    found = re.search(rf'id="{re.escape(field)}-error">.*?<span>(.*?)</span>', text, re.DOTALL)
    assert found is not None, field
    return found.group(1)


def test_a_campaign_is_written_as_the_form_says(shop: Shop) -> None:
    answer = shop.client("marketer@example.com").post("/campaigns/new", CAMPAIGN)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/campaigns/autumn")
    found = campaign(shop, "autumn")
    assert (found.state, found.budget_minor, found.created_by) == ("draft", 125_050, "marketer@example.com")
    assert found.scheduled_at is not None
    assert found.scheduled_at.isoformat() == "2026-04-01T01:30:00+00:00"  # the shop's zone is +08:00
    spec = found.spec
    assert spec["audience"] == {"segment": "dormant-buyers"}
    assert (spec["holdout"], spec["exclude"], spec["channels"]) == (0.125, ["vip"], ["email", "sms"])
    assert spec["quiet_hours"] == {"start": "22:00", "end": "07:30", "mode": "defer"}
    assert [(v["name"], v["weight"], v["coupon_batch"], v["points"]) for v in spec["variants"]] == [
        ("A", 0.6, "win-back-20", 0),
        ("B", 0.4, None, 150),
    ]
    assert spec["message_cost_minor"]["sms"] == 5


def test_a_campaign_form_opens_again_as_it_was_saved(shop: Shop) -> None:
    client = shop.client()
    client.post("/campaigns/new", CAMPAIGN)
    text = client.get("/campaigns/autumn/edit").text
    for value in ("12.5", "1250.50", "2026-04-01T09:30", "22:00", "0.05", "150"):
        assert f'value="{value}"' in text, value
    assert re.search(r'name="exclude" value="vip" checked', text)


def test_a_campaign_with_errors_comes_back_filled_in(shop: Shop) -> None:
    wrong = {
        **CAMPAIGN,
        "variant-3-weight": "30",
        "budget": "a lot",
        "window_days": "two weeks",
        "variant-3-email": "",
    }
    page = shop.client().post("/campaigns/new", wrong)
    assert page.status_code == 422
    assert error_beside(page.text, "budget") == "Write an amount like 12.50."
    assert error_beside(page.text, "window_days") == "Write a whole number."
    assert "template" in error_beside(page.text, "variant-3-email")
    for value in ("a lot", "two weeks", "Autumn", "12.5"):
        assert f'value="{value}"' in page.text, value
    with shop.database.read() as session:
        assert session.scalar(sa.select(sa.func.count()).where(Campaign.name == "autumn")) == 0


def test_weights_that_do_not_sum_to_one_hundred_are_said_so(shop: Shop) -> None:
    page = shop.client().post("/campaigns/new", {**CAMPAIGN, "variant-3-weight": "30"})
    assert page.status_code == 422
    assert "The weights sum to 90 %; make them 100 %." in page.text


def test_the_packages_refusal_stands_beside_the_field_it_names(shop: Shop) -> None:
    page = shop.client().post("/campaigns/new", {**CAMPAIGN, "name": "Not A Name"})
    assert "lower-case" in error_beside(page.text, "name")
    page = shop.client().post("/campaigns/new", {**CAMPAIGN, "variant-0-sms": "win-back-mail"})
    assert "no sms template" in error_beside(page.text, "variant-0-sms")


def test_a_campaign_goes_its_way_from_draft_to_finished(shop: Shop) -> None:
    marketer, admin = shop.client("marketer@example.com"), shop.client()
    address = "/campaigns/draft-idea"
    assert marketer.post(f"{address}/submit").status_code == 303
    assert "Approve “An idea”?" not in marketer.get(address).text  # not by its author
    marketer.post(f"{address}/approve", {"confirm": "draft-idea"})
    assert campaign(shop, "draft-idea").state == "pending"
    admin.post(f"{address}/approve", {"confirm": "yes"})
    assert campaign(shop, "draft-idea").state == "pending"  # the typed name is not right
    version = campaign(shop, "draft-idea").version
    admin.post(f"{address}/approve", {"confirm": "draft-idea", "version": version - 1})
    assert campaign(shop, "draft-idea").state == "pending"  # another version was looked at
    admin.post(f"{address}/approve", {"confirm": "draft-idea", "version": version})
    assert (campaign(shop, "draft-idea").state, campaign(shop, "draft-idea").approved_by) == (
        "approved",
        "admin@example.com",
    )
    marketer.post(f"{address}/pause")
    assert campaign(shop, "draft-idea").state == "paused"
    marketer.post(f"{address}/resume")
    marketer.post(f"{address}/run", {"confirm": "draft-idea"})
    wait_for(lambda: campaign(shop, "draft-idea").state == "finished")
    with shop.database.read() as session:
        run = session.scalars(sa.select(CampaignRun).order_by(CampaignRun.id.desc()).limit(1)).one()
        decided = session.scalar(sa.select(sa.func.count()).where(Decision.run_id == run.id))
        wait_for(lambda: one(shop, sa.select(Job.state).where(Job.label == "An idea")) == "done")
    assert run.candidates == decided
    assert run.candidates > 0
    assert f"{run.candidates:,}" in marketer.get(address).text


def wait_for(done: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def test_the_only_administrator_may_approve_their_own_campaign(shop: Shop) -> None:
    with shop.database.write() as session:
        boss = {user.email: user.id for user in users.list_users(session)}["boss@example.com"]
        users.change_user(session, boss, roles=["analyst"], active=True, by="x", now=seed.NOW)
    admin = shop.client()
    admin.post("/campaigns/new", CAMPAIGN)
    admin.post("/campaigns/autumn/submit")
    assert "You are the only administrator" in admin.get("/campaigns/autumn").text
    admin.post("/campaigns/autumn/approve", {"confirm": "autumn"})
    assert campaign(shop, "autumn").state == "approved"


def test_a_simulation_writes_nothing(shop: Shop) -> None:
    def size() -> list[int]:
        with shop.database.read() as session:
            return [
                session.scalar(sa.select(sa.func.count()).select_from(t)) or 0
                for t in (Decision, Coupon, CampaignRun)
            ]

    before = size()
    text = (
        shop.client("analyst@example.com")
        .get("/campaigns/tea-week/simulation", headers={"HX-Request": "true"})
        .text
    )
    assert "<html" not in text
    assert "Would get a message" in text
    assert size() == before


def test_measuring_keeps_a_read_out(shop: Shop) -> None:
    client = shop.client()
    assert client.post("/campaigns/spring-win-back/measure").status_code == 303
    text = client.get("/campaigns/spring-win-back").text
    assert "Profit and cost" in text
    assert "as of Mar 2, 2026" in text


def test_a_segment_is_saved_with_its_rule_and_its_versions(shop: Shop) -> None:
    client = shop.client()
    rule = '{"field": "rfm.r", "op": ">=", "value": 4}'
    data = {"name": "recent", "title": "Recent buyers", "rule": rule, "description": "For news"}
    assert client.post("/segments/new", data).headers["Location"] == "/segments/recent"
    client.post("/segments/recent/edit", {**data, "rule": rule.replace("4", "5")})
    found = one(shop, sa.select(Segment).where(Segment.name == "recent"))
    assert (found.version, found.rule["value"]) == (2, 5)
    text = client.get("/segments/recent").text
    assert "Version 2" in text
    assert "Version 1" in text


def test_a_rule_with_an_error_comes_back_with_its_path(shop: Shop) -> None:
    rule = '{"all": [{"field": "rfm.r", "op": "contains", "value": 4}]}'
    page = shop.client().post("/segments/new", {"name": "recent", "title": "Recent", "rule": rule})
    assert page.status_code == 422
    assert "all[0].op" in error_beside(page.text, "rule")
    assert "contains" in page.text
    page = shop.client().post("/segments/new", {"name": "recent", "title": "Recent", "rule": "{not json"})
    assert "not JSON" in error_beside(page.text, "rule")
    assert "{not json" in page.text


def test_the_live_count_answers_in_words_and_writes_nothing(shop: Shop) -> None:
    client = shop.client("analyst@example.com")
    text = client.post(
        "/segments/count", {"rule": '{"field": "tags", "op": "matches_any", "value": ["vip"]}'}
    ).text
    assert re.search(r"<strong>22</strong>", text)
    assert "Tags" in text
    assert (
        "is none of" in client.post("/segments/count", {"rule": '{"event": "order", "aggregate": "x"}'}).text
    )


def test_a_segment_in_use_is_not_archived_and_the_page_says_why(shop: Shop) -> None:
    client = shop.client()
    rule = '{"all": [{"segment": "vip"}, {"field": "rfm.f", "op": ">=", "value": 2}]}'
    client.post("/segments/new", {"name": "best", "title": "Best", "rule": rule})
    answer = client.post("/segments/vip/archive", headers={"Referer": "http://localhost/segments/vip"})
    assert (answer.status_code, answer.headers["Location"]) == (303, "http://localhost/segments/vip")
    assert "is used by the segments best" in client.get("/segments/vip").text
    client.post("/segments/best/archive")
    assert client.post("/segments/vip/archive").headers["Location"] == "/segments"
    assert "VIP" in client.get("/segments?archived=1").text


def test_a_template_error_names_the_language_and_keeps_the_text(shop: Shop) -> None:
    data = {
        "name": "hello",
        "channel": "email",
        "purpose": "marketing",
        "zh_CN.subject": "您好",
        "zh_CN.html": "<p>{{ member.name }</p>",
    }
    page = shop.client().post("/channels/templates/new/email", data)
    assert page.status_code == 422
    assert error_beside(page.text, "zh_CN.html")
    assert "&lt;p&gt;{{ member.name }&lt;/p&gt;" in page.text
    page = shop.client().post("/channels/templates/new/email", {**data, "zh_CN.html": "<p>Hi</p>"})
    assert "unsubscribe_url" in error_beside(page.text, "zh_CN.html")


def test_a_template_is_saved_as_its_next_version(shop: Shop) -> None:
    client = shop.client()
    text = client.get("/channels/templates/2/edit").text
    assert "code: {{ coupon.code }}" in text
    data = {
        "zh_CN.text": "新的 {{ coupon.code }}",
        "zh_CN.provider_template": "SMS_2",
        "zh_CN.params": "code: {{ coupon.code }}",
    }
    assert client.post("/channels/templates/2/edit", data).headers["Location"] == "/channels/templates/2"
    assert one(shop, sa.select(Template.version).where(Template.id == 2)) == 2
    page = client.post("/channels/templates/2/edit", {**data, "zh_CN.params": "no colon"})
    assert error_beside(page.text, "zh_CN.params") == "Write one a line, as name: text."


def test_a_draft_is_previewed_without_being_saved(shop: Shop) -> None:
    client = shop.client()
    data = {
        "channel": "email",
        "purpose": "marketing",
        "preview": "en",
        "en.subject": "Hi",
        "en.html": "<h1>Dear {{ member.name }}</h1><a href='{{ unsubscribe_url }}'>x</a>",
    }
    page = client.post("/channels/templates/preview", data)
    assert "Dear Alex Sample" in page.text
    assert "sandbox" in page.headers["Content-Security-Policy"]
    with shop.database.read() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Template)) == 2


def test_a_paused_channel_is_resumed(shop: Shop) -> None:
    client = shop.client()
    assert one(shop, sa.select(Account).where(Account.channel == "sms")).paused_at is not None
    client.post("/channels/accounts/sms/resume")
    assert one(shop, sa.select(Account).where(Account.channel == "sms")).paused_at is None
    client.post("/channels/accounts/email/pause", {"reason": "a test"})
    assert "a test" in client.get("/channels/accounts").text
    assert client.post("/channels/accounts/email/explode").status_code == 404


def test_a_batch_is_made_and_its_codes_are_issued_once(shop: Shop) -> None:
    client = shop.client()
    data = {
        "name": "tenth",
        "title": "10 % off",
        "type": "percent",
        "percent": "10",
        "max_amount": "50",
        "min_spend": "99.90",
        "valid_days": "30",
        "settlement_share": "80",
    }
    location = client.post("/loyalty/batches/new", data).headers["Location"]
    batch = one(shop, sa.select(CouponBatch).where(CouponBatch.name == "tenth"))
    assert (batch.min_spend_minor, batch.settlement_share, batch.benefit["max_amount"]) == (9990, 0.8, 5000)
    for confirm, total in (("4", 0), ("5", 5), ("5", 5)):
        answer = client.post(f"{location}/issue", {"number": "5", "confirm": confirm, "key": "once"})
        if not total:
            assert answer.status_code == 422
            assert error_beside(answer.text, "confirm")
            assert 'value="5"' in answer.text, "what was typed is still there"
        with shop.database.read() as session:
            assert session.scalar(sa.select(sa.func.count()).where(Coupon.batch_id == batch.id)) == total
    page = client.post("/loyalty/batches/new", {**data, "percent": "150"})
    assert page.status_code == 422
    assert error_beside(page.text, "percent")
    assert 'value="99.90"' in page.text


def test_scoring_settings_are_checked_together(shop: Shop) -> None:
    client = shop.client()
    data = {
        "window_days": "365",
        "new_days": "30",
        "active_days": "60",
        "churned_days": "200",
        "reactivated_days": "30",
        "silence_orders": "3",
        "silence_factor": "2.5",
        "high_value_share": "10",
        "preset": "standard",
        "cut.recency": "",
        "cut.frequency": "",
        "cut.monetary": "",
    }
    assert client.post("/settings/scoring", data).status_code == 303
    with shop.database.read() as session:
        found = load(session)
    assert (found.active_days, found.high_value_share, found.cut_points) == (60, 0.1, None)
    page = client.post("/settings/scoring", {**data, "active_days": "300"})
    assert page.status_code == 422
    assert "Days must grow" in error_beside(page.text, "active_days")
    page = client.post("/settings/scoring", {**data, "cut.recency": "4, 3, 2, 1"})
    assert "ascending" in error_beside(page.text, "cut.recency")
    assert 'value="4, 3, 2, 1"' in page.text


def test_the_effect_of_settings_is_shown_before_they_are_saved(shop: Shop) -> None:
    client = shop.client()
    with shop.database.read() as session:
        before = load(session)
    form = {field.name: str(getattr(before, field.name)) for field in fields(before)}
    form |= {"high_value_share": "20", "same_day_once": "", "cut_points": ""}
    page = client.post("/settings/scoring/preview", form)
    assert page.text.count("Nobody would move.") == 3, "the settings in force change nothing"
    page = client.post(
        "/settings/scoring/preview", {**form, "new_days": "1", "active_days": "2", "reactivated_days": "2"}
    )
    assert "would move" in page.text
    assert "Dormant" in page.text
    page = client.post("/settings/scoring/preview", {**form, "active_days": "many"})
    assert "Write a whole number." in page.text
    with shop.database.read() as session:
        assert load(session) == before


def test_the_cut_points_of_the_last_refresh_can_be_frozen(shop: Shop) -> None:
    client = shop.client()
    with shop.database.read() as session:
        latest = latest_refresh(session)
    assert latest is not None
    page = client.get("/settings/scoring?freeze=1").text
    for measure, points in latest.rfm["cut_points"].items():
        assert f'name="cut.{measure}" type="text" value="{", ".join(map(str, points))}"' in page
    with shop.database.read() as session:
        assert load(session).cut_points is None, "filled in, not saved"


def test_names_of_groups_are_the_marketers_and_never_two_alike(shop: Shop) -> None:
    client = shop.client()
    assert (
        client.post(
            "/settings/scoring/names", {"stage.dormant.en": "Fast asleep", "stage.dormant.zh": "深睡"}
        ).status_code
        == 303
    )
    assert "Fast asleep" in client.get("/segments/lifecycle").text
    assert "深睡" in shop.client(language="zh").get("/segments/lifecycle").text
    page = client.post("/settings/scoring/names", {"stage.dormant.en": "Churned"})
    assert page.status_code == 422
    assert "choose another title" in error_beside(page.text, "stage.churned.en")
    assert 'value="Churned"' in page.text
    assert client.post("/settings/scoring/names", {}).status_code == 303
    assert "Fast asleep" not in client.get("/segments/lifecycle").text


def test_an_api_key_is_shown_once_and_works_until_revoked(shop: Shop) -> None:
    client = shop.client()
    page = client.post("/settings/keys", {"name": "till", "scopes": "loyalty"})
    key = re.search(r'id="key">(hl_[^<]+)<', page.text)
    assert key is not None
    assert key.group(1) not in client.get("/settings/keys").text
    bearer = {"Authorization": f"Bearer {key.group(1)}"}
    assert (
        client.client.get("/api/v1/members/M0009/points", headers=bearer).status_code == 403
    )  # not its scope
    with shop.database.read() as session:
        key_id = session.scalars(sa.select(ApiKey.id)).one()
    client.post(f"/settings/keys/{key_id}/revoke")
    assert client.client.get("/api/v1/members/M0009/points", headers=bearer).status_code == 401
    assert client.post("/settings/keys", {"name": "till"}).status_code == 422


def test_a_new_user_gets_a_password_that_works(shop: Shop) -> None:
    client = shop.client()
    page = client.post("/settings/users", {"email": "new@example.com", "roles": "analyst"})
    password = re.search(r'id="password">([^<]+)<', page.text)
    assert password is not None
    shop.client(None).log_in("new@example.com", password.group(1))
    again = client.post(
        "/settings/users", {"email": "new@example.com", "roles": "analyst", "name": "Somebody"}
    )
    assert again.status_code == 422
    assert 'value="Somebody"' in again.text


def test_erasing_takes_the_typed_id_and_leaves_the_books(shop: Shop) -> None:
    client = shop.client()
    client.post("/members/9/erase", {"confirm": "M0001"})
    assert one(shop, sa.select(Member).where(Member.id == 9)).erased_at is None
    client.post("/members/9/erase", {"confirm": "M0008"})
    member = one(shop, sa.select(Member).where(Member.id == 9))
    assert (member.name, member.email, member.external_id) == (None, None, "M0008")
    with shop.database.read() as session:
        consents = session.scalar(sa.select(sa.func.count()).where(Consent.member_id == 9))
        reasons = set(session.scalars(sa.select(Suppression.reason)))
    assert (consents, reasons) == (0, {"erased"})  # in every package, and never written to again
    assert "was erased" in client.get("/members/9").text


def test_changes_are_in_the_audit_log(shop: Shop) -> None:
    client = shop.client()
    client.post("/channels/accounts/sms/resume")
    with shop.database.read() as session:
        row = session.scalars(sa.select(AuditEntry).order_by(AuditEntry.id.desc()).limit(1)).one()
    assert (row.actor, row.action, row.object_type, row.object_id) == (
        "admin@example.com",
        "channel.resume",
        "channel",
        "sms",
    )
    assert "Channel resumed" in client.get("/settings/audit?actor=admin@example.com").text


def test_a_preview_is_filled_in_for_the_member_who_was_asked_for(shop: Shop) -> None:
    client = shop.client()
    page = client.get("/campaigns/tea-week/preview?member=M0002")
    frame = re.search(r'src="(/channels/templates/1/preview\.html[^"]+)"', page.text)
    assert frame is not None
    assert "member=M0002" in frame.group(1)
    assert "张伟" in client.get(html.unescape(frame.group(1))).text
