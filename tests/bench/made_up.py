"""Made-up shops by DuckDB's hash(): the same rows on every machine, kept in the temporary folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import duckdb

VERSION = 3
"""Of the data below: another one makes them anew."""


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """The folder ``name`` under the temporary folder, made on first use; half a folder never stays."""
    folder = Path(tempfile.gettempdir()) / f"huiliu-bench-{name}-v{VERSION}"
    if not folder.exists():
        partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
        try:
            make(partial)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def connect() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(":memory:")
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def warehouse(members: int, orders: int) -> Path:
    """Two years of orders by month and their members, in the replica's layout (by member within a month).

    Few members buy much and many little; 2 % of the orders are cancelled, 3 % refunded in part.
    """

    def make(folder: Path) -> None:
        (folder / "orders").mkdir()
        (folder / "members").mkdir()
        connection = connect()
        connection.execute(f"""
            CREATE TABLE made AS
            SELECT
                i AS order_id,
                CAST(floor(pow((hash(i * 3) % 1000000007) / 1000000007.0, 1.7) * {members}) + 1 AS BIGINT)
                    AS member_id,
                'o' || i AS external_id,
                make_timestamptz(CAST(epoch_us(TIMESTAMP '2024-01-01') + (hash(i * 7 + 1) % 63072000) * 1000000
                    AS BIGINT)) AS ordered_at,
                CASE WHEN hash(i * 13) % 100 < 2 THEN 'cancelled'
                    WHEN hash(i * 13) % 100 < 5 THEN 'refunded' ELSE 'paid' END AS status,
                CAST(100 + hash(i * 11 + 5) % 20000 AS BIGINT) AS total_minor
            FROM range({orders}) AS t(i)""")
        columns = """
            order_id, member_id, external_id, ordered_at, status, total_minor,
            CASE status WHEN 'paid' THEN 0 WHEN 'refunded' THEN total_minor // 2 ELSE total_minor END
                AS refunded_minor,
            CASE status WHEN 'paid' THEN total_minor WHEN 'refunded' THEN total_minor - total_minor // 2
                ELSE 0 END AS net_minor,
            CAST(0 AS BIGINT) AS discount_minor, CAST(NULL AS VARCHAR) AS coupon_code, 'web' AS channel"""
        connection.execute(
            "CREATE TABLE months AS SELECT DISTINCT strftime(ordered_at, '%Y-%m') AS m FROM made"
        )
        for (month,) in connection.execute("FROM months ORDER BY m").fetchall():
            connection.execute(
                f"COPY (SELECT {columns} FROM made WHERE strftime(ordered_at, '%Y-%m') = '{month}' ORDER BY member_id) "
                f"TO '{folder}/orders/{month}.parquet' (FORMAT parquet, COMPRESSION zstd)"
            )
        connection.execute(f"""COPY (
            SELECT i AS member_id, 'm' || i AS external_id, 'shop' AS source,
                CASE WHEN i % 2 = 0 THEN 'female' ELSE 'male' END AS gender, CAST(NULL AS DATE) AS birthday,
                'city' || (hash(i) % 50) AS city, CAST(NULL AS VARCHAR) AS province, 'CN' AS country,
                'zh_CN' AS locale, CAST(NULL AS VARCHAR) AS timezone,
                make_timestamptz(CAST(epoch_us(TIMESTAMP '2023-06-01') + (hash(i * 5) % 94608000) * 1000000
                    AS BIGINT)) AS registered_at,
                true AS has_email, true AS has_phone, true AS has_wechat, '[]' AS tags, '{{}}' AS attributes
            FROM range(1, {members} + 1) AS t(i)
        ) TO '{folder}/members/all.parquet' (FORMAT parquet, COMPRESSION zstd)""")
        connection.close()

    return cached(f"warehouse-{members}-{orders}", make)


def orders_csv(rows: int, members: int) -> Path:
    """A CSV of order lines, one to three an order, by members m1 … mN."""

    def make(folder: Path) -> None:
        connection = connect()
        connection.execute(f"""COPY (
            SELECT 'o' || o AS order_id, 'm' || (1 + hash(o) % {members}) AS member_id,
                strftime(TIMESTAMP '2025-01-01' + to_seconds(CAST(hash(o * 3) % 31536000 AS BIGINT)),
                    '%Y-%m-%dT%H:%M:%S+08:00') AS ordered_at,
                'sku' || (hash(i * 5) % 5000) AS sku, 'category ' || (hash(i * 5) % 40) AS category,
                1 + hash(i * 7) % 3 AS quantity,
                CAST((100 + hash(i * 11) % 50000) / 100.0 AS DECIMAL(10, 2)) AS amount,
                '0.00' AS discount, 'CNY' AS currency,
                CASE WHEN hash(o * 13) % 50 = 0 THEN 'refunded' ELSE 'paid' END AS status,
                '' AS coupon_code, 'web' AS channel
            FROM (SELECT i, i // 2 + (i % 2) * CAST(hash(i // 2) % 2 AS BIGINT) AS o FROM range({rows}) AS t(i))
            ORDER BY o, i
        ) TO '{folder}/orders.csv' (HEADER)""")
        connection.close()

    return cached(f"orders-{rows}-{members}", make) / "orders.csv"


def events(members: int, rows: int) -> Path:
    """Two years of behaviour by month in the replica's layout.

    Of a hundred events 60 are views, 15 searches, 13 put into the cart, 7 favourites and 5 shares;
    views, carts and favourites tell a SKU and a price, searches their words.
    """

    def make(folder: Path) -> None:
        (folder / "events").mkdir()
        connection = connect()
        months = [f"{2024 + place // 12}-{place % 12 + 1:02}" for place in range(24)]
        each = rows // len(months)
        for place, month in enumerate(months):
            first = place * each
            connection.execute(f"""COPY (
                SELECT i AS event_id,
                    CAST(floor(pow((hash(i * 3 + 2) % 1000000007) / 1000000007.0, 1.7) * {members}) + 1 AS BIGINT)
                        AS member_id,
                    CASE WHEN h < 60 THEN 'view' WHEN h < 75 THEN 'search' WHEN h < 88 THEN 'add_to_cart'
                        WHEN h < 95 THEN 'favourite' ELSE 'share' END AS kind,
                    make_timestamptz(CAST(epoch_us(TIMESTAMP '{month}-01') + ((i - {first}) * span) // {each}
                        AS BIGINT)) AS occurred_at,
                    CASE WHEN h < 60 OR h BETWEEN 75 AND 94 THEN
                        '{{"sku": "s' || (hash(i * 5) % 5000) || '", "price": ' || (1 + hash(i * 5) % 5000 % 300)
                            || '.5}}'
                        WHEN h < 75 THEN '{{"q": "word ' || (hash(i * 11) % 1000) || '"}}'
                        ELSE '{{}}' END AS properties
                FROM (
                    SELECT i, hash(i * 7 + 1) % 100 AS h,
                        epoch_us(TIMESTAMP '{month}-01' + INTERVAL 1 MONTH) - epoch_us(TIMESTAMP '{month}-01') AS span
                    FROM range({first}, {first + each}) AS t(i))
                ORDER BY member_id
            ) TO '{folder}/events/{month}.parquet' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 245760)""")
        connection.close()

    return cached(f"events-{members}-{rows}", make)
