"""Who may call what, and how often: API keys with scopes, and the key that makes a POST repeatable.

Rates are counted in this process. Where several serve the API behind a proxy, each allows its own share.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import wraps
from typing import Any

from apiflask import APIBlueprint, HTTPTokenAuth
from flask import g, request
from limits import parse

from core.db import Database
from core.errors import HuiliuError, InvalidInput
from core.settings import Settings
from loyalty.requests import MAX_KEY
from web.api import errors, keys
from web.rates import fixed_windows

View = Callable[..., Any]
REPEATABLE = "Needs an Idempotency-Key header: the same key with the same body gets the same answer."


WRONG_KEYS = parse("60/minute")
"""Requests with an unknown key, by address: a key cannot be guessed, but trying costs the database a look."""


class TooMany(HuiliuError):
    """More requests than the limit allows; the message says which and when to go on."""

    reason = "too_many_requests"


class Guard:
    """Lets a request through whose key has the scope: ``@guard(blueprint, scope)`` above a view."""

    def __init__(self, database: Database, settings: Settings, clock: Callable[[], datetime]) -> None:
        self._database, self._clock = database, clock
        self._rate = parse(settings.api_rate)
        self._seen = fixed_windows()
        self._auth = HTTPTokenAuth(
            name="ApiKey", description="An API key, made under Settings: `Bearer hl_…`"
        )
        self._auth.verify_token(self._verify)
        self._auth.get_user_roles(lambda principal: list(principal.scopes))
        self._auth.error_processor(lambda error: errors.of_auth(error.status_code, g.api_scope))

    def _verify(self, token: str) -> keys.Principal | None:
        address = request.remote_addr or ""
        if not self._seen.test(WRONG_KEYS, address):
            raise TooMany(f"Too many requests with an unknown API key ({WRONG_KEYS}); wait a minute.")
        now = self._clock()
        principal = keys.known.get(token, now)
        if principal is None:
            with self._database.read() as session:
                principal = keys.verify(session, token, now)
            if principal is None:
                self._seen.hit(WRONG_KEYS, address)
                return None
            keys.known.put(token, principal, now)
        if not self._seen.hit(self._rate, f"key:{principal.id}"):
            raise TooMany(
                f"This API key may send {self._rate}; wait and send again, or send more rows in each request."
            )
        if principal.stale:
            with self._database.write() as session:
                keys.note_use(session, principal.id, now)
        return principal

    def __call__(self, blueprint: APIBlueprint, scope: str) -> Callable[[View], View]:
        def decorate(view: View) -> View:
            protected = blueprint.auth_required(self._auth, roles=[scope])(view)

            @wraps(protected)
            def scoped(*args: Any, **kwargs: Any) -> Any:
                g.api_scope = scope  # for the words of a refusal
                return protected(*args, **kwargs)

            return scoped

        return decorate


def describe_keys(document: dict[str, Any] | str) -> dict[str, Any] | str:
    """Name the Idempotency-Key header of every repeatable endpoint in the OpenAPI document."""
    header = {
        "name": "Idempotency-Key",
        "in": "header",
        "required": True,
        "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY},
        "description": "A new value for every new request, the same one when you repeat it.",
    }
    if isinstance(document, str):  # as YAML, which this application does not serve
        return document
    for path in document.get("paths", {}).values():
        operation = path.get("post", {})
        if REPEATABLE in operation.get("description", ""):
            operation["parameters"] = [*operation.get("parameters", []), header]
    return document


def idempotency_key() -> str:
    key = request.headers.get("Idempotency-Key", "")
    if not 0 < len(key) <= MAX_KEY or not key.isprintable():
        raise InvalidInput(
            f"Send an Idempotency-Key header of 1 to {MAX_KEY} characters: a new value for every new "
            "request, the same one when you repeat it.",
            "Idempotency-Key",
        )
    return key
