"""Endpoints of coupons. Each request is one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from apiflask import APIBlueprint

from core.db import Database
from core.settings import Settings
from loyalty import coupons
from web.api import keys, schemas
from web.api.guard import REPEATABLE, Guard, idempotency_key
from web.api.known import known_members


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
            ids = known_members(session, body.source, body.member_ids or [])
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
