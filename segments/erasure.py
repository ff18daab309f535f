"""Erasure of a member in every package: the one door that pages, the API and commands use."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from channels import erasure as channels_erasure
from core import members
from loyalty import erasure as loyalty_erasure
from segments import lists

ERASERS: tuple[members.Eraser, ...] = (channels_erasure.forget, loyalty_erasure.forget, lists.forget)
"""One for each package whose facts (``segments.facts.FACTS``) hold members."""


def erase(session: Session, member_id: int, by: str, now: datetime) -> None:
    """Erase a person everywhere: see :func:`core.members.erase`. Raises NotFound.

    After the warehouse's next sync no fact of it holds the member; nobody writes to their addresses.
    """
    members.erase(session, member_id, by, now, ERASERS)
