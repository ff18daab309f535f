"""Codes given to members or to anybody, within every limit of their batch.

Guarantees: an issue key has one code, however often it is asked for; a limit is never passed, since
whatever decides is read under the lock (batch row for the total and the day, member rows for the limit
a member) or inside the atomic write; a batch without limits never touches a shared row.

Order of locks: member rows, code rows that exist, batch rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.bulk import bulk_count
from core.db import among, lock_rows
from core.errors import Conflict, InvalidInput
from core.models import Member
from loyalty import codes
from loyalty.batches import ISSUED, day_bounds, validity, zone_of
from loyalty.models import Coupon, CouponBatch
from loyalty.requests import claim, fingerprint, remember

MAX_ISSUE = 50_000
STRAIGHT_ROWS = 500
"""From here on a lot is copied straight into the table first."""
TOTAL_LIMIT, MEMBER_LIMIT, DAILY_LIMIT = "total_limit", "per_member_limit", "daily_limit"
"""Why a member got no code."""

COUPON_COLUMNS = (
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
    limited = lock_limits(session, batch, wanted.values())
    # Without a limit nothing hangs on which keys are known: the insert finds out, and mostly none is.
    found = _codes_of(session, batch, wanted) if limited else {}
    fresh = [(member, key) for key, member in wanted.items() if key not in found]
    fresh, refused = within_limits(session, batch, fresh, now)
    if fresh:
        made = _insert(session, batch, fresh, now)
        # Keys that were there, or that another transaction took meanwhile, keep the codes they have.
        found = _codes_of(session, batch, wanted) if made is None else {**found, **made}
    return Issued(found, refused)


def lock_limits(session: Session, batch: CouponBatch, members: Iterable[int | None]) -> bool:
    """Lock what the batch's limits are counted under; whether it has any. Before :func:`within_limits`."""
    if batch.per_member_limit is not None:
        lock_rows(session, Member.__table__, sorted({m for m in members if m is not None}))
    shared = batch.total_limit is not None or batch.daily_limit is not None
    if shared:
        _lock_batch(session, batch.id)
    return batch.per_member_limit is not None or shared


def within_limits(
    session: Session, batch: CouponBatch, fresh: list[tuple[int | None, str]], now: datetime
) -> tuple[list[tuple[int | None, str]], dict[str, str]]:
    """The first of the new rows (member id or None, key) that every limit has room for, counted in; and
    key → limit of the others. Under the locks of :func:`lock_limits`."""
    refused: dict[str, str] = {}
    if batch.per_member_limit is not None:
        fresh = _within_member_limit(session, batch, fresh, refused)
    if batch.daily_limit is not None:
        fresh = _within_daily_limit(session, batch, fresh, refused, now)
    if batch.total_limit is not None:
        fresh = _within_total_limit(session, batch, fresh, refused)
    return fresh, refused


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
        .where(
            Coupon.batch_id == batch.id,
            Coupon.freed_at.is_(None),
            among(session, Coupon.member_id, members),
        )
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


def _within_daily_limit(
    session: Session,
    batch: CouponBatch,
    fresh: list[tuple[int | None, str]],
    refused: dict[str, str],
    now: datetime,
) -> list[tuple[int | None, str]]:
    """The first rows that the batch's day has room for, counted under the lock of the batch."""
    assert batch.daily_limit is not None
    first, after = day_bounds(now, zone_of(batch.timezone))
    given = session.execute(
        sa.select(sa.func.count())
        .select_from(Coupon)
        .where(
            Coupon.batch_id == batch.id,
            Coupon.issued_at >= first,
            Coupon.issued_at < after,
            Coupon.freed_at.is_(None),
        )
    ).scalar_one()
    kept = fresh[: max(0, batch.daily_limit - given)]
    refused.update((key, DAILY_LIMIT) for _, key in fresh[len(kept) :])
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
    if kept and not reserve(session, batch.id, len(kept)):
        raise Conflict(f"The coupon batch “{batch.name}” was used up meanwhile; try again.")
    return kept


def reserve(session: Session, batch_id: int, number: int) -> bool:
    """Take ``number`` codes off the limit, in one conditional write."""
    done = session.execute(
        sa.update(CouponBatch)
        .where(CouponBatch.id == batch_id, CouponBatch.issued + number <= CouponBatch.total_limit)
        .values(issued=CouponBatch.issued + number)
        .returning(CouponBatch.id),
        execution_options={"synchronize_session": False},
    )
    return done.one_or_none() is not None


def free_places(session: Session, by_batch: Mapping[int, int]) -> None:
    """Take codes off the totals of their batches again, where those have a limit."""
    table = CouponBatch.__table__
    assert isinstance(table, sa.Table)
    changes = [{"batch": batch, "number": number} for batch, number in sorted(by_batch.items()) if number]
    if changes:
        session.connection().execute(
            sa.update(table)
            .where(table.c.id == sa.bindparam("batch"), table.c.total_limit.is_not(None))
            .values(issued=table.c.issued - sa.bindparam("number")),
            changes,
        )


def _insert(
    session: Session, batch: CouponBatch, fresh: Sequence[tuple[int | None, str]], now: datetime
) -> dict[str, str] | None:
    """Make the codes. Answers them by issue key, or None where some of the keys had codes already."""
    begins, until = validity(batch, now)
    made = codes.generate(batch.prefix, batch.random_chars, len(fresh))
    rows = [
        (code, batch.id, member, key, ISSUED, now, begins, until)
        for code, (member, key) in zip(made, fresh, strict=True)
    ]
    if not _store_new(session, rows):
        new = bulk_count(session, Coupon.__table__, COUPON_COLUMNS, rows, conflict=["issue_key"])
        if new < len(fresh):
            return None
    return {key: code for code, (_, key) in zip(made, fresh, strict=True)}


def _store_new(session: Session, rows: Sequence[tuple[object, ...]]) -> bool:
    """Try many rows as if all of them were new, which they mostly are: without the staging table, that is
    half of the time on PostgreSQL. False, with nothing written, where one of their keys is there."""
    dialect = session.get_bind().dialect
    if dialect.name != "postgresql" or len(rows) < STRAIGHT_ROWS:
        return False
    try:
        with session.begin_nested():
            bulk_count(session, Coupon.__table__, COUPON_COLUMNS, rows)
    except dialect.loaded_dbapi.IntegrityError:
        return False
    return True
