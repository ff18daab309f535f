"""Static lists: uploaded, frozen, changed, in use, and in the warehouse after the next sync."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from core.db import Database
from core.errors import Conflict, InvalidInput, NotFound
from core.imports import load_rows, numbered
from core.models import AuditEntry, Member, WarehouseMark
from core.settings import Settings
from core.warehouse.engine import DuckEngine
from core.warehouse.replica import Replica
from segments import erasure, lists, segments
from segments.evaluate import Evaluator, evaluator
from segments.facts import FACTS
from segments.models import MemberListEntry
from tests.segments.conftest import AS_OF

NOW = datetime(2026, 3, 1, tzinfo=UTC)


class Shop:
    """Members m1 … m5 (m5 of another source too), their lists and the warehouse."""

    def __init__(self, database: Database, settings: Settings, folder: Path) -> None:
        self.database, self.settings = database, settings
        self.engine = DuckEngine(Replica(str(folder / "warehouse"), FACTS))
        for source, numbers in (("shop", range(1, 6)), ("other", [5])):
            rows = [{"member_id": f"m{n}", "city": "x" if n < 3 else "y"} for n in numbers]
            report = load_rows(
                database, "members", numbered(rows), settings=settings, source=source, now=NOW,
                consents=lambda _session, _changes: None,
            )  # fmt: skip
            assert report.rejected == 0

    def create(self, name: str, *ids: str, title: str = "A list") -> lists.Added:
        with self.database.write() as session:
            return lists.create(session, name=name, title=title, external_ids=ids, by="ann", now=NOW)

    def evaluator(self) -> Evaluator:
        self.engine.replica.sync(self.database)
        with self.database.read() as session:
            return evaluator(session, self.engine, self.settings, AS_OF)

    def on(self, name: str) -> list[str]:
        """Who is on a list, as rules see it."""
        found: list[str] = self.evaluator().members({"list": name}).column("external_id").to_pylist()
        return sorted(found)


@pytest.fixture
def shop(db: Database, settings: Settings, tmp_path: Path) -> Shop:
    return Shop(db, settings, tmp_path)


def test_an_upload_tells_what_is_new_and_which_ids_nobody_has(shop: Shop) -> None:
    found = shop.create("fair", "m1", " m2 ", "m1", "", "ghost", "m5")
    assert found == lists.Added(4, ["ghost"]), "m5 is two members, of two sources"
    assert shop.on("fair") == ["m1", "m2", "m5", "m5"]
    assert shop.evaluator().count({"not": {"list": "fair"}}).count == 2


def test_lists_are_added_to_replaced_and_taken_from(shop: Shop) -> None:
    shop.create("fair", "m1")
    with shop.database.write() as session:
        assert lists.add(session, "fair", ["m1", "m2", "ghost"], "bob", NOW) == lists.Added(1, ["ghost"])
    assert shop.on("fair") == ["m1", "m2"]
    with shop.database.write() as session:
        assert lists.remove(session, "fair", ["m1", "m3", "ghost"], "bob", NOW) == 1
    assert shop.on("fair") == ["m2"]
    with shop.database.write() as session:
        assert lists.replace(session, "fair", ["m3", "m4"], "bob", NOW) == lists.Added(2, [])
    assert shop.on("fair") == ["m3", "m4"]
    with shop.database.read() as session:
        rows = session.execute(sa.select(AuditEntry.actor, AuditEntry.action).order_by(AuditEntry.id)).all()
    assert [tuple(row) for row in rows] == [
        ("ann", "create"), ("bob", "add to"), ("bob", "remove from"), ("bob", "replace"),
    ]  # fmt: skip


def test_every_change_leaves_a_mark_in_its_own_transaction(shop: Shop) -> None:
    shop.engine.replica.sync(shop.database)
    with pytest.raises(RuntimeError), shop.database.write() as session:
        lists.create(session, name="fair", title="T", external_ids=["m1"], by="ann", now=NOW)
        raise RuntimeError
    with shop.database.read() as session:
        assert session.scalars(sa.select(WarehouseMark)).all() == []
    shop.create("fair", "m1")
    with shop.database.read() as session:
        marks = session.execute(sa.select(WarehouseMark.table_name, WarehouseMark.month)).all()
    assert [tuple(mark) for mark in marks] == [("lists", "all")]


def test_a_frozen_segment_stays_as_it_was(shop: Shop) -> None:
    with shop.database.write() as session:
        rule = {"field": "city", "op": "=", "value": "x"}
        saved = segments.save(session, name="xs", title="X", rule=rule, by="ann", now=NOW)
    asked = shop.evaluator()
    with shop.database.write() as session:
        assert (
            lists.freeze(session, asked, saved, name="xs-march", title="X in March", by="ann", now=NOW) == 2
        )
    with shop.database.write() as session:
        session.execute(sa.update(Member).values(city="x"))
    assert shop.on("xs-march") == ["m1", "m2"]
    with shop.database.read() as session:
        assert lists.by_name(session, "xs-march").origin == f"segment:xs@{AS_OF}"


def test_names_and_titles_are_checked_and_taken_names_refused(shop: Shop) -> None:
    shop.create("fair", "m1")
    for name, title, error in [
        ("Fair", "T", InvalidInput), ("", "T", InvalidInput), ("a b", "T", InvalidInput),
        ("x", " ", InvalidInput), ("x", "T" * 201, InvalidInput), ("fair", "T", Conflict),
    ]:  # fmt: skip
        with pytest.raises(error), shop.database.write() as session:
            lists.create(session, name=name, title=title, external_ids=[], by="ann", now=NOW)
    with pytest.raises(NotFound, match="no list “nope”"), shop.database.write() as session:
        lists.add(session, "nope", ["m1"], "ann", NOW)


def test_a_list_in_use_is_neither_renamed_nor_archived(shop: Shop) -> None:
    shop.create("fair", "m1")
    rule = {"any": [{"not": {"list": "fair"}}, {"field": "city", "op": "is_set"}]}
    with shop.database.write() as session:
        segments.save(session, name="uses", title="U", rule=rule, by="ann", now=NOW)
    with pytest.raises(Conflict, match="used by the segments uses"), shop.database.write() as session:
        lists.archive(session, "fair", "ann", NOW)
    with pytest.raises(Conflict, match="used by the segments uses"), shop.database.write() as session:
        lists.rename(session, "fair", title="T", new_name="fair-2", by="ann", now=NOW)
    with shop.database.write() as session:
        lists.rename(session, "fair", title="Spring fair", by="ann", now=NOW)
        assert [row.title for row in lists.rows(session)] == ["Spring fair"]
        segments.archive(session, "uses", "ann", NOW)
        lists.rename(session, "fair", title="Spring fair", new_name="fair-2", by="ann", now=NOW)
    assert shop.on("fair-2") == ["m1"]
    with pytest.raises(InvalidInput, match="no list “fair”"), shop.database.write() as session:
        segments.restore(session, "uses", "ann", NOW)


def test_an_archived_list_is_no_part_of_rules_until_it_is_restored(shop: Shop) -> None:
    shop.create("fair", "m1", "m2")
    with shop.database.write() as session:
        lists.archive(session, "fair", "ann", NOW)
        lists.archive(session, "fair", "ann", NOW)
        assert lists.rows(session) == []
        assert [(row.name, row.members, row.archived) for row in lists.rows(session, archived=True)] == [
            ("fair", 2, True)
        ]
    with pytest.raises(InvalidInput, match="no list “fair”"):
        shop.evaluator().count({"list": "fair"})
    with pytest.raises(Conflict, match="archived"), shop.database.write() as session:
        lists.add(session, "fair", ["m3"], "ann", NOW)
    with shop.database.write() as session:
        lists.restore(session, "fair", "ann", NOW)
    assert shop.on("fair") == ["m1", "m2"]


def test_a_rule_naming_an_unknown_list_is_not_saved(shop: Shop) -> None:
    rule: dict[str, Any] = {"all": [{"list": "nope"}]}
    with pytest.raises(InvalidInput, match="no list “nope”"), shop.database.write() as session:
        segments.save(session, name="uses", title="U", rule=rule, by="ann", now=NOW)


def test_who_is_erased_is_on_no_list(shop: Shop) -> None:
    shop.create("fair", "m1", "m2")
    with shop.database.write() as session:
        member = session.scalars(sa.select(Member).where(Member.external_id == "m1")).one()
        assert lists.of_member(session, member.id) == [("fair", "A list")]
        erasure.erase(session, member.id, "ann", NOW)
    assert shop.on("fair") == ["m2"]
    with shop.database.read() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(MemberListEntry)) == 1
        assert lists.of_member(session, member.id) == []


def test_an_upload_of_many_batches_loads_each_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "BATCH", 2)
    monkeypatch.setattr(lists, "MAX_MEMBERS", 6)
    assert shop.create("fair", "m1", "g1", "m2", "g2", "m3") == lists.Added(3, ["g1", "g2"])
    with pytest.raises(InvalidInput, match="at most 6 members"):
        shop.create("more", *(f"g{n}" for n in range(7)))
