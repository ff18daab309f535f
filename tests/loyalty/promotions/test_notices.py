"""规则公示: the words of a rule, what is frozen when, the console's page and the public one."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from core.db import Database
from core.errors import Conflict
from core.models import AuditEntry
from loyalty.promotions import notices, store
from loyalty.promotions.conditions import TYPES
from loyalty.promotions.models import PromotionNotice, PromotionRow
from loyalty.promotions.notice import notice, plain, to_texts
from loyalty.promotions.parse import read_promotion
from tests.conftest import count
from tests.loyalty.data import NOW, together
from tests.loyalty.promotions.cases import ZONE, Json, at_least, off, percent, promotion
from tests.web import seed
from tests.web.conftest import *  # noqa: F403 - its fixtures: a shop with users of every role
from tests.web.conftest import Shop

TITLE = "双十一"


def texts(benefit: Json, **more: Any) -> dict[str, dict[str, str]]:
    """Heading → text, of each language."""
    made = to_texts(TITLE, notice(read_promotion(promotion(benefit, **more)), ZONE, "CNY"))
    return {language: dict(text["parts"]) for language, text in made.items()}


def test_a_whole_rule_in_both_languages() -> None:
    found = texts(
        percent(20, max_amount=5000, scope={"categories": ["mugs"], "exclude_skus": ["mug-9"]}),
        starts_at="2026-11-11T00:00:00+08:00",
        ends_at="2026-11-12T00:00:00+08:00",
        conditions=[at_least(10000), {"type": "tier", "in": ["gold", "silver"]}],
        exclusive=True,
        limits={"stock": 100, "per_member": 1},
    )
    assert found["zh"] == {
        "活动对象": "会员等级为 gold、silver 的会员。",
        "活动时间": "2026-11-11 00:00 至 2026-11-12 00:00（Asia/Shanghai 时间）。",
        "优惠内容": "8 折，最高优惠 50 元。",
        "参与条件": "商品金额满 100 元。",
        "适用商品": "mugs 品类（不含 商品 mug-9）。",
        "叠加规则": "不与其他优惠同享。",
        "限量说明": "限量 100 份，先到先得，抢完即止。每位会员限 1 份。下单后为您保留名额，超时未支付自动释放。",
        "退款规则": "退货时，按所退商品分摊优惠后的实付金额退款，优惠部分不折现。已支付订单退款后，活动名额不再恢复。",
    }
    assert found["en"]["Who"] == "Members of the tier gold, silver."
    assert found["en"]["When"] == "From 2026-11-11 00:00 until 2026-11-12 00:00 (Asia/Shanghai)."
    assert found["en"]["What"] == "20 % off, at most 50.00 CNY."
    assert found["en"]["Goods"] == "the categories mugs without the SKUs mug-9."
    assert found["en"]["With other offers"] == "It applies alone, beside no other offer."


def test_a_rule_without_anything_else_says_so() -> None:
    found = texts(off(550))["zh"]
    assert found["活动对象"] == "全体顾客。"
    assert found["活动时间"] == "长期有效，结束时间另行公告（Asia/Shanghai 时间）。"
    assert found["优惠内容"] == "适用商品立减 5.50 元。"
    assert (found["参与条件"], found["适用商品"], found["限量说明"]) == ("无门槛。", "全场商品。", "不限量。")


@pytest.mark.parametrize(
    ("benefit", "english", "chinese"),
    [
        (percent(12.5), "12.5 % off.", "8.75 折。"),
        (
            {"type": "fixed_each", "amount": 100, "max_units": 3},
            "1.00 CNY off each of the 3",
            "价格最高的 3 件",
        ),
        ({"type": "fixed_price", "count": 3, "price": 2000}, "3 units for 20.00 CNY.", "20 元 任选 3 件。"),
        (
            {"type": "buy_x_get_y", "buy": 2, "get": 1},
            "every 3 units the 1 cheapest free",
            "价格最低的 1 件免费",
        ),
        (
            {"type": "buy_x_get_y", "buy": 1, "get": 1, "percent": 50, "max_times": 2},
            "50 % off, at most 2 times",
            "5 折，每单最多 2 次",
        ),
        (
            {"type": "tiered", "by": "amount", "repeat": True, "tiers": [{"from": 10000, "off": 1000}]},
            "10.00 CNY off for each 100.00 CNY.",
            "每满 100 元减 10 元。",
        ),
        (
            {
                "type": "tiered",
                "by": "quantity",
                "tiers": [{"from": 2, "percent": 10}, {"from": 3, "percent": 20}],
            },
            "10 % off from 2 units on; 20 % off from 3 units on; the highest",
            "满 2 件 9 折；满 3 件 8 折，按可达到的最高一档计算。",
        ),
        ({"type": "free_shipping"}, "Free shipping.", "免运费。"),
        ({"type": "gift", "sku": "bag"}, "A gift: 1 × bag.", "赠送 bag × 1。"),
        ({"type": "points", "amount": 50}, "50 points more.", "额外赠送 50 积分。"),
        ({"type": "points", "times": "2.5"}, "2.5 times the points.", "积分 2.5 倍。"),
    ],
)
def test_each_kind_of_benefit_has_its_words(benefit: Json, english: str, chinese: str) -> None:
    found = texts(benefit)
    assert english in found["en"]["What"]
    assert chinese in found["zh"]["优惠内容"]


def test_each_condition_has_words_in_both_languages() -> None:
    given: list[Json] = [
        at_least(100), {"type": "max_subtotal", "amount": 5}, {"type": "min_quantity", "quantity": 2},
        {"type": "nth_order", "n": 3}, {"type": "first_order"}, {"type": "tier", "in": ["gold"]},
        {"type": "segment", "in": ["vip"]}, {"type": "weekday", "in": ["sat", 7]}, {"type": "member_day", "day": 8},
        {"type": "birthday", "within_days": 3},
        {"type": "any", "conditions": [at_least(700), {"type": "first_order"}]},
        {"type": "all", "conditions": [at_least(800), {"type": "tier", "in": ["gold"]}]},
        {"type": "not", "condition": {"type": "segment", "in": ["staff"]}},
    ]  # fmt: skip
    assert {one["type"] for one in given} == set(TYPES)
    for condition in given:
        found, bare = texts(off(1), conditions=[condition]), texts(off(1))
        changed = {heading for heading, text in found["en"].items() if text != bare["en"][heading]}
        assert len(changed) == 1, condition
        assert not any("\u4e00" <= char <= "\u9fff" for char in "".join(found["en"].values()))
        assert sum(found["zh"][heading] != bare["zh"][heading] for heading in bare["zh"]) == 1
    either = texts(off(1), conditions=[given[10]])
    assert either["zh"]["参与条件"] == "商品金额满 7 元，或会员首单。"
    # A segment's name is the shop's own affair.
    assert "vip" not in str(texts(off(1), conditions=[given[6]]))


def add(database: Database, *, large_sale: bool = True, **definition: Any) -> None:
    content = {"benefit": off(1000), "starts_at": "2026-03-20T00:00:00+08:00", **definition}
    with database.write() as session:
        store.save(
            session, name="sale", title=TITLE, definition=content, by="ann", now=NOW, large_sale=large_sale
        )


def publish(database: Database, now: datetime = NOW) -> int:
    with database.write() as session:
        row = store.by_name(session, "sale")
        return notices.publish(session, row, ZONE, "CNY", "ann", now).number


def standing(database: Database, now: datetime = NOW) -> notices.Standing:
    with database.read() as session:
        return notices.standing(session, store.by_name(session, "sale"), ZONE, "CNY", now)


def test_what_was_published_stays_as_it_was(db: Database) -> None:
    add(db)
    assert publish(db) == publish(db, NOW + timedelta(days=1)) == 1
    add(db, benefit=off(2000))
    assert standing(db).changed
    assert publish(db, NOW + timedelta(days=2)) == 2
    assert not standing(db).changed
    with db.read() as session:
        for number, amount in ((1, "10 元"), (2, "20 元"), (None, "20 元")):
            found = notices.published(session, "sale", number)
            assert found is not None
            assert (amount in plain(found[0].texts, "zh"), found[1]) == (True, 2)
        assert notices.published(session, "sale", 3) is notices.published(session, "none") is None
        query = sa.select(AuditEntry.detail).where(AuditEntry.action == "publish").order_by(AuditEntry.id)
        assert session.scalars(query).all() == [{"notice": 1}, {"notice": 2}]
    with db.write() as session:
        store.archive(session, "sale", "ann", NOW)
    with pytest.raises(Conflict, match="archived"):
        publish(db)


def test_a_large_sale_is_late_when_its_rules_are_not_public_seven_days_ahead(db: Database) -> None:
    add(db)
    due = datetime.fromisoformat("2026-03-13T00:00:00+08:00")
    assert standing(db).publish_by == due
    assert not standing(db, due).late
    assert standing(db, due + timedelta(seconds=1)).late
    publish(db, due)
    assert not standing(db, due + timedelta(days=5)).late
    add(db, benefit=off(2000))  # other rules than those that were public
    assert standing(db, due + timedelta(days=5)).late
    add(db, large_sale=False)
    assert (standing(db, due + timedelta(days=5)).late, standing(db).publish_by) == (False, None)


def test_twenty_who_publish_at_once_make_one_version(pg_db: Database) -> None:
    add(pg_db)
    assert together([lambda: publish(pg_db)] * 20) == {"done": 20}
    assert count(pg_db, "promotion_notices") == 1


def given_sale(shop: Shop) -> int:
    with shop.database.write() as session:
        starts = seed.NOW + timedelta(days=3)
        content = {"benefit": off(1000), "currency": "CNY", "starts_at": starts.isoformat()}
        return store.save(
            session,
            name="sale",
            title=TITLE,
            definition=content,
            by="ann",
            now=seed.NOW,
            large_sale=True,
        ).id


def test_the_console_warns_publishes_and_links_to_the_public_page(shop: Shop) -> None:
    number = given_sale(shop)
    browser = shop.client()
    for address in (f"/loyalty/promotions/{number}", f"/loyalty/promotions/{number}/notice"):
        assert "A large sale: its rules had to be public by Feb 26, 2026." in browser.get(address).text
    assert shop.app.test_client().get("/p/sale/notice").status_code == 404  # nothing is public yet
    assert browser.post(f"/loyalty/promotions/{number}/notice").status_code == 303
    page = browser.get(f"/loyalty/promotions/{number}/notice").text
    assert 'data-copy="#notice-zh"' in page
    assert "/p/sale/notice?n=1" in page
    public = shop.app.test_client().get("/p/sale/notice")
    assert public.status_code == 200
    for text in (TITLE, "适用商品立减 10 元。", "10.00 CNY off", "公示日期", "2026-03-02", "Version 1"):
        assert text in public.text
    assert "script-src" not in public.headers["Content-Security-Policy"]
    assert "Set-Cookie" not in public.headers


def test_an_earlier_version_stays_readable_and_others_do_not_exist(shop: Shop) -> None:
    number = given_sale(shop)
    browser = shop.client()
    browser.post(f"/loyalty/promotions/{number}/notice")
    sent = {"title": TITLE, "name": "sale", "type": "fixed", "amount": "88", "large_sale": "1"}
    assert browser.post(f"/loyalty/promotions/{number}", sent).status_code == 303
    assert (
        "The rules have changed since they were published."
        in browser.get(f"/loyalty/promotions/{number}").text
    )
    public = shop.app.test_client()
    assert "立减 10 元" in public.get("/p/sale/notice").text  # until it is published anew
    browser.post(f"/loyalty/promotions/{number}/notice")
    assert "立减 88 元" in public.get("/p/sale/notice").text
    assert "立减 10 元" in public.get("/p/sale/notice?n=1").text
    for wrong in ("sale/notice?n=3", "sale/notice?n=x", "sale/notice?n=-1", "nope/notice", "a%00/notice"):
        assert public.get(f"/p/{wrong}").status_code == 404
    assert public.get("/p/notice.css").mimetype == "text/css"
    with shop.database.read() as session:
        rows = session.scalars(sa.select(PromotionNotice.number).order_by(PromotionNotice.number)).all()
        assert rows == [1, 2]
        row = session.get_one(PromotionRow, number)
        assert (row.large_sale, row.version) == (True, 2)


def test_a_title_is_shown_as_text_on_the_public_page(shop: Shop) -> None:
    with shop.database.write() as session:
        content = {"benefit": off(1), "group": "<b>g</b>"}
        row = store.save(
            session, name="x", title="<script>1</script>", definition=content, by="ann", now=seed.NOW
        )
        notices.publish(session, row, ZONE, "CNY", "ann", seed.NOW)
    page = shop.app.test_client().get("/p/x/notice").text
    assert "<script>" not in page
    assert "<b>g</b>" not in page
