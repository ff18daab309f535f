"""Callbacks of SMS providers: receipts and replies."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import datetime
from http import HTTPStatus
from typing import Any

import orjson
from flask import Blueprint, Response, request

from channels import tracking
from channels.callbacks import tencent, twilio
from channels.callbacks.aliyun import aliyun_callback
from channels.sms import lost
from core.db import Database
from core.errors import InvalidInput
from core.settings import Settings
from web.public.callbacks import accept, body

Answer = tuple[dict[str, Any], int]


def add_routes(
    blueprint: Blueprint, database: Database, settings: Settings, now: Callable[[], datetime]
) -> None:
    """``/callbacks/aliyun/<token>`` and ``/callbacks/tencent/<token>``: these sign nothing, so their
    addresses cannot be guessed. ``/callbacks/twilio`` is signed.
    """
    _add_aliyun(blueprint, database, settings, now)
    _add_tencent(blueprint, database, settings, now)
    _add_twilio(blueprint, database, settings, now)


def _is_token(token: str, account: str) -> bool:
    return secrets.compare_digest(token.encode(), tracking.callback_token(account).encode())


def _add_aliyun(
    blueprint: Blueprint, database: Database, settings: Settings, now: Callable[[], datetime]
) -> None:
    @blueprint.post("/callbacks/aliyun/<token>")
    def aliyun(token: str) -> Answer:
        if not _is_token(token, settings.aliyun_access_key_id):
            return {"code": 404, "msg": "unknown callback address"}, HTTPStatus.NOT_FOUND
        try:
            accept(database, aliyun_callback(orjson.loads(body()), now()), now())
        except (orjson.JSONDecodeError, InvalidInput) as error:
            return {"code": 400, "msg": str(error)}, HTTPStatus.BAD_REQUEST
        return {"code": 0, "msg": "接收成功"}, HTTPStatus.OK


def _add_tencent(
    blueprint: Blueprint, database: Database, settings: Settings, now: Callable[[], datetime]
) -> None:
    @blueprint.post("/callbacks/tencent/<token>")
    def tencent_reports(token: str) -> Answer:
        if not _is_token(token, tencent.account(settings)):
            return {"result": 404, "errmsg": "unknown callback address"}, HTTPStatus.NOT_FOUND
        try:
            found = tencent.tencent_callback(orjson.loads(body()), now())
        except (orjson.JSONDecodeError, InvalidInput) as error:
            return {"result": 400, "errmsg": str(error)}, HTTPStatus.BAD_REQUEST
        _take(database, found, now())
        return {"result": 0, "errmsg": "OK"}, HTTPStatus.OK


def _add_twilio(
    blueprint: Blueprint, database: Database, settings: Settings, now: Callable[[], datetime]
) -> None:
    @blueprint.post("/callbacks/twilio")
    def twilio_webhook() -> Response:
        raw = body()  # refuses what is too long before it is read as a form
        query = request.query_string.decode("utf-8", "replace")
        url = f"{settings.base_url}{request.path}{'?' if query else ''}{query}"
        pairs = list(request.form.items(multi=True))
        given, token = request.headers.get("X-Twilio-Signature", ""), settings.twilio_auth_token
        form = not request.is_json
        known = (
            twilio.signed(token, url, pairs, given) if form else twilio.signed_json(token, url, raw, given)
        )
        if not raw or not known:
            return _twiml("<Response/>", HTTPStatus.FORBIDDEN)
        try:
            name = request.args.get("message", "")
            found = (
                twilio.twilio_callback(dict(pairs), name, now())
                if form
                else twilio.twilio_json(raw, name, now())
            )
        except InvalidInput:
            return _twiml("<Response/>", HTTPStatus.BAD_REQUEST)
        _take(database, found, now())
        return _twiml("<Response/>", HTTPStatus.OK)


def _twiml(text: str, status: int) -> Response:
    """An empty answer: nothing is sent to the member."""
    return Response(text, status, mimetype="text/xml")


def _take(database: Database, found: tencent.Found, now: datetime) -> None:
    """Write receipts and opt-outs in one transaction; receipts find even what had no answer."""
    with database.write() as session:
        lost.take(session, *found, now)
