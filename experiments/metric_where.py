"""Which rows of its fact a metric counts: a rule of conditions in groups, as JSON and as one expression.

A rule has the shape of the segments' rules: ``{"all": […]}``, ``{"any": […]}``, ``{"not": rule}``, or a
condition ``{"field", "op", "value"}`` on a column of the fact (``properties.x`` of an event). A plain list
of ``{"column", "op", "value"}`` says that all of them hold.

Guarantees: a missing value satisfies no comparison, in a group too, so that ``not`` is the plain opposite;
reading and writing gives the same rule again; a mistake is named by its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlglot import exp, parse_one

from core.errors import InvalidInput

MAX_DEPTH = 8
MAX_CONDITIONS = 20
IS_SET, IS_NOT_SET = "is_set", "is_not_set"
"""A rule writes ``is_not_set`` where a condition has ``is_set`` with False."""
ROOT = "where"


@dataclass(frozen=True)
class Condition:
    """A row counts where ``column`` ``op`` ``value`` holds; NULL satisfies none but ``is_set`` False.

    ``in`` takes a list; ``is_set`` takes True (there is a value) or False.
    """

    column: str
    op: str
    value: Any


@dataclass(frozen=True)
class All:
    """Every part holds."""

    parts: tuple[Where, ...]


@dataclass(frozen=True)
class AnyOf:
    """A part holds, or several."""

    parts: tuple[Where, ...]


@dataclass(frozen=True)
class Not:
    """The part does not hold."""

    part: Where


Where = Condition | All | AnyOf | Not
Rows = tuple[Where, ...]
"""What a metric has: all of them hold; empty: every row counts."""


def parse(data: Any) -> Rows:
    """A list of conditions, or a rule; an outermost ``all`` is the same as its parts.

    InvalidInput, with the path of the node: what is no rule, nests deeper than 8 levels, or has more than 20
    conditions. Columns, operators and values are checked by :func:`experiments.metrics.check`.
    """
    if not data:
        return ()
    if isinstance(data, list | tuple):
        found: Rows = tuple(_listed(one, f"{ROOT}[{number}]") for number, one in enumerate(data))
    else:
        node = _node(data, ROOT, 1)
        found = node.parts if isinstance(node, All) else (node,)
    if sum(1 for _ in leaves(found)) > MAX_CONDITIONS:
        raise InvalidInput(f"A metric has at most {MAX_CONDITIONS} conditions.", ROOT)
    return found


def _fail(path: str, text: str) -> InvalidInput:
    return InvalidInput(f"{path}: {text}", path)


def _listed(data: Any, path: str) -> Condition:
    if not isinstance(data, Mapping) or set(data) != {"column", "op", "value"}:
        raise _fail(path, "a condition of a list has column, op and value.")
    return Condition(**data)


def _node(data: Any, path: str, depth: int) -> Where:
    if not isinstance(data, Mapping):
        raise _fail(path, "a condition must be a JSON object.")
    if depth > MAX_DEPTH:
        raise _fail(path, f"conditions nest deeper than {MAX_DEPTH} levels.")
    for key, kind in (("all", All), ("any", AnyOf)):
        if key in data:
            _only(data, path, (key,))
            parts = data[key]
            if not isinstance(parts, list | tuple) or not parts:
                raise _fail(f"{path}.{key}", "a group needs at least one condition.")
            return kind(tuple(_node(one, f"{path}.{key}[{i}]", depth + 1) for i, one in enumerate(parts)))
    if "not" in data:
        _only(data, path, ("not",))
        return Not(_node(data["not"], f"{path}.not", depth + 1))
    return _leaf(data, path)


def _leaf(data: Mapping[str, Any], path: str) -> Condition:
    if "field" not in data:
        raise _fail(path, "a condition has one of all, any, not, field.")
    _only(data, path, ("field", "op", "value"))
    op = data.get("op")
    if op in (IS_SET, IS_NOT_SET):
        if data.get("value") is not None:
            raise _fail(f"{path}.value", f"{op} takes no value.")
        return Condition(data["field"], IS_SET, op == IS_SET)
    if not isinstance(op, str):
        raise _fail(f"{path}.op", "the operator is missing.")
    if "value" not in data:
        raise _fail(f"{path}.value", "the value is missing.")
    return Condition(data["field"], op, data["value"])


def _only(data: Mapping[str, Any], path: str, known: Sequence[str]) -> None:
    other = sorted(str(key) for key in data if key not in known)
    if other:
        raise _fail(path, f"“{other[0]}” does not belong here; there is {', '.join(known)}.")


def is_flat(where: Rows) -> bool:
    """Whether it is a plain list of conditions."""
    return all(isinstance(one, Condition) for one in where)


def to_json(where: Rows) -> Any:
    """As stored: a plain list as a list, as metrics without groups always were; else a rule."""
    if is_flat(where):
        return [asdict(one) for one in where]
    return rule(where)


def rule(where: Rows) -> Any:
    """As a rule, a plain list too; ``{"all": []}`` where every row counts."""
    return _rule(where[0]) if len(where) == 1 else {"all": [_rule(one) for one in where]}


def _rule(node: Where) -> dict[str, Any]:
    if isinstance(node, Condition):
        if node.op == IS_SET:
            return {"field": node.column, "op": IS_SET if node.value else IS_NOT_SET}
        return {"field": node.column, "op": node.op, "value": node.value}
    if isinstance(node, Not):
        return {"not": _rule(node.part)}
    return {"all" if isinstance(node, All) else "any": [_rule(one) for one in node.parts]}


def leaves(where: Rows) -> Iterator[Condition]:
    """Every condition, in the order of the rule."""
    return (leaf for _, leaf in placed(where))


def placed(where: Rows) -> Iterator[tuple[str, Condition]]:
    """Every condition with its place: ``where[1]`` of a list, ``where.all[1].not`` of a rule."""
    if is_flat(where):
        yield from ((f"{ROOT}[{i}]", one) for i, one in enumerate(where) if isinstance(one, Condition))
    elif len(where) == 1:
        yield from _placed(where[0], ROOT)
    else:
        yield from _placed(All(where), ROOT)


def _placed(node: Where, path: str) -> Iterator[tuple[str, Condition]]:
    if isinstance(node, Condition):
        yield path, node
    elif isinstance(node, Not):
        yield from _placed(node.part, f"{path}.not")
    else:
        key = "all" if isinstance(node, All) else "any"
        for number, one in enumerate(node.parts):
            yield from _placed(one, f"{path}.{key}[{number}]")


def compiled(where: Rows, test: Callable[[Condition, int], str]) -> list[str]:
    """SQL of DuckDB's dialect for each part, to be joined by AND.

    ``test`` gives a condition's own SQL, values as parameters; its number counts through the whole rule.
    """
    number = iter(range(MAX_CONDITIONS))

    def one(node: Where) -> exp.Expr:
        if isinstance(node, Condition):
            # NULL would make “not” of it NULL as well.
            tested = parse_one(test(node, next(number)), read="duckdb")
            return exp.Coalesce(this=tested, expressions=[exp.false()])
        if isinstance(node, Not):
            return exp.not_(one(node.part))
        return (exp.and_ if isinstance(node, All) else exp.or_)(*(one(part) for part in node.parts))

    found = []
    for part in where:
        if isinstance(part, Condition):
            found.append(test(part, next(number)))
        else:
            found.append(exp.paren(one(part)).sql("duckdb"))
    return found
