"""Prefect flows of the segments: the replica kept up to date, everybody scored every night."""

from __future__ import annotations

from datetime import date
from typing import Any

from prefect import flow
from prefect.logging import get_run_logger

from core import settings as core_settings
from core.db import Database
from core.times import now as clock
from segments.compile import Moment
from segments.facts import open_engine
from segments.recommend.model import fit
from segments.refresh import refresh


@flow(name="sync-replica", retries=2, retry_delay_seconds=30)
def sync_replica() -> dict[str, int]:
    """Rewrite the months of the replica whose facts changed."""
    settings = core_settings.load()
    synced = open_engine(settings).replica.sync(Database(settings.url))
    get_run_logger().info("Rewrote %s months, %s rows", synced.months, synced.rows)
    return {"months": synced.months, "rows": synced.rows}


@flow(name="nightly-refresh", retries=2, retry_delay_seconds=300)
def nightly_refresh(as_of: date | None = None) -> dict[str, Any]:
    """Score, stage and segment everybody as of ``as_of`` (today: all days before it count)."""
    settings = core_settings.load()
    now = clock(settings)
    day = as_of or now.astimezone(settings.zone).date()
    moment = Moment(day, settings.zone, settings.shop_currency)
    done = refresh(Database(settings.url), open_engine(settings), moment=moment, now=now)
    get_run_logger().info("As of %s: %s members, stages %s", day, done.members, done.stages)
    return done.to_json()


@flow(name="fit-recommendations", retries=1, retry_delay_seconds=600)
def fit_recommendations(as_of: date | None = None) -> dict[str, Any]:
    """What goes with what, and what is popular, as of ``as_of`` (today)."""
    settings = core_settings.load()
    day = as_of or clock(settings).astimezone(settings.zone).date()
    done = fit(open_engine(settings), day, settings.zone)
    get_run_logger().info("As of %s: %s products with neighbours, %s pairs", day, done.products, done.pairs)
    return done.to_json()
