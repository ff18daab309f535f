"""Coupon codes: their alphabet, their check character, and making them by the million.

A code is ``prefix + random + check`` over 32 symbols (no I, O, 0, 1). Each symbol is an element of
the field GF(32); the check character makes the sum of ``α^i · symbol`` over all places zero, places
counted from the right. Every weight is non-zero, so each change of a single character is found; the
weights of any two places up to 31 apart differ, so each swap of two characters, adjacent or not, is
found too. Two independent changes pass one time in 32.
"""

from __future__ import annotations

import secrets
import unicodedata

import numpy as np
import numpy.typing as npt

from core.errors import InvalidInput

ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
BITS_PER_CHAR = 5
MIN_BITS = 60
MIN_RANDOM_CHARS = MIN_BITS // BITS_PER_CHAR
MAX_LENGTH = 31
"""α has order 31: beyond that many places two would share a weight."""
MAX_PREFIX = 12
MAX_RANDOM_CHARS = MAX_LENGTH - 1 - MAX_PREFIX
MIN_CODES_PER_ISSUED = 2**20
MAX_CODES = 1_000_000
MAX_STORED = 40
"""Other systems' codes may be longer than ours."""

_VALUE = {symbol: number for number, symbol in enumerate(ALPHABET)}
_POLYNOMIAL = 0b100101  # x^5 + x^2 + 1, primitive: its root α = x has order 31


def _multiplication_table() -> npt.NDArray[np.uint8]:
    """Row i: every element times α^i."""
    rows = [np.arange(32, dtype=np.uint8)]
    for _ in range(MAX_LENGTH - 1):
        doubled = rows[-1].astype(np.uint16) << 1
        rows.append(np.where(doubled & 32, doubled ^ _POLYNOMIAL, doubled).astype(np.uint8))
    return np.stack(rows)


_TIMES = _multiplication_table()
_SYMBOLS = np.frombuffer(ALPHABET.encode(), dtype=np.uint8)


def validate_pattern(prefix: str, random_chars: int, codes: int | None = None) -> str:
    """The prefix in capitals, or InvalidInput: wrong symbols, or a pattern that could be guessed.

    ``codes`` is how many the pattern will have to give, where that is known.
    """
    prefix = prefix.strip().upper()
    wrong = sorted({symbol for symbol in prefix if symbol not in _VALUE})
    if wrong:
        raise InvalidInput(
            f"The prefix “{prefix}” has {', '.join(wrong)}; use letters and digits other than I, O, 0 and 1, "
            "which are mistaken for each other.",
            "prefix",
        )
    if len(prefix) > MAX_PREFIX:
        raise InvalidInput(
            f"The prefix may have {MAX_PREFIX} characters; “{prefix}” has {len(prefix)}.", "prefix"
        )
    if not MIN_RANDOM_CHARS <= random_chars <= MAX_RANDOM_CHARS:
        raise InvalidInput(
            f"Take {MIN_RANDOM_CHARS} to {MAX_RANDOM_CHARS} random characters ({MIN_BITS} bits or more, "
            f"so that nobody can guess a code); {random_chars} were asked for.",
            "random_chars",
        )
    if codes is not None and 32**random_chars < codes * MIN_CODES_PER_ISSUED:
        raise InvalidInput(
            f"{random_chars} random characters are too few for {codes} codes: fewer than "
            f"{MIN_CODES_PER_ISSUED} possible codes for each one issued could be guessed. "
            "Take more characters or a lower limit.",
            "random_chars",
        )
    return prefix


def generate(prefix: str, random_chars: int, n: int) -> list[str]:
    """``n`` different codes. ``prefix`` is taken as :func:`validate_pattern` answers it."""
    prefix = validate_pattern(prefix, random_chars)
    if not 0 <= n <= MAX_CODES:
        raise InvalidInput(f"At most {MAX_CODES} codes are made at once; {n} were asked for.", "count")
    found: dict[str, None] = {}
    while len(found) < n:  # a repetition within 2^60 is all but impossible, and costs one more round
        found.update(dict.fromkeys(_draw(prefix, random_chars, n - len(found))))
    return list(found)


def _draw(prefix: str, random_chars: int, n: int) -> list[str]:
    length = len(prefix) + random_chars + 1
    values = np.empty((n, length), dtype=np.uint8)
    values[:, : len(prefix)] = [_VALUE[symbol] for symbol in prefix]
    # The low five bits of a random byte are uniform: 256 is a multiple of 32.
    drawn = np.frombuffer(secrets.token_bytes(n * random_chars), dtype=np.uint8) & 31
    values[:, len(prefix) : -1] = drawn.reshape(n, random_chars)
    values[:, -1] = 0
    for place in range(1, length):
        values[:, -1] ^= _TIMES[place][values[:, length - 1 - place]]
    codes: list[str] = _SYMBOLS[values].view(f"S{length}").ravel().astype(str).tolist()
    return codes


_MARKS = "-_.‐‑–—"
_DROPPED = dict.fromkeys(n for n in range(128) if chr(n).isspace() or chr(n) in _MARKS)


def normalise(text: str) -> str:
    """Capitals without spaces and hyphens; full-width characters become plain ones."""
    if text.isascii():  # nearly all, and a till waits
        return text.upper().translate(_DROPPED)
    plain = unicodedata.normalize("NFKC", text).upper()
    return "".join(symbol for symbol in plain if not symbol.isspace() and symbol not in _MARKS)


def plain(text: str) -> str:
    """The code as codes are stored, or InvalidInput where no code, ours or another's, can be meant."""
    code = normalise(text)
    if not 0 < len(code) <= MAX_STORED or not code.isprintable():
        raise InvalidInput(
            f"“{text.strip()[:40]}” cannot be a code: codes have 1 to {MAX_STORED} characters.", "code"
        )
    return code


def check(text: str) -> str:
    """The normalised code, or InvalidInput where it must have been mistyped."""
    code = normalise(text)
    wrong = sorted({symbol for symbol in code if symbol not in _VALUE})
    if wrong:
        raise InvalidInput(
            f"“{text.strip()[:40]}” has a typing error: codes have no {', '.join(wrong)[:40]}. "
            "Compare it with the message it came in.",
            "code",
        )
    if not MIN_RANDOM_CHARS < len(code) <= MAX_LENGTH:
        raise InvalidInput(
            f"“{text.strip()[:40]}” has a typing error: {len(code)} characters is not a code's length.",
            "code",
        )
    total = 0
    for place, symbol in enumerate(reversed(code)):
        total ^= int(_TIMES[place][_VALUE[symbol]])
    if total:
        raise InvalidInput(
            f"“{text.strip()[:40]}” has a typing error: a character is wrong or two are swapped. "
            "Compare it with the message it came in.",
            "code",
        )
    return code
