"""The API's own application, beside the console's in the same server.

A till pays for nothing that only a console needs: no session to open and sign, nobody to look up, no form to
check, no language to choose. Guarantees: every answer below /api is JSON, also a refusal and a crash.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from apiflask import APIFlask
from flask import Flask, Request, Response, current_app, request
from flask.sessions import SecureCookieSession, SessionInterface
from werkzeug.exceptions import HTTPException

from core.db import Database
from core.settings import Settings
from web.api import errors
from web.api.views import create_blueprint

HEADERS = (
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "same-origin"),
)


class _NoSessions(SessionInterface):
    """Callers bring a key with each request."""

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession:
        return self.make_null_session(app)


class _Api(APIFlask):
    session_interface = _NoSessions()

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """As it is: nothing here is a coroutine, and looking at each costs a tenth of a request."""
        return func


def create_api(database: Database, settings: Settings, clock: Callable[[], datetime]) -> APIFlask:
    """The HTTP API over a migrated ``database``; ``clock`` gives the time of everything it writes."""
    app = _Api(
        "web.api",
        title="Huiliu",
        version="1",
        spec_path="/api/openapi.json",
        docs_path=None,
        json_errors=False,
        static_folder=None,  # type: ignore[arg-type]
    )
    app.register_blueprint(create_blueprint(database, settings, clock=clock))
    headers = list(HEADERS)
    if settings.base_url.startswith("https://"):
        headers.append(("Strict-Transport-Security", "max-age=31536000"))

    def add(response: Response) -> Response:
        response.headers.extend(headers)
        return response

    app.after_request(add)
    app.register_error_handler(HTTPException, errors.http)
    app.register_error_handler(Exception, _crash)
    return app


def _crash(error: Exception) -> Response:
    if current_app.testing:
        raise error
    current_app.logger.exception("A request failed: %s %s", request.method, request.path)
    return errors.answer(500, "internal", "The server failed; see its log.")
