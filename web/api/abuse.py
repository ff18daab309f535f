"""What watches over the endpoints: who sends too much is held or blocked, who guesses codes is locked out.

Guarantees: what is noted stays noted when the request itself is refused, since watching has transactions of
its own, before and after the view's; a request that names nobody (no client, no member) is not watched and
costs nothing; a repeated request is judged as it was the first time, and its answer forgets no wrong codes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import wraps
from typing import Annotated, Any

import sqlalchemy as sa
from flask import g, request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from core.db import Database
from core.errors import Conflict, HuiliuError, InvalidInput, NotFound
from loyalty import claims, codes
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

    reason = "abuse"


class Locked(TooMany):
    """Too many wrong codes; the message says until when."""

    def __init__(self, until: datetime, now: datetime) -> None:
        when = f"{until:%H:%M}" if until.date() == now.date() else f"{until:%Y-%m-%d %H:%M}"
        super().__init__(f"Too many wrong codes by the same buyer; codes are taken again from {when} UTC.")
        self.retry_after_s = int((until - now).total_seconds()) + 1


class AskedBy(BaseModel):
    """The buyer in a GET's query. Not address and phone: addresses of requests are logged."""

    device_id: Value | None = Field(None, description="What the shop's page or app knows the device by")
    ip: Value | None = Field(None, description="The buyer's address, not the shop's server's")

    @property
    def client(self) -> AskedBy:
        """Where the body of a POST has it."""
        return self


def watched(
    database: Database, clock: Callable[[], datetime], action: str | None, *, code: bool = False
) -> Callable[[View], View]:
    """Decorator of a view with the argument ``body``, right above its ``def``.

    Takes ``body.client`` (:class:`ClientIn` or None) and ``body.member_id`` where there are such; refuses
    with 409 ``abuse`` or lets through, and :func:`verdict` tells the view what was found. With ``code``
    wrong codes (and wrong claim links) are counted, and who sent too many gets 429 until the lock-out ends;
    with no ``action`` that is all.
    """

    def decorate(view: View) -> View:
        @wraps(view)
        def watching(*args: Any, **kwargs: Any) -> Any:
            body, now = kwargs.get("body"), clock()
            if not _names_somebody(body):
                return view(*args, **kwargs)
            with database.write() as session:
                _without_waiting(session)
                subjects, forgets = _enter(session, action, body, now, code=code)
            if verdict().decision == BLOCK:
                raise Blocked(
                    "Refused: too many such requests by the same buyer. Somebody can look at it under "
                    "Loyalty → Review."
                )
            try:
                answer = view(*args, **kwargs)
            except HuiliuError as error:
                if code and _is_wrong(database, error, kwargs):
                    with database.write() as session:  # the refused request's own was rolled back
                        guesses.failed(session, subjects, now)
                raise
            if forgets:
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
    return {} if client is None else {kind: getattr(client, field, None) for field, kind in FIELDS.items()}


def _without_waiting(session: Session) -> None:
    """What is noted need not be on the disk before the request goes on: the machine's own crash may cost
    the last notes, never a redemption's."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(sa.text("SET LOCAL synchronous_commit = off"))


def _names_somebody(body: Any) -> bool:
    return getattr(body, "member_id", None) is not None or any(client_of(body).values())


def _enter(
    session: Session, action: str | None, body: Any, now: datetime, *, code: bool
) -> tuple[dict[str, str], bool]:
    """The request's subjects, noted and judged; and whether its success forgets wrong codes of theirs."""
    values, member_id = client_of(body), _member(session, body)
    try:
        subjects = subjects_of(values, member_id)
    except InvalidInput as error:
        raise InvalidInput(str(error), _PLACES.get(error.field or "", error.field)) from None
    until, guessed = guesses.standing(session, subjects, now) if code else (None, False)
    if until is not None:
        raise Locked(until, now)
    key = request.headers.get("Idempotency-Key")
    fresh = True
    if action is not None:
        g.abuse_verdict = signals.observe(session, action, values, member_id, now, key=key)
        fresh = g.abuse_verdict.fresh
    return subjects, fresh and guessed


def _member(session: Session, body: Any) -> int | None:
    """The member that the request names; one that nobody knows is the view's to refuse."""
    external_id = getattr(body, "member_id", None)
    if external_id is None:
        return None
    try:
        return known_member(session, getattr(body, "source", "shop"), external_id)
    except NotFound:
        return None


def _is_wrong(database: Database, error: HuiliuError, arguments: Mapping[str, Any]) -> bool:
    """A typing error, a code that nobody has, or somebody else's; a claim link that is none."""
    body = arguments.get("body")
    if isinstance(error, InvalidInput):
        return error.field == "code"
    if isinstance(error, NotFound):
        link = getattr(body, "link", None)
        if link is not None:
            return not _is_link(database, link)
        try:
            return codes.check(arguments.get("code") or getattr(body, "code", None) or "") in str(error)
        except InvalidInput:
            return False
    return getattr(error, "reason", None) == _OTHERS_CODE


def _is_link(database: Database, token: str) -> bool:
    with database.read() as session:
        try:
            claims.find_link(session, token)
        except NotFound:
            return False
    return True
