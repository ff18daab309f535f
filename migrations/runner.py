"""Bring a database to the newest revision, or tell how its tables differ from the models."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy.engine import Connection

from core.db import Database


def config(connection: Connection) -> Config:
    """Alembic's configuration for an open connection."""
    # What Alembic prints would stand before a command's JSON.
    result = Config(stdout=StringIO())
    result.set_main_option("script_location", str(Path(__file__).parent))
    result.attributes["connection"] = connection
    return result


def upgrade(database: Database) -> None:
    """Run every revision that the database has not seen."""
    with database.engine.connect() as connection:
        command.upgrade(config(connection), "head")
        connection.commit()


def check(database: Database) -> None:
    """Raise when the models and the revisions disagree (``alembic check``)."""
    with database.engine.connect() as connection:
        command.check(config(connection))


def make_revision(database: Database, message: str) -> None:
    """Write a new revision from the difference between the database and the models."""
    with database.engine.connect() as connection:
        command.revision(config(connection), message, autogenerate=True)
