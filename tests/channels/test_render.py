"""Templates: language, errors in words, limits, tracked links, and the e-mail as a mail program reads it."""

from __future__ import annotations

import email
import email.policy
import re
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels import jinja, mime, rewrite, templates, tracking
from channels.render import Job, MemberView, compile_content
from channels.transports.base import EmailPayload, SmsPayload, WechatPayload
from core.db import Database
from core.errors import InvalidInput
from core.settings import Settings
from tests.channels.seed import CONTEXT, EMAIL_FIELDS, NOW, SMS_FIELDS, WECHAT_FIELDS, add_template
from tests.conftest import count

UNSUBSCRIBE = '<a href="{{ unsubscribe_url }}">x</a>'


def job(settings: Settings, *, name: str | None = "李<雷>", **context: Any) -> Job:
    member = MemberView(1, "m1", name=name, city=None, attributes={"vip": True})
    return Job(5, "marketing", member, "a@example.com", {**CONTEXT, **context}, settings.zone, NOW)


def mail(settings: Settings, fields: dict[str, Any], one: Job | None = None) -> EmailMessage:
    content = compile_content("email", "marketing", "zh_CN", fields)
    payload = content.payload(settings, one or job(settings))
    assert isinstance(payload, EmailPayload)
    assert max(len(line) for line in payload.content.split(b"\r\n")) <= 78
    assert b"\n" not in payload.content.replace(b"\r\n", b"")
    message = email.message_from_bytes(payload.content, policy=email.policy.default)
    assert message.defects == []
    assert isinstance(message, EmailMessage)
    return message


def part(message: EmailMessage, kind: str) -> str:
    found = message.get_body((kind,))
    assert found is not None
    assert found.defects == []
    return str(found.get_content()).replace("\r\n", "\n")


def test_an_email_says_the_same_to_a_mail_program_as_to_the_console(settings: Settings) -> None:
    html = (
        "<html><body>{% for n in range(3) %}<p>第{{ n }}行 = {{ member.name }}…  \n"
        + "长" * 300
        + "</p>{% endfor %}\n.\nFrom here{% if points %}{{ points.balance }}{% endif %}"
        + f'<a href="https://s.example/?a=1&amp;c={{{{ coupon.code }}}}">go</a>{UNSUBSCRIBE}</body></html>'
    )
    fields = {
        "subject": "{{ member.name }}：{{ coupon.title }}" + "送" * 60,
        "html": html,
        "preheader": "看{{ coupon.code }}",
    }
    message = mail(settings, fields)
    shown = compile_content("email", "marketing", "zh_CN", fields).preview(settings, job(settings))
    assert message["subject"] == shown["subject"] == "李<雷>：20元券" + "送" * 60
    assert part(message, "html") == shown["html"]
    assert part(message, "plain") == shown["text"]
    assert "李&lt;雷&gt;" in shown["html"]
    assert "李<雷>" in shown["text"]
    assert shown["html"].count("<p>第") == 3


def test_the_headers_a_bulk_sender_needs(settings: Settings) -> None:
    message = mail(settings, EMAIL_FIELDS)
    again = mail(settings, EMAIL_FIELDS)
    assert message["message-id"] == again["message-id"]
    assert re.fullmatch(r"<5\.[0-9a-f]{12}@example\.com>", message["message-id"])
    url = message["list-unsubscribe"][1:-1]
    assert url.startswith("http://127.0.0.1:8080/u/")
    assert tracking.read_message(tracking.UNSUBSCRIBE, url.rsplit("/", 1)[1]) == 5
    assert message["list-unsubscribe-post"] == "List-Unsubscribe=One-Click"
    assert message["from"] == "Huiliu Shop <shop@example.com>"
    assert message["to"] == "a@example.com"
    assert message["date"].datetime == NOW


def test_transactional_email_carries_no_list_header(settings: Settings) -> None:
    content = compile_content("email", "transactional", "en", {"subject": "Receipt", "html": "<p>Thanks</p>"})
    one = job(settings)
    payload = content.payload(settings, Job(6, "transactional", one.member, one.address, {}, one.zone, NOW))
    assert isinstance(payload, EmailPayload)
    assert b"List-Unsubscribe" not in payload.content


def test_a_line_break_cannot_make_a_header(settings: Settings) -> None:
    with pytest.raises(InvalidInput, match="line break"):
        mail(
            settings,
            {**EMAIL_FIELDS, "subject": "Hi {{ member.name }}"},
            job(settings, name="a\r\nBcc: all@x.com"),
        )


@given(st.lists(st.text(alphabet=st.sampled_from("aé好😀 =.\t\n{x"), max_size=200), max_size=6))
def test_pieces_join_to_the_text_they_came_from(pieces: list[str]) -> None:
    import quopri

    encoded = "".join(mime.piece(text) for text in pieces)
    assert quopri.decodestring(encoded.encode()).decode().replace("\r\n", "\n") == "".join(pieces)
    assert all(len(line) <= 76 for line in encoded.split("\r\n"))
    assert not re.search(r"[ \t]\r\n", encoded)


@given(
    st.text(
        alphabet=st.characters(exclude_characters="\r\n\x00", exclude_categories=("Cs", "Cc")), max_size=300
    )
)
def test_a_subject_survives_its_encoding(text: str) -> None:
    text = text.strip()
    header = mime.header_text(text, "Subject")
    assert all(len(line) <= 78 for line in f"Subject: {header}".split("\r\n")) or text.isascii()
    parsed = email.message_from_string(f"Subject: {header}\r\n\r\n", policy=email.policy.compat32)
    decoded = "".join(
        piece.decode(charset or "ascii") if isinstance(piece, bytes) else piece
        for piece, charset in email.header.decode_header(parsed["subject"].replace("\r\n ", ""))
    )
    if not text.isascii():
        assert decoded == text


def test_plain_links_are_tracked_and_others_left_alone(settings: Settings) -> None:
    html = (
        '<a class="b" href="https://s.example/?a=1&amp;b={{ coupon.code }}">1</a><a href=\'http://x.example\'>2</a>'
        '<a href="mailto:a@b.c">3</a><a href="#top">4</a><a href="{{ unsubscribe_url }}">5</a>'
        '<a href="{{ member.attributes.site }}">6</a><img src="https://s.example/i.png">'
    )
    one = job(settings)
    attributes = {"site": "javascript:alert(1)"}
    member = MemberView(1, "m1", name="x", attributes=attributes)
    content = compile_content("email", "marketing", "en", {"subject": "s", "html": html})
    shown = content.preview(settings, Job(5, "marketing", member, "", one.context, one.zone, NOW))["html"]
    hrefs = re.findall(r"<a[^>]*href=[\"']([^\"']*)", shown)
    clicks = [tracking.read_click(href.rsplit("/", 1)[1]) for href in hrefs[:2]]
    assert clicks == [
        tracking.Click(5, "https://s.example/?a=1&b=ABCD-2345"),
        tracking.Click(5, "http://x.example"),
    ]
    assert hrefs[2:4] == ["mailto:a@b.c", "#top"]
    assert "/u/" in hrefs[4]
    assert hrefs[5] == "#"
    assert 'src="https://s.example/i.png"' in shown
    assert shown.count("/t/o/") == 1


def test_a_forged_or_swapped_token_opens_nothing() -> None:
    url = tracking.click_url("http://h", 7, "https://shop.example/")
    token = url.rsplit("/", 1)[1]
    assert tracking.read_click(token) == tracking.Click(7, "https://shop.example/")
    assert tracking.read_message(tracking.OPEN, token) is None
    assert tracking.read_click(token[:-1] + ("A" if token[-1] != "A" else "B")) is None
    assert tracking.read_click("rubbish") is None


def test_text_is_made_from_html(settings: Settings) -> None:
    html = (
        "<html><head><style>p {x}</style></head><body><h1>Hi {{ member.name }}</h1><p>a  b<br>c</p>"
        '{% if points %}<a href="{{ unsubscribe_url }}">leave</a>{% endif %}</body></html>'
    )
    assert (
        rewrite.text_of(html)
        == "Hi {{ member.name }}\n\na b\nc\n{% if points %}leave ({{ unsubscribe_url }}){% endif %}\n"
    )


@pytest.mark.parametrize(
    ("html", "line", "words"),
    [
        ("<p>\n{{ member.nmae }}", 2, "nmae"),
        ("<p>\n\n{{ memver.name }}", 3, "“memver” is not known"),
        ("{% if %}", 1, "Expected an expression"),
        ("{{ member.name.upper() }}", 1, "filter"),
        ("{{ ''.__class__ }}", 1, "__class__"),
        ("{% set a = 1 %}", 1, "cannot be used"),
        ("{% macro m() %}{% endmacro %}", 1, "cannot be used"),
        ("{% include 'x' %}", 1, "cannot be used"),
        ("{{ 'a' * 9 }}", 1, "cannot be used"),
        ("{{ 2 ** 9999 }}", 1, "cannot be used"),
        ("{{ member.name|pprint }}", 1, "pprint"),
        ("{% for a in range(9999) %}{% endfor %}", 1, "1,000"),
        (
            "{% for a in range(9) %}" * 3 + "{% endfor %}" * 3,
            1,
            "nested",
        ),
        (
            "{% for a in range(999) %}" * 2 + "{{ coupon.code }}" + "{% endfor %}" * 2,
            1,
            "500,000",
        ),
        ("{{ points.amuont }}", 1, "amuont"),
    ],
)
def test_what_a_marketer_gets_wrong_is_said_with_its_line(
    sqlite_db: Database, settings: Settings, html: str, line: int, words: str
) -> None:
    contents = {"zh_CN": EMAIL_FIELDS, "en": {"subject": "s", "html": html + UNSUBSCRIBE}}
    with sqlite_db.write() as session, pytest.raises(InvalidInput) as error:
        templates.save(
            session,
            settings,
            name="t",
            channel="email",
            purpose="marketing",
            contents=contents,
            by="b",
            now=NOW,
        )
    assert error.value.field == "en.html"
    assert str(error.value).startswith(f"en.html, line {line}: " if "500,000" not in words else "en.html")
    assert words in str(error.value)
    assert count(sqlite_db, "templates") == 0


def test_marketing_email_needs_a_way_to_leave(settings: Settings) -> None:
    with pytest.raises(InvalidInput, match="unsubscribe_url") as error:
        compile_content("email", "marketing", "en", {"subject": "s", "html": "<p>Hi</p>"})
    assert error.value.field == "en.html"


def test_missing_and_unknown_fields_are_named() -> None:
    with pytest.raises(InvalidInput) as error:
        compile_content("sms", "marketing", "en", {"text": "x"})
    assert error.value.field == "en.provider_template"
    with pytest.raises(InvalidInput) as error:
        compile_content("sms", "marketing", "en", {**SMS_FIELDS, "html": "x"})
    assert error.value.field == "en.html"


def test_a_version_is_kept_and_the_next_one_counts(db: Database, settings: Settings) -> None:
    first = add_template(db, settings, "sms")
    second = add_template(db, settings, "sms")
    assert (first[0], first[1], second[1]) == (second[0], 1, 2)
    with db.write() as session:
        assert len(templates.contents_of(session, first[0])) == 1
        with pytest.raises(InvalidInput, match="another name"):
            templates.save(
                session,
                settings,
                name="sms-marketing-0",
                channel="sms",
                purpose="transactional",
                contents={"en": SMS_FIELDS},
                by="b",
                now=NOW,
            )
        shown = templates.preview(session, settings, first[0], "en", now=NOW)
        assert (shown.language, shown.fields["text"]) == (
            "zh_CN",
            "王小明，券码SAMPLE-2345-6789，拒收请回复R",
        )


@pytest.mark.parametrize(
    ("available", "locale", "expected"),
    [
        (["en", "zh_CN", "zh_TW"], "zh-TW", "zh_TW"),
        (["en", "zh_CN"], "zh_HK", "zh_CN"),
        (["en", "zh"], "zh_CN", "zh"),
        (["de", "en_GB", "fr"], "ja", "en_GB"),
        (["de", "fr"], "ja", "de"),
        (["en", "zh_CN"], None, "zh_CN"),
        (["en", "zh_CN"], "EN-us", "en"),
    ],
)
def test_the_language_nearest_to_the_member(
    settings: Settings, available: list[str], locale: str | None, expected: str
) -> None:
    assert templates.choose_language(available, locale, settings) == expected


@pytest.mark.parametrize(
    ("available", "locale", "expected"),
    [
        (["en", "ja", "zh_CN"], "de", "ja"),
        (["en", "ja", "zh_CN"], None, "ja"),
        (["en", "ja", "zh_CN"], "zh_TW", "zh_CN"),
        (["en_GB", "zh_CN"], "de", "en_GB"),
        (["fr", "zh_CN"], None, "fr"),
    ],
)
def test_a_shop_says_in_which_order_languages_stand_in(
    settings: Settings, available: list[str], locale: str | None, expected: str
) -> None:
    ordered = settings.model_copy(update={"shop_languages": "ja en"})
    assert templates.choose_language(available, locale, ordered) == expected


def test_money_and_dates_read_as_the_language_writes_them(settings: Settings) -> None:
    at = datetime(2026, 1, 31, 16, 30, tzinfo=UTC)
    fields = {
        **SMS_FIELDS,
        "params": {},
        "text": "{{ coupon.amount|money }} {{ coupon.valid_until|date }} {{ member.city }}!",
    }
    one = job(settings, coupon={"amount": 123450, "valid_until": at.isoformat()})
    for language, expected in (("zh_CN", "¥1,234.50 2026年2月1日 !"), ("en_US", "CN¥1,234.50 Feb 1, 2026 !")):
        payload = compile_content("sms", "marketing", language, fields).payload(settings, one)
        assert isinstance(payload, SmsPayload)
        assert payload.text == expected


def test_wechat_data_and_page(settings: Settings) -> None:
    payload = compile_content("wechat", "marketing", "zh_CN", WECHAT_FIELDS).payload(settings, job(settings))
    assert isinstance(payload, WechatPayload)
    assert payload.data == {"first": "李<雷>，你好", "code": "ABCD-2345"}
    assert tracking.read_click(payload.url.rsplit("/", 1)[1]) == tracking.Click(5, "https://shop.example/wx")


def test_every_filter_named_to_marketers_exists() -> None:
    environment = jinja.Environment(html=False)
    assert jinja.node_filters() <= environment.filters.keys()
