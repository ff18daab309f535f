"""Codes: random enough, well-formed, and every typing error found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidInput
from loyalty import codes

CODE = codes.generate("VP", 12, 1)[0]


def test_the_alphabet_has_32_symbols_without_the_confusing_ones() -> None:
    assert len(set(codes.ALPHABET)) == 32
    assert not set(codes.ALPHABET) & set("IO01")


def test_a_hundred_thousand_codes_are_different_and_well_formed() -> None:
    made = codes.generate("VP", 12, 100_000)
    assert len(set(made)) == 100_000
    assert {len(code) for code in made} == {15}
    assert all(code.startswith("VP") for code in made)
    assert all(codes.check(code) == code for code in made[:2000])
    share = sum(code[2] == "2" for code in made) / 100_000
    assert abs(share - 1 / 32) < 0.003  # each symbol is as likely as another


@pytest.mark.parametrize(
    "code", [*codes.generate("VP", 12, 5), *codes.generate("ABCDEFGHJKLM", 18, 2)], ids=[*range(7)]
)
def test_every_wrong_character_is_found(code: str) -> None:
    for place in range(len(code)):
        for symbol in set(codes.ALPHABET) - {code[place]}:
            with pytest.raises(InvalidInput, match="typing error"):
                codes.check(code[:place] + symbol + code[place + 1 :])


@pytest.mark.parametrize(
    "code", [*codes.generate("VP", 12, 20), *codes.generate("ABCDEFGHJKLM", 18, 5)], ids=[*range(25)]
)
def test_every_swap_of_two_characters_is_found(code: str) -> None:
    for first in range(len(code)):
        for second in range(first + 1, len(code)):
            if code[first] == code[second]:
                continue
            swapped = list(code)
            swapped[first], swapped[second] = code[second], code[first]
            with pytest.raises(InvalidInput, match="typing error"):
                codes.check("".join(swapped))


@given(st.sampled_from([" {} ", "{}\n", "\t{}"]), st.booleans(), st.integers(1, 14))
def test_case_spaces_hyphens_and_full_width_do_not_matter(form: str, lower: bool, cut: int) -> None:
    text = f"{CODE[:cut]}-{CODE[cut:]}"
    wide = "".join(chr(ord(c) + 0xFEE0) if c.isalnum() else c for c in text)
    for typed in (text.lower() if lower else text, wide):
        assert codes.check(form.format(typed)) == CODE


@pytest.mark.parametrize(
    "text",
    ["", "ABC", CODE[:-1] + "0", CODE + CODE + CODE, "优惠券优惠券优惠券优惠券"],
    ids=["nothing", "short", "wrong symbol", "long", "Chinese"],
)
def test_what_cannot_be_a_code_is_a_typing_error(text: str) -> None:
    with pytest.raises(InvalidInput, match="typing error") as caught:
        codes.check(text)
    assert caught.value.field == "code"


@pytest.mark.parametrize(
    ("prefix", "chars", "number", "field"),
    [
        ("SPRING", 12, None, "prefix"),
        ("ABCDEFGHJKLMN", 12, None, "prefix"),
        ("AB", 11, None, "random_chars"),
        ("AB", 19, None, "random_chars"),
        ("AB", 12, 2**40 + 1, "random_chars"),
    ],
)
def test_a_pattern_that_could_be_guessed_is_refused(
    prefix: str, chars: int, number: int | None, field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        codes.validate_pattern(prefix, chars, number)
    assert caught.value.field == field


def test_the_densest_pattern_allowed_has_2_to_the_20_codes_for_each() -> None:
    assert codes.validate_pattern("ab", 12, 2**40) == "AB"
