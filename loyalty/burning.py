"""Burning points (at once, or out of a hold), and giving burnt points back.

Guarantees: nobody burns what is not there, however many try at once, since the member's row is locked
before anything is read that decides; a source (an order, a gift) burns once; what is given back goes to
the lots it came from. In the ledger a burn is an entry ``spend``, what is given back one ``refund``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.db import among
from core.errors import Conflict, InvalidInput, NotFound
from loyalty import earn_rules, ledger, point_holds, requests
from loyalty.ledger import NotEnough
from loyalty.lots import EXPIRE, REFUND, SPEND, Change
from loyalty.models import PointsEntry, PointsLot
from loyalty.points import balance, check_points

MAX_SOURCE = 128
_E = PointsEntry.__table__.c
_BURNED = (
    sa.select(_E.lot_id, -sa.func.sum(_E.delta))
    .where(
        _E.member_id == sa.bindparam("member"),
        _E.lot_id.is_not(None),
        sa.or_(
            sa.and_(_E.kind == SPEND, _E.source_id == sa.bindparam("source")),
            sa.and_(_E.kind == REFUND, _E.origin == sa.bindparam("origin")),
        ),
    )
    .group_by(_E.lot_id)
    .order_by(sa.func.min(_E.id))
)


@dataclass(frozen=True)
class Burned:
    """Points burnt, and what could still be burnt right after."""

    points: int
    available: int


@dataclass(frozen=True)
class Refunded:
    """Points given back, of these over at once (their lot expired) and kept for a debt; the new balance."""

    points: int
    expired: int
    repaid: int
    available: int


def burn(
    session: Session,
    member_id: int,
    points: int | None,
    *,
    source_id: str | None,
    idempotency_key: str,
    now: datetime,
    hold_id: int | None = None,
) -> Burned:
    """Burn points by nearest expiry for ``source_id``, or at most what a hold has for the hold's source.

    With ``hold_id`` both ``points`` (None: all that is held) and ``source_id`` may be left out, and what
    is not burnt is released. :class:`~loyalty.ledger.NotEnough` if short. The same key with the same body
    answers the same again; a source that burned before is a Conflict.
    """
    if points is not None:
        check_points(points)
    if hold_id is None and (points is None or source_id is None):
        raise InvalidInput("Say how many points to burn and on what, or name a hold.", "points")
    body = {"do": SPEND, "member": member_id, "points": points, "source_id": source_id}
    if hold_id is not None:
        body["hold"] = hold_id
    before = requests.claim(session, idempotency_key, body, now)
    if before is not None:
        return Burned(**before)
    ledger.lock_members(session, [member_id])
    if hold_id is not None:
        held = point_holds.open_hold(session, member_id, hold_id, now)
        if source_id not in (None, held.source_id):
            raise Conflict(f"The hold {hold_id} is for “{held.source_id}”, not for “{source_id}”.")
        _check_first(session, member_id, held.source_id)
        taken = point_holds.capture(session, member_id, hold_id, points, now)
        answer = Burned(taken, balance(session, member_id, now).available)
    else:
        assert points is not None
        assert source_id is not None
        _check_first(session, member_id, source_id)
        answer = Burned(points, draw(session, member_id, points, source_id, now))
    requests.remember(session, idempotency_key, asdict(answer))
    return answer


def _check_first(session: Session, member_id: int, source_id: str) -> None:
    if _burned_by_lot(session, member_id, source_id):
        raise Conflict(f"Points were burnt on “{source_id}” before; name another source for a new burn.")


def draw(session: Session, member_id: int, points: int, source_id: str, now: datetime) -> int:
    """Spend points of a locked member; what can still be spent. :class:`NotEnough` if short."""
    point_holds.expire_holds_of(session, [member_id], now)
    holding = ledger.holdings(session, [member_id], now)[member_id]
    available = holding.available(now)
    if available < points:
        raise NotEnough(f"The member has {available} points to spend; {points} were asked for.")
    drawn = holding.draw(points, available_at=now)
    ledger.write(session, [Change(member_id, lot, SPEND, source_id, -share) for lot, share in drawn], now)
    rule = earn_rules.load_rule(session)
    end = rule.expiry(now) if rule.rolling else None
    if end is not None:
        ledger.move_ends(session, {member_id: end}, now)
    return available - points


def _burned_by_lot(session: Session, member_id: int, source_id: str) -> dict[int, int]:
    """Points of a burn that were not given back yet, by lot in the order they were taken."""
    params = {"member": member_id, "source": source_id, "origin": burn_origin(source_id)}
    rows = session.execute(_BURNED, params)
    return {lot_id: int(points) for lot_id, points in rows if lot_id is not None}


def burn_origin(source_id: str) -> str:
    """What a refund's entries name as their origin."""
    return requests.fingerprint({"spend": source_id})


def refund_burn(
    session: Session,
    member_id: int,
    *,
    source_id: str,
    idempotency_key: str,
    now: datetime,
    points: int | None = None,
) -> Refunded:
    """Give burnt points back to the lots they came from, the last taken first; None: all that is left.

    What returns to a lot that is over expires at once; a debt is repaid first. NotFound: nothing was
    burnt on ``source_id``. Conflict: more than was burnt.
    """
    if points is not None:
        check_points(points)
    body = {"do": REFUND, "member": member_id, "points": points, "source_id": source_id}
    before = requests.claim(session, idempotency_key, body, now)
    if before is not None:
        return Refunded(**before)
    ledger.lock_members(session, [member_id])
    burned = _burned_by_lot(session, member_id, source_id)
    if not burned:
        raise NotFound(f"The member burnt no points on “{source_id}”.")
    left = sum(burned.values())
    wanted = left if points is None else points
    if not 0 < wanted <= left:
        raise Conflict(f"{left} points can still be given back for “{source_id}”; {wanted} were asked for.")
    changes = _give_back(session, member_id, burned, wanted, idempotency_key, burn_origin(source_id), now)
    ledger.write(session, changes, now)
    repaid = ledger.repay_debts(session, {member_id: requests.fingerprint({"refund": idempotency_key})}, now)
    expired = -sum(change.delta for change in changes if change.kind == EXPIRE)
    answer = Refunded(wanted, expired, repaid, balance(session, member_id, now).available)
    requests.remember(session, idempotency_key, asdict(answer))
    return answer


def _give_back(
    session: Session,
    member_id: int,
    burned: dict[int, int],
    wanted: int,
    key: str,
    origin: str,
    now: datetime,
) -> list[Change]:
    over = set(
        session.scalars(
            sa.select(PointsLot.id).where(among(session, PointsLot.id, burned), ~ledger.not_over(now))
        )
    )
    changes = []
    for lot_id, taken in reversed(burned.items()):
        share = min(wanted, taken)
        wanted -= share
        if share:
            changes.append(Change(member_id, lot_id, REFUND, key, share, origin))
        if share and lot_id in over:
            changes.append(Change(member_id, lot_id, EXPIRE, key, -share))
    return changes
