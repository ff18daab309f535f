"""The global control group: shares, rotation by quarter, the log, the programme's read-out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from core.db import Database
from core.errors import InvalidInput, NotFound
from experiments import control
from experiments.models import Assignment
from tests.experiments.test_readout import START, warehouse

IDS = [f"m{n}" for n in range(20_000)]


def test_quarters_are_named_and_numbered() -> None:
    ends = [(2025, 12, "control:2025Q4"), (2026, 1, "control:2026Q1"), (2026, 3, "control:2026Q1"),
            (2026, 4, "control:2026Q2"), (2026, 12, "control:2026Q4")]  # fmt: skip
    found = [control.quarter_of(datetime(year, month, 1, tzinfo=UTC)) for year, month, _ in ends]
    assert [control.name_of(quarter) for quarter in found] == [name for *_, name in ends]
    assert [quarter - found[0] for quarter in found] == [0, 1, 1, 2, 4]


@pytest.mark.parametrize("share", [0.05, 0.1, 0.03, 0.25])
def test_next_quarter_others_are_in_control_and_slice(share: float) -> None:
    earlier = [control.groups(IDS, share, 8104 + turn) for turn in range(2)]
    for left_out, measured in earlier:
        assert left_out.mean() == pytest.approx(share, abs=0.01)
        assert measured.mean() == pytest.approx(share, abs=0.01)
        assert not (left_out & measured).any()
    (first_control, first_slice), (next_control, next_slice) = earlier
    assert not ((first_control | first_slice) & (next_control | next_slice)).any()


def test_at_five_per_cent_everybody_is_in_control_once_in_ten_quarters() -> None:
    turns = [control.groups(IDS, 0.05, 8100 + turn) for turn in range(10)]
    served = sum(left_out.astype(int) + measured.astype(int) for left_out, measured in turns)
    assert (served == 1).all()


def test_shares_of_nothing_and_of_everybody() -> None:
    none, nobody = control.groups(IDS, 0.0, 8104)
    everybody, rest = control.groups(IDS, 1.0, 8104)
    assert (none.sum(), nobody.sum(), everybody.sum(), rest.sum()) == (0, 0, len(IDS), 0)
    most, left = control.groups(IDS, 0.8, 8104)
    assert (most | left).all()
    assert not (most & left).any()
    with pytest.raises(InvalidInput):
        control.groups(IDS, 1.1, 8104)


def test_the_programme_is_read_out_of_control_against_the_slice(db: Database, home: Path) -> None:
    quarter, day = control.quarter_of(START), timedelta(days=1)
    orders = [(n, START + day, "paid", 1000 if n > 150 else 400, 0) for n in range(1, 301)]
    orders += [(n, START - day, "paid", 9000, 0) for n in range(1, 301)]  # before the moment: does not count
    engine = warehouse(db, home, orders)
    with db.write() as session:
        with pytest.raises(NotFound, match="2026Q1"):
            control.read_programme(session, engine, quarter, window_days=30, as_of=START + 60 * day)
        assert control.log(session, quarter, range(1, 151), range(151, 301), START, 0.05) == 300
        assert control.log(session, quarter, [1], [2, 299], START + day, 0.05) == 0
        assert control.log(session, quarter, [], [], START, 0.05) == 0
        assert session.scalar(sa.select(sa.func.max(Assignment.at))) == START
        found = control.read_programme(
            session, engine, quarter, window_days=30, as_of=START + 60 * day, currency="CNY"
        )
    assert found.arms == {"control": 150, "measured": 150}
    assert found.srm is not None
    assert found.srm.ok
    result = found.result("converted")
    assert (result.mean_control, result.mean) == (1.0, 1.0)
    result = found.result("revenue")
    assert (result.arm, result.mean_control, result.mean) == ("measured", 400.0, 1000.0)
