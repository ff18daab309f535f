"""``python -m channels.sandbox``: the sandbox by itself."""

from __future__ import annotations

import sys

from channels.sandbox.server import serve
from core.errors import HuiliuError
from core.settings import load

if __name__ == "__main__":
    try:
        serve(load())
    except HuiliuError as error:
        sys.exit(str(error))
