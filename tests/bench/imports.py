"""The import of a million order lines from CSV into SQLite, against csv.reader and executemany.

The peer reads the same file and puts the same orders and lines into the same tables, in transactions
of as many rows, and does nothing else: it checks nothing, compares nothing with what is there, keeps
no list of refused rows, and tells neither the warehouse nor loyalty what changed.
"""

from __future__ import annotations

import csv
import shutil
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from core.bulk import bulk_insert
from core.db import Database
from core.files import open_rows
from core.imports import CHUNK_ROWS, load_rows
from core.models import Member
from core.settings import Settings
from migrations.runner import upgrade
from tests.bench.made_up import orders_csv
from tests.bench.measure import Comparison, Sample, compare, cpu_s, in_child, take_turns

ROWS = 1_000_000
MEMBERS = 100_000
NOW = datetime(2026, 3, 2, 4, tzinfo=UTC)
SOURCE = "shop"


def timed_import(database: str, file: str) -> dict[str, Any]:
    """The subject: ``load_rows`` over the file, its rows checked, told apart and counted."""
    target = Database(f"sqlite:///{database}")
    settings = Settings(home=Path(database).parent, _env_file=None)
    start, used = time.perf_counter(), cpu_s()
    report = load_rows(
        target,
        "orders",
        open_rows(Path(file), "orders", {}),
        settings=settings,
        source=SOURCE,
        now=NOW,
        consents=lambda _session, _changes: None,
    )
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "cpu_s": cpu_s() - used, "inserted": report.inserted, **_sums(target)}


def timed_script(database: str, file: str) -> dict[str, Any]:
    """The peer: csv.reader and executemany."""
    target = Database(f"sqlite:///{database}")
    with target.engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT external_id, id FROM members")
        members = {row[0]: row[1] for row in rows}
    raw = target.engine.raw_connection()
    cursor = raw.cursor()
    start, used = time.perf_counter(), cpu_s()
    with Path(file).open(encoding="utf-8", newline="") as opened:
        for orders, lines in _plain_chunks(csv.reader(opened), members):
            cursor.execute("BEGIN IMMEDIATE")
            cursor.executemany(
                "INSERT INTO orders (id, source, external_id, member_id, ordered_at, status, currency, total_minor, "
                "discount_minor, refunded_minor, coupon_code, channel, fingerprint, updated_at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                orders,
            )
            cursor.executemany(
                "INSERT INTO order_lines (order_id, line_no, sku, category, quantity, amount_minor, "
                "discount_minor, refunded) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                lines,
            )
            raw.commit()
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "cpu_s": cpu_s() - used, **_sums(target)}


def _plain_chunks(reader: Any, members: dict[str, int]) -> Iterator[tuple[list[Any], list[Any]]]:
    next(reader)
    orders: list[list[Any]] = []
    lines: list[tuple[Any, ...]] = []
    number = line_no = 0
    current = None
    now = "2026-03-02 04:00:00.000000"
    for (
        order,
        member,
        at,
        sku,
        category,
        quantity,
        amount,
        discount,
        currency,
        status,
        coupon,
        channel,
    ) in reader:
        minor, off = round(float(amount) * 100), round(float(discount) * 100)
        gone = minor if status != "paid" else 0
        if order == current:
            head = orders[-1]
            head[7] += minor
            head[8] += off
            head[9] += gone
            line_no += 1
        else:
            if len(lines) >= CHUNK_ROWS:
                yield orders, lines
                orders, lines = [], []
            current, line_no = order, 1
            number += 1
            utc = datetime.fromisoformat(at).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
            orders.append([number, SOURCE, order, members[member], utc, status, currency, minor, off, gone,
                           coupon or None, channel, "", now])  # fmt: skip
        lines.append((number, line_no, sku, category, int(quantity), minor, off, status != "paid"))
    if lines:
        yield orders, lines


def _sums(database: Database) -> dict[str, Any]:
    """What must be the same whoever wrote it."""
    with database.engine.connect() as connection:
        orders = connection.exec_driver_sql(
            "SELECT count(*), sum(total_minor), sum(refunded_minor), min(ordered_at), max(ordered_at), "
            "sum(member_id) FROM orders"
        ).one()
        lines = connection.exec_driver_sql(
            "SELECT count(*), sum(amount_minor), sum(quantity), sum(refunded), sum(line_no) FROM order_lines"
        ).one()
    return {"orders": list(orders), "lines": list(lines)}


def _seeded(folder: Path) -> Path:
    path = folder / "seeded.db"
    database = Database(f"sqlite:///{path}")
    upgrade(database)
    columns = ("source", "external_id", "tags", "attributes", "fingerprint", "created_at", "updated_at")
    with database.write() as session:
        bare: list[Any] = [[], {}, "x", NOW, NOW]
        rows = ((SOURCE, f"m{number}", *bare) for number in range(1, MEMBERS + 1))
        bulk_insert(session, Member.__table__, columns, rows)
    with database.engine.connect() as connection:
        connection.execute(sa.text("COMMIT"))
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    database.dispose()
    return path


def bench(*, quick: bool, repetitions: int) -> Iterator[Comparison]:
    """One comparison: the import and the script, in turn."""
    rows = 50_000 if quick else ROWS
    file = orders_csv(rows, MEMBERS)
    folder = Path(tempfile.mkdtemp(prefix="huiliu-bench-"))
    try:
        seeded = _seeded(folder)

        def on_copy(function: str) -> Sample:
            target = folder / "target.db"
            shutil.copy(seeded, target)
            try:
                return in_child(f"tests.bench.imports:{function}", database=str(target), file=str(file))
            finally:
                for path in folder.glob("target.db*"):
                    path.unlink()

        names = {"import": "timed_import", "script": "timed_script"}
        samples = take_turns({name: partial(on_copy, what) for name, what in names.items()}, repetitions)
        wanted = samples["script"][0].answer
        for sample in samples["import"]:
            assert sample.answer.pop("inserted") == rows
            assert sample.answer == wanted, f"{sample.answer} is not {wanted}"
        yield compare("imports", f"{rows:,} order lines, sqlite", samples, "import", "script", rows=rows)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
