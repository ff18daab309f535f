"""The public preference centre, on both databases."""

from __future__ import annotations

import re
from datetime import timedelta
from html.parser import HTMLParser

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from channels import preferences, tracking
from channels.models import Message
from channels.preferences import Choices, Wish
from core.contacts import CHANNELS
from core.db import Database
from core.models import Member
from core.settings import Settings
from tests.channels.seed import NOW, add_members, add_template, enqueue, row
from tests.conftest import count
from web.public.views import create_blueprint

ALL = frozenset(CHANNELS)


@pytest.fixture
def client(db: Database, settings: Settings) -> FlaskClient:
    add_members(db, [1, 2])
    enqueue(db, row(1, "email", add_template(db, settings, "email")))
    with db.write() as session:
        session.execute(sa.update(Message).values(state="sent", sent_at=NOW))
    app = Flask("test")
    app.register_blueprint(create_blueprint(db, settings, lambda: NOW + timedelta(hours=1)))
    return app.test_client()


@pytest.fixture
def address(client: FlaskClient) -> str:
    return tracking.preferences_url("", 1)


def chosen(database: Database, member: int = 1) -> Choices:
    with database.read() as session:
        return preferences.load(session, member)


class Selected(HTMLParser):
    """The chosen option of each select."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "select":
            self.name = values["name"] or ""
        elif tag == "option" and "selected" in values:
            self.found[self.name] = values["value"] or ""


def test_looking_changes_nothing(db: Database, client: FlaskClient, address: str) -> None:
    for method in (client.get, client.head):
        answer = method(address)
        assert answer.status_code == 200
        assert "Set-Cookie" not in answer.headers
    client.get(f"{address}?leave=all&weekly_max=1&pause=30")
    assert (count(db, "consent_events"), count(db, "member_preferences")) == (2 * len(ALL), 0)
    assert chosen(db) == Choices(ALL, Wish(None, None))


def test_everything_chosen_is_saved_and_shown_again(db: Database, client: FlaskClient, address: str) -> None:
    data = {"channel": ["sms", "email"], "weekly_max": "2", "pause": "30"}
    for _ in range(2):
        answer = client.post(address, data=data)
        assert answer.status_code == 200
        assert "已保存" in answer.text
    until = NOW + timedelta(days=30, hours=1)
    assert chosen(db) == Choices(frozenset({"sms", "email"}), Wish(2, until))
    assert chosen(db, 2) == Choices(ALL, Wish(None, None)), "nobody else's"
    shown = client.get(address).text
    assert Selected(shown).found == {"weekly_max": "2", "pause": "keep"}
    assert f"{until:%Y-%m-%d}" in shown
    assert shown.count(" checked") + shown.count("\nchecked") == 2
    client.post(address, data={"channel": ["sms"], "weekly_max": "", "pause": "keep"})
    assert chosen(db) == Choices(frozenset({"sms"}), Wish(None, until))
    client.post(address, data={"channel": ["sms"], "weekly_max": "", "pause": ""})
    assert chosen(db).wish == Wish(None, None)


@pytest.mark.parametrize(
    "data", [{"weekly_max": "0"}, {"weekly_max": "٣x"}, {"weekly_max": "999"}, {"pause": "7000"}]
)
def test_nonsense_leaves_the_wishes_as_they_were(
    db: Database, client: FlaskClient, address: str, data: dict[str, str]
) -> None:
    client.post(address, data={"channel": list(ALL), "weekly_max": "3", "pause": ""})
    assert client.post(address, data={"channel": [*ALL, "fax"], **data}).status_code == 200
    assert chosen(db) == Choices(ALL, Wish(3, None))


def test_one_button_leaves_everything(db: Database, client: FlaskClient, address: str) -> None:
    answer = client.post(f"{address}?lang=en", data={"channel": list(ALL), "weekly_max": "1", "leave": "all"})
    assert "no more marketing" in answer.text
    assert chosen(db) == Choices(frozenset(), Wish(None, None))


def test_each_language_is_whole_and_the_switch_is_kept(client: FlaskClient, address: str) -> None:
    chinese, english = client.get(address).text, client.get(f"{address}?lang=en").text
    body = english.replace("中文", "").replace(client.application.name, "")
    assert not re.search("[一-鿿]", body), "an English page has no Chinese but the switch"
    assert "你" not in body
    assert "订阅偏好" in chinese
    assert 'href="?lang=en"' in chinese
    assert 'action="?lang=en"' in english
    assert "Saved" in client.post(f"{address}?lang=en", data={"channel": ["sms"]}).text


def test_a_member_without_a_language_gets_the_browsers(
    db: Database, client: FlaskClient, address: str
) -> None:
    with db.write() as session:
        session.execute(sa.update(Member).values(locale=None))
    assert "Your preferences" in client.get(address, headers={"Accept-Language": "en-GB,en"}).text
    assert "订阅偏好" in client.get(address, headers={"Accept-Language": "zh-CN"}).text


def test_the_link_of_an_erased_member_is_gone(db: Database, client: FlaskClient, address: str) -> None:
    with db.write() as session:
        session.execute(sa.update(Member).where(Member.id == 1).values(erased_at=NOW))
    assert client.get(address).status_code == 404
    assert client.post(address, data={"channel": ["email"]}).status_code == 404
    assert client.get(f"{address}x").status_code == 404
    assert count(db, "consent_events") == 2 * len(ALL)
