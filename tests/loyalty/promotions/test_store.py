"""Stored promotions: versions, archive, their use by command line and API, and stock under a race."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from apiflask import APIFlask
from click.testing import CliRunner
from sqlalchemy.orm import Session

from core import settings as core_settings
from core.db import Database
from core.errors import Conflict, InvalidInput, NotFound
from core.models import AuditEntry
from core.settings import Settings
from loyalty.models import PromotionRow, PromotionTake
from loyalty.promotions import store
from tests.conftest import count
from tests.loyalty.data import NOW, scalar, together
from tests.loyalty.promotions.cases import Json, basket, off, percent
from web.api import keys
from web.api.views import create_blueprint
from web.cli import main


def add(
    database: Database, name: str = "sale", title: str = "Sale", by: str = "ann", **definition: Any
) -> int:
    with database.write() as session:
        content = {"benefit": off(100), **definition}
        return store.save(session, name=name, title=title, definition=content, by=by, now=NOW).id


def test_a_save_that_changes_something_is_a_new_version(db: Database) -> None:
    first = add(db, conditions=[{"type": "first_order"}])
    assert add(db, conditions=[{"type": "first_order"}]) == first
    later = NOW + timedelta(hours=1)
    with db.write() as session:
        store.save(
            session, name="sale", title="Sale", definition={"benefit": percent(12.5)}, by="bob", now=later
        )
    with db.write() as session:
        definition = {"benefit": percent("12.5"), "priority": 0}
        store.save(session, name="sale", title="Sale!", definition=definition, by="cy", now=later)
    with db.read() as session:
        row = store.by_name(session, "sale")
        assert (row.version, row.title, row.benefit, row.conditions) == (3, "Sale!", percent("12.5"), [])
        assert (row.created_by, row.created_at, row.updated_at) == ("ann", NOW, later)
        found = [(v.version, v.changed_by, v.changed_at, v.definition) for v in store.versions(session, row)]
        assert found == [
            (3, "cy", later, {"title": "Sale!", "benefit": percent("12.5"), "priority": 0}),
            (2, "bob", later, {"title": "Sale", "benefit": percent("12.5")}),
            (1, "ann", NOW, {"title": "Sale", "benefit": off(100), "conditions": [{"type": "first_order"}]}),
        ]
        assert (
            len(session.scalars(sa.select(AuditEntry).where(AuditEntry.object_type == "promotion")).all())
            == 3
        )


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "Sale 1"}, "name"),
        ({"title": " "}, "title"),
        ({"benefit": off(-1)}, "benefit.amount"),
        ({"benefit": off(1.0)}, "benefit.amount"),
        ({"conditions": [{"type": "moon"}]}, "conditions[0].type"),
        ({"id": "x"}, "id"),
        ({"limits": {"stock": 1, "used": 0}}, "limits.used"),
        ({"starts_at": "2026-01-02T00:00:00Z", "ends_at": "2026-01-01T00:00:00Z"}, "ends_at"),
    ],
)
def test_what_an_evaluation_would_refuse_is_not_stored(
    sqlite_db: Database, changes: Json, field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        add(sqlite_db, **changes)
    assert caught.value.field == field
    assert count(sqlite_db, "promotions") == count(sqlite_db, "promotion_versions") == 0


def test_a_stored_promotion_is_evaluated_as_it_was_saved(db: Database) -> None:
    definition: Json = {
        "priority": 3, "exclusive": True, "group": "g", "code": "spring", "currency": "CNY",
        "starts_at": "2026-01-01T00:00:00+08:00", "ends_at": "2027-01-01T00:00:00Z",
        "conditions": [{"type": "tier", "in": ["gold"]}], "limits": {"stock": 7},
    }  # fmt: skip
    promotion_id = add(db, **definition)
    add(db, "aaa")
    add(db, "zzz", priority=9)
    add(db, "gone")
    with db.write() as session:
        store.archive(session, "gone", "ann", NOW)
        store.archive(session, "gone", "ann", NOW + timedelta(1))
        store.take(session, promotion_id, "k", 2, NOW)
    with db.read() as session:
        found = store.active(session)
        assert [one.id for one in found] == ["zzz", "sale", "aaa"]
        sale = found[1]
        assert (sale.priority, sale.exclusive, sale.group, sale.code, sale.currency) == (
            3,
            True,
            "g",
            "SPRING",
            "CNY",
        )
        assert (sale.stock, sale.used, sale.conditions[0].values) == (7, 2, {"gold"})
        assert sale.starts_at is not None
        assert sale.starts_at.isoformat() == "2025-12-31T16:00:00+00:00"
        assert store.by_name(session, "gone").archived_at == NOW
        with pytest.raises(NotFound):
            store.by_name(session, "none")
    with db.write() as session, pytest.raises(Conflict, match="archived"):
        store.save(session, name="gone", title="x", definition={"benefit": off(1)}, by="ann", now=NOW)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """An installation whose command line can be run."""
    monkeypatch.setenv("HUILIU_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    core_settings.load.cache_clear()
    result = CliRunner().invoke(main, ["init", "--email", "boss@example.com", "--json"])
    assert result.exit_code == 0, result.output
    database = Database(core_settings.load().url)
    yield database
    database.dispose()
    core_settings.load.cache_clear()


def test_the_command_line_and_the_api_use_the_stored_ones_where_a_basket_has_none(shop: Database) -> None:
    add(shop, benefit=percent(10), priority=1)
    add(shop, "usd", benefit=off(100), currency="USD")
    add(shop, "old", ends_at="2020-01-01T00:00:00Z")
    request = basket(1000)
    del request["promotions"]
    result = CliRunner().invoke(main, ["price", "-", "--json"], input=json.dumps(request))
    found = json.loads(result.stdout)
    assert found["applied"] == [{"promotion": "sale", "amount": 100}]
    assert {one["promotion"]: one["reason"] for one in found["rejected"]} == {
        "old": "ended",
        "usd": "currency",
    }
    own = CliRunner().invoke(main, ["price", "-", "--json"], input=json.dumps({**request, "promotions": []}))
    assert json.loads(own.stdout)["applied"] == json.loads(own.stdout)["rejected"] == []

    app = APIFlask("test", spec_path=None, docs_path=None)
    app.register_blueprint(create_blueprint(shop, Settings(_env_file=None), clock=lambda: NOW))
    with shop.write() as session:
        token = keys.create(session, "till", ["read"], "ann", NOW)[1]
    body = {"baskets": [request, {**request, "promotions": []}]}
    answer = app.test_client().post(
        "/api/v1/promotions/evaluate", json=body, headers={"Authorization": f"Bearer {token}"}
    )
    results = answer.get_json()["results"]
    assert results[0] == found
    assert results[1]["total"] == 1000
    assert scalar(shop, "SELECT sum(used) FROM promotions") == 0


def test_stock_is_taken_once_a_key_and_never_beyond(db: Database) -> None:
    promotion_id = add(db, limits={"stock": 4})
    with db.write() as session:
        first = store.take(session, promotion_id, "a", 3, NOW)
        assert store.take(session, promotion_id, "a", 3, NOW + timedelta(1)) == first
        with pytest.raises(Conflict, match="another request"):
            store.take(session, promotion_id, "a", 2, NOW)
    with pytest.raises(store.SoldOut, match="1 are left, and 2 were asked for"), db.write() as session:
        store.take(session, promotion_id, "b", 2, NOW)
    assert (scalar(db, "SELECT used FROM promotions"), count(db, "promotion_takes")) == (3, 1)
    with db.write() as session:
        store.take(session, promotion_id, "b", 1, NOW)  # the refused key is free again
    with db.write() as session:
        assert store.release(session, "a", NOW).released_at == NOW
        assert store.release(session, "a", NOW + timedelta(1)).released_at == NOW
        with pytest.raises(NotFound):
            store.release(session, "none", NOW)
    assert scalar(db, "SELECT used FROM promotions") == 1
    with db.write() as session:
        for wrong in (0, -1, True, 10**7):
            with pytest.raises(InvalidInput):
                store.take(session, promotion_id, "c", wrong, NOW)
        with pytest.raises(InvalidInput):
            store.take(session, promotion_id, "", 1, NOW)
        with pytest.raises(NotFound):
            store.take(session, 999, "c", 1, NOW)


def test_a_promotion_without_stock_is_held_without_touching_its_row(db: Database) -> None:
    promotion_id = add(db)
    with db.write() as session:
        store.take(session, promotion_id, "a", 5, NOW)
        store.release(session, "a", NOW)
        store.take(session, promotion_id, "b", 5, NOW)
    assert (scalar(db, "SELECT used FROM promotions"), count(db, "promotion_takes")) == (0, 2)


def test_nothing_is_taken_outside_the_time_or_of_the_archive(db: Database) -> None:
    promotion_id = add(
        db, limits={"stock": 4}, starts_at="2026-03-01T12:00:00Z", ends_at="2026-03-01T12:10:00Z"
    )
    for minutes, works in ((-1, False), (0, True), (9, True), (10, False)):
        with db.write() as session:
            if works:
                store.take(session, promotion_id, f"k{minutes}", 1, NOW + timedelta(minutes=minutes))
                continue
            with pytest.raises(Conflict, match="not in force"):
                store.take(session, promotion_id, f"k{minutes}", 1, NOW + timedelta(minutes=minutes))
            session.rollback()
    with db.write() as session:
        store.archive(session, "sale", "ann", NOW)
    with pytest.raises(Conflict, match="not in force"), db.write() as session:
        store.take(session, promotion_id, "late", 1, NOW)
    assert scalar(db, "SELECT used FROM promotions") == 2


def two_hundred(database: Database, promotion_id: int) -> dict[str, int]:
    """200 threads, a connection and an order each, let go at one moment."""

    def job(number: int) -> Callable[[], None]:
        def run() -> None:
            with database.write() as session:
                store.take(session, promotion_id, f"order-{number}", 1, NOW)

        return run

    return dict(together([job(number) for number in range(200)]))


def test_two_hundred_threads_take_exactly_the_hundred_there_are(pg_db: Database) -> None:
    promotion_id = add(pg_db, limits={"stock": 100})
    assert two_hundred(pg_db, promotion_id) == {"done": 100, "SoldOut": 100}
    assert scalar(pg_db, "SELECT used FROM promotions") == 100
    assert count(pg_db, "promotion_takes") == 100


def test_without_the_conditional_write_more_than_there_are_is_taken(
    pg_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same threads against look, then write: they are answered more than a hundred times."""
    promotion_id = add(pg_db, limits={"stock": 100})
    gate = threading.Barrier(20)

    def unlocked(session: Session, promotion_id: int, n: int, now: Any) -> bool:
        used = session.execute(
            sa.select(PromotionRow.used).where(PromotionRow.id == promotion_id)
        ).scalar_one()
        gate.wait(timeout=30)  # twenty have looked before one of them writes
        if used + n > 100:
            return False
        session.execute(
            sa.update(PromotionRow).where(PromotionRow.id == promotion_id).values(used=PromotionRow.used + n)
        )
        return True

    monkeypatch.setattr(store, "_count", unlocked)
    outcomes = two_hundred(pg_db, promotion_id)
    assert outcomes["done"] > 100
    assert scalar(pg_db, "SELECT used FROM promotions") == count(pg_db, "promotion_takes") == outcomes["done"]


def test_the_same_order_at_once_from_twenty_threads_is_counted_once(pg_db: Database) -> None:
    promotion_id = add(pg_db, limits={"stock": 100})
    answers = []

    def run() -> None:
        with pg_db.write() as session:
            answers.append(store.take(session, promotion_id, "one", 7, NOW))

    assert together([run] * 20) == {"done": 20}
    assert len(set(answers)) == 1
    assert scalar(pg_db, "SELECT used FROM promotions") == 7


def test_a_hold_released_twenty_times_at_once_gives_back_once(pg_db: Database) -> None:
    promotion_id = add(pg_db, limits={"stock": 10})
    with pg_db.write() as session:
        store.take(session, promotion_id, "a", 4, NOW)
        store.take(session, promotion_id, "b", 5, NOW)

    def run() -> None:
        with pg_db.write() as session:
            store.release(session, "a", NOW)

    assert together([run] * 20) == {"done": 20}
    assert scalar(pg_db, "SELECT used FROM promotions") == 5
    with pg_db.read() as session:
        released = session.scalars(sa.select(PromotionTake.key).where(PromotionTake.released_at.is_not(None)))
        assert released.all() == ["a"]
