"""Members of a request, by the shop's own ids."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.db import among
from core.errors import NotFound
from core.models import Member


def known_member(session: Session, source: str, external_id: str) -> int:
    return known_members(session, source, [external_id])[external_id]


def known_members(session: Session, source: str, external_ids: Sequence[str]) -> dict[str, int]:
    """Ids of known members that were not erased; NotFound names those who are not."""
    rows = session.execute(
        sa.select(Member.external_id, Member.id).where(
            Member.source == source,
            Member.erased_at.is_(None),
            among(session, Member.external_id, external_ids),
        )
    )
    found = {external_id: member_id for external_id, member_id in rows}  # noqa: C416
    missing = [external_id for external_id in external_ids if external_id not in found]
    if missing:
        named = ", ".join(missing[:5]) + (" …" if len(missing) > 5 else "")
        raise NotFound(f"Not known as members: {named}. Send them to /api/v1/members first.")
    return found
