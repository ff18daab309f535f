"""Counting segments: the published vectors, and another implementation's opinion on any text."""

from __future__ import annotations

import pytest
import smsutil
from hypothesis import given
from hypothesis import strategies as st

from channels.sms import segments
from channels.sms.segments import Count, count, count_abroad, count_mainland, split


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a" * 160, [160]),
        ("a" * 161, [153, 8]),
        ("€" * 80, [80]),
        ("€" * 81, [76, 5]),
        ("好" * 70, [70]),
        ("好" * 71, [67, 4]),
        ("😀" * 35, [35]),
        ("😀" * 36, [33, 3]),
        ("", [0]),
        ("a" * 152 + "€" * 5, [152, 5]),
    ],
)
def test_parts_are_those_of_the_vectors(text: str, expected: list[int]) -> None:
    assert [len(part) for part in split(text)] == expected
    assert count_abroad(text).segments == len(expected)


@pytest.mark.parametrize(
    ("length", "expected"),
    [(0, 1), (70, 1), (71, 2), (134, 2), (135, 3), (201, 3), (202, 4), (500, 8)],
)
def test_mainland_china_counts_characters(length: int, expected: int) -> None:
    for character in "a好😀€":
        found = count_mainland(character * length)
        assert (found.encoding, found.units, found.segments) == (segments.CHINA, length, expected)
        assert not found.too_long
    assert count_mainland("好" * 501).too_long


def test_the_number_decides_how_a_text_is_counted() -> None:
    assert count("a" * 160, "+8613800138000") == Count("china", 160, 3, 41)
    assert count("a" * 160, "+14155550100") == Count("gsm7", 160, 1, 0)
    assert count("好" * 71, "+85251234567") == Count("ucs2", 71, 2, 63)
    assert count("a" * 150 + "€€", "+44") == Count("gsm7", 154, 1, 6)
    # A place of the first part stays empty rather than split the euro sign.
    assert count("a" * 152 + "€" * 5, "+44") == Count("gsm7", 162, 2, 143)


ALPHABETS = st.sampled_from(["ab", "a€{", "a好", "a好😀", "\u0394_\x0c|~^éà\n", "😀"])
RUNS = ALPHABETS.flatmap(
    lambda letters: st.lists(st.tuples(st.sampled_from(letters), st.integers(1, 90)), max_size=8)
)


@given(RUNS.map(lambda runs: "".join(letter * times for letter, times in runs)))
def test_parts_are_those_that_smsutil_makes(text: str) -> None:
    expected = smsutil.split(text)
    assert split(text) == [part.content for part in expected.parts] or (text == "" and split(text) == [""])
    assert count_abroad(text).segments == max(1, len(expected.parts))


@given(st.text(max_size=500))
def test_no_character_is_lost_or_split(text: str) -> None:
    found = split(text)
    assert "".join(found) == text
    if len(found) > 1:
        most = segments.GSM_PART if segments.encoding_of(text) == segments.GSM7 else segments.UCS_PART
        for part in found:
            size = (
                sum(2 if c in "\f^{}\\[~]|€" else 1 for c in part)
                if most == 153
                else len(part.encode("utf-16-be", "surrogatepass")) // 2
            )
            assert 0 < size <= most
