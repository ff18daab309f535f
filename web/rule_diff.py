"""Two versions of a rule side by side: a line a condition, and what was added or taken away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from flask_babel import gettext

from core.errors import InvalidInput
from segments.language.tree import All, Any_, Node, Not
from segments.rules import validate
from segments.words import of_node
from web.words import segment_titles

KEPT, ADDED, GONE = "kept", "added", "gone"


@dataclass(frozen=True)
class Line:
    """A condition, or the head of a group, ``depth`` groups deep."""

    depth: int
    text: str
    change: str = KEPT


def lines(rule: Any, locale: str) -> list[Line]:
    """A rule as indented lines; one that is not valid any more as its JSON."""
    try:
        return list(_lines(validate(rule), 0, locale))
    except InvalidInput:
        text = json.dumps(rule, ensure_ascii=False, indent=2)
        return [Line((len(row) - len(row.lstrip())) // 2, row.strip()) for row in text.splitlines()]


def _lines(node: Node, depth: int, locale: str) -> Iterator[Line]:
    if isinstance(node, All | Any_):
        yield Line(depth, gettext("All of these") if isinstance(node, All) else gettext("Any of these"))
        for child in node.nodes:
            yield from _lines(child, depth + 1, locale)
    elif isinstance(node, Not) and isinstance(node.node, All | Any_):
        inner = node.node
        yield Line(depth, gettext("Not all of these") if isinstance(inner, All) else gettext("None of these"))
        for child in inner.nodes:
            yield from _lines(child, depth + 1, locale)
    else:
        yield Line(depth, of_node(node, locale, segment_titles()))


def diff(before: Any, after: Any, locale: str) -> list[Line]:
    """The lines of both rules in one list: what stayed, what went, what is new."""
    old, new = lines(before, locale), lines(after, locale)
    found: list[Line] = []
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            found += old[i1:i2]
        else:
            found += [Line(line.depth, line.text, GONE) for line in old[i1:i2]]
            found += [Line(line.depth, line.text, ADDED) for line in new[j1:j2]]
    return found
