"""A small shop for the console's tests: members, orders, messages, a campaign that ran, its read-outs.

Made by the packages' own functions, so that a page sees what it will see in use.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from campaigns import campaigns, run
from campaigns.models import Campaign, CampaignRun, Decision
from campaigns.spec import CampaignSpec
from channels import outbox, templates
from channels.consent import set_many
from channels.models import Message, MessageEvent
from core.db import Database
from core.imports import load_rows, numbered
from core.models import Job, Member, Order
from core.settings import Settings
from experiments import readout
from experiments.models import Experiment
from experiments.moments import ArmMoments, Moments
from loyalty import coupons, earning
from loyalty.batches import NewBatch, create_batch
from segments import segments
from segments.compile import Moment
from segments.facts import open_engine
from segments.refresh import refresh
from web.users import create_user

NOW = datetime(2026, 3, 2, 4, 0, tzinfo=UTC)
PASSWORD = "correct horse battery"
USERS = {
    "admin@example.com": ("admin",),
    "boss@example.com": ("admin",),
    "marketer@example.com": ("marketer",),
    "analyst@example.com": ("analyst",),
    "support@example.com": ("support",),
}
NAMES = ("王小明", "李娜", "张伟", "刘洋", "陈静", "Alex Reed", "Maria Gomez", "赵磊", "周婷", "吴昊")
CITIES = ("上海", "北京", "广州", "成都", "杭州", "深圳")
CATEGORIES = ("coffee", "tea", "snacks", "cups")


def add_users(database: Database) -> None:
    """One user for each role, and a second administrator."""
    for email, roles in USERS.items():
        create_user(database, email, PASSWORD, roles, now=NOW)


def fill(database: Database, settings: Settings, members: int = 240) -> None:
    """Users, facts, two refreshes, segments, templates, a batch, and campaigns in several states."""
    add_users(database)
    _facts(database, settings, members)
    engine = open_engine(settings)
    with database.write() as session:
        _segments(session)
        _templates(session, settings)
        create_batch(
            session,
            NewBatch(
                "win-back-20",
                "回归礼 20 元券",
                {"type": "fixed", "amount": 2000},
                "CNY",
                10_000,
                valid_days=14,
                per_member_limit=1,
            ),
            "admin@example.com",
            NOW - timedelta(days=20),
        )
    for days in (21, 1):
        day = (NOW - timedelta(days=days)).date()
        refresh(
            database,
            engine,
            moment=Moment(day, settings.zone, settings.shop_currency),
            now=NOW - timedelta(days=days),
        )
    _campaigns(database, settings)
    with database.write() as session:
        earning.accrue_orders(session, earning.load_rule(session), NOW, 10_000)
        outbox.pause(
            session, "sms", "InvalidSignName: the signature is not approved", NOW - timedelta(hours=3)
        )
        session.add(
            Job(
                kind="import",
                label="orders.csv",
                state="running",
                done=1200,
                total=4000,
                started_at=NOW,
                updated_at=NOW,
            )
        )
    _afterwards(database)


def _facts(database: Database, settings: Settings, members: int) -> None:
    luck = random.Random(7)
    people, orders, events = [], [], []
    for number in range(members):
        name = NAMES[number % len(NAMES)]
        joined = NOW - timedelta(days=luck.randint(5, 700))
        people.append(
            {
                "member_id": f"M{number:04d}",
                "name": f"{name}{number}" if number >= len(NAMES) else name,
                "email": f"member{number}@example.com" if number % 7 else None,
                "phone": f"+861380013{number:04d}" if number % 3 else None,
                "city": luck.choice(CITIES),
                "locale": "en" if " " in name else "zh_CN",
                "registered_at": joined.isoformat(),
                "tags": "vip;coffee" if number % 11 == 0 else "",
                "email_consent": "true" if number % 5 else "false",
                "sms_consent": "true" if number % 2 else "false",
                "attributes.favourite": luck.choice(CATEGORIES),
            }
        )
        for index in range(luck.choice((0, 1, 1, 2, 3, 6, 9))):
            at = joined + (NOW - joined) * luck.random()
            orders.append(
                {
                    "order_id": f"O{number:04d}-{index}",
                    "member_id": f"M{number:04d}",
                    "ordered_at": at.isoformat(),
                    "category": luck.choice(CATEGORIES),
                    "sku": f"S{luck.randint(1, 30)}",
                    "amount": f"{luck.randint(2000, 60000) / 100:.2f}",
                    "status": "refunded" if luck.random() < 0.04 else "paid",
                }
            )
        events.append(
            {
                "member_id": f"M{number:04d}",
                "kind": "product_viewed",
                "occurred_at": (NOW - timedelta(days=luck.randint(1, 60))).isoformat(),
                "properties": {"sku": "S3"},
            }
        )
    for kind, rows in (("members", people), ("orders", orders), ("events", events)):
        report = load_rows(
            database, kind, numbered(rows), settings=settings, source="shop", now=NOW, consents=set_many
        )
        assert not report.rejected, kind


def _segments(session: sa.orm.Session) -> None:
    for name, title, rule in (
        (
            "dormant-buyers",
            "沉睡与流失的买家",
            {
                "all": [
                    {"field": "lifecycle", "op": "in", "value": ["dormant", "churned", "at_risk"]},
                    {"event": "order", "aggregate": "count", "op": ">=", "value": 1},
                ]
            },
        ),
        (
            "coffee-lovers",
            "Coffee lovers",
            {
                "event": "order",
                "where": [{"field": "category", "op": "=", "value": "coffee"}],
                "aggregate": "count",
                "op": ">=",
                "value": 2,
                "within": {"last": "365d"},
            },
        ),
        ("vip", "VIP", {"field": "tags", "op": "matches_any", "value": ["vip"]}),
    ):
        segments.save(
            session,
            name=name,
            title=title,
            rule=rule,
            by="marketer@example.com",
            now=NOW - timedelta(days=30),
        )


def _templates(session: sa.orm.Session, settings: Settings) -> None:
    html = (
        '<div style="font-family:sans-serif;max-width:600px;margin:auto;padding:24px">'
        "<h1>{hello}，{{{{ member.name }}}}</h1><p>{{{{ coupon.title }}}}: <b>{{{{ coupon.code }}}}</b></p>"
        '<p><a href="https://shop.example.com/sale" style="background:#2b4fc7;color:#fff">{go}</a></p>'
        '<p><a href="{{{{ unsubscribe_url }}}}">{leave}</a></p></div>'
    )
    mail = {
        "zh_CN": {
            "subject": "{{ member.name }}，好久不见，送您一张券",
            "html": html.format(hello="您好", go="去看看", leave="退订"),
        },
        "en": {
            "subject": "{{ member.name }}, a coupon waits for you",
            "html": html.format(hello="Hello", go="Have a look", leave="Unsubscribe"),
        },
    }
    sms = {
        "zh_CN": {
            "text": "{{ member.name }}，您的券码 {{ coupon.code }}，拒收请回复R",
            "provider_template": "SMS_100001",
            "params": {"code": "{{ coupon.code }}"},
        },
    }
    for name, channel, contents in (("win-back-mail", "email", mail), ("win-back-sms", "sms", sms)):
        templates.save(
            session,
            settings,
            name=name,
            channel=channel,
            purpose="marketing",
            contents=contents,
            by="marketer@example.com",
            now=NOW - timedelta(days=20),
        )


def spec(**changes: object) -> CampaignSpec:
    """A campaign over the dormant buyers with two variants."""
    return CampaignSpec.from_json(
        {
            "audience": {"segment": "dormant-buyers"},
            "variants": [
                {
                    "name": "A",
                    "weight": 0.5,
                    "templates": {"email": "win-back-mail", "sms": "win-back-sms"},
                    "coupon_batch": "win-back-20",
                },
                {"name": "B", "weight": 0.5, "templates": {"email": "win-back-mail"}, "points": 200},
            ],
            "channels": ["email", "sms"],
            "exclude": ["vip"],
            "holdout": 0.2,
            "cap_messages": 3,
            **changes,
        }
    )


def _campaigns(database: Database, settings: Settings) -> None:
    then = NOW - timedelta(days=20)
    with database.write() as session:
        for name, title, at in (
            ("spring-win-back", "春季召回", then),
            ("tea-week", "Tea week", NOW - timedelta(days=2)),
            ("draft-idea", "An idea", NOW - timedelta(days=1)),
        ):
            campaigns.create(session, name=name, title=title, spec=spec(), by="marketer@example.com", now=at)
        for name in ("spring-win-back", "tea-week"):
            campaigns.submit(session, campaigns.by_name(session, name), "marketer@example.com", then)
        campaigns.approve(session, campaigns.by_name(session, "spring-win-back"), "admin@example.com", then)
    run.run(database, open_engine(settings), settings, "spring-win-back", then)


def _afterwards(database: Database) -> None:
    """Deliveries, opens, clicks and a redemption of the campaign, and its read-outs."""
    with database.write() as session:
        messages = session.scalars(sa.select(Message).order_by(Message.id)).all()
        for index, message in enumerate(messages):
            message.state = ("delivered", "delivered", "sent", "failed", "unknown")[index % 5]
            message.reason = "550 no such user" if message.state == "failed" else None
            message.sent_at = NOW - timedelta(days=3, minutes=index)
            message.settled_at = NOW - timedelta(days=2)
            message.attempts = 1
            for kind, every in (("opened", 2), ("clicked", 4)):
                if index % every == 0:
                    session.add(
                        MessageEvent(
                            message_id=message.id,
                            kind=kind,
                            at=NOW - timedelta(days=1),
                            actor="human",
                            dedupe_key=f"{kind}:{message.id}",
                            detail={},
                        )
                    )
        run_id = session.scalar(sa.select(CampaignRun.id))
        codes = session.execute(
            sa.select(Decision.coupon_code, Member.external_id)
            .join(Member, Member.id == Decision.member_id)
            .where(Decision.run_id == run_id, Decision.coupon_code.is_not(None))
            .limit(3)
        ).all()
        for index, (code, member) in enumerate(codes):
            coupons.redeem(
                session,
                code,
                order_ref=f"R{index}",
                basket_minor=20_000,
                currency="CNY",
                member_external_id=member,
                idempotency_key=f"r{index}",
                now=NOW - timedelta(days=12),
            )
        mine = sa.select(Campaign.experiment_id).join(CampaignRun).where(CampaignRun.id == run_id)
        experiment = session.get_one(Experiment, session.scalar(mine))
        for kind, lift in ((readout.REAL, 0.0), (readout.SIMULATED, 900.0)):
            readout.freeze(
                session,
                experiment.id,
                _read_out(lift),
                as_of=NOW - timedelta(days=1),
                settings={"window_days": 14},
                now=NOW,
                kind=kind,
            )


def _read_out(lift: float) -> readout.ReadOut:
    arms = {"holdout": (0.0, 400), "A": (lift, 800), "B": (lift / 3, 790)}
    moments = {
        arm: ArmMoments(
            n,
            {
                "revenue": Moments(n, 2600.0 + extra, 9.0e6),
                "orders": Moments(n, 0.2 + extra / 20000, 0.2),
                "converted": Moments(n, 0.16 + extra / 20000, 0.13),
            },
            {},
        )
        for arm, (extra, n) in arms.items()
    }
    return readout.read_out(moments, {"holdout": 0.2, "A": 0.4, "B": 0.4}, "holdout", currency="CNY")


def member_with_a_decision(database: Database) -> int:
    """A member whom the campaign has decided about, with orders of their own."""
    with database.read() as session:
        found = session.scalar(
            sa.select(Decision.member_id)
            .join(Order, Order.member_id == Decision.member_id)
            .where(Decision.coupon_code.is_not(None))
            .limit(1)
        )
    assert found is not None
    return found


def campaign_id(database: Database, name: str) -> int:
    with database.read() as session:
        return session.scalars(sa.select(Campaign.id).where(Campaign.name == name)).one()
