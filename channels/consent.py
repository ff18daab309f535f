"""Consent and suppression: who may be written to, by which channel, for which purpose.

Guarantees: ``consents`` always shows the newest answer by its own time, whatever the order in
which answers arrive (of two at the same instant, the withdrawal counts); ``consent_events``
keeps them all; a replay changes nothing. A suppression belongs to an address, not to a member.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from channels.models import Consent, ConsentEvent, Suppression
from channels.sql import CONSENTS, is_postgres, table_of
from core.bulk import bulk_insert
from core.contacts import ADDRESS_COLUMN, CHANNELS
from core.db import among
from core.errors import InvalidInput
from core.imports import ConsentChange
from core.models import Member
from core.warehouse.replica import mark

MARKETING, TRANSACTIONAL = "marketing", "transactional"
PURPOSES = (MARKETING, TRANSACTIONAL)

HARD_REASONS = frozenset({"hard_bounce", "invalid", "blocked", "erased"})
"""Suppressions that stop transactional messages too: the address is dead, or its owner is gone.
The others (``complaint``, ``soft_bounce``, ``manual``) stop marketing only: who calls a newsletter
spam still expects the receipt of a purchase."""

IMPORT = "import"
"""The source of answers that came with a file of members."""

NO_ADDRESS, NO_CONSENT, SUPPRESSED, ERASED = "no_address", "no_consent", "suppressed", "erased"
"""Reasons that :func:`refusals` gives."""


Writer = Callable[[Session, Iterable[ConsentChange]], None]
"""What stores the consents of an import."""


class SuppressionRow(NamedTuple):
    """An address to suppress, for :func:`suppress_many`."""

    channel: str
    address_index: str
    reason: str
    source: str
    at: datetime
    evidence: Mapping[str, Any]


def grant(session: Session, member_id: int, channel: str, purpose: str, source: str, at: datetime) -> None:
    """The member agrees to messages of this channel and purpose."""
    set_many(session, [ConsentChange(member_id, channel, purpose, True, source, at)])


def withdraw(session: Session, member_id: int, channel: str, purpose: str, source: str, at: datetime) -> None:
    """The member no longer agrees. Withdrawing what was never granted is recorded as well."""
    set_many(session, [ConsentChange(member_id, channel, purpose, False, source, at)])


def set_many(session: Session, rows: Iterable[ConsentChange]) -> None:
    """Record many answers (an import's batch); newest ``at`` wins per member, channel and purpose.

    Raises InvalidInput for an unknown channel or purpose; nothing is written then.
    """
    listed = list(rows)
    newest: dict[tuple[int, str, str], ConsentChange] = {}
    for row in listed:
        _check(row.channel, row.purpose)
        key = row[:3]
        known = newest.get(key)
        if known is None or (row.at, not row.granted) > (known.at, not known.granted):
            newest[key] = row
    if not listed:
        return
    bulk_insert(
        session,
        table_of(ConsentEvent),
        ConsentChange._fields,
        listed,
        conflict=("member_id", "channel", "purpose", "at", "granted"),
    )
    # One order for all writers: two imports that share members cannot deadlock.
    _upsert_newest(session, [newest[key] for key in sorted(newest)])
    mark(session, CONSENTS, [None])


def set_imported(session: Session, rows: Iterable[ConsentChange]) -> None:
    """:func:`set_many` for the shop's files, which say what the shop knew when it wrote them.

    A grant in a file does not undo a withdrawal that reached us by any other way (a link, a reply, a
    complaint): the file may be older than that. A withdrawal in a file always counts.
    """
    listed = list(rows)
    left = withdrawn_elsewhere(session, [row for row in listed if row.granted])
    set_many(session, [row for row in listed if not (row.granted and row[:3] in left)])


def withdrawn_elsewhere(session: Session, rows: Iterable[ConsentChange]) -> set[tuple[int, str, str]]:
    """(member, channel, purpose) that the members of ``rows`` withdrew otherwise than by a file."""
    return {
        (member_id, channel, purpose)
        for member_id, channel, purpose in session.execute(
            sa.select(Consent.member_id, Consent.channel, Consent.purpose).where(
                among(session, Consent.member_id, sorted({row.member_id for row in rows})),
                Consent.granted.is_(False),
                Consent.source != IMPORT,
            )
        )
    }


def _check(channel: str, purpose: str) -> None:
    if channel not in CHANNELS:
        raise InvalidInput(f"“{channel}” is not a channel; use one of {', '.join(CHANNELS)}.", "channel")
    if purpose not in PURPOSES:
        raise InvalidInput(f"“{purpose}” is not a purpose; use one of {', '.join(PURPOSES)}.", "purpose")


def _upsert_newest(session: Session, rows: list[ConsentChange]) -> None:
    table = table_of(Consent)
    if is_postgres(session):
        arrays = [
            sa.bindparam(f"a_{name}", type_=ARRAY(table.c[name].type)) for name in ConsentChange._fields
        ]
        source = sa.func.unnest(*arrays).table_valued(*ConsentChange._fields, name="v").render_derived()
        insert: Any = postgresql.insert(table).from_select(ConsentChange._fields, sa.select(*source.c))
        values: Any = {f"a_{name}": [getattr(row, name) for row in rows] for name in ConsentChange._fields}
    else:
        insert = sqlite.insert(table)
        values = [row._asdict() for row in rows]
    new = insert.excluded
    tie = sa.and_(new.at == table.c.at, table.c.granted.is_(True), new.granted.is_(False))
    session.execute(
        insert.on_conflict_do_update(
            index_elements=["member_id", "channel", "purpose"],
            set_={"granted": new.granted, "source": new.source, "at": new.at},
            where=sa.or_(new.at > table.c.at, tie),
        ),
        values,
    )


def suppress(
    session: Session,
    channel: str,
    address_index: str,
    reason: str,
    source: str,
    at: datetime,
    evidence: Mapping[str, Any] | None = None,
) -> None:
    """Stop writing to an address. The first reason stays, unless a hard one replaces a soft one."""
    suppress_many(session, [SuppressionRow(channel, address_index, reason, source, at, evidence or {})])


def _is_hard(column: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    # Not IN: its list is expanded per execution, which a statement for many rows does not allow.
    return sa.or_(*[column == reason for reason in sorted(HARD_REASONS)])


def suppress_many(session: Session, rows: Iterable[SuppressionRow]) -> None:
    """:func:`suppress` for a batch."""
    hard_first = sorted(
        rows, key=lambda row: (row.channel, row.address_index, row.reason not in HARD_REASONS, row.at)
    )
    unique = {(row.channel, row.address_index): row for row in reversed(hard_first)}
    if not unique:
        return
    table = table_of(Suppression)
    insert: Any = postgresql.insert(table) if is_postgres(session) else sqlite.insert(table)
    new = insert.excluded
    values = [unique[key]._asdict() for key in sorted(unique)]
    session.execute(
        insert.on_conflict_do_update(
            index_elements=["channel", "address_index"],
            set_={name: new[name] for name in ("reason", "source", "at", "evidence")},
            where=sa.and_(_is_hard(new.reason), sa.not_(_is_hard(table.c.reason))),
        ),
        values,
    )


def unsuppress(session: Session, channel: str, address_index: str) -> bool:
    """Write to an address again; whether it was suppressed."""
    found: Any = session.execute(
        sa.delete(Suppression).where(
            Suppression.channel == channel, Suppression.address_index == address_index
        )
    )
    return bool(found.rowcount)


def refusals(session: Session, member_ids: Iterable[int], channel: str, purpose: str) -> dict[int, str]:
    """Who of ``member_ids`` may not be written to, and why: the reasons named in this module.

    Marketing needs a granted consent and no suppression at all; transactional messages only need
    an address without a hard suppression. Two set-based statements for any number of ids up to
    50,000; members that do not exist are refused as ``erased``.
    """
    _check(channel, purpose)
    wanted = list(member_ids)
    index = getattr(Member, f"{ADDRESS_COLUMN[channel]}_index")
    consented = sa.and_(
        Consent.member_id == Member.id,
        Consent.channel == channel,
        Consent.purpose == purpose,
        Consent.granted,
    )
    suppressed = sa.and_(Suppression.channel == channel, Suppression.address_index == index)
    found = session.execute(
        sa.select(
            Member.id, Member.erased_at.is_not(None), index.is_(None), Consent.granted, Suppression.reason
        )
        .outerjoin(Consent, consented)
        .outerjoin(Suppression, suppressed)
        .where(among(session, Member.id, wanted))
    ).all()
    reasons = dict.fromkeys(wanted, ERASED)
    for member_id, erased, no_address, granted, suppression in found:
        reason = refusal(purpose, erased, no_address, bool(granted), suppression)
        if reason is None:
            del reasons[member_id]
        else:
            reasons[member_id] = reason
    return reasons


def refusal(
    purpose: str, erased: bool, no_address: bool, granted: bool, suppression: str | None
) -> str | None:
    """The rule itself, for one member: why not, or None."""
    if erased:
        return ERASED
    if no_address:
        return NO_ADDRESS
    if suppression is not None and (purpose == MARKETING or suppression in HARD_REASONS):
        return SUPPRESSED
    return NO_CONSENT if purpose == MARKETING and not granted else None


def allowed(session: Session, member_ids: Iterable[int], channel: str, purpose: str) -> set[int]:
    """Those of ``member_ids`` that may be written to; the reasons of the others: :func:`refusals`."""
    wanted = set(member_ids)
    return wanted - refusals(session, wanted, channel, purpose).keys()
