"""Members, templates and messages for the tests of channels."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from channels import outbox, templates
from channels.consent import MARKETING, set_many
from channels.models import Message, Template
from channels.outbox import OutboxRow
from channels.sandbox.server import Sandbox
from core.bulk import bulk_insert
from core.contacts import CHANNELS, blind_index
from core.db import Database
from core.imports import ConsentChange
from core.models import Member
from core.settings import Settings
from tests.conftest import SECRET
from tests.postgres import free_port

NOW = datetime(2026, 3, 2, 4, tzinfo=UTC)
"""Noon in Shanghai."""

MEMBER_COLUMNS = (
    "id",
    "source",
    "external_id",
    "name",
    "email",
    "email_index",
    "phone",
    "phone_index",
    "openid",
    "openid_index",
    "wecom",
    "wecom_index",
    "city",
    "locale",
    "timezone",
    "tags",
    "attributes",
    "fingerprint",
    "created_at",
    "updated_at",
)
EMAIL_FIELDS = {
    "subject": "{{ member.name }}，我们想你了",
    "html": '<html><body><p>{{ member.name }} 你好</p><a href="https://shop.example/p?a=1&amp;b=2">看看</a> '
    '<a href="{{ unsubscribe_url }}">退订</a></body></html>',
}
SMS_FIELDS = {
    "text": "{{ member.name }}，券码{{ coupon.code }}，拒收请回复R",
    "provider_template": "SMS_1001",
    "params": {"name": "{{ member.name }}", "code": "{{ coupon.code }}"},
}
WECHAT_FIELDS = {
    "provider_template": "wx-template-1",
    "url": "https://shop.example/wx",
    "data": {"first": "{{ member.name }}，你好", "code": "{{ coupon.code }}"},
}
WEBHOOK_FIELDS = {
    "title": "{{ member.name }}，你好",
    "body": "券码{{ coupon.code }}",
    "url": "https://shop.example/app",
    "data": {"screen": "coupons"},
}
WECOM_FIELDS = {"text": "{{ member.name }}，你好，券码{{ coupon.code }}"}
FIELDS = {
    "email": EMAIL_FIELDS,
    "sms": SMS_FIELDS,
    "wechat": WECHAT_FIELDS,
    "webhook": WEBHOOK_FIELDS,
    "wecom": WECOM_FIELDS,
}
CONTEXT = {"coupon": {"code": "ABCD-2345", "title": "20元券", "amount": 2000, "valid_until": None}}


def email_of(number: int) -> str:
    return f"m{number}@example.com"


def phone_of(number: int) -> str:
    return f"+86138{number:06d}99"


def openid_of(number: int) -> str:
    return f"openid-{number:08d}"


def wecom_of(number: int) -> str:
    return f"wm-customer-{number:08d}"


def add_members(
    database: Database,
    numbers: Sequence[int],
    *,
    consent: bool = True,
    timezone: str | None = None,
    **overrides: Any,
) -> None:
    """Members with every address; ``overrides``: email, phone, openid, wecom of every one of them."""
    with database.write() as session:
        rows = []
        for number in numbers:
            email = overrides.get("email", email_of(number))
            phone = overrides.get("phone", phone_of(number))
            openid = overrides.get("openid", openid_of(number))
            wecom = overrides.get("wecom", wecom_of(number))
            rows.append(
                (
                    number,
                    "shop",
                    f"m{number}",
                    f"会员{number}",
                    email,
                    blind_index("email", email),
                    phone,
                    blind_index("phone", phone),
                    openid,
                    blind_index("openid", openid),
                    wecom,
                    blind_index("wecom", wecom),
                    None,
                    "zh_CN",
                    timezone,
                    [],
                    {},
                    "x",
                    NOW,
                    NOW,
                )
            )
        bulk_insert(session, Member.__table__, MEMBER_COLUMNS, rows)  # type: ignore[arg-type]
        if consent:
            set_many(
                session,
                [
                    ConsentChange(number, channel, MARKETING, True, "test", NOW)
                    for number in numbers
                    for channel in CHANNELS
                ],
            )


def add_template(
    database: Database, settings: Settings, channel: str, purpose: str = MARKETING, **fields: Any
) -> tuple[int, int]:
    """(template id, version)."""
    name = f"{channel}-{purpose}-{len(fields)}"
    with database.write() as session:
        contents = {"zh_CN": {**FIELDS[channel], **fields}}
        version = templates.save(
            session,
            settings,
            name=name,
            channel=channel,
            purpose=purpose,
            contents=contents,
            by="test",
            now=NOW,
        )
        found = session.scalar(sa.select(Template.id).where(Template.name == name))
        assert found is not None
        return found, version


def row(
    member: int, channel: str, template: tuple[int, int], *, key: str | None = None, **changes: Any
) -> OutboxRow:
    found = OutboxRow(
        key or f"run:1:{member}:{channel}",
        member,
        channel,
        MARKETING,
        *template,
        CONTEXT,
        "run",
        1,
        [],
        None,
        NOW,
        None,
        NOW,
    )
    return found._replace(**changes)


def enqueue(database: Database, *rows: OutboxRow) -> None:
    with database.write() as session:
        assert outbox.enqueue(session, rows) == len(rows)


def states(database: Database) -> dict[str, int]:
    """Messages by state."""
    with database.read() as session:
        found = session.execute(sa.select(Message.state, sa.func.count()).group_by(Message.state)).all()
        return {state: number for state, number in found}  # noqa: C416 - rows are no pairs to mypy


def message(database: Database, key: str) -> Message:
    with database.read() as session:
        return session.execute(sa.select(Message).where(Message.dedupe_key == key)).scalar_one()


def sandbox_settings(database: Database, settings: Settings, **changes: Any) -> Settings:
    """Settings whose sandbox listens on free ports."""
    return Settings(
        home=settings.home,
        secret=SECRET,
        database_url=database.url,
        sandbox_smtp_port=free_port(),
        sandbox_http_port=free_port(),
        _env_file=None,
        **{"base_url": f"http://127.0.0.1:{free_port()}", **changes},
    )


class Running:
    """A sandbox in a thread of its own."""

    def __init__(self, settings: Settings, **options: Any) -> None:
        self._settings, self._options = settings, options
        self._ready = threading.Event()
        self.error: BaseException | None = None

    def __enter__(self) -> Running:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        self._thread.start()
        assert self._ready.wait(20)
        if self.error is not None:
            raise self.error
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            async with Sandbox(self._settings, **self._options) as self.sandbox:
                self._ready.set()
                await self._stop.wait()
        except BaseException as error:
            self.error = error
            self._ready.set()


@contextmanager
def sandbox(database: Database, settings: Settings, **options: Any) -> Iterator[tuple[Settings, Running]]:
    """(settings that point at it, the running sandbox)."""
    changes = options.pop("changes", {})
    found = sandbox_settings(database, settings, **changes)
    with Running(found, **options) as running:
        yield found, running
