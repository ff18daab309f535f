"""The garbage collector, kept out of the way of batches.

A batch makes hundreds of thousands of tuples and texts, none of them garbage; every full collection
in between walks all of them, and everything the process has ever imported, for nothing.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """No cyclic collection inside the block, which is to be one batch: memory is freed by reference only.

    Of two threads with a block each, the first to leave may end the other's pause; both end with a
    collector that runs, if it ran before.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


SURVIVORS = 50_000
"""Objects that two batches of a thousand messages keep alive, and some more."""
_lock = threading.Lock()
_inside = 0
_before: tuple[int, int, int] = gc.get_threshold()


@contextmanager
def rare() -> Iterator[None]:
    """Few collections inside the block, which works on batch after batch: one when more objects are new
    than batches keep alive, and none of them walks what was there before the block.

    For a process that does little else meanwhile. Blocks may overlap: the last to end restores.
    """
    global _inside, _before
    with _lock:
        if not _inside:
            _before = gc.get_threshold()
            gc.freeze()
            gc.set_threshold(SURVIVORS, *_before[1:])
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                gc.set_threshold(*_before)
                gc.unfreeze()
