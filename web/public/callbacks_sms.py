"""Callbacks of SMS providers: receipts and replies."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import datetime
from http import HTTPStatus

import orjson
from flask import Blueprint

from channels import tracking
from channels.callbacks.aliyun import aliyun_callback
from core.db import Database
from core.errors import InvalidInput
from core.settings import Settings
from web.public.callbacks import accept, body


def add_routes(
    blueprint: Blueprint, database: Database, settings: Settings, now: Callable[[], datetime]
) -> None:
    """``/callbacks/aliyun/<token>``: Aliyun signs nothing, so its address cannot be guessed."""

    @blueprint.post("/callbacks/aliyun/<token>")
    def aliyun(token: str) -> tuple[dict[str, object], int]:
        expected = tracking.callback_token(settings.aliyun_access_key_id)
        if not secrets.compare_digest(token.encode(), expected.encode()):
            return {"code": 404, "msg": "unknown callback address"}, HTTPStatus.NOT_FOUND
        try:
            accept(database, aliyun_callback(orjson.loads(body()), now()), now())
        except (orjson.JSONDecodeError, InvalidInput) as error:
            return {"code": 400, "msg": str(error)}, HTTPStatus.BAD_REQUEST
        return {"code": 0, "msg": "接收成功"}, HTTPStatus.OK
