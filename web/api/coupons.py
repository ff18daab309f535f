"""Endpoints of coupons. Each request is one transaction; under a rush, codes at the tills share one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from apiflask import APIBlueprint
from flask import request
from sqlalchemy.orm import Session

from core.db import Database
from core.settings import Settings
from core.together import Together
from loyalty import claims, coupons, redemptions, transfers, uses
from loyalty.abuse.rules import CLAIM, REDEEM
from web.api import abuse, keys, schemas
from web.api import coupon_schemas as forms
from web.api.guard import REPEATABLE, Guard, idempotency_key
from web.api.known import known_member, known_members


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
    @blueprint.input(abuse.AskedBy, location="query", arg_name="body")
    @blueprint.output(schemas.CouponOut)
    @blueprint.doc(summary="What a code gives, and whether it can be used")
    @abuse.watched(database, clock, None, code=True)
    def show_coupon(code: str, body: abuse.AskedBy) -> dict[str, Any]:  # noqa: ARG001 (for what watches)
        with database.read() as session:
            found = coupons.look_up(session, code, clock())
        return _shown(found)

    @blueprint.get("/members/<path:external_id>/coupons")
    @guard(blueprint, keys.READ)
    @blueprint.output(forms.MemberCouponsOut)
    @blueprint.doc(summary="A member's codes, those that can be used first")
    def member_coupons(external_id: str) -> dict[str, Any]:
        with database.read() as session:
            member_id = known_member(session, request.args.get("source", schemas.SOURCE), external_id)
            found = coupons.of_member(session, member_id, clock())
        return {"member_id": external_id, "coupons": [_shown(one) for one in found]}

    _add_moves(blueprint, guard, database, clock)


def _add_moves(
    blueprint: APIBlueprint, guard: Guard, database: Database, clock: Callable[[], datetime]
) -> None:
    """Claim the code of a link, and hand one on."""

    @blueprint.post("/coupons/claim")
    @guard(blueprint, keys.LOYALTY)
    @blueprint.input(forms.ClaimIn, arg_name="body")
    @blueprint.output(forms.ClaimedOut)
    @blueprint.doc(summary="Claim a member's code of a link", description=REPEATABLE)
    @abuse.watched(database, clock, CLAIM, code=True)
    def claim_coupon(body: forms.ClaimIn) -> dict[str, Any]:
        key = idempotency_key()
        with database.write() as session:
            member_id = known_member(session, body.source, body.member_id)
            done = claims.claim_requested(session, body.link, member_id, idempotency_key=key, now=clock())
        return {**vars(done), "member_id": body.member_id}

    @blueprint.post("/coupons/transfer")
    @guard(blueprint, keys.LOYALTY)
    @blueprint.input(forms.TransferIn, arg_name="body")
    @blueprint.output(forms.TransferredOut)
    @blueprint.doc(summary="Hand a code on to another member", description=REPEATABLE)
    def transfer_coupon(body: forms.TransferIn) -> dict[str, Any]:
        key = idempotency_key()
        names = [body.from_member_id, body.to_member_id]
        with database.write() as session:
            ids = known_members(session, body.source, names)
            done = transfers.transfer(
                session, body.code, ids[names[0]], ids[names[1]], idempotency_key=key, now=clock()
            )
        return {
            "code": done.code, "batch": done.batch, "from_member_id": names[0], "to_member_id": names[1]
        }  # fmt: skip


def add_coupon_use(
    blueprint: APIBlueprint,
    guard: Guard,
    database: Database,
    settings: Settings,
    clock: Callable[[], datetime],
) -> None:
    """Hold, redeem and release codes on orders, and give them back."""
    _add_holds(blueprint, guard, database, settings, clock)
    _add_redemptions(blueprint, guard, database, settings, clock)


def _add_holds(
    blueprint: APIBlueprint,
    guard: Guard,
    database: Database,
    settings: Settings,
    clock: Callable[[], datetime],
) -> None:
    @blueprint.post("/coupons/hold")
    @guard(blueprint, keys.LOYALTY)
    @blueprint.input(forms.HoldIn, arg_name="body")
    @blueprint.output(forms.HeldOut)
    @blueprint.doc(summary="Keep a code for an order until it is paid", description=REPEATABLE)
    @abuse.watched(database, clock, REDEEM, code=True)
    def hold_coupon(body: forms.HoldIn) -> dict[str, Any]:
        key = idempotency_key()
        with database.write() as session:
            found = coupons.hold(
                session,
                body.code,
                order_ref=body.order_id,
                basket_minor=body.basket_minor,
                currency=body.currency or settings.shop_currency,
                member_external_id=body.member_id,
                idempotency_key=key,
                now=clock(),
                minutes=body.minutes,
            )
        return _on_order(found)

    @blueprint.post("/coupons/release")
    @guard(blueprint, keys.LOYALTY)
    @blueprint.input(forms.ReleaseIn, arg_name="body")
    @blueprint.output(forms.HeldOut)
    @blueprint.doc(summary="End a hold: the code may be used again", description=REPEATABLE)
    def release_coupon(body: forms.ReleaseIn) -> dict[str, Any]:
        key = idempotency_key()
        with database.write() as session:
            found = coupons.release_requested(session, body.hold_id, idempotency_key=key, now=clock())
        return _on_order(found)


def _add_redemptions(
    blueprint: APIBlueprint,
    guard: Guard,
    database: Database,
    settings: Settings,
    clock: Callable[[], datetime],
) -> None:
    at_tills = Together(database, redemptions.redeem_many, redemptions.redeem_one)

    @blueprint.post("/coupons/redeem")
    @guard(blueprint, keys.LOYALTY)
    @blueprint.input(forms.RedeemIn, arg_name="body")
    @blueprint.output(forms.RedeemedOut)
    @blueprint.doc(summary="Redeem a code on an order", description=REPEATABLE)
    @abuse.watched(database, clock, REDEEM, code=True)
    def redeem_coupon(body: forms.RedeemIn) -> dict[str, Any]:
        key, now = idempotency_key(), clock()
        basket = uses.Basket(
            body.order_id, body.basket_minor, body.currency or settings.shop_currency, body.member_id
        )
        if body.batch is None and body.hold_id is None:
            return _on_order(at_tills(redemptions.Use(str(body.code), basket, key, now)))
        with database.write() as session:
            found = _redeem_other(session, body, basket, key, now)
        return _on_order(found)

    @blueprint.post("/coupons/rollback")
    @guard(blueprint, keys.LOYALTY)
    @blueprint.input(forms.RollbackIn, arg_name="body")
    @blueprint.output(forms.RedeemedOut)
    @blueprint.doc(
        summary="Give a code, or a part of its discount, back after a refund", description=REPEATABLE
    )
    def rollback_coupon(body: forms.RollbackIn) -> dict[str, Any]:
        key = idempotency_key()
        with database.write() as session:
            found = coupons.rollback(
                session,
                body.code,
                order_ref=body.order_id,
                idempotency_key=key,
                now=clock(),
                amount_minor=body.amount_minor,
            )
        return _on_order(found)


def _redeem_other(
    session: Session, body: forms.RedeemIn, basket: uses.Basket, key: str, now: datetime
) -> coupons.Redeemed:
    """Redeem a hold, or a member's best code of a batch."""
    common: dict[str, Any] = {
        "order_ref": basket.order_ref,
        "basket_minor": basket.basket_minor,
        "currency": basket.currency,
        "idempotency_key": key,
        "now": now,
    }
    if body.batch is not None:
        member_id = known_member(session, body.source, str(body.member_id))
        return coupons.redeem_for_member(session, body.batch, member_id, **common)
    assert body.hold_id is not None
    return coupons.redeem_hold(session, body.hold_id, member_external_id=body.member_id, **common)


def _on_order(found: coupons.Redeemed | coupons.Held) -> dict[str, Any]:
    return {**vars(found), "order_id": found.order_ref}


def _shown(found: coupons.CouponView) -> dict[str, Any]:
    return {**vars(found), "member_id": found.member_external_id}
