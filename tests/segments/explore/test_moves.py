"""Moves between two snapshots: hand-worked matrices, their members, and which snapshots are taken."""

from __future__ import annotations

from datetime import date
from typing import Any

import pyarrow as pa
import pytest

from core.errors import InvalidInput
from segments.explore import moves
from segments.explore.moves import ABSENT, UNSCORED, Cell
from segments.scores import SNAPSHOT, SNAPSHOT_SCHEMA
from tests.segments.conftest import Shop

JANUARY, FEBRUARY = date(2026, 1, 31), date(2026, 2, 28)


def snapshot(shop: Shop, day: date, rows: dict[int, dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(
        [dict.fromkeys(SNAPSHOT_SCHEMA.names) | {"member_id": id_} | row for id_, row in rows.items()],
        SNAPSHOT_SCHEMA,
    )
    shop.engine.replica.write(table, "snapshots", SNAPSHOT, f"{day}.parquet")


@pytest.fixture
def two(shop: Shop) -> Shop:
    """Six members: two stay, two move, one joins, one is erased."""
    stages = {1: "active", 2: "active", 3: "active", 4: "dormant", 6: "churned"}
    later = {1: "active", 2: "dormant", 3: "dormant", 4: "reactivated", 5: "new", 7: "prospect"}
    rfm = {1: "champions", 2: "loyal", 4: "hibernating"}
    snapshot(
        shop, JANUARY, {id_: {"stage": stage, "rfm_segment": rfm.get(id_)} for id_, stage in stages.items()}
    )
    snapshot(
        shop,
        FEBRUARY,
        {
            id_: {"stage": stage, "rfm_segment": "champions" if id_ == 1 else None}
            for id_, stage in later.items()
        },
    )
    return shop


def test_a_matrix_of_stages_counts_everybody_once(two: Shop) -> None:
    found = moves.matrix(two.engine, "stage", JANUARY, FEBRUARY)
    assert found.cells == (
        Cell("active", "dormant", 2),
        Cell(ABSENT, "new", 1),
        Cell(ABSENT, "prospect", 1),
        Cell("active", "active", 1),
        Cell("churned", ABSENT, 1),
        Cell("dormant", "reactivated", 1),
    )
    assert (found.before, found.after, found.members, found.moved, found.stayed) == (
        JANUARY,
        FEBRUARY,
        7,
        3,
        1,
    )
    assert found.sources == ("active", "dormant", "churned", ABSENT)
    assert found.targets == ("prospect", "new", "active", "dormant", "reactivated", ABSENT)
    assert found.names == ("prospect", "new", "active", "dormant", "churned", "reactivated", ABSENT)


def test_a_share_is_of_the_row_and_the_net_change_of_both_dates(two: Shop) -> None:
    found = moves.matrix(two.engine, "stage", JANUARY, FEBRUARY)
    assert found.share("active", "dormant") == pytest.approx(2 / 3)
    assert found.share("dormant", "active") == 0
    assert found.share("new", "active") is None
    assert {name: found.net(name) for name in found.names} == {
        "prospect": 1,
        "new": 1,
        "active": -2,
        "dormant": 1,
        "churned": -1,
        "reactivated": 1,
        ABSENT: -1,
    }


def test_a_member_without_orders_in_the_window_is_unscored_not_absent(two: Shop) -> None:
    found = moves.matrix(two.engine, "rfm_segment", JANUARY, FEBRUARY)
    assert set(found.cells) == {
        Cell("champions", "champions", 1),
        Cell("loyal", UNSCORED, 1),
        Cell("hibernating", UNSCORED, 1),
        Cell(UNSCORED, UNSCORED, 1),
        Cell(UNSCORED, ABSENT, 1),
        Cell(ABSENT, UNSCORED, 2),
    }
    assert found.names == ("hibernating", "loyal", "champions", UNSCORED, ABSENT)


def test_a_cell_gives_its_members_page_by_page(two: Shop) -> None:
    def members(source: str, target: str, rows: int = 10, skip: int = 0) -> list[int]:
        return moves.members(two.engine, "stage", JANUARY, FEBRUARY, source, target, rows=rows, skip=skip)

    assert members("active", "dormant") == [2, 3]
    assert members("active", "dormant", rows=1) == [2]
    assert members("active", "dormant", rows=1, skip=1) == [3]
    assert members(ABSENT, "new") == [5]
    assert members("churned", ABSENT) == [6]
    assert members("x'; DROP TABLE before; --", "dormant") == []


def test_the_nearest_snapshot_is_taken_and_of_two_the_earlier(two: Shop) -> None:
    days = moves.available(two.engine)
    assert days == [JANUARY, FEBRUARY]
    assert moves.nearest(days, date(2025, 1, 1)) == JANUARY
    assert moves.nearest(days, date(2026, 2, 14)) == JANUARY
    assert moves.nearest(days, date(2026, 2, 15)) == FEBRUARY
    assert moves.nearest([date(2026, 1, 1), date(2026, 1, 3)], date(2026, 1, 2)) == date(2026, 1, 1)
    assert moves.nearest([], JANUARY) is None


@pytest.mark.parametrize(
    ("column", "before", "after", "field"),
    [
        ("stage; --", JANUARY, FEBRUARY, "column"),
        ("stage", FEBRUARY, JANUARY, "before"),
        ("stage", JANUARY, JANUARY, "before"),
        ("stage", date(2026, 1, 1), FEBRUARY, "before"),
        ("stage", JANUARY, date(2026, 2, 1), "after"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_its_field(
    two: Shop, column: str, before: date, after: date, field: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        moves.matrix(two.engine, column, before, after)
    assert refused.value.field == field


def test_a_warehouse_without_snapshots_has_no_dates(shop: Shop) -> None:
    assert moves.available(shop.engine) == []
