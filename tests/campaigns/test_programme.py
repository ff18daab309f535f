"""The global control group in a run: who would have been sent to is logged, and the measured slice alike."""

from __future__ import annotations

from datetime import timedelta

from campaigns import campaigns
from campaigns.decide import CONTROL
from campaigns.run import run
from campaigns.undo import undo
from experiments import control
from tests.campaigns.conftest import NOW, Shop

QUARTER = control.quarter_of(NOW)
LOGGED = (
    "SELECT a.arm, m.external_id FROM assignments a JOIN members m ON m.id = a.member_id "
    "JOIN experiments e ON e.id = a.experiment_id WHERE e.name = 'control:2026Q1' ORDER BY m.id"
)


def test_control_and_slice_are_logged_at_the_moment_of_sending_held_out_or_not(shop: Shop) -> None:
    shop.members(400, lambda n: "" if n % 4 == 0 else "email")
    shop.control(0.2)
    shop.campaign()
    run(shop.database, shop.engine, shop.settings, "back", NOW)
    names = [f"m{n}" for n in range(1, 401)]
    in_control, measured = control.groups(names, 0.2, QUARTER)
    expected = [
        (control.CONTROL if left_out else control.MEASURED, name)
        for n, (name, left_out, slice_) in enumerate(zip(names, in_control, measured, strict=True), 1)
        if n % 4 and (left_out or slice_)
    ]
    assert [tuple(row) for row in shop.rows(LOGGED)] == expected
    assert len(expected) > 80
    skipped = shop.rows(f"SELECT count(*) FROM decisions WHERE reason = '{CONTROL}'")[0][0]
    assert skipped == sum(arm == control.CONTROL for arm, _ in expected)
    assert shop.rows("SELECT count(*) FROM decisions d JOIN assignments a ON a.member_id = d.member_id "
                     "JOIN experiments e ON e.id = a.experiment_id "
                     "WHERE e.kind = 'control' AND a.arm = 'measured' AND d.reason = 'holdout'")[0][0] > 0  # fmt: skip


def test_an_undone_run_takes_its_log_back(shop: Shop) -> None:
    shop.members(100)
    shop.control(0.2)
    shop.campaign()
    run(shop.database, shop.engine, shop.settings, "back", NOW)
    assert shop.rows(LOGGED) != []
    with shop.database.write() as session:
        undo(session, campaigns.by_name(session, "back"), "ann", NOW + timedelta(hours=1))
    assert shop.rows(LOGGED) == []
