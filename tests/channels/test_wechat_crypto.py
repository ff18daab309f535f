"""Encryption and signatures of WeChat's callbacks, against its documentation and somebody else's code."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wechatpy.crypto import WeChatCrypto

from channels.wechat import crypto
from core.errors import InvalidInput

KEY, APPID = "A" * 43, "wxba5fad812f8e6fb9"
OTHER_KEY = base64.b64encode(bytes(range(32))).decode().rstrip("=")


def test_the_signature_of_the_documentation() -> None:
    found = crypto.signature("AAAAA", "1714036504", "1514711492")
    assert found == "f464b24fc39322e44b38aa78f5edd27bd1441696"


def test_the_encryption_of_the_documentation() -> None:
    sealed = crypto.encrypt(KEY, APPID, b'{"demo_resp":"good luck"}', b"707722b803182950")
    assert sealed == (
        "ELGduP2YcVatjqIS+eZbp80MNLoAUWvzzyJxgGzxZO/5sAvd070Bs6qrLARC9nVHm48Y4hyRbtzve1L32tmxSQ=="
    )
    signature = crypto.signature("AAAAA", "1713424427", "415670741", sealed)
    assert signature == "1b9339964ed2e271e7c7b6ff2b0ef902fc94dea1"
    assert crypto.decrypt(KEY, APPID, sealed) == b'{"demo_resp":"good luck"}'


def test_wechatpy_opens_what_we_seal_and_the_reverse() -> None:
    theirs = WeChatCrypto("token", OTHER_KEY, APPID)
    text = "<xml><Content><![CDATA[你好]]></Content></xml>"
    sealed = crypto.encrypt(OTHER_KEY, APPID, text.encode())
    signature = crypto.signature("token", "1", "2", sealed)
    opened = theirs.decrypt_message({"Encrypt": sealed}, signature, "1", "2")
    assert (opened if isinstance(opened, str) else opened.decode()) == text
    answer = theirs.encrypt_message(text, "2", "1")
    encrypted = answer.partition("<Encrypt><![CDATA[")[2].partition("]]>")[0]
    assert crypto.decrypt(OTHER_KEY, APPID, encrypted) == text.encode()
    assert crypto.signature("token", "1", "2", encrypted) in answer


@given(st.binary(max_size=200))
def test_what_was_sealed_is_opened(message: bytes) -> None:
    assert crypto.decrypt(OTHER_KEY, APPID, crypto.encrypt(OTHER_KEY, APPID, message)) == message


def test_what_cannot_be_opened_is_refused() -> None:
    sealed = crypto.encrypt(OTHER_KEY, APPID, b"x")
    with pytest.raises(InvalidInput, match="another account"):
        crypto.decrypt(OTHER_KEY, "wx-other", sealed)
    with pytest.raises(InvalidInput):
        crypto.decrypt(KEY, APPID, sealed)
    for damaged in ("", "!", sealed[:-4], base64.b64encode(b"x" * 5).decode()):
        with pytest.raises(InvalidInput):
            crypto.decrypt(OTHER_KEY, APPID, damaged)
    with pytest.raises(InvalidInput, match="43 characters"):
        crypto.decrypt("short", APPID, sealed)
