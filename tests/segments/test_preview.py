"""What other settings would change is what a refresh with them then finds."""

from __future__ import annotations

from segments.preview import preview
from segments.scores import SNAPSHOT, snapshot_path
from segments.settings import Scoring
from tests.segments.conftest import AS_OF, ZONE, Shop


def filled(shop: Shop) -> Shop:
    for member in range(1, 41):
        shop.member(member)
        for number in range(member % 5):
            shop.order(member, 3 + member * 7 + number * 11, 1000 + member * 37)
    return shop


def test_the_settings_in_force_move_nobody(shop: Shop) -> None:
    filled(shop).snapshot()
    found = preview(shop.engine, Scoring(), AS_OF, ZONE)
    assert (found.members, {kind: found.moved(kind) for kind in found.moves}) == (
        40,
        {"stage": 0, "rfm": 0, "value": 0},
    )
    assert sum(before for before, _ in found.counts["stage"].values()) == 40


def test_the_preview_says_what_the_next_refresh_finds(shop: Shop) -> None:
    before = {row["member_id"]: row for row in filled(shop).snapshot()}
    other = Scoring(active_days=45, new_days=20, churned_days=120, window_days=200, high_value_share=0.5)
    path = snapshot_path(shop.engine, SNAPSHOT, AS_OF)
    assert path is not None
    with shop.engine.replica.fs.open(path, "rb") as file:
        untouched = file.read()
    found = preview(shop.engine, other, AS_OF, ZONE)
    with shop.engine.replica.fs.open(path, "rb") as file:
        assert file.read() == untouched, "a preview writes nothing"
    after = {row["member_id"]: row for row in shop.snapshot(other)}
    for kind, column in (("stage", "stage"), ("rfm", "rfm_segment"), ("value", "value_segment")):
        moves = {(move.before, move.after): move.members for move in found.moves[kind]}
        expected: dict[tuple[str | None, str | None], int] = {}
        for member, row in before.items():
            pair = (row[column], after[member][column])
            if pair[0] != pair[1]:
                expected[pair] = expected.get(pair, 0) + 1
        assert moves == expected
        assert found.moved(kind) == sum(expected.values()) > 0
        for name, (_, then) in found.counts[kind].items():
            assert then == sum(row[column] == name for row in after.values())
