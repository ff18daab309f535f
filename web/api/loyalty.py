"""Endpoints of coupons and points. Each request is one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from apiflask import APIBlueprint
from flask import request
from sqlalchemy.orm import Session

from core.db import Database, among
from core.errors import NotFound
from core.models import Member
from core.settings import Settings
from loyalty import coupons, points
from web.api import keys, schemas
from web.api.guard import REPEATABLE, Guard, idempotency_key


def add_coupons(
    blueprint: APIBlueprint, guard: Guard, database: Database, clock: Callable[[], datetime]
) -> None:
    """Issue codes, and look one up."""

    @blueprint.post("/coupons/issue")
    @guard(blueprint, keys.LOYALTY)
    @blueprint.input(schemas.IssueIn, arg_name="body")
    @blueprint.output(schemas.IssuesOut)
    @blueprint.doc(summary="Issue codes of a batch", description=REPEATABLE)
    def issue_coupons(body: schemas.IssueIn) -> dict[str, Any]:
        key = idempotency_key()
        with database.write() as session:
            batch = coupons.find_batch(session, body.batch)
            names: Sequence[str | None] = body.member_ids or [None] * (body.count or 0)
            ids = _members(session, body.source, body.member_ids or [])
            wanted = [None if name is None else ids[name] for name in names]
            rows = coupons.issue_requested(session, batch, wanted, idempotency_key=key, now=clock())
        return {
            "batch": body.batch,
            "coupons": [
                {"member_id": name, "code": code, "reason": reason}
                for name, (code, reason) in zip(names, rows, strict=True)
            ],
        }

    @blueprint.get("/coupons/<code>")
    @guard(blueprint, keys.READ)
    @blueprint.output(schemas.CouponOut)
    @blueprint.doc(summary="What a code gives, and whether it can be used")
    def show_coupon(code: str) -> dict[str, Any]:
        with database.read() as session:
            found = coupons.look_up(session, code, clock())
        return {**vars(found), "member_id": found.member_external_id}


def add_coupon_use(
    blueprint: APIBlueprint,
    guard: Guard,
    database: Database,
    settings: Settings,
    clock: Callable[[], datetime],
) -> None:
    """Redeem a code on an order, and give it back."""

    @blueprint.post("/coupons/redeem")
    @guard(blueprint, keys.LOYALTY)
    @blueprint.input(schemas.RedeemIn, arg_name="body")
    @blueprint.output(schemas.RedeemedOut)
    @blueprint.doc(summary="Redeem a code on an order", description=REPEATABLE)
    def redeem_coupon(body: schemas.RedeemIn) -> dict[str, Any]:
        key = idempotency_key()
        with database.write() as session:
            found = coupons.redeem(
                session,
                body.code,
                order_ref=body.order_id,
                basket_minor=body.basket_minor,
                currency=body.currency or settings.shop_currency,
                member_external_id=body.member_id,
                idempotency_key=key,
                now=clock(),
            )
        return _redeemed(found)

    @blueprint.post("/coupons/rollback")
    @guard(blueprint, keys.LOYALTY)
    @blueprint.input(schemas.RollbackIn, arg_name="body")
    @blueprint.output(schemas.RedeemedOut)
    @blueprint.doc(summary="Give a code back after a refund", description=REPEATABLE)
    def rollback_coupon(body: schemas.RollbackIn) -> dict[str, Any]:
        key = idempotency_key()
        with database.write() as session:
            found = coupons.rollback(
                session, body.code, order_ref=body.order_id, idempotency_key=key, now=clock()
            )
        return _redeemed(found)


def _redeemed(found: coupons.Redeemed) -> dict[str, Any]:
    return {**vars(found), "order_id": found.order_ref}


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
            member_id = _member(session, body.source, body.member_id)
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
                _member(session, body.source, body.member_id),
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
                _member(session, body.source, body.member_id),
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
            found = points.balance(session, _member(session, source, external_id), clock())
        return {"member_id": external_id, **vars(found)}


def _member(session: Session, source: str, external_id: str) -> int:
    return _members(session, source, [external_id])[external_id]


def _members(session: Session, source: str, external_ids: Sequence[str]) -> dict[str, int]:
    """Ids of known members that were not erased; NotFound names those who are not."""
    rows = session.execute(
        sa.select(Member.external_id, Member.id).where(
            Member.source == source,
            Member.erased_at.is_(None),
            among(session, Member.external_id, external_ids),
        )
    )
    found = {external_id: member_id for external_id, member_id in rows}  # noqa: C416
    missing = [external_id for external_id in external_ids if external_id not in found]
    if missing:
        named = ", ".join(missing[:5]) + (" …" if len(missing) > 5 else "")
        raise NotFound(f"Not known as members: {named}. Send them to /api/v1/members first.")
    return found
