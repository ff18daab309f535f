"""Who was there as of a moment: registered before it, in the newest snapshot up to it, or has ordered.

Some conditions are met by nobody else: then the question need not be asked of every member.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from segments.language.tree import All, EventIs, FieldIs, Happening, Node, Sequence
from segments.language.vocabulary import ATTRIBUTE_PREFIX, FIELDS
from segments.planning.happenings import COUNTED


def met_only_by_the_present(node: Node) -> bool:
    """Whether meeting the rule says that a member was there: a known score, or an order before the moment."""
    if isinstance(node, All):
        return any(met_only_by_the_present(child) for child in node.nodes)
    if isinstance(node, FieldIs):
        known = not node.field.startswith(ATTRIBUTE_PREFIX) and FIELDS[node.field].column.startswith("s.")
        return known and node.op != "is_not_set"
    if isinstance(node, EventIs):
        happened = not holds_for_nothing(node) and node.op != "is_not_set"
        return happened and _is_an_order(node.what)
    if isinstance(node, Sequence):
        return any(step.happens and _is_an_order(step.what) for step in node.steps)
    return False


def _is_an_order(what: Happening) -> bool:
    """Who names the status may ask for cancelled ones, which are none."""
    return what.event == "order" and all(where.property != "status" for where in what.where)


def holds_for_nothing(node: EventIs) -> bool:
    """Whether a count or a sum of nothing, which is 0, meets the comparison."""
    if node.aggregate not in COUNTED:
        return False
    value: Any = node.value
    tests: dict[str, Callable[[], bool]] = {
        "=": lambda: value == 0,
        "!=": lambda: value != 0,
        ">": lambda: value < 0,
        ">=": lambda: value <= 0,
        "<": lambda: value > 0,
        "<=": lambda: value >= 0,
        "between": lambda: value[0] <= 0 <= value[1],
        "in": lambda: 0 in value,
        "not_in": lambda: 0 not in value,
    }
    return tests[node.op]()
