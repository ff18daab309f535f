"""Prefect flows of the channels: a long-lived delivery, and receipts fetched where none came."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from prefect import flow
from prefect.logging import get_run_logger

from channels.delivery import deliver as send
from channels.polling import poll_receipts
from core import settings as core_settings
from core.db import Database
from core.times import now as clock


@flow(name="deliver")
async def deliver(max_seconds: float = 660, until_empty: bool = False) -> dict[str, Any]:
    """Send what is due, for ``max_seconds``.

    A run is longer than its deployment's interval, and two may run at once: the next one starts
    before this one ends, so that no message waits for a process to start.
    """
    settings = core_settings.load()
    database = Database(settings.url)
    done = asdict(
        await send(
            database, settings, until_empty=until_empty, max_seconds=max_seconds, now=lambda: clock(settings)
        )
    )
    get_run_logger().info("Delivered: %s", done)
    return done


@flow(name="fetch-receipts", retries=1, retry_delay_seconds=60)
async def fetch_receipts() -> dict[str, int]:
    """Ask providers about messages whose receipt never came."""
    settings = core_settings.load()
    done = await poll_receipts(Database(settings.url), settings, clock(settings))
    get_run_logger().info("Receipts: %s", done)
    return done
