"""Segments: saved rules with a version history. Deleting is archiving."""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core import audit
from core.errors import Conflict, InvalidInput, NotFound
from segments import lists
from segments.compile import Moment, compile_rule, depends_on
from segments.evaluate import live_rules
from segments.models import Segment, SegmentVersion

_ANY_MOMENT = Moment(date(2000, 1, 1), ZoneInfo("UTC"))
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,79}")
RESERVED = frozenset(
    {"check", "cohorts", "count", "funnels", "lifecycle", "lists", "moves", "new", "overlap"}
    | {"paths", "predictions", "rfm", "suggest"}
)
"""Names that the console's own pages about segments have: a segment called so could not be opened."""


def by_name(session: Session, name: str) -> Segment:
    """The segment of this name. Raises NotFound."""
    found = session.scalars(sa.select(Segment).where(Segment.name == name)).first()
    if found is None:
        raise NotFound(f"There is no segment “{name}”.")
    return found


def live(session: Session) -> list[Segment]:
    """Segments that are not archived, by title."""
    return list(
        session.scalars(sa.select(Segment).where(Segment.archived_at.is_(None)).order_by(Segment.title))
    )


def save(
    session: Session,
    *,
    name: str,
    title: str,
    rule: dict[str, Any],
    by: str,
    now: datetime,
    description: str = "",
) -> Segment:
    """Create a segment, or give it a new version when its rule differs. Raises InvalidInput."""
    if not _NAME.fullmatch(name):
        raise InvalidInput("A name has lower-case letters, digits, - and _, at most 80.", "name")
    if not title.strip() or len(title) > 200:
        raise InvalidInput("The title is missing, or longer than 200 characters.", "title")
    _check(session, name, rule)
    segment = session.scalars(sa.select(Segment).where(Segment.name == name).with_for_update()).first()
    if segment is None:
        if name in RESERVED:
            raise InvalidInput(f"“{name}” is the name of a page of the console. Choose another one.", "name")
        segment = Segment(
            name=name, title=title, rule=rule, version=1, created_by=by, created_at=now, updated_at=now
        )
        segment.description = description
        session.add(segment)
        session.flush()
    elif segment.archived_at is not None:
        raise Conflict(f"The segment “{name}” is archived. Choose another name, or restore it first.")
    else:
        if segment.rule == rule and (segment.title, segment.description) == (title, description):
            return segment
        segment.version += segment.rule != rule
        segment.title, segment.description, segment.rule, segment.updated_at = title, description, rule, now
    if session.get(SegmentVersion, (segment.id, segment.version)) is None:  # a new title is no new version
        session.add(
            SegmentVersion(
                segment_id=segment.id, version=segment.version, rule=rule, changed_by=by, changed_at=now
            )
        )
    audit.record(session, by, "save", "segment", name, now, {"version": segment.version, "rule": rule})
    return segment


def _check(session: Session, name: str, rule: dict[str, Any]) -> None:
    """Compile the rule as it would run, and those that use it: circles and limits show only then."""
    rules = {**live_rules(session), name: rule}
    known = lists.names(session)
    compile_rule(rule, _ANY_MOMENT, rules.get, known)
    uses = {other: depends_on(one) for other, one in rules.items()}
    users, found = {name}, {name}
    while found:
        found = {other for other, used in uses.items() if found & set(used)} - users
        users |= found
    for other in sorted(users - {name}):
        try:
            compile_rule(rules[other], _ANY_MOMENT, rules.get, known)
        except InvalidInput as error:
            raise InvalidInput(
                f"The segment “{other}” uses this one and could not run: {error}", "rule"
            ) from None


def versions(session: Session, segment: Segment) -> list[SegmentVersion]:
    """The versions of a segment, the newest first."""
    query = sa.select(SegmentVersion).where(SegmentVersion.segment_id == segment.id)
    return list(session.scalars(query.order_by(SegmentVersion.version.desc())))


def archive(session: Session, name: str, by: str, now: datetime) -> None:
    """Take a segment out of use. Refused while another segment's rule refers to it; again changes nothing."""
    segment = by_name(session, name)
    if segment.archived_at is not None:
        return
    users = [other.name for other in live(session) if other.name != name and name in depends_on(other.rule)]
    if users:
        raise Conflict(f"“{name}” is used by the segments {', '.join(users)}. Change their rules first.")
    segment.archived_at = now
    audit.record(session, by, "archive", "segment", name, now)


def restore(session: Session, name: str, by: str, now: datetime) -> None:
    """Bring an archived segment back. Raises InvalidInput where its rule names what is gone by now."""
    segment = by_name(session, name)
    if segment.archived_at is None:
        return
    _check(session, name, segment.rule)
    segment.archived_at = None
    audit.record(session, by, "restore", "segment", name, now)
