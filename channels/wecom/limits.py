"""How much a message to a WeCom customer may hold. Pure. Sizes are bytes of UTF-8.

Of these, the text's 4,000 bytes are documented; the attachment's are from memory.
"""

from __future__ import annotations

from core.errors import InvalidInput

MAX_TEXT = 4_000
MAX_TITLE, MAX_DESC, MAX_URL = 128, 512, 2_048
MAX_RECIPIENTS = 10_000
"""Customers in one request."""
LINK = ("title", "url", "desc", "picurl")
"""Fields of the link; the first two are needed."""


def check_size(text: str, most: int, path: str) -> None:
    """Raises InvalidInput named by ``path`` for a text of more than ``most`` bytes."""
    size = len(text.encode())
    if size > most:
        raise InvalidInput(f"{path} has {size:,} bytes; {most:,} is the most that WeCom takes.", path)


def cut(text: str, most: int) -> str:
    """The text, shortened to ``most`` bytes; a shortened one ends with “…”."""
    raw = text.encode()
    if len(raw) <= most:
        return text
    return raw[: most - len("…".encode())].decode(errors="ignore") + "…"
