"""Codes at the till: redeemed on an order, by the code, by its hold, or by its member.

Guarantees: a code is redeemed at most once at a time, decided under the lock of its own row; a held code
is redeemed only by its hold or for its order, and at most what was held is taken; the same idempotency
key with the same body answers the same, with another body it is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.bulk import bulk_insert
from core.db import among_named, dialect_of, lock_rows, named
from core.errors import HuiliuError, NotFound
from core.models import Member
from core.warehouse.replica import mark
from loyalty import benefits, budgets, codes
from loyalty.batches import EXPIRED, HELD, ISSUED, REDEEMED, find_batch
from loyalty.ended_holds import free, take_budget
from loyalty.models import Coupon, CouponBatch, CouponHold, Redemption
from loyalty.requests import check_key, fingerprint, other_body
from loyalty.uses import (
    REASONS,
    RELEASED,
    Basket,
    Refused,
    check_basket,
    check_day,
    check_offered,
    check_usable,
    find_locked,
    live_hold,
    lock_coupon,
    lock_coupons,
    locked_coupons,
    members_named,
    no_room,
    resolve,
    see,
    set_states,
    unknown,
    user_among,
    user_of,
    without_old_hold,
)

__all__ = [
    "COLUMNS",
    "REASONS",
    "REDEMPTIONS",
    "Redeemed",
    "Refused",
    "Use",
    "check_basket",
    "check_usable",
    "locked_coupons",
    "redeem",
    "redeem_for_member",
    "redeem_hold",
    "redeem_many",
    "redeem_one",
    "unknown",
]

REDEMPTIONS = "redemptions"
"""Name of the fact table of the warehouse."""
_R, _C, _B = Redemption.__table__, Coupon.__table__, CouponBatch.__table__
COLUMNS = (
    "coupon_id",
    "member_id",
    "order_ref",
    "basket_minor",
    "discount_minor",
    "currency",
    "redeemed_at",
    "idempotency_key",
    "request_hash",
    "returned_basket_minor",
    "returned_discount_minor",
)
"""What a new use is written with."""
_NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Redeemed:
    """A use of a code. ``rolled_back_at`` is set once the whole order was refunded; what came back of
    the basket and of the discount so far is in the ``returned`` amounts."""

    redemption_id: int
    code: str
    batch: str
    order_ref: str
    basket_minor: int
    discount_minor: int
    currency: str
    redeemed_at: datetime
    rolled_back_at: datetime | None = None
    returned_basket_minor: int = 0
    returned_discount_minor: int = 0


class Use(NamedTuple):
    """A code to be redeemed on a basket, under an idempotency key."""

    code: str
    basket: Basket
    key: str
    now: datetime

    @property
    def digest(self) -> str:
        return fingerprint({"code": codes.plain(self.code), **_body(self.basket)})


class _Taken(NamedTuple):
    """A use that was found right, to be written."""

    coupon: Any
    member_id: int | None
    basket: Basket
    off: int
    key: str
    digest: str
    now: datetime


def redeem_many(session: Session, uses: Sequence[Use]) -> list[Redeemed | HuiliuError | None]:
    """Use many codes at once: in their order what :func:`redeem` answers or raises of each.

    None where :func:`redeem` has to do it, in a transaction of its own: a code that is held, that many use or
    nobody has, whose member may use only so many a day, and one that is named twice here.
    """
    found: list[Redeemed | HuiliuError | None] = [None] * len(uses)
    fresh: dict[str, int] = {}
    keys: set[str] = set()
    for place, use in enumerate(uses):
        try:
            use.basket.checked()
            code, key = codes.plain(use.code), check_key(use.key)
        except HuiliuError as error:
            found[place] = error
            continue
        if code not in fresh and key not in keys:
            fresh[code] = place
            keys.add(key)
    coupons = {coupon.code: coupon for coupon in lock_coupons(session, fresh)}
    before = _stored(session, keys)
    members = members_named(session, {use.basket.member for use in uses})
    taken: dict[int, _Taken] = {}
    for code, place in fresh.items():
        coupon, use = coupons.get(code), uses[place]
        if coupon is None or coupon.daily_per_member_limit is not None:
            continue
        try:
            digest = use.digest
            again = _again(before.get(use.key), use.key, digest)
            if again is not None:
                found[place] = again
            elif coupon.state != HELD:
                taken[place] = _plain(coupon, use, digest, members)
        except HuiliuError as error:
            found[place] = error
    for place, refused in _over_budget(session, taken).items():
        found[place] = refused
        del taken[place]
    for place, done in zip(taken, _write(session, list(taken.values())), strict=True):
        found[place] = done
    return found


def _plain(coupon: Any, use: Use, digest: str, members: Mapping[str, Sequence[int]]) -> _Taken:
    """The use of a locked code that is not held, or what refuses it."""
    check_usable(coupon, use.now)
    basket = use.basket
    check_basket(coupon, basket.basket_minor, basket.currency)
    named_ = [] if basket.member is None else members.get(basket.member, [])
    member_id = user_among(coupon, basket.member, named_)
    off = benefits.discount(coupon.benefit, basket.basket_minor)
    return _Taken(coupon, member_id, basket, off, use.key, digest, use.now)


def _over_budget(session: Session, taken: Mapping[int, _Taken]) -> dict[int, Refused]:
    """Count the money of the uses into their batches' budgets, in their order; those it has no room for."""
    limited = {place: one for place, one in taken.items() if one.coupon.budget_minor is not None and one.off}
    room = budgets.room(session, {one.coupon.batch_id for one in limited.values()})
    fitting = _fitting(limited, room)
    left = [one for place, one in limited.items() if place not in fitting]
    if left:
        for batch, freed in free(session, {one.coupon.batch_id for one in left}, left[0].now).items():
            room[batch] += freed
        fitting = _fitting(limited, room)
    amounts: Counter[int] = Counter()
    for place in fitting:
        amounts[limited[place].coupon.batch_id] += limited[place].off
    budgets.move(session, amounts)
    return {place: no_room(one.coupon, one.off) for place, one in limited.items() if place not in fitting}


def _fitting(limited: Mapping[int, _Taken], room: Mapping[int, int]) -> set[int]:
    """The uses for which there is room, in their order."""
    left, fitting = dict(room), set()
    for place, one in limited.items():
        if one.off <= left[one.coupon.batch_id]:
            left[one.coupon.batch_id] -= one.off
            fitting.add(place)
    return fitting


def redeem(
    session: Session,
    code: str,
    *,
    order_ref: str,
    basket_minor: int,
    currency: str,
    member_external_id: str | None,
    idempotency_key: str,
    now: datetime,
) -> Redeemed:
    """Use a code on a basket, under the lock of its row.

    InvalidInput: a typing error. NotFound: no such code. :class:`Refused` (a Conflict) says why it may
    not be used. A code held by a member may be redeemed without naming one (a till that does not know
    its customer), never in another member's name. A code that is held for this order is taken from its
    hold; a code that many use becomes a code of its own.
    """
    basket = Basket(order_ref, basket_minor, currency, member_external_id)
    return redeem_one(session, Use(code, basket, idempotency_key, now))


def redeem_one(session: Session, use: Use) -> Redeemed:
    """:func:`redeem` of a use as :func:`redeem_many` takes them."""
    use.basket.checked()
    seen = see(session, use.code)
    if seen is not None and seen.daily_per_member_limit is None:
        [done] = redeem_many(session, [use])
        if isinstance(done, HuiliuError):
            raise done
        if done is not None:
            return done
    if seen is None:
        # A code that many use may have been withdrawn since it was used with this key.
        before = _repeated(session, use.key, use.digest)
        if before is not None:
            return before
    coupon = find_locked(session, use.code, seen, use.basket, use.key, use.now)
    before = _repeated(session, use.key, use.digest)
    return before or _use(session, coupon, use.basket, None, use.key, use.digest, use.now)


def redeem_hold(
    session: Session,
    hold_id: int,
    *,
    order_ref: str,
    basket_minor: int,
    currency: str,
    member_external_id: str | None,
    idempotency_key: str,
    now: datetime,
) -> Redeemed:
    """Use the code of a hold, on whatever order the basket has become. NotFound: no such hold."""
    basket = Basket(order_ref, basket_minor, currency, member_external_id).checked()
    digest = fingerprint({"hold": hold_id, **_body(basket)})
    code = session.scalar(
        sa.select(Coupon.code)
        .join(CouponHold, CouponHold.coupon_id == Coupon.id)
        .where(CouponHold.id == hold_id)
    )
    if code is None:
        raise NotFound(f"There is no hold {hold_id}.")
    coupon = lock_coupon(session, code)
    before = _repeated(session, idempotency_key, digest)
    return before or _use(session, coupon, basket, hold_id, idempotency_key, digest, now)


def redeem_for_member(
    session: Session,
    batch_name: str,
    member_id: int,
    *,
    order_ref: str,
    basket_minor: int,
    currency: str,
    idempotency_key: str,
    now: datetime,
) -> Redeemed:
    """Use the member's best code of a batch: one held for this order, then the one that ends first."""
    basket = Basket(order_ref, basket_minor, currency).checked()
    batch = find_batch(session, batch_name)
    digest = fingerprint({"batch": batch.id, "holder": member_id, **_body(basket)})
    lock_rows(session, Member.__table__, [member_id])
    before = _repeated(session, idempotency_key, digest)
    if before is not None:
        return before
    rows = session.execute(
        locked_coupons().where(
            Coupon.batch_id == batch.id,
            Coupon.member_id == member_id,
            Coupon.state.in_((ISSUED, HELD)),
            sa.or_(Coupon.valid_from.is_(None), Coupon.valid_from <= now),
        )
    ).all()
    holds = {
        held.coupon_id: held
        for held in session.scalars(
            sa.select(CouponHold).where(CouponHold.member_id == member_id, CouponHold.state == HELD)
        )
    }

    def rank(coupon: Any) -> tuple[int, datetime, int] | None:
        held = holds.get(coupon.id)
        mine = held is not None and held.order_ref == order_ref and held.expires_at > now
        taken = coupon.state == HELD and not mine and (held is None or held.expires_at > now)
        over = coupon.valid_until is not None and coupon.valid_until <= now and not mine
        return None if taken or over else (not mine, coupon.valid_until or _NEVER, coupon.id)

    ranked = sorted((place, row) for row in rows if (place := rank(row)) is not None)
    if not ranked:
        raise Refused("no_coupon", f"The member has no code of the offer “{batch_name}” to use now.")
    return _use(session, ranked[0][1], basket, None, idempotency_key, digest, now)


def _body(basket: Basket) -> dict[str, Any]:
    return {
        "order_ref": basket.order_ref,
        "basket_minor": basket.basket_minor,
        "currency": basket.currency,
        "member": basket.member,
    }


def _use(
    session: Session,
    coupon: Any,
    basket: Basket,
    hold_id: int | None,
    key: str,
    digest: str,
    now: datetime,
) -> Redeemed:
    """Redeem a locked code; of a live hold, its own or its order's, at most what it held."""
    held = _hold_to_take(session, coupon, basket, hold_id, now)
    if held is None:
        coupon = without_old_hold(session, coupon, now)
        check_usable(coupon, now)
    else:
        check_offered(coupon)
    check_basket(coupon, basket.basket_minor, basket.currency)
    member_id = user_of(session, coupon, basket.member)
    off = benefits.discount(coupon.benefit, basket.basket_minor)
    if held is None:
        check_day(session, coupon, member_id, now)
        take_budget(session, coupon, off, now)
    else:
        off = min(off, held.discount_minor)
        resolve(session, held, REDEEMED, now)
        budgets.give_back(session, coupon.batch_id, coupon.budget_minor, held.discount_minor - off)
    [done] = _write(session, [_Taken(coupon, member_id, basket, off, check_key(key), digest, now)])
    return done


def _write(session: Session, taken: Sequence[_Taken]) -> list[Redeemed]:
    """Write uses of locked codes. Conflict where a key was used at this moment for another code."""
    if not taken:
        return []
    rows = (
        (
            *(use.coupon.id, use.member_id, use.basket.order_ref, use.basket.basket_minor, use.off),
            *(use.basket.currency, use.now, use.key, use.digest, 0, 0),
        )
        for use in taken
    )
    new = bulk_insert(
        session, _R, COLUMNS, rows, conflict=["idempotency_key"], returning=["idempotency_key", "id"]
    )
    ids: dict[str, int] = dict(new)
    for use in taken:
        if use.key not in ids:
            raise other_body(use.key)
    set_states(session, [use.coupon.id for use in taken], REDEEMED)
    mark(session, REDEMPTIONS, [use.now for use in taken])
    return [
        Redeemed(
            ids[use.key],
            use.coupon.code,
            use.coupon.batch,
            use.basket.order_ref,
            use.basket.basket_minor,
            use.off,
            use.basket.currency,
            use.now,
        )
        for use in taken
    ]


def _hold_to_take(
    session: Session, coupon: Any, basket: Basket, hold_id: int | None, now: datetime
) -> CouponHold | None:
    """The live hold that this use may take: the one named, or the one of this order."""
    if hold_id is None:
        held = live_hold(session, coupon.id) if coupon.state == HELD else None
        mine = held is not None and held.order_ref == basket.order_ref and held.expires_at > now
        return held if mine else None
    found = session.get_one(CouponHold, hold_id, populate_existing=True)
    if found.state == REDEEMED:
        raise Refused("already_redeemed", f"The hold {hold_id} was redeemed already.")
    if found.state == RELEASED:
        raise Refused("hold_released", f"The hold {hold_id} was released; hold the code again.")
    if found.state == EXPIRED or found.expires_at <= now:
        raise Refused(
            "hold_expired",
            f"The hold {hold_id} was good until {found.expires_at:%Y-%m-%d %H:%M} UTC; hold the code again.",
        )
    return found


def _repeated(session: Session, key: str, digest: str) -> Redeemed | None:
    return _again(_stored(session, [check_key(key)]).get(key), key, digest)


def _again(found: Any, key: str, digest: str) -> Redeemed | None:
    """What was answered to this key before, or Conflict where that was to another body."""
    if found is None:
        return None
    if found.request_hash != digest:
        raise other_body(key)
    # The answer of a redemption stays what it was, also after its order was refunded.
    return replace(answer(found, found.code, found.batch), returned_basket_minor=0, returned_discount_minor=0)


def _stored(session: Session, keys: Iterable[str]) -> dict[str, Any]:
    """key → the redemption that has it."""
    dialect = dialect_of(session)
    rows = session.execute(_by_key(dialect), {"keys": named(dialect, sorted(keys))})
    return {row.idempotency_key: row for row in rows}


@lru_cache
def _by_key(dialect: str) -> sa.Select[*tuple[Any, ...]]:
    return (
        sa.select(_R, _C.c.code, _B.c.name.label("batch"))
        .join_from(_R, _C, _C.c.id == _R.c.coupon_id)
        .join(_B, _B.c.id == _C.c.batch_id)
        .where(among_named(dialect, _R.c.idempotency_key, "keys"))
    )


def answer(found: Any, code: str, batch: str, rolled_back_at: datetime | None = None) -> Redeemed:
    """A stored use as it is told."""
    return Redeemed(
        found.id,
        code,
        batch,
        found.order_ref,
        found.basket_minor,
        found.discount_minor,
        found.currency,
        found.redeemed_at,
        rolled_back_at,
        found.returned_basket_minor,
        found.returned_discount_minor,
    )
