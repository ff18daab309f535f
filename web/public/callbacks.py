"""What the providers' callbacks share: a bounded body, and what was read is written."""

from __future__ import annotations

from datetime import datetime

from flask import request
from werkzeug.exceptions import RequestEntityTooLarge

from channels import events
from channels.callbacks import opt_out
from core.db import Database

CALLBACK_BYTES = 1024 * 1024


def body() -> bytes:
    """The request's body. Raises RequestEntityTooLarge above a megabyte."""
    if (request.content_length or 0) > CALLBACK_BYTES:
        raise RequestEntityTooLarge
    return request.get_data()


def accept(
    database: Database, found: tuple[list[events.Receipt], list[opt_out.OptOut]], now: datetime
) -> None:
    """Write receipts and opt-outs in one transaction."""
    with database.write() as session:
        events.apply(session, found[0], now)
        opt_out.opt_out(session, found[1])
