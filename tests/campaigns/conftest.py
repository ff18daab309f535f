"""A shop with members who can be reached in different ways, and a campaign for them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from campaigns import campaigns
from campaigns.models import Campaign
from campaigns.spec import CampaignSpec
from channels import consent, templates
from core.bulk import bulk_insert
from core.contacts import blind_index
from core.db import Database
from core.imports import ConsentChange
from core.models import Member, Preference
from core.settings import Settings
from core.warehouse.engine import DuckEngine
from core.warehouse.replica import mark
from loyalty import coupons
from segments import segments
from segments.facts import open_engine

NOW = datetime(2026, 3, 2, 4, tzinfo=UTC)
HTML = "<html><body><p>{{ member.name }}, {{ coupon.code }}</p><a href='{{ unsubscribe_url }}'>x</a></body></html>"
EVERYBODY: dict[str, Any] = {"field": "member_id", "op": "is_set"}


class Shop:
    def __init__(self, database: Database, settings: Settings) -> None:
        self.database, self.settings = database, settings
        self.engine: DuckEngine = open_engine(settings)

    def members(self, number: int, channels: Callable[[int], str] = lambda _n: "email sms wechat") -> None:
        """Members m1 … mN; ``channels`` says by which each may be reached (address and consent)."""
        rows, consents = [], []
        for n in range(1, number + 1):
            has = channels(n).split()
            email = f"m{n}@example.com" if "email" in has else None
            phone = f"+8613{n:09d}" if "sms" in has else None
            openid = f"openid-{n}" if "wechat" in has else None
            rows.append(
                (n, "shop", f"m{n}", f"Member {n}", email, blind_index("email", email), phone, blind_index("phone", phone),
                 openid, blind_index("openid", openid), [], {}, "x", NOW, NOW)
            )  # fmt: skip
            consents += [ConsentChange(n, channel, "marketing", True, "test", NOW) for channel in has]
        columns = (
            "id", "source", "external_id", "name", "email", "email_index", "phone", "phone_index", "openid", "openid_index",
            "tags", "attributes", "fingerprint", "created_at", "updated_at",
        )  # fmt: skip
        with self.database.write() as session:
            bulk_insert(session, Member.__table__, columns, rows)
            consent.set_many(session, consents)
            mark(session, "members", [None])

    def prepare(self) -> None:
        """Templates for every channel, and a coupon batch."""
        with self.database.write() as session:
            for channel, fields in (
                ("email", {"subject": "Come back", "html": HTML, "text": "{{ coupon.code }} {{ unsubscribe_url }}"}),
                ("sms", {"text": "{{ coupon.code }}", "provider_template": "SMS_1", "params": {"code": "{{ coupon.code }}"}}),
                ("wechat", {"provider_template": "T1", "url": "https://shop.example", "data": {"code": "{{ coupon.code }}"}}),
            ):  # fmt: skip
                templates.save(
                    session, self.settings, name=f"back-{channel}", channel=channel, purpose="marketing",
                    contents={"en": fields}, by="test", now=NOW,
                )  # fmt: skip
            segments.save(session, name="all", title="All", rule=EVERYBODY, by="test", now=NOW)

    def batch(self, name: str = "ten-off", **options: Any) -> None:
        new = coupons.NewBatch(
            name=name, title="10 off", benefit={"type": "fixed", "amount": 1000}, currency="CNY", **options
        )
        with self.database.write() as session:
            coupons.create_batch(session, new, "test", NOW)

    def control(self, share: float) -> None:
        with self.database.write() as session:
            session.merge(Preference(key="campaigns.control", value=share, updated_at=NOW))

    def campaign(
        self, name: str = "back", *, approve: bool = True, budget_minor: int | None = None, **changes: Any
    ) -> None:
        spec = CampaignSpec.from_json({**self.spec(), **changes})
        with self.database.write() as session:
            made = campaigns.create(
                session,
                name=name,
                title="Come back",
                spec=spec,
                by="author",
                now=NOW,
                budget_minor=budget_minor,
            )
            if approve:
                campaigns.submit(session, made, "author", NOW)
                campaigns.approve(session, made, "boss", NOW)

    @staticmethod
    def spec() -> dict[str, Any]:
        everywhere = {channel: f"back-{channel}" for channel in ("email", "sms", "wechat")}
        return {
            "audience": {"segment": "all"},
            "variants": [
                {"name": "A", "weight": 0.5, "templates": everywhere, "coupon_batch": "ten-off"},
                {
                    "name": "B",
                    "weight": 0.5,
                    "templates": everywhere,
                    "coupon_batch": "ten-off",
                    "points": 100,
                },
            ],
            "holdout": 0.2,
        }

    def rows(self, sql: str) -> list[Any]:
        with self.database.read() as session:
            return list(session.execute(sa.text(sql)))

    def state(self, name: str = "back") -> str:
        with self.database.read() as session:
            return session.scalars(sa.select(Campaign.state).where(Campaign.name == name)).one()


@pytest.fixture
def shop(db: Database, settings: Settings, home: Path) -> Shop:
    made = Shop(db, settings.model_copy(update={"database_url": db.url, "batch_size": 300}))
    made.prepare()
    made.batch()
    return made
