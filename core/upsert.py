"""Members and products, written: new rows inserted, changed ones completed by what they give.

Guarantees: a column that a row does not name stays as it is in a known row; tags that the console gave or
took survive every import; an equal row (by its fingerprint) writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.bulk import bulk_insert
from core.contacts import blind_index
from core.db import Base, among
from core.members import ERASED
from core.models import Member
from core.rows import MemberRow, ProductRow

_CONTACT_COLUMNS = ("email", "phone", "openid", "unionid", "wecom")


def existing(
    session: Session, model: type[Base], key: str, source: str, ids: Iterable[str]
) -> dict[str, tuple[int, str]]:
    """external id → (id, fingerprint) of the rows that are already there."""
    table = model.__table__
    found = session.execute(
        sa.select(table.c[key], table.c.id, table.c.fingerprint).where(
            table.c.source == source, among(session, table.c[key], ids)
        )
    )
    return {external: (row_id, mark_) for external, row_id, mark_ in found}


def _member_columns(values: dict[str, Any]) -> dict[str, Any]:
    indexes = {
        f"{column}_index": blind_index(column, values[column])
        for column in _CONTACT_COLUMNS
        if column in values
    }
    return {**values, **indexes}


def _kept(row: dict[str, Any]) -> dict[str, Any]:
    """Without WeChat's ids where the shop does not know them: a member may have been bound here."""
    unknown = [name for name in ("openid", "unionid") if name in row and row[name] is None]
    return {name: value for name, value in row.items() if name.removesuffix("_index") not in unknown}


def _merge_members(session: Session, rows: list[dict[str, Any]]) -> None:
    """Complete the changed rows: what the shop added or took away is added or taken away, the rest stays."""
    wanted = [row["id"] for row in rows if "tags" in row or "attributes" in row]
    found = {
        member_id: (tags, shop_tags or [], attributes)
        for member_id, tags, shop_tags, attributes in session.execute(
            sa.select(Member.id, Member.tags, Member.shop_tags, Member.attributes).where(
                among(session, Member.id, wanted)
            )
        )
    }
    for row in rows:
        if row["id"] not in found:
            continue
        tags, before, attributes = found[row["id"]]
        if "tags" in row:
            after = row["shop_tags"] = row["tags"]
            row["tags"] = sorted(set(tags) - (set(before) - set(after)) | set(after) - set(before))
        if "attributes" in row:
            row["attributes"] = _without_none({**attributes, **row["attributes"]})


def _new_member(row: dict[str, Any]) -> dict[str, Any]:
    tags = row.get("tags", [])
    attributes = _without_none(row.get("attributes", {}))
    return {**row, "tags": tags, "shop_tags": tags, "attributes": attributes}


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def upsert(
    session: Session,
    model: type[Base],
    key: str,
    records: Sequence[MemberRow | ProductRow],
    common: dict[str, Any],
    created: dict[str, Any],
) -> tuple[int, dict[str, int]]:
    """Insert what is new, update what differs. Answers how many are new, and all ids written.

    A column that a row does not give is empty in a new row, and stays as it is in a known one.
    """
    known = existing(session, model, key, common["source"], (record.external_id for record in records))
    widen: Callable[[dict[str, Any]], dict[str, Any]] = _member_columns if model is Member else dict
    new, changed = [], []
    for record in records:
        row_id, old = known.get(record.external_id, (None, None))
        row = {**widen(record.values), **common, key: record.external_id, "fingerprint": record.fingerprint}
        if row_id is None:
            new.append({**row, **created})
        # A file of the shop may still name somebody who was erased here: it brings nobody back.
        elif old not in (record.fingerprint, ERASED):
            changed.append({**_kept(row), "id": row_id})
    written: dict[str, int] = {}
    if model is Member:
        new = [_new_member(row) for row in new]
        _merge_members(session, changed)
    if new:
        columns = sorted(set().union(*new))
        rows = (tuple(row.get(name) for name in columns) for row in new)
        found = bulk_insert(
            session, model.__table__, columns, rows, conflict=["source", key], returning=["id", key]
        )
        written.update({external: row_id for row_id, external in found})
    if changed:
        session.execute(sa.update(model), changed)
        written.update({row[key]: row["id"] for row in changed})
    return len(written) - len(changed), written
