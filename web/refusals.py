"""Refusals in the reader's language: the packages' English messages, found among the translated ones.

A message is recognised by its fixed parts, the longest first, and its values are put into the
translation; a value that is itself a refusal ("all[0]: '9' is not a score") is translated as well.
What nobody translated is shown as it is: English, and complete.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from flask import has_request_context
from flask_babel import get_locale, get_translations

from web.assets.refusals import CONTEXT

_PLACEHOLDER = re.compile(r"%\((\w+)\)s")
_AT = re.compile(r"(?P<path>the rule|the basket|[\w.\[\]-]+): (?P<rest>.+)", re.DOTALL)
"""A refusal behind the place that it is about."""
_DEPTH = 3
"""How deep a refusal may stand in another one."""

Known = tuple[tuple[re.Pattern[str], str], ...]


def said(error: Exception | str) -> str:
    """The message of a refusal in the language of the request; English where there is none."""
    text = str(error)
    if not has_request_context():
        return text
    translations: Any = get_translations()
    return translated(text, _known(str(get_locale()), translations)) if translations else text


def translated(text: str, known: Known, depth: int = _DEPTH) -> str:
    """``text`` by the first pattern that is all of it."""
    for pattern, translation in known:
        found = pattern.fullmatch(text)
        if found is None:
            continue
        values = found.groupdict()
        if depth:
            values = {name: translated(value, known, depth - 1) for name, value in values.items()}
        return translation % values
    placed = _AT.fullmatch(text)
    if placed is not None and depth:
        return f"{placed['path']}: {translated(placed['rest'], known, depth - 1)}"
    return text


@lru_cache(maxsize=8)
def _known(_locale: str, translations: Any) -> Known:
    start = f"{CONTEXT}\x04"
    catalogue: dict[Any, Any] = getattr(translations, "_catalog", {})
    return patterns(
        {key.removeprefix(start): text for key, text in catalogue.items() if str(key).startswith(start)}
    )


def patterns(texts: dict[str, str]) -> Known:
    """What recognises each message (English template → translation), those with the most fixed text first."""
    ordered = sorted(texts, key=lambda template: (-len(_PLACEHOLDER.sub("", template)), template))
    return tuple((_pattern(template), texts[template]) for template in ordered if texts[template])


def _pattern(template: str) -> re.Pattern[str]:
    parts = _PLACEHOLDER.split(template)
    fixed = [re.escape(part.replace("%%", "%")) for part in parts[::2]]
    groups = [f"(?P<{name}>.*?)" for name in parts[1::2]]
    return re.compile(
        "".join(piece for pair in zip(fixed, [*groups, ""], strict=True) for piece in pair), re.DOTALL
    )
