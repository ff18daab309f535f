"""How the benchmarks measure: children of their own, turn and turn about, medians and ratios.

Guarantees: a contestant runs in a fresh process, so that its peak memory is its own; contestants of a
comparison take turns, so that a busy machine slows them alike; what is compared is the median of the
rounds' ratios. Nothing here passes or fails by the clock: a target that is missed is said, not raised.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from tests.conftest import SECRET

if TYPE_CHECKING:  # a child imports no more than its contestant needs
    from core.warehouse.engine import DuckEngine

REPETITIONS = 5
KIB = 1024


@dataclass(frozen=True)
class Sample:
    """One run of a contestant: wall and processor seconds of the measured part, peak RSS of its process.

    None: not measured, as of a program that is not ours.
    """

    seconds: float
    cpu_s: float | None
    peak_mb: float | None
    answer: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """A subject against a peer in the same run. ``ratio`` is the median of the rounds' ratios.

    ``target``: the ratio's limit, an upper one for ``how`` "at most", a lower one for "at least";
    None: measured only. ``ratio`` is subject ÷ peer in seconds ("at most") or peer ÷ subject ("at least").
    """

    bench: str
    case: str
    subject: str
    peer: str
    seconds: float
    peer_seconds: float
    ratio: float
    ratio_low: float
    ratio_high: float
    how: str
    target: float | None
    met: bool | None
    rows: int
    rows_per_s: int
    peak_mb: float | None
    peer_peak_mb: float | None
    cpu_s: float | None
    """Of the contestant's own process: a database server's are not in it."""
    peer_cpu_s: float | None
    repetitions: int

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)


def in_child(function: str, environment: Mapping[str, str] | None = None, **arguments: Any) -> Sample:
    """Run ``package.module:function`` in a process of its own; it answers {"seconds", "cpu_s", …}."""
    command = [sys.executable, "-m", "tests.bench.child", function, json.dumps(arguments)]
    variables = {**os.environ, "HUILIU_SECRET": SECRET, **(environment or {})}
    done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return Sample(found.pop("seconds"), found.pop("cpu_s"), found.pop("peak_mb"), found)


def call(function: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The child's side of :func:`in_child`."""
    module, _, name = function.partition(":")
    found: dict[str, Any] = getattr(import_module(module), name)(**arguments)
    return {**found, "peak_mb": round(_peak_mb(), 1)}


def _peak_mb() -> float:
    # Not ru_maxrss: a child starts with its parent's.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / KIB


def cpu_s() -> float:
    """Processor seconds of this process so far, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def warm(engine: DuckEngine) -> None:
    """What a process does once: DuckDB opens, and Arrow's first array of Python values imports pandas."""
    import pyarrow as pa

    with engine.connect({"one": pa.table({"value": [1]})}) as connection:
        connection.execute("FROM one")


def take_turns(contestants: Mapping[str, Callable[[], Sample]], repetitions: int) -> dict[str, list[Sample]]:
    """Every contestant once a round, each round starting with the next one."""
    names = list(contestants)
    found: dict[str, list[Sample]] = {name: [] for name in names}
    for turn in range(repetitions):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(contestants[name]())
    return found


def compare(
    bench: str,
    case: str,
    samples: Mapping[str, list[Sample]],
    subject: str,
    peer: str,
    *,
    rows: int,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Comparison:
    """Judge a subject by a peer of the same rounds."""
    ours, theirs = samples[subject], samples[peer]
    ratios = sorted(
        b.seconds / a.seconds if at_least is not None else a.seconds / b.seconds
        for a, b in zip(ours, theirs, strict=True)
    )
    ratio = median(ratios)
    target = at_most if at_least is None else at_least
    met = None if target is None else ratio >= target if at_least is not None else ratio <= target
    seconds = median(sample.seconds for sample in ours)
    return Comparison(
        bench=bench,
        case=case,
        subject=subject,
        peer=peer,
        seconds=round(seconds, 3),
        peer_seconds=round(median(sample.seconds for sample in theirs), 3),
        ratio=round(ratio, 2),
        ratio_low=round(ratios[0], 2),
        ratio_high=round(ratios[-1], 2),
        how="at most" if at_least is None else "at least",
        target=target,
        met=met,
        rows=rows,
        rows_per_s=round(rows / seconds),
        peak_mb=max(_known(sample.peak_mb for sample in ours), default=None),
        peer_peak_mb=max(_known(sample.peak_mb for sample in theirs), default=None),
        cpu_s=_median(sample.cpu_s for sample in ours),
        peer_cpu_s=_median(sample.cpu_s for sample in theirs),
        repetitions=len(ours),
    )


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _median(values: Iterable[float | None]) -> float | None:
    known = _known(values)
    return round(median(known), 2) if known else None
