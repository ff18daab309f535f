"""Collects the texts of refusals for translators: a Babel extractor (see ``web/translations/babel.cfg``).

The packages below ``web`` know no languages; they raise errors whose English message says what to do.
Every message of a ``HuiliuError`` in their code becomes a text of the context ``refusal``, with a
placeholder for each value in it; :mod:`web.refusals` finds it again by its fixed parts.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from typing import Any, BinaryIO

CONTEXT = "refusal"
RAISED = {
    **dict.fromkeys(("HuiliuError", "InvalidInput", "NotFound", "Conflict"), 0),
    **dict.fromkeys(("Refused", "NotEnough", "TooMany"), 0),
    "fail": 1,
}
"""What makes an error, and which of its arguments is the message."""
Found = tuple[int, str, tuple[str, str], list[str]]


def extract(
    source: BinaryIO,
    keywords: Collection[str],  # noqa: ARG001 - Babel's interface has them
    comment_tags: Collection[str],  # noqa: ARG001
    options: Mapping[str, Any],  # noqa: ARG001
) -> Iterator[Found]:
    """Babel's interface: (line, function, (context, text), comments)."""
    for node in ast.walk(ast.parse(source.read())):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", None) or getattr(node.func, "attr", "")
        place = RAISED.get(str(name))
        if place is None or len(node.args) <= place:
            continue
        text = template_of(node.args[place])
        if text is not None:
            yield node.lineno, "pgettext", (CONTEXT, text), []


def template_of(node: ast.expr) -> str | None:
    """A message's text with ``%(name)s`` for each value; None where it is no text, nothing but values,
    or a single word: that is a reason for machines.
    """
    names: list[str] = []
    text = _text(node, names)
    if text is None or " " not in text.strip():
        return None
    fixed = text
    for name in names:
        fixed = fixed.replace(f"%({name})s", "")
    return text if any(map(str.isalpha, fixed)) else None


def _text(node: ast.expr, names: list[str]) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value.replace("%", "%%")
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, names) or _placeholder(part, names) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _text(node.left, names), _text(node.right, names)
        return None if left is None or right is None else left + right
    return None


def _placeholder(part: ast.expr, names: list[str]) -> str:
    value = part.value if isinstance(part, ast.FormattedValue) else part
    name = getattr(value, "id", None) or getattr(value, "attr", None) or "value"
    while name in names:
        name += "_"
    names.append(name)
    return f"%({name})s"
