"""Burning points (at once, or out of a hold), and giving burnt points back.

Guarantees: nobody burns what is not there, however many try at once, since the member's row is locked
before anything is read that decides; a source (an order, a gift) burns once; what is given back goes to
the lots it came from. In the ledger a burn is an entry ``spend``, what is given back one ``refund``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.db import among, among_named, dialect_of, named
from core.errors import Conflict, HuiliuError, InvalidInput, NotFound
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


class Burn(NamedTuple):
    """Points to be burnt on a source, under an idempotency key."""

    member_id: int
    points: int
    source_id: str
    key: str
    now: datetime

    @property
    def digest(self) -> str:
        body = {"do": SPEND, "member": self.member_id, "points": self.points, "source_id": self.source_id}
        return requests.fingerprint(body)


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
    if hold_id is not None:
        return _burn_hold(session, member_id, points, source_id, hold_id, idempotency_key, now)
    if points is None or source_id is None:
        raise InvalidInput("Say how many points to burn and on what, or name a hold.", "points")
    [done] = burn_many(session, [Burn(member_id, points, source_id, idempotency_key, now)])
    assert done is not None, "a key alone is not there twice"
    if isinstance(done, HuiliuError):
        raise done
    return done


def burn_many(session: Session, burns: Sequence[Burn]) -> list[Burned | HuiliuError | None]:
    """Burn points of many at once: in their order what :func:`burn` answers or raises of each.

    None for a key that is named twice here: it has to be done after the others, by :func:`burn`.
    """
    found: list[Burned | HuiliuError | None] = [None] * len(burns)
    places: dict[str, int] = {}
    for place, one in enumerate(burns):
        try:
            check_points(one.points)
            places.setdefault(requests.check_key(one.key), place)
        except HuiliuError as error:
            found[place] = error
    if not places:
        return found
    at = max(burns[place].now for place in places.values())
    before = requests.claim_many(session, {key: burns[place].digest for key, place in places.items()}, at)
    todo = []
    for key, place in places.items():
        try:
            again = requests.repeated(before.get(key), key, burns[place].digest)
        except HuiliuError as error:
            found[place] = error
        else:
            found[place] = None if again is None else Burned(**again)
            todo += [place] if again is None else []
    for place, done in zip(todo, _draw(session, [burns[place] for place in todo], at), strict=True):
        found[place] = done
    answers = {burns[place].key: found[place] for place in todo}
    requests.give_up(session, [key for key, one in answers.items() if not isinstance(one, Burned)])
    requests.remember_many(
        session, {key: asdict(one) for key, one in answers.items() if isinstance(one, Burned)}
    )
    return found


def _draw(session: Session, burns: Sequence[Burn], at: datetime) -> list[Burned | HuiliuError]:
    """Spend the points of each in turn, or say why not."""
    if not burns:
        return []
    members = sorted({one.member_id for one in burns})
    ledger.lock_members(session, members)
    spent = _spent_before(session, burns)
    point_holds.expire_holds_of(session, members, at)
    holdings = ledger.holdings(session, members, at)
    found: list[Burned | HuiliuError] = []
    changes: list[Change] = []
    for one in burns:
        holding = holdings[one.member_id]
        available = holding.available(at)
        if (one.member_id, one.source_id) in spent:
            found.append(_second(one.source_id))
        elif available < one.points:
            found.append(
                NotEnough(f"The member has {available} points to spend; {one.points} were asked for.")
            )
        else:
            drawn = holding.draw(one.points, available_at=at)
            changes += [Change(one.member_id, lot, SPEND, one.source_id, -share) for lot, share in drawn]
            spent.add((one.member_id, one.source_id))
            found.append(Burned(one.points, available - one.points))
    ledger.write(session, changes, at)
    _prolong(session, {change.member_id for change in changes}, at)
    return found


def _prolong(session: Session, members: Collection[int], now: datetime) -> None:
    """Spending is activity: where inactivity is what ends points, they live on."""
    rule = earn_rules.load_rule(session) if members else None
    end = rule.expiry(now) if rule is not None and rule.rolling else None
    if end is not None:
        ledger.move_ends(session, dict.fromkeys(members, end), now)


def _spent_before(session: Session, burns: Sequence[Burn]) -> set[tuple[int, str]]:
    """Of the members and sources of these burns those that burnt before, given back since or not."""
    dialect = dialect_of(session)
    params = {
        "members": named(dialect, sorted({one.member_id for one in burns})),
        "sources": named(dialect, sorted({one.source_id for one in burns})),
    }
    return {(member_id, source) for member_id, source in session.execute(_spent(dialect), params)}


@lru_cache
def _spent(dialect: str) -> sa.Select[*tuple[Any, ...]]:
    return sa.select(_E.member_id, _E.source_id).where(
        among_named(dialect, _E.member_id, "members"),
        among_named(dialect, _E.source_id, "sources"),
        # By the members' index. The one of the kinds looks as good to a planner that counted the entries
        # before a rush began, and then reads every burn of the rush again for each new one.
        _E.kind + "" == SPEND,
    )


def _burn_hold(
    session: Session,
    member_id: int,
    points: int | None,
    source_id: str | None,
    hold_id: int,
    key: str,
    now: datetime,
) -> Burned:
    if points is not None:
        check_points(points)
    body = {"do": SPEND, "member": member_id, "points": points, "source_id": source_id, "hold": hold_id}
    before = requests.claim(session, key, body, now)
    if before is not None:
        return Burned(**before)
    ledger.lock_members(session, [member_id])
    held = point_holds.open_hold(session, member_id, hold_id, now)
    if source_id not in (None, held.source_id):
        raise Conflict(f"The hold {hold_id} is for “{held.source_id}”, not for “{source_id}”.")
    if _burned_by_lot(session, member_id, held.source_id):
        raise _second(held.source_id)
    taken = point_holds.capture(session, member_id, hold_id, points, now)
    answer = Burned(taken, balance(session, member_id, now).available)
    requests.remember(session, key, asdict(answer))
    return answer


def _second(source_id: str) -> Conflict:
    return Conflict(f"Points were burnt on “{source_id}” before; name another source for a new burn.")


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
