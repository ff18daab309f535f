"""What GrowthBook publishes with its SDKs (packages/sdk-js/test/cases.json) about choosing and running."""

from __future__ import annotations

EVEN = [(0.0, 0.5), (0.5, 1.0)]
REDUCED = [(0.0, 0.25), (0.5, 0.75)]
CHOICES: list[tuple[float, list[tuple[float, float]], int]] = [
    (0.2, EVEN, 0),
    (0.4, EVEN, 0),
    (0.6, EVEN, 1),
    (0.8, EVEN, 1),
    (0.0, EVEN, 0),
    (0.5, EVEN, 1),
    (0.2, REDUCED, 0),
    (0.4, REDUCED, -1),
    (0.6, REDUCED, 1),
    (0.8, REDUCED, -1),
    (0.25, REDUCED, -1),
    (0.5, REDUCED, 1),
    (0.5, [(0.0, 0.5), (0.5, 0.5), (0.5, 1.0)], 2),
]
"""chooseVariation: place, ranges, index."""
EQUAL_WEIGHTS: list[list[float]] = [[1.0], [0.5, 0.5], [0.33333333, 0.33333333, 0.33333333], [0.25] * 4]
"""getEqualWeights: what the SDKs split by where no weights are given."""
RUNS: list[tuple[str, str, int, tuple[str, float, float] | None, int | None]] = [
    ("my-test", "4", 3, None, 2),
    ("my-test", "5", 3, None, 1),
    ("my-test", "6", 3, None, 2),
    ("my-test", "7", 3, None, 0),
    ("my-test", "8", 3, None, 1),
    ("my-test", "9", 3, None, 0),
    ("my-test", "1", 2, None, 1),
    ("my-test-3", "1", 2, None, 0),
    ("my-test", "1", 2, ("namespace", 0.1, 1.0), 1),
    ("my-test", "1", 2, ("namespace", 0.0, 0.1), None),
]
"""run, hash version 1: seed, unit, number of equal arms, namespace, index of the arm (None: left out)."""
