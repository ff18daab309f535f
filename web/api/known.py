"""Members of a request, by the shop's own ids."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.db import among_named, dialect_of, named
from core.errors import NotFound
from core.models import Member


def known_member(session: Session, source: str, external_id: str) -> int:
    return known_members(session, source, [external_id])[external_id]


def known_members(session: Session, source: str, external_ids: Sequence[str]) -> dict[str, int]:
    """Ids of known members that were not erased; NotFound names those who are not."""
    found = members_among(session, source, external_ids)
    missing = [external_id for external_id in external_ids if external_id not in found]
    if missing:
        some = ", ".join(missing[:5]) + (" …" if len(missing) > 5 else "")
        raise NotFound(f"Not known as members: {some}. Send them to /api/v1/members first.")
    return found


def members_among(session: Session, source: str, external_ids: Sequence[str]) -> dict[str, int]:
    """Ids of those who are known members and were not erased."""
    dialect = dialect_of(session)
    rows = session.execute(_named(dialect), {"source": source, "names": named(dialect, external_ids)})
    return {external_id: member_id for external_id, member_id in rows}  # noqa: C416


@lru_cache
def _named(dialect: str) -> sa.Select[*tuple[Any, ...]]:
    return sa.select(Member.external_id, Member.id).where(
        Member.source == sa.bindparam("source"),
        Member.erased_at.is_(None),
        among_named(dialect, Member.external_id, "names"),
    )
