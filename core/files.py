"""Files of rows: CSV (UTF-8, with or without BOM, any line ends) and Parquet, with their line numbers.

A row that cannot be read (broken UTF-8, too many cells) becomes a :class:`core.imports.Numbered`
with a problem, never the end of the import.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.errors import InvalidInput
from core.imports import Numbered, Reject, together
from core.rows import COLUMNS, OPEN_PREFIX, REQUIRED

BATCH_ROWS = 20_000


@dataclass
class RowFile:
    """A file of rows of one kind. Iterating gives ``Numbered`` rows with our column names."""

    path: Path
    kind: str
    columns: list[str]
    """The file's columns under our names."""
    ignored: list[str]
    """Columns of the file that mean nothing to us."""
    rows: int | None
    """How many rows there are, where the format tells."""

    def __iter__(self) -> Iterator[Numbered]:
        rows = (
            _parquet_rows(self.path, self.columns)
            if _is_parquet(self.path)
            else _csv_rows(self.path, self.columns)
        )
        if self.kind == "orders" and not self._adjacent():
            return iter(together(rows))
        return rows

    def _adjacent(self) -> bool:
        """Whether the lines of each order stand together, as writing them in one go needs."""
        if _is_parquet(self.path):
            name = pq.ParquetFile(self.path).schema_arrow.names[self.columns.index("order_id")]
            ids = pq.read_table(self.path, columns=[name]).column(0).cast(pa.string()).combine_chunks()
            return bool(len(pc.run_end_encode(ids).values) == pc.count_distinct(ids, mode="all").as_py())
        closed: set[str] = set()
        current: str | None = None
        for order in _csv_orders(self.path, self.columns.index("order_id")):
            if order != current:
                if order in closed:
                    return False
                closed.add(order)
                current = order
        return True


def open_rows(path: Path, kind: str, mapping: Mapping[str, str]) -> RowFile:
    """Open a CSV or Parquet file. ``mapping`` gives our name for a column of the file.

    Raises InvalidInput when the file cannot be read, a needed column is missing, or two columns
    mean the same.
    """
    if kind not in COLUMNS:
        raise InvalidInput(f"“{kind}” cannot be imported; the kinds are {', '.join(COLUMNS)}.")
    if not path.is_file():
        raise InvalidInput(f"There is no file {path}.")
    header, rows = _parquet_header(path) if _is_parquet(path) else (_csv_header(path), None)
    unknown = sorted(set(mapping) - set(header))
    if unknown:
        raise InvalidInput(f"--map names {', '.join(unknown)}, but the file has {', '.join(header)}.")
    columns = [mapping.get(name, name) for name in header]
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise InvalidInput(f"Two columns of the file are both {', '.join(twice)}; map or remove one.")
    missing = [name for name in REQUIRED[kind] if name not in columns]
    if missing:
        raise InvalidInput(
            f"{path.name} lacks {', '.join(missing)}. Its columns are {', '.join(header)}; "
            f"say which one it is with --map COLUMN={missing[0]}."
        )
    prefix = OPEN_PREFIX.get(kind)
    ignored = [
        name for name in columns if name not in COLUMNS[kind] and not (prefix and name.startswith(prefix))
    ]
    return RowFile(path, kind, columns, ignored, rows)


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _parquet_header(path: Path) -> tuple[list[str], int]:
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise InvalidInput(f"{path.name} is not a readable Parquet file: {error}") from None
    return list(file.schema_arrow.names), int(file.metadata.num_rows)


def _parquet_rows(path: Path, columns: list[str]) -> Iterator[Numbered]:
    line = 0
    for batch in pq.ParquetFile(path).iter_batches(batch_size=BATCH_ROWS):
        for row in batch.rename_columns(columns).to_pylist():
            line += 1
            yield Numbered(line, row)


def _open_csv(path: Path) -> Any:
    # surrogateescape lets a broken byte through to its own row instead of ending the file there
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def _csv_header(path: Path) -> list[str]:
    with _open_csv(path) as file:
        try:
            header = next(csv.reader(file), [])
        except csv.Error as error:
            raise InvalidInput(f"{path.name}'s first line cannot be read: {error}") from None
    names = [name.strip() for name in header]
    if not any(names):
        raise InvalidInput(f"{path.name} is empty; its first line must name the columns.")
    if any("\udc80" <= char <= "\udcff" for name in names for char in name):
        raise InvalidInput(f"{path.name} is not UTF-8. Save it as “CSV UTF-8” and import it again.")
    return names


def _csv_rows(path: Path, columns: list[str]) -> Iterator[Numbered]:
    with _open_csv(path) as file:
        reader = csv.reader(file)
        next(reader, None)
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Numbered(line, {}, f"the line cannot be read: {error}")
                continue
            if not cells:
                continue
            row = dict(zip(columns, cells, strict=False))
            yield Numbered(line, row, _problem(cells, columns))


def _csv_orders(path: Path, column: int) -> Iterator[str]:
    """Each row's order id as :func:`_csv_rows` will give it, without the rest of the row."""
    with _open_csv(path) as file:
        reader = csv.reader(file)
        next(reader, None)
        while True:
            try:
                for cells in reader:
                    if cells:
                        yield cells[column] if column < len(cells) else "None"
                return
            except csv.Error:
                yield "None"


def _problem(cells: list[str], columns: list[str]) -> str | None:
    if len(cells) > len(columns):
        return f"the line has {len(cells)} cells, but the header names {len(columns)} columns."
    if len(cells) < len(columns):
        return f"the line has only {len(cells)} cells of the {len(columns)} that the header names."
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return "the line is not UTF-8."
    return None


class RejectsFile:
    """A CSV of refused rows (line, reason, the row's own cells), made when the first one comes."""

    def __init__(self, path: Path, columns: list[str]) -> None:
        self.path = path
        self.columns = columns
        self.count = 0
        self._file: Any = None
        self._writer: Any = None

    def __enter__(self) -> RejectsFile:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, reject: Reject) -> None:
        if self._file is None:
            self._file = self.path.open("w", encoding="utf-8", errors="surrogateescape", newline="")
            self._writer = csv.writer(self._file)
            self._writer.writerow(["line", "reason", *self.columns])
        self._writer.writerow(
            [reject.line, reject.reason, *(reject.row.get(name, "") for name in self.columns)]
        )
        self.count += 1
