"""The template editor: preview, checks, languages, tests, versions, snippets and words."""

from __future__ import annotations

import html as html_text
import re
from typing import Any

import sqlalchemy as sa

from channels import snippets, templates, trials
from channels.models import Message, Template, TemplateContent
from core.models import AuditEntry, Member
from tests.web import seed
from tests.web.conftest import Shop
from web.console import template_editor

LEAVE = '<a href="{{ unsubscribe_url }}">x</a>'
MAIL = {
    "channel": "email",
    "purpose": "marketing",
    "preview": "en",
    "en.subject": "Hi {{ member.name }}",
    "en.preheader": "For {{ member.city }}",
    "en.html": f"<h1>Dear {{{{ member.name }}}}</h1>{LEAVE}",
}
LIVE = "/channels/templates/live"


def one(shop: Shop, query: Any) -> Any:
    with shop.database.read() as session:
        return session.scalars(query).first()


def count(shop: Shop, table: Any) -> int:
    with shop.database.read() as session:
        return session.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def test_the_panel_shows_the_inbox_line_and_saves_nothing(shop: Shop) -> None:
    page = shop.client().post(LIVE, MAIL).text
    assert "<strong>Hi Alex Sample</strong>" in page
    assert "For Shanghai" in page
    assert "made-up member" in page
    assert count(shop, Template) == 2


def test_a_member_is_found_masked_and_the_preview_has_their_own_data(shop: Shop) -> None:
    client = shop.client("marketer@example.com")
    found = client.get("/channels/templates/members?q=member1@example.com").text
    assert "m***@example.com" in found
    assert "member1@" not in found
    assert "+8613800130001" not in found
    member = one(shop, sa.select(Member).where(Member.external_id == "M0001"))
    assert f'data-member="{member.id}"' in found
    page = client.post(LIVE, {**MAIL, "member": str(member.id)}).text
    assert f"<strong>Hi {member.name}</strong>" in page
    assert "coupon, points and products are made up" in page
    frame = client.post("/channels/templates/preview", {**MAIL, "member": str(member.id)}).text
    assert f"Dear {member.name}" in frame
    assert "Nobody." in client.get("/channels/templates/members?q=nobody-at-all").text


def test_an_error_names_its_field_and_its_line(shop: Shop) -> None:
    page = shop.client().post(LIVE, {**MAIL, "en.html": "<p>\n{{ member.nme }}</p>" + LEAVE}).text
    assert re.search(r'data-field="en\.html">[^<]*line 2', page)
    page = shop.client().post(LIVE, {**MAIL, "en.html": "<p>Hi</p>"}).text
    assert 'data-field="en.html"' in page
    assert "unsubscribe_url" in page


def test_the_checks_stand_in_the_panel_in_both_languages(shop: Shop) -> None:
    data = {
        **MAIL,
        "en.html": f'<img src="a.png">{{{{ member.attributes.shoes }}}}{LEAVE}',
        "en.subject": "Best",
    }
    page = html_text.unescape(shop.client().post(LIVE, data).text)
    assert "member.attributes.shoes is missing for 200 of 200 members" in page
    assert "“best” is on the list" in page
    assert "An image has no text (alt)" in page
    assert page.index("shoes") < page.index("no text (alt)")


def test_an_sms_shows_its_bubble_its_count_and_its_cost(shop: Shop) -> None:
    data = {
        "channel": "sms",
        "purpose": "marketing",
        "preview": "zh_CN",
        "zh_CN.text": "您的券 {{ coupon.code }}",
        "zh_CN.provider_template": "aliyun=SMS_1 tencent=2",
    }
    page = shop.client().post(LIVE, data).text
    assert "【回流】您的券 SAMPLE-2345-6789" in page
    assert "¥50.00" in page
    assert "拒收请回复R" in page
    assert "must say how to leave" in page
    editor = shop.client().get("/channels/templates/new/sms").text
    assert "aliyun=SMS_1001 tencent=1110" in editor
    assert "named 1, 2, …" in editor


def test_an_empty_language_is_no_error(shop: Shop) -> None:
    data = {**MAIL, "preview": "zh_CN"}
    assert (
        "Nothing is written in this language yet."
        in shop.client().post("/channels/templates/preview", data).text
    )
    assert "Nothing is written in this language yet." in shop.client().post(LIVE, data).text


def test_the_dark_frame_has_the_messages_own_dark_rules() -> None:
    dark = template_editor.as_dark(
        "<style>@media (prefers-color-scheme:dark){a{color:red}}@media (Prefers-Color-Scheme: light){b{}}</style>"
    )
    assert "color-scheme:dark" in dark
    assert "@media (min-width: 0){a{color:red}}" in dark
    assert "@media (max-width: 0){b{}}" in dark


def test_the_frame_is_sandboxed_and_takes_the_look(shop: Shop) -> None:
    answer = shop.client().post("/channels/templates/preview", {**MAIL, "look": "dark"})
    assert "color-scheme:dark" in answer.text
    assert "script-src" not in answer.headers["Content-Security-Policy"]
    assert "sandbox" in answer.headers["Content-Security-Policy"]


def test_adding_a_language_keeps_what_was_typed_and_saves_nothing(shop: Shop) -> None:
    data = {"add": "ja", "language": "en", "en.subject": "Half a though", "en.html": "<p>"}
    page = shop.client().post("/channels/templates/1/edit", data)
    assert page.status_code == 200
    assert 'name="ja.subject"' in page.text
    assert 'value="Half a though"' in page.text
    assert one(shop, sa.select(Template.version).where(Template.id == 1)) == 1


def test_a_language_that_a_script_saved_stays_where_the_form_does_not_send_it(shop: Shop) -> None:
    with shop.database.write() as session:
        contents = templates.written_of(session, 1)
        contents["fr"] = contents["en"]
        templates.save(
            session,
            shop.settings,
            name="win-back-mail",
            channel="email",
            purpose="marketing",
            contents=contents,
            by="script",
            now=seed.NOW,
        )
    data = {"en.subject": "New", "en.html": f"<p>New</p>{LEAVE}"}
    assert shop.client().post("/channels/templates/1/edit", data).status_code == 303
    with shop.database.read() as session:
        saved = templates.written_of(session, 1)
    assert sorted(saved) == ["en", "fr"]
    assert saved["en"]["subject"] == "New"


def test_a_test_message_is_queued_audited_and_limited(shop: Shop) -> None:
    client = shop.client("marketer@example.com")
    data = {"address": "marketer@example.com", "language": "en"}
    answer = client.post("/channels/templates/1/test", data)
    message = one(shop, sa.select(Message).where(Message.source_kind == "test"))
    assert answer.headers["Location"] == f"/channels/outbox/{message.id}"
    assert one(shop, sa.select(AuditEntry).where(AuditEntry.action == "test")).actor == "marketer@example.com"
    page = client.get(f"/channels/outbox/{message.id}").text
    assert "not needed: transactional" in page
    for _ in range(trials.MAX_A_MINUTE - 1):
        client.post("/channels/templates/1/test", data)
    assert "wait a minute" in client.post("/channels/templates/1/test", data, follow_redirects=True).text
    assert count(shop, sa.select(Message).where(Message.source_kind == "test").subquery()) == 10
    answer = client.post("/channels/templates/1/test", {**data, "address": "nobody"}, follow_redirects=True)
    assert "not an e-mail address" in answer.text


def test_a_test_of_what_is_typed_is_sent_unsaved(shop: Shop) -> None:
    client = shop.client("marketer@example.com")
    assert "try-form" in client.get("/channels/templates/1/edit").text
    before = count(shop, TemplateContent)
    typed = {**MAIL, "address": "marketer@example.com", "en.subject": "Only typed {{ member.name }}"}
    page = client.post("/channels/templates/1/draft/test", typed).text
    message = one(shop, sa.select(Message).where(Message.source_kind == "test"))
    assert f"/channels/outbox/{message.id}" in page
    shown = client.get(f"/channels/outbox/{message.id}").text
    assert "Only typed Alex Sample" in shown
    assert "not saved" in shown
    assert count(shop, TemplateContent) == before
    assert one(shop, sa.select(AuditEntry).where(AuditEntry.action == "test")).detail["draft"] is True
    new = client.post("/channels/templates/new/email/test", {**typed, "name": ""}).text
    assert "Queued" in new
    assert count(shop, sa.select(Message).where(Message.source_kind == "test").subquery()) == 2
    assert "huiliu-unsaved" not in client.get("/channels?archived=1").text


def test_a_test_of_what_is_typed_says_what_is_wrong_and_sends_nothing(shop: Shop) -> None:
    client = shop.client("marketer@example.com")
    typed = {**MAIL, "address": "marketer@example.com"}
    path = "/channels/templates/1/draft/test"
    assert "is-bad" in client.post(path, {**typed, "en.html": "<p>{{ nobody.knows }}</p>"}).text
    assert "not an e-mail address" in client.post(path, {**typed, "address": "nobody"}).text
    assert "Nothing is written" in client.post(path, {**typed, "preview": "fr"}).text
    assert client.post("/channels/templates/new/pigeon/test", typed).status_code == 404
    assert shop.client("analyst@example.com").post(path, typed).status_code == 403
    assert count(shop, sa.select(Message).where(Message.source_kind == "test").subquery()) == 0


def test_a_version_shows_what_changed_and_an_old_one_is_restored_as_a_new_one(shop: Shop) -> None:
    client = shop.client()
    client.post("/channels/templates/1/edit", {"en.subject": "Second", "en.html": f"<p>Two</p>{LEAVE}"})
    page = client.get("/channels/templates/1/versions/2").text
    assert '<li class="diff-added">' in page
    assert "Second" in page
    assert "a coupon waits for you" in page
    answer = client.post("/channels/templates/1/versions/1/restore")
    assert answer.headers["Location"] == "/channels/templates/1"
    with shop.database.read() as session:
        assert session.get_one(Template, 1).version == 3
        assert templates.written_of(session, 1, 3) == templates.written_of(session, 1, 1)
        by = session.scalars(
            sa.select(TemplateContent.changed_by).where(TemplateContent.version == 3)
        ).first()
    assert by == "admin@example.com"
    assert client.get("/channels/templates/1/versions/9").status_code == 404


def test_a_snippet_is_written_used_changed_and_renewed(shop: Shop) -> None:
    client = shop.client()
    assert client.post("/channels/snippets/new", {"name": "foot", "en.html": LEAVE}).status_code == 303
    again = client.post("/channels/snippets/new", {"name": "foot", "en.html": "other"})
    assert again.status_code == 422
    assert "other" in again.text
    data = {"en.subject": "S", "en.html": '<p>A</p>{{ snippet("foot") }}'}
    assert client.post("/channels/templates/1/edit", data).status_code == 303
    assert "{{ snippet(&#34;foot&#34;) }}" in client.get("/channels/templates/1/edit").text
    client.post("/channels/snippets/foot", {"en.html": LEAVE.replace(">x<", ">Bye<")})
    assert "has changed since" in client.get("/channels/templates/1").text
    assert "win-back-mail" in client.get("/channels/snippets/foot").text
    assert ">x<" in client.get("/channels/templates/1/preview.html?language=en").text
    client.post("/channels/snippets/foot/renew", {"template": "1"})
    assert ">Bye<" in client.get("/channels/templates/1/preview.html?language=en").text
    assert "has changed since" not in client.get("/channels/templates/1").text
    client.post("/channels/snippets/foot/archive")
    assert client.get("/channels/snippets/foot").status_code == 404
    with shop.database.read() as session:
        assert snippets.load(session) == {}


def test_the_list_of_words_is_kept_and_can_be_put_back(shop: Shop) -> None:
    client = shop.client()
    client.post("/channels/words", {"zh": "便宜", "en": "cheap\n!cheap talk"})
    page = html_text.unescape(client.post(LIVE, {**MAIL, "en.subject": "cheap best"}).text)
    assert "“cheap” is on the list" in page
    assert "“best”" not in page
    client.post("/channels/words", {"defaults": "1"})
    page = html_text.unescape(client.post(LIVE, {**MAIL, "en.subject": "cheap best"}).text)
    assert "“best” is on the list" in page
    assert "“cheap”" not in page


def test_links_are_asked_on_request_and_private_ones_are_refused(shop: Shop) -> None:
    data = {**MAIL, "en.html": f'<a href="http://10.0.0.1/x">a</a>{LEAVE}'}
    page = shop.client().post("/channels/templates/links", data).text
    assert "http://10.0.0.1/x is an address of a private network" in page


def test_every_new_page_reads_in_chinese_too(shop: Shop) -> None:
    client = shop.client(language="zh")
    for address in (
        "/channels/snippets",
        "/channels/snippets/new",
        "/channels/words",
        "/channels/templates/1/versions/1",
        "/channels/outbox/1",
        "/channels/accounts",
    ):
        assert client.get(address).status_code == 200, address
