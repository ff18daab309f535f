"""What watches over the endpoints: who sends too much is held or blocked, who guesses codes is locked out.

Guarantees: what is noted stays noted when the request itself is refused, since watching has transactions of
its own, before and after the view's; a request that names nobody (no client, no member) is not watched.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import wraps
from typing import Annotated, Any

from flask import g, request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from core.db import Database
from core.errors import Conflict, HuiliuError, InvalidInput, NotFound
from loyalty import codes
from loyalty.abuse import guesses, signals
from loyalty.abuse.rules import BLOCK
from loyalty.abuse.signals import Verdict
from loyalty.abuse.subjects import ADDRESS, DEVICE, IP, MAX_VALUE, PHONE, subjects_of
from web.api.guard import TooMany, View
from web.api.known import known_member

Value = Annotated[str, Field(min_length=1, max_length=MAX_VALUE)]
FIELDS = {"device_id": DEVICE, "ip": IP, "address": ADDRESS, "phone": PHONE}
_PLACES = {kind: f"client.{field}" for field, kind in FIELDS.items()}
_OTHERS_CODE = "other_member"


class ClientIn(BaseModel):
    """Who is at the other end, as far as the shop knows: only keyed hashes of it are kept."""

    model_config = ConfigDict(extra="forbid")

    device_id: Value | None = Field(None, description="What the shop's page or app knows the device by")
    ip: Value | None = Field(None, description="The buyer's address, not the shop's server's")
    address: Value | None = Field(None, description="Where the order is delivered to")
    phone: Value | None = None


class Blocked(Conflict):
    """The rules against abuse say no; the hit is in the console's review."""

    reason = "blocked"


class Locked(TooMany):
    """Too many wrong codes; the message says until when."""


def watched(
    database: Database, clock: Callable[[], datetime], action: str, *, code: bool = False
) -> Callable[[View], View]:
    """Decorator of a view with the argument ``body``, right above its ``def``.

    Takes ``body.client`` (:class:`ClientIn` or None) and ``body.member_id`` where there are such; refuses
    with 409 ``blocked`` or lets through, and :func:`verdict` tells the view what was found. With ``code``
    wrong codes are counted, and who sent too many gets 429 until the lock-out ends.
    """

    def decorate(view: View) -> View:
        @wraps(view)
        def watching(*args: Any, **kwargs: Any) -> Any:
            body, now = kwargs.get("body"), clock()
            with database.write() as session:
                subjects, known = _enter(session, action, body, now, code=code)
            if g.abuse_verdict.decision == BLOCK:
                raise Blocked(
                    "Refused: too many such requests by the same buyer. Somebody can look at it under "
                    "Loyalty → Review."
                )
            try:
                answer = view(*args, **kwargs)
            except HuiliuError as error:
                if code and _is_wrong_code(error, body):
                    with database.write() as session:  # the refused request's own was rolled back
                        guesses.failed(session, subjects, now)
                raise
            if known:
                with database.write() as session:
                    guesses.succeeded(session, subjects)
            return answer

        return watching

    return decorate


def verdict() -> Verdict:
    """What watching found about this request: ``allow`` or ``hold``."""
    found: Verdict = g.get("abuse_verdict", Verdict())
    return found


def client_of(body: Any) -> dict[str, str | None]:
    """kind of subject → what the request's client sent, in plain."""
    client = getattr(body, "client", None)
    return {} if client is None else {kind: getattr(client, field) for field, kind in FIELDS.items()}


def _enter(
    session: Session, action: str, body: Any, now: datetime, *, code: bool
) -> tuple[dict[str, str], bool]:
    """The request's subjects, noted and judged; and whether wrong codes are kept of them."""
    values, member_id = client_of(body), _member(session, body)
    try:
        subjects = subjects_of(values, member_id)
    except InvalidInput as error:
        raise InvalidInput(str(error), _PLACES.get(error.field or "", error.field)) from None
    until = guesses.locked_until(session, subjects, now) if code else None
    if until is not None:
        raise Locked(f"Too many wrong codes by the same buyer; codes are taken again from {until:%H:%M} UTC.")
    key = request.headers.get("Idempotency-Key")
    g.abuse_verdict = signals.observe(session, action, values, member_id, now, key=key)
    return subjects, code and guesses.any_of(session, subjects)


def _member(session: Session, body: Any) -> int | None:
    """The member that the request names; one that nobody knows is the view's to refuse."""
    external_id = getattr(body, "member_id", None)
    if external_id is None:
        return None
    try:
        return known_member(session, getattr(body, "source", "shop"), external_id)
    except NotFound:
        return None


def _is_wrong_code(error: HuiliuError, body: Any) -> bool:
    """A typing error, a code that nobody has, or somebody else's."""
    if isinstance(error, InvalidInput):
        return error.field == "code"
    if isinstance(error, NotFound):
        try:
            return codes.check(str(getattr(body, "code", ""))) in str(error)
        except InvalidInput:
            return False
    return getattr(error, "reason", None) == _OTHERS_CODE
