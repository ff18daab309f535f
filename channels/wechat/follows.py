"""Where followers came from: follows, scans and leavings with the scene that the QR code carried.

The newest of each kind is kept by openid, so that a follow is told even when its openid is bound to a member
only later. Members have them as events, which timelines show and segments ask for: kind
``wechat_followed``, ``wechat_scanned`` or ``wechat_unfollowed``, property ``scene``. Each counts once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from channels.callbacks.wechat import FOLLOWED, SCANNED, UNFOLLOWED
from channels.models import WechatFollow
from channels.sql import is_postgres, table_of
from core import facts
from core.bulk import bulk_insert
from core.db import among
from core.imports import EVENT_KINDS, EVENT_QUEUE
from core.models import IS_CUSTOMER, Event, Member, Preference, Todo
from core.warehouse.replica import mark

SOURCE = "wechat"
EVENTS: Mapping[str, str] = MappingProxyType(
    {FOLLOWED: "wechat_followed", SCANNED: "wechat_scanned", UNFOLLOWED: "wechat_unfollowed"}
)
"""Kinds of events by what happened."""
_EVENT_COLUMNS = ("source", "external_id", "member_id", "kind", "occurred_at", "properties")


def lock(session: Session, openid_index: str) -> None:
    """Who follows while somebody binds their openid is seen by one of the two. SQLite's writer is alone."""
    if is_postgres(session):
        session.execute(sa.select(sa.func.pg_advisory_xact_lock(int(openid_index[:15], 16))))


def happened(session: Session, openid_index: str, kind: str, scene: str, at: datetime) -> None:
    """Keep what a follower did, and tell it of the members whose openid this is."""
    lock(session, openid_index)
    table = table_of(WechatFollow)
    insert: Any = postgresql.insert(table) if is_postgres(session) else sqlite.insert(table)
    new = insert.excluded
    session.execute(
        insert.on_conflict_do_update(
            index_elements=["openid_index", "kind"],
            set_={"scene": new.scene, "at": new.at},
            where=new.at > table.c.at,
        ),
        [{"openid_index": openid_index, "kind": kind, "scene": scene, "at": at}],
    )
    members = session.scalars(sa.select(Member.id).where(Member.openid_index == openid_index, IS_CUSTOMER))
    _write(session, [(member_id, kind, scene, at) for member_id in members])


def tell(session: Session, openid_indexes: Sequence[str]) -> None:
    """Members whose openid became known get what it did before as events; again changes nothing."""
    rows = session.execute(
        sa.select(Member.id, WechatFollow.kind, WechatFollow.scene, WechatFollow.at)
        .join(Member, Member.openid_index == WechatFollow.openid_index)
        .where(among(session, WechatFollow.openid_index, openid_indexes), IS_CUSTOMER)
    ).all()
    _write(session, [(row[0], row[1], row[2], row[3]) for row in rows])


def _write(session: Session, rows: Sequence[tuple[int, str, str, datetime]]) -> None:
    events = [
        (
            SOURCE,
            f"{kind}:{member_id}:{at:%Y%m%dT%H%M%S}",
            member_id,
            EVENTS[kind],
            at,
            {"scene": scene} if scene else {},
        )
        for member_id, kind, scene, at in rows
    ]
    if not events:
        return
    new = bulk_insert(
        session,
        table_of(Event),
        _EVENT_COLUMNS,
        events,
        conflict=("source", "external_id"),
        returning=("id", "kind", "external_id"),
    )
    wanted = session.get(Preference, EVENT_KINDS)
    if wanted is not None and wanted.value:
        todos = [(EVENT_QUEUE, number) for number, kind, _ in new if kind in wanted.value]
        bulk_insert(session, table_of(Todo), ("queue", "subject_id"), todos)
    fresh = {name for _, _, name in new}
    mark(session, facts.EVENTS, {row[4] for row in events if row[1] in fresh})
