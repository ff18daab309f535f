"""Endpoints of points. Each request is one transaction; under a rush, burns at the tills share one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from apiflask import APIBlueprint
from flask import request
from sqlalchemy.orm import Session

from core.db import Database
from core.errors import HuiliuError
from core.together import Together
from loyalty import adjustments, burning, point_holds, point_transfers, point_value, points
from loyalty.requests import fingerprint
from web.api import keys, schemas
from web.api import point_schemas as shapes
from web.api.guard import REPEATABLE, Guard, idempotency_key
from web.api.known import known_member, known_members, members_among

ACTOR = "api"
"""Who adjustments by the API name as their asker: anybody in the console may decide on them."""


def add_points(
    blueprint: APIBlueprint, guard: Guard, database: Database, clock: Callable[[], datetime]
) -> None:
    """Earn, hold, burn, release, give back, adjust, transfer, quote, and look at points."""
    _add_grants(blueprint, guard, database, clock)
    _add_holds(blueprint, guard, database, clock)
    _add_burns(blueprint, guard, database, clock)
    _add_transfers(blueprint, guard, database, clock)
    _add_looks(blueprint, guard, database, clock)


def _add_grants(
    blueprint: APIBlueprint, guard: Guard, database: Database, clock: Callable[[], datetime]
) -> None:
    @blueprint.post("/points/earn")
    @guard(blueprint, keys.LOYALTY)
    @blueprint.input(shapes.EarnIn, arg_name="body")
    @blueprint.output(shapes.PointsOut)
    @blueprint.doc(summary="Grant points", description=REPEATABLE)
    def earn_points(body: shapes.EarnIn) -> dict[str, Any]:
        key = idempotency_key()
        with database.write() as session:
            member_id = known_member(session, body.source, body.member_id)
            found = points.grant(session, member_id, body.points, idempotency_key=key, now=clock())
        return {"member_id": body.member_id, **vars(found)}

    @blueprint.post("/points/adjust")
    @guard(blueprint, keys.LOYALTY)
    @blueprint.input(shapes.AdjustIn, arg_name="body")
    @blueprint.output(shapes.AdjustedOut)
    @blueprint.doc(
        summary="Correct a member's points",
        description="Above the shop's limit the answer is `pending`: a second person approves it in the "
        f"console. {REPEATABLE}",
    )
    def adjust_points(body: shapes.AdjustIn) -> dict[str, Any]:
        # Keys of the API and of the console's forms never meet.
        key = f"api:{fingerprint({'key': idempotency_key()})}"
        with database.write() as session:
            member_id = known_member(session, body.source, body.member_id)
            found = adjustments.ask(
                session,
                member_id,
                body.points,
                body.reason,
                key=key,
                by=ACTOR,
                now=clock(),
                allow_debt=body.allow_debt,
            )
            available = points.balance(session, member_id, clock()).available
        return {
            "member_id": body.member_id,
            "adjustment_id": found.id,
            "points": found.points,
            "state": found.state,
            "available": available,
        }


def _add_holds(
    blueprint: APIBlueprint, guard: Guard, database: Database, clock: Callable[[], datetime]
) -> None:
    @blueprint.post("/points/hold")
    @guard(blueprint, keys.LOYALTY)
    @blueprint.input(shapes.HoldIn, arg_name="body")
    @blueprint.output(shapes.HeldOut)
    @blueprint.doc(
        summary="Set points aside for a checkout",
        description=f"Until they are burnt or released, or the hold's time is over. {REPEATABLE}",
    )
    def hold_points(body: shapes.HoldIn) -> dict[str, Any]:
        key = idempotency_key()
        with database.write() as session:
            found = point_holds.hold(
                session,
                known_member(session, body.source, body.member_id),
                body.points,
                source_id=body.order_id,
                idempotency_key=key,
                now=clock(),
                minutes=body.minutes,
            )
        return {"member_id": body.member_id, **vars(found)}

    @blueprint.post("/points/release")
    @guard(blueprint, keys.LOYALTY)
    @blueprint.input(shapes.ReleaseIn, arg_name="body")
    @blueprint.output(shapes.PointsOut)
    @blueprint.doc(summary="Give held points back", description=REPEATABLE)
    def release_points(body: shapes.ReleaseIn) -> dict[str, Any]:
        key = idempotency_key()
        with database.write() as session:
            member_id = known_member(session, body.source, body.member_id)
            found = point_holds.release(session, member_id, body.hold_id, idempotency_key=key, now=clock())
        return {"member_id": body.member_id, "points": found.points, "available": found.available}


def _add_burns(
    blueprint: APIBlueprint, guard: Guard, database: Database, clock: Callable[[], datetime]
) -> None:
    at_tills = Together(database, _burn_many, _burn_one)

    @blueprint.post("/points/burn")
    @guard(blueprint, keys.LOYALTY)
    @blueprint.input(shapes.BurnIn, arg_name="body")
    @blueprint.output(shapes.PointsOut)
    @blueprint.doc(
        summary="Burn points on an order",
        description=f"At once, or out of a hold, whose rest is released. {REPEATABLE}",
    )
    def burn_points(body: shapes.BurnIn) -> dict[str, Any]:
        asked = _Asked(body, idempotency_key(), clock())
        if body.hold_id is None:
            found = at_tills(asked)
        else:
            with database.write() as session:
                found = _burn_one(session, asked)
        return {"member_id": body.member_id, **vars(found)}

    @blueprint.post("/points/refund")
    @guard(blueprint, keys.LOYALTY)
    @blueprint.input(shapes.RefundIn, arg_name="body")
    @blueprint.output(shapes.PointsOut)
    @blueprint.doc(summary="Give burnt points back", description=REPEATABLE)
    def refund_points(body: shapes.RefundIn) -> dict[str, Any]:
        key = idempotency_key()
        with database.write() as session:
            found = burning.refund_burn(
                session,
                known_member(session, body.source, body.member_id),
                source_id=body.order_id,
                idempotency_key=key,
                now=clock(),
                points=body.points,
            )
        return {"member_id": body.member_id, "points": found.points, "available": found.available}


class _Asked(NamedTuple):
    """A request to burn points."""

    body: shapes.BurnIn
    key: str
    now: datetime


def _burn_one(session: Session, asked: _Asked) -> burning.Burned:
    body = asked.body
    return burning.burn(
        session,
        known_member(session, body.source, body.member_id),
        body.points,
        source_id=body.order_id,
        idempotency_key=asked.key,
        now=asked.now,
        hold_id=body.hold_id,
    )


def _burn_many(session: Session, asked: Sequence[_Asked]) -> list[burning.Burned | HuiliuError | None]:
    """The burns of members who are known; the others get the words of :func:`_burn_one`."""
    names: dict[str, list[str]] = {}
    for one in asked:
        names.setdefault(one.body.source, []).append(one.body.member_id)
    ids = {
        (source, name): member_id
        for source, external_ids in names.items()
        for name, member_id in members_among(session, source, external_ids).items()
    }
    burns: dict[int, burning.Burn] = {}
    for place, (body, key, now) in enumerate(asked):
        member_id = ids.get((body.source, body.member_id))
        if member_id is not None and body.points is not None and body.order_id is not None:
            burns[place] = burning.Burn(member_id, body.points, body.order_id, key, now)
    found: list[burning.Burned | HuiliuError | None] = [None] * len(asked)
    for place, done in zip(burns, burning.burn_many(session, list(burns.values())), strict=True):
        found[place] = done
    return found


def _add_transfers(
    blueprint: APIBlueprint, guard: Guard, database: Database, clock: Callable[[], datetime]
) -> None:
    @blueprint.post("/points/transfer")
    @guard(blueprint, keys.LOYALTY)
    @blueprint.input(shapes.TransferIn, arg_name="body")
    @blueprint.output(shapes.TransferredOut)
    @blueprint.doc(
        summary="Give points to another member",
        description=f"Refused until the shop has switched it on. {REPEATABLE}",
    )
    def transfer_points(body: shapes.TransferIn) -> dict[str, Any]:
        key = idempotency_key()
        with database.write() as session:
            known = known_members(session, body.source, [body.member_id, body.to_member_id])
            found = point_transfers.transfer(
                session,
                known[body.member_id],
                known[body.to_member_id],
                body.points,
                idempotency_key=key,
                now=clock(),
            )
        return {"member_id": body.member_id, "to_member_id": body.to_member_id, **vars(found)}


def _add_looks(
    blueprint: APIBlueprint, guard: Guard, database: Database, clock: Callable[[], datetime]
) -> None:
    @blueprint.post("/points/quote")
    @guard(blueprint, keys.READ)
    @blueprint.input(shapes.QuoteIn, arg_name="body")
    @blueprint.output(shapes.QuoteOut)
    @blueprint.doc(
        summary="What points take off the lines of a basket",
        description="Nothing is written: repeat it as you like.",
    )
    def quote_points(body: shapes.QuoteIn) -> dict[str, Any]:
        amounts = [line.amount for line in body.lines]
        enough = None
        with database.read() as session:
            paid = point_value.allocate_to_lines(body.points, amounts, point_value.load(session))
            if body.member_id is not None:
                member_id = known_member(session, body.source, body.member_id)
                enough = points.balance(session, member_id, clock()).available >= paid.points
        lines = [
            {"id": line.id, "amount": line.amount, "discount": share, "total": line.amount - share}
            for line, share in zip(body.lines, paid.shares, strict=True)
        ]
        total = sum(amounts) - paid.discount
        return {
            "points": paid.points,
            "discount": paid.discount,
            "total": total,
            "lines": lines,
            "enough": enough,
        }

    @blueprint.get("/members/<path:external_id>/points")
    @guard(blueprint, keys.READ)
    @blueprint.output(shapes.BalanceOut)
    @blueprint.doc(summary="A member's points")
    def show_points(external_id: str) -> dict[str, Any]:
        source = request.args.get("source", schemas.SOURCE)
        with database.read() as session:
            found = points.balance(session, known_member(session, source, external_id), clock())
        return {"member_id": external_id, **vars(found)}
