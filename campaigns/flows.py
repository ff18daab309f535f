"""Prefect flows of campaigns: those whose time has come, those a crash left half-way, and reminders.

Delivery is deployed from here, so that what it sends for campaigns is looked at once more before it leaves
(``channels.rechecks``).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from prefect import flow
from prefect.logging import get_run_logger

from campaigns import campaigns, reminders, watching
from campaigns.run import run
from channels.flows import deliver as deliver
from core import settings as core_settings
from core.db import Database
from core.errors import HuiliuError
from core.times import now as clock
from segments.facts import open_engine


@flow(name="run-campaign", retries=3, retry_delay_seconds=60)
def run_campaign(name: str, now: datetime | None = None) -> dict[str, Any]:
    """Run one campaign to its end; a retry goes on where the last attempt stopped."""
    settings = core_settings.load()
    counts = run(Database(settings.url), open_engine(settings), settings, name, now or clock(settings))
    get_run_logger().info("%s: %s", name, counts.to_json())
    return counts.to_json()


@flow(name="due-campaigns", retries=1, retry_delay_seconds=60)
def due_campaigns() -> dict[str, dict[str, Any]]:
    """Run every approved campaign that is due. One that is refused does not keep the others waiting.

    Those whose template a provider refused are paused first, and so are not taken up again.
    """
    settings = core_settings.load()
    database = Database(settings.url)
    now = clock(settings)
    with database.write() as session:
        stopped = campaigns.stop_refused(session, now)
        missed = campaigns.pause_missed(session, now)
    if stopped:
        get_run_logger().warning("Paused, as a provider refused their template: %s", ", ".join(stopped))
    if missed:
        get_run_logger().warning("Paused, as they are more than a day late: %s", ", ".join(missed))
    with database.read() as session:
        names = campaigns.due(session, now)
    done: dict[str, dict[str, Any]] = {}
    for name in names:
        try:
            done[name] = run(database, open_engine(settings), settings, name, now).to_json()
        except HuiliuError as error:
            get_run_logger().error("%s was not run: %s", name, error)
            done[name] = {"error": str(error)}
    get_run_logger().info("Due campaigns: %s", done)
    return done


@flow(name="send-reminders", retries=2, retry_delay_seconds=300)
def send_reminders(now: datetime | None = None) -> dict[str, Any]:
    """Queue the day's reminders of coupons and points that end soon, once their hour has come."""
    settings = core_settings.load()
    database = Database(settings.url)
    at = now or clock(settings)
    with database.read() as session:
        if not reminders.is_time(session, settings, at):
            return {}
    done = {kind: counts.to_json() for kind, counts in reminders.send(database, settings, at).items()}
    get_run_logger().info("Reminders: %s", done)
    return done


@flow(name="watch-campaigns", retries=2, retry_delay_seconds=300)
def watch_campaigns(now: datetime | None = None) -> dict[str, Any]:
    """Read out every campaign that ran lately, judge it by lights, and look at the week that is over."""
    settings = core_settings.load()
    at = now or clock(settings)
    done = watching.watch(Database(settings.url), open_engine(settings), settings, at)
    logger = get_run_logger()
    if done.stopped:
        logger.warning("Paused by their rules: %s", ", ".join(done.stopped))
    for name, why in done.failed.items():
        logger.error("%s was not watched: %s", name, why)
    logger.info("Watched: %s", done.to_json())
    return done.to_json()
