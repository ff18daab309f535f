"""A process that runs a campaign, for tests that kill it: ``python -m tests.campaigns.runner HOME URL NAME``."""

from __future__ import annotations

import sys
from pathlib import Path

from campaigns.run import run
from core.db import Database
from core.settings import Settings
from segments.facts import open_engine
from tests.campaigns.conftest import NOW


def main(home: str, url: str, name: str) -> None:
    settings = Settings(home=Path(home), database_url=url, batch_size=200, _env_file=None)
    database = Database(url)
    print("started", flush=True)
    counts = run(
        database, open_engine(settings), settings, name, NOW, progress=lambda done, _: print(done, flush=True)
    )
    print(counts.to_json(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
