"""Inline styles, MJML, files, and how they look to a mail program."""

from __future__ import annotations

import base64
import email.policy
from email.message import EmailMessage
from email.parser import BytesParser
from typing import Any

import pytest

from channels import attachments, markup
from channels.delivery import run_delivery
from channels.render import EmailContent, Job, MemberView, compile_content
from channels.transports.base import EmailPayload
from core.db import Database
from core.errors import InvalidInput
from core.settings import Settings
from tests.channels.seed import CONTEXT, NOW, add_members, add_template, enqueue, row
from tests.channels.smtp import sink
from tests.channels.test_smtp_faults import counts, pointed

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(200)).decode()
PDF = base64.b64encode(b"%PDF-1.4\n" + bytes(5000)).decode()


def mail(settings: Settings, **fields: Any) -> EmailMessage:
    """The message as a mail program reads it."""
    content = compile_content("email", "transactional", "zh_CN", {"subject": "x", **fields})
    assert isinstance(content, EmailContent)
    job = Job(
        1,
        "transactional",
        MemberView(1, "m1", name="张三 <b>"),
        "m1@example.com",
        CONTEXT,
        settings.zone,
        NOW,
    )
    payload = content.payload(settings, job)
    assert isinstance(payload, EmailPayload)
    assert all(len(line) <= 998 for line in payload.whole.split(b"\r\n"))
    found = BytesParser(policy=email.policy.default).parsebytes(payload.whole)
    assert isinstance(found, EmailMessage)
    assert [part.defects for part in found.walk()] == [[] for _ in found.walk()]
    return found


def html_of(message: EmailMessage) -> str:
    part = message.get_body(("html",))
    assert part is not None
    return str(part.get_content())


def test_styles_are_put_inline_and_expressions_survive(settings: Settings) -> None:
    html = (
        "<html><head><style>td { color: red } .big { font-size: 20px } @media (max-width: 600px) { td { color: blue } }"
        "</style></head><body><table>{% for n in range(3) %}<tr><td class=\"big\">{{ n if n > 1 else 'a&b' }}</td></tr>"
        '{% endfor %}</table><a href="https://shop.example/?a=1&amp;m={{ member.external_id|urlencode }}">'
        "{{ member.name }}</a></body></html>"
    )
    found = html_of(mail(settings, html=html))
    assert found.count('style="color: red;font-size: 20px') == 3
    assert "@media (max-width: 600px)" in found
    assert "张三 &lt;b&gt;" in found
    assert "a&amp;b" in found
    assert ">2<" in found
    assert "/t/c/" in found, "links are tracked after all"


def test_html_without_styles_is_left_as_it_was_written() -> None:
    source = "<p>{{ member.name }}<br>unclosed <td>"
    assert markup.inlined(source, "html") == source


def test_conditions_inside_an_attribute_are_kept() -> None:
    style = "<style>p { color: red }</style>"
    kept = markup.inlined(f'{style}<p class="{{% if coupon %}}a{{% endif %}}">x</p>', "html")
    assert 'class="{% if coupon %}a{% endif %}"' in kept
    assert 'style="color: red' in kept


def test_a_file_of_styles_elsewhere_is_never_fetched() -> None:
    source = '<link rel="stylesheet" href="http://127.0.0.1:1/x.css"><style>p{color:red}</style><p>x</p>'
    assert "http://127.0.0.1:1/x.css" in markup.inlined(source, "html")


MJML = (
    "<mjml><mj-head><mj-preview>hello</mj-preview></mj-head><mj-body><mj-section><mj-column>"
    "<mj-text>{{ member.name }}{% if coupon %} {{ coupon.code }}{% endif %}</mj-text>"
    '<mj-button href="https://shop.example/p">看看</mj-button>'
    '<mj-text><a href="{{ unsubscribe_url }}">退订</a></mj-text>'
    "</mj-column></mj-section></mj-body></mjml>"
)


def test_mjml_becomes_html_with_its_expressions(settings: Settings) -> None:
    found = mail(settings, mjml=MJML)
    html = html_of(found)
    assert "张三 &lt;b&gt; ABCD-2345" in html
    assert "<mj-" not in html
    assert html.count("/t/c/") == 1
    text = found.get_body(("plain",))
    assert text is not None
    assert "张三 <b> ABCD-2345" in text.get_content()


def test_broken_mjml_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match=r"en\.mjml"):
        compile_content("email", "transactional", "en", {"subject": "x", "mjml": "<mjml><mj-bod"})
    with pytest.raises(InvalidInput, match=r"en\.mjml has no"):
        compile_content(
            "email", "marketing", "en", {"subject": "x", "mjml": "<mjml><mj-body></mj-body></mjml>"}
        )


def test_files_and_inline_images(settings: Settings) -> None:
    files = [
        {"name": "logo.png", "type": "image/png", "data": PNG, "inline": True},
        {"name": "terms.pdf", "type": "application/pdf", "data": PDF},
    ]
    found = mail(settings, html='<img src="cid:logo.png"><p>{{ member.name }}</p>', attachments=files)
    assert [part.get_content_type() for part in found.walk()] == [
        "multipart/mixed", "multipart/related", "multipart/alternative", "text/plain", "text/html", "image/png",
        "application/pdf",
    ]  # fmt: skip
    image, pdf = list(found.walk())[5:]
    assert image["Content-ID"] == "<logo.png@files.huiliu>"
    assert 'src="cid:logo.png@files.huiliu"' in html_of(found)
    assert (pdf.get_filename(), pdf.get_content_disposition()) == ("terms.pdf", "attachment")
    assert pdf.get_payload(decode=True) == base64.b64decode(PDF)
    only = mail(settings, html="<p>x</p>", attachments=files[1:])
    assert [part.get_content_type() for part in only.walk()][:2] == [
        "multipart/mixed",
        "multipart/alternative",
    ]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([{"name": "../x", "type": "image/png", "data": PNG}], "needs a name"),
        ([{"name": "x\r\nX: y", "type": "image/png", "data": PNG}], "needs a name"),
        ([{"name": "x.exe", "type": "application/x-msdownload", "data": PNG}], "type must be one of"),
        ([{"name": "x.pdf", "type": "application/pdf", "data": PDF, "inline": True}], "only images"),
        ([{"name": "x.png", "type": "image/png", "data": "???"}], "not base64"),
        ([{"name": "x.png", "type": "image/png", "data": PNG}] * 2, "two files"),
        ([{"name": f"x{n}.png", "type": "image/png", "data": PNG} for n in range(11)], "at most 10"),
        ("x.png", "at most 10"),
        ([{"name": "x.png", "type": "image/png", "data": base64.b64encode(bytes(3 * 1024 * 1024 + 1)).decode()}], "MB"),
    ],
)  # fmt: skip
def test_files_are_checked(files: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        attachments.compiled(files, "zh_CN.attachments")


def test_a_batch_with_a_large_file_holds_it_once(settings: Settings) -> None:
    data = base64.b64encode(bytes(2_000_000)).decode()
    files = [{"name": "a.pdf", "type": "application/pdf", "data": data}]
    content = compile_content(
        "email", "transactional", "en", {"subject": "x", "html": "<p>x</p>", "attachments": files}
    )
    assert isinstance(content, EmailContent)
    jobs = [
        Job(n, "transactional", MemberView(n, "m"), "a@b.example", {}, settings.zone, NOW) for n in range(3)
    ]
    payloads = [content.payload(settings, job) for job in jobs]
    assert all(len(one.content) < 3_000 for one in payloads)
    assert len({id(one.tail) for one in payloads}) == 1


def test_files_arrive(sqlite_db: Database, settings: Settings) -> None:
    files = [{"name": "terms.pdf", "type": "application/pdf", "data": PDF}]
    add_members(sqlite_db, [1, 2])
    template = add_template(sqlite_db, settings, "email", attachments=files)
    enqueue(sqlite_db, row(1, "email", template), row(2, "email", template))
    with sink(keep=True) as server:
        assert counts(run_delivery(sqlite_db, pointed(sqlite_db, settings, server.url), now=lambda: NOW)) == {
            "sent": 2
        }
        for path in server.folder.iterdir():
            raw = path.read_bytes()
            found = BytesParser(policy=email.policy.default).parsebytes(raw[raw.index(b"From: ") :])
            (pdf,) = [part for part in found.walk() if part.get_filename() == "terms.pdf"]
            assert pdf.get_payload(decode=True) == base64.b64decode(PDF)
