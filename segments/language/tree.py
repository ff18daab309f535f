"""A checked rule as a tree of frozen nodes. Whoever holds one need not check anything again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

HOURS_A_DAY = 24


@dataclass(frozen=True)
class Span:
    """``30d`` or ``12h``. In a window, days are calendar days of the shop's zone, and hours are exact;
    after an event, a day is 24 hours."""

    amount: int
    unit: str
    """``d`` or ``h``."""

    @property
    def hours(self) -> int:
        return self.amount * (HOURS_A_DAY if self.unit == "d" else 1)


@dataclass(frozen=True)
class Where:
    """A condition on an event's property."""

    property: str
    op: str
    value: Any


@dataclass(frozen=True)
class Happening:
    """A kind of event, and what its properties must be."""

    event: str
    where: tuple[Where, ...] = ()


@dataclass(frozen=True)
class Since:
    """A window of each member's own: strictly after their last or first such event, ``limit`` long."""

    anchor: Happening
    which: str = "last"
    limit: Span | None = None


@dataclass(frozen=True)
class Within:
    """A half-open window [start, end) that never reaches beyond the as-of instant.

    A span as a bound is that long before it. ``kind``: ``ever``, ``last``, ``before``, ``between`` or
    ``since_event``.
    """

    kind: str = "ever"
    start: date | Span | None = None
    end: date | Span | None = None
    since: Since | None = None


EVER = Within()


@dataclass(frozen=True)
class All:
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Any_:
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Not:
    node: Node


@dataclass(frozen=True)
class FieldIs:
    field: str
    op: str
    value: Any


@dataclass(frozen=True)
class EventIs:
    """An aggregate over a member's events, compared with a value."""

    what: Happening
    aggregate: str
    of: str | None
    op: str
    value: Any
    within: Within = EVER

    @property
    def event(self) -> str:
        return self.what.event

    @property
    def where(self) -> tuple[Where, ...]:
        return self.what.where


@dataclass(frozen=True)
class Step:
    """A step of a sequence: it happens (``within`` so long after the step before), or it does not.

    A step that must not happen and is the last one has a ``within``: so long after the step before
    nothing of it happened, and that time is over. Between two steps it means: none between them.
    """

    what: Happening
    happens: bool = True
    within: Span | None = None


@dataclass(frozen=True)
class Sequence:
    """Steps of one member, each strictly later than the one before."""

    steps: tuple[Step, ...]
    within: Within = EVER


@dataclass(frozen=True)
class InSegment:
    name: str


@dataclass(frozen=True)
class InList:
    name: str


Leaf = FieldIs | EventIs | Sequence | InSegment | InList
Node = All | Any_ | Not | Leaf


def leaves(node: Node) -> Iterator[Leaf]:
    """The conditions of a rule, in its order."""
    if isinstance(node, Not):
        yield from leaves(node.node)
    elif isinstance(node, All | Any_):
        for child in node.nodes:
            yield from leaves(child)
    else:
        yield node


def segments_in(node: Node) -> Iterator[str]:
    """Names of the segments that a rule refers to."""
    return (leaf.name for leaf in leaves(node) if isinstance(leaf, InSegment))


def lists_in(node: Node) -> Iterator[str]:
    """Names of the lists that a rule refers to."""
    return (leaf.name for leaf in leaves(node) if isinstance(leaf, InList))
