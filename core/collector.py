"""The garbage collector, kept out of the way of batches.

A batch makes hundreds of thousands of tuples and texts, none of them garbage; every full collection
in between walks all of them, and everything the process has ever imported, for nothing.
"""

from __future__ import annotations

import gc
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
