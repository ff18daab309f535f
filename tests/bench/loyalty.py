"""Redeeming codes and burning points through the real web server, against pgbench with the same statements.

The server runs in a process a core on a private, durable PostgreSQL. What one request sends to the database
is recorded, and pgbench sends exactly that, on rows of its own, with as many clients (a few, and a rush of
them): first as fast as each can; then at half of its own rate, where the slowest hundredth of the answers is
compared.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg import sql

from core.bulk import bulk_insert
from core.db import Database
from core.models import Member
from core.settings import Settings
from loyalty import coupons, points
from loyalty.batches import NewBatch, create_batch
from loyalty.models import Coupon, PointsLot
from tests import postgres
from tests.bench import load
from tests.bench.measure import Comparison, Sample, compare, take_turns
from tests.conftest import SECRET, count
from web.api import keys
from web.app import create_app

CLIENTS = (16, 64)
"""Tills that ask at once: some, and those of a flash sale."""
THREADS = 32
PROCESSES = os.cpu_count() or 1
REQUESTS, SECONDS = 8_000, 8
AT_LEAST, AT_MOST_P99 = 0.3, 5.0
MEMBERS = 20_000
LOT = 1_000_000
PER_CLIENT = 1_000_000
FASTEST = 10_000
"""Transactions a second that pgbench has rows for."""
COUPON_ID, MEMBER_ID = 700_000_000, 710_000_000
"""First ids of the rows that are used by number; far from every other number in the statements."""
NOW = datetime.now(UTC)


@dataclass(frozen=True)
class Case:
    """An endpoint, the body of its request number n, and the expressions of ``:n`` in pgbench.

    ``stands_for`` says by which expression each value of the recorded request is made of a number there.
    """

    name: str
    path: str
    body: Callable[[int], dict[str, Any]]
    stands_for: Mapping[Any, str]
    table: str
    """Gains a row a request."""


def rows_of(transactions: int) -> Iterator[tuple[int, range]]:
    """For each number of clients, the turns of each of them that there are rows for; none twice."""
    first = 0
    for clients in CLIENTS:
        turns = range(first + 1, first + transactions // clients + 2)
        yield clients, turns
        first = turns[-1]


class Shop:
    """A migrated database on PostgreSQL with codes, members and points; its API key."""

    def __init__(self, database: Database, codes_: int, transactions: int) -> None:
        self.database = database
        with database.write() as session:
            new = NewBatch("bench", "Bench", {"type": "fixed", "amount": 100}, "CNY")
            batch = create_batch(session, new, "bench", NOW)
            _, self.key = keys.create(session, "bench", ("loyalty",), "bench", NOW)
            issued: dict[str, str] = {}
            for start in range(0, codes_ + 1, coupons.MAX_ISSUE):
                rows = [(None, f"r{n}") for n in range(start, min(codes_ + 1, start + coupons.MAX_ISSUE))]
                issued |= coupons.issue(session, batch, rows, NOW)
            self.codes = list(issued.values())
            self._numbered(session, transactions)
            session.execute(sa.text("ANALYZE"))  # as the server does by itself within a minute

    def _numbered(self, session: Any, transactions: int) -> None:
        """Rows that pgbench can name by a number: codes, and members with a lot of points each."""
        first = session.execute(sa.select(Coupon.__table__).limit(1)).mappings().one()
        made = {"id": None, "code": None, "issue_key": None}
        columns = [*made, *(name for name in first if name not in made)]
        rest = tuple(first[name] for name in columns[len(made) :])
        numbers = [
            client * PER_CLIENT + n
            for clients, turns in rows_of(transactions)
            for client in range(clients)
            for n in turns
        ]
        rows = ((COUPON_ID + n, f"BENCH{n}", f"b{n}", *rest) for n in numbers)
        bulk_insert(session, Coupon.__table__, columns, rows)
        # One with a code that a till may send: what it does is recorded.
        self.sample = self.codes.pop()
        session.execute(sa.delete(Coupon).where(Coupon.code == self.sample))
        bulk_insert(session, Coupon.__table__, columns, [(COUPON_ID, self.sample, "b0", *rest)])
        people = (
            "id",
            "source",
            "external_id",
            "tags",
            "attributes",
            "fingerprint",
            "created_at",
            "updated_at",
        )
        ids = range(MEMBER_ID, MEMBER_ID + MEMBERS)
        bulk_insert(
            session, Member.__table__, people, ((i, "shop", f"m{i}", [], {}, "x", NOW, NOW) for i in ids)
        )
        points.grant_many(session, [(i, LOT, f"g{i}") for i in ids], NOW, source_kind="grant")
        # The lot by its member's number.
        session.execute(sa.update(PointsLot).values(id=PointsLot.member_id + MEMBERS))
        session.execute(sa.text("UPDATE points_entries SET lot_id = member_id + :n"), {"n": MEMBERS})

    def cases(self) -> list[Case]:
        member = MEMBER_ID
        number = ":client_id * 1000000 + :n"
        redeem = Case(
            "redeem a code",
            "/api/v1/coupons/redeem",
            lambda n: {
                "code": self.codes[n] if n >= 0 else self.sample,
                "order_id": f"o{n}",
                "basket_minor": 5000,
            },
            {
                self.sample: f"'BENCH' || ({number})",
                COUPON_ID: f"({COUPON_ID} + {number})",
                "o-1": f"'o' || ({number})",
            },
            "redemptions",
        )
        burn = Case(
            "burn points",
            "/api/v1/points/burn",
            lambda n: {"member_id": f"m{MEMBER_ID + max(n, 0) % MEMBERS}", "points": 1, "order_id": f"o{n}"},
            {
                f"m{member}": f"'m' || ({MEMBER_ID} + :m)",
                member: f"({MEMBER_ID} + :m)",
                member + MEMBERS: f"({MEMBER_ID + MEMBERS} + :m)",
                "o-1": f"'o' || ({number})",
            },
            "points_entries",
        )
        return [redeem, burn]


@contextmanager
def recorded() -> Iterator[list[tuple[str, Any]]]:
    """The statements that psycopg is asked for in the block, with their parameters."""
    found: list[tuple[str, Any]] = []
    plain = psycopg.Cursor.execute

    def execute(cursor: Any, query: Any, params: Any = None, **options: Any) -> Any:
        found.append((query if isinstance(query, str) else query.as_string(cursor), params))
        return plain(cursor, query, params, **options)

    psycopg.Cursor.execute = execute  # type: ignore[assignment]
    try:
        yield found
    finally:
        psycopg.Cursor.execute = plain  # type: ignore[method-assign]


def script(case: Case, shop: Shop, folder: Path) -> str:
    """pgbench's script of one request of the case: what the endpoint does, recorded and put in numbers."""
    settings = Settings(home=folder, database_url=shop.database.url, secret=SECRET, _env_file=None)
    client = create_app(settings, shop.database).test_client()
    headers = {"Authorization": f"Bearer {shop.key}", "Idempotency-Key": "sample"}
    warm = client.post(case.path, json=case.body(0), headers={**headers, "Idempotency-Key": "warm"})
    assert warm.status_code == 200, warm.get_json()
    with recorded() as statements:
        answer = client.post(case.path, json=case.body(-1), headers=headers)
    assert answer.status_code == 200, answer.get_json()
    number = ":client_id * 1000000 + :n"
    stands_for = {**case.stands_for, "sample": f"'k' || ({number})"}
    lines = ["\\set n :n + 1", f"\\set m random(0, {MEMBERS - 1})", "BEGIN;"]
    lines += [f"{_in_numbers(query, params, stands_for, number)};" for query, params in statements]
    return "\n".join([*lines, "COMMIT;", ""])


_PLACE = re.compile(r"%\((\w+)\)s|%s|%%")


def _in_numbers(query: str, params: Any, stands_for: Mapping[Any, str], number: str) -> str:
    """A statement with its values written out, and those that differ by request as expressions."""
    places = iter(params or ()) if not isinstance(params, dict) else iter(())

    def expression(found: Any) -> str:
        plain = found.obj if hasattr(found, "obj") else found  # psycopg's own wrappers
        if isinstance(plain, str) and re.fullmatch(r"[0-9a-f]{64}", plain):
            return f"'h' || ({number})"  # a request's fingerprint
        if isinstance(plain, int | str) and plain in stands_for:
            return stands_for[plain]
        return _literal(found)

    def value(match: re.Match[str]) -> str:
        if match[0] == "%%":
            return "%"
        found = params[match[1]] if match[1] else next(places)
        plain = found.obj if hasattr(found, "obj") else found  # psycopg's own wrappers
        if isinstance(plain, list):
            inside = ", ".join(stands_for.get(one) or _literal(one) for one in plain)
            return f"ARRAY[{inside}]"
        if isinstance(plain, str) and plain.startswith("[{"):
            return f"({_rows_in_numbers(plain, expression)})"
        return expression(found)

    return " ".join(_PLACE.sub(value, query).split())


def _rows_in_numbers(text: str, expression: Callable[[Any], str]) -> str:
    """Rows that are sent as JSON, as SQL that puts the same text together from what differs.

    With a blank after each colon: pgbench takes ``:null`` for a variable.
    """
    [row] = json.loads(text)
    parts = ["[{"]
    for name, value in row.items():
        parts[-1] += f'{"" if parts == ["[{"] else ","}"{name}": '
        made = expression(value) if isinstance(value, int | str) else None
        if made is None or made == _literal(value):
            parts[-1] += json.dumps(value)
        else:
            quote = '"' if isinstance(value, str) else ""
            parts[-1] += quote
            parts += [f"({made})::text", quote]
    parts[-1] += "}]"
    return " || ".join(part if place % 2 else _literal(part) for place, part in enumerate(parts))


def _literal(value: Any) -> str:
    return sql.Literal(value).as_string(None)


@contextmanager
def served(shop: Shop, folder: Path) -> Iterator[int]:
    """The web server in processes of its own; answers its port."""
    port = postgres.free_port()
    environment = {
        **os.environ,
        "HUILIU_DATABASE_URL": shop.database.url,
        "HUILIU_SECRET": SECRET,
        "HUILIU_HOME": str(folder),
        "HUILIU_PORT": str(port),
        "HUILIU_API_RATE": "100000000/minute",
    }
    command = [sys.executable, "-m", "web", "serve", "--processes", str(PROCESSES), "--threads", str(THREADS)]
    server = subprocess.Popen(command, env=environment)
    try:
        for _ in range(300):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.1)
        yield port
    finally:
        server.terminate()
        server.wait(60)


class Server:
    """Our contestant: every request of a case once, through HTTP."""

    def __init__(self, shop: Shop, case: Case, port: int, requests: int, clients: int, first: int) -> None:
        self._shop, self._case, self._port, self._each = shop, case, port, requests
        self._clients, self.next = clients, first

    def _requests(self, number: int) -> list[bytes]:
        start, self.next = self.next, self.next + number
        return [
            load.post(
                self._case.path,
                "127.0.0.1",
                [("Authorization", f"Bearer {self._shop.key}"), ("Idempotency-Key", f"{self._case.name}{n}")],
                json.dumps(self._case.body(n)).encode(),
            )
            for n in range(start, start + number)
        ]

    def run(self, rate: float | None = None, number: int | None = None) -> load.Load:
        requests = self._requests(number or self._each)
        done = (
            load.closed(self._port, requests, self._clients)
            if rate is None
            else load.open_loop(self._port, requests, self._clients, rate)
        )
        assert set(done.statuses) == {200}, done.statuses
        return done


class PgBench:
    """The peer: the same statements by pgbench, on rows of its own."""

    def __init__(self, shop: Shop, text: str, table: str, folder: Path, clients: int, first: int) -> None:
        self._shop, self._table, self._folder, self._start = shop, table, folder, first - 1
        self._clients = clients
        self._file = folder / "script.sql"
        self._file.write_text(text)

    def run(self, seconds: int, rate: float | None = None) -> tuple[float, float]:
        """Transactions a second, and the seconds that 99 % of them did not exceed."""
        for old in self._folder.glob("pgbench_log*"):
            old.unlink()
        binary = postgres.find()
        assert binary is not None
        command = [
            *(str(binary / "pgbench"), "-n", "-M", "prepared", "-c", str(self._clients), "-j", "2"),
            *("-T", str(seconds), "-f", str(self._file), "-l", "-D", f"n={self._start}"),
            *(("-R", str(rate)) if rate else ()),
            self._shop.database.url,
        ]
        before = count(self._shop.database, self._table)
        done = subprocess.run(command, cwd=self._folder, capture_output=True, text=True, check=True)
        found = re.search(r"tps = ([\d.]+)", done.stdout)
        assert found is not None, done.stdout
        assert "number of failed transactions: 0 " in done.stdout, done.stdout
        logs = [
            line.split() for log in self._folder.glob("pgbench_log*") for line in log.read_text().splitlines()
        ]
        # A statement that found nothing would be quick.
        assert count(self._shop.database, self._table) - before == len(logs)
        self._start += max(int(line[1]) for line in logs) + 1
        ordered = sorted(int(line[2]) for line in logs)
        return float(found[1]), ordered[int(0.99 * len(ordered))] / 1e6


def _sample(per_s: float, **answer: Any) -> Sample:
    """A rate as the seconds of a thousand."""
    return Sample(1000 / per_s, None, None, {"per_s": round(per_s), **answer})


def _measure(
    name: str, ours: Server, theirs: PgBench, warm: int, seconds: int, rounds: int
) -> Iterator[Comparison]:
    ours.run(number=warm)  # every process has met every statement
    theirs.run(1)
    fast = take_turns(
        {"server": lambda: _sample(ours.run().per_s), "pgbench": lambda: _sample(theirs.run(seconds)[0])},
        rounds,
    )
    yield compare("loyalty", name, fast, "server", "pgbench", rows=1000, at_least=AT_LEAST)
    half = {
        name: sum(sample.answer["per_s"] for sample in samples) / len(samples) / 2
        for name, samples in fast.items()
    }

    def slowest(name: str) -> Sample:
        rate = half[name]
        number = max(200, int(rate * seconds))
        p99 = ours.run(rate, number).quantile(0.99) if name == "server" else theirs.run(seconds, rate)[1]
        return Sample(p99, None, None, {"rate": round(rate)})

    slow = take_turns({name: partial(slowest, name) for name in ("server", "pgbench")}, rounds)
    yield compare(
        "loyalty", f"{name}, p99 at half load", slow, "server", "pgbench", rows=1, at_most=AT_MOST_P99
    )


def bench(*, quick: bool, repetitions: int) -> Iterator[Comparison]:
    """Both endpoints with few and with many clients: rate, then p99 at half of it."""
    requests, seconds = (300, 1) if quick else (REQUESTS, SECONDS)
    warm = max(200, requests // 10)
    codes_ = (requests * (2 * repetitions + 1) + warm) * len(CLIENTS) + 1_000
    transactions = FASTEST * seconds * (2 * repetitions + 1)
    with tempfile.TemporaryDirectory(prefix="huiliu-bench-") as name:
        folder = Path(name)
        (folder / "pg").mkdir()
        with postgres.running(folder / "pg", durable=True) as cluster:
            shop = Shop(Database(cluster.url(cluster.create())), codes_, transactions)
            (folder / "home").mkdir()
            with served(shop, folder / "home") as port:
                for case in shop.cases():
                    work = folder / case.name.replace(" ", "-")
                    work.mkdir()
                    text, next_ = script(case, shop, work), 1
                    for clients, turns in rows_of(transactions):
                        ours = Server(shop, case, port, requests, clients, next_)
                        theirs = PgBench(shop, text, case.table, work, clients, turns[0])
                        named = f"{case.name}, {clients} clients"
                        yield from _measure(named, ours, theirs, warm, seconds, repetitions)
                        next_ = ours.next
            shop.database.dispose()
