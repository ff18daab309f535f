"""Twilio: every code's reaction, the signature of its webhooks, and two clients at the same stand-in."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twilio.base.exceptions import TwilioRestException
from twilio.http.http_client import TwilioHttpClient
from twilio.request_validator import RequestValidator
from twilio.rest import Client

from channels.callbacks.twilio import signature, signed
from channels.sandbox import inbox
from channels.transports.base import Reaction
from channels.transports.sms_twilio import error_of, status_callback
from core.db import Database
from core.settings import Settings
from tests.channels.seed import sandbox
from tests.channels.sms import codes, reactions, send, sms, twilio

URL = "https://mycompany.com/myapp.php?foo=1&bar=2"
FORM = {
    "CallSid": "CA1234567890ABCDE",
    "Caller": "+14158675309",
    "Digits": "1234",
    "From": "+14158675309",
    "To": "+18005551212",
}


def test_the_published_signature() -> None:
    assert signature("12345", URL, FORM.items()) == "RSOYDt4T1cUTdK1PDd93/VVr8B8="
    assert signed("12345", URL, FORM.items(), "RSOYDt4T1cUTdK1PDd93/VVr8B8=")
    assert not signed("12346", URL, FORM.items(), "RSOYDt4T1cUTdK1PDd93/VVr8B8=")
    assert not signed("12345", URL + "3", FORM.items(), "RSOYDt4T1cUTdK1PDd93/VVr8B8=")
    assert not signed("12345", URL, {**FORM, "Digits": "1"}.items(), "RSOYDt4T1cUTdK1PDd93/VVr8B8=")
    assert not signed("12345", URL, FORM.items(), "é")


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=6))
def test_signatures_are_those_of_the_official_validator(form: dict[str, str]) -> None:
    assert RequestValidator("t").validate("https://h/callbacks/twilio?message=1.a", form, "x") is False
    found = signature("t", "https://h/callbacks/twilio?message=1.a", form.items())
    assert RequestValidator("t").validate("https://h/callbacks/twilio?message=1.a", form, found)


@pytest.mark.parametrize(
    ("code", "reaction"),
    [
        (20003, Reaction.PAUSE),
        (20429, Reaction.RETRY),
        (21211, Reaction.FAIL),
        (21614, Reaction.FAIL),
        (21610, Reaction.SUPPRESS),
        (21611, Reaction.RETRY),
        (30001, Reaction.RETRY),
        (30002, Reaction.PAUSE),
        (30003, Reaction.FAIL),
        (30004, Reaction.FAIL),
        (30006, Reaction.FAIL),
        (30007, Reaction.FAIL),
        (21602, Reaction.STOP),
        (99999, Reaction.FAIL),
        ("odd", Reaction.FAIL),
    ],
)
def test_every_code_has_its_reaction(code: int | str, reaction: Reaction) -> None:
    found = error_of(code, "why")
    assert (found.reaction, found.code, str(found)) == (reaction, str(code), f"{code} why")
    assert found.withdraws is (code == 21610)
    assert found.suppression == "blocked"


def test_each_message_is_a_request_with_our_text(sqlite_db: Database, settings: Settings) -> None:
    with sandbox(sqlite_db, settings) as (there, _):
        endings = ("0001", "0002", "0004", "1234", "0000")
        found = send(twilio(there), *[sms(f"+1415555{end}", message_id=7) for end in endings])
        assert reactions(found) == [Reaction.FAIL, Reaction.RETRY, Reaction.SUPPRESS, None, None]
        assert codes(found) == ["21211", "429", "21610"]
        stored = inbox.list_messages(there, "sms", "+14155551234")
        assert [(m.title, m.client_id, m.fields["sender"]) for m in stored] == [
            ("你好", sms("+1", message_id=7).client_id, "+15005550006")
        ]
        assert reactions(send(twilio(there), sms("+14155550003"))) == [Reaction.PAUSE]
        assert reactions(send(twilio(there, sender="MG123"), sms("+14155551235"))) == [None]
        assert inbox.list_messages(there, "sms", "+14155551235")[0].fields["sender"] == "MG123"


def test_a_wrong_token_pauses_the_account(sqlite_db: Database, settings: Settings) -> None:
    with sandbox(sqlite_db, settings) as (there, _):
        found = send(twilio(there, "wrong"), sms("+14155551234"))
        assert (codes(found), reactions(found)) == (["20003"], [Reaction.PAUSE])
        assert inbox.count(there) == 0


def test_the_callback_names_our_message() -> None:
    assert status_callback("https://s.example", "7.ab") == "https://s.example/callbacks/twilio?message=7.ab"


class Loopback(TwilioHttpClient):
    """Twilio's client, at the sandbox."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._base = f"http://127.0.0.1:{settings.sandbox_http_port}"

    def request(self, method: str, url: str, *args: Any, **more: Any) -> Any:
        return super().request(method, f"{self._base}{urlsplit(url).path}", *args, **more)


def test_the_official_client_is_accepted_and_refused_alike(sqlite_db: Database, settings: Settings) -> None:
    with sandbox(sqlite_db, settings) as (there, _):
        official = Client(there.twilio_account_sid, there.twilio_auth_token, http_client=Loopback(there))
        made = official.messages.create(to="+14155551234", from_="+15005550006", body="a" * 161)
        assert (made.status, made.num_segments, made.sid[:2]) == ("queued", "2", "SM")
        assert inbox.list_messages(there)[0].fields["sid"] == made.sid
        with pytest.raises(TwilioRestException) as blocked:
            official.messages.create(to="+14155550004", from_="+15005550006", body="a")
        assert (blocked.value.code, blocked.value.status) == (21610, 400)
        other = Client(there.twilio_account_sid, "wrong", http_client=Loopback(there))
        with pytest.raises(TwilioRestException) as refused:
            other.messages.create(to="+14155551234", from_="+15005550006", body="a")
        assert (refused.value.code, refused.value.status) == (20003, 401)
        assert inbox.count(there) == 1
