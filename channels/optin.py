"""Double opt-in: a grant for e-mail is asked for, and counts once its member clicked in an e-mail.

Guarantees: a grant that waits is no consent, so nothing marketing is sent for it; looking at the link
confirms nothing; a link confirms once and for a week, so that an old one undoes no later withdrawal. A
member who is already asked is not asked again for a day: nobody can flood a mailbox through a form.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from channels import consent, outbox, templates, tracking
from channels.consent import MARKETING, TRANSACTIONAL
from channels.models import Consent, OptIn, Template
from channels.outbox import OutboxRow
from channels.sql import table_of
from core import crypto
from core.bulk import bulk_insert
from core.contacts import EMAIL
from core.db import among, lock_rows
from core.imports import ConsentChange
from core.models import Member
from core.settings import Settings

VALID = timedelta(days=7)
ASK_AGAIN = timedelta(days=1)
PENDING, GRANTED, WITHDRAWN = "pending", "granted", "withdrawn"
OPEN, CONFIRMED, EXPIRED = "open", "confirmed", "expired"
SOURCE_KIND = "optin"
TEMPLATE = "huiliu-double-opt-in"
"""Made on first use; shops may edit it as any other template."""
_HTML = (
    '<html><body><p>{hello}</p><p><a href="{{{{ data.confirm_url if data else shop.url }}}}">{button}</a></p>'
    '<p style="color:#666">{note}</p></body></html>'
)
CONTENTS = {
    "zh_CN": {
        "subject": "请确认订阅：{{ shop.name }}",
        "html": _HTML.format(
            hello="您好，请点击下面的链接，确认您愿意通过电子邮件接收 {{ shop.name }} 的优惠消息。",
            button="确认订阅",
            note="链接 7 天内有效。如果不是您本人的操作，请忽略此邮件，我们不会再向您发送。",
        ),
    },
    "en": {
        "subject": "Please confirm: e-mails from {{ shop.name }}",
        "html": _HTML.format(
            hello="Please confirm that you want offers from {{ shop.name }} by e-mail.",
            button="Confirm",
            note="The link is good for 7 days. If this was not you, do nothing, and you will hear no more.",
        ),
    },
}


def needed(settings: Settings, channel: str, purpose: str, *, imported: bool = False) -> bool:
    """Whether a grant has to be confirmed first."""
    asked = settings.double_opt_in == "all" or (settings.double_opt_in == "true" and not imported)
    return asked and channel == EMAIL and purpose == MARKETING


def change(session: Session, settings: Settings, wanted: ConsentChange) -> str:
    """Grant or withdraw as a form or the API asks; ``granted``, ``withdrawn`` or ``pending``."""
    if wanted.granted and needed(settings, wanted.channel, wanted.purpose):
        waits = ask(session, settings, [wanted], wanted.at)
        return PENDING if waits else GRANTED
    consent.set_many(session, [wanted])
    return GRANTED if wanted.granted else WITHDRAWN


def importer(settings: Settings) -> consent.Writer:
    """What writes the consents of an import: some are asked for first where the setting says ``all``."""

    def write(session: Session, rows: Iterable[ConsentChange]) -> None:
        listed = list(rows)
        asked = [
            row for row in listed if row.granted and needed(settings, row.channel, row.purpose, imported=True)
        ]
        if asked:
            left = consent.withdrawn_elsewhere(session, asked)
            ask(
                session, settings, [row for row in asked if row[:3] not in left], max(row.at for row in asked)
            )
        chosen = set(asked)
        consent.set_imported(session, [row for row in listed if row not in chosen])

    return write


def ask(session: Session, settings: Settings, wanted: Iterable[ConsentChange], now: datetime) -> set[int]:
    """Ask for these grants by e-mail; the members whose grant waits now. Who had agreed is not asked."""
    by_member = {row.member_id: row for row in wanted}
    # Two requests at once: the second waits here, and then finds what the first has asked.
    lock_rows(session, table_of(Member), sorted(by_member))
    agreed = session.scalars(
        sa.select(Consent.member_id).where(
            among(session, Consent.member_id, by_member),
            Consent.channel == EMAIL,
            Consent.purpose == MARKETING,
            Consent.granted,
        )
    )
    for member_id in list(agreed):
        del by_member[member_id]
    asked = set(
        session.scalars(
            sa.select(OptIn.member_id).where(
                among(session, OptIn.member_id, by_member),
                OptIn.confirmed_at.is_(None),
                OptIn.asked_at > now - ASK_AGAIN,
            )
        )
    )
    rows = [
        (f"{row.member_id}:{row.channel}:{now:%Y%m%dT%H%M%S}", *row[:3], row.source, now, now + VALID)
        for member_id, row in by_member.items()
        if member_id not in asked
    ]
    if rows:
        names = ("request_key", "member_id", "channel", "purpose", "source", "asked_at", "expires_at")
        new = bulk_insert(
            session, table_of(OptIn), names, rows, conflict=("request_key",), returning=("id", "member_id")
        )
        _send(session, settings, [(number, member_id) for number, member_id in new], now)
    return set(by_member)


def _send(session: Session, settings: Settings, new: list[tuple[int, int]], now: datetime) -> None:
    template_id, version = _template(session, settings, now)
    outbox.enqueue(
        session,
        [
            OutboxRow(
                f"optin:{number}",
                member_id,
                EMAIL,
                TRANSACTIONAL,
                template_id,
                version,
                {"data": {"confirm_url": confirm_url(settings.base_url, number)}},
                SOURCE_KIND,
                number,
                [],
                None,
                now,
                now + VALID,
                now,
            )
            for number, member_id in new
        ],
    )


def _template(session: Session, settings: Settings, now: datetime) -> tuple[int, int]:
    query = sa.select(Template.id, Template.version).where(Template.name == TEMPLATE)
    found = session.execute(query).one_or_none()
    if found is None:
        # Two first uses at once: the second finds what the first has made.
        with suppress(IntegrityError), session.begin_nested():
            templates.save(
                session,
                settings,
                name=TEMPLATE,
                channel=EMAIL,
                purpose=TRANSACTIONAL,
                contents=CONTENTS,
                by="huiliu",
                now=now,
            )
        found = session.execute(query).one()
    return found.id, found.version


def confirm_url(base_url: str, number: int) -> str:
    return f"{base_url}/c/{crypto.keyring().sign(tracking.CONFIRM, str(number))}"


def read_token(token: str) -> int | None:
    """The request that a confirm link names, or None when it was not signed by us for that."""
    payload = crypto.keyring().verify(tracking.CONFIRM, token)
    return None if payload is None else int(payload)


def state(session: Session, number: int, now: datetime) -> str | None:
    """``open``, ``confirmed`` or ``expired``; None for a request that is gone."""
    found = session.get(OptIn, number)
    return None if found is None else _state(found, now)


def _state(found: OptIn, now: datetime) -> str:
    if found.confirmed_at is not None:
        return CONFIRMED
    return OPEN if now < found.expires_at else EXPIRED


def confirm(session: Session, number: int, now: datetime) -> str | None:
    """The member clicked: the grant counts from now. Answers as :func:`state`; again changes nothing."""
    found = session.get(OptIn, number, with_for_update=True)
    if found is None:
        return None
    if _state(found, now) == OPEN:
        found.confirmed_at = now
        source = f"{found.source[:50]}:confirmed"
        consent.grant(session, found.member_id, found.channel, found.purpose, source, now)
    return _state(found, now)
