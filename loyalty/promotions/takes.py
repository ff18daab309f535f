"""What orders take of promotions: held for a time, then confirmed, released, or expired.

Guarantees: of a promotion at most its stock is taken and by a member at most their limit, however many
orders come at once: the stock is counted by a conditional write, a member's limit under the member's lock.
An order takes all its promotions or none. A hold resolves once, under the lock of its rows. Only a promotion
with a stock touches its own row, so the others are never hot.

Locks are taken in this order: the request's key, the member, holds, promotions by id.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.bulk import bulk_insert
from core.db import among, lock_rows
from core.errors import Conflict, InvalidInput, NotFound
from loyalty.ledger import lock_members
from loyalty.promotions.models import PromotionRow, PromotionTake
from loyalty.requests import claim, remember

HELD, CONFIRMED, RELEASED, EXPIRED = "held", "confirmed", "released", "expired"
MAX_TAKE = 1_000_000
MAX_AT_ONCE = 100
"""Promotions of one order."""
DEFAULT_MINUTES, MAX_MINUTES = 15, 24 * 60
SWEPT_AT_ONCE = 1_000


class SoldOut(Conflict):
    """Fewer are left than were asked for; nothing was taken."""

    reason = "sold_out"


class MemberLimit(Conflict):
    """The member would have more than one may take; nothing was taken."""

    reason = "member_limit"


class NotInForce(Conflict):
    """The promotion is archived, has not begun, or is over."""

    reason = "not_in_force"


class Resolved(Conflict):
    """The hold is no longer open; ``reason`` says what became of it."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Taken:
    """What an order took under its ``key``: (name, how many), and until when it is held."""

    key: str
    state: str
    promotions: tuple[tuple[str, int], ...]
    expires_at: datetime | None


def take(
    session: Session,
    name: str,
    n: int,
    key: str,
    now: datetime,
    member_id: int | None,
    *,
    zone: ZoneInfo,
    minutes: int = DEFAULT_MINUTES,
) -> Taken:
    """:func:`take_all` of one promotion."""
    return take_all(session, [(name, n)], key, now, member_id, zone=zone, minutes=minutes)


def take_all(
    session: Session,
    wanted: Sequence[tuple[str, int]],
    key: str,
    now: datetime,
    member_id: int | None,
    *,
    zone: ZoneInfo,
    minutes: int = DEFAULT_MINUTES,
) -> Taken:
    """Hold ``wanted`` (name, how many) for an order: all of it, or an error and nothing.

    The same ``key`` with the same request answers what it answered first, with another one it is a Conflict.
    ``zone`` is the shop's: a daily limit counts its days. After ``minutes`` what was not confirmed is free
    again. Errors: :class:`SoldOut`, :class:`MemberLimit`, :class:`NotInForce`, NotFound, InvalidInput.
    """
    _check(wanted, minutes)
    body = {"take": [list(one) for one in wanted], "member": member_id, "minutes": minutes}
    before = claim(session, key, body, now)
    if before is not None:
        return _restored(before)
    rows = _rows(session, [name for name, _ in wanted])
    day, expires_at = now.astimezone(zone).date().isoformat(), now + timedelta(minutes=minutes)
    _check_members(session, rows, dict(wanted), member_id, day, now)
    for name, n in sorted(wanted, key=lambda one: rows[one[0]].id):
        _take_one(session, rows[name].id, n, now)
    columns = ("key", "promotion_id", "n", "taken_at", "take_key", "member_id", "state", "day", "expires_at")
    held = [
        (_row_key(key, rows[name].id), rows[name].id, n, now, key, member_id, HELD, day, expires_at)
        for name, n in wanted
    ]
    bulk_insert(session, PromotionTake.__table__, columns, held)
    return _remembered(session, key, Taken(key, HELD, tuple(wanted), expires_at))


def _check(wanted: Sequence[tuple[str, int]], minutes: int) -> None:
    if not 1 <= len(wanted) <= MAX_AT_ONCE:
        raise InvalidInput(f"promotions: an order takes 1 to {MAX_AT_ONCE} promotions.", "promotions")
    if len({name for name, _ in wanted}) < len(wanted):
        raise InvalidInput("promotions: name each promotion once.", "promotions")
    for number, (_, n) in enumerate(wanted):
        if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MAX_TAKE:
            path = f"promotions[{number}].n"
            raise InvalidInput(f"{path}: a whole number from 1 to {MAX_TAKE} is needed.", path)
    if isinstance(minutes, bool) or not isinstance(minutes, int) or not 1 <= minutes <= MAX_MINUTES:
        raise InvalidInput(f"minutes: a promotion is held for 1 to {MAX_MINUTES} minutes.", "minutes")


def _row_key(key: str, promotion_id: int) -> str:
    return hashlib.sha256(f"{key}\n{promotion_id}".encode()).hexdigest()


def _rows(session: Session, names: Sequence[str]) -> dict[str, Any]:
    query = sa.select(
        PromotionRow.id, PromotionRow.name, PromotionRow.per_member_limit, PromotionRow.daily_limit
    ).where(among(session, PromotionRow.name, names))
    found = {row.name: row for row in session.execute(query)}
    for name in names:
        if name not in found:
            raise NotFound(f"There is no promotion “{name}”; look its name up under Loyalty.")
    return found


# --- A member's limit ----------------------------------------------------------------------------------


def _check_members(
    session: Session,
    rows: Mapping[str, Any],
    wanted: Mapping[str, int],
    member_id: int | None,
    day: str,
    now: datetime,
) -> None:
    limited = [row for row in rows.values() if (row.per_member_limit, row.daily_limit) != (None, None)]
    if not limited:
        return
    if member_id is None:
        raise InvalidInput(
            f"member_id: “{limited[0].name}” has a limit a member; say who takes it.", "member_id"
        )
    _lock_member(session, member_id)
    in_all, today = _of_member(session, member_id, [row.id for row in limited], day, now)
    for row in limited:
        n = wanted[row.name]
        if row.per_member_limit is not None and in_all[row.id] + n > row.per_member_limit:
            raise MemberLimit(
                f"Of “{row.name}” a member may take {row.per_member_limit}; "
                f"this one has {in_all[row.id]}, and {n} were asked for."
            )
        if row.daily_limit is not None and today[row.id] + n > row.daily_limit:
            raise MemberLimit(
                f"Of “{row.name}” a member may take {row.daily_limit} a day; "
                f"this one has {today[row.id]} today, and {n} were asked for."
            )


def _lock_member(session: Session, member_id: int) -> None:
    """Two orders of a member, whatever they take, are judged one after the other."""
    lock_members(session, [member_id])


def counts(now: datetime) -> sa.ColumnElement[bool]:
    """Whether a take counts towards the limits: confirmed, or held and not over."""
    open_ = sa.or_(PromotionTake.expires_at.is_(None), PromotionTake.expires_at > now)
    held = sa.and_(PromotionTake.state == HELD, PromotionTake.released_at.is_(None), open_)
    return sa.or_(PromotionTake.state == CONFIRMED, held)


def _of_member(
    session: Session, member_id: int, promotion_ids: Iterable[int], day: str, now: datetime
) -> tuple[Counter[int], Counter[int]]:
    query = (
        sa.select(PromotionTake.promotion_id, PromotionTake.day, sa.func.sum(PromotionTake.n))
        .where(
            PromotionTake.member_id == member_id,
            among(session, PromotionTake.promotion_id, promotion_ids),
            counts(now),
        )
        .group_by(PromotionTake.promotion_id, PromotionTake.day)
    )
    in_all: Counter[int] = Counter()
    today: Counter[int] = Counter()
    for promotion_id, of_day, n in session.execute(query):
        in_all[promotion_id] += int(n)
        if of_day == day:
            today[promotion_id] += int(n)
    return in_all, today


# --- The stock -----------------------------------------------------------------------------------------


def _take_one(session: Session, promotion_id: int, n: int, now: datetime) -> None:
    if _count(session, promotion_id, n, now):
        return
    # What others held for too long is free, though no sweep has come by yet.
    if expire(session, now, SWEPT_AT_ONCE, promotion_id) and _count(session, promotion_id, n, now):
        return
    raise _refusal(session, promotion_id, n, now)


def _in_force(now: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        PromotionRow.archived_at.is_(None),
        sa.or_(PromotionRow.starts_at.is_(None), PromotionRow.starts_at <= now),
        sa.or_(PromotionRow.ends_at.is_(None), PromotionRow.ends_at > now),
    )


def _count(session: Session, promotion_id: int, n: int, now: datetime) -> bool:
    """Whether ``n`` more could be counted. Limit and time are tested by the write itself."""
    mine = (PromotionRow.id == promotion_id, *_in_force(now))
    limited = session.execute(
        sa.update(PromotionRow)
        .where(*mine, PromotionRow.stock.is_not(None), PromotionRow.used + n <= PromotionRow.stock)
        .values(used=PromotionRow.used + n)
        .execution_options(synchronize_session=False)
        .returning(PromotionRow.id)
    ).first()
    if limited is not None:
        return True
    unlimited = sa.select(PromotionRow.id).where(*mine, PromotionRow.stock.is_(None))
    return session.execute(unlimited).first() is not None


def _refusal(session: Session, promotion_id: int, n: int, now: datetime) -> Conflict:
    in_force = sa.and_(*_in_force(now)).label("in_force")
    row = session.execute(
        sa.select(PromotionRow.name, PromotionRow.stock, PromotionRow.used, in_force).where(
            PromotionRow.id == promotion_id
        )
    ).one()
    if not row.in_force:
        return NotInForce(f"The promotion “{row.name}” is not in force now.")
    left = max(0, (row.stock or 0) - row.used)
    return SoldOut(f"Of “{row.name}” {left} are left, and {n} were asked for.")


def _give_back(session: Session, rows: Iterable[Any]) -> None:
    """Count what the rows held out of their promotions' stock."""
    back: Counter[int] = Counter()
    for row in rows:
        back[row.promotion_id] += row.n
    if not back:
        return
    lock_rows(session, PromotionRow.__table__, sorted(back))
    n = sa.case(back, value=PromotionRow.id, else_=0)
    session.execute(
        sa.update(PromotionRow)
        .where(among(session, PromotionRow.id, back), PromotionRow.stock.is_not(None))
        .values(used=sa.case((PromotionRow.used > n, PromotionRow.used - n), else_=0))
        .execution_options(synchronize_session=False)
    )


# --- Resolving -----------------------------------------------------------------------------------------

_COLUMNS = (
    PromotionTake.key,
    PromotionTake.promotion_id,
    PromotionTake.n,
    PromotionTake.state,
    PromotionTake.released_at,
    PromotionTake.expires_at,
    PromotionRow.name,
)


def _locked(session: Session, key: str) -> Sequence[Any]:
    """The rows of a take, locked: whoever resolves it waits here for whoever came first."""
    mine = sa.or_(
        PromotionTake.take_key == key, sa.and_(PromotionTake.key == key, PromotionTake.take_key.is_(None))
    )
    query = (
        sa.select(*_COLUMNS)
        .join(PromotionRow, PromotionRow.id == PromotionTake.promotion_id)
        .where(mine)
        .order_by(PromotionTake.key)
        .with_for_update(of=PromotionTake)
    )
    return session.execute(query).all()


def _state(rows: Sequence[Any], now: datetime) -> str:
    """What became of a take; its rows resolve together, except that a sweep may have come in between."""
    states = {EXPIRED if _over(row, now) else RELEASED if _old_release(row) else row.state for row in rows}
    return next(state for state in (RELEASED, EXPIRED, CONFIRMED, HELD) if state in states)


def _over(row: Any, now: datetime) -> bool:
    return row.state == HELD and row.expires_at is not None and row.expires_at <= now


def _old_release(row: Any) -> bool:
    return row.state == HELD and row.released_at is not None


def _write(session: Session, rows: Sequence[Any], **values: Any) -> None:
    session.execute(
        sa.update(PromotionTake)
        .where(among(session, PromotionTake.key, [row.key for row in rows]))
        .values(**values)
        .execution_options(synchronize_session=False)
    )


def _known(session: Session, key: str) -> Sequence[Any]:
    rows = _locked(session, key)
    if not rows:
        raise NotFound(f"Nothing was taken with the key “{key}”.")
    return rows


def confirm(session: Session, key: str, now: datetime) -> Taken:
    """Make what was held with ``key`` the order's for good. Again changes nothing.

    NotFound: nothing was held with it. :class:`Resolved`: it was released, or its time is over (``expired``).
    """
    rows = _known(session, key)
    state = _state(rows, now)
    if state in (RELEASED, EXPIRED):
        raise Resolved(state, f"What “{key}” held was {state} already; take it again with a new key.")
    if state == HELD:
        _write(session, rows, state=CONFIRMED, confirmed_at=now)
    return _told(key, rows, CONFIRMED)


def release(session: Session, key: str, now: datetime) -> Taken:
    """Give back what was held with ``key``. Again changes nothing.

    NotFound: nothing was held with it. :class:`Resolved`: it was confirmed (``confirmed``). What is over by
    its time is told as expired: it is free all the same.
    """
    rows = _known(session, key)
    state = _state(rows, now)
    if state == CONFIRMED:
        raise Resolved(CONFIRMED, f"What “{key}” held was confirmed already: it is the order's for good.")
    open_ = [row for row in rows if row.state == HELD and row.released_at is None]
    if open_:
        state = EXPIRED if _over(open_[0], now) else RELEASED
        _write(session, open_, state=state, released_at=now)
        _give_back(session, open_)
    return _told(key, rows, state)


def _told(key: str, rows: Sequence[Any], state: str) -> Taken:
    promotions = tuple(sorted((row.name, row.n) for row in rows))
    ends = [row.expires_at for row in rows if row.expires_at is not None]
    return Taken(key, state, promotions, max(ends, default=None))


def expire(session: Session, now: datetime, limit: int, promotion_id: int | None = None) -> int:
    """Sweep at most ``limit`` holds whose time is over (of one promotion); how many. Several may run
    at once."""
    mine = () if promotion_id is None else (PromotionTake.promotion_id == promotion_id,)
    # Rows that somebody resolves right now are left to them: they see that the time is over.
    rows = session.execute(
        sa.select(PromotionTake.key, PromotionTake.promotion_id, PromotionTake.n)
        .where(
            PromotionTake.state == HELD,
            PromotionTake.released_at.is_(None),
            PromotionTake.expires_at <= now,
            *mine,
        )
        .order_by(PromotionTake.expires_at, PromotionTake.key)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    if rows:
        _write(session, rows, state=EXPIRED, released_at=now)
        _give_back(session, rows)
    return len(rows)


# --- On request of a shop's system ---------------------------------------------------------------------


def confirm_requested(session: Session, key: str, *, idempotency_key: str, now: datetime) -> Taken:
    """:func:`confirm`; the same idempotency key answers the same again."""
    before = claim(session, idempotency_key, {"confirm": key}, now)
    if before is not None:
        return _restored(before)
    return _remembered(session, idempotency_key, confirm(session, key, now))


def release_requested(session: Session, key: str, *, idempotency_key: str, now: datetime) -> Taken:
    """:func:`release`; the same idempotency key answers the same again."""
    before = claim(session, idempotency_key, {"release": key}, now)
    if before is not None:
        return _restored(before)
    return _remembered(session, idempotency_key, release(session, key, now))


def _remembered(session: Session, key: str, taken: Taken) -> Taken:
    until = None if taken.expires_at is None else taken.expires_at.isoformat()
    remember(session, key, {**vars(taken), "expires_at": until})
    return taken


def _restored(answer: Mapping[str, Any]) -> Taken:
    promotions = tuple((str(name), int(n)) for name, n in answer["promotions"])
    until = answer["expires_at"]
    expires_at = None if until is None else datetime.fromisoformat(until)
    return Taken(answer["key"], answer["state"], promotions, expires_at)
