"""Engines run analytical SQL, written in DuckDB's dialect, over the replica's tables.

A query names fact tables (``orders``, ``members`` …) and snapshots as if they were tables; the
engine makes them views over the Parquet files that are there now. A table without files is
empty, not an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import duckdb
import pyarrow as pa

from core.warehouse.replica import Replica

Params = Mapping[str, Any]


class Engine(Protocol):
    """What analytics need: an answer as Arrow, or written as Parquet."""

    def query(
        self, sql: str, params: Params | None = None, tables: Mapping[str, pa.Table] | None = None
    ) -> pa.Table:
        """Run ``sql`` (parameters as ``$name``); ``tables`` are Arrow tables it may name too."""
        ...


class DuckEngine:
    """DuckDB in this process: every call has a connection of its own, so threads may share an engine."""

    def __init__(
        self,
        replica: Replica,
        *,
        memory_limit: str = "8GB",
        threads: int | None = None,
        extra: Mapping[str, pa.Table] | None = None,
    ) -> None:
        """``extra`` rows by fact table are seen beside the replica's own: for what-if questions."""
        self.replica = replica
        self._extra = dict(extra or {})
        self._config: dict[str, Any] = {"memory_limit": memory_limit}
        if threads:
            self._config["threads"] = threads

    def query(
        self, sql: str, params: Params | None = None, tables: Mapping[str, pa.Table] | None = None
    ) -> pa.Table:
        with self.connect(tables) as connection:
            return connection.sql(sql, params=params or {}).to_arrow_table()

    @contextmanager
    def connect(self, tables: Mapping[str, pa.Table] | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection with a view a fact table; for work of several statements."""
        connection = duckdb.connect(":memory:", config=self._config)
        try:
            connection.execute("SET TimeZone = 'UTC'")
            if not self._is_local:
                connection.register_filesystem(self.replica.fs)
            for fact in self.replica.facts.values():
                self._view(connection, fact.name, self.replica.files(fact.name), fact.schema)
            for name, table in (tables or {}).items():
                connection.register(name, table)
            yield connection
        finally:
            connection.close()

    def add_view(
        self, connection: duckdb.DuckDBPyConnection, name: str, path: str | None, schema: pa.Schema
    ) -> None:
        """A view over one file (a snapshot), or an empty table of that schema."""
        self._view(connection, name, [path] if path else [], schema)

    def _view(
        self, connection: duckdb.DuckDBPyConnection, name: str, files: list[str], schema: pa.Schema
    ) -> None:
        if not files:
            connection.register(name, self._extra.get(name, schema.empty_table()))
            return
        union = ""
        if name in self._extra:
            connection.register(f"_extra_{name}", self._extra[name])
            union = f' UNION ALL BY NAME SELECT * FROM "_extra_{name}"'
        quoted = ", ".join(self.quoted(file) for file in files)
        # union_by_name: files written before a column was added lack it, and read as NULL.
        stored = f"SELECT * FROM read_parquet([{quoted}], union_by_name = true)"
        connection.execute(f'CREATE VIEW "{name}" AS {stored}{union}')

    def quoted(self, path: str) -> str:
        """A file of the replica as a literal that DuckDB opens."""
        prefix = "" if self._is_local else f"{self._protocols[0]}://"
        return "'" + (prefix + path).replace("'", "''") + "'"

    @property
    def _protocols(self) -> tuple[str, ...]:
        protocol = self.replica.fs.protocol
        return (protocol,) if isinstance(protocol, str) else tuple(protocol)

    @property
    def _is_local(self) -> bool:
        return "file" in self._protocols
