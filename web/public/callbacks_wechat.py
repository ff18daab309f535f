"""The callback server of the WeChat official account: plain, or encrypted ("safe mode")."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from http import HTTPStatus

from flask import Blueprint, request

from channels.callbacks.wechat import fields_of, read_fields, wechat_signed
from channels.wechat import crypto, followers
from core.db import Database
from core.errors import InvalidInput
from core.settings import Settings
from web.public.callbacks import body

FRESH_S = 600
"""An older signature, or one from as far in the future, is a replay."""


def add_routes(
    blueprint: Blueprint, database: Database, settings: Settings, now: Callable[[], datetime]
) -> None:
    """``/callbacks/wechat``: signed with the account's token."""

    def signed(*encrypted: str) -> bool:
        args = request.args
        timestamp, nonce = args.get("timestamp", ""), args.get("nonce", "")
        if not encrypted:
            return wechat_signed(settings.wechat_token, timestamp, nonce, args.get("signature", ""))
        expected = crypto.signature(settings.wechat_token, timestamp, nonce, *encrypted)
        return crypto.is_signed(expected, args.get("msg_signature", ""))

    def fresh() -> bool:
        timestamp = request.args.get("timestamp", "")
        # WeChat signs by the real time, whatever time a demo lives in.
        real = (now() - timedelta(seconds=settings.clock_shift_s)).timestamp()
        return timestamp.isdigit() and len(timestamp) < 12 and abs(real - int(timestamp)) <= FRESH_S

    def opened(raw: bytes) -> bytes | None:
        """The callback's own text; None: it was not signed by WeChat."""
        if request.args.get("encrypt_type", "raw") != "aes":
            # An account in safe mode never sends plain text: accepting it would undo the encryption.
            return raw if not settings.wechat_aes_key and signed() else None
        sealed = fields_of(raw).get("Encrypt")
        if not isinstance(sealed, str) or not signed(sealed):
            return None
        return crypto.decrypt(settings.wechat_aes_key, settings.wechat_appid, sealed)

    @blueprint.get("/callbacks/wechat")
    def verify_wechat() -> tuple[str, int, dict[str, str]]:
        status = HTTPStatus.OK if signed() else HTTPStatus.FORBIDDEN
        return request.args.get("echostr", "") if signed() else "", status, {"Content-Type": "text/plain"}

    @blueprint.post("/callbacks/wechat")
    def wechat() -> tuple[str, int]:
        if not fresh():
            return "", HTTPStatus.FORBIDDEN
        try:
            text = opened(body())
            if text is None:
                return "", HTTPStatus.FORBIDDEN
            found = read_fields(fields_of(text), now())
        except InvalidInput as error:
            return str(error), HTTPStatus.BAD_REQUEST
        with database.write() as session:
            followers.apply(session, found, now())
        return "success", HTTPStatus.OK
