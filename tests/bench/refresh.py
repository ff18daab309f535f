"""A whole refresh of 1,000,000 members and 10,000,000 orders, against bare DuckDB and plain pandas.

The subject is ``segments.refresh.refresh``: replica synced, everybody scored, staged and segmented,
snapshots written as Parquet, changes committed to the database; without predictions, which the peers have no
counterpart of and ``clv`` measures. The peers read the same files and
write the same columns, and nothing else: no database, no comparison with the day before. All three
must give the same scores and stages, member by member.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any

import duckdb

from core.db import Database
from core.settings import Settings
from migrations.runner import upgrade
from segments import segments
from segments.compile import Moment
from segments.facts import open_engine
from segments.refresh import refresh
from segments.settings import CELLS
from tests.bench.made_up import warehouse
from tests.bench.measure import Comparison, Sample, compare, cpu_s, in_child, take_turns, warm

MEMBERS, ORDERS = 1_000_000, 10_000_000
AT_MOST, AT_LEAST = 1.5, 6.0
AS_OF = date(2026, 1, 1)
ZONE = "Asia/Shanghai"
NOW = datetime(2026, 1, 1, 4, tzinfo=UTC)
DAY_US = 86_400_000_000
MIDNIGHT_US = int(datetime(2025, 12, 31, 16, tzinfo=UTC).timestamp()) * 1_000_000
"""The first moment of AS_OF in the shop's zone."""
BUYS = {"event": "order", "op": ">=", "value": 3, "within": {"last": "90d"}}
RULES: dict[str, dict[str, Any]] = {
    "champions": {"field": "rfm.segment", "op": "=", "value": "champions"},
    "lapsed": {
        "all": [
            {"field": "lifecycle", "op": "in", "value": ["dormant", "churned"]},
            {"field": "rfm.monetary", "op": ">=", "value": 500},
        ]
    },
    "frequent": BUYS,
    "spenders": {
        "event": "order", "aggregate": "sum", "of": "amount", "op": ">=", "value": 1000, "within": {"last": "365d"},
    },
    "local": {"all": [{"field": "city", "op": "=", "value": "city7"}, {"segment": "frequent"}]},
}  # fmt: skip


def timed_refresh(home: str) -> dict[str, Any]:
    """The subject: a first refresh in a home of its own."""
    settings = Settings(home=Path(home), shop_timezone=ZONE, _env_file=None)
    database, engine = Database(settings.url), open_engine(settings)
    warm(engine)
    start, used = time.perf_counter(), cpu_s()
    found = refresh(database, engine, moment=Moment(AS_OF, settings.zone), now=NOW, predict=False)
    seconds = time.perf_counter() - start
    counts = {name: part["count"] for name, part in found.segments.items()}
    return {"seconds": seconds, "cpu_s": cpu_s() - used, "parts": found.seconds, "segments": counts}


FACTS = f"""
CREATE TEMP TABLE facts AS
SELECT member_id, count(*) AS orders, min(t) AS first_at, max(t) AS last_at,
    count(*) FILTER (t >= {MIDNIGHT_US - 730 * DAY_US}) AS frequency,
    CAST(sum(net_minor) FILTER (t >= {MIDNIGHT_US - 730 * DAY_US}) AS BIGINT) AS monetary,
    max(t) FILTER (t < {MIDNIGHT_US - 30 * DAY_US}) AS before, min(t) FILTER (t >= {MIDNIGHT_US - 30 * DAY_US}) AS since
FROM (SELECT member_id, net_minor, status, epoch_us(ordered_at) AS t FROM orders)
WHERE t < {MIDNIGHT_US} AND (status = 'paid' OR net_minor > 0)
GROUP BY member_id"""
GAPS = f"""
CREATE TEMP TABLE gaps AS
SELECT member_id, median(gap) AS gap FROM (
    SELECT member_id, t - lag(t) OVER (PARTITION BY member_id ORDER BY t) AS gap
    FROM (SELECT member_id, net_minor, status, epoch_us(ordered_at) AS t FROM orders)
    WHERE t < {MIDNIGHT_US} AND (status = 'paid' OR net_minor > 0) AND member_id IN (
        SELECT member_id FROM facts WHERE orders >= 3 AND last_at >= {MIDNIGHT_US - 90 * DAY_US})
) GROUP BY member_id"""
MEASURES = f"""
CREATE TEMP TABLE measures AS
SELECT member_id, frequency, monetary, date_diff('day',
    CAST(timezone('{ZONE}', make_timestamptz(last_at)) AS DATE), DATE '{AS_OF}') AS recency
FROM facts WHERE frequency > 0"""
CUTS = """
CREATE TEMP TABLE cuts AS
SELECT quantile_disc(recency, [0.2, 0.4, 0.6, 0.8]) AS r, quantile_disc(frequency, [0.2, 0.4, 0.6, 0.8]) AS f,
    quantile_disc(monetary, [0.2, 0.4, 0.6, 0.8]) AS m, avg(recency) AS mean_r, avg(frequency) AS mean_f,
    avg(monetary) AS mean_m, quantile_disc(monetary, 0.8) AS top
FROM measures"""


def _score(measure: str, cuts: str, *, down: bool = False) -> str:
    above = " + ".join(f"CAST({measure} > {cuts}[{place}] AS TINYINT)" for place in range(1, 5))
    return f"CAST(5 - ({above}) AS TINYINT)" if down else f"CAST(1 + {above} AS TINYINT)"


def _cells() -> str:
    cases = " ".join(
        f"WHEN r IN ({', '.join(rs)}) AND f IN ({', '.join(fs)}) THEN '{name}'"
        for name, blocks in CELLS.items()
        for rs, fs in blocks
    )
    return f"CASE {cases} END"


SNAPSHOT = f"""
WITH scored AS (
    SELECT measures.*, mean_r, mean_f, mean_m, top, {_score("recency", "cuts.r", down=True)} AS r,
        {_score("frequency", "cuts.f")} AS f, {_score("monetary", "cuts.m")} AS m
    FROM measures, cuts)
SELECT p.member_id, s.recency, s.frequency, s.monetary, s.r, s.f, s.m, {_cells()} AS rfm_segment,
    CASE WHEN recency IS NOT NULL THEN
        CASE WHEN s.monetary > mean_m THEN 'important_' ELSE 'general_' END
        || CASE WHEN recency < mean_r AND s.frequency > mean_f THEN 'value' WHEN recency < mean_r THEN 'develop'
            WHEN s.frequency > mean_f THEN 'keep' ELSE 'win_back' END END AS value_segment,
    coalesce(b.orders, 0) AS orders, make_timestamptz(b.first_at) AS first_order_at,
    make_timestamptz(b.last_at) AS last_order_at,
    CASE WHEN b.member_id IS NULL THEN 'prospect'
        WHEN b.since - b.before > {90 * DAY_US} THEN 'reactivated'
        WHEN b.last_at < {MIDNIGHT_US - 365 * DAY_US} THEN 'churned'
        WHEN b.last_at < {MIDNIGHT_US - 90 * DAY_US} THEN 'dormant'
        WHEN b.orders = 1 AND b.first_at >= {MIDNIGHT_US - 30 * DAY_US} THEN 'new'
        WHEN b.orders >= 3 AND {MIDNIGHT_US} - b.last_at > 2 * g.gap THEN 'at_risk'
        WHEN s.monetary > top THEN 'high_value' ELSE 'active' END AS stage,
    DATE '{AS_OF}' AS stage_since, CAST(NULL AS VARCHAR) AS previous_stage
FROM members AS p LEFT JOIN facts AS b USING (member_id) LEFT JOIN scored AS s USING (member_id)
LEFT JOIN gaps AS g USING (member_id)
WHERE p.registered_at IS NULL OR epoch_us(p.registered_at) < {MIDNIGHT_US} OR b.member_id IS NOT NULL"""

PAID = f"(status = 'paid' OR net_minor > 0) AND epoch_us(ordered_at) < {MIDNIGHT_US}"
FREQUENT = f"""SELECT member_id FROM orders WHERE {PAID} AND epoch_us(ordered_at) >= {MIDNIGHT_US - 90 * DAY_US}
    GROUP BY 1 HAVING count(*) >= 3"""
MEMBERSHIPS = f"""
SELECT 1 AS segment_id, member_id, DATE '{AS_OF}' AS since FROM snapshot WHERE rfm_segment = 'champions'
UNION ALL SELECT 2, member_id, DATE '{AS_OF}' FROM snapshot
    WHERE stage IN ('dormant', 'churned') AND monetary >= 50000
UNION ALL SELECT 3, member_id, DATE '{AS_OF}' FROM ({FREQUENT})
UNION ALL SELECT 4, member_id, DATE '{AS_OF}' FROM (
    SELECT member_id FROM orders WHERE {PAID} AND epoch_us(ordered_at) >= {MIDNIGHT_US - 365 * DAY_US}
    GROUP BY 1 HAVING sum(net_minor) >= 100000)
UNION ALL SELECT 5, member_id, DATE '{AS_OF}' FROM members WHERE city = 'city7' AND member_id IN ({FREQUENT})
ORDER BY 1, 2"""


def timed_duckdb(facts: str, out: str, with_segments: bool) -> dict[str, Any]:
    """The first peer: the queries by hand, on DuckDB as it comes."""
    start, used = time.perf_counter(), cpu_s()
    connection = duckdb.connect(":memory:")
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(f"CREATE VIEW orders AS FROM read_parquet('{facts}/orders/*.parquet')")
    connection.execute(f"CREATE VIEW members AS FROM read_parquet('{facts}/members/*.parquet')")
    for statement in (FACTS, GAPS, MEASURES, CUTS):
        connection.execute(statement)
    connection.execute(f"COPY ({SNAPSHOT}) TO '{out}/snapshot.parquet' (FORMAT parquet)")
    counts: dict[str, int] = {}
    if with_segments:
        connection.execute(f"CREATE VIEW snapshot AS FROM read_parquet('{out}/snapshot.parquet')")
        connection.execute(f"COPY ({MEMBERSHIPS}) TO '{out}/memberships.parquet' (FORMAT parquet)")
        found = connection.execute(
            f"SELECT segment_id, count(*) FROM '{out}/memberships.parquet' GROUP BY 1 ORDER BY 1"
        ).fetchall()
        counts = {name: number for name, (_, number) in zip(RULES, found, strict=True)}
    connection.close()
    return {"seconds": time.perf_counter() - start, "cpu_s": cpu_s() - used, "segments": counts}


def timed_pandas(facts: str, out: str) -> dict[str, Any]:
    """The second peer: the same scores and stages, as a data frame script computes them."""
    import numpy as np
    import pandas as pd

    start, used = time.perf_counter(), cpu_s()
    now = pd.Timestamp(MIDNIGHT_US, unit="us", tz="UTC")
    days = partial(pd.Timedelta, unit="D")
    orders = pd.read_parquet(f"{facts}/orders", columns=["member_id", "ordered_at", "status", "net_minor"])
    members = pd.read_parquet(f"{facts}/members", columns=["member_id", "registered_at"])
    orders = orders[(orders.ordered_at < now) & ((orders.status == "paid") | (orders.net_minor > 0))]
    by_member = orders.groupby("member_id").ordered_at
    buyers = pd.DataFrame(
        {"orders": by_member.size(), "first_order_at": by_member.min(), "last_order_at": by_member.max()}
    )
    window = orders[orders.ordered_at >= now - days(730)].groupby("member_id").net_minor
    scored = pd.DataFrame({"frequency": window.size(), "monetary": window.sum()})
    last_day = (
        buyers.last_order_at.reindex(scored.index).dt.tz_convert(ZONE).dt.tz_localize(None).dt.normalize()
    )
    scored["recency"] = (pd.Timestamp(AS_OF) - last_day).dt.days
    for letter, measure in zip("rfm", ("recency", "frequency", "monetary"), strict=True):
        cuts = np.quantile(scored[measure], [0.2, 0.4, 0.6, 0.8], method="inverted_cdf")
        above = np.searchsorted(cuts, scored[measure], side="left")
        scored[letter] = (5 - above if letter == "r" else 1 + above).astype("int8")
    cells = {(int(r), int(f)): n for n, blocks in CELLS.items() for rs, fs in blocks for r in rs for f in fs}
    names = np.empty((6, 6), dtype=object)
    for cell, name in cells.items():
        names[cell] = name
    scored["rfm_segment"] = names[scored.r, scored.f]
    recent = scored.recency < scored.recency.mean()
    often = scored.frequency > scored.frequency.mean()
    much = np.where(scored.monetary > scored.monetary.mean(), "important_", "general_").astype(object)
    scored["value_segment"] = much + np.select(
        [recent & often, recent, often], ["value", "develop", "keep"], "win_back"
    ).astype(object)
    orders = orders.sort_values(["member_id", "ordered_at"])
    orders["gap"] = orders.groupby("member_id").ordered_at.diff()
    # Without the empty first gaps: pandas 2 counts them among the values of a median by group.
    buyers["gap"] = orders.dropna(subset="gap").groupby("member_id").gap.median()
    buyers["before"] = orders[orders.ordered_at < now - days(30)].groupby("member_id").ordered_at.max()
    buyers["since"] = orders[orders.ordered_at >= now - days(30)].groupby("member_id").ordered_at.min()
    top = np.quantile(scored.monetary, 0.8, method="inverted_cdf")
    table = members.set_index("member_id").join(buyers).join(scored)
    table = table[(table.registered_at < now) | table.registered_at.isna() | table.orders.notna()]
    table["stage"] = np.select(
        [
            table.orders.isna(),
            table.since - table.before > days(90),
            table.last_order_at < now - days(365),
            table.last_order_at < now - days(90),
            (table.orders == 1) & (table.first_order_at >= now - days(30)),
            (table.orders >= 3) & (now - table.last_order_at > 2 * table.gap),
            table.monetary > top,
        ],
        ["prospect", "reactivated", "churned", "dormant", "new", "at_risk", "high_value"],
        "active",
    )
    table["orders"] = table.orders.fillna(0).astype("int64")
    table["stage_since"], table["previous_stage"] = AS_OF, None
    table[list(COLUMNS)].reset_index().to_parquet(f"{out}/snapshot.parquet")
    return {"seconds": time.perf_counter() - start, "cpu_s": cpu_s() - used}


COLUMNS = {
    "recency": "BIGINT", "frequency": "BIGINT", "monetary": "BIGINT", "r": "TINYINT", "f": "TINYINT",
    "m": "TINYINT", "rfm_segment": "VARCHAR", "value_segment": "VARCHAR", "orders": "BIGINT",
    "first_order_at": "TIMESTAMPTZ", "last_order_at": "TIMESTAMPTZ", "stage": "VARCHAR",
    "stage_since": "DATE", "previous_stage": "VARCHAR",
}  # fmt: skip
"""Of the snapshot, beside ``member_id``."""


def assert_same(one: Path, other: Path) -> None:
    """The same members with the same values in both Parquet files."""
    columns = ", ".join(f"CAST({name} AS {kind}) AS {name}" for name, kind in COLUMNS.items())
    sides = [f"SELECT member_id, {columns} FROM read_parquet('{path}')" for path in (one, other)]
    connection = duckdb.connect(":memory:")
    for first, second in (sides, sides[::-1]):
        odd = connection.execute(f"{first} EXCEPT ALL {second} LIMIT 3").fetchall()
        assert not odd, f"{one} and {other} differ: {odd}"
    connection.close()


def _home(folder: Path, facts: Path, with_segments: bool) -> Path:
    """A home with an empty database and the made-up warehouse."""
    home = Path(tempfile.mkdtemp(dir=folder))
    (home / "warehouse").mkdir()
    for table in ("orders", "members"):
        (home / "warehouse" / table).symlink_to(facts / table)
    database = Database(Settings(home=home, _env_file=None).url)
    upgrade(database)
    if with_segments:
        with database.write() as session:
            for name, rule in RULES.items():
                segments.save(session, name=name, title=name, rule=rule, by="bench", now=NOW)
    database.dispose()
    return home


def bench(*, quick: bool, repetitions: int) -> Iterator[Comparison]:
    """Without segments against both peers, then with five against DuckDB."""
    members, orders = (20_000, 200_000) if quick else (MEMBERS, ORDERS)
    facts = warehouse(members, orders)
    folder = Path(tempfile.mkdtemp(prefix="huiliu-bench-"))
    snapshot = f"warehouse/snapshots/members/{AS_OF}.parquet"
    outs = {name: folder / name for name in ("duckdb", "pandas", "refresh")}
    for out in outs.values():
        out.mkdir()

    def ours(with_segments: bool) -> Sample:
        home = _home(folder, facts, with_segments)
        found = in_child("tests.bench.refresh:timed_refresh", home=str(home))
        shutil.move(home / snapshot, outs["refresh"] / "snapshot.parquet")
        shutil.rmtree(home)
        return found

    def theirs(function: str, name: str, **arguments: Any) -> Sample:
        return in_child(f"tests.bench.refresh:{function}", facts=str(facts), out=str(outs[name]), **arguments)

    try:
        contestants = {
            "refresh": partial(ours, False),
            "duckdb": partial(theirs, "timed_duckdb", "duckdb", with_segments=False),
            "pandas": partial(theirs, "timed_pandas", "pandas"),
        }
        samples = take_turns(contestants, repetitions)
        for peer in ("duckdb", "pandas"):
            assert_same(outs["refresh"] / "snapshot.parquet", outs[peer] / "snapshot.parquet")
        case = f"{members:,} members, {orders:,} orders"
        judge = partial(compare, "refresh", rows=orders)
        yield judge(case, samples, "refresh", "duckdb", at_most=AT_MOST)
        yield judge(case, samples, "refresh", "pandas", at_least=AT_LEAST)
        contestants = {
            "refresh": partial(ours, True),
            "duckdb": partial(theirs, "timed_duckdb", "duckdb", with_segments=True),
        }
        samples = take_turns(contestants, repetitions)
        assert samples["refresh"][0].answer["segments"] == samples["duckdb"][0].answer["segments"]
        yield judge(f"{case}, 5 segments", samples, "refresh", "duckdb", at_most=AT_MOST)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
