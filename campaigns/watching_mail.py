"""Alerts by e-mail to the people of the shop, through the outbox like any other transactional message.

The recipient is a made-up member of the source of tests, one for each address, so that lists and the
warehouse know nothing of it. A template “huiliu-alerts” is made on first use and may be edited like any
other. One e-mail an address and day, by its key.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from campaigns.alerts import RED
from campaigns.models import Alert
from channels import outbox, templates
from channels.consent import TRANSACTIONAL
from channels.models import Template
from core.contacts import EMAIL, blind_index
from core.models import TEST_SOURCE, Member
from core.settings import Settings

TEMPLATE = "huiliu-alerts"
SOURCE_KIND = "alerts"
LIFE = timedelta(hours=24)
"""News of yesterday is not sent late."""
_HTML = (
    "<html><body><p>{lead}</p><ul>{{% for one in (data.alerts if data else []) %}}"
    "<li><strong>{{{{ one.tone }}}}</strong> {{{{ one.subject }}}}: {{{{ one.light }}}}</li>"
    "{{% endfor %}}</ul>"
    '<p><a href="{{{{ data.url if data else shop.url }}}}">{button}</a></p></body></html>'
)
CONTENTS = {
    "en": {
        "subject": "Huiliu: {{ data.alerts|length if data else 0 }} alerts",
        "html": _HTML.format(lead="The watch found:", button="To the alerts"),
    },
    "zh_CN": {
        "subject": "Huiliu：{{ data.alerts|length if data else 0 }} 条预警",
        "html": _HTML.format(lead="监控发现：", button="查看预警"),
    },
}


def send(
    session: Session, settings: Settings, fresh: Sequence[Alert], emails: Sequence[str], now: datetime
) -> int:
    """Queue the day's e-mail about ``fresh`` alerts; to how many addresses."""
    if not fresh or not emails:
        return 0
    template_id, version = _template(session, settings, now)
    day = now.astimezone(settings.zone).date().isoformat()
    listed = [
        {"tone": "RED" if one.tone == RED else "YELLOW", "subject": one.subject, "light": one.light}
        for one in fresh
    ]
    data = {"alerts": listed, "day": day, "url": f"{settings.base_url}/results/watching"}
    rows = []
    for address, member in zip(emails, _members(session, emails, now), strict=True):
        key = f"alerts:{day}:{blind_index('email', address)}"[:120]
        rows.append(
            outbox.OutboxRow(
                key, member, EMAIL, TRANSACTIONAL, template_id, version, {"data": data}, SOURCE_KIND, member,
                [], None, now, now + LIFE, now,
            )
        )  # fmt: skip
    outbox.enqueue(session, rows)
    return len(rows)


def _members(session: Session, emails: Sequence[str], now: datetime) -> list[int]:
    """The made-up members of the addresses, in their order."""
    names = {address: f"alerts:{blind_index('email', address)}" for address in emails}
    query = sa.select(Member.external_id, Member).where(
        Member.source == TEST_SOURCE, Member.external_id.in_(names.values())
    )
    known: dict[str, Member] = dict(session.execute(query).all())
    for address, name in names.items():
        if name not in known:
            known[name] = Member(
                source=TEST_SOURCE, external_id=name, fingerprint="", tags=[], attributes={}, created_at=now,
                updated_at=now, email=address, email_index=blind_index("email", address), name="",
            )  # fmt: skip
            session.add(known[name])
    session.flush()
    return [known[names[address]].id for address in emails]


def _template(session: Session, settings: Settings, now: datetime) -> tuple[int, int]:
    query = sa.select(Template.id, Template.version).where(Template.name == TEMPLATE)
    found = session.execute(query).one_or_none()
    if found is None:
        # Two first uses at once: the second finds what the first has made.
        with suppress(IntegrityError), session.begin_nested():
            templates.save(
                session, settings, name=TEMPLATE, channel=EMAIL, purpose=TRANSACTIONAL, contents=CONTENTS,
                by="huiliu", now=now,
            )  # fmt: skip
        found = session.execute(query).one()
    return found[0], found[1]
