"""Endpoint of the wallet: a member's own link, for the shop's member area."""

from __future__ import annotations

from typing import Any

from apiflask import APIBlueprint
from flask import request
from pydantic import BaseModel, Field

from channels import tracking
from core.db import Database
from core.settings import Settings
from web.api import keys, schemas
from web.api.guard import Guard
from web.api.known import known_member


class WalletLinkOut(BaseModel):
    member_id: str
    url: str = Field(description="Opens the member's wallet: show it to the member alone")


def add_wallet(blueprint: APIBlueprint, guard: Guard, database: Database, settings: Settings) -> None:
    """Hand out the link of a member who was not erased."""

    @blueprint.get("/members/<path:external_id>/wallet-link")
    @guard(blueprint, keys.LOYALTY)
    @blueprint.output(WalletLinkOut)
    @blueprint.doc(summary="The link that opens a member's wallet")
    def show_wallet_link(external_id: str) -> dict[str, Any]:
        source = request.args.get("source", schemas.SOURCE)
        with database.read() as session:
            member_id = known_member(session, source, external_id)
        return {"member_id": external_id, "url": tracking.wallet_url(settings.base_url, member_id)}
