"""What the rule builder needs to know, as JSON: fields, events, operators and their words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flask_babel import gettext

from segments.rules import AGGREGATES, ATTRIBUTE_OPERATORS, EVENTS, FIELDS, OPERATORS
from web.i18n import language
from web.words import word

_CHOICE_WORDS = {"lifecycle": "stage", "rfm.segment": "rfm", "rfm.value_segment": "value"}


def options(segments: Sequence[tuple[str, str]], kinds: Sequence[str] = ()) -> dict[str, Any]:
    """``segments`` are (name, title) that a rule may name; ``kinds`` the shop's own kinds of events."""
    chinese = language() == "zh"
    fields = [
        {
            "name": field.name,
            "title": field.zh if chinese else field.en,
            "type": field.type,
            "choices": [
                [choice, word(_CHOICE_WORDS.get(field.name, ""), choice)] for choice in field.choices
            ],
        }
        for field in FIELDS.values()
    ]
    events: list[dict[str, Any]] = [
        {
            "name": name,
            "title": source.zh if chinese else source.en,
            "properties": [
                {"name": property_, "title": word("property", property_), "type": kind}
                for property_, (kind, _column) in source.properties.items()
            ],
        }
        for name, source in EVENTS.items()
    ]
    events += [
        {"name": kind, "title": word("event", kind), "properties": None}
        for kind in kinds
        if kind not in EVENTS
    ]
    return {
        "fields": fields,
        "events": events,
        "segments": [[name, title] for name, title in segments],
        "operators": {kind: [[op, word("op", op)] for op in ops] for kind, ops in OPERATORS.items()},
        "attributeOperators": [[op, word("op", op)] for op in ATTRIBUTE_OPERATORS],
        "aggregates": [[name, word("aggregate", name)] for name in AGGREGATES],
        "words": _words(),
    }


def _words() -> dict[str, str]:
    return {
        "all": gettext("All of these"),
        "any": gettext("Any of these"),
        "not": gettext("Not"),
        "addField": gettext("About the member"),
        "addEvent": gettext("Something they did"),
        "addSegment": gettext("In a segment"),
        "addGroup": gettext("Group"),
        "remove": gettext("Remove"),
        "field": gettext("Field"),
        "operator": gettext("Comparison"),
        "value": gettext("Value"),
        "values": gettext("values, separated by commas"),
        "and": gettext("and"),
        "days": gettext("days"),
        "yes": gettext("yes"),
        "no": gettext("no"),
        "event": gettext("Event"),
        "aggregate": gettext("Measure"),
        "of": gettext("of"),
        "ever": gettext("at any time"),
        "last": gettext("in the last"),
        "before": gettext("before"),
        "between": gettext("between"),
        "window": gettext("When"),
        "where": gettext("where"),
        "addWhere": gettext("Only where …"),
        "attribute": gettext("Attribute …"),
        "attributeName": gettext("Name of the attribute"),
        "property": gettext("Property"),
        "segment": gettext("Segment"),
        "raw": gettext("As JSON"),
        "badJson": gettext("This is not JSON yet; the builder waits until it is."),
    }
