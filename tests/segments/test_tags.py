"""Tags put on and taken off many members at once, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from core import facts
from core.db import Database
from core.errors import InvalidInput
from core.models import AuditEntry, Member, WarehouseMark
from segments import tags

NOW = datetime(2026, 3, 1, 8, tzinfo=UTC)
LATER = datetime(2026, 3, 2, 8, tzinfo=UTC)


def add_members(database: Database, *held: list[str], erased: bool = False) -> list[int]:
    with database.write() as session:
        found = [
            Member(
                source="shop",
                external_id=f"t{index}{'e' * erased}",
                tags=own,
                attributes={},
                fingerprint="",
                created_at=NOW,
                updated_at=NOW,
                erased_at=NOW if erased else None,
            )
            for index, own in enumerate(held)
        ]
        session.add_all(found)
        session.flush()
        return [member.id for member in found]


def tags_of(database: Database, ids: list[int]) -> list[list[str]]:
    with database.read() as session:
        rows = dict(session.execute(sa.select(Member.id, Member.tags).where(Member.id.in_(ids))).all())
    return [rows[one] for one in ids]


def marks(database: Database) -> int:
    with database.read() as session:
        query = sa.select(sa.func.count()).where(WarehouseMark.table_name == facts.MEMBERS)
        return session.scalar(query) or 0


def test_a_tag_is_put_on_everybody_who_has_it_not(db: Database) -> None:
    ids = add_members(db, [], ["vip"], ["茶客", 'a "quoted" one'])
    with db.write() as session:
        assert tags.add(session, ids, " vip ", LATER) == 2
    assert tags_of(db, ids) == [["vip"], ["vip"], ["茶客", 'a "quoted" one', "vip"]]
    assert marks(db) == 1
    with db.read() as session:
        changed = dict(session.execute(sa.select(Member.id, Member.updated_at)).all())
    assert [changed[one] for one in ids] == [LATER, NOW, LATER]


def test_adding_again_changes_nothing_and_leaves_no_mark(db: Database) -> None:
    ids = add_members(db, ["vip"])
    with db.write() as session:
        assert tags.add(session, ids, "vip", LATER) == 0
        assert tags.remove(session, ids, "other", LATER) == 0
    assert (tags_of(db, ids), marks(db)) == ([["vip"]], 0)


def test_a_tag_is_taken_off_and_the_others_stay_in_their_order(db: Database) -> None:
    ids = add_members(db, ["a", "茶客", "b"], ["茶客"], ["b"])
    with db.write() as session:
        assert tags.remove(session, ids, "茶客", LATER) == 2
    assert tags_of(db, ids) == [["a", "b"], [], ["b"]]


def test_members_who_were_not_named_or_were_erased_are_left_alone(db: Database) -> None:
    ids, erased = add_members(db, [], []), add_members(db, [], erased=True)
    with db.write() as session:
        assert tags.add(session, [ids[0], *erased, 999_999], "vip", LATER) == 1
    assert tags_of(db, ids + erased) == [["vip"], [], []]


def test_more_members_than_a_batch_are_all_changed(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tags, "BATCH", 2)
    ids = add_members(db, [], [], [], [], [])
    with db.write() as session:
        assert tags.add(session, ids, "x", LATER) == 5
        assert tags.remove(session, ids[:3], "x", LATER) == 3
    assert tags_of(db, ids) == [[], [], [], ["x"], ["x"]]


@pytest.mark.parametrize("tag", ["", "   ", "a;b", "甲；乙", "x" * 65, "a\x00b", "a\x07b"])
def test_a_tag_that_an_import_could_not_keep_is_refused(sqlite_db: Database, tag: str) -> None:
    ids = add_members(sqlite_db, [])
    with sqlite_db.write() as session, pytest.raises(InvalidInput) as caught:
        tags.add(session, ids, tag, LATER)
    assert caught.value.field == "tag"
    assert tags_of(sqlite_db, ids) == [[]]


def test_one_member_gets_a_tag_with_an_audit_row_once(db: Database) -> None:
    (member,) = add_members(db, [])
    with db.write() as session:
        assert tags.add_one(session, member, "vip", "ann@example.com", LATER)
        assert not tags.add_one(session, member, "vip", "ann@example.com", LATER)
        assert tags.remove_one(session, member, "vip", "ann@example.com", LATER)
    with db.read() as session:
        rows = session.execute(
            sa.select(AuditEntry.action, AuditEntry.object_id, AuditEntry.detail).order_by(AuditEntry.id)
        ).all()
    assert [tuple(row) for row in rows] == [
        ("tag", str(member), {"tag": "vip"}),
        ("untag", str(member), {"tag": "vip"}),
    ]
