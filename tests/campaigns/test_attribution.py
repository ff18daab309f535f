"""Attribution: each model on paths whose answer is known, and what the chain guarantees."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaigns import attribution as a
from campaigns.attribution import Credit, Path
from core.errors import InvalidInput

PATHS = [
    Path(("email", "sms", "wechat"), True, 900, 2),
    Path(("email", "sms", "sms", "wechat"), True, 100),
    Path(("sms",), False, 0, 5),
    Path((), True, 700),
]
ANY = st.lists(
    st.builds(
        Path,
        st.lists(st.sampled_from("abcde"), max_size=6).map(tuple),
        st.booleans(),
        st.integers(0, 1000),
        st.integers(1, 9),
    ),
    min_size=1,
    max_size=30,
)


@pytest.mark.parametrize(
    ("model", "email", "sms", "wechat"),
    [
        (a.LAST, (0, 0), (0, 0), (3, 1900)),
        (a.FIRST, (3, 1900), (0, 0), (0, 0)),
        (a.LINEAR, (2 / 3 + 1 / 4, 625), (2 / 3 + 2 / 4, 650), (2 / 3 + 1 / 4, 625)),
        (a.POSITION, (1.2, 760), (0.6, 380), (1.2, 760)),
    ],
)
def test_the_rules_share_out_as_they_say(
    model: str, email: tuple[float, float], sms: tuple[float, float], wechat: tuple[float, float]
) -> None:
    found = a.attribute(PATHS, model)
    for channel, expected in (("email", email), ("sms", sms), ("wechat", wechat)):
        assert (found[channel].conversions, found[channel].value_minor) == pytest.approx(expected)


def test_two_touches_share_the_position_model_evenly() -> None:
    found = a.attribute([Path(("x", "y"), True, 100)], a.POSITION)
    assert found == {"x": Credit(0.5, 50.0), "y": Credit(0.5, 50.0)}
    assert a.attribute([Path(("x",), True, 100)], a.POSITION) == {"x": Credit(1.0, 100.0)}


def test_the_textbook_chain() -> None:
    """C1→C2→C3→conversion, C1→nothing, C2→C3→nothing: p = 1/3; without C1 1/6, without C2 or C3 nothing."""
    paths = [Path(("C1", "C2", "C3"), True), Path(("C1",), False), Path(("C2", "C3"), False)]
    found = a.markov(paths)
    assert found.conversion == pytest.approx(1 / 3, abs=1e-15)
    assert found.removal == pytest.approx({"C1": 0.5, "C2": 1.0, "C3": 1.0}, abs=1e-12)
    credits_ = a.attribute(paths, a.MARKOV)
    assert [credits_[name].conversions for name in ("C1", "C2", "C3")] == pytest.approx([0.2, 0.4, 0.4])


@given(ANY)
def test_the_chain_converts_at_the_raw_rate(paths: list[Path]) -> None:
    times = sum(path.times for path in paths)
    converted = sum(path.times for path in paths if path.converted)
    assert a.markov(paths).conversion == pytest.approx(converted / times, abs=1e-12)


@given(ANY)
def test_a_removal_effect_is_what_is_lost_when_the_channel_leads_nowhere(paths: list[Path]) -> None:
    found = a.markov(paths)
    for channel, effect in found.removal.items():
        # The chain itself, by power iteration, with the channel's way on cut off.
        assert effect == pytest.approx(1 - _without(paths, channel) / found.conversion if found.conversion else 0,
                                       abs=1e-6)  # fmt: skip


def _without(paths: list[Path], channel: str) -> float:
    counts: dict[str, dict[str, int]] = {}
    for path in paths:
        states = ["(start)", *path.touches, "(yes)" if path.converted else "(no)"]
        for source, target in pairwise(states):
            row = counts.setdefault(source, {})
            row[target] = row.get(target, 0) + path.times
    counts[channel] = {"(no)": 1}
    mass, done = {"(start)": 1.0}, 0.0
    for _ in range(3000):
        following: dict[str, float] = {}
        for state, share in mass.items():
            total = sum(counts[state].values())
            for target, number in counts[state].items():
                if target == "(yes)":
                    done += share * number / total
                elif target != "(no)":
                    following[target] = following.get(target, 0.0) + share * number / total
        mass = following
        if sum(mass.values()) < 1e-9:
            break
    return done


@given(ANY, st.sampled_from(a.MODELS))
def test_every_conversion_with_a_touch_is_given_away_once(paths: list[Path], model: str) -> None:
    found = a.attribute(paths, model)
    touched = [path for path in paths if path.converted and path.touches]
    assert sum(credit.conversions for credit in found.values()) == pytest.approx(
        sum(path.times for path in touched)
    )
    assert sum(credit.value_minor for credit in found.values()) == pytest.approx(
        sum(path.value_minor * path.times for path in touched)
    )


def test_what_has_no_answer_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no model"):
        a.attribute(PATHS, "data-driven")
    with pytest.raises(InvalidInput, match="no paths"):
        a.markov([])
    with pytest.raises(InvalidInput, match="too many"):
        a.markov([Path((str(number),), True) for number in range(201)])
    with pytest.raises(InvalidInput, match="at most 1000"):
        a.attribute([Path(("x",) * 1001, True)], a.LAST)
    assert a.attribute([], a.LAST) == {}
