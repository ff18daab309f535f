"""Static lists: sizes, pages of members, and where a list is used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.models import Campaign
from core.models import Member
from segments.models import MemberList, MemberListEntry, Segment
from web.paging import PAGE_ROWS, Page, offset
from web.queries.members import MemberRow, rows_of

CAMPAIGNS_LOOKED_AT = 1000


@dataclass(frozen=True)
class Users:
    """Who names a list in a rule, each as (name, title)."""

    segments: list[tuple[str, str]]
    campaigns: list[tuple[str, str]]

    def __bool__(self) -> bool:
        return bool(self.segments or self.campaigns)


def names(session: Session) -> list[tuple[str, str]]:
    """(name, title) of the live lists, for choices."""
    query = (
        sa.select(MemberList.name, MemberList.title)
        .where(MemberList.archived_at.is_(None))
        .order_by(MemberList.title)
    )
    return [(row.name, row.title) for row in session.execute(query)]


def size(session: Session, list_id: int) -> int:
    """How many are on a list, those who were erased left out."""
    query = sa.select(sa.func.count()).select_from(_entries(list_id).subquery())
    return session.scalar(query) or 0


def members(session: Session, list_id: int, number: int) -> Page[MemberRow]:
    """A page of a list's members, by id."""
    query = _entries(list_id).order_by(MemberListEntry.member_id)
    ids = session.scalars(query.offset(offset(number)).limit(PAGE_ROWS + 1)).all()
    return Page(rows_of(session, ids[:PAGE_ROWS]), number, len(ids) > PAGE_ROWS)


def member_ids(session: Session, list_id: int) -> Sequence[int]:
    """Everybody on a list."""
    return session.scalars(_entries(list_id)).all()


def _entries(list_id: int) -> sa.Select[int]:
    return (
        sa.select(MemberListEntry.member_id)
        .join(Member, Member.id == MemberListEntry.member_id)
        .where(MemberListEntry.list_id == list_id, Member.erased_at.is_(None))
    )


def used_by(session: Session, wanted: Sequence[str]) -> dict[str, Users]:
    """Name of a list → the live segments and the newest campaigns whose rules name it. Two queries."""
    segments = session.execute(
        sa.select(Segment.name, Segment.title, Segment.rule).where(Segment.archived_at.is_(None))
    ).all()
    campaigns = session.execute(
        sa.select(Campaign.name, Campaign.title, Campaign.spec)
        .where(Campaign.state != "archived")
        .order_by(Campaign.id.desc())
        .limit(CAMPAIGNS_LOOKED_AT)
    ).all()
    rules = [(row.name, row.title, _text(row.rule)) for row in segments]
    specs = [(row.name, row.title, _text(row.spec)) for row in campaigns]
    return {name: Users(_naming(name, rules), _naming(name, specs)) for name in wanted}


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _naming(name: str, texts: list[tuple[str, str, str]]) -> list[tuple[str, str]]:
    sign = f'"list": {json.dumps(name, ensure_ascii=False)}'
    return [(own, title) for own, title, text in texts if sign in text]
