"""What the rule builder needs to know, as JSON: fields, events, operators and their words; and where
in a rule an error belongs."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from babel.numbers import get_currency_symbol
from flask import url_for
from flask_babel import get_locale, gettext

from core.errors import InvalidInput
from segments.language.events import MAX_STEPS, MAX_WHERE
from segments.language.vocabulary import MINOR_COLUMNS
from segments.rules import AGGREGATES, ATTRIBUTE_OPERATORS, EVENTS, FIELDS, OPERATORS
from web import context
from web.assets.manifest import asset_path
from web.i18n import language
from web.refusals import said
from web.words import word

CHOICE_WORDS = {"lifecycle": "stage", "rfm.segment": "rfm", "rfm.value_segment": "value"}
"""Fields whose values are codes, and the kind of word that says them."""
_PROFILE = "profile"
_GROUPS = {
    "lifecycle": "standing",
    "rfm": "standing",
    "predictions": "predictions",
    "has_email": "reach",
    "has_phone": "reach",
    "has_wechat": "reach",
    "consent": "reach",
    "tags": "loyalty",
    "points": "loyalty",
}
"""Start of a field's name → the heading under which it is offered; the others are of the profile."""


def options(
    segments: Sequence[tuple[str, str]],
    kinds: Sequence[str] = (),
    lists: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:
    """``segments`` and ``lists`` are (name, title) that a rule may name; ``kinds`` the shop's own events."""
    return {
        "fields": _fields(),
        "groups": [[name, title] for name, title in _group_titles().items()],
        "events": _events(kinds),
        "segments": [[name, title] for name, title in segments],
        "lists": [[name, title] for name, title in lists],
        "operators": {
            kind: [[op, _operator(kind, op)] for op in operators] for kind, operators in OPERATORS.items()
        },
        "attributeOperators": [[op, _operator("text", op)] for op in ATTRIBUTE_OPERATORS],
        "aggregates": [[name, word("aggregate", name)] for name in AGGREGATES],
        "windows": [[name, title] for name, title in _windows().items()],
        "currency": _currency(),
        "maxSteps": MAX_STEPS,
        "maxWhere": MAX_WHERE,
        "suggest": url_for("rules.suggest"),
        "icons": url_for("static", filename=asset_path("icons.svg")),
        "words": _words(),
    }


def _fields() -> list[dict[str, Any]]:
    chinese = language() == "zh"
    return [
        {
            "name": field.name,
            "title": field.zh if chinese else field.en,
            "type": field.type,
            "group": _GROUPS.get(field.name.split(".")[0], _PROFILE),
            "money": field.column.partition(".")[2] in MINOR_COLUMNS,
            "choices": [[choice, word(CHOICE_WORDS.get(field.name, ""), choice)] for choice in field.choices],
        }
        for field in FIELDS.values()
    ]


def _events(kinds: Sequence[str]) -> list[dict[str, Any]]:
    chinese = language() == "zh"
    known: list[dict[str, Any]] = [
        {
            "name": name,
            "title": source.zh if chinese else source.en,
            "properties": [
                {
                    "name": property_,
                    "title": word("property", property_),
                    "type": kind,
                    "money": column in MINOR_COLUMNS,
                }
                for property_, (kind, column) in source.properties.items()
            ],
        }
        for name, source in EVENTS.items()
    ]
    own = [
        {"name": kind, "title": word("event", kind), "properties": None}
        for kind in kinds
        if kind not in EVENTS
    ]
    return known + own


def _group_titles() -> dict[str, str]:
    return {
        "standing": gettext("Lifecycle and RFM"),
        "predictions": gettext("Predictions"),
        "loyalty": gettext("Points and tags"),
        _PROFILE: gettext("Profile"),
        "reach": gettext("Contact and consent"),
    }


def _operator(kind: str, op: str) -> str:
    """Dates are before and after, not less and more."""
    of_dates = {
        "=": gettext("is on"),
        "!=": gettext("is not on"),
        ">": gettext("is after"),
        ">=": gettext("is on or after"),
        "<": gettext("is before"),
        "<=": gettext("is on or before"),
    }
    return of_dates[op] if kind == "date" and op in of_dates else word("op", op)


def _windows() -> dict[str, str]:
    return {
        "ever": gettext("at any time"),
        "last": gettext("in the last"),
        "between_spans": gettext("between so long ago"),
        "before_span": gettext("longer ago than"),
        "between": gettext("between two dates"),
        "before": gettext("before a date"),
        "since_event": gettext("after another event"),
    }


def _currency() -> str:
    code = context.console().settings.shop_currency
    return str(get_currency_symbol(code, get_locale())).replace("CN¥", "¥")


def _words() -> dict[str, str]:
    return {**_group_words(), **_condition_words(), **_sequence_words(), **_value_words()}


def _group_words() -> dict[str, str]:
    return {
        "all": gettext("All of these"),
        "any": gettext("Any of these"),
        "notAny": gettext("None of these"),
        "notAll": gettext("Not all of these"),
        "groupKind": gettext("How the conditions combine"),
        "and": gettext("AND"),
        "or": gettext("OR"),
        "not": gettext("Not"),
        "negate": gettext("Turn into its opposite"),
        "addField": gettext("About the member"),
        "addEvent": gettext("Something they did"),
        "addSequence": gettext("One thing after another"),
        "addSegment": gettext("In a segment"),
        "addList": gettext("On a list"),
        "addGroup": gettext("Group"),
        "emptyGroup": gettext("Nothing here yet. Add a condition; an empty group cannot be counted."),
        "up": gettext("Move up"),
        "down": gettext("Move down"),
        "copy": gettext("Duplicate"),
        "remove": gettext("Remove"),
        "raw": gettext("This part can only be edited as JSON."),
        "badJsonAt": gettext(
            "This is not JSON yet (line %(line)s, column %(column)s); the conditions above are as they were.",
            line="{line}",
            column="{column}",
        ),
    }


def _condition_words() -> dict[str, str]:
    return {
        "field": gettext("Field"),
        "attribute": gettext("Attribute …"),
        "attributes": gettext("The shop's own"),
        "attributeName": gettext("Name of the attribute"),
        "operator": gettext("Comparison"),
        "event": gettext("Event"),
        "otherEvent": gettext("Another event …"),
        "eventName": gettext("Name of the event"),
        "aggregate": gettext("Measure"),
        "property": gettext("Property"),
        "itsDate": gettext("date"),
        "window": gettext("When"),
        "where": gettext("where"),
        "addWhere": gettext("Only where …"),
        "segment": gettext("Segment"),
        "list": gettext("List"),
        "inSegment": gettext("is in the segment"),
        "onList": gettext("is on the list"),
        "which": gettext("Which of them"),
        "theirLast": gettext("their last"),
        "theirFirst": gettext("their first"),
        "forAtMost": gettext("for at most"),
        "noLimit": gettext("without an end"),
    }


def _sequence_words() -> dict[str, str]:
    return {
        "step": gettext("Step"),
        "happens": gettext("did"),
        "then": gettext("then did"),
        "thenNot": gettext("then did not do"),
        "inBetween": gettext("in between"),
        "within": gettext("within"),
        "addStep": gettext("Add a step"),
        "anyTimeLater": gettext("any time later"),
    }


def _value_words() -> dict[str, str]:
    return {
        "value": gettext("Value"),
        "from": gettext("From"),
        "to": gettext("To"),
        "upTo": gettext("and"),
        "addValue": gettext("Add a value"),
        "typeValue": gettext("Type to search"),
        "removeValue": gettext("Remove %(value)s", value="{value}"),
        "days": gettext("days"),
        "hours": gettext("hours"),
        "unit": gettext("Unit of time"),
        "ago": gettext("ago"),
        "yes": gettext("yes"),
        "no": gettext("no"),
        "noSuggestions": gettext("Nothing like it in the data; Enter takes it as it is."),
        "suggestions": gettext("Suggestions"),
    }


def problem_at(rule: Any, error: InvalidInput, segments: Collection[str], lists: Collection[str]) -> str:
    """The path in ``rule`` that an error is about; empty for the rule as a whole.

    An unknown segment or list is found by its name, as the error names no place.
    """
    field = error.field or ""
    known = {"segment": segments, "list": lists}.get(field)
    if known is None:
        return "" if field == "rule" else field
    named = [(path, name) for path, key, name in _named(rule, "") if key == field]
    strange = [path for path, name in named if name not in known]
    return next(iter(strange), named[0][0] if len(named) == 1 else "")


def node_at(rule: Any, path: str) -> Any:
    """The part of a rule at a path such as ``all[1].not``; None where there is none."""
    for name, index in re.findall(r"(\w+)|\[(\d+)\]", path):
        if name:
            rule = rule.get(name) if isinstance(rule, Mapping) else None
        else:
            rule = rule[int(index)] if isinstance(rule, list) and int(index) < len(rule) else None
    return rule


def message_of(error: InvalidInput) -> str:
    """The error without the path before it, for a reader who sees it at its place."""
    text = str(error)
    return said(text.removeprefix(f"{error.field or ''}: ").removeprefix("the rule: "))


def _named(node: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    """(path, ``segment`` or ``list``, name) of the nodes that refer to something by name."""
    if not isinstance(node, Mapping):
        return
    for key in ("segment", "list"):
        if key in node:
            yield (f"{path}.{key}" if path else key), key, node[key]
    for key in ("all", "any"):
        if isinstance(node.get(key), list):
            for index, child in enumerate(node[key]):
                yield from _named(child, f"{path}.{key}[{index}]" if path else f"{key}[{index}]")
    if "not" in node:
        yield from _named(node["not"], f"{path}.not" if path else "not")
