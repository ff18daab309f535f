"""The revisions make the tables that the models describe, on both databases."""

from __future__ import annotations

import sqlalchemy as sa

from core.db import Base, Database
from migrations.runner import check, upgrade


def test_the_revisions_agree_with_the_models(db: Database) -> None:
    check(db)


def test_upgrading_twice_changes_nothing(db: Database) -> None:
    upgrade(db)
    tables = set(sa.inspect(db.engine).get_table_names())
    assert tables == {*Base.metadata.tables, "alembic_version"}
