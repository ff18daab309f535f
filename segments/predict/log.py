"""A transaction log of any shop: a CSV or Parquet file with a customer, a date and maybe an amount a row.

A row that cannot be used is reported with its line and reason; the others count.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO
from zoneinfo import ZoneInfo

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.errors import InvalidInput
from core.imports import Reject
from segments.scores import sql

BATCH_ROWS = 100_000
MAX_ROWS = 100_000_000
ROWS_SCHEMA = pa.schema(
    [
        ("line", pa.int64()),
        ("problem", pa.string()),
        ("id", pa.string()),
        ("happened", pa.string()),
        ("amount", pa.string()),
    ]
)
_PARQUET_MAGIC = b"PAR1"


@dataclass(frozen=True)
class LogFile:
    """A file and the names of its columns; ``amount`` is None where spend is of no interest."""

    path: Path
    id: str
    date: str
    amount: str | None

    @property
    def columns(self) -> list[str]:
        return [name for name in (self.id, self.date, self.amount) if name is not None]


@dataclass(frozen=True)
class Loaded:
    """How many rows there were, and how many were refused."""

    rows: int
    rejected: int


def load(connection: duckdb.DuckDBPyConnection, file: LogFile, zone: ZoneInfo) -> Loaded:
    """Read the file into the temporary table ``parsed``: line, customer, day, amount or the reason.

    Days are those that the file writes; instants of a Parquet file are put in ``zone``. Raises
    InvalidInput where there is no such file or column, or it cannot be read at all.
    """
    if not file.path.is_file():
        raise InvalidInput(f"There is no file {file.path}.")
    with file.path.open("rb") as start:
        parquet = start.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC
    rows = _from_parquet(file, zone) if parquet else _from_csv(file)
    connection.register("file_rows", rows)
    params: dict[str, Any] = {
        "id_column": file.id,
        "date_column": file.date,
        "amount_column": file.amount or "",
        "with_amount": file.amount is not None,
    }
    connection.execute(f"CREATE OR REPLACE TEMP TABLE parsed AS {sql('predict_parse')}", params)
    connection.unregister("file_rows")
    found = connection.execute("SELECT count(*), count(reason) FROM parsed").fetchall()
    return Loaded(int(found[0][0]), int(found[0][1]))


def rejects(connection: duckdb.DuckDBPyConnection, file: LogFile) -> Iterator[Reject]:
    """The refused rows of ``parsed`` by line, each with the cells that we looked at."""
    columns = "line, reason, customer, at_text, amount_text"
    text = f"SELECT {columns} FROM parsed WHERE reason IS NOT NULL ORDER BY line"
    table = connection.sql(text).to_arrow_table()
    for batch in table.to_batches():
        for row in batch.to_pylist():
            cells = dict(
                zip(file.columns, (row["customer"], row["at_text"], row["amount_text"]), strict=False)
            )
            yield Reject(row["line"], row["reason"], {name: cell or "" for name, cell in cells.items()})


def _places(file: LogFile, names: list[str]) -> list[int]:
    """Where the wanted columns are. Raises InvalidInput for one that is missing or there twice."""
    for option, name in (("--id", file.id), ("--date", file.date), ("--amount", file.amount)):
        if name is not None and names.count(name) != 1:
            has = f"has two columns {name}" if name in names else f"has no column {name}"
            raise InvalidInput(
                f"{file.path.name} {has}. Its columns are {', '.join(names)}; name one with {option}.", name
            )
    return [names.index(name) for name in file.columns]


def _from_csv(file: LogFile) -> pa.Table:
    # surrogateescape lets a broken byte through to its own row instead of ending the file there
    with file.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        try:
            names = [name.strip() for name in next(csv.reader(text), [])]
        except csv.Error as error:
            raise InvalidInput(f"{file.path.name}'s first line cannot be read: {error}") from None
        if not any(names):
            raise InvalidInput(f"{file.path.name} is empty; its first line must name the columns.")
        places = _places(file, names)
        text.seek(0)
        batches, total = [], 0
        rows = _cells(text, len(names), places)
        while part := list(islice(rows, BATCH_ROWS)):
            total += len(part)
            if total > MAX_ROWS:
                raise InvalidInput(
                    f"{file.path.name} has more than {MAX_ROWS:,} rows; save it as Parquet in parts."
                )
            columns = [pa.array(column) for column in zip(*part, strict=True)]
            batches.append(_table(columns, file))
    return pa.concat_tables(batches) if batches else ROWS_SCHEMA.empty_table()


def _cells(text: TextIO, width: int, places: list[int]) -> Iterator[tuple[int, str | None, *tuple[str, ...]]]:
    """Line, problem and wanted cells of each row after the header."""
    reader = csv.reader(text)
    next(reader)
    nothing = ("",) * len(places)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield (line, f"the line cannot be read: {error}.", *nothing)
            continue
        if len(cells) == width:
            wanted = [cells[place] for place in places]
            plain = all(cell.isascii() for cell in wanted) or _is_unicode(wanted)
            yield (line, None, *wanted) if plain else (line, "the line is not UTF-8.", *nothing)
        elif cells:
            yield (line, f"the line has {len(cells)} cells, but the header names {width} columns.", *nothing)


def _is_unicode(cells: list[str]) -> bool:
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return False
    return True


def _table(columns: list[Any], file: LogFile) -> pa.Table:
    if file.amount is None:
        columns.append(pa.nulls(len(columns[0]), pa.string()))
    cast = [column.cast(kind) for column, kind in zip(columns, ROWS_SCHEMA.types, strict=True)]
    return pa.Table.from_arrays(cast, schema=ROWS_SCHEMA)


def _from_parquet(file: LogFile, zone: ZoneInfo) -> pa.Table:
    try:
        stored = pq.ParquetFile(file.path)
        _places(file, list(stored.schema_arrow.names))
        if stored.metadata.num_rows > MAX_ROWS:
            raise InvalidInput(f"{file.path.name} has more than {MAX_ROWS:,} rows; give it in parts.")
        table = stored.read(columns=file.columns)
    except pa.ArrowInvalid as error:
        raise InvalidInput(f"{file.path.name} is not a readable Parquet file: {error}") from None
    texts = [_texts(table[name].combine_chunks(), name, zone) for name in file.columns]
    lines = pa.array(range(1, table.num_rows + 1), pa.int64())
    return _table([lines, pa.nulls(table.num_rows, pa.string()), *texts], file)


def _texts(column: pa.Array, name: str, zone: ZoneInfo) -> pa.Array:
    """A column as texts; of an instant the day in the zone."""
    kind = column.type
    if pa.types.is_timestamp(kind):
        if kind.tz is not None:
            column = pc.local_timestamp(column.cast(pa.timestamp(kind.unit, tz=zone.key)))
        return pc.strftime(column, format="%Y-%m-%d")
    try:
        return (column.cast(pa.date32()) if pa.types.is_date(kind) else column).cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise InvalidInput(f"The column {name} holds {kind}, not texts, numbers or dates.", name) from None
