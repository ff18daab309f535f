"""UTM parameters on links to the shop."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

import pytest
import sqlalchemy as sa

from campaigns.run import run
from channels import tracking
from channels.delivery import run_delivery
from channels.models import Message
from channels.sandbox import inbox
from channels.utm import hosts_of, tagged
from core.db import Database
from core.errors import InvalidInput
from core.settings import Settings
from tests.campaigns.conftest import NOW, Shop
from tests.channels.seed import CONTEXT, add_members, add_template, enqueue, row, sandbox
from tests.channels.seed import NOW as SEED_NOW

PARAMS = {"utm_source": "huiliu", "utm_medium": "email", "utm_campaign": "回来 吧", "utm_content": ""}
HOSTS = hosts_of("https://shop.example/cn", {"hosts": ["Blog.example"]})


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://shop.example", "https://shop.example?ALL"),
        (
            "https://www.shop.example/p?b=2&a=%E5%A5%BD#top",
            "https://www.shop.example/p?b=2&a=%E5%A5%BD&ALL#top",
        ),
        ("https://blog.example:8443/?q=", "https://blog.example:8443/?q=&ALL"),
        (
            "https://shop.example/?utm_source=mine&UTM_CAMPAIGN=",
            "https://shop.example/?utm_source=mine&UTM_CAMPAIGN=&utm_medium=email",
        ),
        ("https://other.example/", "https://other.example/"),
        ("https://notshop.example/", "https://notshop.example/"),
        ("https://shop.example.evil.example/", "https://shop.example.evil.example/"),
        ("mailto:a@shop.example", "mailto:a@shop.example"),
        ("https://[broken", "https://[broken"),
    ],
)
def test_only_what_is_missing_is_added_and_only_to_the_shops_links(url: str, expected: str) -> None:
    every = "utm_source=huiliu&utm_medium=email&utm_campaign=%E5%9B%9E%E6%9D%A5%20%E5%90%A7"
    found = tagged(url, PARAMS, HOSTS)
    assert found == expected.replace("ALL", every)
    assert tagged(found, PARAMS, HOSTS) == found, "twice is as once"


def test_a_campaigns_links_carry_its_name_and_variant(db: Database, settings: Settings) -> None:
    shop = Shop(db, settings.model_copy(update={"database_url": db.url}))
    shop.prepare()
    shop.batch()
    shop.members(12, lambda _n: "wechat")
    shop.control(0)
    shop.campaign(
        "back",
        holdout=0,
        channels=["wechat"],
        quiet_hours=None,
        utm={"source": "huiliu", "hosts": ["shop.example"]},
    )
    run(db, shop.engine, shop.settings, "back", NOW)
    with sandbox(db, settings) as (there, _):
        assert run_delivery(db, there, now=lambda: NOW, channels=["wechat"]).sent == 12
        links = [message.fields["url"] for message in inbox.list_messages(there, limit=20)]
    contents = set()
    for link in links:
        click = tracking.read_click(re.sub(".*/t/c/", "", link))
        assert click is not None
        found = parse_qs(urlsplit(click.url).query)
        contents.update(found.pop("utm_content"))
        assert found == {"utm_source": ["huiliu"], "utm_medium": ["wechat"], "utm_campaign": ["back"]}
    assert contents == {"A", "B"}


@pytest.mark.parametrize(("medium", "expected"), [("email", "sms"), ("newsletter", "newsletter")])
def test_a_message_that_fell_back_names_the_channel_that_sends(
    db: Database, settings: Settings, medium: str, expected: str
) -> None:
    add_members(db, [1], email=None)
    email, sms = add_template(db, settings, "email"), add_template(db, settings, "sms")
    back = [{"channel": "sms", "template_id": sms[0], "template_version": sms[1]}]
    params = {"utm_source": "huiliu", "utm_medium": medium}
    context = {**CONTEXT, "utm": {"params": params, "hosts": []}}
    enqueue(db, row(1, "email", email, fallback=back, context=context))
    run_delivery(db, settings, now=lambda: SEED_NOW, channels=["email"])
    with db.read() as session:
        fallback = session.scalars(sa.select(Message).where(Message.channel == "sms")).one()
        first = session.scalars(sa.select(Message).where(Message.channel == "email")).one()
    assert fallback.context["utm"]["params"] == {"utm_source": "huiliu", "utm_medium": expected}
    assert first.context["utm"]["params"] == params, "what was to be sent stays as it was"


@pytest.mark.parametrize(
    ("utm", "field"),
    [
        ({"source": ""}, "utm.source"),
        ({"source": "x" * 81}, "utm.source"),
        ({"source": "x", "hosts": ["https://a.example/"]}, "utm.hosts"),
        ({"source": "x", "term": "y"}, "utm.hosts"),
    ],
)
def test_wrong_parameters_are_refused(utm: dict[str, object], field: str) -> None:
    from campaigns.spec import CampaignSpec

    with pytest.raises(InvalidInput) as error:
        CampaignSpec.from_json({**Shop.spec(), "utm": utm})
    assert error.value.field == field
