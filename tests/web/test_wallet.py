"""The member's wallet: what it shows, to whom, in which words; and the way to it through WeChat."""

from __future__ import annotations

import email
import email.policy
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import sqlalchemy as sa
from apiflask import APIFlask
from flask import Flask
from flask.testing import FlaskClient

from channels import tracking
from channels.models import Consent
from channels.render import Job, MemberView, compile_content
from channels.transports.base import EmailPayload
from channels.wechat import binding
from core.db import Database
from core.models import AuditEntry, Member
from core.settings import Settings
from loyalty import coupons, points
from loyalty.coupons import NewBatch
from loyalty.groups import groups, offers
from loyalty.groups.offers import NewOffer
from loyalty.models import PointsLot
from loyalty.referrals import programs
from loyalty.referrals.joining import join
from loyalty.referrals.links import token_of
from loyalty.referrals.programs import NewProgram
from loyalty.tiers import store
from loyalty.tiers.model import POINTS, Program, Tier
from loyalty.tiers.models import MemberTier
from tests.channels.seed import NOW, add_members, openid_of, sandbox
from tests.web.conftest import Shop
from web.api import keys
from web.api.views import create_blueprint as create_api
from web.public.views import create_blueprint
from web.public.wallet_words import Words


def client_of(db: Database, settings: Settings, now: datetime = NOW) -> FlaskClient:
    app = Flask("test")
    app.register_blueprint(create_blueprint(db, settings, lambda: now))
    return app.test_client()


def path_of(member_id: int = 1) -> str:
    return tracking.wallet_url("", member_id)


def give(db: Database, member_id: int, name: str, **changes: object) -> str:
    """A code of a batch of its own."""
    benefit = changes.pop("benefit", {"type": "fixed", "amount": 2000})
    values: dict[str, object] = {"min_spend_minor": 19_900, "title": f"Title of {name}", **changes}
    with db.write() as session:
        new = NewBatch(name=name, benefit=benefit, currency="CNY", **values)  # type: ignore[arg-type]
        batch = coupons.create_batch(session, new, "test", NOW - timedelta(days=30))
        key = f"test:{name}"
        return coupons.issue(session, batch, [(member_id, key)], NOW - timedelta(days=10))[key]


def given_wallet(db: Database, settings: Settings) -> dict[str, str]:
    """Members 1 to 4; the first has something of everything. Codes by name."""
    add_members(db, [1, 2, 3, 4])
    codes = {
        "usable": give(db, 1, "usable", ends_at=datetime(2026, 3, 10, 16, tzinfo=UTC)),
        "share": give(
            db,
            1,
            "share",
            benefit={"type": "percent", "percent": "15", "max_amount": 5000},
            min_spend_minor=0,
        ),
        "coming": give(db, 1, "coming", starts_at=NOW + timedelta(days=3)),
        "used": give(db, 1, "used", min_spend_minor=0),
        "over": give(db, 1, "over", ends_at=NOW - timedelta(days=1)),
        "others": give(db, 2, "others"),
    }
    with db.write() as session:
        coupons.redeem(
            session, codes["used"], order_ref="O1", basket_minor=50_000, currency="CNY",
            member_external_id="m1", idempotency_key="use", now=NOW - timedelta(days=2),
        )  # fmt: skip
        points.grant_many(session, [(1, 1200, "a"), (1, 300, "b")], NOW - timedelta(days=5))
        points.grant_many(session, [(1, 80, "c")], NOW - timedelta(days=1), source_kind="grant")
        for source, changes in {
            "a": {"expires_at": datetime(2026, 3, 31, 16, tzinfo=UTC)},
            "b": {"expires_at": datetime(2026, 3, 20, 16, tzinfo=UTC)},
            "c": {"available_at": datetime(2026, 3, 8, 16, tzinfo=UTC)},
        }.items():
            session.execute(sa.update(PointsLot).where(PointsLot.source_id == source).values(**changes))
        ladder = (
            Tier("silver", "银卡会员", 1000, "Silver", {"multiplier": "1.5", "free_shipping": True}),
            Tier("gold", "金卡会员", 5000, "Gold"),
        )
        store.save_program(session, Program(ladder, basis=POINTS), "test", NOW)
        until = datetime(2027, 1, 1, 16, tzinfo=UTC)
        session.add(MemberTier(member_id=1, tier="silver", since=NOW, until=until, value=1500))
        programs.create(session, NewProgram("friends", "Friends", "CNY", referrer_points=100), "test", NOW)
        join(session, token_of(1), 2, NOW)
        batch = coupons.create_batch(
            session,
            NewBatch(name="tea", title="Tea", benefit={"type": "fixed", "amount": 3000}, currency="CNY"),
            "test",
            NOW,
        )
        offers.create(session, NewOffer("tea", "三人拼茶", 3, 24, batch.id), "test", NOW)
        group = groups.open_group(session, "tea", 3, idempotency_key="g", now=NOW)
        groups.join(session, group.token, 1, idempotency_key="g1", now=NOW)
    return codes


def words_of(html: str) -> str:
    """What a reader sees, spaces folded."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def test_a_member_sees_all_they_hold_in_their_language(db: Database, settings: Settings) -> None:
    codes = given_wallet(db, settings)
    client = client_of(db, settings)
    page = client.get(path_of())
    assert page.status_code == 200
    assert 'lang="zh-CN"' in page.text
    shown = words_of(page.text)
    for text in (
        "会** ·", "银卡会员", "有效期至 2027年1月1日", "升级为金卡会员", "1.5 倍积分", "包邮", "1,500 可用积分",
        "300 积分将于 2026年3月20日 到期 1,200 积分将于 2026年3月31日 到期", "2026年3月9日 起可用 80 积分",
        "+1,200", "商家赠送", "立减 ¥20", "满 ¥199 可用 有效期至 2026年3月10日", "优惠 15%，最多减 ¥50",
        "无使用门槛 长期有效", "2026年3月5日 12:00 起可用", "Title of used 已使用", "Title of over 已过期",
        "已有 1 位好友加入", "三人拼茶", "2 / 3 人，还差 1 人 截止 2026年3月3日 12:00", "消息订阅偏好",
    ):  # fmt: skip
        assert text in shown, text
    assert codes["usable"] in shown
    assert codes["share"] in shown
    for name in ("coming", "used", "over", "others"):
        assert codes[name] not in page.text, name
    assert page.text.count("<svg") == 3, "two codes and the invitation"
    assert "style=" not in page.text
    assert "<script" not in page.text
    assert page.headers["Cache-Control"] == "no-store"
    assert "Set-Cookie" not in page.headers


def test_the_switch_changes_the_language(db: Database, settings: Settings) -> None:
    given_wallet(db, settings)
    page = client_of(db, settings).get(f"{path_of()}?lang=en")
    assert 'lang="en"' in page.text
    shown = words_of(page.text)
    for text in (
        "Silver", "Valid until Jan 1, 2027", "5,000 points more", "to Gold", "1.5 times the points",
        "300 points expire on Mar 20, 2026", "80 points more from Mar 9, 2026", "CN¥20 off",
        "from CN¥199 Valid until Mar 10, 2026", "15% off, CN¥50 at most", "on any order No end",
        "1 joined so far", "2 of 3, 1 more needed",
    ):  # fmt: skip
        assert text in shown, text
    assert not re.search("[\u4e00-\u9fff]", re.sub("三人拼茶|中文|会", "", shown))


def test_the_wallet_of_who_has_nothing_says_so(db: Database, settings: Settings) -> None:
    add_members(db, [1])
    shown = words_of(client_of(db, settings).get(path_of()).text)
    assert "还没有积分" in shown
    assert "暂无可用优惠券" in shown
    for heading in ("会员等级", "邀请好友", "进行中的拼团", "积分明细"):
        assert heading not in shown


def test_links_of_nobody_and_of_the_erased_are_no_longer_good(db: Database, settings: Settings) -> None:
    add_members(db, [1, 2])
    with db.write() as session:
        session.execute(sa.update(Member).where(Member.id == 2).values(erased_at=NOW))
    client = client_of(db, settings)
    forged = path_of()[:-1] + ("A" if path_of()[-1] != "A" else "B")
    other_purpose = tracking.preferences_url("", 1).replace("/p/", "/w/")
    answers = [client.get(one) for one in (path_of(2), path_of(99), forged, other_purpose, "/w/x")]
    assert [answer.status_code for answer in answers] == [404] * 5
    assert len({answer.text for answer in answers}) == 1
    assert client.get(path_of()).status_code == 200


def test_the_wallet_asks_the_same_number_of_queries_whatever_it_holds(
    db: Database, settings: Settings
) -> None:
    given_wallet(db, settings)
    client = client_of(db, settings)

    def queries() -> int:
        seen: list[str] = []

        def note(_c: object, _cursor: object, statement: str, *_rest: object) -> None:
            if statement.lstrip().upper().startswith(("SELECT", "WITH")):
                seen.append(statement)

        sa.event.listen(db.engine, "before_cursor_execute", note)
        try:
            assert client.get(path_of()).status_code == 200
        finally:
            sa.event.remove(db.engine, "before_cursor_execute", note)
        return len(seen)

    before = queries()
    for number in range(20):
        give(db, 1, f"more-{number}")
    with db.write() as session:
        points.grant_many(session, [(1, 5, f"p{number}") for number in range(40)], NOW)
    assert queries() == before
    assert before <= 20


def test_the_preferences_open_from_the_wallet_and_are_kept(db: Database, settings: Settings) -> None:
    add_members(db, [1])
    client = client_of(db, settings)
    link = re.search(r'href="(/p/[^"]+)"', client.get(path_of()).text)
    assert link is not None
    assert client.get(link[1]).status_code == 200
    assert client.post(link[1], data={"channel": "sms"}).status_code == 200
    with db.read() as session:
        granted = session.scalars(sa.select(Consent.channel).where(Consent.granted)).all()
        assert granted == ["sms"]
        session.connection()
    with db.write() as session:
        session.execute(sa.update(Member).values(erased_at=NOW))
    assert client.get(link[1]).status_code == 404


def through_wechat(client: FlaskClient, there: Settings, openid: str) -> tuple[int, str]:
    """Open the address for WeChat, agree there as ``openid``, come back: status, and where it led."""
    asked = client.get("/w/wechat")
    assert asked.status_code == 302
    assert "scope=snsapi_base" in asked.location
    agreed = httpx.get(f"{asked.location.removesuffix('#wechat_redirect')}&as={openid}")
    assert agreed.status_code == 302, agreed.text
    back = agreed.headers["location"].removeprefix(there.base_url)
    answer = client.get(back)
    assert client.get(back).status_code == 404, "a state works once"
    return answer.status_code, answer.location or answer.text


def test_wechat_leads_the_bound_member_to_their_wallet(db: Database, settings: Settings) -> None:
    add_members(db, [1, 2])
    with sandbox(db, settings, changes={"wechat_scope": "snsapi_userinfo"}) as (there, _):
        client = client_of(db, there)
        assert through_wechat(client, there, openid_of(2)) == (
            302,
            tracking.wallet_url(there.base_url, 2),
        )
        status, text = through_wechat(client, there, "oNobody")
        assert status == 404
        assert "还没有绑定会员" in text
        assert through_wechat(client, there, "snapshot-1")[0] == 403
        with db.write() as session:
            twice = session.get_one(Member, 2).openid_index
            session.execute(sa.update(Member).values(openid_index=twice))
        assert through_wechat(client, there, openid_of(2))[0] == 404, "two members: not a guess"


def test_states_of_a_binding_open_no_wallet_and_the_reverse(sqlite_db: Database, settings: Settings) -> None:
    add_members(sqlite_db, [1])
    client = client_of(sqlite_db, settings)
    for state in (binding.make_state(1, NOW), binding.make_state(0, NOW - timedelta(minutes=10)), "x", ""):
        answer = client.get("/w/wechat/back", query_string={"state": state, "code": "c"})
        assert answer.status_code == 404
    good = binding.make_state(0, NOW)
    assert client.get("/w/wechat/back", query_string={"state": good}).status_code == 403
    assert client.get("/w/wechat/back", query_string={"state": good, "code": "c"}).status_code == 502


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (datetime(2026, 3, 10, 16, tzinfo=UTC), "Mar 10, 2026"),
        (datetime(2026, 3, 10, 15, 59, 59, tzinfo=UTC), "Mar 10, 2026"),
        (datetime(2026, 3, 10, 10, tzinfo=UTC), "Mar 10, 2026 18:00"),
    ],
)
def test_an_end_is_said_as_the_last_day(settings: Settings, end: datetime, said: str) -> None:
    assert Words("en", settings.zone).until(end) == said


def test_amounts_have_decimals_where_they_need_them(settings: Settings) -> None:
    words = Words("zh", settings.zone)
    assert [words.money(1250, "CNY"), words.money(2000, "CNY"), words.money(500, "JPY")] == [
        "¥12.50",
        "¥20",
        "JP¥500",
    ]


def test_who_may_see_contacts_opens_a_members_wallet_and_it_is_noted(shop: Shop) -> None:
    support = shop.client("support@example.com")
    assert "/members/9/wallet" in support.get("/members/9").text
    answer = support.post("/members/9/wallet")
    assert answer.status_code == 303
    assert answer.location == path_of(9)
    assert support.get(answer.location).status_code == 200
    with shop.database.read() as session:
        rows = session.execute(
            sa.select(AuditEntry.actor, AuditEntry.object_id).where(
                AuditEntry.action == "member.wallet_shown"
            )
        ).all()
        assert [tuple(row) for row in rows] == [("support@example.com", "9")]
    marketer = shop.client("marketer@example.com")
    assert "/members/9/wallet" not in marketer.get("/members/9").text
    assert marketer.post("/members/9/wallet").status_code == 403


def test_a_shop_fetches_the_link_with_a_key_for_loyalty(db: Database, settings: Settings) -> None:
    add_members(db, [1, 2])
    with db.write() as session:
        session.execute(sa.update(Member).where(Member.id == 2).values(erased_at=NOW))
        keyed = {
            scope: {"Authorization": f"Bearer {keys.create(session, scope, (scope,), 'ann', NOW)[1]}"}
            for scope in (keys.LOYALTY, keys.READ)
        }
    app = APIFlask("test")
    app.register_blueprint(create_api(db, settings, clock=lambda: NOW))
    client = app.test_client()
    answer = client.get("/api/v1/members/m1/wallet-link", headers=keyed[keys.LOYALTY])
    assert (answer.status_code, answer.get_json()) == (
        200,
        {"member_id": "m1", "url": tracking.wallet_url(settings.base_url, 1)},
    )
    assert client.get("/api/v1/members/m1/wallet-link", headers=keyed[keys.READ]).status_code == 403
    assert client.get("/api/v1/members/m1/wallet-link").status_code == 401
    assert client.get("/api/v1/members/m2/wallet-link", headers=keyed[keys.LOYALTY]).status_code == 404


@pytest.mark.parametrize(
    ("channel", "fields"),
    [
        (
            "email",
            {
                "subject": "s",
                "html": '<a href="{{ wallet_url }}">w</a><a href="{{ unsubscribe_url }}">x</a>',
            },
        ),
        ("sms", {"text": "{{ wallet_url }}", "provider_template": "SMS_1", "params": {}}),
        ("wechat", {"provider_template": "T", "url": "{{ wallet_url }}", "data": {"a": "b"}}),
        ("webhook", {"title": "t", "url": "{{ wallet_url }}"}),
        ("wecom", {"text": "t", "link": {"title": "t", "url": "{{ wallet_url }}"}}),
    ],
)
def test_messages_of_every_channel_carry_the_link_as_it_is(
    settings: Settings, channel: str, fields: dict[str, object]
) -> None:
    content = compile_content(channel, "marketing", "zh_CN", fields)
    member = MemberView(7, "m7", name="甲")
    address = "a@example.com" if channel == "email" else "+8613800138000"
    job = Job(5, "marketing", member, address, {}, settings.zone, NOW)
    link = tracking.wallet_url(settings.base_url, 7)
    payload = content.payload(settings, job)
    if isinstance(payload, EmailPayload):
        message = email.message_from_bytes(payload.content, policy=email.policy.default)
        html = message.get_body(("html",))
        assert html is not None
        assert f'href="{link}"' in html.get_content()
    else:
        assert link in str(payload), "not led through a counter, which would keep it"
    seen = str(content.preview(settings, replace(job, tracked=False)))
    assert "/w/" in seen
    assert link not in seen, "who looks at a message is not the member"
