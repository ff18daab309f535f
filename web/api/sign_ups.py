"""Sign-ups among imported rows: who creates members by the dozen is held against the rules of abuse.

A sign-up is a new member's row with a ``client``, or an event of the kind ``sign_up`` that names a device,
an IP address, an address or a phone in its properties. A member signs up once, by whichever comes first. The
rows load whatever is found: the shop has made the member already; what was found waits in the review.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def of_rows(session: Session, kind: str, rows: Sequence[dict[str, Any]], source: str) -> list[SignUp]:
    """The sign-ups among rows that are about to be imported; takes ``client`` out of members' rows.

    InvalidInput names the field (``rows[3].client.ip``) of a client that cannot be read.
    """
    if kind == EVENTS:
        return [
            SignUp(index, str(row["member_id"]), subjects)
            for index, row in enumerate(rows)
            if row.get("kind") == SIGN_UP and row.get("member_id")
            if (subjects := _of_event(row, f"rows[{index}].properties"))
        ]
    if kind != MEMBERS:
        return []
    sent = {
        index: client
        for index, row in enumerate(rows)
        if (client := row.pop("client", None)) is not None and row.get("member_id")
    }
    names = {str(rows[index]["member_id"]) for index in sent}
    known = set(
        session.scalars(
            sa.select(Member.external_id).where(
                Member.source == source, among(session, Member.external_id, names)
            )
        )
        if names
        else ()
    )
    return [
        SignUp(index, name, subjects)
        for index, client in sent.items()
        if (name := str(rows[index]["member_id"])) not in known
        if (subjects := _of_client(client, rows[index].get("phone"), f"rows[{index}].client"))
    ]


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
