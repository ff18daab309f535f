"""Alembic: one line of history."""
