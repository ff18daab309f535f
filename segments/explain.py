"""Why a member matches a rule, or does not: each condition's truth and the value it looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlglot import exp

from core.errors import NotFound
from segments import words
from segments.language.tree import All, Any_, InSegment, Node, Not
from segments.planning.compare import sure
from segments.planning.plan import Plan
from segments.planning.presence import met_only_by_the_present
from segments.rules import validate
from segments.settings import TITLES, Titles


@dataclass(frozen=True)
class Explained:
    """A node of a rule for one member."""

    path: str
    """Its place, as errors name it; below a segment, after ``segment(name)/``."""
    kind: str
    """``all``, ``any``, ``not``, ``segment`` or ``condition``."""
    words: str
    matched: bool
    value: Any
    """What the condition looked at; None for groups, and where the member has no value."""
    parts: tuple[Explained, ...] = ()


@dataclass(frozen=True)
class Explanation:
    there: bool
    """Whether the member was there yet as of the moment: who was not is in no segment."""
    matched: bool
    rule: Explained

    def failing(self) -> list[Explained]:
        """The conditions to blame: those whose change alone could make the member match."""
        return [] if self.rule.matched else _blamed(self.rule, wanted=True)


class Question:
    """One query about one member (``plan.member_id``), and its answer as a tree."""

    def __init__(self, plan: Plan, rule: Any, locale: str, titles: Titles = TITLES) -> None:
        self._plan, self._locale, self._titles = plan, locale, titles
        self._columns: list[exp.Expr] = []
        checked = validate(rule)
        self._present = met_only_by_the_present(checked)
        self._tree = self._node(checked, "")

    def query(self) -> exp.Select:
        """A row (``there``, ``c0``, ``v0``, ``c1`` …) if the member is in the warehouse."""
        there = exp.alias_(exp.paren(self._plan.there()), "there")
        return self._plan.query(there, *self._columns)

    def answer(self, rows: Sequence[Mapping[str, Any]]) -> Explanation:
        if not rows:
            raise NotFound(f"There is no member number {self._plan.member_id} in the warehouse yet.")
        rule = _read(self._tree, rows[0])
        there = bool(rows[0]["there"]) or (rule.matched and self._present)
        return Explanation(there, there and rule.matched, rule)

    def _node(self, node: Node, path: str) -> _Draft:
        text = words.of_node(node, self._locale, self._titles)
        if isinstance(node, All | Any_):
            key = "all" if isinstance(node, All) else "any"
            parts = [self._node(child, _below(path, f"{key}[{i}]")) for i, child in enumerate(node.nodes)]
            return _Draft(path, key, text, tuple(parts))
        if isinstance(node, Not):
            return _Draft(path, "not", text, (self._node(node.node, _below(path, "not")),))
        if isinstance(node, InSegment):
            rule = self._plan.segment_rule(node.name)
            outer = self._plan.open_segments
            self._plan.open_segments = (*outer, node.name)
            part = self._node(rule, _below(path, f"segment({node.name})/"))
            self._plan.open_segments = outer
            return _Draft(path, "segment", text, (part,))
        condition, value = self._plan.leaf(node)
        number = len(self._columns) // 2
        self._columns += [exp.alias_(sure(condition), f"c{number}"), exp.alias_(value, f"v{number}")]
        return _Draft(path, "condition", text, (), number)


def _below(path: str, part: str) -> str:
    return f"{path}.{part}" if path and not path.endswith("/") else path + part


@dataclass(frozen=True)
class _Draft:
    path: str
    kind: str
    words: str
    parts: tuple[_Draft, ...]
    number: int = -1


def _read(draft: _Draft, row: Mapping[str, Any]) -> Explained:
    parts = tuple(_read(part, row) for part in draft.parts)
    value = None
    if draft.kind == "condition":
        matched, value = bool(row[f"c{draft.number}"]), row[f"v{draft.number}"]
    elif draft.kind == "any":
        matched = any(part.matched for part in parts)
    elif draft.kind == "not":
        matched = not parts[0].matched
    else:
        matched = all(part.matched for part in parts)
    return Explained(draft.path, draft.kind, draft.words, matched, value, parts)


def _blamed(node: Explained, *, wanted: bool) -> list[Explained]:
    if node.matched == wanted:
        return []
    if node.kind == "condition":
        return [node]
    below = not wanted if node.kind == "not" else wanted
    return [one for part in node.parts for one in _blamed(part, wanted=below)]
