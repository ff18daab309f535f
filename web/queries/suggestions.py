"""Names that the data holds: of members' attributes and of events' properties. Bounded queries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.warehouse.engine import DuckEngine

LOOKED_AT = 20_000
"""Rows whose names are read: names repeat, so that some of the rows tell them all."""


def attributes(engine: DuckEngine, prefix: str, limit: int) -> list[Mapping[str, Any]]:
    """Names of members' attributes that start with ``prefix``, as {value, number}, the commonest first."""
    source = "SELECT attributes AS told FROM members WHERE attributes <> '{}'"
    return _names(engine, source, {"prefix": prefix, "most": limit})


def properties(engine: DuckEngine, event: str, prefix: str, limit: int) -> list[Mapping[str, Any]]:
    """Names of the properties of a kind of behaviour event, likewise."""
    source = "SELECT properties AS told FROM events WHERE kind = $event AND properties <> '{}'"
    return _names(engine, source, {"prefix": prefix, "most": limit, "event": event})


def _names(engine: DuckEngine, source: str, params: dict[str, Any]) -> list[Mapping[str, Any]]:
    text = f"""
        SELECT name AS value, count(*) AS number
        FROM (SELECT unnest(json_keys(told)) AS name FROM ({source} LIMIT {LOOKED_AT}))
        WHERE starts_with(lower(name), lower($prefix))
        GROUP BY name ORDER BY number DESC, name LIMIT $most"""  # noqa: S608 - the sources are ours
    with engine.connect() as connection:
        rows: list[Mapping[str, Any]] = connection.sql(text, params=params).to_arrow_table().to_pylist()
    return rows
