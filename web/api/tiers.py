"""Endpoint of tiers: where a member stands, and what that gives."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from apiflask import APIBlueprint
from flask import request

from core.db import Database
from loyalty.tiers import review
from web.api import keys, schemas
from web.api import point_schemas as shapes
from web.api.guard import Guard
from web.api.known import known_member


def add_tiers(
    blueprint: APIBlueprint, guard: Guard, database: Database, clock: Callable[[], datetime]
) -> None:
    """Look at a member's tier."""

    @blueprint.get("/members/<path:external_id>/tier")
    @guard(blueprint, keys.READ)
    @blueprint.output(shapes.TierOut)
    @blueprint.doc(summary="A member's tier and its benefits")
    def show_tier(external_id: str) -> dict[str, Any]:
        source = request.args.get("source", schemas.SOURCE)
        with database.read() as session:
            member_id = known_member(session, source, external_id)
            found = review.membership(session, member_id, clock())
        return {"member_id": external_id, **vars(found)}
