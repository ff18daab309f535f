"""Log-in, roles, second factor, CSRF, rate limits and the headers of every answer."""

from __future__ import annotations

import base64
import hashlib
import io
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import segno
from flask import Flask, Response, g, has_request_context, request
from flask_babel import lazy_gettext
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from flask_security import Security, SQLAlchemySessionUserDatastore
from flask_security.totp import Totp
from flask_wtf.csrf import CSRFProtect
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from core import crypto
from core.db import Database
from core.settings import Settings
from web.models import Role, User

LOGIN_LIMIT = "10 per minute;60 per hour"
SESSION_DAYS = 14
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "font-src": "'self'",
    "connect-src": "'self'",
    "frame-src": "'self'",
    "form-action": "'self'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
    "object-src": "'none'",
}
MESSAGE_POLICY = (
    # A message's own HTML: its styles and pictures, no script, no form, an origin of its own.
    "default-src 'none'; style-src 'unsafe-inline'; img-src data: http: https:; "
    "sandbox allow-popups allow-popups-to-escape-sandbox; frame-ancestors 'self'"
)


class _UserSession(Session):
    """Reads like a page; in the log-in's own POSTs it is a writer from its first statement.

    On SQLite a transaction that reads first and then writes fails at once where somebody else
    wrote in between.
    """

    reader: Engine
    writer: Engine

    def get_bind(self, *args: Any, **kwargs: Any) -> Any:
        writes = has_request_context() and request.method == "POST" and request.blueprint == "security"
        return self.writer if writes else self.reader


class _SegnoTotp(Totp):
    """Draws the QR code with segno and remembers the last code used, so that none works twice."""

    def __init__(self, secrets: dict[str, str], issuer: str) -> None:
        super().__init__(secrets, issuer)
        self._used: dict[str, int] = {}

    def generate_qrcode(self, username: str, totp: str) -> str:
        picture = io.BytesIO()
        segno.make(self.get_totp_uri(username, totp), error="m").save(picture, kind="svg", border=2, scale=4)
        return f"data:image/svg+xml;base64,{base64.b64encode(picture.getvalue()).decode()}"

    def get_last_counter(self, user: Any) -> int | None:
        return self._used.get(user.fs_uniquifier)

    def set_last_counter(self, user: Any, tmatch: Any) -> None:
        self._used[user.fs_uniquifier] = tmatch.counter


class _Security(Security):
    def _check_modules(self, module: str, config_name: str) -> Any:
        if module == "qrcode":  # _SegnoTotp draws without it
            return True
        return super()._check_modules(module, config_name)  # type: ignore[no-untyped-call]


def init(app: Flask, settings: Settings, database: Database) -> CSRFProtect:
    """Set up log-in and protection; answers the CSRF guard, so that public pages can be exempted from it."""
    keyring = crypto.open_keyring(settings)
    https = settings.base_url.startswith("https://")
    app.config.update(_config(keyring.session_secret, settings, https=https))
    csrf = CSRFProtect(app)
    sessions = scoped_session(_session_factory(database))
    security = _Security(
        app,
        SQLAlchemySessionUserDatastore(sessions, User, Role),
        totp_cls=_SegnoTotp,
        register_blueprint=True,
    )
    app.extensions["huiliu_security"] = security
    app.teardown_appcontext(lambda _error: sessions.remove())
    _limit_logins(app)
    app.before_request(_start)
    app.after_request(_headers(https=https))
    return csrf


def _session_factory(database: Database) -> sessionmaker[_UserSession]:
    factory = sessionmaker(class_=_UserSession, expire_on_commit=False)
    _UserSessionFor = type(
        "UserSession",
        (_UserSession,),
        {"reader": database.engine, "writer": database.engine.execution_options(huiliu_write=True)},
    )
    factory.class_ = _UserSessionFor
    return factory


def _config(secret: str, settings: Settings, *, https: bool) -> dict[str, Any]:
    def derived(purpose: str) -> str:
        return hashlib.sha256(f"{purpose}:{secret}".encode()).hexdigest()

    return {
        "SECRET_KEY": secret,
        "SESSION_COOKIE_NAME": "huiliu",
        "SESSION_COOKIE_SAMESITE": "Lax",
        "SESSION_COOKIE_SECURE": https,
        "PERMANENT_SESSION_LIFETIME": timedelta(days=SESSION_DAYS),
        "REMEMBER_COOKIE_SAMESITE": "Lax",
        "REMEMBER_COOKIE_HTTPONLY": True,
        "REMEMBER_COOKIE_SECURE": https,
        "REMEMBER_COOKIE_DURATION": timedelta(days=SESSION_DAYS),
        "WTF_CSRF_TIME_LIMIT": None,
        "WTF_CSRF_SSL_STRICT": False,
        "SECURITY_PASSWORD_HASH": "argon2",
        "SECURITY_PASSWORD_SINGLE_HASH": ["argon2"],
        "SECURITY_PASSWORD_SALT": derived("password"),
        "SECURITY_EMAIL_VALIDATOR_ARGS": {"check_deliverability": False, "test_environment": True},
        "SECURITY_TRACKABLE": True,
        "SECURITY_DATETIME_FACTORY": lambda: datetime.now(UTC),
        "SECURITY_RETURN_GENERIC_RESPONSES": True,
        "SECURITY_FLASH_MESSAGES": True,
        "SECURITY_LOGOUT_METHODS": ["POST"],
        "SECURITY_LOGOUT_CSRF": True,
        "SECURITY_POST_LOGOUT_VIEW": "/login",
        "SECURITY_TWO_FACTOR": True,
        "SECURITY_TWO_FACTOR_ENABLED_METHODS": ["authenticator"],
        "SECURITY_TWO_FACTOR_POST_SETUP_VIEW": "/settings/account",
        "SECURITY_TWO_FACTOR_RESCUE_EMAIL": False,
        "SECURITY_TOTP_SECRETS": {"1": derived("totp")},
        "SECURITY_TOTP_ISSUER": f"Huiliu {settings.shop_name}"[:60].replace(":", " "),
        "SECURITY_CHANGEABLE": True,
        "SECURITY_SEND_PASSWORD_CHANGE_EMAIL": False,
        "SECURITY_POST_CHANGE_VIEW": "/settings/account",
        "SECURITY_MSG_UNAUTHENTICATED": (lazy_gettext("Please log in."), "info"),
        "SECURITY_MSG_LOGIN": (lazy_gettext("Please log in."), "info"),
        "SECURITY_MSG_GENERIC_AUTHN_FAILED": (
            lazy_gettext("The address and the password do not go together. Check both and try again."),
            "error",
        ),
        "RATELIMIT_HEADERS_ENABLED": True,
    }


def _limit_logins(app: Flask) -> None:
    limiter = Limiter(get_remote_address, app=app, storage_uri="memory://")

    def account() -> str:
        return f"account:{request.form.get('email', '').strip().casefold()[:255]}"

    for endpoint in ("security.login", "security.two_factor_token_validation"):
        view: Callable[..., Any] = app.view_functions[endpoint]
        view = limiter.limit(LOGIN_LIMIT, methods=["POST"])(view)
        if endpoint == "security.login":
            # By account too: guesses spread over many addresses are still guesses.
            view = limiter.limit(LOGIN_LIMIT, key_func=account, methods=["POST"])(view)
        app.view_functions[endpoint] = view


def _start() -> None:
    g.started = time.perf_counter()


def _headers(*, https: bool) -> Callable[[Response], Response]:
    policy = "; ".join(f"{name} {value}" for name, value in POLICY.items())

    def add(response: Response) -> Response:
        headers = response.headers
        headers.setdefault("Content-Security-Policy", policy)
        headers.setdefault("X-Content-Type-Options", "nosniff")
        headers.setdefault("Referrer-Policy", "same-origin")
        headers.setdefault("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
        headers.setdefault("Cross-Origin-Opener-Policy", "same-origin")
        if https:
            headers.setdefault("Strict-Transport-Security", "max-age=31536000")
        if response.mimetype == "text/html" and "Cache-Control" not in headers:
            headers["Cache-Control"] = "no-store"
        if "started" in g:
            headers["Server-Timing"] = f"app;dur={(time.perf_counter() - g.started) * 1000:.1f}"
        return response

    return add


def new_password() -> str:
    """A password to hand over once: about 95 bits."""
    return secrets.token_urlsafe(12)
