"""Links (and QR codes) by which members claim a code of a batch: one each, within the link's limit.

Guarantees: a member has one code of a link, and gets the same again with every try; a limit is never
passed, since it is counted in one conditional write; a link without a limit is never written.

Order of locks: member rows, the link, batch rows.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core import audit, crypto
from core.contacts import blind_index, normalise_email, normalise_phone
from core.db import lock_rows
from core.errors import InvalidInput, NotFound
from core.models import Member
from loyalty import issuing
from loyalty.models import ClaimLink, Coupon, CouponBatch
from loyalty.requests import claim, remember
from loyalty.uses import LIMIT_TEXTS, Refused

_PURPOSE = "claim"
TOKEN_BYTES = 9
NOT_YET, OVER, USED_UP, OPEN = "not_yet", "over", "used_up", "open"
"""States of a link."""


@dataclass(frozen=True)
class NewLink:
    """What a marketer gives to make a link."""

    title: str
    limit: int | None = None
    starts_at: datetime | None = None
    ends_at: datetime | None = None


@dataclass(frozen=True)
class Claimed:
    """The member's code of a link; ``again`` where the member had it before."""

    code: str
    batch: str
    again: bool


def create_link(session: Session, batch: CouponBatch, new: NewLink, by: str, now: datetime) -> ClaimLink:
    """Make a link. InvalidInput names the field that is wrong."""
    checks = (
        (0 < len(new.title.strip()) <= 200, "title", "The title has 1 to 200 characters."),
        (
            new.limit is None or 0 < new.limit < 2**31,
            "limit",
            "The limit is above 0; leave it empty for none.",
        ),
        (
            new.ends_at is None or new.ends_at > now,
            "ends_at",
            "The end lies in the past; choose a later one.",
        ),
        (
            new.starts_at is None or new.ends_at is None or new.starts_at < new.ends_at,
            "ends_at",
            "The end lies before the start.",
        ),
    )
    for right, name, message in checks:
        if not right:
            raise InvalidInput(message, name)
    link = ClaimLink(
        token=secrets.token_urlsafe(TOKEN_BYTES),
        batch_id=batch.id,
        title=new.title.strip(),
        limit=new.limit,
        claimed=0,
        starts_at=new.starts_at,
        ends_at=new.ends_at,
        created_by=by,
        created_at=now,
    )
    session.add(link)
    session.flush()
    audit.record(session, by, "create", "claim_link", link.id, now, {"batch": batch.name})
    return link


def archive_link(session: Session, link: ClaimLink, by: str, now: datetime) -> None:
    """End a link for good. Doing it again changes nothing."""
    if link.archived_at is None:
        link.archived_at = now
        audit.record(session, by, "archive", "claim_link", link.id, now, {"title": link.title})


def find_link(session: Session, token: str) -> tuple[ClaimLink, CouponBatch]:
    """The link and its batch, or NotFound."""
    row = session.execute(
        sa.select(ClaimLink, CouponBatch)
        .join(CouponBatch, CouponBatch.id == ClaimLink.batch_id)
        .where(ClaimLink.token == token)
    ).one_or_none()
    if row is None:
        raise NotFound("There is no such claim link; look under the coupon batch.")
    return row[0], row[1]


def state_of(link: ClaimLink, batch: CouponBatch, now: datetime) -> str:
    """Whether the link gives codes now; one that is used up still shows members the codes they have."""
    ends = [end for end in (link.ends_at, batch.ends_at) if end is not None]
    if link.archived_at is not None or batch.archived_at is not None or any(end <= now for end in ends):
        return OVER
    if link.starts_at is not None and now < link.starts_at:
        return NOT_YET
    return USED_UP if link.limit is not None and link.claimed >= link.limit else OPEN


def claim_code(session: Session, token: str, member_id: int, now: datetime) -> Claimed:
    """Give the member the link's code, or the one they have of it.

    NotFound: no such link. :class:`Refused`: ``claim_over``, ``claim_used_up``, or a limit of the batch.
    """
    link, batch = find_link(session, token)
    key = f"claim:{link.id}:{member_id}"
    _lock_member(session, member_id)
    had = session.scalar(sa.select(Coupon.code).where(Coupon.issue_key == key))
    if had is not None:
        return Claimed(had, batch.name, True)
    state = state_of(link, batch, now)
    if state in (NOT_YET, OVER):
        raise Refused("claim_over", f"The offer “{link.title}” is not open now.")
    if link.limit is not None and not _count(session, link.id):
        raise Refused("claim_used_up", f"All codes of the offer “{link.title}” were claimed.")
    issued = issuing.issue_detailed(session, batch, [(member_id, key)], now)
    if key in issued.refused:
        reason = issued.refused[key]
        raise Refused(reason, LIMIT_TEXTS[reason].format(batch.name))
    return Claimed(issued.codes[key], batch.name, False)


def claim_requested(
    session: Session, token: str, member_id: int, *, idempotency_key: str, now: datetime
) -> Claimed:
    """:func:`claim_code` on request of a shop's system: the same key answers the same again."""
    body = {"do": "claim", "link": token, "member": member_id}
    before = claim(session, idempotency_key, body, now)
    if before is not None:
        return Claimed(**before)
    done = claim_code(session, token, member_id, now)
    remember(session, idempotency_key, vars(done))
    return done


def _lock_member(session: Session, member_id: int) -> None:
    lock_rows(session, Member.__table__, [member_id])


def _count(session: Session, link_id: int) -> bool:
    """Take one off the link's limit, in one conditional write."""
    done = session.execute(
        sa.update(ClaimLink)
        .where(ClaimLink.id == link_id, ClaimLink.claimed < ClaimLink.limit)
        .values(claimed=ClaimLink.claimed + 1)
        .returning(ClaimLink.id),
        execution_options={"synchronize_session": False},
    )
    return done.one_or_none() is not None


def claim_url(base_url: str, link: ClaimLink) -> str:
    """The address of a link for everybody, as its QR code has it."""
    return f"{base_url}/claim/{link.token}"


def member_url(base_url: str, link: ClaimLink, member_id: int) -> str:
    """The address for one member, signed: who opens it is shown the code."""
    signed = crypto.keyring().sign(_PURPOSE, f"{link.id}:{member_id}")
    return f"{claim_url(base_url, link)}?m={signed}"


def read_member(link: ClaimLink, signed: str) -> int | None:
    """The member whom a signed address of this link names, or None."""
    payload = crypto.keyring().verify(_PURPOSE, signed)
    number, _, member_id = (payload or "").partition(":")
    return int(member_id) if number == str(link.id) else None


def member_by_contact(session: Session, text: str) -> int | None:
    """The one member who has this phone or e-mail; None where nobody or several have. Never says which.

    InvalidInput for what is neither.
    """
    column = "email" if "@" in text else "phone"
    normal = normalise_email(text) if column == "email" else normalise_phone(text)
    index = Member.email_index if column == "email" else Member.phone_index
    ids = session.scalars(
        sa.select(Member.id).where(index == blind_index(column, normal), Member.erased_at.is_(None)).limit(2)
    ).all()
    return ids[0] if len(ids) == 1 else None
