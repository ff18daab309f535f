"""Reports as mail systems write them, about a message of ours."""

from __future__ import annotations

from datetime import datetime

from channels import verp
from channels.render import client_id

DOMAIN = "bounces.example.com"


def dsn(
    number: int, *, status: str = "5.1.1", diagnostic: str = "smtp; 550 5.1.1 User unknown", action: str = "failed",
    recipient: str = "", to: str | None = None, names_message: bool = True, note: str = "",
) -> bytes:  # fmt: skip
    """A DSN in Postfix's form; ``to``: instead of the VERP address."""
    recipient = recipient or f"m{number}@example.com"
    own = f"Message-ID: <{client_id(number)}@example.com>\r\n" if names_message else ""
    return (
        "From: MAILER-DAEMON@mx.example.net (Mail Delivery System)\r\n"
        f"To: {verp.address(number, DOMAIN) if to is None else to}\r\n"
        "Subject: Undelivered Mail Returned to Sender\r\nAuto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n"
        'Content-Type: multipart/report; report-type=delivery-status; boundary="B"\r\n\r\n'
        f"--B\r\nContent-Type: text/plain\r\n\r\nI'm sorry. {note}\r\n"
        "--B\r\nContent-Type: message/delivery-status\r\n\r\n"
        "Reporting-MTA: dns; mx.example.net\r\nArrival-Date: Mon,  2 Mar 2026 04:00:00 +0000\r\n\r\n"
        f"Final-Recipient: rfc822; {recipient}\r\nAction: {action}\r\nStatus: {status}\r\n"
        f"Remote-MTA: dns; mx.example.org\r\nDiagnostic-Code: {diagnostic}\r\n\r\n"
        f"--B\r\nContent-Type: text/rfc822-headers\r\n\r\nFrom: shop@example.com\r\n{own}\r\n--B--\r\n"
    ).encode()


def arf(number: int, kind: str = "abuse", *, named_by: str = "message-id", link: str = "") -> bytes:
    """A feedback report whose recipient is blackened (RFC 5965)."""
    own = {
        "message-id": f"Message-ID: <{client_id(number)}@example.com>",
        "verp": f"Return-Path: <{verp.address(number, DOMAIN)}>",
        "link": f"List-Unsubscribe: <{link}>",
        "nothing": "X: y",
    }[named_by]
    return (
        "From: <abusedesk@isp.example>\r\nTo: <fbl@example.com>\r\nSubject: FW: hello\r\nMIME-Version: 1.0\r\n"
        'Content-Type: multipart/report; report-type=feedback-report; boundary="B"\r\n\r\n'
        "--B\r\nContent-Type: text/plain\r\n\r\nThis is an email abuse report.\r\n"
        "--B\r\nContent-Type: message/feedback-report\r\n\r\n"
        f"Feedback-Type: {kind}\r\nUser-Agent: SomeGenerator/1.0\r\nVersion: 1\r\n"
        "Original-Rcpt-To: <redacted@example.com>\r\n\r\n"
        f"--B\r\nContent-Type: message/rfc822\r\n\r\nFrom: <shop@example.com>\r\nTo: <redacted>\r\n{own}\r\n"
        "Subject: hello\r\n\r\nSpam Spam Spam\r\n--B--\r\n"
    ).encode()


def qmail(number: int, reason: str) -> bytes:
    return (
        "Return-Path: <>\r\nFrom: MAILER-DAEMON@mx.example.net\r\n"
        f"To: {verp.address(number, DOMAIN)}\r\nSubject: failure notice\r\n\r\n"
        "Hi. This is the qmail-send program at mx.example.net.\r\nI'm afraid I wasn't able to deliver your "
        "message to the following addresses.\r\nThis is a permanent error; I've given up. Sorry it didn't work "
        f"out.\r\n\r\n<m{number}@example.com>:\r\n{reason}\r\n\r\n--- Below this line is a copy of the message.\r\n\r\n"
        "Subject: over quota blocked spam\r\n\r\nour own text\r\n"
    ).encode()


def exim(number: int, reason: str) -> bytes:
    return (
        f"X-Failed-Recipients: m{number}@example.com\r\nAuto-Submitted: auto-replied\r\nReturn-Path: <>\r\n"
        f"From: Mail Delivery System <Mailer-Daemon@mx.example.net>\r\nTo: {verp.address(number, DOMAIN)}\r\n"
        "Subject: Mail delivery failed: returning message to sender\r\n\r\nThis message was created automatically by "
        "mail delivery software.\r\n\r\nA message that you sent could not be delivered to one or more of its\r\n"
        f"recipients. This is a permanent error. The following address(es) failed:\r\n\r\n  m{number}@example.com\r\n"
        f"    {reason}\r\n\r\n------ This is a copy of the message, including all the headers. ------\r\n\r\nSubject: x\r\n"
    ).encode()


def out_of_office(number: int) -> bytes:
    return (
        f"From: m{number}@example.com\r\nTo: {verp.address(number, DOMAIN)}\r\nReturn-Path: <>\r\n"
        "Subject: Automatic reply: mail delivery to my mailbox\r\nAuto-Submitted: auto-replied\r\n\r\n"
        "I am out of the office. 550 5.1.1 no such user is what I am not.\r\n"
    ).encode()


def unsubscribe(number: int, at: datetime) -> bytes:
    return (
        f"From: m{number}@example.com\r\nTo: {verp.address(number, DOMAIN)}\r\nSubject: unsubscribe\r\n"
        f"Date: {at:%d %b %Y %H:%M:%S +0000}\r\n\r\n"
    ).encode()
