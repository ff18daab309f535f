"""A discount shared out over lines, to the minor unit.

Guarantees: the shares sum to min(amount, sum of the caps); 0 ≤ share ≤ cap; equal input gives equal
output, and ties go by line order.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction


def allocate(amount: int, weights: Sequence[int], caps: Sequence[int]) -> list[int]:
    """Shares of ``amount``, proportional to ``weights``, none above its cap (0 ≤ cap ≤ weight).

    What the caps cut off goes to the other lines by the same weights until nothing is left; then whole
    units by largest remainder, ties by line order. The exact share of line i is min(cap i, level · weight i)
    with one level for all: lines are capped in the order of cap ÷ weight.
    """
    available = sum(caps)
    if amount >= available:
        return list(caps)
    if amount <= 0:
        return [0] * len(caps)
    shares = [0] * len(caps)
    left, weight = amount, sum(weights)
    open_lines = list(range(len(caps)))
    # Without floors no cap binds (amount < weight), which is nearly always: no fractions then.
    if any(left * w > c * weight for w, c in zip(weights, caps, strict=True)):
        open_lines = [i for i in open_lines if caps[i]]
        weight = sum(weights[i] for i in open_lines)
        capped = 0
        open_lines.sort(key=lambda i: Fraction(caps[i], weights[i]))
        for i in open_lines:
            if left * weights[i] < caps[i] * weight:
                break
            shares[i] = caps[i]
            left -= caps[i]
            weight -= weights[i]
            capped += 1
        open_lines = sorted(open_lines[capped:])
    remainders = []
    spare = left
    for i in open_lines:
        shares[i], remainder = divmod(left * weights[i], weight)
        spare -= shares[i]
        remainders.append(-remainder)
    if spare:
        order = sorted(range(len(open_lines)), key=remainders.__getitem__)
        for place in order[:spare]:
            shares[open_lines[place]] += 1
    return shares


def part(amount: int, basis_points: int) -> int:
    """``basis_points`` of ``amount``, half up to the minor unit."""
    return (amount * basis_points + 5_000) // 10_000
