"""Endpoints of referrals. Each request is one transaction, besides what watches over it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

from apiflask import APIBlueprint
from flask import request
from pydantic import BaseModel, Field

from core.db import Database
from core.settings import Settings
from loyalty.abuse.rules import REFERRAL
from loyalty.referrals import links
from loyalty.referrals.joining import join
from web.api import abuse, keys, schemas
from web.api.guard import REPEATABLE, Guard, idempotency_key
from web.api.known import known_member


class LinkOut(BaseModel):
    member_id: str
    token: str
    url: str = Field(description="What the member sends to friends")
    qr_svg: str


class ReferralIn(schemas.Body):
    """A friend who came by a link: the shop found ``ref=…`` in its address."""

    token: schemas.Text
    member_id: schemas.Text = Field(description="The friend")
    source: schemas.Source = schemas.SOURCE
    client: abuse.ClientIn | None = None


class WordsOut(BaseModel):
    en: str
    zh: str


class ReferralOut(BaseModel):
    referral_id: int
    member_id: str
    state: Literal["joined", "ordered", "held", "rewarded", "rejected"]
    reason: str | None
    words: WordsOut | None = Field(description="The reason as the shop can show it")
    joined_at: datetime


def add_referrals(
    blueprint: APIBlueprint,
    guard: Guard,
    database: Database,
    settings: Settings,
    clock: Callable[[], datetime],
) -> None:
    """A member's link, and the friend who came by it."""

    @blueprint.get("/members/<path:external_id>/referral-link")
    @guard(blueprint, keys.READ)
    @blueprint.output(LinkOut)
    @blueprint.doc(summary="The link by which a member invites friends, and its QR code")
    def show_referral_link(external_id: str) -> dict[str, Any]:
        source = request.args.get("source", schemas.SOURCE)
        with database.read() as session:
            member_id = known_member(session, source, external_id)
        url = links.link_url(settings, member_id)
        return {
            "member_id": external_id,
            "token": links.token_of(member_id),
            "url": url,
            "qr_svg": links.qr_svg(url),
        }

    @blueprint.post("/referrals")
    @guard(blueprint, keys.LOYALTY)
    @blueprint.input(ReferralIn, arg_name="body")
    @blueprint.output(ReferralOut)
    @blueprint.doc(summary="A friend joins by a member's link", description=REPEATABLE)
    @abuse.watched(database, clock, REFERRAL)
    def join_as_friend(body: ReferralIn) -> dict[str, Any]:
        idempotency_key()  # a friend joins once whatever the key is; what watches counts by it
        with database.write() as session:
            friend_id = known_member(session, body.source, body.member_id)
            found = join(
                session,
                body.token,
                friend_id,
                clock(),
                client=abuse.client_of(body),
                decision=abuse.verdict().decision,
            )
        words = found.words
        return {
            "referral_id": found.referral_id,
            "member_id": body.member_id,
            "state": found.state,
            "reason": found.reason,
            "words": None if words is None else {"en": words[0], "zh": words[1]},
            "joined_at": found.joined_at,
        }
