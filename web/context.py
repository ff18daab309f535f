"""What a request carries: its one reading session, the database, the clock, the user."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from functools import wraps
from typing import Any, ParamSpec, cast

from flask import Response, abort, current_app, g, redirect, request
from flask_security import current_user, url_for_security
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response as AnyResponse

from core.db import Database
from core.settings import Settings
from core.warehouse.engine import DuckEngine
from web.roles import Permission, permissions_of

P = ParamSpec("P")
EXTENSION = "huiliu"


@dataclass(frozen=True)
class Console:
    """What the factory was given, for the views."""

    settings: Settings
    database: Database
    engine: Callable[[], DuckEngine]
    """Makes the analytics engine on first use, so that a page without analytics never opens it."""
    clock: Callable[[], datetime]


def console() -> Console:
    return cast(Console, current_app.extensions[EXTENSION])


def reading() -> Session:
    """The request's one reading session, opened on first use and closed with the request."""
    if "read_session" not in g:
        g.read_door = console().database.read()
        g.read_session = g.read_door.__enter__()
    return cast(Session, g.read_session)


def writing() -> AbstractContextManager[Session]:
    """One writing transaction; what the request had read is forgotten, so that it reads anew."""
    close_reading()
    return console().database.write()


def close_reading(_error: BaseException | None = None) -> None:
    door = g.pop("read_door", None)
    g.pop("read_session", None)
    if door is not None:
        door.__exit__(None, None, None)


def now() -> datetime:
    return console().clock()


def actor() -> str:
    """Who acts, as the audit trail names them."""
    return str(current_user.email)


def allowed() -> frozenset[Permission]:
    """Permissions of this request's user; nobody has none."""
    if not current_user.is_authenticated:
        return frozenset()
    if "permissions" not in g:
        g.permissions = permissions_of(role.name for role in current_user.roles)
    return cast(frozenset[Permission], g.permissions)


def may(permission: str) -> bool:
    return permission in allowed()


def require(permission: Permission) -> Callable[[Callable[P, Any]], Callable[P, Any]]:
    """Guard of every view: logged in, and allowed. The tests check that no view lacks it."""

    def decorate(view: Callable[P, Any]) -> Callable[P, Any]:
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> Any:
            if not current_user.is_authenticated:
                return _to_login()
            if permission not in allowed():
                abort(403)
            return view(*args, **kwargs)

        guarded.permission = permission  # type: ignore[attr-defined]
        return guarded

    return decorate


def _to_login() -> AnyResponse:
    back = request.full_path.rstrip("?") if request.method == "GET" and not is_htmx() else None
    address = url_for_security("login", next=back) if back and back != "/" else url_for_security("login")
    if is_htmx():
        return Response(status=401, headers={"HX-Redirect": address})
    return redirect(address)


def is_htmx() -> bool:
    return request.headers.get("HX-Request") == "true"
