"""Endpoints of points. Each request is one transaction."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from apiflask import APIBlueprint
from flask import request

from core.db import Database
from loyalty import points
from web.api import keys, schemas
from web.api.guard import REPEATABLE, Guard, idempotency_key
from web.api.known import known_member


def add_points(
    blueprint: APIBlueprint, guard: Guard, database: Database, clock: Callable[[], datetime]
) -> None:
    """Earn, spend, give back, and look at points."""

    @blueprint.post("/points/earn")
    @guard(blueprint, keys.LOYALTY)
    @blueprint.input(schemas.EarnIn, arg_name="body")
    @blueprint.output(schemas.PointsOut)
    @blueprint.doc(summary="Grant points", description=REPEATABLE)
    def earn_points(body: schemas.EarnIn) -> dict[str, Any]:
        key = idempotency_key()
        with database.write() as session:
            member_id = known_member(session, body.source, body.member_id)
            found = points.grant(session, member_id, body.points, idempotency_key=key, now=clock())
        return {"member_id": body.member_id, **vars(found)}

    @blueprint.post("/points/spend")
    @guard(blueprint, keys.LOYALTY)
    @blueprint.input(schemas.SpendIn, arg_name="body")
    @blueprint.output(schemas.PointsOut)
    @blueprint.doc(summary="Spend points on an order", description=REPEATABLE)
    def spend_points(body: schemas.SpendIn) -> dict[str, Any]:
        key = idempotency_key()
        with database.write() as session:
            found = points.spend(
                session,
                known_member(session, body.source, body.member_id),
                body.points,
                source_id=body.order_id,
                idempotency_key=key,
                now=clock(),
            )
        return {"member_id": body.member_id, **vars(found)}

    @blueprint.post("/points/refund")
    @guard(blueprint, keys.LOYALTY)
    @blueprint.input(schemas.RefundIn, arg_name="body")
    @blueprint.output(schemas.PointsOut)
    @blueprint.doc(summary="Give spent points back", description=REPEATABLE)
    def refund_points(body: schemas.RefundIn) -> dict[str, Any]:
        key = idempotency_key()
        with database.write() as session:
            found = points.refund_spend(
                session,
                known_member(session, body.source, body.member_id),
                source_id=body.order_id,
                idempotency_key=key,
                now=clock(),
                points=body.points,
            )
        return {"member_id": body.member_id, "points": found.points, "available": found.available}

    @blueprint.get("/members/<path:external_id>/points")
    @guard(blueprint, keys.READ)
    @blueprint.output(schemas.BalanceOut)
    @blueprint.doc(summary="A member's points")
    def show_points(external_id: str) -> dict[str, Any]:
        source = request.args.get("source", schemas.SOURCE)
        with database.read() as session:
            found = points.balance(session, known_member(session, source, external_id), clock())
        return {"member_id": external_id, **vars(found)}
