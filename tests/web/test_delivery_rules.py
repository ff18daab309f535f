"""The page of rules for all marketing, and the switch over all channels."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from campaigns.models import Campaign, CampaignRun
from channels import caps, stop
from channels.caps import Cap, Rules
from channels.models import Message, MessageEvent
from core.db import Database
from core.models import AuditEntry
from tests.web import seed
from tests.web.conftest import Shop
from web.queries.campaigns import funnels

RULES = "/channels/rules"
FORM = {
    "caps.email": "3", "days.email": "", "caps.sms": "1", "days.sms": "14", "caps.all": "5",
    "quiet_hours.start": "21:00", "quiet_hours.end": "08:30", "quiet_hours.mode": "drop",
}  # fmt: skip


def rules(database: Database) -> Rules:
    with database.read() as session:
        return caps.load(session)


def stopped(database: Database) -> stop.Stop | None:
    with database.read() as session:
        return stop.current(session)


def test_rules_are_saved_shown_again_and_taken_away(shop: Shop) -> None:
    client = shop.client()
    assert client.post(RULES, FORM).status_code == 303
    assert rules(shop.database) == Rules(
        {"email": Cap(3), "sms": Cap(1, 14), "all": Cap(5)},
        {"start": "21:00", "end": "08:30", "mode": "drop"},
    )
    page = client.get(RULES).text
    for shown in (
        'name="caps.sms" type="text" value="1"',
        'value="14"',
        'value="08:30"',
        'value="drop" selected',
    ):
        assert shown in page
    client.post(RULES, {"quiet_hours.mode": "defer"})
    assert rules(shop.database) == Rules()
    with shop.database.read() as session:
        entries = session.scalars(sa.select(AuditEntry).where(AuditEntry.object_id == caps.KEY)).all()
    assert [entry.actor for entry in entries] == ["admin@example.com"] * 2


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"caps.email": "0"}, "caps.email"),
        ({"caps.sms": "three"}, "caps.sms"),
        ({"days.all": "91"}, "days.all"),
        ({"quiet_hours.end": ""}, "quiet_hours.end"),
        ({"quiet_hours.start": "25:00"}, "quiet_hours.start"),
        ({"quiet_hours.end": "21:00"}, "quiet_hours.end"),
    ],
)
def test_a_mistake_is_shown_beside_its_field_and_nothing_is_lost(
    shop: Shop, changes: dict[str, str], place: str
) -> None:
    answer = shop.client().post(RULES, {**FORM, **changes})
    assert answer.status_code == 422
    assert f'id="{place}-error"' in answer.text
    assert 'value="21:00"' in answer.text or "quiet_hours.start" in changes
    assert rules(shop.database) == Rules()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_stop_needs_the_typed_word_and_a_reason_and_shows_on_every_page(shop: Shop, language: str) -> None:
    client = shop.client("marketer@example.com", language)
    data = {"scope": "marketing", "reason": "wrong <b>prices</b>", "confirm": "STOP"}
    for wrong in ({"confirm": ""}, {"confirm": "go"}, {"reason": "  "}, {"scope": "some"}):
        client.post(f"{RULES}/stop", {**data, **wrong})
        assert stopped(shop.database) is None, wrong
    assert "stop-bar" not in client.get("/").text
    assert client.post(f"{RULES}/stop", data).status_code == 303
    found = stopped(shop.database)
    assert found is not None
    assert (found.scope, found.by) == ("marketing", "marketer@example.com")
    for address in ("/", "/members", "/settings", RULES):
        page = client.get(address).text
        assert "stop-bar" in page, address
        assert "wrong &lt;b&gt;prices&lt;/b&gt;" in page
    assert client.post(f"{RULES}/resume").status_code == 303
    assert stopped(shop.database) is None
    assert "stop-bar" not in client.get("/members").text
    assert client.post(f"{RULES}/resume").status_code in (303, 409), "nothing left to resume"


def test_who_may_only_look_finds_no_buttons(shop: Shop) -> None:
    page = shop.client("analyst@example.com").get(RULES).text
    assert "/channels/rules/stop" not in page
    assert "disabled" in page
    assert shop.client("analyst@example.com").post(f"{RULES}/stop", {"confirm": "STOP"}).status_code == 403
    assert shop.client("marketer@example.com").post(RULES, FORM).status_code == 403


def test_people_and_machines_are_counted_apart_where_opens_and_clicks_are_shown(shop: Shop) -> None:
    client = shop.client()
    with shop.database.write() as session:
        message = session.scalars(sa.select(MessageEvent).where(MessageEvent.kind == "clicked")).first()
        assert message is not None
        number, at = message.message_id, message.at
        session.execute(
            sa.delete(MessageEvent).where(
                MessageEvent.message_id == number, MessageEvent.kind.in_(("opened", "clicked"))
            )
        )
        for place, (actor, told) in enumerate((("human", ""), ("scanner", "honeypot"), ("proxy", ""))):
            session.add(
                MessageEvent(
                    message_id=number, kind="clicked", at=at, dedupe_key=f"x{place}", actor=actor,
                    detail={"told": told, "url": "https://shop.example/"},
                )
            )  # fmt: skip
    page = client.get(f"/channels/outbox/{number}").text
    assert "1 by people, 3 in all" in page
    assert "Scanner: followed the hidden link" in page
    assert "honeypot" not in page


def test_a_campaigns_page_tells_machines_apart(shop: Shop) -> None:
    with shop.database.write() as session:
        run_id = session.scalars(sa.select(CampaignRun.id).order_by(CampaignRun.id)).first()
        name = session.scalars(
            sa.select(Campaign.name)
            .join(CampaignRun, CampaignRun.campaign_id == Campaign.id)
            .where(CampaignRun.id == run_id)
        ).one()
        sent = session.scalars(
            sa.select(Message.id).where(
                Message.source_kind == "run", Message.source_id == run_id, Message.sent_at.is_not(None)
            )
        ).all()
        session.add_all(
            MessageEvent(
                message_id=number,
                kind="clicked",
                at=seed.NOW,
                dedupe_key=f"y{number}",
                actor="scanner",
                detail={},
            )
            for number in sent
        )
    with shop.database.read() as session:
        found = funnels(session, run_id or 0)
        human = session.scalar(
            sa.select(sa.func.count(sa.distinct(Message.member_id)))
            .join(MessageEvent, MessageEvent.message_id == Message.id)
            .where(Message.source_id == run_id, MessageEvent.kind == "clicked", MessageEvent.actor == "human")
        )
    assert sum(arm.clicked for arm in found) == human
    assert sum(arm.clicked_all for arm in found) == len(sent)
    assert "with machines" in shop.client().get(f"/campaigns/{name}").text
