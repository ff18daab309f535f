"""What followers do: read from WeChat's documents, and written once."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from channels import erasure
from channels.callbacks.wechat import FOLLOWED, SCANNED, UNFOLLOWED, Found, Grant, wechat_callback
from channels.consent import refusals
from channels.models import Consent, Suppression, WechatGrant, WechatSeen, WechatWindow
from channels.sandbox import wechat_events
from channels.wechat import binding, followers, follows, windows
from channels.wechat.windows import NONE, PERHAPS_SENT, SERVICE, TAKEN, Granted, Opened, Wish
from core.db import Database
from core.imports import EVENT_KINDS, EVENT_QUEUE
from core.models import Event, Member, Preference, Todo, WarehouseMark
from core.settings import Settings
from core.warehouse.engine import DuckEngine
from core.warehouse.replica import Replica, mark
from segments.evaluate import evaluator
from segments.facts import FACTS
from tests.channels.seed import NOW, add_members, openid_of
from tests.conftest import count

LATER = NOW + timedelta(minutes=1)


def xml(event: str, inner: str = "", at: int | None = None, openid: str = "o-1") -> bytes:
    return (
        f"<xml><ToUserName>gh</ToUserName><FromUserName><![CDATA[{openid}]]></FromUserName><CreateTime>"
        f"{at or int(NOW.timestamp())}</CreateTime><MsgType><![CDATA[event]]></MsgType>"
        f"<Event><![CDATA[{event}]]></Event>{inner}</xml>"
    ).encode()


def entry(template: str, answer: str) -> str:
    return f"<List><TemplateId>{template}</TemplateId><SubscribeStatusString>{answer}</SubscribeStatusString></List>"


@pytest.mark.parametrize(
    ("event", "inner", "happened", "window", "scene"),
    [
        ("subscribe", "<EventKey>qrscene_m7</EventKey>", FOLLOWED, "touch", "m7"),
        ("subscribe", "<EventKey></EventKey>", FOLLOWED, "touch", ""),
        ("unsubscribe", "", UNFOLLOWED, None, ""),
        ("SCAN", "<EventKey>m7</EventKey>", SCANNED, "touch", "m7"),
        ("CLICK", "<EventKey>menu1</EventKey>", None, "touch", ""),
        ("VIEW", "<EventKey>https://x</EventKey>", None, "touch", ""),
    ],
)
def test_events_of_followers(
    event: str, inner: str, happened: str | None, window: str | None, scene: str
) -> None:
    found = wechat_callback(xml(event, inner), NOW)
    assert (found.openid, found.at, found.happened, found.window, found.scene) == (
        "o-1", NOW, happened, window, scene,
    )  # fmt: skip


def test_a_list_of_subscriptions_is_one_entry_or_several_in_xml_and_json() -> None:
    name = "SubscribeMsgPopupEvent"
    both = f"<{name}>{entry('t1', 'accept')}{entry('t2', 'reject')}</{name}>"
    expected = (Grant("t1", True), Grant("t2", False))
    assert wechat_callback(xml("subscribe_msg_popup_event", both), NOW).grants == expected
    one = f"<{name}>{entry('t1', 'accept')}</{name}>"
    assert wechat_callback(xml("subscribe_msg_popup_event", one), NOW).grants == expected[:1]
    body = {"FromUserName": "o-1", "CreateTime": 5, "MsgType": "event", "Event": "subscribe_msg_popup_event"}
    listed = {"TemplateId": "t1", "SubscribeStatusString": "accept"}
    for value in (listed, [listed]):
        assert wechat_callback(json.dumps({**body, "List": value}).encode(), NOW).grants == expected[:1]


def test_a_change_in_the_settings_only_takes_away() -> None:
    inner = (
        f"<SubscribeMsgChangeEvent>{entry('t1', 'accept')}{entry('t2', 'reject')}</SubscribeMsgChangeEvent>"
    )
    found = wechat_callback(xml("subscribe_msg_change_event", inner), NOW)
    assert found.grants == (Grant("t2", False),)


def test_what_became_of_subscription_messages() -> None:
    inner = (
        "<SubscribeMsgSentEvent><List><TemplateId>t</TemplateId><MsgID>5</MsgID><ErrorCode>0</ErrorCode>"
        "<ErrorStatus>success</ErrorStatus></List><List><MsgID>6</MsgID><ErrorCode>3</ErrorCode></List>"
        "</SubscribeMsgSentEvent>"
    )
    found = wechat_callback(xml("subscribe_msg_sent_event", inner), NOW).receipts
    assert [(r.provider_id, r.kind, r.detail["code"]) for r in found] == [
        ("5", "delivered", "0"),
        ("6", "undelivered", "3"),
    ]


def test_a_message_opens_a_window_and_may_ask_to_be_left_alone(settings: Settings) -> None:
    found = wechat_callback(wechat_events.text_message(settings, "o-1", " 退订。"), NOW)
    assert (found.window, [(o.address, o.granted) for o in found.opt_outs]) == ("message", [("o-1", False)])
    found = wechat_callback(wechat_events.text_message(settings, "o-1", "在吗"), NOW)
    assert (found.window, found.opt_outs) == ("message", ())
    assert wechat_callback(xml("LOCATION"), NOW) == Found()


def act(database: Database, body: bytes) -> bool:
    with database.write() as session:
        return followers.apply(session, wechat_callback(body, LATER), LATER)


def test_leaving_and_following_again(db: Database) -> None:
    add_members(db, [1])
    openid, at = openid_of(1), int(NOW.timestamp())
    assert act(db, xml("unsubscribe", at=at + 30, openid=openid)) is True
    assert act(db, xml("unsubscribe", at=at + 30, openid=openid)) is False
    with db.read() as session:
        assert session.scalars(sa.select(Suppression.reason)).all() == ["unfollowed"]
        assert session.scalar(sa.select(Consent.granted).where(Consent.channel == "wechat")) is False
        assert refusals(session, [1], "wechat", "marketing") == {1: "suppressed"}
        assert refusals(session, [1], "wechat", "transactional") == {}
    assert act(db, xml("subscribe", at=at + 20, openid=openid)), "older than the leaving: it changes nothing"
    with db.read() as session:
        assert len(session.scalars(sa.select(Suppression)).all()) == 1
    assert act(db, xml("subscribe", at=at + 40, openid=openid))
    with db.read() as session:
        assert session.scalars(sa.select(Suppression)).all() == []
        assert refusals(session, [1], "wechat", "marketing") == {1: "no_consent"}, "that needs a new yes"


def test_a_follow_keeps_the_scene_of_its_code(db: Database) -> None:
    add_members(db, [1])
    openid, at = openid_of(1), int(NOW.timestamp())
    scanned = xml("subscribe", "<EventKey>qrscene_store-12</EventKey>", at=at - 60, openid=openid)
    assert act(db, scanned) is True
    assert act(db, scanned) is False
    assert act(db, xml("SCAN", "<EventKey>poster</EventKey>", at=at - 30, openid=openid))
    assert act(db, xml("unsubscribe", at=at, openid=openid))
    with db.read() as session:
        rows = session.execute(
            sa.select(Event.source, Event.member_id, Event.kind, Event.properties).order_by(Event.occurred_at)
        ).all()
        assert [tuple(row) for row in rows] == [
            ("wechat", 1, "wechat_followed", {"scene": "store-12"}),
            ("wechat", 1, "wechat_scanned", {"scene": "poster"}),
            ("wechat", 1, "wechat_unfollowed", {}),
        ]
        marks = sa.select(WarehouseMark.month).where(WarehouseMark.table_name == "events")
        assert set(session.scalars(marks)) == {"2026-03"}


def test_a_follow_before_the_binding_is_told_when_the_openid_is_bound(db: Database) -> None:
    add_members(db, [1, 2])
    at = int(NOW.timestamp())
    for scene, before in (("old", 90), ("new", 60), ("late", 75)):
        act(db, xml("subscribe", f"<EventKey>qrscene_{scene}</EventKey>", at=at - before, openid="oNew"))
    assert count(db, "events") == 0
    with db.write() as session:
        assert binding.bind(session, 1, binding.Identity("oNew", None), NOW) is binding.Bound.NEW
    with db.write() as session:
        binding.bind(session, 1, binding.Identity("oNew", None), NOW)
        follows.tell(session, [followers.openid_index("oNew")])
    with db.read() as session:
        (event,) = session.scalars(sa.select(Event)).all()
        assert (event.member_id, event.properties) == (1, {"scene": "new"}), "the newest that was reported"
        assert event.occurred_at == NOW - timedelta(seconds=60)


def test_a_segment_asks_for_the_scene(db: Database, settings: Settings, tmp_path: Path) -> None:
    add_members(db, [1, 2, 3])
    for number, scene in ((1, "store-12"), (2, "poster")):
        act(db, xml("subscribe", f"<EventKey>qrscene_{scene}</EventKey>", openid=openid_of(number)))
    engine = DuckEngine(Replica(str(tmp_path / "warehouse"), FACTS))
    with db.write() as session:
        mark(session, "members", [None])
    engine.replica.sync(db)
    came = {"field": "properties.scene", "op": "=", "value": "store-12"}
    rule = {"event": "wechat_followed", "op": ">=", "value": 1, "where": [came]}
    with db.read() as session:
        found = evaluator(session, engine, settings, date(2026, 3, 3)).count(rule)
    assert (found.count, found.sample, found.total) == (1, ["m1"], 3)


def test_following_earns_what_the_shop_gives_for_it(db: Database) -> None:
    add_members(db, [1])
    with db.write() as session:
        session.add(Preference(key=EVENT_KINDS, value=["wechat_followed"], updated_at=NOW))
    for event in ("subscribe", "unsubscribe"):
        act(db, xml(event, openid=openid_of(1)))
    with db.read() as session:
        followed = session.scalars(sa.select(Event.id).where(Event.kind == "wechat_followed")).one()
        todos = session.scalars(sa.select(Todo.subject_id).where(Todo.queue == EVENT_QUEUE)).all()
        assert list(todos) == [followed]


def test_an_erasure_forgets_where_a_follower_came_from(db: Database, settings: Settings) -> None:
    add_members(db, [1])
    act(db, xml("subscribe", "<EventKey>qrscene_x</EventKey>", openid=openid_of(1)))
    with db.write() as session:
        erasure.forget(session, session.get_one(Member, 1), NOW)
    assert count(db, "wechat_follows") == 0


def test_a_repeated_callback_counts_once_and_is_forgotten_after_a_day(db: Database) -> None:
    inner = f"<SubscribeMsgPopupEvent>{entry('t1', 'accept')}</SubscribeMsgPopupEvent>"
    for _ in range(3):
        act(db, xml("subscribe_msg_popup_event", inner))
    act(db, xml("subscribe_msg_popup_event", inner, at=int(NOW.timestamp()) - 1))
    with db.read() as session:
        assert session.scalars(sa.select(WechatGrant.left)).all() == [2]
    with db.write() as session:
        assert windows.first_time(session, "later", NOW + timedelta(days=2))
        assert session.scalars(sa.select(WechatSeen.key)).all() == ["later"]


def test_windows_and_grants_are_taken_once_and_given_back(db: Database) -> None:
    with db.write() as session:
        windows.open_windows(session, [Opened("a", "touch", NOW), Opened("a", "message", NOW)])
        windows.change_grants(session, [Granted("a", "t1", 1), Granted("a", "t1", 1), Granted("b", "t1", 0)])
    wishes = [Wish(f"c{n}", "a", SERVICE) for n in range(9)] + [Wish(f"g{n}", "a", "t1") for n in range(3)]
    with db.write() as session:
        found = windows.take(session, wishes, NOW)
    assert found == [TAKEN] * 8 + [NONE, TAKEN, TAKEN, NONE], "3 of the minute, 5 of the two days"
    with db.write() as session:
        again = windows.take(session, [*wishes[:2], Wish("g9", "b", "t1")], NOW)
        assert again == [PERHAPS_SENT, PERHAPS_SENT, NONE]
        windows.give_back(session, [wishes[0], wishes[9]])
    with db.write() as session:
        assert windows.take(session, [wishes[0], wishes[11], wishes[8]], NOW) == [TAKEN, TAKEN, NONE]
    with db.write() as session:
        windows.open_windows(session, [Opened("a", "message", NOW - timedelta(hours=1))])
        assert windows.take(session, [Wish("d", "a", SERVICE)], NOW) == [NONE], "old news opens nothing"
        windows.open_windows(session, [Opened("a", "message", NOW + timedelta(hours=1))])
        assert windows.take(session, [Wish("e", "a", SERVICE)], NOW + timedelta(hours=48)) == [TAKEN]
        assert windows.take(session, [Wish("f", "a", SERVICE)], NOW + timedelta(hours=49)) == [NONE]
        windows.close(session, [Wish("e", "a", SERVICE), Wish("g", "a", "t1")])
    with db.read() as session:
        assert set(session.scalars(sa.select(WechatWindow.left))) == {0}
        assert session.scalars(sa.select(WechatGrant.left)).all() == [0, 0]
