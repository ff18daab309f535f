"""Humans, proxies and scanners: told at once, told by a later fact, and counted apart."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from channels import rewrite, tracking, visits
from channels.events import CLICKED, OPENED
from channels.facts import FACTS
from channels.models import Message, MessageEvent
from channels.networks import Networks, load
from channels.visits import HUMAN, PROXY, SCANNER, Visit, classify
from core.db import Database
from core.errors import InvalidInput
from core.models import WarehouseMark
from core.settings import Settings
from core.warehouse.replica import read
from tests.channels.seed import NOW, add_members, add_template, enqueue, row
from web.public.views import create_blueprint

PHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "Version/18.0 Mobile/15E148 Safari/604.1"
)
LINKS = {
    "html": '<html><body><a href="https://shop.example/a">a</a><a href="https://shop.example/b">b</a>'
    '<a href="https://shop.example/c">c</a><a href="{{ unsubscribe_url }}">x</a></body></html>'
}
HUMAN_AGENTS = (
    PHONE,
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Linux; Android 14; V2227A) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/116.0.0.0 "
    "Mobile Safari/537.36 MMWEBID/1 MicroMessenger/8.0.50.2701(0x28003253) WeChat/arm64 NetType/WIFI Language/zh_CN",
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Thunderbird/140.0",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko)",
    "Mozilla/5.0 (Windows NT 10.0; WOW64) AppleWebKit/537.36 (KHTML, like Gecko) QQBrowser/12.0 Safari/537.36",
)


class Site:
    """The public pages over a message that left at NOW, with a clock that the test sets."""

    def __init__(self, database: Database, settings: Settings, **changes: Any) -> None:
        self.database, self.now = database, NOW + timedelta(minutes=5)
        app = Flask("test")
        app.register_blueprint(
            create_blueprint(database, settings.model_copy(update=changes), lambda: self.now)
        )
        self.client = app.test_client()

    def get(
        self, url: str, seconds: float | None = None, agent: str = PHONE, method: str = "get", **headers: str
    ) -> Any:
        if seconds is not None:
            self.now = NOW + timedelta(seconds=seconds)
        return getattr(self.client, method)(url, headers={"User-Agent": agent, **headers})

    def click(self, letter: str, seconds: float, **options: Any) -> None:
        url = f"https://shop.example/{letter}"
        answer = self.get(tracking.click_url("", 1, url), seconds, **options)
        assert (answer.status_code, answer.headers["Location"]) == (302, url)

    def open(self, seconds: float, **options: Any) -> None:
        assert self.get(tracking.open_url("", 1), seconds, **options).status_code == 200

    def trap(self, seconds: float, **options: Any) -> None:
        assert self.get(tracking.trap_url("", 1), seconds, **options).status_code == 204

    def told(self) -> list[tuple[str, str, str]]:
        with self.database.read() as session:
            rows = session.scalars(sa.select(MessageEvent).order_by(MessageEvent.at, MessageEvent.id)).all()
        return [(event.kind, event.actor, event.detail.get("told", "")) for event in rows]


@pytest.fixture
def make(db: Database, settings: Settings) -> Callable[..., Site]:
    add_members(db, [1, 2])
    email = add_template(db, settings, "email", **LINKS)
    enqueue(db, row(1, "email", email), row(2, "email", email))
    with db.write() as session:
        session.execute(sa.update(Message).values(state="sent", sent_at=NOW))
        session.execute(sa.delete(WarehouseMark))
    return lambda **changes: Site(db, settings, **changes)


@pytest.mark.parametrize("agent", HUMAN_AGENTS)
def test_readers_programs_are_human(agent: str) -> None:
    visit = Visit("GET", agent, "203.0.113.7", NOW + timedelta(minutes=1))
    for kind in (OPENED, CLICKED):
        assert classify(visit, kind, NOW, "sent", Networks()) == (HUMAN, "")


@pytest.mark.parametrize(
    ("agent", "method", "seconds", "address", "state", "expected"),
    [
        ("Mozilla/5.0 (Windows NT 5.1) Firefox/11.0 (via ggpht.com GoogleImageProxy)", "GET", 60, "", "sent", (PROXY, "image_proxy")),
        ("YahooMailProxy; https://help.yahoo.com/kb/yahoo-mail-proxy", "GET", 1, "", "sent", (PROXY, "image_proxy")),
        ("Mozilla/5.0", "GET", 60, "", "sent", (PROXY, "apple")),
        (PHONE, "HEAD", 60, "", "sent", (SCANNER, "head")),
        ("", "GET", 60, "", "sent", (SCANNER, "no_agent")),
        ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "GET", 60, "", "sent", (SCANNER, "agent")),
        ("facebookexternalhit/1.1", "GET", 60, "", "sent", (SCANNER, "agent")),
        ("BarracudaCentral", "GET", 60, "", "sent", (SCANNER, "agent")),
        (PHONE, "GET", 1.4, "", "sent", (SCANNER, "early")),
        (PHONE, "GET", 1.5, "", "sent", (HUMAN, "")),
        (PHONE, "GET", 60, "", "leased", (SCANNER, "early")),
        (PHONE, "GET", 60, "198.51.100.9", "sent", (SCANNER, "network")),
        (PHONE, "GET", 60, "2001:db8::1", "sent", (SCANNER, "network")),
        (PHONE, "GET", 60, "::ffff:198.51.100.9", "sent", (SCANNER, "network")),
        (PHONE, "GET", 60, "198.51.101.9", "sent", (HUMAN, "")),
    ],
)  # fmt: skip
def test_what_a_visit_says_of_itself(
    agent: str, method: str, seconds: float, address: str, state: str, expected: tuple[str, str]
) -> None:
    networks = Networks(["198.51.100.0/24", "# a comment", "", "2001:db8::/32  # another"])
    visit = Visit(method, agent, address, NOW + timedelta(seconds=seconds))
    assert classify(visit, OPENED, None if state == "leased" else NOW, state, networks) == expected


def test_a_file_of_networks_is_read_once_and_a_wrong_one_is_refused(
    make: Callable[..., Site], tmp_path: Path
) -> None:
    path = tmp_path / "networks.txt"
    path.write_text("127.0.0.0/8\n")
    site = make(datacentre_networks=str(path))
    site.click("a", 60)
    assert site.told() == [(CLICKED, SCANNER, "network")]
    path.write_text("10.0.0.0/8\nnonsense\n")
    with pytest.raises(InvalidInput, match="Line 2"):
        load(str(path))
    with pytest.raises(InvalidInput, match="cannot be read"):
        make(datacentre_networks=str(tmp_path / "none"))


def test_visits_are_kept_raw_with_what_told_their_class(make: Callable[..., Site], db: Database) -> None:
    site = make()
    site.open(60)
    site.open(61, agent="Mozilla/5.0")
    site.click("a", 62, method="head")
    site.click("a", 63, **{"Sec-Purpose": "prefetch;prerender"})
    site.click("a", 64)
    assert site.told() == [
        (OPENED, HUMAN, ""),
        (OPENED, PROXY, "apple"),
        (CLICKED, SCANNER, "head"),
        (CLICKED, HUMAN, ""),
    ], "one a minute and class"
    with db.read() as session:
        last = session.scalars(sa.select(MessageEvent).order_by(MessageEvent.id.desc())).first()
    assert last is not None
    assert last.detail == {"url": "https://shop.example/a", "agent": PHONE}


def test_the_hidden_link_tells_what_was_done_around_it(make: Callable[..., Site], db: Database) -> None:
    site = make()
    site.click("a", 30)  # a reader, long before
    site.open(100)
    site.click("a", 101)
    site.trap(102)
    site.click("b", 103)
    site.click("c", 200)  # a reader, later
    assert site.told() == [
        (CLICKED, HUMAN, ""),
        (OPENED, SCANNER, "honeypot"),
        (CLICKED, SCANNER, "honeypot"),
        (CLICKED, SCANNER, "honeypot"),
        (CLICKED, SCANNER, "honeypot"),
        (CLICKED, HUMAN, ""),
    ]
    with db.read() as session:
        was = [
            e.detail.get("was") for e in session.scalars(sa.select(MessageEvent).order_by(MessageEvent.at))
        ]
    assert was == [None, HUMAN, HUMAN, None, None, None]


def test_every_link_within_seconds_was_no_reader(make: Callable[..., Site], db: Database) -> None:
    site = make()
    for letter, seconds in (("a", 100), ("b", 104)):
        site.click(letter, seconds)
    assert [actor for _, actor, _ in site.told()] == [HUMAN, HUMAN], "two of three may be a reader"
    site.click("c", 109)
    assert site.told() == [(CLICKED, SCANNER, "all_links")] * 3
    with db.read() as session:
        marks = session.scalars(sa.select(WarehouseMark.table_name)).all()
    assert "touches" in marks, "the warehouse forgets what it had counted"


def test_a_reader_who_takes_time_for_every_link_stays_human(make: Callable[..., Site]) -> None:
    site = make()
    for letter, seconds in (("a", 100), ("b", 110), ("c", 121)):
        site.click(letter, seconds)
    assert {actor for _, actor, _ in site.told()} == {HUMAN}


def test_the_only_link_of_a_message_may_be_clicked(
    make: Callable[..., Site], db: Database, settings: Settings
) -> None:
    one = add_template(db, settings, "email", html=LINKS["html"], text="x")
    with db.write() as session:
        session.execute(sa.text("UPDATE template_contents SET fields = :f WHERE template_id = :t").bindparams(
            sa.bindparam("f", {"subject": "s", "html": '<a href="https://shop.example/a">a</a>'}, type_=sa.JSON), t=one[0]))  # fmt: skip
        session.execute(sa.update(Message).values(template_id=one[0], template_version=one[1]))
    site = make()
    site.click("a", 100)
    site.click("a", 102)
    assert site.told() == [(CLICKED, HUMAN, "")]


def test_facts_know_humans_only(make: Callable[..., Site], db: Database) -> None:
    site = make()
    site.open(100, agent="Mozilla/5.0")
    site.trap(300)
    site.click("a", 301)
    touches = next(fact for fact in FACTS if fact.name == "touches")
    [first, _] = read(db, touches).sort_by("message_id").to_pylist()
    assert (first["opened_at"], first["clicked_at"]) == (None, None)


def test_a_trap_is_in_html_mail_hidden_and_its_token_opens_nothing_else(make: Callable[..., Site]) -> None:
    prepared = rewrite.with_pixel("<body><p>x</p></body>")
    assert prepared.index("{{ _trap_url }}") < prepared.index("{{ _open_url }}") < prepared.index("</body>")
    assert "display:none" in rewrite.TRAP
    assert 'aria-hidden="true"' in rewrite.TRAP
    assert rewrite.link_count(LINKS["html"]) == 3
    site = make()
    token = tracking.trap_url("", 1).rsplit("/", 1)[1]
    for path in (f"/t/c/{token}", f"/u/{token}", f"/p/{token}", f"/t/h/{token}x"):
        assert site.get(path, 60).status_code == 404
    assert site.told() == []


def test_an_unknown_message_leaves_nothing(make: Callable[..., Site], db: Database) -> None:
    visit = Visit("GET", PHONE, "", NOW)
    with db.write() as session:
        assert visits.record(session, OPENED, 99, visit, Networks()) is None
        visits.trap(session, 99, visit)
    assert make().told() == []
