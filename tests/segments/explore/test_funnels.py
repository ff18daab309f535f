"""Funnels: hand-worked counts, times, windows, breakdowns, and who dropped out."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from core.errors import InvalidInput
from segments.explore.funnels import Funnel, Group, Question, funnel, members
from segments.explore.stream import span
from segments.scores import SNAPSHOT, snapshot_path
from tests.segments.conftest import AS_OF, MIDNIGHT, Shop, ago

ASKED = Question(("view", "cart", "order"), ago(30), ago(10), timedelta(days=3))


def count(shop: Shop, question: Question = ASKED) -> Funnel:
    shop.write()
    return funnel(shop.engine, question, MIDNIGHT)


def counts(shop: Shop, question: Question = ASKED) -> list[int]:
    return [step.members for step in count(shop, question).steps]


def test_each_step_counts_who_got_there_and_how_long_it_took(shop: Shop) -> None:
    for member, (cart, order) in {1: (19.5, 19), 2: (19, 18), 3: (18, None), 4: (None, None)}.items():
        shop.event(member, "view", 20)
        if cart is not None:
            shop.event(member, "cart", cart)
        if order is not None:
            shop.order(member, order)
    found = count(shop)
    assert [
        (step.kind, step.members, step.from_before, step.from_first, step.median) for step in found.steps
    ] == [
        ("view", 4, None, 1.0, None),
        ("cart", 3, 0.75, 0.75, timedelta(days=1)),
        ("order", 2, 2 / 3, 0.5, timedelta(hours=18)),
    ]
    assert (found.entered, found.whole, found.still_open, found.groups) == (4, timedelta(days=1.5), 0, ())


def test_a_step_is_strictly_after_the_one_before(shop: Shop) -> None:
    shop.event(1, "view", 20)
    shop.event(1, "cart", 20)  # at the same instant
    shop.event(2, "cart", 20)
    shop.event(2, "view", 19)  # the wrong way round
    assert counts(shop) == [2, 0, 0]


def test_an_order_before_the_cart_is_not_the_third_step(shop: Shop) -> None:
    shop.event(1, "view", 20)
    shop.order(1, 19.5)
    shop.event(1, "cart", 19)
    assert counts(shop) == [1, 1, 0]


def test_the_window_runs_from_the_first_step_and_includes_its_end(shop: Shop) -> None:
    for member, order in ((1, 17.0), (2, 16.99)):
        shop.event(member, "view", 20)
        shop.event(member, "cart", 19)
        shop.order(member, order)
    assert counts(shop) == [2, 2, 1]


def test_the_first_step_lies_in_the_period_and_later_ones_may_lie_after_it(shop: Shop) -> None:
    for member, view in ((1, 30.001), (2, 30), (3, 10.001), (4, 10)):
        shop.event(member, "view", view)
        shop.event(member, "cart", view - 1)
    assert counts(shop) == [2, 2, 0]


def test_the_attempt_that_gets_furthest_counts_and_a_member_counts_once(shop: Shop) -> None:
    shop.event(1, "view", 29)
    shop.event(1, "cart", 28)  # the first attempt gets to the second step
    shop.event(1, "view", 20)
    shop.event(1, "view", 19.5)
    shop.event(1, "cart", 19)
    shop.order(1, 18)  # both later ones to the third: the earlier of them gives the times
    found = count(shop)
    assert [step.members for step in found.steps] == [1, 1, 1]
    assert [step.median for step in found.steps] == [None, timedelta(days=1), timedelta(days=1)]


def test_one_kind_may_be_several_steps(shop: Shop) -> None:
    for member, orders in ((1, (20, 19, 18)), (2, (20, 19)), (3, (20,))):
        for days in orders:
            shop.order(member, days)
    assert counts(shop, replace(ASKED, steps=("order",) * 3)) == [3, 2, 1]


def test_six_steps_are_followed(shop: Shop) -> None:
    for member in (1, 2):
        for index, kind in enumerate("abcdef"[: 7 - member]):
            shop.event(member, kind, 20 - index / 10)
    assert counts(shop, replace(ASKED, steps=tuple("abcdef"))) == [2, 2, 2, 2, 2, 1]


def test_messages_and_redemptions_are_steps_too_and_what_was_undone_is_not(shop: Shop) -> None:
    touch = {"channel": "email", "created_at": ago(20)}
    shop.add("touches", member_id=1, sent_at=ago(20), opened_at=ago(19), clicked_at=ago(18), **touch)
    shop.add("touches", member_id=2, sent_at=ago(20), opened_at=ago(19), **touch)
    shop.add("redemptions", member_id=1, redeemed_at=ago(17.5))
    shop.add("redemptions", member_id=None, redeemed_at=ago(17.5))
    steps = ("message_sent", "message_opened", "message_clicked", "coupon_redeemed")
    assert counts(shop, replace(ASKED, steps=steps)) == [2, 2, 1, 1]
    shop.rows["redemptions"][0]["rolled_back_at"] = ago(1)
    assert counts(shop, replace(ASKED, steps=steps)) == [2, 2, 1, 0]


def test_a_cancelled_order_is_no_step_and_an_event_called_order_is_not_an_order(shop: Shop) -> None:
    shop.event(1, "view", 20)
    shop.order(1, 19, status="cancelled", net_minor=0)
    shop.event(1, "order", 19)
    assert counts(shop, replace(ASKED, steps=("view", "order"))) == [1, 0]


def test_who_may_yet_convert_is_counted(shop: Shop) -> None:
    question = replace(ASKED, steps=("view", "order"), end=MIDNIGHT)
    shop.event(1, "view", 2)  # three days are not over
    shop.event(2, "view", 2)
    shop.order(2, 1)  # has converted
    shop.event(3, "view", 4)
    shop.event(4, "view", 9)
    shop.event(4, "view", 1)  # tries again
    assert count(shop, question).still_open == 2


def test_what_happens_on_or_after_the_date_is_not_seen(shop: Shop) -> None:
    shop.event(1, "view", 1)
    shop.order(1, 0)
    shop.event(2, "view", 0)
    assert counts(shop, replace(ASKED, steps=("view", "order"), end=ago(-5))) == [1, 0]


def test_a_breakdown_shows_the_commonest_eight_values_then_the_others_then_those_without(shop: Shop) -> None:
    cities = ["a"] * 3 + ["b"] * 2 + list("cdefghij") + [None]
    for member, city in enumerate(cities, 1):
        shop.member(member, city=city)
        shop.event(member, "view", 20)
        if member % 2:
            shop.event(member, "cart", 19)
    found = count(shop, replace(ASKED, by="city"))
    assert found.groups == (
        Group("a", False, (3, 2, 0)),
        Group("b", False, (2, 1, 0)),
        Group("c", False, (1, 0, 0)),
        Group("d", False, (1, 1, 0)),
        Group("e", False, (1, 0, 0)),
        Group("f", False, (1, 1, 0)),
        Group("g", False, (1, 0, 0)),
        Group("h", False, (1, 1, 0)),
        Group(None, True, (2, 1, 0)),
        Group(None, False, (1, 0, 0)),
    )
    assert sum(group.members[0] for group in found.groups) == found.entered == 14


def test_a_breakdown_by_stage_takes_the_snapshot_and_by_channel_the_first_order(shop: Shop) -> None:
    shop.member(1)
    shop.member(2)
    shop.order(1, 20, channel="web")
    shop.order(1, 5, channel="app")
    shop.order(2, 300, channel="app")
    shop.event(1, "view", 25)
    shop.event(2, "view", 25)
    question = replace(ASKED, steps=("view", "order"), window=timedelta(days=6))
    shop.snapshot()
    path = snapshot_path(shop.engine, SNAPSHOT, AS_OF)
    by_stage = funnel(shop.engine, replace(question, by="stage"), MIDNIGHT, path)
    assert by_stage.groups == (Group("active", False, (1, 1)), Group("dormant", False, (1, 0)))
    by_channel = funnel(shop.engine, replace(question, by="first_channel"), MIDNIGHT)
    assert by_channel.groups == (Group("app", False, (1, 0)), Group("web", False, (1, 1)))
    without = funnel(shop.engine, replace(question, by="stage"), MIDNIGHT)
    assert without.groups == (Group(None, False, (2, 1)),)


def test_who_dropped_out_is_listed_page_by_page(shop: Shop) -> None:
    for member in range(1, 6):
        shop.event(member, "view", 20)
        if member > 3:
            shop.event(member, "cart", 19)
    shop.order(5, 18)
    shop.write()

    def ids(step: int, dropped: bool, rows: int = 10, skip: int = 0) -> list[int]:
        return members(shop.engine, ASKED, MIDNIGHT, step, dropped=dropped, rows=rows, skip=skip)

    assert ids(0, True) == [1, 2, 3]
    assert ids(0, True, rows=2, skip=1) == [2, 3]
    assert ids(1, True) == [4]
    assert ids(1, False) == [4, 5]
    assert ids(2, True) == [5]
    with pytest.raises(InvalidInput, match="0 to 2"):
        ids(3, True)


def test_a_funnel_over_nothing_counts_nobody(shop: Shop) -> None:
    found = count(shop)
    assert [(step.members, step.from_before, step.from_first) for step in found.steps] == [
        (0, None, None),
        (0, None, None),
        (0, None, None),
    ]
    assert found.whole is None


def test_a_hostile_kind_is_a_value_that_matches_nothing(shop: Shop) -> None:
    shop.event(1, "view", 20)
    assert counts(shop, replace(ASKED, steps=("view", "x' OR 1=1 --"))) == [1, 0]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"steps": ("view",)}, "steps"),
        ({"steps": ("view",) * 7}, "steps"),
        ({"steps": ("view", "")}, "steps[1]"),
        ({"steps": ("view", "\x00")}, "steps[1]"),
        ({"steps": ("view", "x" * 81)}, "steps[1]"),
        ({"end": ASKED.start}, "end"),
        ({"start": ago(2000)}, "start"),
        ({"window": timedelta(0)}, "window"),
        ({"window": timedelta(days=366)}, "window"),
        ({"by": "email"}, "by"),
    ],
)
def test_a_funnel_that_makes_no_sense_is_refused_by_its_field(changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        replace(ASKED, **changes).validated()  # type: ignore[arg-type]
    assert refused.value.field == field


def test_spans_are_hours_and_days() -> None:
    assert (span("36h"), span("7d")) == (timedelta(hours=36), timedelta(days=7))
    for text in ("", "7", "0d", "d", "1w", "366d", "-1d", "1.5d", "７d"):
        with pytest.raises(InvalidInput):
            span(text)
