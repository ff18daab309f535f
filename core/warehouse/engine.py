"""Engines run analytical SQL, written in DuckDB's dialect, over the replica's tables.

A query names fact tables (``orders``, ``members`` …) and snapshots as if they were tables; the
engine makes them views over the Parquet files that are there now. A table without files is
empty, not an error.
"""

from __future__ import annotations

import atexit
import itertools
import os
import re
import threading
from collections.abc import Collection, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import duckdb
import pyarrow as pa

from core.warehouse.replica import Fact, Replica

Params = Mapping[str, Any]
MEMORY_LIMIT = "8GB"
TEXTS_KEPT = 256


@dataclass(frozen=True)
class Stored:
    """A Parquet file to be read as a table; a ``path`` of None is an empty one of that schema."""

    path: str | None
    schema: pa.Schema


class Engine(Protocol):
    """What analytics need: an answer as Arrow."""

    replica: Replica

    def query(
        self,
        sql: str,
        params: Params | None = None,
        tables: Mapping[str, pa.Table] | None = None,
        files: Mapping[str, Stored] | None = None,
    ) -> pa.Table:
        """Run ``sql`` (parameters as ``$name``); ``tables`` and ``files`` are what it may name too."""
        ...

    def state(self, facts: Collection[str], paths: Collection[str | None] = ()) -> Hashable | None:
        """What tells the rows of these facts and files from later ones: equal states, equal rows.

        None where that is not known; then an answer must not be kept.
        """
        ...


class _Instance:
    """One DuckDB of this process: its threads and its memory limit are shared by all engines alike.

    A fact's view is made once and again when its files are others, which their names, sizes, times
    and inodes tell: a file is replaced by rename, never written in place, so what has the same
    identity has the same rows. DuckDB itself keeps nothing of the files between two queries.
    """

    def __init__(self, config: Mapping[str, Any], fs: Any | None) -> None:
        self.base = duckdb.connect(":memory:", config=dict(config))
        self.base.execute("SET GLOBAL TimeZone = 'UTC'")
        if fs is not None:
            self.base.execute("SET GLOBAL enable_external_file_cache = false")
            self.base.register_filesystem(fs)
        self.lock = threading.RLock()
        self.schemas: dict[str, str] = {}
        self.made: dict[tuple[str, str], tuple[Any, ...]] = {}
        self.texts: dict[tuple[Any, ...], str] = {}
        self.numbers = itertools.count()

    def schema_of(self, root: str) -> str:
        """The schema that holds the views of a replica."""
        with self.lock:
            if root not in self.schemas:
                self.schemas[root] = f"replica_{len(self.schemas)}"
                self.base.execute(f"CREATE SCHEMA {self.schemas[root]}")
            return self.schemas[root]

    def make_view(self, schema: str, fact: Fact, identity: tuple[Any, ...], files: list[str]) -> None:
        """Have the view of a fact read exactly these files (as literals)."""
        with self.lock:
            if self.made.get((schema, fact.name)) == identity:
                return
            text = _stored(self.base, files, fact.schema)
            self.base.execute(f'CREATE OR REPLACE VIEW {schema}."{fact.name}" AS {text}')
            self.made[schema, fact.name] = identity

    def text_of(self, identity: tuple[Any, ...], file: str, schema: pa.Schema) -> str:
        """The query over one file, whose columns are looked up only once."""
        key = (*identity, *schema.names)
        with self.lock:
            if key not in self.texts:
                while len(self.texts) >= TEXTS_KEPT:
                    del self.texts[next(iter(self.texts))]
                self.texts[key] = _stored(self.base, [file], schema)
            return self.texts[key]

    @contextmanager
    def session(self, schema: str) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection that sees the views; whatever it makes is its own and gone afterwards."""
        with self.lock:
            own = f"session_{next(self.numbers)}"
            connection = self.base.cursor()
            connection.execute(f"ATTACH ':memory:' AS {own}")
        try:
            connection.execute(f"SET search_path = '{own}.main,memory.{schema}'")
            yield connection
        finally:
            connection.close()
            with self.lock:
                self.base.execute(f"DETACH {own}")


_TYPES = {"int8": "TINYINT", "int64": "BIGINT", "double": "DOUBLE", "bool": "BOOLEAN", "date32[day]": "DATE",
          "string": "VARCHAR", "timestamp[us, tz=UTC]": "TIMESTAMPTZ"}  # fmt: skip


def _nothing(field_: pa.Field) -> str:
    return f'CAST(NULL AS {_TYPES[str(field_.type)]}) AS "{field_.name}"'


def _stored(connection: duckdb.DuckDBPyConnection, files: list[str], schema: pa.Schema) -> str:
    """The query over the files; columns that none of them has yet are NULL."""
    if not files:
        return f"SELECT {', '.join(map(_nothing, schema))} WHERE false"
    # union_by_name: files written before a column was added lack it, and read as NULL. It slows every
    # scan down by a tenth, so that it is asked for only where it is needed.
    listed = f"[{', '.join(files)}]"
    source = f"read_parquet({listed}{'' if _alike(connection, listed) else ', union_by_name = true'})"
    found = {row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()}
    missing = [_nothing(one) for one in schema if one.name not in found]
    return f"SELECT {', '.join(['*', *missing])} FROM {source}"


def _alike(connection: duckdb.DuckDBPyConnection, listed: str) -> bool:
    """Whether all of these files have the same columns of the same types, in the same order."""
    (kinds,) = connection.execute(
        f"""SELECT count(DISTINCT columns) FROM (
            SELECT list(name || ' ' || coalesce(duckdb_type, type, '') ORDER BY column_id) AS columns
            FROM parquet_schema({listed}) GROUP BY file_name)"""
    ).fetchall()[0]
    return bool(kinds <= 1)


_instances: dict[tuple[Any, ...], _Instance] = {}
_instances_lock = threading.Lock()


@atexit.register
def close_all() -> None:
    """Let go of every DuckDB of this process; left to the interpreter's end, they complain of leaks."""
    with _instances_lock:
        for instance in _instances.values():
            instance.base.close()
        _instances.clear()


class DuckEngine:
    """DuckDB in this process. Threads may share an engine, and engines of one process share DuckDB."""

    def __init__(
        self,
        replica: Replica,
        *,
        memory_limit: str = MEMORY_LIMIT,
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
        self,
        sql: str,
        params: Params | None = None,
        tables: Mapping[str, pa.Table] | None = None,
        files: Mapping[str, Stored] | None = None,
    ) -> pa.Table:
        with self.connect(tables, facts=set(re.findall(r"\w+", sql))) as connection:
            for name, stored in (files or {}).items():
                self.add_view(connection, name, stored.path, stored.schema)
            return connection.sql(sql, params=params or {}).to_arrow_table()

    @contextmanager
    def connect(
        self, tables: Mapping[str, pa.Table] | None = None, facts: Collection[str] | None = None
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection with a view a fact table (``facts``: of these alone), for several statements."""
        instance = self._instance()
        schema = instance.schema_of(self.replica.root)
        wanted = [fact for fact in self.replica.facts.values() if facts is None or fact.name in facts]
        for fact in wanted:
            identity, files = self._files(fact.name)
            instance.make_view(schema, fact, identity, files)
        with instance.session(schema) as connection:
            for fact in wanted:
                if fact.name in self._extra:
                    connection.register(f"_extra_{fact.name}", self._extra[fact.name])
                    connection.execute(
                        f'CREATE VIEW "{fact.name}" AS SELECT * FROM memory.{schema}."{fact.name}" '
                        f'UNION ALL BY NAME SELECT * FROM "_extra_{fact.name}"'
                    )
            for name, table in (tables or {}).items():
                connection.register(name, table)
            yield connection

    def add_view(
        self, connection: duckdb.DuckDBPyConnection, name: str, path: str | None, schema: pa.Schema
    ) -> None:
        """A view over one file (a snapshot), or an empty table of that schema."""
        if path is None:
            text = _stored(connection, [], schema)
        else:
            identity = (self.replica.root, *_identity(self.replica.fs.info(path)))
            text = self._instance().text_of(identity, self.quoted(path), schema)
        connection.execute(f'CREATE VIEW "{name}" AS {text}')

    def quoted(self, path: str) -> str:
        """A file of the replica as a literal that DuckDB opens."""
        prefix = "" if self._is_local else f"{self._protocols[0]}://"
        return "'" + (prefix + path).replace("'", "''") + "'"

    def state(self, facts: Collection[str], paths: Collection[str | None] = ()) -> Hashable | None:
        """What tells the rows of these facts and files from later ones; None where rows were added."""
        if self._extra:
            return None
        stored = (_identity(self.replica.fs.info(path)) if path else None for path in paths)
        return (self.replica.root, *(self._files(name)[0] for name in facts), *stored)

    def _files(self, fact: str) -> tuple[tuple[Any, ...], list[str]]:
        """Identity and literals of a fact's files."""
        try:
            found = self.replica.fs.ls(self.replica.path(fact), detail=True, refresh=True)
        except FileNotFoundError:
            return (), []
        kept = sorted(
            (one for one in found if one["name"].endswith(".parquet")), key=lambda one: str(one["name"])
        )
        identity = tuple(_identity(one) for one in kept)
        return identity, [self.quoted(one["name"]) for one in kept]

    def _instance(self) -> _Instance:
        fs = None if self._is_local else self.replica.fs
        key = (os.getpid(), *sorted(self._config.items()), None if fs is None else id(fs))
        with _instances_lock:
            if key not in _instances:
                _instances[key] = _Instance(self._config, fs)
            return _instances[key]

    @property
    def _protocols(self) -> tuple[str, ...]:
        protocol = self.replica.fs.protocol
        return (protocol,) if isinstance(protocol, str) else tuple(protocol)

    @property
    def _is_local(self) -> bool:
        return "file" in self._protocols


def _identity(info: Mapping[str, Any]) -> tuple[Any, ...]:
    """Name, size, time and inode (or what a remote store has instead) of a file."""
    keys = ("name", "size", "mtime", "ino", "LastModified", "ETag", "last_modified", "etag", "created")
    return tuple(str(info[key]) if key in info else None for key in keys)
