"""Rules over 1,000,000 members, 10,000,000 orders and 50,000,000 events.

Counts of a profile rule, a rule of two events and a sequence against the query that one would write by
hand; the console's preview over HTTP; a warehouse of a hundredth of the size; and the evaluation of fifty
segments against one scan of what they read together. ``seconds`` of a count is the 95th percentile of a
warm process's rounds; both sides read the same files and must give the same numbers.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from functools import partial
from http.client import HTTPConnection
from http.cookies import SimpleCookie
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import duckdb

from core.db import Database
from core.settings import Settings
from core.warehouse.engine import DuckEngine
from migrations.runner import upgrade
from segments.compile import Moment
from segments.evaluate import Evaluator
from segments.facts import open_engine
from segments.memberships import evaluate_all
from segments.models import Refresh
from segments.scores import SNAPSHOT, snapshot_path, write_snapshot
from segments.settings import Scoring
from tests.bench.made_up import events, warehouse
from tests.bench.measure import Comparison, Sample, compare, cpu_s, in_child, take_turns

MEMBERS, ORDERS, EVENTS = 1_000_000, 10_000_000, 50_000_000
ROUNDS = 20
PERCENTILE = 0.95
AT_MOST, PREVIEW_S, SCANS = 1.3, 0.5, 3.0
AS_OF = date(2026, 1, 1)
ZONE = "Asia/Shanghai"
NOW = datetime(2026, 1, 1, 4, tzinfo=UTC)
PASSWORD = "correct horse battery"
Rule = dict[str, Any]


def field(name: str, op: str, value: Any = None) -> Rule:
    return {"field": name, "op": op} | ({} if value is None else {"value": value})


def did(event: str, op: str = ">=", value: Any = 1, last: str | None = None, **more: Any) -> Rule:
    return {"event": event, "op": op, "value": value, **({"within": {"last": last}} if last else {}), **more}


def then_not(event: str, other: str, within: str, last: str) -> Rule:
    steps = [{"event": event}, {"not": {"event": other}, "within": within}]
    return {"sequence": steps, "within": {"last": last}}


RULES: dict[str, Rule] = {
    "profile": {
        "all": [
            field("city", "in", ["city7", "city8"]),
            field("gender", "=", "female"),
            field("lifecycle", "in", ["active", "high_value"]),
        ]
    },
    "two events": {"all": [did("view", ">=", 3, "30d"), did("order", ">=", 1, "90d")]},
    "sequence": then_not("add_to_cart", "order", "3d", "30d"),
}
AS_OF_TIME = "TIMESTAMPTZ '2025-12-31 16:00:00+00'"
PAID = "(status = 'paid' OR net_minor > 0)"
# Everybody of the snapshot was there as of its date, which is all that “there” asks for here.
BY_HAND: dict[str, str] = {
    "profile": """
        SELECT count(*) FROM members JOIN snapshot USING (member_id)
        WHERE city IN ('city7', 'city8') AND gender = 'female' AND stage IN ('active', 'high_value')""",
    "two events": f"""
        SELECT count(*) FROM snapshot
        WHERE member_id IN (SELECT member_id FROM events
            WHERE kind = 'view' AND occurred_at >= {AS_OF_TIME} - INTERVAL 30 DAY AND occurred_at < {AS_OF_TIME}
            GROUP BY member_id HAVING count(*) >= 3)
        AND member_id IN (SELECT member_id FROM orders
            WHERE {PAID} AND ordered_at >= {AS_OF_TIME} - INTERVAL 90 DAY AND ordered_at < {AS_OF_TIME})""",
    "sequence": f"""
        SELECT count(*) FROM snapshot WHERE member_id IN (
            SELECT member_id FROM (
                SELECT member_id, t, cart, min(CASE WHEN NOT cart THEN t END) OVER (
                    PARTITION BY member_id ORDER BY t, cart ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING) AS next
                FROM (
                    SELECT member_id, occurred_at AS t, true AS cart FROM events
                    WHERE kind = 'add_to_cart' AND occurred_at >= {AS_OF_TIME} - INTERVAL 30 DAY
                        AND occurred_at < {AS_OF_TIME}
                    UNION ALL
                    SELECT member_id, ordered_at, false FROM orders
                    WHERE {PAID} AND ordered_at >= {AS_OF_TIME} - INTERVAL 30 DAY AND ordered_at < {AS_OF_TIME}))
            WHERE cart AND t <= {AS_OF_TIME} - INTERVAL 3 DAY AND (next IS NULL OR next > t + INTERVAL 3 DAY))""",
}


def fifty() -> list[Rule]:
    """A shop's segments: scores and profile, buying, browsing, carts left behind."""
    found: list[Rule] = []
    for n, name in enumerate(
        ("champions", "loyal", "at_risk", "new", "cant_lose", "hibernating", "promising")
    ):
        found.append(field("rfm.segment", "=", name))
        found.append({"all": [field("city", "=", f"city{n}"), field("gender", "=", "female")]})
    for n, days in enumerate((7, 14, 30, 60, 90, 180)):
        found.append(
            {
                "all": [
                    field("lifecycle", "in", ["dormant", "churned"]),
                    field("rfm.monetary", ">=", 100 * days),
                ]
            }
        )
        found.append(did("order", ">=", n + 1, f"{days}d"))
        found.append(did("order", ">=", 100 + 10 * days, f"{days}d", aggregate="sum", of="amount"))
        found.append({"all": [did("order", ">=", 2), {"not": did("order", last=f"{days}d")}]})
    for kind, last in (
        ("view", "7d"),
        ("view", "30d"),
        ("add_to_cart", "14d"),
        ("favourite", "60d"),
        ("share", "90d"),
    ):
        found.append(did(kind, ">=", 2, last))
    for last in ("7d", "30d"):
        found.append({"all": [did("view", ">=", 3, last), {"not": did("order", last=last)}]})
    found.append(did("view", where=[field("sku", "in", [f"s{n}" for n in range(20)])], last="30d"))
    found.append(did("view", ">=", 500, "14d", aggregate="sum", of="price"))
    found.append(then_not("add_to_cart", "order", "3d", "30d"))
    found.append(then_not("favourite", "order", "7d", "30d"))
    found.append(did("order", "in_last", "30d", aggregate="first"))
    assert len(found) == 50, len(found)
    return found


# The columns and the months that the fifty read: behaviour of 90 days, all orders, members and scores.
ONE_SCAN = f"""
    SELECT
        (SELECT max(member_id) + max(length(kind)) + max(length(properties)) + epoch_us(max(occurred_at)) FROM events
            WHERE occurred_at >= {AS_OF_TIME} - INTERVAL 90 DAY),
        (SELECT max(member_id) + epoch_us(max(ordered_at)) + max(net_minor) + max(length(status)) FROM orders),
        (SELECT max(member_id) + max(length(city)) + max(length(gender)) + epoch_us(max(registered_at)) FROM members),
        (SELECT max(member_id) + max(length(rfm_segment)) + max(monetary) + max(length(stage))
            + epoch_us(max(last_order_at)) FROM snapshot)"""


# The same, by member: what any evaluation has to do at least, whatever it then asks.
ONE_PASS = f"""
    SELECT count(*), max(e.a + e.b + e.c), max(o.a + o.b + o.c), max(length(city)), max(length(gender)),
        max(length(rfm_segment)), max(monetary), max(length(stage))
    FROM members LEFT JOIN snapshot USING (member_id)
    LEFT JOIN (
        SELECT member_id, max(length(kind)) AS a, max(length(properties)) AS b, epoch_us(max(occurred_at)) AS c
        FROM events WHERE occurred_at >= {AS_OF_TIME} - INTERVAL 90 DAY GROUP BY member_id
    ) AS e USING (member_id)
    LEFT JOIN (
        SELECT member_id, max(net_minor) AS a, max(length(status)) AS b, epoch_us(max(ordered_at)) AS c
        FROM orders GROUP BY member_id
    ) AS o USING (member_id)"""
PASSES = {"one scan": ONE_SCAN, "one pass by member": ONE_PASS}


def p95(seconds: list[float]) -> float:
    """The 95th percentile: of twenty, the second slowest."""
    return sorted(seconds)[max(0, int(PERCENTILE * len(seconds)) - 1)]


def timed(run: Callable[[], Any], rounds: int) -> tuple[float, Any]:
    """95th percentile of the warm rounds, and the answer."""
    answer = run()
    run()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        answer = run()
        seconds.append(time.perf_counter() - start)
    return p95(seconds), answer


def _engine(home: str) -> DuckEngine:
    return open_engine(Settings(home=Path(home), shop_timezone=ZONE, _env_file=None))


def _moment() -> Moment:
    return Moment(AS_OF, Settings(shop_timezone=ZONE, _env_file=None).zone)


def timed_count(home: str, name: str, rounds: int) -> dict[str, Any]:
    """The subject: the evaluator's count, total and share; names of a sample are the preview's to pay for."""
    engine, used = _engine(home), cpu_s()
    evaluator = Evaluator(engine, _moment(), {}.get, snapshot_path(engine, SNAPSHOT, AS_OF))
    seconds, found = timed(lambda: evaluator.count(RULES[name], 0), rounds)
    return {"seconds": seconds, "cpu_s": cpu_s() - used, "count": found.count}


def _by_hand(home: str) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(":memory:")
    connection.execute("SET TimeZone = 'UTC'")
    for table in ("members", "orders", "events"):
        connection.execute(f"CREATE VIEW {table} AS FROM read_parquet('{home}/warehouse/{table}/*.parquet')")
    snapshot = f"{home}/warehouse/snapshots/members/{AS_OF}.parquet"
    connection.execute(f"CREATE VIEW snapshot AS FROM read_parquet('{snapshot}')")
    return connection


def timed_by_hand(home: str, name: str, rounds: int) -> dict[str, Any]:
    """The peer: one bare query, of the count alone."""
    connection, used = _by_hand(home), cpu_s()
    seconds, found = timed(lambda: connection.execute(BY_HAND[name]).fetchall(), rounds)
    return {"seconds": seconds, "cpu_s": cpu_s() - used, "count": found[0][0]}


def timed_evaluation(home: str, rounds: int) -> dict[str, Any]:
    """The subject: fifty segments of a refresh, evaluated, compared and written."""
    engine, used = _engine(home), cpu_s()
    segments = [SimpleNamespace(id=n, name=f"s{n}", rule=rule) for n, rule in enumerate(fifty(), 1)]
    run = partial(evaluate_all, engine, segments, _moment(), None)
    seconds, moves = timed(run, rounds)  # type: ignore[arg-type]
    return {"seconds": seconds, "cpu_s": cpu_s() - used, "counts": [move.count for move in moves]}


def timed_pass(home: str, name: str, rounds: int) -> dict[str, Any]:
    """The peers: every value that the fifty segments need, read once, as it lies and by member."""
    connection, used = _by_hand(home), cpu_s()
    seconds, _ = timed(lambda: connection.execute(PASSES[name]).fetchall(), rounds)
    return {"seconds": seconds, "cpu_s": cpu_s() - used}


def timed_preview(home: str, name: str, rounds: int) -> dict[str, Any]:
    """The console's own server on loopback: log in, then post the rule as the builder does."""
    from waitress.server import create_server

    from web.app import create_app

    settings = Settings(home=Path(home), shop_timezone=ZONE, _env_file=None)
    database = Database(settings.url)
    app = create_app(settings, database, clock=lambda: NOW)
    server = create_server(app, host="127.0.0.1", port=0)
    threading.Thread(target=server.run, daemon=True).start()
    browser, used = Browser(server.effective_port), cpu_s()
    browser.log_in()
    form = {"rule": json.dumps(RULES[name])}
    seconds, page = timed(lambda: browser.post("/segments/count", form), rounds)
    browser.close()
    server.close()
    database.dispose()
    return {"seconds": seconds, "cpu_s": cpu_s() - used, "page": re.sub(r"<[^>]+>|\s+", " ", page)[:300]}


class Browser:
    """As much of one as the preview needs: cookies and the token of the forms."""

    def __init__(self, port: int) -> None:
        self._connection = HTTPConnection("127.0.0.1", port)
        self._cookies: SimpleCookie = SimpleCookie()
        self._token = ""

    def close(self) -> None:
        self._connection.close()

    def _send(self, method: str, path: str, form: dict[str, str] | None = None) -> str:
        headers = {"Cookie": "; ".join(f"{key}={one.value}" for key, one in self._cookies.items())}
        body = None
        if form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            body = urlencode({"csrf_token": self._token, **form})
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        for header in answer.headers.get_all("Set-Cookie") or []:
            self._cookies.load(header)
        page = answer.read().decode()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status}")
        return page

    def log_in(self) -> None:
        for path, form in (
            ("/login", {"email": "ann@example.com", "password": PASSWORD}),
            ("/segments/new", None),
        ):
            found = re.search(r'name="csrf_token" value="([^"]+)"', self._send("GET", path))
            assert found is not None
            self._token = found.group(1)
            if form is not None:
                self._send("POST", path, form)

    def post(self, path: str, form: dict[str, str]) -> str:
        return self._send("POST", path, form)

    def get(self, path: str) -> str:
        return self._send("GET", path)


def _home(folder: Path, members: int, orders: int, happened: int) -> Path:
    """A home with a database that knows of one refresh, the made-up warehouse, and its snapshot."""
    from web.users import create_user

    home = Path(tempfile.mkdtemp(dir=folder))
    (home / "warehouse").mkdir()
    for table, facts in (
        ("orders", warehouse(members, orders)),
        ("members", warehouse(members, orders)),
        ("events", events(members, happened)),
    ):
        (home / "warehouse" / table).symlink_to(facts / table)
    settings = Settings(home=home, shop_timezone=ZONE, _env_file=None)
    database = Database(settings.url)
    upgrade(database)
    write_snapshot(open_engine(settings), Scoring(), AS_OF, settings.zone, None)
    create_user(database, "ann@example.com", PASSWORD, ["admin"], now=NOW)
    with database.write() as session:
        session.add(
            Refresh(
                as_of=AS_OF, started_at=NOW, finished_at=NOW, members=members, scored=members,
                stages={}, segments={}, rfm={}, seconds={},
            )
        )  # fmt: skip
    database.dispose()
    return home


def bench(*, quick: bool, repetitions: int) -> Iterator[Comparison]:
    """Counts, previews, sizes, and fifty segments."""
    rounds = 3 if quick else ROUNDS
    scale = 100 if quick else 1
    sizes = (MEMBERS // scale, ORDERS // scale, EVENTS // scale)
    small_sizes = tuple(size // 100 for size in sizes)
    folder = Path(tempfile.mkdtemp(prefix="huiliu-bench-"))
    try:
        home = str(_home(folder, *sizes))
        small = str(_home(folder, *small_sizes))  # type: ignore[arg-type]
        call = "tests.bench.rules:timed_"
        people = f"{sizes[0]:,} members"
        for name in RULES:
            contestants = {
                "count": partial(in_child, f"{call}count", home=home, name=name, rounds=rounds),
                "by hand": partial(in_child, f"{call}by_hand", home=home, name=name, rounds=rounds),
                "count, small": partial(in_child, f"{call}count", home=small, name=name, rounds=rounds),
                "preview": partial(in_child, f"{call}preview", home=home, name=name, rounds=rounds),
            }
            samples = take_turns(contestants, repetitions)
            assert samples["count"][0].answer["count"] == samples["by hand"][0].answer["count"]
            judge = partial(
                compare, "rules", samples={**samples, "limit": [Sample(PREVIEW_S, None, None)] * repetitions}
            )
            rows = sizes[0]
            yield judge(
                f"{name}: count of {people}", subject="count", peer="by hand", rows=rows, at_most=AT_MOST
            )
            yield judge(f"{name}: HTTP preview", subject="preview", peer="limit", rows=rows, at_most=1.0)
            yield judge(
                f"{name}: count of {people}", subject="count", peer="count, small", rows=rows, at_most=100.0
            )
        few = max(1, rounds // 7)
        contestants = {
            "fifty segments": partial(in_child, f"{call}evaluation", home=home, rounds=few),
            **{name: partial(in_child, f"{call}pass", home=home, name=name, rounds=few) for name in PASSES},
        }
        samples = take_turns(contestants, repetitions)
        judge = partial(
            compare, "rules", f"50 segments of {people}", samples, "fifty segments", rows=sum(sizes)
        )
        yield judge("one scan", at_most=SCANS)
        yield judge("one pass by member")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
