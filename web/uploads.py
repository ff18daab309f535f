"""Files of member ids, as people have them: CSV or one id a line, in the encodings that Excel writes.

Guarantees: a file is read in pieces, never whole; what it cannot be is said before anything is written.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator
from pathlib import Path

from core.errors import InvalidInput

CHUNK_BYTES = 1 << 20
ENCODINGS = ("utf-8", "gb18030")
"""Tried in this order; the second is what Excel writes in China."""
NAMES = frozenset(
    ("member_id", "member id", "memberid", "external_id", "id", "会员编号", "会员id", "会员号", "会员")
)
"""What the column of the ids may be called, in any case."""
_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_ZIP = b"PK\x03\x04"


def pasted(text: str) -> list[str]:
    """Ids out of a text field: separated by line ends, tabs, commas or semicolons."""
    return [part.strip() for part in re.split(r"[\n\r\t,;，；]+", text) if part.strip()]


def ids_in(path: Path) -> Iterator[str]:
    """The ids in a file: of the column that is called ``member_id`` (or alike), or of its only column.

    Raises InvalidInput at once for a file that is no text or does not say which column it is; and
    while it is read, for a line that cannot be.
    """
    encoding = _encoding(path)
    with path.open(encoding=encoding, newline="") as file:
        first = file.readline()
    delimiter = max(",;\t", key=first.count)
    cells = [cell.strip() for cell in next(csv.reader([first], delimiter=delimiter), [])]
    column = next((i for i, cell in enumerate(cells) if cell.casefold() in NAMES), None)
    if column is None and len(cells) > 1:
        raise InvalidInput(
            f"The file has the columns {', '.join(cells[:8])}; call the one with the ids member_id.", "file"
        )
    return _read(path, encoding, delimiter, column or 0, skip=column is not None)


def _read(path: Path, encoding: str, delimiter: str, column: int, *, skip: bool) -> Iterator[str]:
    with path.open(encoding=encoding, newline="") as file:
        reader = csv.reader(file, delimiter=delimiter)
        try:
            for row in reader:
                if skip:
                    skip = False
                elif len(row) > column and row[column].strip():
                    yield row[column].strip()
        except csv.Error as error:
            raise InvalidInput(f"Line {reader.line_num} cannot be read: {error}.", "file") from None


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(4)
    if not head:
        raise InvalidInput("The file is empty.", "file")
    if head == _ZIP:
        raise InvalidInput("This is a workbook. Save it as CSV, then upload that.", "file")
    for bom, name in _BOMS.items():
        if head.startswith(bom):
            return name
    for name in ENCODINGS:
        if _decodes(path, name):
            return name
    raise InvalidInput("The file is no text in UTF-8 or GBK. Save it as “CSV UTF-8”.", "file")


def _decodes(path: Path, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                if b"\0" in chunk:
                    return False
                decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True
