"""Messages that wait for an employee, and templates of the channel, in the console."""

from __future__ import annotations

import sqlalchemy as sa

from campaigns.models import Campaign, CampaignRun
from channels import events
from channels.events import Receipt
from channels.models import Message, Template, TemplateContent
from core.contacts import blind_index
from core.models import Member
from tests.web import seed
from tests.web.conftest import Shop

FORM = {
    "name": "wecom-hello",
    "channel": "wecom",
    "purpose": "marketing",
    "zh_CN.text": "{{ member.name }}，周末上新",
    "zh_CN.link": "title: 去看看\nurl: https://shop.example/new",
}


def test_a_template_is_previewed_saved_and_shown(shop: Shop) -> None:
    client = shop.client()
    assert "picurl" in client.get("/channels/templates/new/wecom").text
    live = client.post("/channels/templates/live", {**FORM, "preview": "zh_CN"}).text
    assert "王小明，周末上新" in live
    assert client.post("/channels/templates/new/wecom", FORM).status_code == 303
    with shop.database.read() as session:
        found = session.scalars(sa.select(Template).where(Template.name == "wecom-hello")).one()
        fields = session.scalars(
            sa.select(TemplateContent.fields).where(TemplateContent.template_id == found.id)
        ).one()
    assert fields["link"] == {"title": "去看看", "url": "https://shop.example/new"}
    page = client.get(f"/channels/templates/{found.id}").text
    assert "WeCom customer id" in page
    assert "去看看" in page
    long = {**FORM, "name": "too-long", "zh_CN.text": "长" * 1334}
    assert client.post("/channels/templates/new/wecom", long).status_code == 422


def wait(shop: Shop) -> int:
    """Make one of the seed's messages wait for an employee."""
    with shop.database.write() as session:
        found = session.scalars(
            sa.select(Message).where(Message.source_kind == "run").order_by(Message.id)
        ).first()
        assert found is not None
        found.channel, found.state, found.sent_at, found.reason = "wecom", "created", None, None
        return found.id


def test_a_message_that_waits_is_told_everywhere_and_is_no_touch(shop: Shop) -> None:
    number = wait(shop)
    client = shop.client()
    page = client.get(f"/channels/outbox/{number}").text
    assert "Waits for an employee" in page
    assert "an employee has to confirm it before it is sent" in page
    assert "Send again" not in page
    assert f"/channels/outbox/{number}" in client.get("/channels/outbox?state=created&channel=wecom").text
    with shop.database.write() as session:
        assert session.get_one(Message, number).sent_at is None
        events.apply(session, [Receipt("not_confirmed", seed.NOW, "late", number)], seed.NOW)
    assert "No employee confirmed it" in client.get(f"/channels/outbox/{number}").text


def test_the_channel_stands_beside_the_others(shop: Shop) -> None:
    client = shop.client()
    for path in ("/channels", "/channels/accounts", "/channels/outbox", "/channels/inbox?channel=wecom"):
        assert "WeCom" in client.get(path).text, path


def test_a_campaigns_table_counts_those_that_wait(shop: Shop) -> None:
    name = campaign_of(shop, wait(shop))
    assert "Waits for an employee" in shop.client().get(f"/campaigns/{name}").text


def campaign_of(shop: Shop, number: int) -> str:
    with shop.database.read() as session:
        run = session.get_one(Message, number).source_id
        return session.scalars(
            sa.select(Campaign.name)
            .join(CampaignRun, CampaignRun.campaign_id == Campaign.id)
            .where(CampaignRun.id == run)
        ).one()


def test_the_customers_id_is_masked_for_who_may_not_see_contacts(shop: Shop) -> None:
    with shop.database.write() as session:
        member = session.scalars(sa.select(Member).where(Member.external_id == "M0001")).one()
        member.wecom, member.wecom_index = "wmABCDEFGH12", blind_index("wecom", "wmABCDEFGH12")
        number = member.id
    page = shop.client("marketer@example.com").get(f"/members/{number}").text
    assert "WeCom customer id" in page
    assert "wm***12" in page
    assert "wmABCDEFGH12" not in page
