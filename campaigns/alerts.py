"""Alerts: lights that are yellow or red, kept from when they go on until they are resolved.

Guarantees: one open alert a subject and light, by a unique index, however often the watch looks; one that
gets worse counts as unseen again; a light that is green again resolves its alert. Who saw or resolved one is
kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.models import Alert
from core import audit
from core.errors import Conflict, NotFound

GOOD, YELLOW, RED = "good", "watch", "bad"
"""Tones of a light: green, yellow, red."""
TONES = (GOOD, YELLOW, RED)
WATCH = "watch"
"""Who the audit rows name that the watch wrote."""
CAMPAIGN, TREE = "campaign:", "tree"
"""Subjects: ``campaign:NAME``, and the metrics tree."""


@dataclass(frozen=True)
class Light:
    """One check of a subject. ``value`` is compared with ``limit``; ``detail`` are further numbers."""

    check: str
    tone: str
    value: float | None = None
    limit: float | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def family(self) -> str:
        """``guardrail`` of ``guardrail:revenue:B``."""
        return self.check.partition(":")[0]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "detail": dict(self.detail)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Light:
        """What :meth:`to_json` gave."""
        return Light(data["check"], data["tone"], data["value"], data["limit"], data["detail"])


def worst(lights: list[Light]) -> str:
    """The worst tone; green where there is no light."""
    return max((light.tone for light in lights), key=TONES.index, default=GOOD)


def keep(session: Session, subject: str, lights: list[Light], now: datetime) -> list[Alert]:
    """Bring a subject's open alerts in line with its lights; those that are new or got worse."""
    open_now = session.scalars(
        sa.select(Alert).where(Alert.subject == subject, Alert.resolved_at.is_(None)).with_for_update()
    ).all()
    known = {alert.light: alert for alert in open_now}
    fresh: list[Alert] = []
    for light in lights:
        if light.tone == GOOD:
            continue
        alert = known.pop(light.check, None)
        detail = {"value": light.value, "limit": light.limit, **light.detail}
        if alert is None:
            alert = Alert(
                subject=subject, light=light.check, tone=light.tone, detail=detail, first_at=now, last_at=now
            )
            session.add(alert)
            fresh.append(alert)
            continue
        if TONES.index(light.tone) > TONES.index(alert.tone):
            alert.seen_by = alert.seen_at = None
            fresh.append(alert)
        alert.tone, alert.detail, alert.last_at = light.tone, detail, now
    for gone in known.values():
        gone.resolved_by, gone.resolved_at = WATCH, now
    session.flush()
    return fresh


def unresolved(session: Session, limit: int = 200) -> list[Alert]:
    """Open alerts: red before yellow, unseen before seen, the newest first."""
    query = (
        sa.select(Alert)
        .where(Alert.resolved_at.is_(None))
        .order_by(
            sa.case((Alert.tone == RED, 0), else_=1),
            sa.case((Alert.seen_at.is_(None), 0), else_=1),
            Alert.last_at.desc(),
            Alert.id.desc(),
        )
        .limit(limit)
    )
    return list(session.scalars(query))


def resolved(session: Session, limit: int = 50) -> list[Alert]:
    """Alerts that are over, the newest first."""
    query = sa.select(Alert).where(Alert.resolved_at.is_not(None))
    return list(session.scalars(query.order_by(Alert.resolved_at.desc(), Alert.id.desc()).limit(limit)))


def of_subject(session: Session, subject: str) -> list[Alert]:
    """The open alerts of a subject."""
    return list(
        session.scalars(
            sa.select(Alert).where(Alert.subject == subject, Alert.resolved_at.is_(None)).order_by(Alert.id)
        )
    )


def _open(session: Session, alert_id: int) -> Alert:
    found = session.get(Alert, alert_id, with_for_update=True)
    if found is None:
        raise NotFound("There is no such alert.")
    if found.resolved_at is not None:
        raise Conflict("This alert is resolved already.")
    return found


def mark_seen(session: Session, alert_id: int, by: str, now: datetime) -> None:
    """Note who looks after an alert; the first stays. Raises NotFound, Conflict where it is resolved."""
    alert = _open(session, alert_id)
    if alert.seen_at is None:
        alert.seen_by, alert.seen_at = by, now
        audit.record(
            session, by, "see", "alert", alert_id, now, {"subject": alert.subject, "light": alert.light}
        )


def resolve(session: Session, alert_id: int, by: str, now: datetime) -> None:
    """Close an alert by hand; the watch opens another should the light still be on tomorrow."""
    alert = _open(session, alert_id)
    alert.resolved_by, alert.resolved_at = by, now
    audit.record(
        session, by, "resolve", "alert", alert_id, now, {"subject": alert.subject, "light": alert.light}
    )
