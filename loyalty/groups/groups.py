"""Groups: opened, joined, unlocked for all when they are full, released when their time is over.

Guarantees: a group never has more seats taken than it has; it is unlocked once, with a code for every seat
in the same transaction, or not at all; a group whose deadline has passed takes nobody, and is either
unlocked or failed, never both. Whatever decides is read under the lock of the group's row.

Order of locks: group row, member rows, batch row, code rows.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core import crypto
from core.db import among, lock_rows
from core.errors import Conflict, NotFound
from core.models import Member
from loyalty import coupons, requests
from loyalty.groups import offers
from loyalty.groups.models import Group, GroupOffer, GroupSeat
from loyalty.models import Coupon, CouponBatch

OPEN, UNLOCKED, FAILED = "open", "unlocked", "failed"
STATES = (OPEN, UNLOCKED, FAILED)
HELD, RELEASED = "held", "released"
FULL, OVER, TOO_MANY, ENDED, NO_CODES = "full", "over", "too_many_groups", "offer_ended", "no_codes"
"""Why a group is not opened or joined."""
_TOKEN_BYTES = 12
_LINK = "group"


class Refused(Conflict):
    """A group that may not be opened or joined now; ``reason`` is a word for machines."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Seated:
    """A group as a member's request left it; ``code``: theirs, once it is unlocked."""

    token: str
    offer: str
    seats: int
    taken: int
    state: str
    deadline: str
    """ISO 8601, UTC."""
    code: str | None = None


@dataclass(frozen=True)
class GroupView:
    """What anybody may see of a group: no member's id, names as initials."""

    group_id: int
    token: str
    offer: str
    title: str
    seats: int
    taken: int
    state: str
    deadline: datetime
    faces: tuple[str, ...]
    benefit: dict[str, Any]
    currency: str
    min_spend_minor: int


def open_group(
    session: Session, offer_name: str, leader_id: int, *, idempotency_key: str, now: datetime
) -> Seated:
    """Open a group, its first seat the leader's. The same key with the same body answers the same.

    NotFound: no such offer. :class:`Refused`: the offer is over or not begun, or the member is in as many
    open groups of it as one may be.
    """
    body = {"do": "open_group", "offer": offer_name, "member": leader_id}
    before = requests.claim(session, idempotency_key, body, now)
    if before is not None:
        return Seated(**before)
    offer = offers.find(session, offer_name)
    started = offer.starts_at is None or offer.starts_at <= now
    over = offer.archived_at is not None or (offer.ends_at is not None and offer.ends_at <= now)
    if over or not started:
        raise Refused(f"The group offer “{offer_name}” is not in force now.", ENDED)
    _lock_members(session, [leader_id])
    _check_open(session, offer, leader_id)
    group = Group(
        offer_id=offer.id,
        leader_id=leader_id,
        token=secrets.token_urlsafe(_TOKEN_BYTES),
        seats=offer.seats,
        state=OPEN,
        opened_at=now,
        deadline=now + timedelta(hours=offer.hours),
    )
    session.add(group)
    session.flush()
    session.add(GroupSeat(group_id=group.id, member_id=leader_id, state=HELD, joined_at=now))
    session.flush()
    answer = Seated(group.token, offer.name, group.seats, 1, OPEN, group.deadline.isoformat())
    requests.remember(session, idempotency_key, asdict(answer))
    return answer


def join(session: Session, token: str, member_id: int, *, idempotency_key: str, now: datetime) -> Seated:
    """Take a seat; who takes the last one unlocks the group for all, in this transaction.

    A member who has a seat keeps it and is answered how the group stands. The same key with the same body
    answers the same. NotFound: no such group. :class:`Refused`: it is full or over, the member is in too
    many others, or the codes for all cannot be issued (then nobody gets one).
    """
    body = {"do": "join_group", "token": token, "member": member_id}
    before = requests.claim(session, idempotency_key, body, now)
    if before is not None:
        return Seated(**before)
    group = _lock_group(session, token)
    if group is None:
        raise NotFound("There is no such group; ask for the link once more.")
    offer = session.get_one(GroupOffer, group.offer_id)
    members = _members(session, group.id)
    if member_id not in members:
        members = _take_seat(session, group, offer, members, member_id, now)
    code = _code(session, group.id, member_id)
    state = UNLOCKED if len(members) == group.seats and group.state == OPEN else group.state
    answer = Seated(token, offer.name, group.seats, len(members), state, group.deadline.isoformat(), code)
    requests.remember(session, idempotency_key, asdict(answer))
    return answer


def _take_seat(
    session: Session, group: Any, offer: GroupOffer, members: list[int], member_id: int, now: datetime
) -> list[int]:
    """The members with the new one; the group is unlocked if theirs was the last seat."""
    if group.state == UNLOCKED or len(members) >= group.seats:
        raise Refused("This group is full; open one of your own, or join another.", FULL)
    if group.state != OPEN or group.deadline <= now:
        raise Refused("This group's time is over; open one of your own, or join another.", OVER)
    everybody = [*members, member_id]
    last = len(everybody) == group.seats
    # All at once and in id order: two groups that fill at one moment may have members in common.
    _lock_members(session, everybody if last else [member_id])
    _check_open(session, offer, member_id)
    session.add(GroupSeat(group_id=group.id, member_id=member_id, state=HELD, joined_at=now))
    session.flush()
    if last:
        _unlock(session, group.id, offer, everybody, now)
    return everybody


def _lock_group(session: Session, token: str) -> Any:
    """The group, its row locked: nothing that decides is read before."""
    return session.execute(
        sa.select(Group.id, Group.offer_id, Group.seats, Group.state, Group.deadline)
        .where(Group.token == token)
        .with_for_update()
    ).one_or_none()


def _lock_members(session: Session, member_ids: Sequence[int]) -> None:
    lock_rows(session, Member.__table__, sorted(member_ids))


def _members(session: Session, group_id: int) -> list[int]:
    return list(session.scalars(sa.select(GroupSeat.member_id).where(GroupSeat.group_id == group_id)))


def _check_open(session: Session, offer: GroupOffer, member_id: int) -> None:
    number = session.execute(
        sa.select(sa.func.count())
        .select_from(GroupSeat)
        .join(Group, Group.id == GroupSeat.group_id)
        .where(GroupSeat.member_id == member_id, Group.offer_id == offer.id, Group.state == OPEN)
    ).scalar_one()
    if number >= offer.max_open:
        raise Refused(
            f"A member may be in {offer.max_open} open groups of this offer at a time; wait for theirs.",
            TOO_MANY,
        )


def _unlock(
    session: Session, group_id: int, offer: GroupOffer, members: Sequence[int], now: datetime
) -> None:
    """A code for every seat, or a refusal that leaves the group as it was."""
    session.execute(
        sa.update(Group).where(Group.id == group_id).values(state=UNLOCKED, closed_at=now),
        execution_options={"synchronize_session": False},
    )
    session.execute(
        sa.update(GroupSeat).where(GroupSeat.group_id == group_id).values(state=UNLOCKED),
        execution_options={"synchronize_session": False},
    )
    batch = session.get_one(CouponBatch, offer.batch_id)
    rows = [(member, issue_key(group_id, member)) for member in sorted(members)]
    over = batch.archived_at is not None or (batch.ends_at is not None and batch.ends_at <= now)
    if over or len(coupons.issue(session, batch, rows, now)) < len(rows):
        raise Refused("The offer's coupons are used up; this group cannot be filled any more.", NO_CODES)


def issue_key(group_id: int, member_id: int) -> str:
    """Natural key of the code that a seat gets."""
    return f"group:{group_id}:{member_id}"


def _code(session: Session, group_id: int, member_id: int) -> str | None:
    query = sa.select(Coupon.code).where(Coupon.issue_key == issue_key(group_id, member_id))
    return session.execute(query).scalar_one_or_none()


def close_due(session: Session, now: datetime, limit: int) -> int:
    """Fail at most ``limit`` open groups whose deadline has passed, their seats released; how many.

    A group that somebody is joining at this moment is left to the next round.
    """
    ids = _lock_due(session, now, limit)
    if not ids:
        return 0
    session.execute(
        sa.update(Group).where(among(session, Group.id, ids)).values(state=FAILED, closed_at=now),
        execution_options={"synchronize_session": False},
    )
    session.execute(
        sa.update(GroupSeat).where(among(session, GroupSeat.group_id, ids)).values(state=RELEASED),
        execution_options={"synchronize_session": False},
    )
    return len(ids)


def _lock_due(session: Session, now: datetime, limit: int) -> list[int]:
    return list(
        session.scalars(
            sa.select(Group.id)
            .where(Group.state == OPEN, Group.deadline <= now)
            .order_by(Group.deadline, Group.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
    )


def look(session: Session, token: str, now: datetime) -> GroupView:
    """A group as anybody may see it; one whose deadline has passed is failed, swept or not. NotFound."""
    row = session.execute(
        sa.select(Group, GroupOffer, CouponBatch)
        .join(GroupOffer, GroupOffer.id == Group.offer_id)
        .join(CouponBatch, CouponBatch.id == GroupOffer.batch_id)
        .where(Group.token == token)
    ).one_or_none()
    if row is None:
        raise NotFound("There is no such group; ask for the link once more.")
    group, offer, batch = row
    names = session.scalars(
        sa.select(Member.name)
        .join(GroupSeat, GroupSeat.member_id == Member.id)
        .where(GroupSeat.group_id == group.id)
        .order_by(GroupSeat.joined_at, GroupSeat.member_id)
    ).all()
    state = FAILED if group.state == OPEN and group.deadline <= now else group.state
    return GroupView(
        group.id,
        token,
        offer.name,
        offer.title,
        group.seats,
        len(names),
        state,
        group.deadline,
        tuple(map(masked, names)),
        batch.benefit,
        batch.currency,
        batch.min_spend_minor,
    )


def masked(name: str | None) -> str:
    """``王**``: as much of a name as a stranger may see."""
    return f"{name.strip()[:1]}**" if name and name.strip() else "**"


def member_token(group_id: int, member_id: int) -> str:
    """Signed: who follows the link it is in joins this group as this member."""
    return crypto.keyring().sign(_LINK, f"{group_id}:{member_id}")


def read_member_token(text: str, group_id: int) -> int | None:
    """The member whose link to this group it is, or None."""
    payload = crypto.keyring().verify(_LINK, text)
    group, _, member = (payload or "").partition(":")
    return int(member) if group == str(group_id) else None
