"""Public pages and callbacks: tracked links, leaving, preferences, and providers' receipts.

Nobody logs in here and no cookie is set: a signed token or a provider's signature is all. GET
changes no consent (mail filters follow every link); POST does, and may be repeated.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus

from flask import Blueprint, Response, make_response, redirect, request
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response as BaseResponse

from channels import events, networks, tracking, visits
from core.db import Database
from core.settings import Settings
from web.public import (
    binding,
    callbacks_sms,
    callbacks_webhook,
    callbacks_wechat,
    claims,
    groups,
    notices,
    optins,
    pages,
    preferences,
    readouts,
    referrals,
    wallet,
)

log = logging.getLogger(__name__)

_GIF = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'"
    ),
}


def create_blueprint(
    database: Database, settings: Settings, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> Blueprint:
    """The blueprint ``public``. Exempt it from CSRF protection: its POSTs come from outside."""
    blueprint = Blueprint("public", __name__)
    blueprint.after_request(_with_headers)
    _add_tracking(blueprint, database, settings, now)
    _add_leaving(blueprint, database, settings, now)
    preferences.add_routes(blueprint, database, settings, now)
    optins.add_routes(blueprint, database, settings, now)
    callbacks_sms.add_routes(blueprint, database, settings, now)
    callbacks_wechat.add_routes(blueprint, database, settings, now)
    callbacks_webhook.add_routes(blueprint, database, settings, now)
    binding.add_routes(blueprint, database, settings, now)
    claims.add_routes(blueprint, database, settings, now)
    referrals.add_routes(blueprint, database, settings, now)
    groups.add_routes(blueprint, database, settings, now)
    notices.add_routes(blueprint, database, settings, now)
    wallet.add_routes(blueprint, database, settings, now)
    readouts.add_routes(blueprint, database, settings, now)
    return blueprint


def _with_headers(response: Response) -> Response:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def _add_tracking(
    blueprint: Blueprint, database: Database, settings: Settings, now: Callable[[], datetime]
) -> None:
    datacentres = networks.load(settings.datacentre_networks)

    def record(do: Callable[[Session, visits.Visit], object]) -> None:
        # HTTP's own words for "fetched ahead of the reader", old and new.
        purpose = request.headers.get("Sec-Purpose", "") + request.headers.get("Purpose", "")
        agent, address = request.headers.get("User-Agent", ""), request.remote_addr or ""
        visit = visits.Visit(request.method, agent, address, now(), "prefetch" in purpose.lower())
        try:
            with database.write() as session:
                do(session, visit)
        except DBAPIError:
            # A reader on the way to the shop is worth more than the record of it.
            log.exception("A visit could not be recorded")

    @blueprint.get("/t/o/<token>.gif")
    def opened(token: str) -> Response:
        message_id = tracking.read_message(tracking.OPEN, token)
        if message_id is not None:
            record(lambda session, it: visits.record(session, events.OPENED, message_id, it, datacentres))
        response = make_response(_GIF)
        response.mimetype = "image/gif"
        return response

    @blueprint.get("/t/c/<token>")
    def clicked(token: str) -> BaseResponse | tuple[str, int]:
        click = tracking.read_click(token)
        if click is None:
            return "This link is not valid. 链接无效。", HTTPStatus.NOT_FOUND
        key = hashlib.sha256(click.url.encode()).hexdigest()[:12]
        record(
            lambda session, it: visits.record(
                session, events.CLICKED, click.message_id, it, datacentres, url=click.url, key=key
            )
        )
        return redirect(click.url, 302)

    @blueprint.get("/t/h/<token>")
    def trapped(token: str) -> Response:
        message_id = tracking.read_message(tracking.TRAP, token)
        if message_id is None:
            return pages.gone(settings.shop_name)
        record(lambda session, it: visits.trap(session, message_id, it))
        return make_response("", HTTPStatus.NO_CONTENT)


def _add_leaving(
    blueprint: Blueprint, database: Database, settings: Settings, now: Callable[[], datetime]
) -> None:
    @blueprint.get("/u/style.css")
    def style() -> Response:
        response = make_response(pages.STYLE)
        response.mimetype = "text/css"
        response.headers["Cache-Control"] = "public, max-age=86400"
        return response

    @blueprint.get("/u/<token>")
    def ask_to_leave(token: str) -> Response:
        if tracking.read_message(tracking.UNSUBSCRIBE, token) is None:
            return pages.gone(settings.shop_name)
        return pages.page(
            settings.shop_name,
            pages.UNSUBSCRIBE,
            [pages.UNSUBSCRIBE_ASK, pages.UNSUBSCRIBE_NOTE],
            button=pages.UNSUBSCRIBE,
        )

    @blueprint.post("/u/<token>")
    def leave(token: str) -> Response:
        message_id = tracking.read_message(tracking.UNSUBSCRIBE, token)
        one_click = request.form.get("List-Unsubscribe") == "One-Click"
        if message_id is None:
            return pages.gone(settings.shop_name)
        with database.write() as session:
            found = events.unsubscribe(session, message_id, now(), "one-click" if one_click else "link")
        if not found:
            return pages.gone(settings.shop_name)
        return pages.page(settings.shop_name, pages.LEFT, [pages.LEFT_NOTE])
