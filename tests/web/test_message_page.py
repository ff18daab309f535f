"""The outbox and the page of a message: its whole story, and nothing that is counted by looking."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape
from typing import Any

import sqlalchemy as sa

from channels import circuit, outbox
from channels.models import Account, BounceReport, ConsentEvent, Message, MessageEvent, Template
from core.models import AuditEntry, Member
from tests.web import seed
from tests.web.conftest import Shop
from web import codes
from web.queries import messages as queries


def first_mail(shop: Shop) -> Message:
    """A message whose variant gave the coupon that its template names."""
    with shop.database.read() as session:
        rows = session.scalars(
            sa.select(Message).where(Message.channel == "email").order_by(Message.id)
        ).all()
        return next(row for row in rows if row.context.get("coupon"))


def add(shop: Shop, *rows: Any) -> None:
    with shop.database.write() as session:
        session.add_all(rows)


def event(message: Message, kind: str, key: str, actor: str = "", **detail: Any) -> MessageEvent:
    return MessageEvent(
        message_id=message.id, kind=kind, at=seed.NOW, dedupe_key=key, actor=actor, detail=detail
    )


def test_the_page_shows_the_message_as_it_was_sent_and_looking_counts_nothing(shop: Shop) -> None:
    message = first_mail(shop)
    client = shop.client()
    page = client.get(f"/channels/outbox/{message.id}")
    assert f"/channels/outbox/{message.id}/body.html" in page.text
    assert 'sandbox=""' in page.text
    body = client.get(f"/channels/outbox/{message.id}/body.html")
    assert message.context["coupon"]["code"] in body.text
    assert "sandbox" in body.headers["Content-Security-Policy"]
    before = _events(shop)
    for address in _own_addresses(body.text):
        shop.client(None).get(address)
    assert _events(shop) == before


def _own_addresses(html: str) -> list[str]:
    return [unescape(found).partition(":8080")[2] for found in re.findall(r'(?:src|href)="([^"]+)"', html)]


def _events(shop: Shop) -> int:
    with shop.database.read() as session:
        return session.scalar(sa.select(sa.func.count()).select_from(MessageEvent)) or 0


def test_the_old_version_is_shown_although_the_template_has_a_new_one(shop: Shop) -> None:
    message = first_mail(shop)
    client = shop.client()
    data = {"zh_CN.subject": "新", "zh_CN.html": '<b>全新</b><a href="{{ unsubscribe_url }}">x</a>'}
    assert client.post(f"/channels/templates/{message.template_id}/edit", data).status_code == 303
    body = client.get(f"/channels/outbox/{message.id}/body.html").text
    assert "全新" not in body
    assert message.context["coupon"]["code"] in body


def test_an_erased_members_message_is_not_rendered(shop: Shop) -> None:
    message = first_mail(shop)
    with shop.database.write() as session:
        session.get_one(Member, message.member_id).erased_at = seed.NOW
    client = shop.client()
    assert "was erased" in client.get(f"/channels/outbox/{message.id}").text
    assert client.get(f"/channels/outbox/{message.id}/body.html").status_code == 404


def test_events_stand_with_their_visitors_and_their_codes_in_words(shop: Shop) -> None:
    message = first_mail(shop)
    add(
        shop,
        event(message, "failed", "a", code="5.1.1", reason="no such user"),
        event(message, "undelivered", "b", code="9.9.9"),
        event(message, "opened", "c", "proxy", told="image_proxy"),
        event(message, "clicked", "d", "scanner"),
    )
    page = shop.client().get(f"/channels/outbox/{message.id}").text
    assert "The address does not exist" in page
    assert "9.9.9</code>" in page
    assert page.count("unknown code") == 1
    assert "Proxy: an image cache" in page
    assert "Scanner" in page


def test_codes_have_words_by_their_provider() -> None:
    assert codes.meaning("aliyun", "sms", "isv.BUSINESS_LIMIT_CONTROL") is not None
    assert codes.meaning("wechat", "wechat", "43101") is not None
    assert codes.meaning("wechat", "wechat", "4310") is None
    assert codes.meaning("twilio", "sms", "30003") is not None
    assert codes.meaning("wecom", "wecom", "84061") is not None
    assert codes.meaning("wecom", "wecom", "8406") is None
    assert codes.meaning("aliyun", "sms", "brand.new.code") is None
    assert codes.meaning(None, "email", "4.2.2") == "The mailbox is full"


def test_a_raw_report_opens_for_who_may_see_contacts_and_leaves_a_trace(shop: Shop) -> None:
    message = first_mail(shop)
    add(
        shop,
        BounceReport(
            dedupe_key="r",
            message_id=message.id,
            kind="hard",
            status="5.1.1",
            received_at=seed.NOW,
            raw="Final-Recipient: rfc822; secret@example.com",
        ),
    )
    with shop.database.read() as session:
        number = session.scalars(sa.select(BounceReport.id)).one()
    address = f"/channels/outbox/{message.id}/reports/{number}"
    marketer = shop.client("marketer@example.com")
    page = marketer.get(f"/channels/outbox/{message.id}").text
    assert "Bounced: the address does not exist" in page
    assert "secret@" not in page
    assert "your role may not see" in page
    assert marketer.post(address).status_code == 403
    assert "secret@example.com" in shop.client("support@example.com").post(address).text
    with shop.database.read() as session:
        entry = session.scalars(
            sa.select(AuditEntry).where(AuditEntry.action == "member.contact_shown")
        ).one()
    assert (entry.actor, entry.object_type, entry.object_id) == (
        "support@example.com",
        "message",
        str(message.id),
    )
    other = f"/channels/outbox/{message.id + 1}/reports/{number}"
    assert shop.client("support@example.com").post(other).status_code == 404


def test_the_consent_is_the_one_of_that_time(shop: Shop) -> None:
    message = first_mail(shop)
    sent = message.sent_at or message.created_at
    with shop.database.write() as session:
        session.execute(sa.delete(ConsentEvent).where(ConsentEvent.member_id == message.member_id))
        for days, granted in ((-30, False), (-20, True), (1, False)):
            session.add(
                ConsentEvent(
                    member_id=message.member_id,
                    channel="email",
                    purpose="marketing",
                    granted=granted,
                    source=f"form{days}",
                    at=sent + timedelta(days=days),
                )
            )
    page = shop.client().get(f"/channels/outbox/{message.id}").text
    assert "form-20" in page
    assert "form1" not in page
    assert "Given" in page


def test_the_chain_has_what_came_before_and_after(shop: Shop) -> None:
    message = first_mail(shop)
    with shop.database.write() as session:
        for row in session.scalars(sa.select(Message).where(Message.id == message.id)):
            row.state = outbox.FAILED
            sms = session.scalars(sa.select(Template).where(Template.channel == "sms")).one()
            row.fallback = [{"channel": "sms", "template_id": sms.id, "template_version": 1}]
        session.flush()
        assert outbox.enqueue_fallbacks(session, [message.id], seed.NOW) in (0, 1)
        session.execute(sa.update(Message).where(Message.id == message.id).values(expires_at=None))
        outbox.enqueue_fallbacks(session, [message.id], seed.NOW)
        assert outbox.retry(session, message.id, seed.NOW)
    with shop.database.read() as session:
        story = queries.story(session, message.id)
        assert story is not None
        assert [(one.how, one.channel, one.current) for one in story.chain] == [
            ("", "email", True),
            ("fallback", "sms", False),
            ("retry", "email", False),
        ]
        last = queries.story(session, story.chain[1].id)
        assert last is not None
        assert story.chain[0].id in [one.id for one in last.chain]
    page = shop.client().get(f"/channels/outbox/{message.id}").text
    assert "next channel" in page
    assert "sent again" in page


def test_the_campaign_the_variant_and_the_state_in_words_are_told(shop: Shop) -> None:
    message = first_mail(shop)
    page = shop.client().get(f"/channels/outbox/{message.id}").text
    assert "春季召回" in page
    assert "Variant A" in page
    assert "This is final." in page or "It may still become" in page


def test_the_outbox_is_narrowed_by_reason_and_campaign(shop: Shop) -> None:
    client = shop.client()
    page = client.get("/channels/outbox?reason=550").text
    assert page.count("550 no such user") >= 1
    assert "is-good" not in page.partition("<tbody>")[2].partition("<tbody>")[2]
    assert "No messages here" in client.get("/channels/outbox?reason=nothing-like-it").text
    assert "No messages here" in client.get("/channels/outbox?campaign=draft-idea").text
    assert "No messages here" not in client.get("/channels/outbox?campaign=spring-win-back").text


def test_a_paused_channel_is_resumed_from_the_outbox(shop: Shop) -> None:
    client = shop.client()
    assert "InvalidSignName" in client.get("/channels/outbox").text
    answer = client.post("/channels/accounts/sms/resume", {"back": "outbox"})
    assert answer.headers["Location"] == "/channels/outbox"
    with shop.database.read() as session:
        assert session.get_one(Account, "sms").paused_at is None


def test_the_accounts_page_names_servers_and_callback_addresses(shop: Shop) -> None:
    page = shop.client().get("/channels/accounts").text
    assert "127.0.0.1:8025" in page
    assert "/callbacks/aliyun/" in page
    assert "/callbacks/aliyun/" not in shop.client("analyst@example.com").get("/channels/accounts").text


def test_an_open_circuit_is_shown_and_an_admin_closes_it(shop: Shop) -> None:
    client = shop.client()
    assert "Circuit closed" in client.get("/channels/accounts").text
    with shop.database.write() as session:
        circuit.note(session, "email", circuit.Seen(), circuit.Verdict.FAILS, "refused by 10.1.2.3", seed.NOW)
    page = client.get("/channels/accounts").text
    for said in ("Circuit open", "refused by 10.1.2.3", "failures in a row: 1", "Close now"):
        assert said in page
    assert "Left alone" in client.get("/channels/outbox").text
    path = "/channels/accounts/email/circuit/close"
    marketer = shop.client("marketer@example.com")
    assert "Close now" not in marketer.get("/channels/accounts").text
    assert marketer.post(path).status_code == 403
    assert client.post("/channels/accounts/pigeon/circuit/close").status_code == 404
    assert client.post(path).status_code == 303
    client.post(path)
    with shop.database.read() as session:
        assert session.get_one(Account, "email").circuit_failures == 0
        entry = session.scalars(sa.select(AuditEntry).where(AuditEntry.action == "channel.close")).one()
    assert (entry.object_id, entry.detail["reason"]) == ("email", "refused by 10.1.2.3")
