"""Files of coupon codes, in and out: what the console and the command line share.

Guarantees: a file is read in pieces and committed a lot at a time; an export goes out while it is read,
holds codes, states and times but nobody's name, and leaves an audit row before its first line.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from core import audit
from core.db import Database
from core.errors import InvalidInput
from core.files import RejectsFile
from core.imports import Reject
from loyalty import coupons, foreign_codes
from loyalty.foreign_codes import EXPORT_COLUMNS, LOT, Line
from web.uploads import _encoding

CODE_NAMES = frozenset(("code", "coupon", "coupon_code", "券码", "优惠码", "优惠券码"))
MEMBER_NAMES = frozenset(("member_id", "member", "会员编号", "会员id", "会员"))
COLUMNS = ["code", "member_id"]


def lines_in(path: Path) -> Iterator[Line]:
    """The lines of a CSV with a header ``code[,member_id]``, or of codes alone, one a line."""
    with path.open(encoding=_encoding(path), newline="") as file:
        reader = csv.reader(file)
        first = [cell.strip().casefold() for cell in next(reader, [])]
        code = next((place for place, name in enumerate(first) if name in CODE_NAMES), None)
        member = next((place for place, name in enumerate(first) if name in MEMBER_NAMES), None)
        if code is None and len(first) > 1:
            raise InvalidInput(
                f"The file has the columns {', '.join(first[:8])}; call the one with the codes code.", "file"
            )
        if code is None:
            file.seek(0)
            reader = csv.reader(file)
        try:
            for row in reader:
                text = row[code or 0].strip() if len(row) > (code or 0) else ""
                owner = row[member].strip() if member is not None and len(row) > member else ""
                if text or owner:
                    yield Line(reader.line_num, text.lstrip("\ufeff"), owner or None)
        except csv.Error as error:
            raise InvalidInput(f"Line {reader.line_num} cannot be read: {error}.", "file") from None


def rejects_path(home: Path, batch_id: int) -> Path:
    """Where the refused lines of the newest file of a batch are kept, for download."""
    return home / "rejects" / "coupons" / f"{batch_id}.csv"


@contextmanager
def keeping_rejects(path: Path) -> Iterator[RejectsFile]:
    """Collect refused lines; at the end they replace those of the file before, also where there are none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    with RejectsFile(temporary, COLUMNS) as file:
        yield file
    if file.count:
        temporary.replace(path)
    else:
        path.unlink(missing_ok=True)


def load_file(
    database: Database,
    batch_name: str,
    path: Path,
    *,
    source: str,
    by: str,
    now: datetime,
    dry_run: bool = False,
    on_reject: Callable[[Reject], None] = lambda _reject: None,
    progress: Callable[[int], None] = lambda _number: None,
) -> dict[str, int]:
    """Load a file into a batch: rows, inserted, unchanged, rejected. A dry run writes nothing."""
    total = {"rows": 0, "inserted": 0, "unchanged": 0, "rejected": 0}
    lines = lines_in(path)
    while lot := list(itertools.islice(lines, LOT)):
        with database.read() if dry_run else database.write() as session:
            batch = coupons.find_batch(session, batch_name)
            done = foreign_codes.load(session, batch, lot, source, now)
            if done.inserted:
                detail = {"batch": batch_name, "codes": done.inserted}
                audit.record(session, by, "import", "coupon_batch", batch.id, now, detail)
        for line, reason in done.rejected:
            on_reject(Reject(line.number, reason, {"code": line.code, "member_id": line.member or ""}))
        total["rows"] += len(lot)
        total["inserted"] += done.inserted
        total["unchanged"] += done.unchanged
        total["rejected"] += len(done.rejected)
        progress(len(lot))
    return total


def export(database: Database, batch_id: int, by: str, now: datetime) -> Iterator[str]:
    """The batch's codes as CSV, a page at a time; who took them is in the audit trail first."""
    with database.write() as session:
        audit.record(session, by, "export", "coupon_batch", batch_id, now)
    return _pages(database, batch_id)


def _pages(database: Database, batch_id: int) -> Iterator[str]:
    with database.read() as session:
        rows = foreign_codes.exported(session, batch_id)
        yield _csv([EXPORT_COLUMNS])
        while page := list(itertools.islice(rows, foreign_codes.EXPORT_ROWS)):
            yield _csv(page)


def _csv(rows: list[tuple[str, ...]] | list[tuple[str, str, str, str, str]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()
