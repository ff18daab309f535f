"""Sign-ups among imported rows: who creates members by the dozen is held against the rules of abuse.

A sign-up is a new member's row with a ``client``, or an event of the kind ``sign_up`` that names a device,
an IP address, an address or a phone in its properties. A member signs up once, by whichever comes first. The
rows load whatever is found: the shop has made the member already; what was found waits in the review.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy.orm import Session

from core.db import Database, among
from core.errors import InvalidInput
from core.models import Member
from loyalty.abuse.many import Action, observe_many
from loyalty.abuse.rules import SIGN_UP
from loyalty.abuse.subjects import PHONE, subjects_of
from web.api.abuse import FIELDS, ClientIn

MEMBERS, EVENTS = "members", "events"
DESCRIPTIONS = {
    MEMBERS: " A row may have a `client` {device_id, ip, address, phone}: where the member is new, it is a "
    "sign-up, and `watched` says which of them break a rule against abuse.",
    EVENTS: " An event of the kind `sign_up` with device_id, ip, address or phone among its properties is "
    "watched: `watched` says which of them break a rule against abuse.",
}


@dataclass(frozen=True)
class SignUp:
    """The row's place, the shop's id of the member, and kind → keyed hash of what came with it."""

    index: int
    member: str
    subjects: Mapping[str, str]


def of_rows(
    session: Session, kind: str, rows: Sequence[dict[str, Any]], source: str
) -> tuple[list[SignUp], dict[int, str]]:
    """The sign-ups among rows that are about to be imported; takes ``client`` out of members' rows.

    And by index why a row's client cannot be read (``rows[3].client.ip: …``): such a row must not load, since
    the member would be there and the sign-up unseen.
    """
    if kind == EVENTS:
        named = [
            (index, row)
            for index, row in enumerate(rows)
            if row.get("kind") == SIGN_UP and row.get("member_id")
        ]
        return _readable(named, lambda index, row: _of_event(row, f"rows[{index}].properties"))
    if kind != MEMBERS:
        return [], {}
    sent = {
        index: client
        for index, row in enumerate(rows)
        if (client := row.pop("client", None)) is not None and row.get("member_id")
    }
    known = _known(session, source, {str(rows[index]["member_id"]) for index in sent})
    new = [(index, rows[index]) for index in sent if str(rows[index]["member_id"]) not in known]
    return _readable(
        new, lambda index, row: _of_client(sent[index], row.get("phone"), f"rows[{index}].client")
    )


def _readable(
    rows: Sequence[tuple[int, dict[str, Any]]], read: Callable[[int, dict[str, Any]], dict[str, str]]
) -> tuple[list[SignUp], dict[int, str]]:
    found, unreadable = [], {}
    for index, row in rows:
        try:
            subjects = read(index, row)
        except InvalidInput as error:
            unreadable[index] = str(error)
        else:
            found += [SignUp(index, str(row["member_id"]), subjects)] if subjects else []
    return found, unreadable


def _known(session: Session, source: str, names: set[str]) -> set[str]:
    if not names:
        return set()
    members = sa.select(Member.external_id)
    return set(
        session.scalars(members.where(Member.source == source, among(session, Member.external_id, names)))
    )


def _of_event(row: Mapping[str, Any], place: str) -> dict[str, str]:
    properties = row.get("properties")
    sent = properties if isinstance(properties, dict) else {}
    values = {
        kind: str(value)
        for field, kind in FIELDS.items()
        if (value := sent.get(field, row.get(f"properties.{field}"))) is not None
    }
    return _hashed(values, place)


def _of_client(client: Any, phone: Any, place: str) -> dict[str, str]:
    try:
        read = ClientIn.model_validate(client)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join((place, *map(str, first["loc"])))
        raise InvalidInput(f"{field}: {first['msg']}.", field) from None
    values = {kind: value for field, kind in FIELDS.items() if (value := getattr(read, field)) is not None}
    subjects = _hashed(values, place)
    if phone and PHONE not in subjects:
        try:
            subjects |= subjects_of({PHONE: str(phone)})
        except InvalidInput:
            return subjects  # the import says of the row what is wrong with it
    return subjects


def _hashed(values: Mapping[str, str], place: str) -> dict[str, str]:
    try:
        return subjects_of(values)
    except InvalidInput as error:
        fields = {kind: field for field, kind in FIELDS.items()}
        field = f"{place}.{fields.get(error.field or '', error.field)}"
        raise InvalidInput(f"{field}: {error}", field) from None


def observe(
    database: Database, sign_ups: Sequence[SignUp], source: str, now: datetime
) -> list[dict[str, Any]]:
    """Take note of sign-ups that were imported; index and decision of those that break a rule.

    In a transaction of its own: what is noted stays, and what was imported is imported whatever is found.
    """
    if not sign_ups:
        return []
    with database.write() as session:
        names = {one.member for one in sign_ups}
        ids: dict[str, int] = dict(
            session.execute(
                sa.select(Member.external_id, Member.id).where(
                    Member.source == source, among(session, Member.external_id, names)
                )
            ).all()
        )
        actions = {
            f"sign_up:{source}:{one.member}": Action(
                f"sign_up:{source}:{one.member}", one.subjects, ids.get(one.member)
            )
            for one in sign_ups
        }
        found = observe_many(session, SIGN_UP, list(actions.values()), now)
    return [
        {"index": one.index, "decision": decision}
        for one in sign_ups
        if (decision := found.get(f"sign_up:{source}:{one.member}")) is not None
    ]
