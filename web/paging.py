"""Lists in pages: one row more than a page is read, so that “next” is known without counting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from flask import request, url_for

T = TypeVar("T")
PAGE_ROWS = 50
MAX_PAGE = 2000


@dataclass(frozen=True)
class Page(Generic[T]):
    """One page of rows. ``by_time`` words the links as newer and older."""

    rows: Sequence[T]
    number: int
    more: bool
    by_time: bool = False

    def address(self, number: int) -> str:
        """This list's address with another page number, every filter kept."""
        arguments: dict[str, Any] = {**request.args.to_dict(flat=True), **(request.view_args or {})}
        arguments["page"] = number
        return url_for(str(request.endpoint), **arguments)


def wanted() -> int:
    """The page number asked for, at least 1."""
    return min(max(request.args.get("page", 1, type=int), 1), MAX_PAGE)


def offset(number: int, size: int = PAGE_ROWS) -> int:
    return (number - 1) * size


def page_of(rows: Sequence[T], number: int, *, size: int = PAGE_ROWS, by_time: bool = False) -> Page[T]:
    """A page of ``size + 1`` rows read."""
    return Page(rows[:size], number, len(rows) > size, by_time)
