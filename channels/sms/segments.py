"""How many parts a text message is sent and paid as. Pure.

Mainland China counts every character as one; elsewhere GSM 03.38 counts septets, and one character
outside its alphabet makes the whole text UCS-2, counted in UTF-16 units. Nothing that needs two units
(an extension character, a surrogate pair) is ever split between parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

CHINA, GSM7, UCS2 = "china", "gsm7", "ucs2"
CHINA_SINGLE, CHINA_PART, CHINA_MOST = 70, 67, 500
GSM_SINGLE, GSM_PART = 160, 153
UCS_SINGLE, UCS_PART = 70, 67

_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡"
    "ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_EXTENSION = frozenset("\f^{}\\[~]|€")
_GSM = _BASIC | _EXTENSION
MAINLAND = "+86"


@dataclass(frozen=True, slots=True)
class Count:
    """What a text costs in ``units`` of its encoding, and in how many ``segments`` it is sent."""

    encoding: str
    units: int
    segments: int
    left: int
    """Units that still fit into the last segment."""

    @property
    def too_long(self) -> bool:
        """Whether mainland China's providers refuse it."""
        return self.encoding == CHINA and self.units > CHINA_MOST


def is_mainland(phone: str) -> bool:
    """Whether an E.164 number belongs to mainland China: no other country code begins with 86."""
    return phone.startswith(MAINLAND)


def count(text: str, phone: str) -> Count:
    """The count of a text as it arrives (signature and opt-out included) at an E.164 number."""
    return count_mainland(text) if is_mainland(phone) else count_abroad(text)


def count_mainland(text: str) -> Count:
    """Up to 70 characters one segment, above 67 each; an emoji is one character."""
    units = len(text)
    if units <= CHINA_SINGLE:
        return Count(CHINA, units, 1, CHINA_SINGLE - units)
    segments = -(-units // CHINA_PART)
    return Count(CHINA, units, segments, segments * CHINA_PART - units)


def count_abroad(text: str) -> Count:
    """GSM-7 where its alphabet has every character, else UCS-2; the parts are those of :func:`split`."""
    encoding = encoding_of(text)
    cost, single, part = _rules(encoding)
    units = sum(map(cost, text))
    if units <= single:
        return Count(encoding, units, 1, single - units)
    parts = split(text)
    return Count(encoding, units, len(parts), part - sum(map(cost, parts[-1])))


def encoding_of(text: str) -> str:
    return GSM7 if _GSM.issuperset(text) else UCS2


def split(text: str) -> list[str]:
    """The parts of a text outside mainland China; one where it fits into one (the empty text as well)."""
    cost, single, part = _rules(encoding_of(text))
    if sum(map(cost, text)) <= single:
        return [text]
    return list(_parts(text, cost, part))


def _rules(encoding: str) -> tuple[Callable[[str], int], int, int]:
    if encoding == GSM7:
        return _septets, GSM_SINGLE, GSM_PART
    return _utf16, UCS_SINGLE, UCS_PART


def _septets(character: str) -> int:
    return 2 if character in _EXTENSION else 1


def _utf16(character: str) -> int:
    return 2 if ord(character) > 0xFFFF else 1


def _parts(text: str, cost: Callable[[str], int], most: int) -> Iterator[str]:
    begin = units = 0
    for place, character in enumerate(text):
        more = cost(character)
        if units + more > most:
            yield text[begin:place]
            begin, units = place, 0
        units += more
    yield text[begin:]
