"""The rules against abuse as a form: a row a rule, times in the unit that says them shortest.

Guarantees: what was typed comes back with each mistake beside its field; a row without a name and a limit
is no rule, and a row marked for removal is gone.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from flask_babel import gettext

from core.errors import InvalidInput
from loyalty.abuse.rules import DAY_S, HOLD, HOUR_S, MINUTE_S, Rules, parse
from web.forms import Form

VELOCITY, SHARED = "velocity", "shared"
SPARE_ROWS = 2
UNITS = (DAY_S, HOUR_S, MINUTE_S, 1)
TIMES = ("window_s", "first_s", "longest_s")


def form_of(rules: Rules) -> Form:
    """The fields of stored rules: ``velocity-0-limit``, ``shared-0-window_s`` with its ``…_unit``."""
    data: dict[str, Any] = {}
    stored = asdict(rules)
    for prefix in (VELOCITY, SHARED):
        for place, rule in enumerate(stored[prefix]):
            _put(data, f"{prefix}-{place}-", rule)
    _put(data, "guessing-0-", stored["guessing"])
    return Form(data)


def _put(data: dict[str, Any], at: str, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if name not in TIMES:
            data[f"{at}{name}"] = value
            continue
        unit = next(unit for unit in UNITS if value % unit == 0)
        data |= {f"{at}{name}": value // unit, f"{at}{name}_unit": str(unit)}


def places(form: Form, prefix: str) -> range:
    """The numbers of the rows shown: those that are filled in, and some spare ones."""
    return range(max((place for place, _ in form.rows(prefix)), default=-1) + 1 + SPARE_ROWS)


def read(form: Form) -> Rules | None:
    """The rules typed in; None with the errors beside their fields."""
    value = {prefix: _rules(form, prefix) for prefix in (VELOCITY, SHARED)}
    guessing = {"limit": _number(form, "guessing-0-limit")}
    guessing |= {name: _seconds(form, f"guessing-0-{name}") for name in TIMES}
    if form.ok:
        _checked(form, {"guessing": guessing}, "guessing-0-")
    if form.ok:
        # Each is right by itself: what is left concerns several of them.
        return _checked(form, {**value, "guessing": guessing}, None)
    return None


def _rules(form: Form, prefix: str) -> list[dict[str, Any]]:
    found = []
    for place, row in form.rows(prefix):
        at = f"{prefix}-{place}-"
        if row.get("remove") or not (row.get("name") or row.get("limit")):
            continue
        wrong = len(form.errors)
        rule: dict[str, Any] = {
            "name": form.text(f"{at}name", required=True, limit=60),
            "kind": row.get("kind", ""),
            "limit": _number(form, f"{at}limit"),
            "window_s": _seconds(form, f"{at}window_s"),
            "verdict": row.get("verdict") or HOLD,
        }
        if prefix == VELOCITY:
            rule["action"] = row.get("action", "")
        if len(form.errors) == wrong:
            _checked(form, {prefix: [rule]}, at)
        found.append(rule)
    return found


def _number(form: Form, name: str) -> int:
    return form.integer(name, low=1, required=True) or 0


def _seconds(form: Form, name: str) -> int:
    unit = form.choice(f"{name}_unit", [str(unit) for unit in UNITS], str(MINUTE_S))
    return _number(form, name) * (int(unit) if unit.isdecimal() else 0)


def _checked(form: Form, value: dict[str, Any], at: str | None) -> Rules | None:
    """The rules, or None with the refusal beside its field in the row ``at`` (None: above the form)."""
    try:
        return parse(value)
    except InvalidInput as error:
        field = error.field or ""
        if field in TIMES and at is not None:
            form.error(
                f"{at}{field}",
                gettext(
                    "Write a time from a minute to 90 days, of lock-outs to 30; "
                    "the first lock-out is no longer than the longest."
                ),
            )
        else:
            form.refuse(error, {field: "" if at is None else f"{at}{field}"})
        return None
