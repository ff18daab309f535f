"""Bounces and complaints: classes, reports of many systems, and what each changes; once."""

from __future__ import annotations

import asyncio
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from channels import outbox, tracking
from channels.bounces import book, mailbox
from channels.bounces.classify import Kind, classify
from channels.bounces.intake import Incoming, Taken, read, take
from channels.bounces.listener import Listener
from channels.consent import MARKETING, allowed
from channels.delivery import run_delivery
from channels.models import BounceCount, BounceReport, DomainLimit, Message, MessageEvent, Suppression
from channels.transports.base import Reaction
from channels.transports.smtp_replies import reaction_of
from core.contacts import blind_index
from core.db import Database
from core.errors import HuiliuError, InvalidInput
from core.models import Member
from core.settings import Settings
from tests.channels import reports
from tests.channels.bounce_texts import TEXTS
from tests.channels.seed import NOW, add_members, add_template, email_of, enqueue, message, row, states
from tests.channels.smtp import sink
from tests.channels.test_smtp_faults import counts, pointed
from tests.postgres import free_port


def test_there_are_enough_texts_each_with_a_source() -> None:
    assert len(TEXTS) >= 60
    assert all(source and text for source, _, text, _ in TEXTS)
    assert {kind for *_, kind in TEXTS} == {kind.value for kind in Kind}


@pytest.mark.parametrize(("source", "status", "text", "kind"), TEXTS)
def test_the_class_of_what_mail_systems_say(source: str, status: str, text: str, kind: str) -> None:
    assert classify(status, text, action="failed" if kind == "expired" else "").kind == kind


@pytest.mark.parametrize(
    ("codes", "kind"),
    [
        (("5.1.1", "5.1.2", "5.1.3", "5.1.4", "5.1.6", "5.1.10", "5.7.17", "5.7.18"), Kind.HARD),
        (("5.2.1", "5.7.13"), Kind.INACTIVE),
        (("4.2.2", "5.2.2", "4.2.1", "4.3.0", "4.3.2", "4.4.1", "4.4.7", "4.7.0", "4.7.28"), Kind.SOFT),
        (("5.3.4", "5.5.0", "5.5.4", "5.6.0", "5.6.7", "5.1.7", "5.1.8"), Kind.OURS),
        (("5.7.0", "5.7.1", "5.7.9", "5.7.26", "5.7.515"), Kind.POLICY),
        (("5.8.1", "5.2.9"), Kind.UNKNOWN),
    ],
)
def test_the_table_of_enhanced_codes(codes: tuple[str, ...], kind: Kind) -> None:
    assert {code: classify(code).kind for code in codes} == dict.fromkeys(codes, kind)
    assert {classify(code).known for code in codes} == {kind is not Kind.UNKNOWN}


@pytest.mark.parametrize("code", ["4.2.2", "4.4.7", "4.7.1"])
def test_a_failure_with_a_soft_code_has_expired(code: str) -> None:
    assert classify(code, action="failed").kind is Kind.EXPIRED
    assert classify(code, action="delayed").kind is Kind.SOFT


@pytest.mark.parametrize(
    ("code", "text", "reaction", "bounce"),
    [
        (550, "5.1.1 nobody", Reaction.SUPPRESS, ""),
        (550, "5.2.1 disabled", Reaction.FAIL, "inactive"),
        (552, "5.2.2 full", Reaction.FAIL, "soft"),
        (550, "5.7.1 spam", Reaction.FAIL, "policy"),
        (550, "5.8.9 what", Reaction.FAIL, "unknown"),
    ],
)
def test_a_refusal_at_send_time_is_a_bounce(code: int, text: str, reaction: Reaction, bounce: str) -> None:
    found = reaction_of(code, text, "data")
    assert (found.reaction, found.bounce) == (reaction, bounce)


# --- reading ------------------------------------------------------------------------------------


def kinds(raw: bytes, to: str = "") -> list[tuple[str, str, int | None]]:
    return [(str(r.kind), r.code, r.message_id) for r in read(Incoming(raw, to))]


def test_a_dsn_is_read_by_its_fields_and_names_its_message() -> None:
    (found,) = read(Incoming(reports.dsn(7)))
    assert (found.kind, found.code, found.message_id) == (Kind.HARD, "5.1.1", 7)
    assert (found.recipient, found.reason) == ("m7@example.com", "550 5.1.1 User unknown")
    # VERP, else the Message-ID; a foreign one names nothing.
    assert kinds(reports.dsn(7, to="shop@example.com")) == [("hard", "5.1.1", 7)]
    assert kinds(reports.dsn(7, to="shop@example.com", names_message=False)) == [("hard", "5.1.1", None)]
    envelope = read(
        Incoming(reports.dsn(7, to="x@y", names_message=False), reports.verp.address(9, "b.example"))
    )
    assert envelope[0].message_id == 9


def test_the_status_decides_and_the_diagnostic_where_it_says_nothing() -> None:
    assert kinds(reports.dsn(1, status="5.0.0", diagnostic="smtp; 550 5.2.1 disabled"))[0][:2] == (
        "inactive",
        "5.2.1",
    )
    assert kinds(reports.dsn(1, status="4.4.7", diagnostic="smtp; 451 later"))[0][:2] == ("expired", "4.4.7")
    assert kinds(reports.dsn(1, action="delayed", status="4.4.1"))[0][0] == "delayed"
    assert kinds(reports.dsn(1, action="delivered", status="2.0.0"))[0][0] == "delivered"
    folded = reports.dsn(
        1, status="5.7.1 (delivery not\r\n authorized)", diagnostic="smtp; 554\r\n refused by policy"
    )
    assert kinds(folded)[0][:2] == ("policy", "5.7.1")


def test_bounces_in_words_alone() -> None:
    assert kinds(reports.qmail(3, "Sorry, no mailbox here by that name. (#5.1.1)")) == [("hard", "5.1.1", 3)]
    assert (
        kinds(reports.qmail(3, "192.0.2.1 does not like recipient.\r\nRemote host said: 552 mailbox full"))[
            0
        ][0]
        == "soft"
    )
    assert kinds(reports.exim(4, "550 Unrouteable address")) == [("hard", "550", 4)]
    assert kinds(reports.exim(4, "retry timeout exceeded"))[0][0] == "soft"


def test_what_is_no_bounce_is_none() -> None:
    assert kinds(reports.out_of_office(5)) == []
    assert kinds(b"From: a@b.c\r\nSubject: hello\r\n\r\nuser unknown\r\n") == []
    assert kinds(b"") == []
    assert kinds(b"\xff\xfe\x00 no mail at all") == []


def test_complaints_name_their_message_though_the_recipient_is_blackened(settings: Settings) -> None:
    link = tracking.unsubscribe_url("https://shop.example", 11)
    for named_by in ("message-id", "verp", "link"):
        assert kinds(reports.arf(11, named_by=named_by, link=link)) == [("complaint", "abuse", 11)], named_by
    assert kinds(reports.arf(11, named_by="nothing")) == [("complaint", "abuse", None)]
    assert kinds(reports.arf(11, "not-spam")) == []
    forged = tracking.unsubscribe_url("https://shop.example", 11)[:-1] + "_"
    assert kinds(reports.arf(11, named_by="link", link=forged))[0][2] is None


# --- acting --------------------------------------------------------------------------------------


@pytest.fixture
def sent(db: Database, settings: Settings) -> Database:
    """Six messages that are sent; message n is of member n."""
    add_members(db, range(1, 7))
    template = add_template(db, settings, "email")
    enqueue(db, *[row(n, "email", template) for n in range(1, 7)])
    with sink() as server:
        assert run_delivery(db, pointed(db, settings, server.url), now=lambda: NOW).sent == 6
    with db.read() as session:
        same = session.scalars(sa.select(Message.id).where(Message.id == Message.member_id)).all()
        assert set(same) == {*range(1, 7)}
    return db


def took(database: Database, *mails: bytes, at: datetime = NOW) -> Taken:
    with database.write() as session:
        return take(session, [Incoming(raw) for raw in mails], at)


def suppressions(database: Database) -> dict[str, tuple[str, object]]:
    with database.read() as session:
        rows = session.execute(sa.select(Suppression)).scalars()
        return {one.address_index: (one.reason, one.evidence) for one in rows}


def index_of(number: int) -> str:
    return blind_index("email", email_of(number)) or ""


def test_a_hard_bounce_fails_its_message_and_suppresses_its_address_with_the_evidence(sent: Database) -> None:
    raw = reports.dsn(2, note="用户不存在")
    assert took(sent, raw) == Taken(1, 0, 0, {"hard": 1})
    assert took(sent, raw) == Taken(0, 1, 0, {})
    assert message(sent, "run:1:2:email").state == "failed"
    assert "5.1.1" in (message(sent, "run:1:2:email").reason or "")
    reason, evidence = suppressions(sent)[index_of(2)]
    with sent.read() as session:
        report = session.execute(sa.select(BounceReport)).scalar_one()
        assert evidence == {"report_id": report.id, "message_id": 2, "code": "5.1.1"}
        assert report.raw == raw.decode()
        stored = session.connection().exec_driver_sql("SELECT raw FROM bounce_reports").scalar()
        assert b"m2@example.com" not in bytes(stored), "evidence is encrypted"
        event = session.execute(
            sa.select(MessageEvent).where(MessageEvent.kind == "hard_bounce")
        ).scalar_one()
        assert "m2@" not in str(event.detail)
        assert allowed(session, range(1, 7), "email", MARKETING) == {1, 3, 4, 5, 6}
    assert reason == "hard_bounce"


def test_classes_that_are_not_the_addresss_fault_suppress_nothing(sent: Database) -> None:
    took(
        sent,
        reports.dsn(1, status="5.7.1", diagnostic="smtp; 550 5.7.1 blocked"),
        reports.dsn(2, status="5.3.4", diagnostic="smtp; 552 5.3.4 too big"),
        reports.dsn(3, status="5.9.9", diagnostic="smtp; x-unheard-of"),
        reports.dsn(4, status="4.4.7", diagnostic="smtp; 451 later"),
        reports.dsn(5, action="delayed", status="4.4.1"),
    )
    assert suppressions(sent) == {}
    assert states(sent) == {"failed": 4, "sent": 2}
    with sent.read() as session:
        found = session.execute(sa.select(MessageEvent.message_id, MessageEvent.detail)).all()
        classes = {number: detail.get("class") for number, detail in found if detail.get("class")}
        assert classes == {1: "policy", 2: "ours", 3: "unknown", 4: "expired"}
        kept = session.execute(sa.select(BounceReport.kind, BounceReport.status)).all()
        assert ("unknown", "5.9.9") in [tuple(one) for one in kept], "unknown codes are kept"


def test_a_complaint_withdraws_consent_at_once(sent: Database) -> None:
    assert took(sent, reports.arf(3)).kinds == {"complaint": 1}
    assert suppressions(sent)[index_of(3)][0] == "complaint"
    assert message(sent, "run:1:3:email").state == "sent"
    with sent.read() as session:
        assert 3 not in allowed(session, [3], "email", MARKETING)


def test_a_mail_to_the_unsubscribe_address_unsubscribes(sent: Database) -> None:
    took(sent, reports.unsubscribe(4, NOW), at=NOW + timedelta(hours=1))
    with sent.read() as session:
        assert allowed(session, range(1, 7), "email", MARKETING) == {1, 2, 3, 5, 6}
    assert suppressions(sent) == {}


def test_a_forged_report_changes_nothing(sent: Database) -> None:
    forged = reports.dsn(2).replace(b"b+2.", b"b+3.").replace(b"<2.", b"<3.")
    foreign = b"From: a@b.c\r\nSubject: hello\r\n\r\nhi\r\n"
    assert took(sent, forged, foreign) == Taken(2, 0, 2, {})
    assert states(sent) == {"sent": 6}
    assert suppressions(sent) == {}


def test_a_bounce_of_an_address_that_the_member_left_suppresses_nobody(sent: Database) -> None:
    with sent.write() as session:
        session.execute(
            sa.update(Member)
            .where(Member.id == 2)
            .values(email="new@example.com", email_index=blind_index("email", "new@example.com"))
        )
    took(sent, reports.dsn(2))
    assert suppressions(sent) == {}
    assert message(sent, "run:1:2:email").state == "failed"


def test_three_refusals_by_policy_stop_the_receiver(sent: Database) -> None:
    blocked = {"status": "5.7.1", "diagnostic": "smtp; 550 5.7.1 blocked"}
    took(sent, *[reports.dsn(n, **blocked) for n in (1, 2)])  # type: ignore[arg-type]
    took(sent, *[reports.dsn(n, **blocked) for n in (3, 4, 5)])  # type: ignore[arg-type]
    with sent.read() as session:
        limit = session.execute(sa.select(DomainLimit)).scalar_one()
        assert (limit.group, limit.stopped_until) == ("example.com", NOW + timedelta(hours=1))


# --- counting ------------------------------------------------------------------------------------


def _bounce(database: Database, kind: str, day: int) -> None:
    at = NOW + timedelta(days=day)
    one = book.Bounced(index_of(1), 1, kind, "4.2.2", at, {"report_id": day})
    with database.write() as session:
        book.count(session, "email", [one], "bounce", at)


def test_five_soft_bounces_over_a_week_suppress(db: Database) -> None:
    add_members(db, [1])
    for day in (0, 1, 2, 3, 4, 5):
        _bounce(db, "soft", day)
        assert suppressions(db) == {}, "six within a week are no reason"
    _bounce(db, "expired", 7)
    reason, evidence = suppressions(db)[index_of(1)]
    assert reason == "soft_bounce"
    assert evidence == {"report_id": 7, "code": "4.2.2", "soft": 7, "inactive": 0}


def test_two_bounces_of_an_inactive_mailbox_suppress(db: Database) -> None:
    add_members(db, [1])
    _bounce(db, "inactive", 0)
    assert suppressions(db) == {}
    _bounce(db, "inactive", 1)
    assert suppressions(db)[index_of(1)][0] == "inactive"


def test_a_delivery_in_between_starts_the_count_anew(db: Database, settings: Settings) -> None:
    add_members(db, [1])
    template = add_template(db, settings, "email")
    for day in (0, 2, 4, 6):
        _bounce(db, "soft", day)
    enqueue(db, row(1, "email", template, key="between"))
    with db.write() as session:
        session.execute(
            sa.update(Message).values(state="sent", sent_at=NOW + timedelta(days=7), settled_at=NOW)
        )
    for day in (8, 10, 12, 14):
        _bounce(db, "soft", day)
    assert suppressions(db) == {}
    with db.read() as session:
        assert session.scalar(sa.select(BounceCount.soft)) == 4
    _bounce(db, "soft", 16)
    assert suppressions(db)[index_of(1)][0] == "soft_bounce"


def test_a_refusal_at_send_time_counts(db: Database, settings: Settings) -> None:
    add_members(db, [1])
    template = add_template(db, settings, "email")
    enqueue(db, row(1, "email", template, key="a"), row(1, "email", template, key="b"))
    with sink("-B", "550 5.2.1 mailbox disabled", "-f", "RCPT") as server:
        there = pointed(db, settings, server.url)
        assert counts(run_delivery(db, there, now=lambda: NOW)) == {"failed": 2}
    reason, evidence = suppressions(db)[index_of(1)]
    assert reason == "inactive"
    assert isinstance(evidence, dict)
    assert "mailbox disabled" in evidence["reason"]
    assert evidence["code"] == "5.2.1"


# --- the ways in ---------------------------------------------------------------------------------


def test_the_listener_takes_bounces_and_nothing_else(sent: Database, settings: Settings) -> None:
    import aiosmtplib

    port = free_port()
    there = Settings(
        home=settings.home, bounce_listen=f"127.0.0.1:{port}", bounce_domain=reports.DOMAIN, _env_file=None
    )

    async def main() -> None:
        async with Listener(sent, there, lambda: NOW):
            client = aiosmtplib.SMTP(hostname="127.0.0.1", port=port, start_tls=False)
            await client.connect()
            to = reports.verp.address(5, reports.DOMAIN)
            await client.sendmail("", [to], reports.dsn(5, to="hidden@example.com", names_message=False))
            with pytest.raises(aiosmtplib.SMTPRecipientsRefused):
                await client.sendmail("x@y.z", ["somebody@elsewhere.example"], b"Subject: relay me\r\n\r\n")
            await client.quit()

    asyncio.run(main())
    assert suppressions(sent)[index_of(5)][0] == "hard_bounce"


def test_a_listener_without_a_port_is_refused(sqlite_db: Database, settings: Settings) -> None:
    with pytest.raises(InvalidInput, match="HUILIU_BOUNCE_LISTEN"):
        Listener(sqlite_db, settings, lambda: NOW)


class Pop(socketserver.StreamRequestHandler):
    """RFC 1939 as far as a mailbox of bounces needs it."""

    mails: list[bytes]
    gone: list[int]

    def handle(self) -> None:
        self.wfile.write(b"+OK ready\r\n")
        for line in self.rfile:
            word, *rest = line.decode().split()
            answer = getattr(self, f"do_{word.lower()}", None)
            self.wfile.write(b"-ERR what?\r\n" if answer is None else answer(*rest))
            if word.upper() == "QUIT":
                return

    def do_user(self, _name: str) -> bytes:
        return b"+OK\r\n"

    def do_pass(self, word: str) -> bytes:
        return b"+OK\r\n" if word == "secret" else b"-ERR no\r\n"

    def do_list(self) -> bytes:
        lines = [f"{n} {len(mail)}" for n, mail in enumerate(self.mails, 1) if n not in self.gone]
        return "\r\n".join(["+OK", *lines, ".", ""]).encode()

    def do_retr(self, number: str) -> bytes:
        return b"+OK\r\n" + self.mails[int(number) - 1].replace(b"\r\n.", b"\r\n..") + b"\r\n.\r\n"

    def do_dele(self, number: str) -> bytes:
        self.gone.append(int(number))
        return b"+OK\r\n"

    def do_quit(self) -> bytes:
        return b"+OK bye\r\n"


class Imap(socketserver.StreamRequestHandler):
    """RFC 3501 as far as a mailbox of bounces needs it."""

    mails: list[bytes]
    gone: list[int]

    def handle(self) -> None:
        self.wfile.write(b"* OK IMAP4rev1 ready\r\n")
        for line in self.rfile:
            tag, word, *rest = line.decode().split()
            if word.upper() == "UID":
                word, *rest = rest
            self.wfile.write(self._answer(word.upper(), rest) + f"{tag} OK done\r\n".encode())
            if word.upper() == "LOGOUT":
                return

    def _answer(self, word: str, rest: list[str]) -> bytes:
        if word == "CAPABILITY":
            return b"* CAPABILITY IMAP4rev1\r\n"
        if word == "SELECT":
            return f"* {len(self.mails)} EXISTS\r\n".encode()
        if word == "SEARCH":
            unseen = [str(n) for n in range(1, len(self.mails) + 1) if n not in self.gone]
            return f"* SEARCH {' '.join(unseen)}\r\n".encode()
        if word == "STORE":
            self.gone.extend(int(n) for n in rest[0].split(","))
        if word == "FETCH":
            mail = self.mails[int(rest[0]) - 1]
            if "RFC822.SIZE" in rest[1]:
                return f"* {rest[0]} FETCH (UID {rest[0]} RFC822.SIZE {len(mail)})\r\n".encode()
            head = f"* {rest[0]} FETCH (UID {rest[0]} BODY[] {{{len(mail)}}}\r\n".encode()
            return head + mail + b")\r\n"
        return b"* BYE\r\n" if word == "LOGOUT" else b""


@contextmanager
def served(handler: type[Pop] | type[Imap], mails: list[bytes]) -> Iterator[tuple[int, list[int]]]:
    gone: list[int] = []
    kind = type("Served", (handler,), {"mails": mails, "gone": gone})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), kind) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1], gone
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(("scheme", "handler"), [("pop3", Pop), ("imap", Imap)])
def test_a_mailbox_is_emptied_after_what_it_held_is_recorded(
    sent: Database, scheme: str, handler: type[Pop] | type[Imap]
) -> None:
    mails = [
        reports.dsn(1),
        reports.arf(2),
        reports.dsn(3, status="4.2.2", diagnostic="smtp; full"),
        b"Subject: x\r\n\r\n",
    ]
    with served(handler, mails) as (port, gone):
        url = f"{scheme}://u:secret@127.0.0.1:{port}"
        found = mailbox.collect(sent, url, lambda: NOW)
        assert found == Taken(4, 0, 1, {"hard": 1, "complaint": 1, "expired": 1})
        assert gone == [1, 2, 3, 4]
        assert mailbox.collect(sent, url, lambda: NOW).new == 0
        gone.clear()
        assert mailbox.collect(sent, url, lambda: NOW) == Taken(0, 4, 0, {}), "fetched again, nothing changes"
    assert sorted(reason for reason, _ in suppressions(sent).values()) == ["complaint", "hard_bounce"]


def test_a_mailbox_that_cannot_be_read_is_said_clearly(sqlite_db: Database) -> None:
    with served(Pop, []) as (port, _), pytest.raises(HuiliuError, match="HUILIU_BOUNCE_MAILBOX"):
        mailbox.collect(sqlite_db, f"pop3://u:wrong@127.0.0.1:{port}", lambda: NOW)
    with pytest.raises(HuiliuError, match="cannot be read"):
        mailbox.collect(sqlite_db, f"imap://u:p@127.0.0.1:{free_port()}", lambda: NOW)
    with pytest.raises(InvalidInput, match="must look like"):
        mailbox.parse_url("https://u:p@host")
    assert mailbox.parse_url("imaps://a%40b:p@host/Bounces").user == "a@b"


def test_unsubscribed_and_suppressed_members_are_not_written_to_again(
    sent: Database, settings: Settings
) -> None:
    took(sent, reports.dsn(1), reports.arf(2), reports.unsubscribe(3, NOW), at=NOW + timedelta(minutes=1))
    template = add_template(sent, settings, "email")
    enqueue(sent, *[row(n, "email", template, key=f"again{n}") for n in range(1, 5)])
    later = NOW + timedelta(hours=1)
    with sink() as server:
        found = run_delivery(sent, pointed(sent, settings, server.url), now=lambda: later)
    assert counts(found) == {"sent": 1, "skipped": 3}
    with sent.read() as session:
        assert outbox.account(session, "email").paused_at is None
        assert socket.gethostname()
