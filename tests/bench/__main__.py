"""``python -m tests.bench [NAME …] [--quick] [--repetitions N]``: all benchmarks, or those named.

One JSON object a comparison goes to the output as soon as it is known, a table of all of them to the
error stream at the end. A target that is missed changes nothing about the exit code.
"""

from __future__ import annotations

import argparse
import base64
import os
import sys
from dataclasses import replace
from importlib import import_module

from core import crypto
from tests.bench.measure import REPETITIONS, Comparison
from tests.conftest import SECRET

NAMES = (
    "refresh",
    "rules",
    "run",
    "deliver",
    "imports",
    "clv",
    "console",
    "wechat",
    "promotions",
    "codes",
    "loyalty",
    "experiments",
)
HEAD = (
    "bench",
    "case",
    "against",
    "seconds",
    "theirs",
    "rows/s",
    "ratio (low to high)",
    "target",
    "peak MB",
    "theirs",
)


def table(found: list[Comparison]) -> str:
    """The comparisons as a Markdown table."""
    rows = [HEAD, tuple("---" for _ in HEAD), *map(_cells, found)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cells(one: Comparison) -> tuple[str, ...]:
    target = "–" if one.target is None else f"{one.how} {one.target:g}: {'met' if one.met else 'missed'}"
    return (
        one.bench,
        one.case,
        one.peer,
        f"{one.seconds:.2f}",
        f"{one.peer_seconds:.2f}",
        f"{one.rows_per_s:,}",
        f"{one.ratio:.2f} ({one.ratio_low:.2f} to {one.ratio_high:.2f})",
        target,
        _megabytes(one.peak_mb),
        _megabytes(one.peer_peak_mb),
    )


def _megabytes(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; none: all")
    parser.add_argument("--quick", action="store_true", help="small numbers: whether it works, not how fast")
    parser.add_argument("--repetitions", type=int, help=f"rounds of each comparison ({REPETITIONS})")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(NAMES))
    if unknown:
        parser.error(f"There is no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}.")
    for name in [name for name in os.environ if name.startswith("HUILIU_")]:
        del os.environ[name]  # nothing of an installation on this machine
    os.environ["HUILIU_SECRET"] = SECRET
    crypto.install(crypto.Keyring(base64.b64decode(SECRET)))
    repetitions = options.repetitions or (1 if options.quick else REPETITIONS)
    found = []
    for name in options.names or NAMES:
        module = import_module(f"tests.bench.{name}")
        for measured in module.bench(quick=options.quick, repetitions=repetitions):
            # The fixed costs of a small run say nothing about a target.
            comparison = replace(measured, target=None, met=None) if options.quick else measured
            found.append(comparison)
            print(comparison.to_json(), flush=True)
    print(table(found), file=sys.stderr)


if __name__ == "__main__":
    main()
