"""MIME without building a message per recipient: quoted-printable pieces, encoded words, headers.

A template's constant text is encoded once. Every piece (constant or value) begins and ends at
the start of a line, by a soft line break where the text goes on, so that pieces join in any
order and no line exceeds 76 characters (RFC 2045, 6.7).
"""

from __future__ import annotations

import base64
import re
from datetime import datetime
from email.utils import format_datetime
from functools import lru_cache
from typing import Any

from markupsafe import escape

from core.errors import InvalidInput

LINE = 75
"""Characters of an encoded line before its soft break ``=``."""
_PLAIN = bytes(byte for byte in range(32, 127) if byte != 61)
_BREAK = re.compile(r"[\r\n\x00]")
_TABLE = [chr(b) if 32 <= b <= 126 and b != 61 else f"={b:02X}" for b in range(256)]
_UNSAFE_ADDRESS = re.compile(r"[\r\n\x00,;<>\" ]")
_SOFT = "=\r\n"
_WORD_BYTES = 36
"""Bytes in one encoded word: in base64, with what is around it and the header's name, under 76 characters."""


def _is_plain(text: str) -> bool:
    """Whether quoted-printable leaves it as it is. For long texts several times as fast as a pattern."""
    return text.isascii() and not text.encode().translate(None, _PLAIN)


def _has_special(text: str) -> bool:
    """Whether HTML needs it escaped: five searches for one character cost less than one for five."""
    return "&" in text or "<" in text or ">" in text or '"' in text or "'" in text


def piece(text: str) -> str:
    """``text`` in quoted-printable, ending at the start of a line."""
    if _is_plain(text):
        return f"{_plain_lines(text)}{_SOFT}" if text else ""
    if "\n" not in text and "\r" not in text:
        return _fold(text) + _SOFT
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    last = lines.pop()
    return "".join(f"{_hard_line(line)}\r\n" for line in lines) + (_fold(last) + _SOFT if last else "")


def _hard_line(line: str) -> str:
    if line.endswith((" ", "\t")):
        end = "=20" if line[-1] == " " else "=09"
        return (_fold(line[:-1]) + _SOFT if len(line) > 1 else "") + end
    return _fold(line)


def _plain_lines(text: str) -> str:
    if len(text) <= LINE:
        return text
    return _SOFT.join([text[start : start + LINE] for start in range(0, len(text), LINE)])


def _fold(line: str) -> str:
    if _is_plain(line):
        return _plain_lines(line)
    encoded = line.encode("utf-8", "replace")
    if len(encoded) <= LINE:
        short = "".join([_TABLE[byte] for byte in encoded])
        if len(short) <= LINE:
            return short
    lines: list[str] = []
    current: list[str] = []
    size = 0
    for byte in encoded:
        token = _TABLE[byte]
        if size + len(token) > LINE:
            lines.append("".join(current))
            current, size = [], 0
        current.append(token)
        size += len(token)
    lines.append("".join(current))
    return _SOFT.join(lines)


class Encoded(str):
    """A value that is a piece already, escaped where it must be: finalizers and Jinja leave it alone."""

    __slots__ = ()

    def __html__(self) -> str:
        return self


def text_value(value: Any) -> str:
    """Finalizer of plain-text templates: a value as a piece."""
    if value.__class__ is Encoded:
        return value
    return "" if value is None else piece(str(value))


def html_value(value: Any) -> str:
    """Finalizer of HTML templates: a value, escaped, as a piece."""
    if value.__class__ is Encoded:
        return value
    if value.__class__ is str and not _has_special(value):
        return Encoded(piece(value))
    return Encoded() if value is None else Encoded(piece(str(escape(value))))


def text_ready(value: str) -> Encoded:
    """A value as :func:`text_value` would make it, made once."""
    return Encoded(piece(value))


def html_ready(value: str) -> Encoded:
    """A value as :func:`html_value` would make it, made once."""
    return Encoded(piece(str(escape(value)) if _has_special(value) else value))


def header_text(value: str, name: str) -> str:
    """A header's text: as it is when ASCII, in encoded words (RFC 2047) otherwise.

    Raises InvalidInput when it contains a line break: it would end the header and begin another.
    """
    if _BREAK.search(value):
        raise InvalidInput(f"{name} contains a line break; remove it.", name.lower())
    if value.isascii() and "=?" not in value and len(value) < 900:
        return value
    whole = value.encode("utf-8", "replace")
    if len(whole) <= _WORD_BYTES:
        return f"=?utf-8?b?{base64.b64encode(whole).decode()}?="
    words: list[bytes] = []
    current: list[bytes] = []
    size = 0
    for character in value:
        encoded = character.encode("utf-8", "replace")
        if size + len(encoded) > _WORD_BYTES:
            words.append(b"".join(current))
            current, size = [], 0
        current.append(encoded)
        size += len(encoded)
    words.append(b"".join(current))
    return "\r\n ".join(f"=?utf-8?b?{base64.b64encode(word).decode()}?=" for word in words)


def address_header(address: str) -> str:
    """An address as a header value; refuses what could break out of it."""
    if _UNSAFE_ADDRESS.search(address):
        raise InvalidInput("The address contains a character that no header may carry.", "address")
    return address


@lru_cache(maxsize=16)
def _date(second: datetime) -> str:
    return format_datetime(second)


def date_header(at: datetime) -> str:
    """RFC 5322 date, to the second."""
    return _date(at.replace(microsecond=0))
