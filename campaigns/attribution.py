"""Attribution of conversions to channels: a description of what was on the way, never a cause.

Pure functions over paths. Every model gives each conversion away exactly once, so the credits of all
channels sum to the conversions of paths with a touch; :mod:`campaigns.roi` alone says what was caused.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from core.errors import InvalidInput

LAST, FIRST, LINEAR, POSITION, MARKOV = "last", "first", "linear", "position", "markov"
MODELS = (LAST, FIRST, LINEAR, POSITION, MARKOV)
ENDS = 0.4
"""Share of the first and of the last touch in the position model; those between share the rest."""
MAX_CHANNELS = 200
MAX_TOUCHES = 1_000
"""Touches of one path."""


@dataclass(frozen=True)
class Path:
    """Touches in their order, whether it ended in a conversion, what one was worth (minor units, on average),
    and how many such paths there were."""

    touches: tuple[str, ...]
    converted: bool
    value_minor: float = 0
    times: int = 1


@dataclass(frozen=True)
class Credit:
    """What a model gives a channel: conversions, and their value in minor units."""

    conversions: float
    value_minor: float


@dataclass(frozen=True)
class Markov:
    """The order-1 chain. ``conversion``: probability from start to conversion, which is the raw conversion
    rate; ``removal``: channel → share of the conversions that are gone when its touches lead nowhere."""

    conversion: float
    removal: dict[str, float]


Shares = Callable[[int], npt.NDArray[np.float64]]


def _position(number: int) -> npt.NDArray[np.float64]:
    if number <= 2:
        return np.full(number, 1 / number)
    shares = np.full(number, (1 - 2 * ENDS) / (number - 2))
    shares[[0, -1]] = ENDS
    return shares


def _one_hot(number: int, place: int) -> npt.NDArray[np.float64]:
    shares = np.zeros(number)
    shares[place] = 1
    return shares


_SHARES: dict[str, Shares] = {
    LAST: lambda number: _one_hot(number, -1),
    FIRST: lambda number: _one_hot(number, 0),
    LINEAR: lambda number: np.full(number, 1 / number),
    POSITION: _position,
}


def attribute(paths: Sequence[Path], model: str) -> dict[str, Credit]:
    """Credits of every channel that was touched, by a model of ``MODELS``.

    Conversions without a touch are nobody's. InvalidInput: an unknown model, or paths beyond the limits.
    """
    if model not in MODELS:
        raise InvalidInput(f"There is no model “{model}”; take one of {', '.join(MODELS)}.", "model")
    channels = _channels(paths)
    if model == MARKOV:
        return _by_removal(paths, channels)
    conversions: dict[str, float] = defaultdict(float)
    values: dict[str, float] = defaultdict(float)
    for path in paths:
        if path.converted and path.touches:
            for channel, share in zip(path.touches, _SHARES[model](len(path.touches)), strict=True):
                conversions[channel] += float(share) * path.times
                values[channel] += float(share) * path.value_minor * path.times
    return {channel: Credit(conversions[channel], values[channel]) for channel in channels}


def _channels(paths: Sequence[Path]) -> list[str]:
    if any(len(path.touches) > MAX_TOUCHES or path.times < 1 for path in paths):
        raise InvalidInput(f"A path has at most {MAX_TOUCHES} touches and is there at least once.", "paths")
    channels = sorted({channel for path in paths for channel in path.touches})
    if len(channels) > MAX_CHANNELS:
        raise InvalidInput(
            f"{len(channels)} channels are too many for a comparison; group them into {MAX_CHANNELS}.",
            "paths",
        )
    return channels


def _by_removal(paths: Sequence[Path], channels: Sequence[str]) -> dict[str, Credit]:
    """Conversions of touched paths, split in proportion to the removal effects."""
    touched = [path for path in paths if path.converted and path.touches]
    conversions = sum(path.times for path in touched)
    value = sum(path.value_minor * path.times for path in touched)
    effects = markov(paths).removal if conversions else {}
    total = sum(effects.values())
    return {
        channel: Credit(conversions * share, value * share)
        for channel in channels
        for share in [effects[channel] / total if total else 0.0]
    }


def markov(paths: Sequence[Path]) -> Markov:
    """The chain that the transitions of the paths estimate, absorbed in conversion or nothing.

    A channel's removal effect is h·c/p: h the probability that a path ever meets it, c that of converting
    from there, p that from the start (all that goes through the channel is lost). InvalidInput: no paths.
    """
    if not paths:
        raise InvalidInput("There are no paths to learn from.", "paths")
    channels = _channels(paths)
    place = {channel: number for number, channel in enumerate(channels, 1)}
    inner, converting = _transitions(paths, place)
    counts = inner.sum(axis=1) + converting.sum(axis=1)
    leaving = converting[:, 0] / counts
    # Expected visits of every state from every state; each path ends, so the inverse exists.
    visits = np.linalg.inv(np.eye(len(inner)) - inner / counts[:, None])
    chance = visits @ leaving
    start = float(chance[0])
    removal = {
        channel: float(visits[0, k] / visits[k, k] * chance[k] / start) if start else 0.0
        for channel, k in place.items()
    }
    return Markov(start, removal)


def _transitions(
    paths: Sequence[Path], place: Mapping[str, int]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Counts between start (0) and channels, and from each of them to conversion (0) or nothing (1)."""
    steps: Counter[tuple[int, int]] = Counter()
    ends: Counter[tuple[int, bool]] = Counter()
    for path in paths:
        states = [0, *(place[channel] for channel in path.touches)]
        for step in pairwise(states):
            steps[step] += path.times
        ends[states[-1], not path.converted] += path.times
    inner, last = np.zeros((len(place) + 1, len(place) + 1)), np.zeros((len(place) + 1, 2))
    for (source, target), number in steps.items():
        inner[source, target] = number
    for (source, lost), number in ends.items():
        last[source, int(lost)] = number
    return inner, last
