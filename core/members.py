"""Members: looked up by what a person may know of them, and erased when they ask."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Protocol

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core import audit, facts
from core.contacts import blind_index, normalise_email, normalise_phone
from core.errors import InvalidInput, NotFound
from core.models import IS_CUSTOMER, Event, Member, Order
from core.warehouse.replica import mark

ERASED = "erased"
"""The fingerprint of who was erased: no import changes such a row again."""
_CONTACTS = ("email", "phone", "openid", "unionid", "wecom")
_INDEXES = tuple(f"{column}_index" for column in _CONTACTS)
_PERSONAL = ("name", *_CONTACTS, *_INDEXES, "gender", "birthday", "city", "province")


def by_external_id(session: Session, external_id: str, source: str | None = None) -> Member:
    """The member with this id of the shop. Raises NotFound."""
    query = sa.select(Member).where(Member.external_id == external_id)
    if source is not None:
        query = query.where(Member.source == source)
    found = session.scalars(query.order_by(Member.id).limit(1)).first()
    if found is None:
        raise NotFound(f"There is no member “{external_id}”.")
    return found


def search(session: Session, text: str, limit: int = 50) -> list[Member]:
    """Members whose id, whole e-mail address, whole phone number or start of name is ``text``."""
    text = text.strip()
    if not text:
        return []
    conditions: list[sa.ColumnElement[bool]] = [
        Member.external_id == text,
        Member.name.istartswith(text, autoescape=True),
        Member.openid_index == blind_index("openid", text),
        Member.wecom_index == blind_index("wecom", text),
    ]
    for column, normalise in (("email", normalise_email), ("phone", normalise_phone)):
        try:
            conditions.append(getattr(Member, f"{column}_index") == blind_index(column, normalise(text)))
        except InvalidInput:
            continue
    query = sa.select(Member).where(IS_CUSTOMER, sa.or_(*conditions))
    return list(session.scalars(query.order_by(Member.id).limit(limit)))


class Eraser(Protocol):
    """What a package above does for an erasure: it deletes what tells who it was, and marks its facts.

    It is called before the member's own row is cleared, so that it still finds the address indexes.
    """

    def __call__(self, session: Session, member: Member, now: datetime, /) -> None: ...


def erase(session: Session, member_id: int, by: str, now: datetime, erasers: Iterable[Eraser] = ()) -> None:
    """Erase a person: details go at once, facts leave the warehouse with its next sync.

    Orders, coupons and points stay in the books under the bare id, as tax law asks; nothing that
    tells who it was stays with them. Core knows its own facts only: :func:`segments.erasure.erase`
    hands in the ``erasers`` of the packages above, and is what pages and the API call.
    """
    member = session.get(Member, member_id, with_for_update=True)
    if member is None:
        raise NotFound(f"There is no member number {member_id}.")
    for eraser in erasers:
        eraser(session, member, now)
    for column in _PERSONAL:
        setattr(member, column, None)
    member.tags, member.shop_tags, member.attributes, member.fingerprint = [], None, {}, ERASED
    member.erased_at = member.updated_at = now
    mark(session, facts.MEMBERS, [None])
    ordered = session.scalars(sa.select(Order.ordered_at).where(Order.member_id == member_id)).all()
    mark(session, facts.ORDERS, ordered)
    mark(session, facts.ORDER_LINES, ordered)
    mark(
        session,
        facts.EVENTS,
        session.scalars(sa.select(Event.occurred_at).where(Event.member_id == member_id)),
    )
    audit.record(session, by, "erase", "member", member_id, now)
