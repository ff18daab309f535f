"""Prefect flow of experiments: the weekly weights of bandits."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from prefect import flow
from prefect.logging import get_run_logger

from core import settings as core_settings
from core.db import Database
from core.facts import FACTS
from core.times import now as clock
from core.warehouse.engine import DuckEngine
from core.warehouse.replica import Replica
from experiments import bandits


@flow(name="reweigh-bandits", retries=2, retry_delay_seconds=300)
def reweigh_bandits(now: datetime | None = None) -> dict[str, Any]:
    """Weigh every running bandit anew from what its arms brought; a week that is done stays as it is."""
    settings = core_settings.load()
    engine = DuckEngine(Replica(settings.warehouse_url, FACTS))
    found = bandits.reweigh_all(Database(settings.url), engine, now or clock(settings), settings.zone)
    done = {name: one if isinstance(one, str) else one.to_json() for name, one in found.items()}
    get_run_logger().info("Bandits: %s", done)
    return done
