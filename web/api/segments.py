"""Endpoints of segments: how many members a rule matches, before anybody saves it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from apiflask import APIBlueprint

from core.db import Database
from core.settings import Settings
from core.warehouse.engine import DuckEngine
from segments.evaluate import evaluator
from segments.facts import open_engine
from web.api import keys, schemas
from web.api.guard import Guard


def add_segments(
    blueprint: APIBlueprint,
    guard: Guard,
    database: Database,
    settings: Settings,
    clock: Callable[[], datetime],
) -> None:
    """Count a rule. It reads the replica as the last refresh or sync left it, and writes nothing."""

    @lru_cache(maxsize=1)
    def engine() -> DuckEngine:
        return open_engine(settings)

    @blueprint.post("/segments/count")
    @guard(blueprint, keys.READ)
    @blueprint.input(schemas.RuleIn, arg_name="body")
    @blueprint.output(schemas.RuleCountOut)
    @blueprint.doc(
        summary="Count the members that a rule matches",
        description="The rule is not saved. A rule with a mistake is answered with 422 and, as `field`, the "
        "path of the condition that is wrong, for example `all[1].value`.",
    )
    def count_rule(body: schemas.RuleIn) -> dict[str, Any]:
        as_of = body.as_of or clock().astimezone(settings.zone).date() + timedelta(days=1)
        with database.read() as session:
            asked = evaluator(session, engine(), settings, as_of)
        return asked.count(body.rule, body.sample).to_json()
