"""Saved segments: versions, circles, what may be archived."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from core.db import Database
from core.errors import Conflict, InvalidInput, NotFound
from core.models import AuditEntry
from segments import segments
from segments.compile import MAX_SEGMENT_DEPTH
from segments.evaluate import lookup
from segments.models import Segment
from tests.conftest import count

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
RULE: dict[str, Any] = {"field": "city", "op": "=", "value": "北京"}
OTHER: dict[str, Any] = {"field": "city", "op": "is_set"}


def save(
    database: Database, name: str, rule: Any = RULE, by: str = "ann", now: datetime = NOW, title: str = "T"
) -> int:
    """The version that the segment then has."""
    with database.write() as session:
        return segments.save(session, name=name, title=title, rule=rule, by=by, now=now).version


def versions(database: Database, name: str) -> list[tuple[int, str, Any]]:
    with database.read() as session:
        found = segments.versions(session, segments.by_name(session, name))
        return [(one.version, one.changed_by, one.rule) for one in found]


def use(*names: str) -> dict[str, Any]:
    return {"any": [{"segment": name} for name in names]}


def test_a_changed_rule_is_a_new_version_and_the_old_one_stays(db: Database) -> None:
    assert save(db, "vip") == 1
    assert save(db, "vip", OTHER, "bob", LATER) == 2
    assert versions(db, "vip") == [(2, "bob", OTHER), (1, "ann", RULE)]
    with db.read() as session:
        segment = segments.by_name(session, "vip")
        actors = session.scalars(sa.select(AuditEntry.actor).order_by(AuditEntry.id)).all()
    assert (segment.rule, segment.created_by, segment.created_at, segment.updated_at) == (
        OTHER,
        "ann",
        NOW,
        LATER,
    )
    assert actors == ["ann", "bob"]


def test_saving_the_same_again_changes_nothing(db: Database) -> None:
    save(db, "vip")
    assert save(db, "vip", by="bob", now=LATER) == 1
    assert versions(db, "vip") == [(1, "ann", RULE)]
    assert count(db, "audit_entries") == 1


def test_a_new_title_is_no_new_version(db: Database) -> None:
    save(db, "vip")
    assert save(db, "vip", by="bob", now=LATER, title="Very important") == 1
    assert versions(db, "vip") == [(1, "ann", RULE)], "who wrote the rule stays who wrote it"
    with db.read() as session:
        assert segments.by_name(session, "vip").title == "Very important"


@pytest.mark.parametrize("name", ["", "Vip", "v p", "-vip", "x" * 81, "vip\n", "券"])
def test_a_name_is_a_slug(db: Database, name: str) -> None:
    with pytest.raises(InvalidInput, match="lower-case letters") as refused:
        save(db, name)
    assert refused.value.field == "name"
    assert count(db, "segments") == 0


def test_a_title_and_a_rule_are_needed(db: Database) -> None:
    with pytest.raises(InvalidInput, match="title is missing"):
        save(db, "vip", title=" ")
    with pytest.raises(InvalidInput, match="no field") as refused:
        save(db, "vip", {"all": [RULE, {"field": "shoe", "op": "="}]})
    assert refused.value.field == "all[1].field"
    assert count(db, "segments") == 0


def test_segments_refer_to_segments_that_are_there(db: Database) -> None:
    with pytest.raises(InvalidInput, match="there is no segment “vip”"):
        save(db, "other", use("vip"))
    save(db, "vip")
    assert save(db, "other", use("vip")) == 1


def test_circles_are_refused_whoever_closes_them(db: Database) -> None:
    with pytest.raises(InvalidInput, match=r"circle: a → a"):
        save(db, "a", use("a"))
    save(db, "a")
    with pytest.raises(InvalidInput, match="in a circle"):
        save(db, "a", use("a"))
    save(db, "b", use("a"))
    save(db, "c", {"not": use("b")})
    with pytest.raises(InvalidInput, match="in a circle"):
        save(db, "a", {"all": [RULE, {"segment": "c"}]})
    assert versions(db, "a") == [(1, "ann", RULE)]


def test_a_change_that_breaks_a_segment_above_is_refused(db: Database) -> None:
    """Otherwise the next refresh would fail at a segment that nobody touched."""
    save(db, "s0")
    for number in range(1, MAX_SEGMENT_DEPTH):
        save(db, f"s{number}", use(f"s{number - 1}"))
    save(db, f"s{MAX_SEGMENT_DEPTH}", use(f"s{MAX_SEGMENT_DEPTH - 1}"))
    save(db, "deeper")
    with pytest.raises(InvalidInput, match=f"“s{MAX_SEGMENT_DEPTH}” uses this one and could not run"):
        save(db, "s0", use("deeper"))
    assert versions(db, "s0") == [(1, "ann", RULE)]


def test_archiving_is_refused_while_another_segment_uses_it(db: Database) -> None:
    save(db, "vip")
    save(db, "other", {"not": {"segment": "vip"}})
    with pytest.raises(Conflict, match="used by the segments other"), db.write() as session:
        segments.archive(session, "vip", "ann", NOW)
    with db.write() as session:
        segments.archive(session, "other", "ann", NOW)
        segments.archive(session, "vip", "ann", NOW)
    with db.read() as session:
        assert segments.live(session) == []
        assert lookup(session)("vip") is None, "no rule refers to an archived segment"


def test_an_archived_segment_keeps_its_name_until_it_is_restored(db: Database) -> None:
    save(db, "vip")
    with db.write() as session:
        segments.archive(session, "vip", "ann", NOW)
        segments.archive(session, "vip", "bob", LATER)
        assert segments.by_name(session, "vip").archived_at == NOW, "archived once"
    with pytest.raises(Conflict, match="is archived"):
        save(db, "vip", OTHER)
    with db.write() as session:
        segments.restore(session, "vip", "ann", LATER)
    assert save(db, "vip", OTHER) == 2


def test_a_segment_whose_parts_are_gone_cannot_be_restored(db: Database) -> None:
    save(db, "vip")
    save(db, "other", use("vip"))
    with db.write() as session:
        for name in ("other", "vip"):
            segments.archive(session, name, "ann", NOW)
    with pytest.raises(InvalidInput, match="there is no segment “vip”"), db.write() as session:
        segments.restore(session, "other", "ann", LATER)
    with db.read() as session:
        assert session.scalars(sa.select(Segment.name).where(Segment.archived_at.is_(None))).all() == []


def test_a_segment_that_does_not_exist(db: Database) -> None:
    with db.read() as session, pytest.raises(NotFound, match="no segment “nobody”"):
        segments.by_name(session, "nobody")
