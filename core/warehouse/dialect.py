"""From DuckDB's dialect to Spark's: SQLGlot's transpiler, and the constructs that it leaves alone."""

from __future__ import annotations

from sqlglot import exp


def to_spark(tree: exp.Expr) -> str:
    """The query in Spark's dialect. ``tree`` is left as it is."""
    found = tree.copy()
    for cte in found.find_all(exp.CTE):
        cte.set("materialized", None)  # a hint of DuckDB's; Spark reuses what it computes twice by itself
    return found.sql("spark")
