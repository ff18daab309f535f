"""Whose sign-up is suspected, and what waits for the review because of it.

A sign-up is suspected while something that came with it (a device, a phone, an address) breaks a rule by a
hit that is open or confirmed, and that had begun when the member signed up.
"""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.db import among
from core.imports import EVENT_QUEUE
from core.models import Event, Todo
from loyalty.abuse.models import AbuseHit, AbuseSignal
from loyalty.abuse.rules import SIGN_UP
from loyalty.abuse.signals import CONFIRMED, OPEN

HELD_QUEUE = "loyalty.events.held"
"""Events that would be rewarded, were their member's sign-up not suspected."""


def suspected(session: Session, member_ids: Iterable[int]) -> set[int]:
    """Those of the members whose sign-up is suspected."""
    return set(
        session.scalars(
            sa.select(AbuseSignal.member_id)
            .join(AbuseHit, sa.and_(AbuseHit.kind == AbuseSignal.kind, AbuseHit.hash == AbuseSignal.hash))
            .where(
                among(session, AbuseSignal.member_id, set(member_ids)),
                AbuseSignal.action == SIGN_UP,
                AbuseHit.state.in_((OPEN, CONFIRMED)),
                AbuseSignal.at.between(AbuseHit.first_at, AbuseHit.last_at),
            )
            .distinct()
        )
    )


def look_again(session: Session, kind: str, digest: str) -> None:
    """What waits because of this device, phone or address is looked at by the next run, after a decision."""
    members = sa.select(AbuseSignal.member_id).where(
        AbuseSignal.kind == kind, AbuseSignal.hash == digest, AbuseSignal.action == SIGN_UP
    )
    events = sa.select(Event.id).where(Event.kind == SIGN_UP, Event.member_id.in_(members))
    session.execute(
        sa.update(Todo)
        .where(Todo.queue == HELD_QUEUE, Todo.subject_id.in_(events))
        .values(queue=EVENT_QUEUE),
        execution_options={"synchronize_session": False},
    )
