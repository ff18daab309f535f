"""What the demo's marketer made is saved, and every kind of message is shown once."""

from __future__ import annotations

import sqlalchemy as sa

from channels import trials
from channels.delivery import run_delivery
from channels.models import Template, TemplateContent
from core.db import Database
from core.settings import Settings
from tests.channels.seed import NOW, openid_of, sandbox, states
from web.demo import content

ADDRESS = {"email": "ann@example.com", "sms": "+8613800138000", "wechat": openid_of(1)}


def test_the_demos_templates_are_saved_for_each_channel_and_can_be_sent(
    sqlite_db: Database, settings: Settings
) -> None:
    with sqlite_db.write() as session:
        content.save_templates(session, settings, "boss", NOW)
        made = session.execute(sa.select(Template.id, Template.channel).order_by(Template.id)).all()
        fields = session.scalars(sa.select(TemplateContent.fields)).all()
        for number, (template_id, channel) in enumerate(made):
            address = ADDRESS.get(channel, "M1")
            trials.send(session, template_id, "zh_CN", address, f"boss{number}", NOW)
    assert {channel for _, channel in made} == {"email", "sms", "wechat", "webhook"}
    assert {one.get("kind") for one in fields} == {None, "subscription"}
    with sandbox(sqlite_db, settings) as (there, _):
        run_delivery(sqlite_db, there, now=lambda: NOW)
    # Nobody agreed to the subscription message in the stand-in.
    assert states(sqlite_db) == {"sent": len(made) - 1, "failed": 1}
