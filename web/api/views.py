"""The HTTP API under /api/v1: data in, coupons, points, promotions, counts of segments, arms.

Guarantees: nothing is answered without a key that has the endpoint's scope; every POST can be repeated
safely: imports by the ids of their rows, everything else by its Idempotency-Key.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import cast

from apiflask import APIBlueprint, APIFlask
from flask import request
from flask.sansio.blueprints import BlueprintSetupState

from core.db import Database
from core.settings import Settings
from web.api import errors
from web.api.consents import add_consents
from web.api.coupons import add_coupon_use, add_coupons
from web.api.experiments import add_experiments
from web.api.groups import add_groups
from web.api.guard import Guard, describe_keys
from web.api.ingest import add_imports
from web.api.points import add_points
from web.api.promotions import add_promotions
from web.api.referrals import add_referrals
from web.api.segments import add_segments
from web.api.tiers import add_tiers
from web.api.wallet import add_wallet

MAX_BODY_BYTES = 2 * 1024 * 1024


def _utc_now() -> datetime:
    return datetime.now(UTC)


def create_blueprint(
    database: Database, settings: Settings, *, clock: Callable[[], datetime] = _utc_now
) -> APIBlueprint:
    """The API over ``database``; ``clock`` gives the time of everything it writes."""
    blueprint = APIBlueprint("api", __name__, url_prefix="/api/v1", tag="API")
    errors.register(blueprint)
    blueprint.before_request(_limit_body)

    @blueprint.record_once
    def _describe(state: BlueprintSetupState) -> None:
        cast(APIFlask, state.app).spec_processor(describe_keys)

    guard = Guard(database, settings, clock)
    add_imports(blueprint, guard, database, settings, clock)
    add_consents(blueprint, guard, database, settings, clock)
    add_coupons(blueprint, guard, database, clock)
    add_coupon_use(blueprint, guard, database, settings, clock)
    add_points(blueprint, guard, database, clock)
    add_tiers(blueprint, guard, database, clock)
    add_promotions(blueprint, guard, database, settings, clock)
    add_segments(blueprint, guard, database, settings, clock)
    add_referrals(blueprint, guard, database, settings, clock)
    add_groups(blueprint, guard, database, settings, clock)
    add_wallet(blueprint, guard, database, settings)
    add_experiments(blueprint, guard, database, settings, clock)
    return blueprint


def _limit_body() -> None:
    request.max_content_length = MAX_BODY_BYTES
