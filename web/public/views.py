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

import sqlalchemy as sa
from flask import Blueprint, Response, make_response, redirect, request, url_for
from sqlalchemy.exc import DBAPIError
from werkzeug.wrappers import Response as BaseResponse

from channels import consent, events, tracking
from channels.models import Consent, Message
from core.contacts import CHANNELS
from core.db import Database
from core.imports import ConsentChange
from core.settings import Settings
from web.public import callbacks_sms, callbacks_wechat, pages

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
    _add_tracking(blueprint, database, now)
    _add_leaving(blueprint, database, settings, now)
    _add_preferences(blueprint, database, settings, now)
    callbacks_sms.add_routes(blueprint, database, settings, now)
    callbacks_wechat.add_routes(blueprint, database, settings, now)
    return blueprint


def _with_headers(response: Response) -> Response:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def _add_tracking(blueprint: Blueprint, database: Database, now: Callable[[], datetime]) -> None:
    def record(kind: str, message_id: int, detail: dict[str, str], key: str) -> None:
        at = now()
        try:
            with database.write() as session:
                sent_at = session.scalar(sa.select(Message.sent_at).where(Message.id == message_id))
                actor = tracking.actor(request.method, request.headers.get("User-Agent", ""), at, sent_at)
                # One a minute and kind of visitor is enough to know, and bounds what a loop can write.
                dedupe = f"{kind}:{message_id}:{actor}:{key}:{int(at.timestamp()) // 60}"
                events.apply(
                    session,
                    [events.Receipt(kind, at, dedupe, message_id=message_id, actor=actor, detail=detail)],
                    at,
                )
        except DBAPIError:
            # A reader on the way to the shop is worth more than the record of it.
            log.exception("A visit could not be recorded")

    @blueprint.get("/t/o/<token>.gif")
    def opened(token: str) -> Response:
        message_id = tracking.read_message(tracking.OPEN, token)
        if message_id is not None:
            record(events.OPENED, message_id, {}, "")
        response = make_response(_GIF)
        response.mimetype = "image/gif"
        return response

    @blueprint.get("/t/c/<token>")
    def clicked(token: str) -> BaseResponse | tuple[str, int]:
        click = tracking.read_click(token)
        if click is None:
            return "This link is not valid. 链接无效。", HTTPStatus.NOT_FOUND
        digest = hashlib.sha256(click.url.encode()).hexdigest()[:12]
        record(events.CLICKED, click.message_id, {"url": click.url[:1000]}, digest)
        return redirect(click.url, 302)


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
            return _gone(settings)
        return pages.page(
            settings.shop_name,
            url_for("public.style"),
            pages.UNSUBSCRIBE,
            [pages.UNSUBSCRIBE_ASK, pages.UNSUBSCRIBE_NOTE],
            button=pages.UNSUBSCRIBE,
        )

    @blueprint.post("/u/<token>")
    def leave(token: str) -> Response:
        message_id = tracking.read_message(tracking.UNSUBSCRIBE, token)
        one_click = request.form.get("List-Unsubscribe") == "One-Click"
        if message_id is None:
            return _gone(settings)
        with database.write() as session:
            found = events.unsubscribe(session, message_id, now(), "one-click" if one_click else "link")
        if not found:
            return _gone(settings)
        return pages.page(settings.shop_name, url_for("public.style"), pages.LEFT, [pages.LEFT_NOTE])


def _gone(settings: Settings) -> Response:
    return pages.page(
        settings.shop_name,
        url_for("public.style"),
        pages.GONE,
        [pages.GONE_NOTE],
        status=HTTPStatus.NOT_FOUND,
    )


def _add_preferences(
    blueprint: Blueprint, database: Database, settings: Settings, now: Callable[[], datetime]
) -> None:
    def member_of(token: str) -> int | None:
        message_id = tracking.read_message(tracking.PREFERENCES, token)
        if message_id is None:
            return None
        with database.read() as session:
            return session.scalar(sa.select(Message.member_id).where(Message.id == message_id))

    def granted(member_id: int) -> set[str]:
        with database.read() as session:
            return set(
                session.scalars(
                    sa.select(Consent.channel).where(
                        Consent.member_id == member_id, Consent.purpose == consent.MARKETING, Consent.granted
                    )
                )
            )

    @blueprint.get("/p/<token>")
    def preferences(token: str) -> Response:
        member_id = member_of(token)
        if member_id is None:
            return _gone(settings)
        chosen = granted(member_id)
        choices = [(name, *pages.CHANNEL_NAMES[name], name in chosen) for name in CHANNELS]
        return pages.page(
            settings.shop_name,
            url_for("public.style"),
            pages.PREFERENCES,
            [pages.PREFERENCES_ASK],
            button=("保存", "Save"),
            choices=choices,
        )

    @blueprint.post("/p/<token>")
    def save_preferences(token: str) -> Response:
        member_id = member_of(token)
        if member_id is None:
            return _gone(settings)
        wanted, before, at = set(request.form.getlist("channel")) & set(CHANNELS), granted(member_id), now()
        with database.write() as session:
            consent.set_many(
                session,
                [
                    ConsentChange(member_id, name, consent.MARKETING, name in wanted, "preferences", at)
                    for name in CHANNELS
                    if (name in wanted) != (name in before)
                ],
            )
        return pages.page(settings.shop_name, url_for("public.style"), pages.SAVED, [pages.SAVED_NOTE])
