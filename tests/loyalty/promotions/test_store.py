"""Stored promotions: versions, archive, and their use by command line and API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from apiflask import APIFlask
from click.testing import CliRunner

from core import settings as core_settings
from core.db import Database
from core.errors import Conflict, InvalidInput, NotFound
from core.models import AuditEntry
from core.settings import Settings
from loyalty.promotions import store, takes
from tests.conftest import count
from tests.loyalty.data import NOW, add_members, scalar
from tests.loyalty.promotions.cases import ZONE, Json, basket, off, percent
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
        ({"limits": {"per_member": 1, "taken": 0}}, "limits.taken"),
        ({"limits": {"per_member": 0}}, "limits.per_member"),
        ({"limits": {"per_day": -1}}, "limits.per_day"),
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
        "conditions": [{"type": "tier", "in": ["gold"]}], "limits": {"stock": 7, "per_member": 3, "per_day": 2},
    }  # fmt: skip
    add_members(db, 1)
    add(db, **definition)
    add(db, "aaa")
    add(db, "zzz", priority=9)
    add(db, "gone")
    with db.write() as session:
        store.archive(session, "gone", "ann", NOW)
        store.archive(session, "gone", "ann", NOW + timedelta(1))
        takes.take(session, "sale", 2, "k", NOW, 1, zone=ZONE)
    with db.read() as session:
        found = store.active(session, NOW)
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
        assert (sale.per_member, sale.per_day) == (3, 2)
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
