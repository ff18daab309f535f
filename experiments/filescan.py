"""From a file of units, CSV or Parquet, to moments by arm and dimension: one scan by DuckDB.

Guarantees: no row is ever held in Python; every row counts, or is counted as left out and why; a column that
holds something else than numbers is refused with what it holds. Moments are centred (Welford, Chan).

Columns of numbers are first taken for complete. That costs nothing beyond the moments, and shows where it
was wrong: a count that is too small, a moment that is not finite. Then, and for text, a scan looks at every
value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from core.errors import InvalidInput
from experiments.stats.joint import Joint

MAX_GROUPS = 20_000
"""Arms × values of a dimension; more is a column of identifiers, not a dimension."""
MISSING_WORDS = ("", "na", "n/a", "nan", "null", "none")
_PARQUET_MAGIC = b"PAR1"
_NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "DECIMAL", "BOOLEAN")

Group = tuple[str, str | None]
"""Arm and value of the dimension."""


@dataclass(frozen=True)
class Wanted:
    """What to read: ``families`` name sets of columns whose joint moments are needed, over the rows that
    have all of them; ``shares`` are columns that hold 0 and 1 only."""

    arm: str
    families: Mapping[str, tuple[str, ...]]
    shares: frozenset[str] = frozenset()
    by: str | None = None
    unit: str | None = None

    @property
    def numbers(self) -> list[str]:
        """The columns of numbers, each once."""
        return list(dict.fromkeys(name for columns in self.families.values() for name in columns))


@dataclass(frozen=True)
class Units:
    """Of the column of units: distinct ones, those in more than one arm, rows beyond one a unit and arm,
    rows without."""

    distinct: int
    in_several_arms: int
    repeated: int
    missing: int


@dataclass(frozen=True)
class Scanned:
    """``rows`` of all; by arm and dimension the rows, and the moments a family; rows left out by column."""

    rows: int
    without_arm: int
    sizes: dict[Group, int]
    moments: dict[str, dict[Group, Joint]]
    missing: dict[str, int]
    units: Units | None


def scan(path: Path, wanted: Wanted) -> Scanned:
    """Read the file. InvalidInput: no such file or column, not readable, values that are no numbers or
    infinite, shares that are not 0 or 1, more than ``MAX_GROUPS`` groups, or no row."""
    if not path.is_file():
        raise InvalidInput(f"There is no file {path}.", "file")
    if not path.stat().st_size:
        raise InvalidInput(f"{path.name} is empty; its first line must name the columns.", "file")
    with path.open("rb") as start:
        parquet = start.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC
    reader = (
        "read_parquet($path)"
        if parquet
        else "read_csv($path, header = true, all_varchar = true, null_padding = false)"
    )
    try:
        with duckdb.connect(":memory:") as connection:
            return _scan(connection, reader, path, wanted)
    except duckdb.Error as error:
        reason = str(error).strip().splitlines()[0]
        kind = "Parquet" if parquet else "CSV"
        raise InvalidInput(f"{path.name} is not a readable {kind} file: {reason}", "file") from None


def _scan(connection: duckdb.DuckDBPyConnection, reader: str, path: Path, wanted: Wanted) -> Scanned:
    source = {"path": str(path)}
    # Names of columns are the file's own, checked and quoted; values are bound.
    head = connection.execute(f"SELECT * FROM {reader} LIMIT 0", source)  # noqa: S608
    types = {str(column[0]): str(column[1]) for column in head.description or []}
    _check_columns(path, types, wanted)
    found = None
    if all(types[name] != "VARCHAR" for name in wanted.numbers):
        found = _taken_for_complete(
            connection, _moments_sql(reader, types, wanted, complete=True), path, wanted
        )
    if found is None:
        found = _rows(connection, _moments_sql(reader, types, wanted, complete=False), path)
    if not found:
        raise InvalidInput(f"{path.name} has no rows.", "file")
    if len(found) > MAX_GROUPS:
        raise InvalidInput(
            f"{wanted.arm}{f' and {wanted.by}' if wanted.by else ''} have more than {MAX_GROUPS:,} "
            "combinations; take columns of few values.",
            "arm",
        )
    _check_values(found, wanted)
    units = None
    if wanted.unit is not None:
        counts = connection.execute(_units_sql(types, reader, wanted), source).fetchall()[0]
        units = Units(*(int(count or 0) for count in counts))
    return _collect(found, wanted, units)


@dataclass(frozen=True)
class _Query:
    """SQL, and by name the column of its answer: an aggregate that several names need is counted once."""

    sql: str
    columns: Mapping[str, str]


def _rows(connection: duckdb.DuckDBPyConnection, query: _Query, path: Path) -> list[dict[str, Any]]:
    answer = connection.execute(query.sql, {"path": str(path)})
    found = [str(column[0]) for column in answer.description or []]
    place = {name: found.index(column) for name, column in query.columns.items()}
    return [{name: row[i] for name, i in place.items()} for row in answer.fetchall()]


def _taken_for_complete(
    connection: duckdb.DuckDBPyConnection, query: _Query, path: Path, wanted: Wanted
) -> list[dict[str, Any]] | None:
    """None where a value is missing and that matters to another column, or one is not finite."""
    try:
        found = _rows(connection, query, path)
    except duckdb.OutOfRangeException:  # a variance of infinite values
        return None
    for f, columns in enumerate(wanted.families.values()):
        numbers = [f"m_{f}_{a}" for a in range(len(columns))]
        numbers += [f"c_{f}_{a}_{b}" for a, b in _pairs(columns)]
        for row in found:
            gaps = len(columns) > 1 and any(row[f"n_{f}_{a}"] != row["n"] for a in range(len(columns)))
            if gaps or not all(row[name] is None or math.isfinite(row[name]) for name in numbers):
                return None
    return found


def _moments_sql(reader: str, types: Mapping[str, str], wanted: Wanted, *, complete: bool) -> _Query:
    """Sizes, checks and moments by group. ``complete``: every value is taken for a finite number."""
    source = f"SELECT {', '.join(_projection(types, wanted))} FROM {reader}"  # noqa: S608
    if not complete:
        source = f"SELECT *, {', '.join(_families(wanted))} FROM ({source})"  # noqa: S608
    columns: dict[str, str] = {"arm": "arm", "dimension": "dimension"}
    shown: dict[str, str] = {}
    for name, aggregate in _aggregates(wanted, complete):
        columns[name] = shown.setdefault(aggregate, f"a{len(shown)}")
    listed = ", ".join(f"{aggregate} AS {column}" for aggregate, column in shown.items())
    return _Query(
        f"SELECT arm, dimension, {listed} FROM ({source}) "  # noqa: S608
        f"GROUP BY ALL ORDER BY ALL LIMIT {MAX_GROUPS + 1}",
        columns,
    )


def _quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def _check_columns(path: Path, types: Mapping[str, str], wanted: Wanted) -> None:
    for name in (wanted.arm, *wanted.numbers, wanted.by, wanted.unit):
        if name is not None and name not in types:
            raise InvalidInput(
                f"{path.name} has no column “{name}”. Its columns are {', '.join(types)}.", name
            )
    for name in wanted.numbers:
        kind = types[name]
        if kind != "VARCHAR" and not kind.removeprefix("U").startswith(_NUMBERS):
            raise InvalidInput(f"The column “{name}” holds {kind}, not numbers.", name)


def _text(name: str, types: Mapping[str, str]) -> str:
    value = _quoted(name)
    return f"NULLIF(trim({value}), '')" if types[name] == "VARCHAR" else f"CAST({value} AS VARCHAR)"


def _projection(types: Mapping[str, str], wanted: Wanted) -> Iterator[str]:
    yield f"{_text(wanted.arm, types)} AS arm"
    yield f"{_text(wanted.by, types) if wanted.by else 'NULL'} AS dimension"
    missing = ", ".join(f"'{word}'" for word in MISSING_WORDS)
    for i, name in enumerate(wanted.numbers):
        column = _quoted(name)
        if types[name] != "VARCHAR":
            yield f"CAST({column} AS DOUBLE) AS v{i}, NULL AS t{i}"
            continue
        word = f"lower(trim({column}))"
        number = (
            f"CASE WHEN {word} IN ({missing}) THEN NULL WHEN {word} = 'true' THEN 1 "
            f"WHEN {word} = 'false' THEN 0 ELSE TRY_CAST(trim({column}) AS DOUBLE) END"
        )
        yield f"{number} AS v{i}"
        yield f"CASE WHEN {number} IS NULL AND {word} NOT IN ({missing}) THEN {column} END AS t{i}"


def _families(wanted: Wanted) -> Iterator[str]:
    """The columns of each family; nothing in a row where one of them has no number."""
    place = {name: i for i, name in enumerate(wanted.numbers)}
    for f, columns in enumerate(wanted.families.values()):
        rows = " AND ".join(f"isfinite(v{place[name]})" for name in columns)
        for a, name in enumerate(columns):
            yield f"CASE WHEN {rows} THEN v{place[name]} END AS x_{f}_{a}"


def _aggregates(wanted: Wanted, complete: bool) -> Iterator[tuple[str, str]]:
    """Names, and what is counted under them."""
    place = {name: i for i, name in enumerate(wanted.numbers)}
    yield "n", "count(*)"
    for name, i in place.items():
        if complete:
            yield f"finite{i}", f"count(v{i})"
        else:
            # Not by isnan(): where Parquet's statistics, which leave NaN out, know a range, it is always
            # false.
            yield f"finite{i}", f"count(*) FILTER (isfinite(v{i}))"
            yield f"infinite{i}", f"count(*) FILTER (isinf(v{i}))"
            yield f"bad{i}", f"count(t{i})"
            yield f"example{i}", f"min(t{i})"
        if name in wanted.shares:
            other = f"FILTER (isfinite(v{i}) AND v{i} NOT IN (0, 1))"
            yield f"other{i}", f"count(*) {other}"
            yield f"odd{i}", f"max(v{i}) {other}"
    for f, columns in enumerate(wanted.families.values()):
        values = [f"v{place[name]}" if complete else f"x_{f}_{a}" for a, name in enumerate(columns)]
        for a, value in enumerate(values):
            yield f"n_{f}_{a}", f"count({value})"
            yield f"m_{f}_{a}", f"favg({value})"
        for a, b in _pairs(columns):
            moment = f"var_samp({values[a]})" if a == b else f"covar_samp({values[a]}, {values[b]})"
            yield f"c_{f}_{a}_{b}", moment


def _pairs(columns: Sequence[str]) -> Iterator[tuple[int, int]]:
    return combinations_with_replacement(range(len(columns)), 2)


def _units_sql(types: Mapping[str, str], reader: str, wanted: Wanted) -> str:
    assert wanted.unit is not None
    return f"""
        SELECT count(unit), count(*) FILTER (unit IS NOT NULL AND arms > 1),
          sum(n - arms) FILTER (unit IS NOT NULL), sum(n) FILTER (unit IS NULL)
        FROM (
          -- Grouped twice: a COUNT(DISTINCT) a unit would cost several times as much.
          SELECT unit, sum(n) AS n, count(*) AS arms FROM (
            SELECT {_text(wanted.unit, types)} AS unit, {_text(wanted.arm, types)} AS arm, count(*) AS n
            FROM {reader} GROUP BY ALL
          ) WHERE arm IS NOT NULL GROUP BY unit
        )"""  # noqa: S608


def _check_values(found: Sequence[Mapping[str, Any]], wanted: Wanted) -> None:
    for i, name in enumerate(wanted.numbers):
        bad = sum(row.get(f"bad{i}", 0) for row in found)
        if bad:
            example = next(row[f"example{i}"] for row in found if row[f"bad{i}"])
            if bad == 1:
                raise InvalidInput(
                    f"The column “{name}” has a value that is no number: “{example[:40]}”; "
                    "write numbers with a point and without separators, and nothing where there is none.",
                    name,
                )
            raise InvalidInput(
                f"The column “{name}” has {bad:,} values that are no numbers, such as “{example[:40]}”; "
                "write numbers with a point and without separators, and nothing where there is none.",
                name,
            )
        infinite = sum(row.get(f"infinite{i}", 0) for row in found)
        if infinite:
            if infinite == 1:
                raise InvalidInput(
                    f"The column “{name}” has an infinite value; correct it or leave it empty.", name
                )
            raise InvalidInput(
                f"The column “{name}” has {infinite:,} infinite values; correct them or leave them empty.",
                name,
            )
        if name in wanted.shares and any(row[f"other{i}"] for row in found):
            others = sum(row[f"other{i}"] for row in found)
            odd = next(row[f"odd{i}"] for row in found if row[f"other{i}"])
            if others == 1:
                raise InvalidInput(
                    f"The column “{name}” has a value other than 0 and 1: {odd:g}; "
                    "compare it as a mean, or write 1 for yes and 0 for no.",
                    name,
                )
            raise InvalidInput(
                f"The column “{name}” has {others:,} values other than 0 and 1, such as {odd:g}; "
                "compare it as a mean, or write 1 for yes and 0 for no.",
                name,
            )


def _collect(found: Sequence[Mapping[str, Any]], wanted: Wanted, units: Units | None) -> Scanned:
    placed = [row for row in found if row["arm"] is not None]
    sizes = {(row["arm"], row["dimension"]): int(row["n"]) for row in placed}
    moments: dict[str, dict[Group, Joint]] = {}
    for f, (family, columns) in enumerate(wanted.families.items()):
        moments[family] = {(row["arm"], row["dimension"]): _joint(row, f, columns) for row in placed}
    return Scanned(
        sum(int(row["n"]) for row in found),
        sum(int(row["n"]) for row in found if row["arm"] is None),
        sizes,
        moments,
        {
            name: missing
            for i, name in enumerate(wanted.numbers)
            if (missing := sum(int(row["n"] - row[f"finite{i}"]) for row in placed))
        },
        units,
    )


def _joint(row: Mapping[str, Any], f: int, columns: tuple[str, ...]) -> Joint:
    k, n = len(columns), int(row[f"n_{f}_0"])
    means = np.array([row[f"m_{f}_{a}"] or 0.0 for a in range(k)])
    cov = np.zeros((k, k))
    for a, b in _pairs(columns):
        cov[a, b] = cov[b, a] = (row[f"c_{f}_{a}_{b}"] or 0.0) if n > 1 else 0.0
    return Joint(n, columns, means, cov)
