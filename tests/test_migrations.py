"""The revisions make the tables that the models describe, on both databases, from wherever a shop stands."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command

from core.db import Base, Database
from core.models import Member, Order
from migrations.runner import check, config, upgrade

VERSIONS = Path(__file__).parents[1] / "migrations" / "versions"
RELEASED = {
    "0001_first_tables.py": "d3b2d697ffad96c497d3ae0e4c4cb006e55d4fec50e0fe5ba5ff8cde86cad7ac",
    "0002_segments.py": "cae67b74fbd17bfd00c268d5227f4c6dd2de622073e889cd58efee5c0cd157c9",
    "0003_channels.py": "bebb441cdc54b48f07b7cb7e135b48edb3e2c9ff7327e8b59091e6f2ed59791e",
    "0004_loyalty.py": "ba26dedcc31c0c718c34893f6a41b85f997892836cdbcb3f24f7e202a45dcbda",
    "0005_metrics.py": "4b31d55ef1f37057a09bbc79723e08704ee3f69a72e38333e005a082b861b662",
}
"""Revisions that shops have run, and the SHA-256 of their text."""
AT = datetime(2026, 3, 1, tzinfo=UTC)


def test_the_revisions_agree_with_the_models(db: Database) -> None:
    check(db)


def test_upgrading_twice_changes_nothing(db: Database) -> None:
    upgrade(db)
    tables = set(sa.inspect(db.engine).get_table_names())
    assert tables == {*Base.metadata.tables, "alembic_version"}


def test_a_revision_that_shops_have_run_is_never_edited() -> None:
    """They would not run it again: what it gained would be missing there. Write a new revision instead."""
    found = {name: hashlib.sha256((VERSIONS / name).read_bytes()).hexdigest() for name in RELEASED}
    assert found == RELEASED


def _table(model: type[Base], row: dict[str, Any]) -> sa.TableClause:
    """The model's table with the columns of a row alone: the others may not be there yet."""
    return sa.table(model.__tablename__, *[sa.column(name, model.__table__.c[name].type) for name in row])


@pytest.mark.parametrize("revision", [name[:4] for name in RELEASED])
def test_a_shop_at_an_earlier_revision_keeps_its_rows(db: Database, revision: str) -> None:
    with db.engine.connect() as connection:
        command.downgrade(config(connection), revision)
        connection.commit()
        names = {column["name"] for column in sa.inspect(connection).get_columns("members")}
        member = {
            "id": 7, "source": "shop", "external_id": "m7", "name": "Zoë", "tags": ["vip"], "attributes": {},
            "fingerprint": "x", "created_at": AT, "updated_at": AT,
        }  # fmt: skip
        assert member.keys() <= names
        connection.execute(sa.insert(_table(Member, member)), [member])
        order = {
            "id": 9, "source": "shop", "external_id": "o9", "member_id": 7, "ordered_at": AT, "status": "paid",
            "currency": "CNY", "total_minor": 500, "discount_minor": 0, "refunded_minor": 0, "fingerprint": "y",
            "updated_at": AT,
        }  # fmt: skip
        connection.execute(sa.insert(_table(Order, order)), [order])
        connection.commit()
    upgrade(db)
    check(db)
    with db.read() as session:
        member_row, order_row = session.get_one(Member, 7), session.get_one(Order, 9)
        assert (member_row.name, member_row.tags, member_row.shop_tags) == ("Zoë", ["vip"], None)
        assert (order_row.member_id, order_row.total_minor, order_row.ordered_at) == (7, 500, AT)
