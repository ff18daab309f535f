"""The page behind a confirm link of double opt-in. Looking confirms nothing: mail filters look too."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from flask import Blueprint, Response

from channels import optin
from core.db import Database
from core.settings import Settings
from web.public import pages


def add_routes(
    blueprint: Blueprint, database: Database, settings: Settings, now: Callable[[], datetime]
) -> None:
    """``/c/<token>``: GET asks, POST confirms and may be repeated."""

    def answer(state: str | None) -> Response:
        shop = settings.shop_name
        if state == optin.OPEN:
            return pages.page(shop, pages.CONFIRM, [pages.CONFIRM_ASK], button=pages.CONFIRM)
        if state == optin.CONFIRMED:
            return pages.page(shop, pages.CONFIRMED, [pages.CONFIRMED_NOTE])
        if state == optin.EXPIRED:
            return pages.page(shop, pages.TOO_LATE, [pages.TOO_LATE_NOTE], status=410)
        return pages.gone(shop)

    @blueprint.get("/c/<token>")
    def ask_to_confirm(token: str) -> Response:
        number = optin.read_token(token)
        if number is None:
            return answer(None)
        with database.read() as session:
            return answer(optin.state(session, number, now()))

    @blueprint.post("/c/<token>")
    def confirm_consent(token: str) -> Response:
        number = optin.read_token(token)
        if number is None:
            return answer(None)
        with database.write() as session:
            found = optin.confirm(session, number, now())
        return answer(found)
