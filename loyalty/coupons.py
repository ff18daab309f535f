"""Codes: issued to members or to anybody, expired, revoked, looked up. The one door to coupons.

Guarantees: an issue key has one code, however often it is asked for; a limit is never passed, since
whatever decides is read under the lock (batch row for the total, member rows for the limit a member)
or inside the atomic write; a batch without limits never touches a shared row.

Order of locks: member rows, batch row, code rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core import audit
from core.db import among, bulk_count, lock_rows
from core.errors import Conflict, InvalidInput
from core.models import Member
from loyalty import codes
from loyalty.batches import (
    EXPIRED,
    ISSUED,
    REDEEMED,
    REVOKED,
    NewBatch,
    archive_batch,
    create_batch,
    current_state,
    find_batch,
    validity_end,
)
from loyalty.models import Coupon, CouponBatch
from loyalty.redemptions import Redeemed, Refused, redeem, rollback, unknown
from loyalty.requests import claim, fingerprint, remember

__all__ = [
    "EXPIRED",
    "ISSUED",
    "MAX_ISSUE",
    "MEMBER_LIMIT",
    "REDEEMED",
    "REVOKED",
    "TOTAL_LIMIT",
    "CouponView",
    "Issued",
    "NewBatch",
    "Redeemed",
    "Refused",
    "archive_batch",
    "create_batch",
    "expire",
    "find_batch",
    "issue",
    "issue_detailed",
    "issue_requested",
    "look_up",
    "redeem",
    "revoke",
    "rollback",
]

MAX_ISSUE = 50_000
TOTAL_LIMIT, MEMBER_LIMIT = "total_limit", "per_member_limit"
"""Why a member got no code."""

_COUPON_COLUMNS = (
    "code",
    "batch_id",
    "member_id",
    "issue_key",
    "state",
    "issued_at",
    "valid_from",
    "valid_until",
)


@dataclass(frozen=True)
class Issued:
    """``codes`` by issue key; ``refused`` says of the other keys which limit stood in the way."""

    codes: dict[str, str]
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CouponView:
    """A code as a shop's counter sees it; ``state`` is as of the moment asked, swept or not."""

    code: str
    batch: str
    title: str
    benefit: dict[str, Any]
    currency: str
    min_spend_minor: int
    state: str
    valid_from: datetime | None
    valid_until: datetime | None
    member_external_id: str | None


def issue(
    session: Session, batch: CouponBatch, rows: Sequence[tuple[int | None, str]], now: datetime
) -> dict[str, str]:
    """Codes by issue key for ``rows`` of (member id or None, issue key); see :func:`issue_detailed`.

    A key that is missing in the answer got no code, because a limit was reached.
    """
    return issue_detailed(session, batch, rows, now).codes


def issue_detailed(
    session: Session, batch: CouponBatch, rows: Sequence[tuple[int | None, str]], now: datetime
) -> Issued:
    """Give each of at most 50,000 rows (member id or None for anybody, issue key) its one code.

    A key that has a code keeps it. Where a limit leaves fewer codes than rows, the first rows get
    them. A key that belongs to another batch or member is a Conflict; so is a batch that is archived
    or over. A revoked code still counts towards the limits.
    """
    wanted = _wanted(batch, rows, now)
    if batch.per_member_limit is not None:
        lock_rows(session, Member.__table__, sorted({m for m in wanted.values() if m is not None}))
    if batch.total_limit is not None:
        _lock_batch(session, batch.id)
    limited = batch.per_member_limit is not None or batch.total_limit is not None
    # Without a limit nothing hangs on which keys are known: the insert finds out, and mostly none is.
    found = _codes_of(session, batch, wanted) if limited else {}
    fresh = [(member, key) for key, member in wanted.items() if key not in found]
    refused: dict[str, str] = {}
    if batch.per_member_limit is not None:
        fresh = _within_member_limit(session, batch, fresh, refused)
    if batch.total_limit is not None:
        fresh = _within_total_limit(session, batch, fresh, refused)
    if fresh:
        made = _insert(session, batch, fresh, now)
        # Keys that were there, or that another transaction took meanwhile, keep the codes they have.
        found = _codes_of(session, batch, wanted) if made is None else {**found, **made}
    return Issued(found, refused)


def issue_requested(
    session: Session,
    batch: CouponBatch,
    members: Sequence[int | None],
    *,
    idempotency_key: str,
    now: datetime,
) -> list[tuple[str | None, str | None]]:
    """Issue on request of a shop's system: (code, None) or (None, reason) for each of ``members``.

    None among the members is a code for anybody. The same key with the same batch and members answers
    the same again; with others it is a Conflict.
    """
    body = {"do": "issue", "batch": batch.id, "members": list(members)}
    before = claim(session, idempotency_key, body, now)
    if before is not None:
        return [(code, reason) for code, reason in before["rows"]]
    prefix = f"api:{fingerprint({'key': idempotency_key})}"
    keys = [f"{prefix}:{number}" for number in range(len(members))]
    issued = issue_detailed(session, batch, list(zip(members, keys, strict=True)), now)
    rows = [(issued.codes.get(key), issued.refused.get(key)) for key in keys]
    remember(session, idempotency_key, {"rows": rows})
    return rows


def _wanted(
    batch: CouponBatch, rows: Sequence[tuple[int | None, str]], now: datetime
) -> dict[str, int | None]:
    if len(rows) > MAX_ISSUE:
        raise InvalidInput(
            f"At most {MAX_ISSUE} codes are issued at once; {len(rows)} were asked for.", "rows"
        )
    if batch.archived_at is not None:
        raise Conflict(f"The coupon batch “{batch.name}” is archived; choose another.")
    if batch.ends_at is not None and batch.ends_at <= now:
        raise Conflict(f"The coupon batch “{batch.name}” ended on {batch.ends_at:%Y-%m-%d %H:%M} UTC.")
    wanted: dict[str, int | None] = {}
    for member_id, key in rows:
        if wanted.setdefault(key, member_id) != member_id:
            raise Conflict(f"The issue key “{key}” stands for two members; give each its own.")
    return wanted


def _lock_batch(session: Session, batch_id: int) -> None:
    lock_rows(session, CouponBatch.__table__, [batch_id])


def _codes_of(session: Session, batch: CouponBatch, wanted: Mapping[str, int | None]) -> dict[str, str]:
    rows = session.execute(
        sa.select(Coupon.issue_key, Coupon.code, Coupon.batch_id, Coupon.member_id).where(
            among(session, Coupon.issue_key, wanted)
        )
    ).all()
    for key, _, batch_id, member_id in rows:
        if batch_id != batch.id or member_id != wanted[key]:
            raise Conflict(f"The issue key “{key}” was used for another batch or member; send a new one.")
    return {key: code for key, code, _, _ in rows}


def _within_member_limit(
    session: Session,
    batch: CouponBatch,
    fresh: list[tuple[int | None, str]],
    refused: dict[str, str],
) -> list[tuple[int | None, str]]:
    assert batch.per_member_limit is not None
    members = {member for member, _ in fresh if member is not None}
    held: Counter[int | None] = Counter()
    for member_id, number in session.execute(
        sa.select(Coupon.member_id, sa.func.count())
        .where(Coupon.batch_id == batch.id, among(session, Coupon.member_id, members))
        .group_by(Coupon.member_id)
    ):
        held[member_id] = number
    kept = []
    for member, key in fresh:
        if member is not None and held[member] >= batch.per_member_limit:
            refused[key] = MEMBER_LIMIT
            continue
        if member is not None:
            held[member] += 1
        kept.append((member, key))
    return kept


def _within_total_limit(
    session: Session,
    batch: CouponBatch,
    fresh: list[tuple[int | None, str]],
    refused: dict[str, str],
) -> list[tuple[int | None, str]]:
    """Count the codes in before they are made: the counter is the limit's one truth."""
    table = CouponBatch.__table__.c
    left = session.execute(
        sa.select(table.total_limit - table.issued).where(table.id == batch.id)
    ).scalar_one()
    kept = fresh[: max(0, left)]
    refused.update((key, TOTAL_LIMIT) for _, key in fresh[len(kept) :])
    if kept and not _reserve(session, batch.id, len(kept)):
        raise Conflict(f"The coupon batch “{batch.name}” was used up meanwhile; try again.")
    return kept


def _reserve(session: Session, batch_id: int, number: int) -> bool:
    """Take ``number`` codes off the limit, in one conditional write."""
    done = session.execute(
        sa.update(CouponBatch)
        .where(CouponBatch.id == batch_id, CouponBatch.issued + number <= CouponBatch.total_limit)
        .values(issued=CouponBatch.issued + number)
        .returning(CouponBatch.id),
        execution_options={"synchronize_session": False},
    )
    return done.one_or_none() is not None


def _insert(
    session: Session, batch: CouponBatch, fresh: Sequence[tuple[int | None, str]], now: datetime
) -> dict[str, str] | None:
    """Make the codes. Answers them by issue key, or None where some of the keys had codes already."""
    until = validity_end(batch.ends_at, batch.valid_days, batch.starts_at, now)
    made = codes.generate(batch.prefix, batch.random_chars, len(fresh))
    new = bulk_count(
        session,
        Coupon.__table__,
        _COUPON_COLUMNS,
        (
            (code, batch.id, member, key, ISSUED, now, batch.starts_at, until)
            for code, (member, key) in zip(made, fresh, strict=True)
        ),
        conflict=["issue_key"],
    )
    if new < len(fresh):
        return None
    return {key: code for code, (_, key) in zip(made, fresh, strict=True)}


def expire(session: Session, now: datetime, limit: int) -> int:
    """Sweep at most ``limit`` issued codes whose time is over; how many there were."""
    due = (
        sa.select(Coupon.id)
        .where(Coupon.state == ISSUED, Coupon.valid_until <= now)
        .order_by(Coupon.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    swept = session.execute(
        sa.update(Coupon).where(Coupon.id.in_(due)).values(state=EXPIRED).returning(Coupon.id),
        execution_options={"synchronize_session": False},
    )
    return len(swept.all())


def revoke(session: Session, texts: Sequence[str], by: str, now: datetime) -> int:
    """Make codes that were not redeemed useless for good; how many were. Leaves an audit row."""
    if len(texts) > MAX_ISSUE:
        raise InvalidInput(f"At most {MAX_ISSUE} codes are revoked at once.", "codes")
    wanted = [codes.check(text) for text in texts]
    revoked = session.execute(
        sa.update(Coupon)
        .where(among(session, Coupon.code, wanted), Coupon.state == ISSUED)
        .values(state=REVOKED)
        .returning(Coupon.code),
        execution_options={"synchronize_session": False},
    ).all()
    if revoked:
        gone = sorted(row[0] for row in revoked)
        audit.record(session, by, "revoke", "coupon", gone[0], now, {"codes": gone[:100], "count": len(gone)})
    return len(revoked)


def take_back(session: Session, texts: Sequence[str]) -> None:
    """Undo the issue of codes that nobody has seen: useless for good, and off every limit again.

    Raises Conflict, and changes nothing, when one of them was redeemed.
    """
    taken = session.execute(
        sa.update(Coupon)
        .where(among(session, Coupon.code, texts), Coupon.state.in_((ISSUED, EXPIRED)))
        .values(state=REVOKED, member_id=None)
        .returning(Coupon.batch_id),
        execution_options={"synchronize_session": False},
    )
    by_batch = Counter(taken.scalars())
    if sum(by_batch.values()) < len(set(texts)):
        raise Conflict("A coupon of this run was used already, so the run cannot be undone.")
    for batch_id, number in sorted(by_batch.items()):  # a handful: the offers of one run
        session.execute(
            sa.update(CouponBatch)
            .where(CouponBatch.id == batch_id, CouponBatch.total_limit.is_not(None))
            .values(issued=CouponBatch.issued - number),
            execution_options={"synchronize_session": False},
        )


def look_up(session: Session, text: str, now: datetime) -> CouponView:
    """A code and what it gives. InvalidInput: a typing error. NotFound: no such code."""
    code = codes.check(text)
    row = session.execute(
        sa.select(Coupon, CouponBatch, Member.external_id)
        .join(CouponBatch, CouponBatch.id == Coupon.batch_id)
        .outerjoin(Member, Member.id == Coupon.member_id)
        .where(Coupon.code == code)
    ).one_or_none()
    if row is None:
        raise unknown(code)
    coupon, batch, external_id = row
    return CouponView(
        code,
        batch.name,
        batch.title,
        batch.benefit,
        batch.currency,
        batch.min_spend_minor,
        current_state(coupon.state, coupon.valid_until, now),
        coupon.valid_from,
        coupon.valid_until,
        external_id,
    )
