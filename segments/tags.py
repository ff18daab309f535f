"""Tags of members: put on and taken off by hand, one member or many at a time.

Guarantees: who has the tag already (or has it not) is not touched; an erased member gets none; every
change leaves the warehouse its mark in the same transaction. Both directions are one statement a batch.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from core import audit, facts
from core.db import among, lock_rows
from core.errors import InvalidInput
from core.models import Member
from core.warehouse.replica import mark

MAX_TAG = 64
BATCH = 20_000
"""Members whose tags are changed in one transaction, as a caller with many should do it."""
_ENDS = ";；"
"""An import separates tags by these, so no tag holds one."""


def check(tag: str) -> str:
    """The tag as it is kept. Raises InvalidInput for one that is empty, too long or holds a semicolon."""
    text = unicodedata.normalize("NFC", " ".join(tag.split()))
    if not text or len(text) > MAX_TAG:
        raise InvalidInput(f"A tag has 1 to {MAX_TAG} characters.", "tag")
    if any(char in _ENDS or not char.isprintable() for char in text):
        raise InvalidInput("A tag holds no semicolon and no control character.", "tag")
    return text


def add(session: Session, member_ids: Sequence[int], tag: str, now: datetime) -> int:
    """Put ``tag`` on these members; answers how many did not have it. Raises InvalidInput."""
    tag = check(tag)
    if _postgres(session):
        tags: Any = sa.type_coerce(Member.tags, JSONB)
        return _change(session, member_ids, tags.concat(_json([tag])), ~tags.contains([tag]), now)
    longer = sa.func.json_insert(Member.tags, "$[#]", tag)
    return _change(session, member_ids, longer, ~_has(tag), now)


def remove(session: Session, member_ids: Sequence[int], tag: str, now: datetime) -> int:
    """Take ``tag`` off these members; answers how many had it. Raises InvalidInput."""
    tag = check(tag)
    if _postgres(session):
        tags: Any = sa.type_coerce(Member.tags, JSONB)
        without = tags.op("-", return_type=JSONB())(sa.bindparam(None, tag, type_=sa.Text()))
        return _change(session, member_ids, without, tags.contains([tag]), now)
    each = sa.func.json_each(Member.tags).table_valued("value")
    kept = sa.select(sa.func.json_group_array(each.c.value)).where(each.c.value != tag).scalar_subquery()
    return _change(session, member_ids, kept, _has(tag), now)


def add_one(session: Session, member_id: int, tag: str, by: str, now: datetime) -> bool:
    """Put a tag on one member, with an audit row; whether it is new. Raises InvalidInput."""
    return _one(session, member_id, "tag", tag, add(session, [member_id], tag, now), by, now)


def remove_one(session: Session, member_id: int, tag: str, by: str, now: datetime) -> bool:
    """Take a tag off one member, with an audit row; whether it was there. Raises InvalidInput."""
    return _one(session, member_id, "untag", tag, remove(session, [member_id], tag, now), by, now)


def _one(
    session: Session, member_id: int, action: str, tag: str, changed: int, by: str, now: datetime
) -> bool:
    if changed:
        audit.record(session, by, action, "member", member_id, now, {"tag": check(tag)})
    return bool(changed)


def _postgres(session: Session) -> bool:
    return session.get_bind().dialect.name == "postgresql"


def _json(value: list[str]) -> sa.ColumnElement[Any]:
    return sa.bindparam(None, value, type_=JSONB())


def _has(tag: str) -> sa.ColumnElement[bool]:
    """Whether a member has the tag, on SQLite."""
    each = sa.func.json_each(Member.tags).table_valued("value")
    return sa.exists(sa.select(sa.literal(1)).select_from(each).where(each.c.value == tag))


def _change(
    session: Session,
    member_ids: Sequence[int],
    tags: sa.ColumnElement[Any],
    wanted: sa.ColumnElement[bool],
    now: datetime,
) -> int:
    changed = 0
    table = Member.__table__
    for start in range(0, len(member_ids), BATCH):
        batch = sorted(member_ids[start : start + BATCH])
        lock_rows(session, table, batch)  # in id order, as an import and a run do: else they deadlock
        statement = (
            sa.update(Member)
            .where(among(session, Member.id, batch), Member.erased_at.is_(None), wanted)
            .values({Member.tags: sa.type_coerce(tags, sa.Text) if not _postgres(session) else tags})
            .values(updated_at=now)
        )
        result = session.execute(statement, execution_options={"synchronize_session": False})
        changed += int(result.rowcount)  # type: ignore[attr-defined]
    if changed:
        mark(session, facts.MEMBERS, [None])
    return changed
