"""A contestant that only needs memory, to test how memory is measured."""

from __future__ import annotations


def allocate(megabytes: int) -> dict[str, float]:
    """Hold so much for a moment."""
    held = b"x" * (megabytes * 1024 * 1024)
    return {"seconds": 0.0, "cpu_s": 0.0, "held": len(held)}
