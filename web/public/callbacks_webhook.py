"""Receipts of the channel ``webhook``: what the shop says became of messages to its own address."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from http import HTTPStatus

import orjson
import sqlalchemy as sa
from flask import Blueprint, request

from channels import events
from channels.callbacks.webhook import signed, webhook_callback
from channels.models import Message
from core.contacts import WEBHOOK
from core.db import Database, among
from core.errors import InvalidInput
from core.settings import Settings
from web.public.callbacks import body


def add_routes(
    blueprint: Blueprint, database: Database, settings: Settings, now: Callable[[], datetime]
) -> None:
    """``/callbacks/webhook``: signed as our messages are."""

    @blueprint.post("/callbacks/webhook")
    def webhook() -> tuple[dict[str, object], int]:
        raw = body()
        # The shop signs by the real time, whatever time a demo lives in.
        real = now().timestamp() - settings.clock_shift_s
        if not signed(settings.webhook_secret, request.headers.get("X-Huiliu-Signature", ""), raw, real):
            return {"error": "the signature is wrong, or older than ten minutes"}, HTTPStatus.FORBIDDEN
        try:
            receipts = webhook_callback(orjson.loads(raw), now())
        except orjson.JSONDecodeError:
            return {"error": "a receipt is a JSON object"}, HTTPStatus.BAD_REQUEST
        except InvalidInput as error:
            return {"error": str(error)}, HTTPStatus.BAD_REQUEST
        with database.write() as session:
            # Who knows this secret speaks for this channel's messages only.
            ids = sorted({receipt.message_id or 0 for receipt in receipts})
            ours = set(
                session.scalars(
                    sa.select(Message.id).where(among(session, Message.id, ids), Message.channel == WEBHOOK)
                )
            )
            found = events.apply(session, [r for r in receipts if r.message_id in ours], now())
        return {"new": found.new, "known": found.repeated}, HTTPStatus.OK
