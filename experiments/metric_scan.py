"""Metrics compiled to one DuckDB query, and its answer as moments an arm and dimension.

Guarantees: one scan of each fact whatever the number of metrics; centred aggregates only (variances and
covariances as DuckDB's one-pass centred ones), so that large means lose nothing; members without a row count
as zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import special

from core.errors import InvalidInput
from core.warehouse.engine import Engine
from core.warehouse.replica import Fact
from experiments import metric_where
from experiments.metrics import (
    DERIVED,
    IN,
    IS_SET,
    MARGIN_COLUMN,
    MAX_AT_ONCE,
    OPERATORS,
    PROPERTY,
    PROPORTION,
    QUANTILE,
    RATIO,
    RETENTION,
    ROWS,
    Condition,
    MetricSpec,
    check,
)
from experiments.moments import ASSIGNMENTS_SCHEMA, DEFAULT_MARGIN
from experiments.stats import cuped, estimate, margin, ratio
from experiments.stats.effect import Comparison, check_alpha
from experiments.stats.estimate import Estimate
from experiments.stats.joint import Joint, Mean, Ratio
from experiments.stats.margin import NonInferiority
from experiments.stats.quantile import Quantile

VALUE, BELOW, BEFORE, BELOW_BEFORE = "value", "below", "before", "below_before"
"""Columns of a metric: itself (a ratio's numerator), a ratio's denominator, and both before exposure."""
DIMENSION = "dimension"
RANKS = "order statistics, ranks by the normal approximation"


@dataclass(frozen=True)
class Query:
    """SQL in DuckDB's dialect, over the facts and the table ``assignments``, and its parameters."""

    sql: str
    params: dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """A metric of an arm (in a dimension): ``joint`` moments of its columns, windows that are still open,
    and the quantile where it is one. Retention counts only members whose window is closed."""

    joint: Joint
    open_windows: int
    quantile: Quantile | None = None


Cells = dict[tuple[str, str | None], dict[str, Cell]]
"""(arm, dimension; None: all together) → metric → moments."""


@dataclass(frozen=True)
class _Column:
    """A number a member, ``c0``, ``c1`` …: its aggregate over a fact's rows, and how it is treated."""

    name: str
    fact: str
    sql: str
    role: str
    winsorise: float | None


def compile_query(
    specs: Sequence[MetricSpec], facts: Mapping[str, Fact], as_of: datetime, alpha: float = 0.05
) -> Query:
    """The one query of these metrics. ``assignments``: (member_id, arm, at, dimension).

    InvalidInput: a metric that is none, two of one name, or more than 50.
    """
    if not 1 <= len(specs) <= MAX_AT_ONCE or len({spec.name for spec in specs}) < len(specs):
        raise InvalidInput(f"Give 1 to {MAX_AT_ONCE} metrics, each once.", "metrics")
    check_alpha(alpha)
    for spec in specs:
        check(spec, facts)
    params: dict[str, Any] = {"as_of": as_of}
    groups = [_columns(spec, facts[spec.fact], number, params) for number, spec in enumerate(specs)]
    columns = [column for group in groups for column in group]
    used = sorted({spec.fact for spec in specs})
    parts = [_EXPOSED, *(_fact_sql(name, number, specs, columns, facts) for number, name in enumerate(used))]
    parts.append(_units_sql(used, columns))
    parts.append(_ready_sql(specs, groups))
    z = -float(special.ndtri(alpha / 2))
    answers = ["arm", DIMENSION, f"GROUPING({DIMENSION}) AS everybody", "COUNT(*) AS n"]
    for number, (spec, group) in enumerate(zip(specs, groups, strict=True)):
        answers += _aggregates(spec, group, number, z)
    listed = ",\n  ".join(answers)
    return Query(
        f"WITH {','.join(parts)}\nSELECT {listed}\nFROM ready "
        f"GROUP BY GROUPING SETS ((arm), (arm, {DIMENSION})) ORDER BY arm, everybody, {DIMENSION}",
        params,
    )


_EXPOSED = """
exposed AS (
  SELECT member_id, arm, COALESCE(dimension, '') AS dimension, "at" FROM assignments
)"""


def _columns(spec: MetricSpec, fact: Fact, number: int, params: dict[str, Any]) -> list[_Column]:
    rows = conditions(spec, f"p{number}", params)
    after = _between(fact, f"to_days({spec.from_day})", f"to_days({spec.until_day})")

    def column(role: str, value: str | None, window: str) -> _Column:
        test = " AND ".join([window, *rows])
        sql = aggregate(spec, value, test, f"v{number}_{role}", params)
        cap = spec.winsorise if role in (VALUE, BEFORE) else None
        return _Column(f"c{number}_{role}", spec.fact, sql, role, cap)

    found = [column(VALUE, spec.value, after)]
    if spec.kind == RATIO:
        found.append(column(BELOW, spec.denominator, after))
    if spec.covariate_days is not None:
        before = _between(fact, f"to_days(-{spec.covariate_days})", "to_days(0)")
        found.append(column(BEFORE, spec.value, before))
        if spec.kind == RATIO:
            found.append(column(BELOW_BEFORE, spec.denominator, before))
    return found


def aggregate(spec: MetricSpec, value: str | None, test: str, name: str, params: dict[str, Any]) -> str:
    """A member's number: ``value`` (or the rows) over the fact's rows ``x`` that ``test`` lets through."""
    if value is None or value == ROWS:
        sql = f"COUNT(*) FILTER ({test})"
    else:
        sql = f"SUM({_value(value, name, params)}) FILTER ({test})"
    return f"({sql} > 0)" if spec.kind in (PROPORTION, RETENTION) else sql


def conditions(spec: MetricSpec, prefix: str, params: dict[str, Any]) -> list[str]:
    """The metric's conditions on a row ``x`` of its fact; their values become parameters."""
    return metric_where.compiled(
        spec.where, lambda condition, number: _condition(condition, f"{prefix}_{number}", params)
    )


def source(fact: str, specs: Sequence[MetricSpec]) -> str:
    """What stands behind FROM: the fact, with the columns reckoned that one of ``specs`` needs."""
    used = {spec.value for spec in specs} | {spec.denominator for spec in specs}
    used |= {condition.column for spec in specs for condition in metric_where.leaves(spec.where)}
    if not used & set(DERIVED.get(fact, ())):
        return f'"{fact}"'
    # As the read-out of campaigns reckons it: cancelled and refunded lines leave nothing.
    return f"""(
    SELECT l.*, CASE WHEN l.status = 'cancelled' OR l.refunded THEN 0
      ELSE l.amount_minor * COALESCE(p.margin, {DEFAULT_MARGIN!r}) END AS {MARGIN_COLUMN}
    FROM order_lines l LEFT JOIN products p ON p.source = l.source AND p.sku = l.sku
  )"""  # noqa: S608


def _between(fact: Fact, start: str, end: str) -> str:
    time = f'x."{fact.month_column}"'
    return f'{time} >= e."at" + {start} AND {time} < e."at" + {end}'


def _value(column: str, name: str, params: dict[str, Any]) -> str:
    if column.startswith(PROPERTY):
        return f"TRY_CAST({_property(column, name, params)} AS DOUBLE)"
    return f'x."{column}"'


def _property(column: str, name: str, params: dict[str, Any]) -> str:
    params[name] = column.removeprefix(PROPERTY)
    # Unnamed keys would be read as a path: the name is quoted inside the path.
    return f"""json_extract_string(x.properties, '$."' || replace(${name}, '"', '\\"') || '"')"""


def _condition(condition: Condition, name: str, params: dict[str, Any]) -> str:
    if condition.op == IS_SET:
        left = _left(condition.column, f"{name}_key", params)
        return f"{left} IS {'NOT ' if condition.value else ''}NULL"
    many = condition.op == IN
    value = list(condition.value) if many else condition.value
    left = _left(condition.column, f"{name}_key", params)
    if condition.column.startswith(PROPERTY) and not isinstance(value[0] if many else value, str):
        left = f"TRY_CAST({left} AS DOUBLE)"
    params[name] = value
    return f"list_contains(${name}, {left})" if many else f"{left} {OPERATORS[condition.op]} ${name}"


def _left(column: str, name: str, params: dict[str, Any]) -> str:
    return _property(column, name, params) if column.startswith(PROPERTY) else f'x."{column}"'


def _fact_sql(
    name: str,
    number: int,
    specs: Sequence[MetricSpec],
    columns: Sequence[_Column],
    facts: Mapping[str, Fact],
) -> str:
    mine = [spec for spec in specs if spec.fact == name]
    back = max(spec.covariate_days or 0 for spec in mine)
    ahead = max(spec.until_day for spec in mine)
    listed = ",\n    ".join(f"{column.sql} AS {column.name}" for column in columns if column.fact == name)
    return f"""
f{number} AS (
  SELECT e.member_id,
    {listed}
  FROM exposed e JOIN {source(name, mine)} x ON x.member_id = e.member_id
  WHERE {_between(facts[name], f"to_days(-{back})", f"to_days({ahead})")}
    AND x."{facts[name].month_column}" < $as_of
  GROUP BY e.member_id
)"""  # noqa: S608


def _units_sql(used: Sequence[str], columns: Sequence[_Column]) -> str:
    listed = ",\n    ".join(
        f"COALESCE(CAST(f{used.index(column.fact)}.{column.name} AS DOUBLE), 0) AS {column.name}"
        for column in columns
    )
    joined = "\n    ".join(f"LEFT JOIN f{number} USING (member_id)" for number in range(len(used)))
    return f"""
units AS MATERIALIZED (
  SELECT e.arm, e.{DIMENSION}, e."at",
    {listed}
  FROM exposed e
    {joined}
)"""  # noqa: S608


def _ready_sql(specs: Sequence[MetricSpec], groups: Sequence[Sequence[_Column]]) -> str:
    """Capped at the pooled percentile; retention is NULL while its window is open; quantiles are ranked."""
    capped = [column for group in groups for column in group if column.winsorise is not None]
    caps = ", ".join(
        f"quantile_cont({column.name}, {column.winsorise!r}) AS {column.name}" for column in capped
    )
    listed = []
    for spec, group in zip(specs, groups, strict=True):
        for column in group:
            value = f"u.{column.name}"
            if column.winsorise is not None:
                value = f"LEAST({value}, k.{column.name})"
            if spec.kind == RETENTION:
                value = f'CASE WHEN u."at" + to_days({spec.until_day}) <= $as_of THEN {value} END'
            listed.append(f"{value} AS {column.name}")
            if spec.kind == QUANTILE:
                listed += [
                    f"ROW_NUMBER() OVER (PARTITION BY {by} ORDER BY {value}) AS {column.name}_{place}"
                    for place, by in (("all", "u.arm"), ("part", f"u.arm, u.{DIMENSION}"))
                ]
    if any(spec.kind == QUANTILE for spec in specs):
        listed.append("COUNT(*) OVER (PARTITION BY u.arm) AS n_all")
        listed.append(f"COUNT(*) OVER (PARTITION BY u.arm, u.{DIMENSION}) AS n_part")
    body = ",\n    ".join(listed)
    caps_sql = f"\ncaps AS (SELECT {caps} FROM units)," if capped else ""  # noqa: S608
    return f"""{caps_sql}
ready AS (
  SELECT u.arm, u.{DIMENSION}, u."at",
    {body}
  FROM units u{" CROSS JOIN caps k" if capped else ""}
)"""  # noqa: S608


def _aggregates(spec: MetricSpec, group: Sequence[_Column], number: int, z: float) -> list[str]:
    names = [column.name for column in group]
    found = [f'COUNT(*) FILTER ("at" + to_days({spec.until_day}) > $as_of) AS open_{number}']
    found.append(f"COUNT({names[0]}) AS n_{number}")
    found += [f"COALESCE(AVG({name}), 0) AS mean_{name}" for name in names]
    for i, one in enumerate(names):
        found.append(f"COALESCE(VAR_SAMP({one}), 0) AS var_{one}")
        found += [f"COALESCE(COVAR_SAMP({one}, {other}), 0) AS cov_{one}_{other}" for other in names[i + 1 :]]
    if spec.kind == QUANTILE and spec.q is not None:
        name, q = names[0], spec.q
        found.append(f"quantile_cont({name}, {q!r}) AS q_{number}")
        for place in ("all", "part"):
            n, width = f"n_{place}", f"{z!r} * SQRT(n_{place} * {q * (1 - q)!r})"
            low = f"GREATEST(FLOOR({n} * {q!r} - {width}), 1)"
            high = f"LEAST(CEIL({n} * {q!r} + {width}) + 1, {n})"
            found.append(f"MAX({name}) FILTER ({name}_{place} = {low}) AS low_{place}_{number}")
            found.append(f"MAX({name}) FILTER ({name}_{place} = {high}) AS high_{place}_{number}")
    return found


def scan_metrics(
    engine: Engine,
    assignments: pa.Table,
    specs: Sequence[MetricSpec],
    *,
    as_of: datetime,
    alpha: float = 0.05,
) -> Cells:
    """Moments of every arm that has members, and of every dimension in it.

    ``assignments``: (member_id, arm, at), a row a member, and ``dimension`` (text) where it is broken down.
    InvalidInput: a member who is there twice; see :func:`compile_query`.
    """
    query = compile_query(specs, engine.replica.facts, as_of, alpha)
    table = assignments.select(ASSIGNMENTS_SCHEMA.names).cast(ASSIGNMENTS_SCHEMA)
    if len(table.column("member_id").unique()) < table.num_rows:
        raise InvalidInput("Give each member one row, the first assignment.", "assignments")
    divided = DIMENSION in assignments.column_names
    dimension = assignments[DIMENSION].cast(pa.string()) if divided else pa.nulls(table.num_rows, pa.string())
    table = table.append_column(DIMENSION, dimension)
    cells: Cells = {}
    for row in engine.query(query.sql, query.params, {"assignments": table}).to_pylist():
        if row["everybody"]:
            key = (row["arm"], None)
        elif divided:
            key = (row["arm"], row[DIMENSION])
        else:
            continue
        cells[key] = {spec.name: _cell(spec, number, row, alpha) for number, spec in enumerate(specs)}
    return cells


def _roles(spec: MetricSpec) -> list[str]:
    roles = [VALUE, BELOW] if spec.kind == RATIO else [VALUE]
    if spec.covariate_days is not None:
        roles += [BEFORE, BELOW_BEFORE] if spec.kind == RATIO else [BEFORE]
    return roles


def _cell(spec: MetricSpec, number: int, row: Mapping[str, Any], alpha: float) -> Cell:
    roles = _roles(spec)
    names = [f"c{number}_{role}" for role in roles]
    cov = np.diag([row[f"var_{name}"] for name in names]).astype(np.float64)
    for i, one in enumerate(names):
        for j in range(i + 1, len(names)):
            cov[i, j] = cov[j, i] = row[f"cov_{one}_{names[j]}"]
    means = np.array([row[f"mean_{name}"] for name in names], dtype=np.float64)
    joint = Joint(row[f"n_{number}"], tuple(roles), means, cov)
    found = None
    if spec.q is not None:
        place = "all" if row["everybody"] else "part"
        value, low, high = row[f"q_{number}"], row[f"low_{place}_{number}"], row[f"high_{place}_{number}"]
        se = (high - low) / (-2 * float(special.ndtri(alpha / 2)))
        found = Quantile(spec.q, value, low, high, Estimate(joint.n, value, se**2, math.inf), RANKS)
    return Cell(joint, row[f"open_{number}"], found)


def compare(
    spec: MetricSpec, arms: Mapping[str, Cell], control: str, alpha: float = 0.05
) -> dict[str, Comparison | str]:
    """Every arm against ``control``, adjusted by the covariate where there is one; or why it is refused.

    ``arms``: a metric's cells of one dimension (or of all together), by arm.
    """
    if control not in arms:
        raise InvalidInput(f"“{control}” has no members; name the control arm.", "control")
    results: dict[str, Comparison | str] = {}
    for name in arms:
        if name == control:
            continue
        pair = {"treated": arms[name], "control": arms[control]}
        try:
            found = _estimates(spec, pair)
            results[name] = estimate.compare(found["treated"], found["control"], alpha)
        except InvalidInput as refusal:
            results[name] = str(refusal)
    return results


def guardrail(
    spec: MetricSpec, arms: Mapping[str, Cell], control: str, alpha: float = 0.05
) -> dict[str, NonInferiority | str]:
    """Whether every arm stays within the metric's margin of ``control``; or why that cannot be said.

    InvalidInput: a metric without a margin, or no such control.
    """
    if spec.margin is None:
        raise InvalidInput(f"“{spec.name}” has no margin: it is no guardrail.", "margin")
    if control not in arms:
        raise InvalidInput(f"“{control}” has no members; name the control arm.", "control")
    results: dict[str, NonInferiority | str] = {}
    for name in arms:
        if name == control:
            continue
        try:
            found = _estimates(spec, {"treated": arms[name], "control": arms[control]})
            results[name] = margin.check(
                found["treated"],
                found["control"],
                spec.margin,
                alpha,
                relative=True,
                higher_is_better=spec.higher_is_better,
            )
        except InvalidInput as refusal:
            results[name] = str(refusal)
    return results


def _estimates(spec: MetricSpec, pair: Mapping[str, Cell]) -> dict[str, Estimate]:
    if spec.kind == QUANTILE:
        return {name: cell.quantile.estimate for name, cell in pair.items() if cell.quantile is not None}
    joints = {name: cell.joint for name, cell in pair.items()}
    metric = Ratio(VALUE, BELOW) if spec.kind == RATIO else Mean(VALUE)
    if spec.kind == RATIO:
        for joint in joints.values():
            ratio.check_denominator(joint, Ratio(VALUE, BELOW))
    if spec.covariate_days is not None:
        # Both columns before are covariates of their own: a member without an order then has no ratio.
        before = [Mean(role) for role in _roles(spec) if role in (BEFORE, BELOW_BEFORE)]
        return cuped.adjust(joints, metric, before)
    if spec.kind in (PROPORTION, RETENTION):
        return {
            name: Estimate.of_proportion(round(joint.n * float(joint.means[0])), joint.n)
            for name, joint in joints.items()
        }
    if spec.kind == RATIO:
        return {name: ratio.estimate_of(joint, metric) for name, joint in joints.items()}
    return {name: Estimate.of_mean(joint.moments(VALUE)) for name, joint in joints.items()}
