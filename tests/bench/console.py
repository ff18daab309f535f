"""The console over a large shop: 1,000,000 members, 2,000,000 orders and 1,000,000 messages in SQLite,
10,000,000 orders in the warehouse.

Every page is asked for over HTTP as a browser does, warm; ``seconds`` is the 95th percentile of its rounds,
against the limit that a reader should never wait longer than. The slowest pages are told one by one.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from core.db import Database
from core.settings import Settings
from migrations.runner import upgrade
from segments import segments
from segments.compile import Moment
from segments.facts import open_engine
from segments.refresh import refresh
from tests.bench.made_up import events, warehouse
from tests.bench.measure import Comparison, Sample, compare, cpu_s, in_child
from tests.bench.refresh import RULES
from tests.bench.rules import Browser, p95

MEMBERS, ORDERS, MESSAGES = 1_000_000, 2_000_000, 1_000_000
FACTS, EVENTS = 10_000_000, 50_000_000
ROUNDS = 20
LIMIT_S = 0.5
WORST = 5
AS_OF = date(2026, 1, 1)
NOW = datetime(2026, 1, 1, 4, tzinfo=UTC)
ZONE = "Asia/Shanghai"
PASSWORD = "correct horse battery"
PAGES = (
    "/",
    "/members",
    "/members?q=m7777",
    "/members/7777",
    "/segments",
    "/segments/champions",
    "/segments/rfm",
    "/segments/lifecycle",
    "/segments/lists",
    "/segments/new",
    "/campaigns",
    "/loyalty",
    "/loyalty/points",
    "/channels",
    "/channels/outbox",
    "/channels/accounts",
    "/results",
    "/settings/audit",
)


def _fill(database: Database, members: int, orders: int, messages: int) -> None:
    """Rows by SQLite's own means: a million members in seconds."""
    series = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) "
    at = "'2025-06-01 00:00:00.000000'"
    spread = "datetime('2024-01-01', '+' || ((i * 7919) % 63072000) || ' seconds') || '.000000'"
    with database.write() as session:
        run = session.connection().exec_driver_sql
        run(f"""INSERT INTO members (id, source, external_id, name, city, locale, registered_at, tags, attributes,
                fingerprint, created_at, updated_at) {series.format(members)}
            SELECT i, 'shop', 'm' || i, 'Member ' || i, 'city' || (i % 50), 'zh_CN', {spread}, '[]', '{{}}', '',
                {at}, {at} FROM n""")
        run(f"""INSERT INTO orders (id, source, external_id, member_id, ordered_at, status, currency, total_minor,
                discount_minor, refunded_minor, channel, fingerprint, updated_at) {series.format(orders)}
            SELECT i, 'shop', 'o' || i, 1 + (i * 7919) % {members}, {spread}, 'paid', 'CNY', 1000 + i % 9000, 0, 0,
                'web', '', {at} FROM n""")
        run(f"""INSERT INTO order_lines (order_id, line_no, sku, category, quantity, amount_minor, discount_minor,
                refunded) {series.format(orders)}
            SELECT i, 1, 's' || (i % 5000), 'category ' || (i % 40), 1, 1000 + i % 9000, 0, 0 FROM n""")
        run(f"""INSERT INTO consents (member_id, channel, purpose, granted, source, at) {series.format(members)}
            SELECT i, 'email', 'marketing', 1, 'import', {at} FROM n""")
        run(f"""INSERT INTO templates (id, name, channel, purpose, version, updated_at)
            VALUES (1, 'back', 'email', 'marketing', 1, {at})""")
        run(f"""INSERT INTO messages (id, dedupe_key, member_id, channel, purpose, template_id, template_version,
                context, source_kind, source_id, fallback, state, attempts, not_before, created_at, sent_at,
                settled_at) {series.format(messages)}
            SELECT i, 'run:1:' || i, 1 + (i * 7919) % {members}, 'email', 'marketing', 1, 1, '{{}}', 'run', 1, '[]',
                CASE i % 10 WHEN 0 THEN 'queued' WHEN 1 THEN 'failed' ELSE 'sent' END, 1, {at}, {spread}, {spread},
                {spread} FROM n""")
        run("DELETE FROM warehouse_marks")


def _home(folder: Path, scale: int) -> Path:
    from web.users import create_user

    home = Path(tempfile.mkdtemp(dir=folder))
    (home / "warehouse").mkdir()
    members = MEMBERS // scale
    for table, facts in (
        ("orders", warehouse(members, FACTS // scale)),
        ("members", warehouse(members, FACTS // scale)),
        ("events", events(members, EVENTS // scale)),
    ):
        (home / "warehouse" / table).symlink_to(facts / table)
    settings = Settings(home=home, shop_timezone=ZONE, _env_file=None)
    database = Database(settings.url)
    upgrade(database)
    _fill(database, members, ORDERS // scale, MESSAGES // scale)
    create_user(database, "ann@example.com", PASSWORD, ["admin"], now=NOW)
    with database.write() as session:
        for name, rule in RULES.items():
            segments.save(session, name=name, title=name, rule=rule, by="ann", now=NOW)
    moment = Moment(AS_OF, settings.zone)
    refresh(database, open_engine(settings), moment=moment, now=NOW, sync=False)
    with database.engine.connect() as connection:
        connection.exec_driver_sql("ANALYZE")
    database.dispose()
    return home


def timed_pages(home: str, rounds: int) -> dict[str, Any]:
    """95th percentiles of every page, from the console's own server."""
    from waitress.server import create_server

    from web.app import create_app

    settings = Settings(home=Path(home), shop_timezone=ZONE, _env_file=None)
    database = Database(settings.url)
    app = create_app(settings, database, clock=lambda: NOW)
    server = create_server(app, host="127.0.0.1", port=0)
    threading.Thread(target=server.run, daemon=True).start()
    browser, used = Browser(server.effective_port), cpu_s()
    browser.log_in()
    found: dict[str, float] = {}
    for page in PAGES:
        seconds = []
        for turn in range(rounds + 1):
            start = time.perf_counter()
            browser.get(page)
            if turn:
                seconds.append(time.perf_counter() - start)
        found[page] = round(p95(seconds), 4)
    browser.close()
    server.close()
    database.dispose()
    return {"seconds": max(found.values()), "cpu_s": cpu_s() - used, "pages": found}


def bench(*, quick: bool, repetitions: int) -> Iterator[Comparison]:
    """The slowest pages against the limit."""
    scale = 100 if quick else 1
    folder = Path(tempfile.mkdtemp(prefix="huiliu-bench-"))
    try:
        home = str(_home(folder, scale))
        rounds = 3 if quick else ROUNDS
        samples = [
            in_child("tests.bench.console:timed_pages", home=home, rounds=rounds) for _ in range(repetitions)
        ]
        pages = {name: sorted(one.answer["pages"][name] for one in samples) for name in PAGES}
        worst = sorted(PAGES, key=lambda name: -pages[name][len(samples) // 2])[:WORST]
        for name in worst:
            judged = {
                "page": [Sample(one.answer["pages"][name], None, one.peak_mb) for one in samples],
                "limit": [Sample(LIMIT_S, None, None)] * repetitions,
            }
            yield compare(
                "console", f"{name}, {MEMBERS // scale:,} members", judged, "page", "limit",
                rows=MEMBERS // scale, at_most=1.0,
            )  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)
