"""How long a value of a WeChat template may be: told by its name (``thing1``, ``phrase3``). Pure.

Checked when a template is saved; a member whose own value is longer gets it shortened, since WeChat
would refuse the message (47003).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from core.errors import InvalidInput

LIMITS: Mapping[str, int] = MappingProxyType(
    {"thing": 20, "character_string": 32, "letter": 32, "number": 32, "symbol": 5, "phrase": 5}
)
"""Characters, by the kind of value."""
MAX_SERVICE_BYTES = 2048
"""Of a customer-service text."""
_NAME = re.compile(r"([a-z_]+?)\d+\Z")


def limit_of(name: str) -> int | None:
    """The most characters of a value of this name; None: WeChat says nothing of it."""
    kind = _NAME.match(name)
    return LIMITS.get(kind[1]) if kind else None


def check(data: Mapping[str, str], path: str) -> None:
    """Raises InvalidInput for a value that is too long, named by ``path`` and its own name."""
    for name, text in data.items():
        limit = limit_of(name)
        if limit is not None and len(text) > limit:
            raise InvalidInput(
                f"{path}.{name} makes {len(text)} characters (“{text}”); WeChat takes {limit} at most.",
                f"{path}.{name}",
            )


def fitted(data: Mapping[str, str]) -> dict[str, str]:
    """Values cut to their limits; a cut one ends with “…”."""
    return {name: _cut(text, limit_of(name)) for name, text in data.items()}


def _cut(text: str, limit: int | None) -> str:
    return text if limit is None or len(text) <= limit else f"{text[: limit - 1]}…"
