"""A metric's form: definition to fields, fields to definition, and the package's refusals back to fields."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from flask_babel import gettext

from core.errors import HuiliuError, InvalidInput
from core.warehouse.replica import Fact
from experiments import metric_where, metrics
from experiments.metric_where import AnyOf, Rows
from experiments.metrics import (
    COUNT,
    IN,
    IS_SET,
    KINDS,
    MEAN,
    NAME_CHARS,
    PROPERTY,
    PROPORTION,
    QUANTILE,
    RATIO,
    Condition,
    MetricSpec,
)
from experiments.moments import MAX_WINDOW_DAYS
from web.console.metric_words import NOT_SET
from web.forms import Form
from web.refusals import said

SUMS = (MEAN, RATIO, QUANTILE)
CAPPED = (MEAN, COUNT, RATIO)
BEFORE = (*CAPPED, PROPORTION)
TEXT_LIMIT, RULE_LIMIT = 20_000, 100_000
ALL, ANY, GROUPS = "all", "any", "groups"
MATCHES = (ALL, ANY, GROUPS)
"""How the conditions hold: all of them, any of them, or in groups that are written as JSON."""
TRUE, FALSE = ("true", "yes", "1", "是"), ("false", "no", "0", "否")
_WHERE = re.compile(r"where(?:\.any)?\[(\d+)\]\.(\w+)")
_PARTS = {"field": "column"}
_NUMBER = re.compile(r"-?\d+(\.\d+)?")


def empty() -> Form:
    """A new metric as most begin."""
    return Form(
        {"kind": MEAN, "fact": "orders", "from_day": "0", "until_day": "30", "better": "higher", "match": ALL}
    )


def from_spec(spec: MetricSpec) -> Form:
    """The form of a stored metric."""
    data: dict[str, Any] = {
        "name": spec.name,
        "kind": spec.kind,
        "fact": spec.fact,
        "value": spec.value or "",
        "denominator": spec.denominator or "",
        "from_day": spec.from_day,
        "until_day": spec.until_day,
        "q": _percent(spec.q),
        "winsorise": _percent(spec.winsorise),
        "covariate_days": spec.covariate_days or "",
        "margin": _percent(spec.margin),
        "better": "higher" if spec.higher_is_better else "lower",
    }
    listed, match = _listed(spec.where)
    data["match"] = match
    if match == GROUPS:
        data["rule"] = json.dumps(metric_where.rule(spec.where), ensure_ascii=False, indent=2)
    for index, one in enumerate(listed):
        op = NOT_SET if one.op == IS_SET and not one.value else one.op
        data |= {
            f"where-{index}-column": one.column,
            f"where-{index}-op": op,
            f"where-{index}-value": "" if one.op == IS_SET else _typed(one),
        }
    return Form(data)


def _listed(where: Rows) -> tuple[list[Condition], str]:
    """What the list of the form shows, and how its conditions hold; nothing of a rule that has groups."""
    found, match = where, ALL
    if len(where) == 1 and isinstance(where[0], AnyOf):
        found, match = where[0].parts, ANY
    listed = [one for one in found if isinstance(one, Condition)]
    return (listed, match) if len(listed) == len(found) else ([], GROUPS)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share * 100:g}"


def _typed(one: Condition) -> str:
    """A condition's value as it is typed; texts of a property that look like numbers stand in quotes."""
    values = one.value if isinstance(one.value, list | tuple) else [one.value]
    quoted = one.column.startswith(PROPERTY)
    found = []
    for value in values:
        text = str(value).lower() if isinstance(value, bool) else str(value)
        found.append(f'"{text}"' if quoted and isinstance(value, str) and _NUMBER.fullmatch(text) else text)
    return ", ".join(found)


def read(form: Form, facts: Mapping[str, Fact], name: str | None = None) -> MetricSpec | None:
    """The metric that was sent, checked; None where something is wrong, which then stands in the form.

    ``name`` is given for a metric that exists. What does not belong to the chosen kind is left out.
    """
    kind = form.choice("kind", KINDS)
    fact = form.choice("fact", [one for one, found in facts.items() if metrics.usable(found)])
    spec = MetricSpec(
        name=name or form.text("name", required=True, limit=NAME_CHARS),
        kind=kind,
        fact=fact,
        value=_of(kind, SUMS, form.text("value", required=kind in SUMS, limit=200)),
        denominator=_of(kind, (RATIO,), form.text("denominator", required=kind == RATIO, limit=200)),
        where=_where(form, facts.get(fact)),
        from_day=form.integer("from_day", high=MAX_WINDOW_DAYS) or 0,
        until_day=form.integer("until_day", low=1, high=MAX_WINDOW_DAYS, required=True) or 0,
        q=_of(kind, (QUANTILE,), form.percent("q")),
        winsorise=_of(kind, CAPPED, form.percent("winsorise")),
        covariate_days=_of(kind, BEFORE, form.integer("covariate_days", high=MAX_WINDOW_DAYS)),
        margin=form.percent("margin"),
        higher_is_better=form.choice("better", ("higher", "lower"), "higher") == "higher",
    )
    if not form.ok:
        return None
    try:
        metrics.check(spec, facts)
    except InvalidInput as error:
        refuse(form, error)
        return None
    return spec


def _of(kind: str, kinds: tuple[str, ...], value: Any) -> Any:
    return value if kind in kinds and value != "" else None


def _where(form: Form, fact: Fact | None) -> Rows:
    """Which rows count: the list, or the rule that is written as JSON."""
    match = form.choice("match", MATCHES, ALL)
    if match == GROUPS:
        if len(str(form.data.get("rule") or "")) > RULE_LIMIT:
            form.error("rule", gettext("The rule is too long."))
            return ()
        rule = form.json("rule")
        if rule is None:
            if not form.errors.get("rule"):
                form.error("rule", gettext("The rule is empty."))
            return ()
        try:
            return metric_where.parse(rule)
        except InvalidInput as error:
            form.error("rule", said(error))
            return ()
    listed = tuple(_condition(row, fact) for _, row in form.rows("where"))
    return (AnyOf(listed),) if match == ANY and len(listed) > 1 else listed


def refuse(form: Form, error: HuiliuError) -> None:
    """Put the package's refusal beside the field that its path means."""
    path = getattr(error, "field", None) or "name"
    found = _WHERE.fullmatch(path)
    if path.startswith("where") and form.value("match") == GROUPS:
        form.error("rule", said(error))
        return
    text = said(error)
    if found is not None:
        numbers = [index for index, _ in form.rows("where")]
        path = f"where-{numbers[int(found[1])]}-{_PARTS.get(found[2], found[2])}"
        text = said(str(error).partition(": ")[2]) if found[0].startswith("where.") else text
    form.error(path, text)


def _condition(row: Mapping[str, str], fact: Fact | None) -> Condition:
    column, op, text = row.get("column", ""), row.get("op", "="), row.get("value", "")[:TEXT_LIMIT]
    if op in (IS_SET, NOT_SET):
        return Condition(column, IS_SET, op == IS_SET)
    kind = None if fact is None else metrics.columns_of(fact).get(column)
    if op == IN:
        parts = [part.strip() for part in text.replace("，", ",").split(",")]
        return Condition(column, op, [_parsed(part, kind, column) for part in parts if part])
    return Condition(column, op, _parsed(text.strip(), kind, column))


def _parsed(text: str, kind: pa.DataType | None, column: str) -> Any:
    """A typed value in its column's type; as it is where it is none, which the check then says."""
    plain = text.strip('"“”')
    if column.startswith(PROPERTY):
        return _number(text) if _NUMBER.fullmatch(text) else plain
    if kind is None or pa.types.is_string(kind):
        return plain
    if pa.types.is_boolean(kind):
        low = text.lower()
        return True if low in TRUE else False if low in FALSE else text
    return _number(text) if _NUMBER.fullmatch(text) else text


def _number(text: str) -> int | float:
    return float(text) if "." in text else int(text)


def column_options(facts: Mapping[str, Fact]) -> dict[str, list[tuple[str, bool]]]:
    """Fact → its columns that can be summed or compared, (name, whether it is a number); times cannot."""
    return {
        name: [
            (column, pa.types.is_integer(kind) or pa.types.is_floating(kind))
            for column, kind in metrics.columns_of(fact).items()
            if column != "member_id" and not column.endswith("_id") and column != "properties"
        ]
        for name, fact in facts.items()
        if metrics.usable(fact)
    }


def kind_hint(kind: str) -> str:
    """What a kind is for, for the choice's words."""
    return str(
        {
            MEAN: gettext("such as revenue"),
            COUNT: gettext("such as orders"),
            PROPORTION: gettext("such as conversion"),
            RATIO: gettext("such as average order value"),
            QUANTILE: gettext("such as the median"),
        }.get(kind, gettext("such as coming back in the second month"))
    )
