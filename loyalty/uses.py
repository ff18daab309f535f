"""What a hold and a redemption have in common: the code found, locked, and judged.

Guarantees: nothing that decides is read before the code's row is locked; a member's daily limit is
counted under the member's lock; a code that many use becomes a code of its own, within every limit of
its batch, before it is used.

Order of locks: member rows, code rows, batch rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.db import among, among_named, dialect_of, lock_rows, named
from core.errors import Conflict, InvalidInput, NotFound
from core.models import Member
from loyalty import benefits, budgets, codes, issuing
from loyalty.batches import EXPIRED, HELD, ISSUED, REDEEMED, REVOKED, current_state, day_bounds, zone_of
from loyalty.models import Coupon, CouponBatch, CouponHold, Redemption
from loyalty.requests import fingerprint

RELEASED = "released"
"""State of a hold, besides ``held``, ``redeemed`` and ``expired``."""


class Refused(Conflict):
    """A code that may not be used now; ``reason`` is one of :data:`REASONS`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


REASONS = (
    "archived",
    "revoked",
    "expired",
    "not_yet_valid",
    "already_redeemed",
    "other_member",
    "wrong_currency",
    "below_min_spend",
    "held",
    "hold_expired",
    "hold_released",
    "member_needed",
    "no_coupon",
    "not_transferable",
    "total_limit",
    "per_member_limit",
    "daily_limit",
    "daily_member_limit",
    "budget",
    "claim_over",
    "claim_used_up",
)
LIMIT_TEXTS = {
    "total_limit": "All codes of the offer “{}” were given; nothing is left.",
    "daily_limit": "Today's codes of the offer “{}” were given; try again tomorrow.",
    "per_member_limit": "This member has had all codes of the offer “{}” that one member may have.",
}


@dataclass(frozen=True)
class Basket:
    """What a code is used on. ``member`` is the shop's id of the customer, where it is known."""

    order_ref: str
    basket_minor: int
    currency: str
    member: str | None = None

    def checked(self) -> Basket:
        """Itself, or InvalidInput naming the field that is wrong."""
        if not isinstance(self.order_ref, str) or not 0 < len(self.order_ref) <= 128:
            raise InvalidInput("Name the order in 1 to 128 characters.", "order_ref")
        check_amount(self.basket_minor, "basket_minor", "The basket")
        if not isinstance(self.currency, str) or len(self.currency) != 3:
            raise InvalidInput("The currency is a code of three capitals, such as CNY.", "currency")
        return self


def check_amount(value: Any, field: str, what: str, low: int = 0) -> None:
    """InvalidInput where ``value`` is no whole number of minor units from ``low`` to 10^12."""
    right = (
        isinstance(value, int) and not isinstance(value, bool) and low <= value <= benefits.MAX_AMOUNT_MINOR
    )
    if not right:
        raise InvalidInput(
            f"{what} is a whole number of minor units, {low} or more and at most "
            f"{benefits.MAX_AMOUNT_MINOR}.",
            field,
        )


def unknown(code: str) -> NotFound:
    return NotFound(f"The code {code} is not known here. It was typed correctly; ask where it comes from.")


_COUPONS, _BATCHES = Coupon.__table__, CouponBatch.__table__
_C, _B = _COUPONS.c, _BATCHES.c


def coupons_with_batches() -> sa.Select[*tuple[Any, ...]]:
    """Codes with what decides about them, in id order."""
    return (
        sa.select(
            _C.id,
            _C.code,
            _C.state,
            _C.member_id,
            _C.valid_from,
            _C.valid_until,
            _C.batch_id,
            _C.issue_key,
            _B.name.label("batch"),
            _B.benefit,
            _B.currency,
            _B.min_spend_minor,
            _B.archived_at,
            _B.budget_minor,
            _B.daily_per_member_limit,
            _B.total_limit,
            _B.timezone,
            _B.transferable,
        )
        .join_from(_COUPONS, _BATCHES, _B.id == _C.batch_id)
        .order_by(_C.id)
    )


def locked_coupons() -> sa.Select[*tuple[Any, ...]]:
    """:func:`coupons_with_batches`, their rows locked in id order when it is run."""
    return coupons_with_batches().with_for_update(of=_COUPONS, key_share=True)


# Made once: at a till, putting a statement together would cost more than running it.
_SEEN = (
    sa.select(_C.member_id, _B.daily_per_member_limit)
    .join_from(_COUPONS, _BATCHES, _B.id == _C.batch_id)
    .where(_C.code == sa.bindparam("code"))
)


def lock_coupons(session: Session, texts: Iterable[str]) -> Sequence[Any]:
    """Codes (as they are stored) with their batches, their rows locked in id order."""
    dialect = dialect_of(session)
    return session.execute(_lock(dialect), {"codes": named(dialect, texts)}).all()


@lru_cache
def _lock(dialect: str) -> sa.Select[*tuple[Any, ...]]:
    return locked_coupons().where(among_named(dialect, _C.code, "codes"))


def lock_coupon(session: Session, code: str) -> sa.Row[Any] | None:
    """The code with its batch, its row locked: nothing that decides is read before."""
    found = lock_coupons(session, [code])
    return found[0] if found else None


def is_generic(coupon: Any) -> bool:
    """Whether the code was made for one use of a code that many use."""
    return bool(coupon.issue_key.startswith("generic:"))


def see(session: Session, text: str) -> Any:
    """Of the code that ``text`` is: its member and its batch's limit a day; None: no code of ours alone."""
    return session.execute(_SEEN, {"code": codes.plain(text)}).one_or_none()


def find_locked(session: Session, text: str, seen: Any, basket: Basket, key: str, now: datetime) -> Any:
    """The code that ``text`` means, its row locked. InvalidInput: a typing error. NotFound: no such code.

    ``seen`` is what :func:`see` found, whom to lock before the code. A code that many use becomes the
    member's own one first; :class:`Refused` says which limit forbids.
    """
    code = codes.plain(text)
    if seen is None:
        code = _own_code(session, code, text, basket, key, now)
    elif seen.daily_per_member_limit is not None:
        member_id = seen.member_id if seen.member_id is not None else member_named(session, basket.member)
        lock_rows(session, Member.__table__, [] if member_id is None else [member_id])
    coupon = lock_coupon(session, code)
    assert coupon is not None, "codes are never deleted"
    if seen is not None and seen.daily_per_member_limit is not None and coupon.member_id != seen.member_id:
        raise Conflict(f"The code {code} changed hands at this moment; try again.")
    return coupon


def generic_batch(session: Session, code: str) -> CouponBatch | None:
    """The batch whose code for many this is."""
    return session.scalars(sa.select(CouponBatch).where(CouponBatch.generic_code == code)).one_or_none()


def _own_code(session: Session, code: str, text: str, basket: Basket, key: str, now: datetime) -> str:
    batch = generic_batch(session, code)
    if batch is None:
        codes.check(text)
        raise unknown(code)
    held = session.execute(
        sa.select(Coupon.code)
        .join(CouponHold, CouponHold.coupon_id == Coupon.id)
        .where(
            CouponHold.order_ref == basket.order_ref,
            CouponHold.state == HELD,
            CouponHold.expires_at > now,
            Coupon.batch_id == batch.id,
        )
        .limit(1)
    ).scalar()
    if held is not None:
        return str(held)
    if batch.archived_at is not None:
        raise Refused("archived", f"The offer “{batch.name}” of the code {code} was withdrawn.")
    if batch.ends_at is not None and batch.ends_at <= now:
        raise Refused("expired", f"The code {code} was valid until {batch.ends_at:%Y-%m-%d %H:%M} UTC.")
    if batch.starts_at is not None and now < batch.starts_at:
        raise Refused("not_yet_valid", f"The code {code} is valid from {batch.starts_at:%Y-%m-%d %H:%M} UTC.")
    member_id = member_named(session, basket.member)
    if member_id is None and batch.per_member_limit is not None:
        raise _needs_member(batch.name)
    if member_id is not None and batch.daily_per_member_limit is not None:
        lock_rows(session, Member.__table__, [member_id])
    issue_key = f"generic:{batch.id}:{fingerprint({'key': key})}"
    issued = issuing.issue_detailed(session, batch, [(member_id, issue_key)], now)
    if issue_key in issued.refused:
        reason = issued.refused[issue_key]
        raise Refused(reason, LIMIT_TEXTS[reason].format(batch.name))
    return issued.codes[issue_key]


def _needs_member(batch: str) -> Refused:
    return Refused(
        "member_needed", f"The offer “{batch}” has a limit a member: send the member's id with the order."
    )


def member_named(session: Session, external_id: str | None) -> int | None:
    """The member of that id; None for a customer we do not know, or not surely."""
    return _surely(_ids_of(session, external_id))


def members_named(session: Session, external_ids: Iterable[str | None]) -> dict[str, list[int]]:
    """The members of each id: several where shops of several sources have the same one."""
    wanted = sorted({external_id for external_id in external_ids if external_id is not None})
    found: dict[str, list[int]] = {external_id: [] for external_id in wanted}
    if wanted:
        members = sa.select(Member.external_id, Member.id).order_by(Member.id)
        for external_id, member_id in session.execute(
            members.where(among(session, Member.external_id, wanted))
        ):
            found[external_id].append(member_id)
    return found


def _ids_of(session: Session, external_id: str | None) -> list[int]:
    return members_named(session, [external_id]).get(external_id or "", [])


def _surely(ids: Sequence[int]) -> int | None:
    return ids[0] if len(ids) == 1 else None


def user_of(session: Session, coupon: Any, external_id: str | None) -> int | None:
    """Who uses the code: its holder, also where nobody is named; never in another member's name."""
    return user_among(coupon, external_id, _ids_of(session, external_id))


def user_among(coupon: Any, external_id: str | None, ids: Sequence[int]) -> int | None:
    """:func:`user_of` with the members that ``external_id`` names."""
    if external_id is None or coupon.member_id is None:
        return coupon.member_id if coupon.member_id is not None else _surely(ids)
    if coupon.member_id not in ids:
        raise Refused("other_member", f"The code {coupon.code} belongs to another member.")
    return int(coupon.member_id)


def check_usable(coupon: Any, now: datetime) -> None:
    """Raises :class:`Refused` for a row of :func:`locked_coupons` that may not be used at ``now``."""
    code = coupon.code
    state = current_state(coupon.state, coupon.valid_until, now)
    if state == REDEEMED:
        raise Refused("already_redeemed", f"The code {code} was redeemed already.")
    if state == HELD:
        raise Refused("held", f"The code {code} is held for another order; release it there or wait.")
    if state == REVOKED:
        raise Refused("revoked", f"The code {code} was revoked.")
    check_offered(coupon)
    if state == EXPIRED:
        raise Refused("expired", f"The code {code} was valid until {coupon.valid_until:%Y-%m-%d %H:%M} UTC.")
    if coupon.valid_from is not None and now < coupon.valid_from:
        raise Refused(
            "not_yet_valid", f"The code {code} is valid from {coupon.valid_from:%Y-%m-%d %H:%M} UTC."
        )


def check_offered(coupon: Any) -> None:
    """Raises :class:`Refused` for a code whose batch was withdrawn."""
    if coupon.archived_at is not None:
        raise Refused("archived", f"The offer “{coupon.batch}” of the code {coupon.code} was withdrawn.")


def check_basket(coupon: Any, basket_minor: int, currency: str) -> None:
    """Raises :class:`Refused` for a basket that the batch is not for."""
    if currency != coupon.currency:
        raise Refused(
            "wrong_currency", f"The code {coupon.code} is for {coupon.currency}; the basket is in {currency}."
        )
    if basket_minor < coupon.min_spend_minor:
        raise Refused(
            "below_min_spend",
            f"The code {coupon.code} needs a basket of {coupon.min_spend_minor} minor units of {currency}; "
            f"this one has {basket_minor}.",
        )


def check_day(session: Session, coupon: Any, member_id: int | None, now: datetime) -> None:
    """Raises :class:`Refused` where the member's uses of the day are used up. Under the member's lock."""
    if coupon.daily_per_member_limit is None:
        return
    if member_id is None:
        raise _needs_member(coupon.batch)
    if uses_of_day(session, coupon, member_id, now) >= coupon.daily_per_member_limit:
        raise Refused(
            "daily_member_limit",
            f"This member used the offer “{coupon.batch}” {coupon.daily_per_member_limit} times today; "
            "try again tomorrow.",
        )


def uses_of_day(session: Session, coupon: Any, member_id: int, now: datetime) -> int:
    """Uses that live, and holds that may become one, of the batch by the member on the day of ``now``."""
    first, after = day_bounds(now, zone_of(coupon.timezone))
    used = (
        sa.select(sa.func.count())
        .select_from(Redemption)
        .join(Coupon, Coupon.id == Redemption.coupon_id)
        .where(
            Redemption.member_id == member_id,
            Coupon.batch_id == coupon.batch_id,
            Redemption.rolled_back_at.is_(None),
            Redemption.redeemed_at >= first,
            Redemption.redeemed_at < after,
        )
        .scalar_subquery()
    )
    held = (
        sa.select(sa.func.count())
        .select_from(CouponHold)
        .join(Coupon, Coupon.id == CouponHold.coupon_id)
        .where(
            CouponHold.member_id == member_id,
            Coupon.batch_id == coupon.batch_id,
            CouponHold.state == HELD,
            CouponHold.expires_at > now,
        )
        .scalar_subquery()
    )
    return int(session.execute(sa.select(used + held)).scalar_one())


def no_room(coupon: Any, amount_minor: int) -> Refused:
    return Refused(
        "budget", f"The budget of the offer “{coupon.batch}” has no room for {amount_minor} minor units."
    )


def set_states(session: Session, coupon_ids: Iterable[int], state: str) -> None:
    dialect = dialect_of(session)
    session.execute(_set_state(dialect), {"coupons": named(dialect, coupon_ids), "to": state})


@lru_cache
def _set_state(dialect: str) -> sa.Update:
    assert isinstance(_COUPONS, sa.Table)
    return sa.update(_COUPONS).where(among_named(dialect, _C.id, "coupons")).values(state=sa.bindparam("to"))


def give_codes_back(session: Session, coupons: Iterable[Any], now: datetime) -> None:
    """Codes whose use ended live on until their own end; those made for one use free their places."""
    lasting: list[int] = []
    single: list[int] = []
    places: Counter[int] = Counter()
    for coupon in coupons:
        (single if is_generic(coupon) else lasting).append(coupon.id)
        if is_generic(coupon) and coupon.total_limit is not None:
            places[coupon.batch_id] += 1
    quiet = {"synchronize_session": False}
    if lasting:
        over = sa.and_(Coupon.valid_until.is_not(None), Coupon.valid_until <= now)
        session.execute(
            sa.update(Coupon)
            .where(among(session, Coupon.id, lasting))
            .values(state=sa.case((over, EXPIRED), else_=ISSUED)),
            execution_options=quiet,
        )
    if single:
        session.execute(
            sa.update(Coupon).where(among(session, Coupon.id, single)).values(state=REVOKED, freed_at=now),
            execution_options=quiet,
        )
    issuing.free_places(session, places)


def end_hold(session: Session, coupon: Any, held: CouponHold, state: str, now: datetime) -> None:
    """Resolve a hold that was not redeemed, under its code's lock: code and money are free again."""
    resolve(session, held, state, now)
    give_codes_back(session, [coupon], now)
    budgets.give_back(session, coupon.batch_id, coupon.budget_minor, held.discount_minor)


def without_old_hold(session: Session, coupon: Any, now: datetime) -> Any:
    """A locked code as it is once a hold whose time is over, swept or not, has ended."""
    held = live_hold(session, coupon.id) if coupon.state == HELD else None
    if held is None or held.expires_at > now:
        return coupon
    end_hold(session, coupon, held, EXPIRED, now)
    return lock_coupon(session, coupon.code)


def live_hold(session: Session, coupon_id: int) -> CouponHold | None:
    """The hold of a code that has not been resolved; read it under the code's lock."""
    return session.scalars(
        sa.select(CouponHold)
        .where(CouponHold.coupon_id == coupon_id, CouponHold.state == HELD)
        .execution_options(populate_existing=True)
    ).one_or_none()


def resolve(session: Session, held: CouponHold, state: str, now: datetime) -> None:
    """End a hold, under its code's lock."""
    held.state, held.resolved_at = state, now
    session.flush()
