"""Alembic's environment: every package's tables, on the connection that ``migrations.runner`` hands over."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from alembic import context

from core.db import Base, Encrypted, UTCDateTime

for package in ("core", "segments", "channels", "loyalty", "experiments", "campaigns", "web"):
    root = Path(import_module(package).__path__[0])
    for found in sorted(root.rglob("models.py")):
        import_module(".".join((package, *found.relative_to(root).with_suffix("").parts)))


def render_item(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    """Write our own column types by name, so that a revision reads like the models."""
    if kind == "type":
        if isinstance(item, UTCDateTime | Encrypted):
            return f"db.{type(item).__name__}()"
        if isinstance(item, sa.JSON):
            return "db.Json"
        if isinstance(item, sa.BigInteger) and "sqlite" in item._variant_mapping:
            return "db.BigId"
        if type(item).__name__ == "AsaList":  # Flask-Security's: a revision should not import the console
            return "sa.UnicodeText()"
    return False


def run() -> None:
    connection = context.config.attributes["connection"]
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        render_item=render_item,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


run()
