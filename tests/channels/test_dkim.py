"""DKIM: the published vectors, and dkimpy's verdict on what we sign."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from channels.delivery import run_delivery
from channels.sandbox import inbox
from channels.transports.dkim import (
    Key,
    Signer,
    canonical_body,
    canonical_headers,
    load_keys,
    signing_input,
)
from core.db import Database
from core.errors import InvalidInput
from core.settings import Settings
from tests.channels.seed import NOW, add_members, add_template, enqueue, row, sandbox

# RFC 8463, appendix A: the key, the message and its signature.
SEED = base64.b64decode("nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=")
PUBLIC = b"11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
HEAD = (
    b"From: Joe SixPack <joe@football.example.com>\r\nTo: Suzie Q <suzie@shopping.example.net>\r\n"
    b"Subject: Is dinner ready?\r\nDate: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n"
    b"Message-ID: <20030712040037.46341.5F8J@football.example.com>"
)
SIGNATURE_HEADER = (
    b" v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n d=football.example.com; i=@football.example.com;\r\n"
    b" q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n"
    b" subject : date : message-id : from : subject : date;\r\n"
    b" bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n b="
)
NAMES = [b"from", b"to", b"subject", b"date", b"message-id", b"from", b"subject", b"date"]


def test_the_vector_of_rfc_8463() -> None:
    # Its body is in the relaxed form, which is not ours: the hash is the vector's own.
    key = Key("brisbane", "football.example.com", Ed25519PrivateKey.from_private_bytes(SEED))
    ((_, signature),) = canonical_headers(b"DKIM-Signature:" + SIGNATURE_HEADER)
    signed = key.sign(signing_input(canonical_headers(HEAD), NAMES, signature))
    assert base64.b64encode(signed) == (
        b"/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11BusFa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw=="
    )


def test_the_canonical_forms_of_rfc_6376() -> None:
    # 3.4.5: the headers "A: X" and "B : Y<tab><crlf><tab>Z  " in the relaxed form.
    assert canonical_headers(b"A: X\r\nB : Y\t\r\n\tZ  ") == [(b"a", b"X"), (b"b", b"Y Z")]
    # 3.4.3 and 3.4.5: the body in the simple form keeps its spaces, and has one line end.
    assert canonical_body(b" C \r\nD \t E\r\n\r\n\r\n") == b" C \r\nD \t E\r\n"
    assert canonical_body(b"") == b"\r\n"
    assert canonical_body(b"\r\n\r\n") == b"\r\n"
    assert canonical_body(b"a") == b"a\r\n"
    assert canonical_body(b"a\r\n") == b"a\r\n"


RSA = rsa.generate_private_key(65537, 2048)
ED = Ed25519PrivateKey.from_private_bytes(SEED)


def records() -> dict[bytes, bytes]:
    public = RSA.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return {
        b"r1._domainkey.example.com.": b"v=DKIM1; k=rsa; p=" + base64.b64encode(public),
        b"e1._domainkey.example.com.": b"v=DKIM1; k=ed25519; p=" + PUBLIC,
    }


def verdicts(mail: bytes) -> list[bool]:
    """dkimpy's verdict on each signature."""
    found = records()

    def look_up(name: bytes | str, **_: object) -> bytes:
        return found[name if isinstance(name, bytes) else name.encode()]

    number = mail.count(b"DKIM-Signature:")

    def accepted(index: int) -> bool:
        try:
            return bool(dkim.DKIM(mail).verify(idx=index, dnsfunc=look_up))
        except dkim.ValidationError:
            return False

    return [accepted(index) for index in range(number)]


SIGNER = Signer([Key("r1", "example.com", RSA), Key("e1", "example.com", ED)])
LISTED = (
    b"From: =?utf-8?b?5Zue5rWB?= <shop@example.com>\r\nTo: m1@example.org\r\nSubject: =?utf-8?b?5L2g?=\r\n"
    b" =?utf-8?b?5aW9?=\r\nDate: Mon, 02 Mar 2026 04:00:00 +0000\r\nMessage-ID: <1.a@example.com>\r\n"
    b"List-Unsubscribe: <https://shop.example/u/x>, <mailto:b+1@example.com?subject=unsubscribe>\r\n"
    b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: text/plain; charset=utf-8"
)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hi\r\n",
        b"a  b \t c \r\n\r\nx\r\n\r\n\r\n",
        b"no end",
        b"\r\n",
        b" \r\n \r\n",
        b"x=20\r\n" * 3000,
    ],
)
def test_dkimpy_accepts_both_signatures(body: bytes) -> None:
    assert verdicts(SIGNER.sign(LISTED + b"\r\n\r\n" + body, NOW)) == [True, True]


def test_of_a_header_that_occurs_twice_the_last_one_is_signed() -> None:
    mail = SIGNER.sign(LISTED + b"\r\nReply-To: a@example.com\r\nReply-To: b@example.com\r\n\r\nhi\r\n", NOW)
    assert verdicts(mail) == [True, True]
    assert verdicts(mail.replace(b"Reply-To: b@", b"Reply-To: c@")) == [False, False]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"hello", b"hallo"),
        (b"Subject: ", b"Subject: Re: "),
        (b"List-Unsubscribe: <https://shop", b"List-Unsubscribe: <https://evil"),
        (b"=One-Click", b"=Never"),
        (b"To: m1@", b"To: m2@"),
        (b"From: ", b"From: x@evil.example\r\nFrom: "),
    ],
)
def test_whatever_matters_cannot_be_changed_or_added(old: bytes, new: bytes) -> None:
    mail = SIGNER.sign(LISTED + b"\r\n\r\nhello\r\n", NOW)
    at = mail.rindex(b"\r\nFrom: ")
    changed = mail[:at] + mail[at:].replace(old, new, 1)
    assert changed != mail
    assert verdicts(changed) == [False, False]


def test_files_that_messages_share_are_signed_with_each() -> None:
    own, shared = LISTED + b"\r\n\r\nhello\r\n", b"--x\r\nfile\r\n--x--\r\n"
    signed = SIGNER.sign(own, NOW, shared)
    assert signed.endswith(own)
    assert verdicts(signed + shared) == [True, True]
    assert verdicts(signed) == [False, False]


def pem(key: rsa.RSAPrivateKey | Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def test_keys_are_read_and_what_is_wrong_with_them_is_said(tmp_path: Path) -> None:
    (tmp_path / "r.pem").write_bytes(pem(RSA))
    (tmp_path / "e.pem").write_bytes(pem(ED))
    (tmp_path / "ec.pem").write_bytes(pem(ec.generate_private_key(ec.SECP256R1())))
    (tmp_path / "short.pem").write_bytes(pem(rsa.generate_private_key(65537, 1024)))
    found = load_keys(f"r1:example.com:{tmp_path}/r.pem e1:例子.测试:{tmp_path}/e.pem")
    assert [(key.selector, key.domain, key.algorithm) for key in found] == [
        ("r1", "example.com", "rsa-sha256"),
        ("e1", "例子.测试".encode("idna").decode(), "ed25519-sha256"),
    ]
    assert load_keys("") == ()
    for text, words in (
        ("selector", "must look like"),
        (f"s:example.com:{tmp_path}/none.pem", "cannot be read"),
        (f"s:example.com:{tmp_path}/ec.pem", "must be RSA"),
    ):
        with pytest.raises(InvalidInput, match=words):
            load_keys(text)


def test_delivered_mail_is_signed(sqlite_db: Database, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "r.pem").write_bytes(pem(RSA))
    (tmp_path / "e.pem").write_bytes(pem(ED))
    add_members(sqlite_db, [1])
    enqueue(sqlite_db, row(1, "email", add_template(sqlite_db, settings, "email")))
    keys = f"r1:example.com:{tmp_path}/r.pem e1:example.com:{tmp_path}/e.pem"
    with sandbox(sqlite_db, settings, changes={"dkim_keys": keys}) as (there, _):
        assert run_delivery(sqlite_db, there, now=lambda: datetime.now(UTC)).sent == 1
        raw = raw_mail(there)
    assert verdicts(raw) == [True, True]
    assert b"list-unsubscribe:list-unsubscribe-post" in raw.replace(b"\r\n ", b"")


def raw_mail(settings: Settings) -> bytes:
    import sqlite3

    connection = sqlite3.connect(inbox.path_of(settings))
    try:
        return bytes(connection.execute("SELECT content FROM messages").fetchone()[0])
    finally:
        connection.close()
