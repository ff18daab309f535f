"""Paths: hand-worked steps after and before an event, repeats, ends, and the rarer kinds together."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from core.errors import InvalidInput
from segments.explore.paths import OTHER, Link, Paths, Question, paths
from tests.segments.conftest import MIDNIGHT, Shop, ago

ASKED = Question("view", ("view", "cart", "search", "order"), ago(30), ago(10), timedelta(days=3))


def walk(shop: Shop, question: Question = ASKED) -> Paths:
    shop.write()
    return paths(shop.engine, question, MIDNIGHT)


def trail(shop: Shop, member: int, *steps: str, start: float = 20) -> None:
    """Events an hour apart."""
    for index, kind in enumerate(steps):
        shop.event(member, kind, start - index / 24)


def test_steps_are_counted_from_level_to_level_until_the_path_ends(shop: Shop) -> None:
    trail(shop, 1, "view", "cart", "search")
    trail(shop, 2, "view", "cart")
    trail(shop, 3, "view")
    found = walk(shop)
    assert (found.members, found.still_open) == (3, 0)
    assert found.links == (
        Link(0, "view", "cart", 2),
        Link(0, "view", None, 1),
        Link(1, "cart", "search", 1),
        Link(1, "cart", None, 1),
        Link(2, "search", None, 1),
    )


def test_repeats_in_a_row_are_one_step(shop: Shop) -> None:
    trail(shop, 1, "view", "view", "cart", "cart", "view")
    assert walk(shop).links == (
        Link(0, "view", "cart", 1),
        Link(1, "cart", "view", 1),
        Link(2, "view", None, 1),
    )


def test_a_path_is_followed_for_four_steps(shop: Shop) -> None:
    trail(shop, 1, "view", "cart", "search", "cart", "search", "cart")
    trail(shop, 2, "view", "cart", "search", "cart", "search")
    assert walk(shop).links == (
        Link(0, "view", "cart", 2),
        Link(1, "cart", "search", 2),
        Link(2, "search", "cart", 2),
        Link(3, "cart", "search", 2),
    )


def test_only_what_lies_within_the_window_counts(shop: Shop) -> None:
    shop.event(1, "view", 20)
    shop.event(1, "cart", 17)
    shop.event(1, "search", 16.99)
    assert walk(shop).links == (Link(0, "view", "cart", 1), Link(1, "cart", None, 1))


def test_a_path_begins_at_the_first_start_in_the_period(shop: Shop) -> None:
    trail(shop, 1, "view", "search", start=31)  # before the period
    trail(shop, 1, "view", "cart", start=25)
    trail(shop, 1, "view", "search", start=15)
    trail(shop, 2, "view", "search", start=10)  # the end is exclusive
    found = walk(shop)
    assert found.members == 1
    assert found.links == (Link(0, "view", "cart", 1), Link(1, "cart", None, 1))


def test_before_walks_back_in_time(shop: Shop) -> None:
    trail(shop, 1, "search", "cart", "order", "view")
    trail(shop, 2, "cart", "order")
    shop.event(3, "order", 20)  # no order at all: the product's own kind comes from its table
    for member, hours in ((1, 2.5), (2, 1.5)):
        shop.order(member, 20 - hours / 24)
    found = walk(shop, replace(ASKED, event="order", direction="before"))
    assert found.members == 2
    assert found.links == (
        Link(0, "order", "cart", 2),
        Link(1, "cart", "search", 1),
        Link(1, "cart", None, 1),
        Link(2, "search", None, 1),
    )


def test_kinds_that_are_not_asked_for_are_walked_past(shop: Shop) -> None:
    trail(shop, 1, "view", "cart", "search", "cart")
    found = walk(shop, replace(ASKED, kinds=("cart",)))
    assert found.links == (Link(0, "view", "cart", 1), Link(1, "cart", None, 1))


def test_the_rarer_kinds_of_a_level_stand_together(shop: Shop) -> None:
    kinds = tuple(f"k{number}" for number in range(10))
    for index, kind in enumerate(kinds):
        for copy in range(2 if index < 7 else 1):
            trail(shop, index * 2 + copy + 1, "view", kind)
    found = walk(shop, replace(ASKED, kinds=kinds))
    first = {link.target: link.members for link in found.links if link.level == 0}
    assert first == {**{f"k{number}": 2 for number in range(7)}, "k7": 1, OTHER: 2}
    assert Link(1, OTHER, None, 2) in found.links


def test_who_may_yet_do_more_is_counted_but_not_backwards(shop: Shop) -> None:
    shop.event(1, "view", 2)
    shop.event(2, "view", 4)
    question = replace(ASKED, end=MIDNIGHT)
    assert walk(shop, question).still_open == 1
    assert walk(shop, replace(question, direction="before")).still_open == 0


def test_events_at_one_instant_are_walked_in_the_order_of_their_names(shop: Shop) -> None:
    shop.event(1, "view", 20)
    shop.event(1, "search", 19)
    shop.event(1, "cart", 19)
    assert [(link.source, link.target) for link in walk(shop).links] == [
        ("view", "cart"),
        ("cart", "search"),
        ("search", None),
    ]


def test_no_start_means_no_path(shop: Shop) -> None:
    shop.event(1, "cart", 20)
    found = walk(shop)
    assert (found.members, found.links) == (0, ())


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"event": ""}, "event"),
        ({"kinds": ()}, "kinds"),
        ({"kinds": tuple(map(str, range(61)))}, "kinds"),
        ({"kinds": ("",)}, "kinds"),
        ({"start": ASKED.end}, "end"),
        ({"window": timedelta(days=-1)}, "window"),
        ({"direction": "sideways"}, "direction"),
    ],
)
def test_paths_that_make_no_sense_are_refused_by_their_field(changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        replace(ASKED, **changes).validated()  # type: ignore[arg-type]
    assert refused.value.field == field
