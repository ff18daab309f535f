"""Where a bundled file lies now: the one reader of the bundle's manifest."""

from __future__ import annotations

import json
import logging
from functools import lru_cache

from web.assets.build import DIST, MANIFEST

log = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def _manifest() -> dict[str, str]:
    try:
        return dict(json.loads((DIST / MANIFEST).read_text()))
    except FileNotFoundError:
        log.warning("The console's assets are not built; run: python -m web.assets.build")
        return {}


def asset_path(name: str) -> str:
    """Path below ``static`` of a bundled file, such as ``dist/console-4F2A.js``.

    Without a bundle it is the plain name, which answers 404: pages then work, bare.
    """
    return f"dist/{_manifest().get(name, name)}"
