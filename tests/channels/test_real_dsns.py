"""DSNs that a real Postfix wrote, from sending through it to what they change."""

from __future__ import annotations

import asyncio
import time

import sqlalchemy as sa

from channels.bounces import intake
from channels.bounces.listener import Listener
from channels.delivery import deliver
from channels.models import BounceReport, Message, Suppression
from core.contacts import blind_index
from core.db import Database
from core.settings import Settings
from tests.channels.postfix import postfix
from tests.channels.seed import NOW, add_members, add_template, enqueue, row
from tests.channels.smtp import sink
from tests.conftest import SECRET
from tests.postgres import free_port

DOMAIN = "bounces.shop.example"
EXPECTED = {
    1: ("a@nobody.example", "hard", "5.1.1", "failed"),
    2: ("b@disabled.example", "inactive", "5.2.1", "failed"),
    3: ("c@full.example", "soft", "5.2.2", "failed"),
    4: ("d@policy.example", "policy", "5.7.1", "failed"),
    5: ("e@large.example", "ours", "5.3.4", "failed"),
    6: ("f@later.example", "expired", "4.3.0", "failed"),
    7: ("g@closed.example", "expired", "4.4.1", "failed"),
    8: ("h@refusing.example", "hard", "5.1.1", "failed"),
    9: ("i@elsewhere.example", "hard", "5.1.2", "failed"),
    10: ("j@fine.example", None, None, "sent"),
}


def test_every_dsn_of_a_real_postfix_is_classified(db: Database, settings: Settings) -> None:
    for number, (address, *_) in EXPECTED.items():
        add_members(db, [number], email=address)
    template = add_template(db, settings, "email")
    enqueue(db, *[row(n, "email", template) for n in EXPECTED])
    listener = free_port()
    with sink("-B", "550 5.1.1 User unknown", "-f", "RCPT") as refusing, sink(keep=True) as fine:
        transports = {
            "nobody.example": "error:5.1.1 no such user",
            "disabled.example": "error:5.2.1 mailbox disabled",
            "full.example": "error:5.2.2 mailbox full",
            "policy.example": "error:5.7.1 refused by policy",
            "large.example": "error:5.3.4 message too large",
            "later.example": "retry:4.3.0 system busy",
            "closed.example": f"smtp:[127.0.0.1]:{free_port()}",
            "refusing.example": f"smtp:[127.0.0.1]:{refusing.port}",
            "fine.example": f"smtp:[127.0.0.1]:{fine.port}",
            DOMAIN: f"smtp:[127.0.0.1]:{listener}",
        }
        with postfix(transports) as port:
            there = Settings(
                home=settings.home, secret=SECRET, database_url=db.url, smtp_url=f"smtp://127.0.0.1:{port}",
                bounce_domain=DOMAIN, bounce_listen=f"127.0.0.1:{listener}", _env_file=None,
            )  # fmt: skip
            asyncio.run(_send_and_wait(db, there, fine.folder))
    with db.write() as session:
        # What came back before its message was settled is applied now.
        intake.apply_early(session, NOW)
    with db.read() as session:
        found = {
            report.message_id: (report.kind, report.status)
            for report in session.scalars(sa.select(BounceReport))
        }
        states = dict(session.execute(sa.select(Message.member_id, Message.state)).all())  # type: ignore[arg-type]
        ids = dict(session.execute(sa.select(Message.id, Message.member_id)).all())  # type: ignore[arg-type]
        suppressed = set(session.scalars(sa.select(Suppression.address_index)))
    by_member = {ids[number]: one for number, one in found.items() if number is not None}
    assert by_member == {n: (kind, code) for n, (_, kind, code, _) in EXPECTED.items() if kind}
    assert states == {n: state for n, (*_, state) in EXPECTED.items()}
    hard = {n for n, (_, kind, *_) in EXPECTED.items() if kind == "hard"}
    assert suppressed == {blind_index("email", EXPECTED[n][0]) for n in hard}


async def _send_and_wait(database: Database, settings: Settings, folder: object) -> None:
    async with Listener(database, settings, lambda: NOW):
        done = await deliver(database, settings, channels=["email"], now=lambda: NOW)
        assert done.sent == len(EXPECTED)
        end = time.monotonic() + 40
        wanted = sum(1 for _, kind, *_ in EXPECTED.values() if kind)
        while await asyncio.to_thread(_reports, database) < wanted:
            assert time.monotonic() < end, "not every DSN came back"
            await asyncio.sleep(0.1)


def _reports(database: Database) -> int:
    with database.read() as session:
        return session.scalar(sa.select(sa.func.count()).select_from(BounceReport)) or 0
