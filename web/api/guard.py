"""Who may call what: API keys with scopes, and the key that makes a POST repeatable."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import wraps
from typing import Any

from apiflask import APIBlueprint, HTTPTokenAuth
from flask import g, request

from core.db import Database
from core.errors import InvalidInput
from web.api import errors, keys

View = Callable[..., Any]
REPEATABLE = "Needs an Idempotency-Key header: the same key with the same body gets the same answer."


class Guard:
    """Lets a request through whose key has the scope: ``@guard(blueprint, scope)`` above a view."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database, self._clock = database, clock
        self._auth = HTTPTokenAuth(
            name="ApiKey", description="An API key, made under Settings: `Bearer hl_…`"
        )
        self._auth.verify_token(self._verify)
        self._auth.get_user_roles(lambda principal: list(principal.scopes))
        self._auth.error_processor(lambda error: errors.of_auth(error.status_code, g.api_scope))

    def _verify(self, token: str) -> keys.Principal | None:
        now = self._clock()
        with self._database.read() as session:
            principal = keys.verify(session, token, now)
        if principal is not None and principal.stale:
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


def idempotency_key() -> str:
    key = request.headers.get("Idempotency-Key", "")
    if not key or not key.isprintable():
        raise InvalidInput(
            "Send an Idempotency-Key header: a new value for every new request, the same one when you "
            "repeat it.",
            "Idempotency-Key",
        )
    return key
