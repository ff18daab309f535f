"""Static lists of members: uploaded, or a segment's members frozen on a day.

A list never changes by itself. Rules name it (``{"list": "vip_2026"}``), so its name lasts: it can be
changed, and the list archived, only while no live segment's rule refers to it. Every change leaves
the warehouse a mark in the same transaction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core import audit
from core.bulk import bulk_count
from core.db import among
from core.errors import Conflict, InvalidInput, NotFound
from core.models import Member
from core.warehouse.replica import Fact, mark
from segments.compile import lists_of
from segments.models import MemberList, MemberListEntry, Segment

if TYPE_CHECKING:
    from segments.evaluate import Evaluator

LISTS = "lists"
FACT = Fact(
    LISTS,
    sa.select(MemberList.name.label("list"), MemberListEntry.member_id)
    .join(MemberList, MemberList.id == MemberListEntry.list_id)
    .join(Member, Member.id == MemberListEntry.member_id)
    .where(Member.erased_at.is_(None), MemberList.archived_at.is_(None)),
    None,
)
MAX_MEMBERS = 5_000_000
BATCH = 50_000
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,79}")
RESERVED = frozenset({"new"})
"""Names of the console's own pages about lists."""
Progress = Callable[[int, int], None]
"""Told after each batch: ids that were looked at, and of how many."""


@dataclass(frozen=True)
class Added:
    """What an upload did: how many are new on the list, and which ids nobody has."""

    added: int
    unknown: list[str]


@dataclass(frozen=True)
class ListRow:
    """A list with how many are on it."""

    name: str
    title: str
    origin: str
    members: int
    created_by: str
    created_at: datetime
    archived: bool


def by_name(session: Session, name: str) -> MemberList:
    """The list of this name, archived ones too. Raises NotFound."""
    found = session.scalars(sa.select(MemberList).where(MemberList.name == name)).first()
    if found is None:
        raise NotFound(f"There is no list “{name}”.")
    return found


def names(session: Session) -> frozenset[str]:
    """The names that a rule may refer to: of the lists that are not archived."""
    return frozenset(session.scalars(sa.select(MemberList.name).where(MemberList.archived_at.is_(None))))


def rows(session: Session, *, archived: bool = False) -> list[ListRow]:
    """The lists by title, with their sizes."""
    kept = MemberList.archived_at.is_not(None) if archived else MemberList.archived_at.is_(None)
    size = sa.func.count(MemberListEntry.member_id)
    query = (
        sa.select(MemberList, size)
        .outerjoin(MemberListEntry, MemberListEntry.list_id == MemberList.id)
        .where(kept)
        .group_by(MemberList.id)
        .order_by(MemberList.title)
    )
    return [
        ListRow(one.name, one.title, one.origin, members, one.created_by, one.created_at, archived)
        for one, members in session.execute(query)
    ]


def create(
    session: Session,
    *,
    name: str,
    title: str,
    external_ids: Iterable[str],
    by: str,
    now: datetime,
    progress: Progress | None = None,
) -> Added:
    """A new list of the members with these ids of the shop. Raises InvalidInput, Conflict."""
    found = _new(session, name, title, "", by, now)
    added = _enter(session, found.id, external_ids, progress)
    _changed(session, by, "create", name, now, {"added": added.added, "unknown": len(added.unknown)})
    return added


def create_of_members(
    session: Session,
    *,
    name: str,
    title: str,
    member_ids: Sequence[int],
    by: str,
    now: datetime,
    origin: str = "",
) -> int:
    """A new list of members that a page found; answers how many are on it. Raises InvalidInput, Conflict.

    ``member_ids`` are our own ids; who is unknown or was erased is left out. ``origin`` says where they
    come from (``moves:…``), at most 200 characters.
    """
    if len(member_ids) > MAX_MEMBERS:
        raise InvalidInput(f"A list has at most {MAX_MEMBERS:,} members; make several.", "member_ids")
    found = _new(session, name, title, origin[:200], by, now)
    added = 0
    for start in range(0, len(member_ids), BATCH):
        batch = member_ids[start : start + BATCH]
        query = sa.select(Member.id).where(among(session, Member.id, batch), Member.erased_at.is_(None))
        added += _insert(session, found.id, session.scalars(query).all())
    _changed(session, by, "create", name, now, {"added": added, "origin": origin[:200]})
    return added


def freeze(
    session: Session,
    evaluator: Evaluator,
    segment: Segment,
    *,
    name: str,
    title: str,
    by: str,
    now: datetime,
) -> int:
    """A new list of who is in the segment now; answers how many. Raises InvalidInput, Conflict."""
    members = evaluator.members(segment.rule).column("member_id").to_pylist()
    origin = f"segment:{segment.name}@{evaluator.moment.as_of.isoformat()}"
    found = _new(session, name, title, origin, by, now)
    added = _insert(session, found.id, members)
    _changed(session, by, "freeze", name, now, {"segment": segment.name, "added": added})
    return added


def add(
    session: Session,
    name: str,
    external_ids: Iterable[str],
    by: str,
    now: datetime,
    progress: Progress | None = None,
) -> Added:
    """Put more members on a list; who is on it stays. Raises NotFound, Conflict, InvalidInput."""
    added = _enter(session, _live(session, name).id, external_ids, progress)
    _changed(session, by, "add to", name, now, {"added": added.added, "unknown": len(added.unknown)})
    return added


def replace(
    session: Session,
    name: str,
    external_ids: Iterable[str],
    by: str,
    now: datetime,
    progress: Progress | None = None,
) -> Added:
    """Have just these members on a list. Raises NotFound, Conflict, InvalidInput."""
    found = _live(session, name)
    session.execute(sa.delete(MemberListEntry).where(MemberListEntry.list_id == found.id))
    added = _enter(session, found.id, external_ids, progress)
    _changed(session, by, "replace", name, now, {"added": added.added, "unknown": len(added.unknown)})
    return added


def remove(session: Session, name: str, external_ids: Iterable[str], by: str, now: datetime) -> int:
    """Take members off a list; answers how many were on it. Raises NotFound, Conflict."""
    found = _live(session, name)
    removed = 0
    for batch in _batches(_distinct(external_ids)):
        gone = session.execute(
            sa.delete(MemberListEntry).where(
                MemberListEntry.list_id == found.id,
                MemberListEntry.member_id.in_(
                    sa.select(Member.id).where(among(session, Member.external_id, batch))
                ),
            ),
            execution_options={"synchronize_session": False},
        )
        removed += int(gone.rowcount)  # type: ignore[attr-defined]
    _changed(session, by, "remove from", name, now, {"removed": removed})
    return removed


def rename(
    session: Session,
    name: str,
    *,
    title: str,
    by: str,
    now: datetime,
    new_name: str | None = None,
) -> None:
    """Another title, and another name where no live rule refers to it. Raises InvalidInput, Conflict."""
    found = _live(session, name)
    found.title = _title(title)
    if new_name is not None and new_name != name:
        _unused(session, name, "renamed")
        _free(session, new_name)
        found.name = new_name
    _changed(session, by, "rename", found.name, now, {"from": name, "title": title})


def archive(session: Session, name: str, by: str, now: datetime) -> None:
    """Take a list out of use. Conflict: a live segment's rule refers to it; again changes nothing."""
    found = by_name(session, name)
    if found.archived_at is None:
        _unused(session, name, "archived")
        found.archived_at = now
        _changed(session, by, "archive", name, now, {})


def restore(session: Session, name: str, by: str, now: datetime) -> None:
    """Bring an archived list back with its members."""
    found = by_name(session, name)
    if found.archived_at is not None:
        found.archived_at = None
        _changed(session, by, "restore", name, now, {})


def of_member(session: Session, member_id: int) -> list[tuple[str, str]]:
    """(name, title) of the live lists that a member is on, by title."""
    query = (
        sa.select(MemberList.name, MemberList.title)
        .join(MemberListEntry, MemberListEntry.list_id == MemberList.id)
        .where(MemberListEntry.member_id == member_id, MemberList.archived_at.is_(None))
        .order_by(MemberList.title)
    )
    return [(name, title) for name, title in session.execute(query)]


def forget(session: Session, member: Member, _now: datetime) -> None:
    """Take somebody who is being erased off every list."""
    session.execute(sa.delete(MemberListEntry).where(MemberListEntry.member_id == member.id))
    mark(session, LISTS, [None])


def check_new(session: Session, name: str, title: str) -> None:
    """Refuse what a new list could not be called. Raises InvalidInput, Conflict."""
    _free(session, name)
    _title(title)


def _new(session: Session, name: str, title: str, origin: str, by: str, now: datetime) -> MemberList:
    _free(session, name)
    found = MemberList(name=name, title=_title(title), origin=origin, created_by=by, created_at=now)
    session.add(found)
    session.flush()
    return found


def _free(session: Session, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidInput("A name has lower-case letters, digits, - and _, at most 80.", "name")
    if name in RESERVED:
        raise InvalidInput(f"“{name}” is the name of a page of the console. Choose another one.", "name")
    if session.scalar(sa.select(MemberList.id).where(MemberList.name == name)) is not None:
        raise Conflict(f"There is a list “{name}” already. Choose another name.")


def _title(title: str) -> str:
    if not title.strip() or len(title) > 200:
        raise InvalidInput("The title is missing, or longer than 200 characters.", "title")
    return title


def _live(session: Session, name: str) -> MemberList:
    found = by_name(session, name)
    if found.archived_at is not None:
        raise Conflict(f"The list “{name}” is archived. Restore it first.")
    return found


def _unused(session: Session, name: str, what: str) -> None:
    rules = session.execute(sa.select(Segment.name, Segment.rule).where(Segment.archived_at.is_(None)))
    users = sorted(segment for segment, rule in rules if name in lists_of(rule))
    if users:
        raise Conflict(
            f"“{name}” is used by the segments {', '.join(users)} and cannot be {what}. "
            "Change their rules first."
        )


def _distinct(external_ids: Iterable[str]) -> dict[str, None]:
    """The ids without blanks and repetitions, in their order."""
    return dict.fromkeys(text for one in external_ids if (text := str(one).strip()))


def _batches(external_ids: Iterable[str]) -> Iterable[list[str]]:
    iterator = iter(external_ids)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def _enter(
    session: Session, list_id: int, external_ids: Iterable[str], progress: Progress | None = None
) -> Added:
    wanted = _distinct(external_ids)
    if len(wanted) > MAX_MEMBERS:
        raise InvalidInput(f"A list has at most {MAX_MEMBERS:,} members; make several.", "external_ids")
    added, seen, unknown = 0, 0, []
    for batch in _batches(wanted):
        query = sa.select(Member.external_id, Member.id).where(
            among(session, Member.external_id, batch), Member.erased_at.is_(None)
        )
        found = [(external_id, member_id) for external_id, member_id in session.execute(query)]
        known = {external_id for external_id, _ in found}
        unknown += [one for one in batch if one not in known]
        added += _insert(session, list_id, [member_id for _, member_id in found])
        seen += len(batch)
        if progress is not None:
            progress(seen, len(wanted))
    return Added(added, unknown)


def _insert(session: Session, list_id: int, members: Sequence[int]) -> int:
    return bulk_count(
        session,
        MemberListEntry.__table__,
        ("list_id", "member_id"),
        ((list_id, member) for member in members),
        conflict=("list_id", "member_id"),
    )


def _changed(
    session: Session, by: str, action: str, name: str, now: datetime, detail: dict[str, object]
) -> None:
    mark(session, LISTS, [None])
    audit.record(session, by, action, "list", name, now, detail)
