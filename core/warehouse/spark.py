"""Spark as an engine, for shops that outgrew one machine: the same SQL, transpiled, on the same Parquet.

A query is written in DuckDB's dialect, like every other; SQLGlot turns it into Spark's. The cluster's
workers read the replica's files themselves, so the replica must lie where all of them reach it (a shared
folder, or an object store). PySpark is an extra (``huiliu[spark]``) and imported on first use.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Collection, Hashable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from sqlglot import exp, parse_one

from core.errors import HuiliuError
from core.warehouse.dialect import to_spark
from core.warehouse.engine import Params, Stored
from core.warehouse.replica import Replica

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "false",  # as in DuckDB, what cannot be read as a number is missing (TRY_CAST)
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.sql.legacy.timeParserPolicy": "CORRECTED",
    "spark.sql.shuffle.partitions": "8",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
}


def open_session(master: str, **settings: str) -> SparkSession:
    """A session on a cluster (``spark://host:port``, ``local[2]`` …). Raises HuiliuError without PySpark."""
    try:
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise HuiliuError("Spark is missing: pip install 'huiliu[spark]', and a Java runtime.") from error
    builder = SparkSession.builder.master(master).appName("huiliu")
    for name, value in {**SETTINGS, **settings}.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


@lru_cache(maxsize=1)
def engine_on(master: str, replica: Replica) -> SparkEngine:
    """This process's engine on a cluster: a session takes seconds to open, so it is kept."""
    return SparkEngine(replica, open_session(master))


class SparkEngine:
    """A session over the replica's tables. Threads may share it."""

    def __init__(self, replica: Replica, session: SparkSession) -> None:
        self.replica = replica
        self.session = session
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def query(
        self,
        sql: str,
        params: Params | None = None,
        tables: Mapping[str, pa.Table] | None = None,
        files: Mapping[str, Stored] | None = None,
    ) -> pa.Table:
        """Run ``sql`` (parameters as ``$name``); ``tables`` and ``files`` are what it may name too."""
        tree = parse_one(sql, read="duckdb")
        _bind(tree, params or {})
        with self._views(tree, tables or {}, files or {}):
            return self.session.sql(to_spark(tree)).toArrow()

    def state(self, facts: Collection[str], paths: Collection[str | None] = ()) -> Hashable | None:
        """Not told: the files may be replaced while a cluster reads them, so no answer is kept."""
        return None

    @contextmanager
    def _views(
        self, tree: exp.Expr, tables: Mapping[str, pa.Table], files: Mapping[str, Stored]
    ) -> Iterator[None]:
        """Give every table that the query names a view of this query's own, and name that instead."""
        with self._lock:
            number = next(self._numbers)
        own = {name.casefold() for cte in tree.find_all(exp.CTE) for name in [cte.alias]}
        made: dict[str, str] = {}
        for table in list(tree.find_all(exp.Table)):
            name = table.name
            if name.casefold() in own or table.db:
                continue
            if name not in made:
                frame = self._frame(name, tables, files)
                if frame is None:
                    continue
                made[name] = f"huiliu_{number}_{name}"
                frame.createOrReplaceTempView(made[name])
            if not table.alias:
                table.set("alias", exp.TableAlias(this=exp.to_identifier(name)))
            table.set("this", exp.to_identifier(made[name]))
        try:
            yield
        finally:
            for view in made.values():
                self.session.catalog.dropTempView(view)

    def _frame(
        self, name: str, tables: Mapping[str, pa.Table], files: Mapping[str, Stored]
    ) -> DataFrame | None:
        if name in tables:
            return self.session.createDataFrame(tables[name])
        if name in files:
            stored = files[name]
            return self._read([stored.path] if stored.path else [], stored.schema)
        fact = self.replica.facts.get(name)
        return None if fact is None else self._read(self.replica.files(fact.name), fact.schema)

    def _read(self, paths: list[str], schema: pa.Schema) -> DataFrame:
        wanted = _spark_schema(schema)
        if not paths:
            return self.session.createDataFrame([], wanted)
        # By the schema that is expected: a file written before a column was added reads it as NULL.
        return self.session.read.schema(wanted).parquet(*(self._address(path) for path in paths))

    def _address(self, path: str) -> str:
        protocol = self.replica.fs.protocol
        names = (protocol,) if isinstance(protocol, str) else tuple(protocol)
        return f"file://{path}" if "file" in names else f"{names[0]}://{path}"


def _spark_schema(schema: pa.Schema) -> StructType:
    from pyspark.sql.pandas.types import from_arrow_schema

    return from_arrow_schema(schema)


def _bind(tree: exp.Expr, params: Params) -> None:
    """Put the parameters in as literals, which SQLGlot escapes."""
    for parameter in list(tree.find_all(exp.Parameter, exp.Placeholder)):
        parameter.replace(_literal(params[parameter.name]))


def _literal(value: Any) -> exp.Expr:
    if isinstance(value, list | tuple):
        return exp.Array(expressions=[_literal(item) for item in value])
    if isinstance(value, datetime):
        return exp.cast(exp.Literal.string(value.isoformat(sep=" ")), "timestamptz")
    if isinstance(value, date):
        return exp.cast(exp.Literal.string(value.isoformat()), "date")
    return exp.convert(value)
