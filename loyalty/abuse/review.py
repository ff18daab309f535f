"""What marketers decide about hits: confirmed, dismissed, or allowed. Each leaves an audit row."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core import audit
from core.errors import InvalidInput, NotFound
from loyalty.abuse import sign_ups
from loyalty.abuse.models import AbuseAllowance, AbuseHit
from loyalty.abuse.signals import CONFIRMED, DISMISSED, OPEN

STATES = (OPEN, CONFIRMED, DISMISSED)
MAX_REASON = 300


def decide(session: Session, hit_id: int, state: str, reason: str, by: str, now: datetime) -> AbuseHit:
    """Confirm or dismiss a hit, with the reason. A decision may be changed; each leaves its audit row.

    A confirmed one blocks its subject until the window's end, a dismissed one lets it pass, and the rewards
    that waited for it.
    """
    if state not in (CONFIRMED, DISMISSED):
        raise InvalidInput("A hit is confirmed or dismissed.", "state")
    reason = _reason(reason)
    hit = _locked(session, hit_id)
    hit.state, hit.reason, hit.decided_by, hit.decided_at = state, reason, by, now
    sign_ups.look_again(session, hit.kind, hit.hash)
    audit.record(session, by, f"abuse.{state}", "abuse_hit", hit_id, now, {"reason": reason})
    return hit


def allow(
    session: Session, hit_id: int, reason: str, by: str, now: datetime, until: datetime | None = None
) -> None:
    """Put the hit's subject on the allow-list (``until``; None: for good) and dismiss its open hits."""
    reason = _reason(reason)
    if until is not None and until <= now:
        raise InvalidInput("The end lies in the past; choose a later one, or none.", "until")
    hit = _locked(session, hit_id)
    session.merge(AbuseAllowance(kind=hit.kind, hash=hit.hash, why=reason, by=by, at=now, until=until))
    session.execute(
        sa.update(AbuseHit)
        .where(AbuseHit.kind == hit.kind, AbuseHit.hash == hit.hash, AbuseHit.state == OPEN)
        .values(state=DISMISSED, reason=reason, decided_by=by, decided_at=now),
        execution_options={"synchronize_session": False},
    )
    sign_ups.look_again(session, hit.kind, hit.hash)
    detail = {"kind": hit.kind, "reason": reason, "until": until.isoformat() if until else None}
    audit.record(session, by, "abuse.allow", "abuse_hit", hit_id, now, detail)


def withdraw(session: Session, kind: str, digest: str, by: str, now: datetime) -> None:
    """Take a subject off the allow-list. NotFound when it is not on it."""
    row = session.get(AbuseAllowance, (kind, digest))
    if row is None:
        raise NotFound("This is not on the allow-list any more; load the page again.")
    session.delete(row)
    audit.record(
        session, by, "abuse.withdraw", "abuse_allowance", digest, now, {"kind": kind, "why": row.why}
    )


def _locked(session: Session, hit_id: int) -> AbuseHit:
    hit = session.get(AbuseHit, hit_id, with_for_update=True)
    if hit is None:
        raise NotFound(f"There is no hit number {hit_id}; load the page again.")
    return hit


def _reason(text: str) -> str:
    text = text.strip()
    if not 0 < len(text) <= MAX_REASON:
        raise InvalidInput(f"Say why, in 1 to {MAX_REASON} characters: others will read it.", "reason")
    return text
