"""A contestant's process: ``python -m tests.bench.child package.module:function JSON-ARGUMENTS``."""

from __future__ import annotations

import json
import sys

from tests.bench.measure import call

if __name__ == "__main__":
    print(json.dumps(call(sys.argv[1], json.loads(sys.argv[2]))), flush=True)
