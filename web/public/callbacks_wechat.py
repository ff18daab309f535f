"""The callback server of the WeChat official account."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from http import HTTPStatus

from flask import Blueprint, request

from channels.callbacks.wechat import wechat_callback, wechat_signed
from core.db import Database
from core.errors import InvalidInput
from core.settings import Settings
from web.public.callbacks import accept, body


def add_routes(
    blueprint: Blueprint, database: Database, settings: Settings, now: Callable[[], datetime]
) -> None:
    """``/callbacks/wechat``: signed with the account's token."""

    def signed() -> bool:
        args = request.args
        return wechat_signed(
            settings.wechat_token, args.get("timestamp", ""), args.get("nonce", ""), args.get("signature", "")
        )

    @blueprint.get("/callbacks/wechat")
    def verify_wechat() -> tuple[str, int, dict[str, str]]:
        status = HTTPStatus.OK if signed() else HTTPStatus.FORBIDDEN
        return request.args.get("echostr", "") if signed() else "", status, {"Content-Type": "text/plain"}

    @blueprint.post("/callbacks/wechat")
    def wechat() -> tuple[str, int]:
        if not signed():
            return "", HTTPStatus.FORBIDDEN
        try:
            accept(database, wechat_callback(body(), now()), now())
        except InvalidInput as error:
            return str(error), HTTPStatus.BAD_REQUEST
        return "success", HTTPStatus.OK
