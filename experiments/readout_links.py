"""Links that show a read-out to somebody without an account: signed, ending, and taken back at will.

Guarantees: a token opens one read-out, for as long as its row says; it can be neither made up nor turned into
another. What it shows is the frozen read-out, in which there is nobody.
"""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core import audit, crypto
from core.errors import InvalidInput, NotFound
from experiments.models import Readout, ReadoutLink

PURPOSE = "readout"
DAYS = (7, 30, 90)
DEFAULT_DAYS = 30
MAX_LINKS = 20
"""Open links of one read-out."""


def make(session: Session, readout_id: int, *, days: int, by: str, now: datetime) -> ReadoutLink:
    """A link that ends after ``days``. NotFound: no such read-out. InvalidInput: another term, too many."""
    if days not in DAYS:
        raise InvalidInput(f"A link is good for {', '.join(map(str, DAYS))} days.", "days")
    if session.get(Readout, readout_id) is None:
        raise NotFound("There is no such read-out.")
    if len(open_links(session, readout_id, now)) >= MAX_LINKS:
        raise InvalidInput(f"There are {MAX_LINKS} links already; withdraw one first.", "days")
    row = ReadoutLink(
        readout_id=readout_id,
        nonce=secrets.token_hex(8),
        created_by=by,
        created_at=now,
        expires_at=now + timedelta(days=days),
    )
    session.add(row)
    session.flush()
    audit.record(session, by, "share", "readout", readout_id, now, {"link": row.id, "days": days})
    return row


def withdraw(session: Session, readout_id: int, link_id: int, *, by: str, now: datetime) -> None:
    """End a link now; one that has ended stays as it is. NotFound: the read-out has no such link."""
    row = session.get(ReadoutLink, link_id)
    if row is None or row.readout_id != readout_id:
        raise NotFound("This read-out has no such link.")
    if row.withdrawn_at is None:
        row.withdrawn_by, row.withdrawn_at = by, now
        audit.record(session, by, "unshare", "readout", readout_id, now, {"link": link_id})


def open_links(session: Session, readout_id: int, now: datetime) -> list[ReadoutLink]:
    """The links that still open, the newest first."""
    query = (
        sa.select(ReadoutLink)
        .where(
            ReadoutLink.readout_id == readout_id,
            ReadoutLink.withdrawn_at.is_(None),
            ReadoutLink.expires_at > now,
        )
        .order_by(ReadoutLink.id.desc())
    )
    return list(session.scalars(query))


def token(link: ReadoutLink) -> str:
    """What stands in the address."""
    return crypto.keyring().sign(PURPOSE, f"{link.id}:{link.nonce}")


def opened(session: Session, text: str, now: datetime) -> Readout | None:
    """The read-out that a token shows now, or None."""
    payload = crypto.keyring().verify(PURPOSE, text)
    if payload is None:
        return None
    link_id, _, nonce = payload.partition(":")
    query = sa.select(Readout).join(ReadoutLink, ReadoutLink.readout_id == Readout.id)
    return session.scalar(
        query.where(
            ReadoutLink.id == int(link_id),
            ReadoutLink.nonce == nonce,
            ReadoutLink.withdrawn_at.is_(None),
            ReadoutLink.expires_at > now,
        )
    )
