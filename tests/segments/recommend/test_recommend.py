"""Recommendations: what goes with what, what is never named, and that they beat popularity."""

from __future__ import annotations

import json
import random
from datetime import timedelta
from math import sqrt
from typing import Any

import pyarrow.parquet as pq
import pytest

from segments.recommend.judge import judge
from segments.recommend.model import NEAREST, POPULAR, Recommending, fit, newest
from segments.recommend.rank import recommend
from tests.segments.conftest import AS_OF, ZONE, Shop, ago

HOW = Recommending(support=2)


class Store(Shop):
    """A shop with products, where a basket is one line of code."""

    def product(self, sku: str, category: str = "things", **columns: Any) -> None:
        row = {"product_id": len(self.rows["products"]) + 1, "source": "shop", "sku": sku, "name": sku.title(),
               "category": category, "price_minor": 1000}  # fmt: skip
        self.rows["products"].append(row | columns)

    def bought(self, member_id: int, days: float, *skus: str, **columns: Any) -> None:
        order = self.order(member_id, days)
        for sku in skus:
            self.line(order, sku=sku, **columns)

    def looked(self, member_id: int, days: float, sku: str) -> None:
        self.rows["events"].append(
            {"event_id": len(self.rows["events"]) + 1, "member_id": member_id, "kind": "view", "occurred_at": ago(days),
             "properties": json.dumps({"sku": sku})}
        )  # fmt: skip

    def changed(self, sku: str, days: float, **columns: Any) -> None:
        row = {"source": "shop", "sku": sku, "changed_at": ago(days), "old_price_minor": 1000, "new_price_minor": 1000,
               "old_stock": 5, "new_stock": 5}  # fmt: skip
        self.rows["product_changes"].append(row | columns)

    def for_member(self, member_id: int, n: int = 10, how: Recommending = HOW) -> list[tuple[str, str]]:
        self.write()
        fit(self.engine, AS_OF, ZONE, how)
        found = recommend(self.engine, [member_id], AS_OF, ZONE, n=n, how=how)[member_id]
        return [(product.sku, product.reason) for product in found]


@pytest.fixture
def store(shop: Shop) -> Store:
    shop.__class__ = Store
    assert isinstance(shop, Store)
    for sku, category in (
        ("tea", "drinks"),
        ("cup", "china"),
        ("rice", "food"),
        ("soap", "bath"),
        ("milk", "drinks"),
    ):
        shop.product(sku, category)
    return shop


def rows(store: Store, kind: str) -> list[dict[str, Any]]:
    path = newest(store.engine, kind, AS_OF)
    assert path is not None
    found: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return found


def test_similarity_and_lift_are_as_defined(store: Store) -> None:
    # tea: members 1-4; cup: 1-3; rice: 4, 5; so tea and cup meet in three of five buyers.
    for member in (1, 2, 3):
        store.bought(member, 60, "tea", "cup")
    store.bought(4, 60, "tea", "rice")
    store.bought(5, 60, "rice")
    store.bought(5, 61, "cup", status="cancelled")
    store.write()
    found = fit(store.engine, AS_OF, ZONE, HOW)
    assert (found.pairs, found.products, found.popular) == (2, 2, 3)
    nearest = {(row["sku"], row["other"]): row for row in rows(store, NEAREST)}
    assert nearest.keys() == {("tea", "cup"), ("cup", "tea")}, (
        "tea and rice met once, which is less than twice"
    )
    assert nearest["tea", "cup"]["together"] == 3
    assert nearest["tea", "cup"]["similarity"] == pytest.approx(3 / sqrt(4 * 3))
    assert nearest["cup", "tea"]["lift"] == pytest.approx((3 / 5) / ((4 / 5) * (3 / 5)))
    assert {row["sku"]: row["buyers"] for row in rows(store, POPULAR)} == {"tea": 4, "cup": 3, "rice": 2}


def test_what_goes_with_what_was_bought_comes_before_what_is_popular(store: Store) -> None:
    for member in (1, 2, 3):
        store.bought(member, 60, "tea", "cup")
    for member in range(10, 30):
        store.bought(member, 60, "soap")
    store.bought(9, 60, "tea")
    assert store.for_member(9)[:2] == [("cup", "goes_with"), ("tea", "popular_category")]
    assert ("soap", "popular") in store.for_member(9)


def test_somebody_of_whom_nothing_is_known_gets_what_is_popular(store: Store) -> None:
    for member in range(10, 15):
        store.bought(member, 60, "soap")
    store.bought(1, 60, "tea")
    assert store.for_member(99) == [("soap", "popular"), ("tea", "popular")]


def test_what_was_just_bought_or_is_out_of_stock_is_never_named(store: Store) -> None:
    store.product("gone", "food", stock=0)
    for member in range(10, 20):
        store.bought(member, 60, "soap", "gone", "rice")
    store.bought(1, 3, "soap")
    store.bought(1, 45, "soap")
    assert [sku for sku, _ in store.for_member(1)] == ["rice"]


def test_a_habit_is_recommended_again_once_it_is_due(store: Store) -> None:
    for days in (100, 70, 40):
        store.bought(1, days, "milk")
    store.bought(1, 50, "soap")
    assert store.for_member(1)[0] == ("milk", "buy_again")


def test_back_in_stock_and_cheaper_come_first_and_only_for_who_looked(store: Store) -> None:
    for member in range(10, 20):
        store.bought(member, 60, "soap", "milk")
    store.bought(1, 60, "soap")
    store.looked(1, 20, "tea")
    store.looked(1, 20, "cup")
    store.looked(2, 2, "tea")
    store.changed("tea", 10, new_price_minor=800)
    store.changed("cup", 10, old_stock=0)
    store.changed("rice", 10, new_price_minor=100)
    assert store.for_member(1)[:3] == [("cup", "back_in_stock"), ("tea", "price_drop"), ("milk", "goes_with")]
    assert "tea" not in dict(store.for_member(2)), "it was cheaper already when they looked"


def test_at_most_two_of_a_category(store: Store) -> None:
    for number in range(6):
        store.product(f"mug{number}", "mugs")
        for member in range(10, 30 - number):
            store.bought(member, 60, f"mug{number}")
    store.bought(10, 60, "soap")
    assert [sku for sku, _ in store.for_member(99)] == ["mug0", "mug1", "soap"]


def test_many_members_are_asked_about_at_once_and_the_order_of_rows_does_not_matter(store: Store) -> None:
    chance = random.Random(7)
    skus = [f"p{number}" for number in range(30)]
    for sku in skus:
        store.product(sku, f"c{int(sku[1:]) % 5}")
    for _ in range(300):
        store.bought(chance.randrange(1, 40), chance.uniform(1, 200), *chance.sample(skus, 3))
    store.write()
    fit(store.engine, AS_OF, ZONE, HOW)
    together = recommend(store.engine, range(1, 60), AS_OF, ZONE, how=HOW)
    assert set(together) == set(range(1, 60))
    for member in (1, 17, 39, 50):
        assert recommend(store.engine, [member], AS_OF, ZONE, how=HOW)[member] == together[member]
    for name in ("order_lines", "products", "orders"):
        chance.shuffle(store.rows[name])
    store.write()
    fit(store.engine, AS_OF, ZONE, HOW)
    assert recommend(store.engine, range(1, 60), AS_OF, ZONE, how=HOW) == together


def test_before_the_first_fit_there_is_nothing_to_recommend(store: Store) -> None:
    store.bought(1, 60, "tea")
    store.write()
    assert recommend(store.engine, [1], AS_OF, ZONE) == {1: []}


def test_tastes_that_are_there_beat_popularity_in_the_hold_out(store: Store) -> None:
    # Two tastes of 40 products each; everybody buys at random within one's own, and a few things that all buy.
    chance = random.Random(3)
    for taste in "ab":
        for number in range(40):
            store.product(f"{taste}{number}", f"{taste}{number % 20}")
    for member in range(1, 81):
        own = [f"{'ab'[member % 2]}{number}" for number in range(40)]
        for _ in range(12):
            store.bought(member, chance.uniform(29, 300), *chance.sample(own, 2))
        store.bought(member, chance.uniform(1, 27), *chance.sample(own, 3))
    store.write()
    found = judge(store.engine, AS_OF, ZONE, days=28)
    assert found.members > 70
    assert found.hit_rate > 1.3 * found.baseline > 0
    assert newest(store.engine, NEAREST, AS_OF - timedelta(days=28)) is not None
