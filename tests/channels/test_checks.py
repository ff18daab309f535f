"""The checks of a template, its links, and test messages."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import sqlalchemy as sa

from channels import checks, events, links, templates, trials
from channels.checks import DEFAULT_WORDS, Draft, Finding
from channels.delivery import run_delivery
from channels.models import Message, Template
from channels.render import MemberView, compile_content
from channels.sandbox import inbox
from core.db import Database
from core.errors import Conflict, InvalidInput
from core.models import AuditEntry, Member
from core.settings import Settings
from tests.channels.seed import NOW, add_members, add_template, enqueue, row, sandbox
from tests.conftest import count

PHONE = "+8613800138000"
LEAVE = '<a href="{{ unsubscribe_url }}">x</a>'


def draft(
    settings: Settings, channel: str, purpose: str = "marketing", language: str = "en", **fields: Any
) -> Draft:
    job = templates.sample_job(settings, channel, purpose, language, NOW)
    shown = compile_content(channel, purpose, language, fields).preview(settings, job)
    return Draft(channel, purpose, language, fields, shown, job.address)


def codes_of(found: list[Finding]) -> list[str]:
    return [one.code for one in found]


def test_a_template_without_faults_has_no_findings(settings: Settings) -> None:
    html = f'<img src="a.png" alt="A"><p>{{{{ member.name }}}}</p>{LEAVE}'
    found = checks.findings(
        settings,
        draft(settings, "email", subject="Hello", html=html),
        [MemberView(1, "a", name="Ann")],
        DEFAULT_WORDS,
    )
    assert found == []


def test_what_members_lack_is_counted(settings: Settings) -> None:
    html = (
        "{{ member.name }} {{ member.attributes.size }} {{ member.attributes['colour'] }} "
        f"{{{{ member.city|default('x') }}}}{{% if member.province %}}{{{{ member.province }}}}{{% endif %}}{LEAVE}"
    )
    members = [
        MemberView(1, "a", name="Ann", attributes={"size": 4, "colour": "red"}),
        MemberView(2, "b", attributes={"colour": "red"}),
        MemberView(3, "c", name=""),
    ]
    found = checks.findings(settings, draft(settings, "email", subject="Hi", html=html), members, {})
    told = {one.values["name"]: (one.level, one.code, one.values["lacking"]) for one in found}
    assert told == {
        "member.attributes.size": (checks.ERROR, "attribute_missing", 2),
        "member.attributes.colour": (checks.ERROR, "attribute_missing", 1),
        "member.name": (checks.WARNING, "variable_empty", 2),
    }
    assert [one.level for one in found] == [checks.ERROR, checks.ERROR, checks.WARNING]


def test_an_email_that_gmail_clips_and_images_without_text_are_told(settings: Settings) -> None:
    html = (
        f'<p>{"x" * checks.GMAIL_CLIPS}</p><img src="https://s.example/a.png"><img src="b.png" alt="">{LEAVE}'
    )
    found = checks.findings(settings, draft(settings, "email", subject="Hi", html=html), [], {})
    assert codes_of(found) == ["clipped", "no_alt"]
    assert found[0].values["kb"] == 102
    assert found[1].values == {"image": "https://s.example/a.png"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("全网最低价，国家级品质", ["国家级", "全网最低"]),
        ("您最近看过的商品，第一时间发货", []),
        ("最近最好的一次", ["最好"]),
        ("今天是最", ["最"]),
    ],
)
def test_chinese_words_are_found_longest_first_and_exceptions_hold(text: str, words: list[str]) -> None:
    assert checks.words_in(text, DEFAULT_WORDS["zh"]) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [("The BEST shop", ["best"]), ("bestowed", []), ("Best regards, Ann", []), ("We are #1!", ["#1"])],
)
def test_english_words_are_whole_words(text: str, words: list[str]) -> None:
    assert checks.words_in(text, DEFAULT_WORDS["en"]) == words


def test_words_are_looked_for_in_what_a_reader_sees_of_marketing_only(settings: Settings) -> None:
    html = f'<style>.best{{color:red}}</style><p class="best">fine</p>{LEAVE}'
    fields = {"subject": "Fine", "html": html}
    assert checks.findings(settings, draft(settings, "email", **fields), [], DEFAULT_WORDS) == []
    fields["subject"] = "The best"
    found = checks.findings(settings, draft(settings, "email", **fields), [], DEFAULT_WORDS)
    assert [(one.code, one.values["word"]) for one in found] == [("banned_word", "best")]
    found = checks.findings(settings, draft(settings, "email", "transactional", **fields), [], DEFAULT_WORDS)
    assert found == []


def test_the_kept_list_replaces_a_language_and_leaves_an_audit_row(db: Database) -> None:
    with db.write() as session:
        checks.save_words(session, {"en": ["cheap", "cheap"]}, "ann", NOW)
    with db.read() as session:
        assert checks.load_words(session)["en"] == ("cheap",)
        assert checks.load_words(session)["zh"] == DEFAULT_WORDS["zh"]
        assert session.scalars(sa.select(AuditEntry.object_id)).all() == [checks.WORDS_KEY]
    with pytest.raises(InvalidInput), db.write() as session:
        checks.save_words(session, {"en": ["x" * 61]}, "ann", NOW)


def test_sms_length_and_the_way_out_are_checked(settings: Settings) -> None:
    sms = {"provider_template": "SMS_1", "language": "zh_CN"}
    good = draft(settings, "sms", text="您的券到了，拒收请回复R", **sms)
    assert checks.findings(settings, good, [], {}) == []
    long = draft(settings, "sms", text="好" * 70, **sms)
    found = checks.findings(settings, long, [], {})
    assert codes_of(found) == ["sms_segments", "no_opt_out"]
    assert found[0].values == {"segments": 2, "units": 74}
    assert codes_of(checks.findings(settings, draft(settings, "sms", text="好" * 498, **sms), [], {})) == [
        "sms_too_long",
        "no_opt_out",
    ]
    assert checks.findings(settings, draft(settings, "sms", "transactional", text="码", **sms), [], {}) == []


def test_a_wechat_value_that_would_be_cut_is_told(settings: Settings) -> None:
    long = "字" * 19
    found = checks.findings(
        settings,
        draft(
            settings,
            "wechat",
            provider_template="T",
            data={"thing1": long + "{{ member.name }}", "thing2": "短"},
        ),
        [],
        {},
    )
    assert [(one.code, one.values["name"], one.values["limit"]) for one in found] == [
        ("wechat_cut", "thing1", 20)
    ]


# --- links -----------------------------------------------------------------------


class _Site(BaseHTTPRequestHandler):
    asked: list[tuple[str, str]] = []

    def _answer(self) -> None:
        _Site.asked.append((self.command, self.path))
        code = {"/gone": 404, "/moved": 302, "/nohead": 405 if self.command == "HEAD" else 200}.get(
            self.path, 200
        )
        self.send_response(code)
        if code == 302:
            self.send_header("Location", "http://169.254.169.254/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD = _answer

    def log_message(self, *_args: Any) -> None:
        """Silent."""


@contextmanager
def site() -> Iterator[str]:
    _Site.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Site)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_shops_own_links_are_asked_by_head_and_then_by_get(settings: Settings) -> None:
    with site() as base:
        own = settings.model_copy(update={"shop_url": base})
        found = links.check_links(
            own,
            [f"{base}/", f"{base}/gone", f"{base}/nohead", f"{base}/moved", f"{base}/{{{{ coupon.code }}}}"],
        )
    assert [(one.state, one.status) for one in found] == [
        ("ok", 200),
        ("dead", 404),
        ("ok", 200),
        ("ok", 302),
        ("skipped", None),
    ]
    assert ("GET", "/nohead") in _Site.asked
    assert ("GET", "/") not in _Site.asked


def test_private_addresses_are_never_asked_however_they_are_written(settings: Settings) -> None:
    with site() as base:
        port = base.rpartition(":")[2]
        own = settings.model_copy(update={"shop_url": "http://127.0.0.1:9/"})
        hosts = ("127.0.0.1", "localhost", "[::1]", "2130706433", "[::ffff:127.0.0.1]", "0.0.0.0")
        found = links.check_links(own, [f"http://{host}:{port}/" for host in hosts])
        assert _Site.asked == []
    assert {one.state for one in found} <= {"private", "unreachable"}
    assert found[0].state == found[1].state == "private"


def test_links_are_taken_from_the_source_once_each() -> None:
    html = '<a href="https://a.example/">x</a><a href=" https://a.example/ ">y</a><a href="mailto:x@y">z</a>'
    assert links.links_of(html, ["https://b.example"]) == ["https://a.example/", "https://b.example"]


# --- test messages ---------------------------------------------------------------


def test_a_test_is_a_transactional_message_to_a_made_up_member(db: Database, settings: Settings) -> None:
    template, _version = add_template(db, settings, "email")
    with db.read() as session:
        language = next(iter(templates.contents_of(session, template)))
    with db.write() as session:
        first = trials.send(session, template, language, " Ann@Example.com ", "boss", NOW)
        second = trials.send(session, template, language, "ann@example.com", "boss", NOW)
    assert first != second
    with db.read() as session:
        message = session.get_one(Message, first)
        assert (message.source_kind, message.purpose, message.state) == ("test", "transactional", "queued")
        assert message.expires_at == NOW + trials.LIFE
        member = session.scalars(sa.select(Member).where(Member.source == trials.SOURCE)).one()
        assert (member.email, member.locale) == ("ann@example.com", language)
        entry = session.scalars(sa.select(AuditEntry).where(AuditEntry.action == "test").limit(1)).one()
        assert entry.detail["to"] == "a***@example.com"
        assert "ann@" not in str(entry.detail)


def test_a_user_sends_ten_tests_a_minute(db: Database, settings: Settings) -> None:
    template, _version = add_template(db, settings, "sms")
    with db.read() as session:
        language = next(iter(templates.contents_of(session, template)))
    with db.write() as session:
        for _ in range(trials.MAX_A_MINUTE):
            trials.send(session, template, language, PHONE, "boss", NOW)
    with pytest.raises(Conflict), db.write() as session:
        trials.send(session, template, language, PHONE, "boss", NOW)
    with db.write() as session:
        trials.send(session, template, language, PHONE, "ann", NOW)
        trials.send(session, template, language, PHONE, "boss", NOW + timedelta(minutes=1))
        sent = session.scalar(sa.select(sa.func.count()).select_from(Message))
    assert sent == trials.MAX_A_MINUTE + 2


def test_ten_tests_a_minute_are_ten_even_when_all_are_pressed_at_once(
    pg_db: Database, settings: Settings
) -> None:
    template, _version = add_template(pg_db, settings, "sms")
    with pg_db.write() as session:
        trials.send(session, template, "zh_CN", PHONE, "boss", NOW - timedelta(hours=1))
    gate = threading.Barrier(16)

    def press(number: int) -> bool:
        gate.wait()
        try:
            with pg_db.write() as session:
                trials.send(session, template, "zh_CN", PHONE, "boss", NOW)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(press, range(16))) == trials.MAX_A_MINUTE
    assert count(pg_db, "messages") == trials.MAX_A_MINUTE + 1
    assert count(pg_db, "members") == 1


@pytest.mark.parametrize(("channel", "address"), [("email", "nobody"), ("sms", "12"), ("wechat", " ")])
def test_an_address_that_is_none_is_refused(
    db: Database, settings: Settings, channel: str, address: str
) -> None:
    template, _version = add_template(db, settings, channel)
    with pytest.raises(InvalidInput) as refused, db.write() as session:
        language = next(iter(templates.contents_of(session, template)))
        trials.send(session, template, language, address, "boss", NOW)
    assert refused.value.field == "address"


def test_a_test_lands_in_the_sandbox_and_a_click_on_unsubscribe_concerns_no_customer(
    db: Database, settings: Settings
) -> None:
    add_members(db, [50], email="ann@example.com")
    template, _version = add_template(db, settings, "email")
    with db.write() as session:
        number = trials.send(session, template, "zh_CN", "ann@example.com", "boss", NOW)
    with sandbox(db, settings) as (found, _):
        assert run_delivery(db, found, now=lambda: NOW).sent == 1
        assert [one.title for one in inbox.list_messages(found, to="ann@example.com")] == [
            "王小明，我们想你了"
        ]
    with db.write() as session:
        assert events.unsubscribe(session, number, NOW, "link")
    with db.read() as session:
        assert events.is_granted(session, 50, "email")


def test_a_provider_that_pauses_a_channel_leaves_one_audit_row(db: Database, settings: Settings) -> None:
    add_members(db, range(1, 4), phone="+8613800000003")
    template = add_template(db, settings, "sms")
    enqueue(db, *[row(n, "sms", template) for n in range(1, 4)])
    with sandbox(db, settings) as (found, _):
        run_delivery(db, found, now=lambda: NOW, batch=1)
        run_delivery(db, found, now=lambda: NOW, batch=1)
    with db.read() as session:
        entry = session.scalars(sa.select(AuditEntry).where(AuditEntry.action == "channel.pause")).one()
    assert (entry.actor, entry.object_type, entry.object_id) == ("aliyun", "channel", "sms")
    assert "isv.AMOUNT_NOT_ENOUGH" in entry.detail["reason"]


def test_a_wecom_text_that_differs_by_member_is_named_with_its_place(settings: Settings) -> None:
    link = {"title": "Spring", "url": "{{ shop.url }}"}
    personal = draft(settings, "wecom", text="Hi {{ member.name }}", link=link)
    assert [(one.code, one.field) for one in checks.findings(settings, personal, [], {})] == [
        ("wecom_tasks", "en.text"),
        ("wecom_tasks", "en.link.url"),
    ]
    same = draft(settings, "wecom", text="Hi", link={"title": "Spring", "url": "https://shop.example"})
    assert checks.findings(settings, same, [], {}) == []


def test_a_test_of_what_is_typed_sends_just_that_and_saves_nothing(db: Database, settings: Settings) -> None:
    template, version = add_template(db, settings, "email")
    fields = {"subject": "Typed {{ member.name }}", "html": "<p>{{ coupon.code }} {{ unsubscribe_url }}</p>"}
    with db.write() as session:
        draft = trials.Draft("email", "marketing", "en", fields, template)
        old = trials.send_draft(session, settings, draft, "ann@example.com", "boss", NOW)
        fresh = trials.Draft(
            "sms",
            "marketing",
            "zh_CN",
            {
                "text": "新的 {{ member.name }} 拒收请回复R",
                "provider_template": "SMS_1",
                "params": {"name": "{{ member.name }}"},
            },
        )
        trials.send_draft(session, settings, fresh, PHONE, "boss", NOW)
        assert session.get_one(Message, old).source_kind == "test"
    with sandbox(db, settings) as (found, _):
        assert run_delivery(db, found, now=lambda: NOW).sent == 2
        (mail,) = inbox.list_messages(found, to="ann@example.com")
        assert mail.title == "Typed Alex Sample"
        (sms,) = inbox.list_messages(found, "sms")
        assert "王小明" in str(sms)
    with db.read() as session:
        known = session.get_one(Template, template)
        assert (known.version, list(templates.contents_of(session, template))) == (version, ["zh_CN"])
        stand_in = session.scalars(sa.select(Template).where(Template.id != template)).one()
        assert (stand_in.version, stand_in.archived_at) == (0, NOW)
    assert count(db, "template_contents") == 1


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"subject": "x", "html": "<p>{{ nobody.knows }}</p>"}, "en.html"),
        ({"subject": "x", "html": "<p>no way to leave</p>"}, "en.html"),
    ],
)
def test_what_a_save_refuses_is_not_sent_as_a_test_either(
    sqlite_db: Database, settings: Settings, fields: dict[str, str], place: str
) -> None:
    with pytest.raises(InvalidInput) as refused, sqlite_db.write() as session:
        draft = trials.Draft("email", "marketing", "en", fields)
        trials.send_draft(session, settings, draft, "ann@example.com", "boss", NOW)
    assert refused.value.field == place
    assert count(sqlite_db, "messages") == 0


def test_only_a_test_is_filled_in_from_its_context(settings: Settings) -> None:
    context = {"draft": {"purpose": "marketing", "language": "en", "fields": {"title": "x"}}}
    assert trials.draft_content("webhook", "api", context) is None
    assert trials.draft_content("webhook", "test", context) is not None
