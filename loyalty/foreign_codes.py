"""Many codes at once: other systems' codes taken in, a million of our own made, and a batch's codes out.

Guarantees: a code that is there already is never overwritten; what was loaded or made is committed a
lot at a time by the caller, and doing it again with the same file or key changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.bulk import bulk_insert
from core.db import among
from core.errors import Conflict, InvalidInput
from core.models import Member
from loyalty import codes, issuing
from loyalty.batches import ISSUED, validity
from loyalty.models import Coupon, CouponBatch

LOT = 50_000
"""Codes of one transaction."""
EXPORT_ROWS = 5_000
MAX_CODE_CHARS, MIN_CODE_CHARS = codes.MAX_STORED, 3
EXPORT_COLUMNS = ("code", "state", "issued_at", "valid_from", "valid_until")


@dataclass(frozen=True)
class Line:
    """A line of a file: its number, the code as written, and the shop's id of its member, if any."""

    number: int
    code: str
    member: str | None = None


@dataclass(frozen=True)
class Loaded:
    """Codes that were new, those that were there in the same batch, and refusals as (line, reason)."""

    inserted: int
    unchanged: int
    rejected: tuple[tuple[Line, str], ...]


def load(session: Session, batch: CouponBatch, lines: Sequence[Line], source: str, now: datetime) -> Loaded:
    """Take in at most 50,000 codes of another system. The batch's limits count: in all, a day, a member.

    A line is refused where its code cannot be one, belongs to another batch, names a member who is not
    known, or has no room within a limit; the others load.
    """
    if len(lines) > LOT:
        raise InvalidInput(f"At most {LOT} codes are loaded at once.", "file")
    if batch.archived_at is not None:
        raise Conflict(f"The coupon batch “{batch.name}” is archived; choose another.")
    members = _members(session, lines, source)
    issuing.lock_limits(session, batch, members.values())
    rejected: list[tuple[Line, str]] = []
    wanted: dict[str, Line] = {}
    for line in lines:
        code = codes.normalise(line.code)
        if not MIN_CODE_CHARS <= len(code) <= MAX_CODE_CHARS or not code.isalnum():
            rejected.append((line, f"A code has {MIN_CODE_CHARS} to {MAX_CODE_CHARS} letters and digits."))
        elif code in wanted:
            rejected.append((line, f"The code is in line {wanted[code].number} too."))
        elif line.member and line.member not in members:
            rejected.append((line, f"The member “{line.member}” is not known."))
        else:
            wanted[code] = line
    same, taken = _known(session, batch, wanted)
    rejected += [(wanted[code], "The code belongs to another batch.") for code in taken]
    owned = [
        (members.get(line.member or ""), code)
        for code, line in wanted.items()
        if code not in taken and code not in same
    ]
    fresh, over = issuing.within_limits(session, batch, owned, now)
    rejected += [(wanted[code], _limit_words(batch, wanted[code], limit)) for code, limit in over.items()]
    begins, until = validity(batch, now)
    columns = (*issuing.COUPON_COLUMNS, "foreign")
    rows = [
        (
            code, batch.id, member, f"foreign:{code}", ISSUED, now,
            begins, until, True,
        )
        for member, code in fresh
    ]  # fmt: skip
    new = bulk_insert(session, Coupon.__table__, columns, rows, conflict=["code"], returning=["code"])
    if len(new) < len(fresh):
        raise Conflict("Some of these codes were loaded at this moment by somebody else; try again.")
    rejected.sort(key=lambda pair: pair[0].number)
    return Loaded(len(new), len(same), tuple(rejected))


def _limit_words(batch: CouponBatch, line: Line, limit: str) -> str:
    if limit == issuing.MEMBER_LIMIT:
        return f"The member “{line.member}” has the {batch.per_member_limit} codes that a member may have."
    if limit == issuing.DAILY_LIMIT:
        return f"The {batch.daily_limit} codes that may be given today are given; load it tomorrow."
    return f"The batch has room for {batch.total_limit} codes in all."


def _members(session: Session, lines: Sequence[Line], source: str) -> dict[str, int]:
    rows = session.execute(
        sa.select(Member.external_id, Member.id).where(
            Member.source == source,
            Member.erased_at.is_(None),
            among(session, Member.external_id, {line.member for line in lines if line.member}),
        )
    )
    return {external_id: member_id for external_id, member_id in rows}  # noqa: C416


def _known(session: Session, batch: CouponBatch, wanted: Mapping[str, Line]) -> tuple[set[str], set[str]]:
    """Which of the codes are there: in this batch, and in another one (or as a code for many)."""
    rows = session.execute(
        sa.select(Coupon.code, Coupon.batch_id).where(among(session, Coupon.code, wanted))
    ).all()
    many = session.scalars(
        sa.select(CouponBatch.generic_code).where(among(session, CouponBatch.generic_code, wanted))
    ).all()
    same = {code for code, batch_id in rows if batch_id == batch.id}
    return same, {code for code, batch_id in rows if batch_id != batch.id} | {code for code in many if code}


def generate_lot(
    session: Session, batch: CouponBatch, key: str, first: int, number: int, now: datetime
) -> issuing.Issued:
    """Codes ``first`` … of a job by its key: those that an earlier try made stay as they are."""
    rows = [(None, f"made:{key}:{place}") for place in range(first, first + number)]
    return issuing.issue_detailed(session, batch, rows, now)


def exported(session: Session, batch_id: int) -> Iterator[tuple[str, str, str, str, str]]:
    """The batch's codes as rows of :data:`EXPORT_COLUMNS`, in the order made; a page at a time."""
    after = 0
    while True:
        rows = session.execute(
            sa.select(
                Coupon.id,
                Coupon.code,
                Coupon.state,
                Coupon.issued_at,
                Coupon.valid_from,
                Coupon.valid_until,
            )
            .where(Coupon.batch_id == batch_id, Coupon.id > after)
            .order_by(Coupon.id)
            .limit(EXPORT_ROWS)
        ).all()
        for _, code, state, issued_at, begins, until in rows:
            yield code, state, _time(issued_at), _time(begins), _time(until)
        if len(rows) < EXPORT_ROWS:
            return
        after = rows[-1].id


def _time(at: datetime | None) -> str:
    return "" if at is None else at.isoformat()
