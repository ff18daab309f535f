"""Endpoints of experiments on the shop's own pages: make, start, look at, ask for arms, read out.

Each POST may be repeated without a key: a name is taken once, a change is to a stated value, and the first
exposure of a unit stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from apiflask import APIBlueprint
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from campaigns.plan import control
from core.db import Database, among
from core.models import Member
from core.settings import Settings
from experiments import control as programme
from experiments import experiments
from experiments.experiments import MAX_UNITS, Given
from experiments.models import Experiment
from web.api import keys, schemas
from web.api.experiment_results import add_results
from web.api.guard import Guard

ACTOR = "api"
Name = Annotated[str, Field(min_length=1, max_length=80)]
Share = Annotated[float, Field(ge=0, le=1)]


class ArmIn(schemas.Body):
    name: Annotated[str, Field(min_length=1, max_length=40)]
    weight: Share


class LayerIn(schemas.Body):
    name: Name
    low: Share
    high: Share


class ExperimentIn(schemas.Body):
    name: Name
    arms: list[ArmIn] = Field(min_length=2, max_length=20, description="The weights sum to 1")
    control: str = Field(description="The arm that the others are compared with")
    unit: Literal["member", "visitor"] = "member"
    seed: Name | None = Field(None, description="Drawn where it is left out")
    hash_version: Literal[1, 2] = 2
    coverage: Share = 1.0
    layer: LayerIn | None = Field(
        None, description="Experiments in parts of one layer that do not overlap exclude each other"
    )
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    about: str | None = Field(None, max_length=experiments.MAX_ABOUT, description="What is tried and why")
    allocation: Literal["fixed", "bandit"] = Field(
        "fixed", description="bandit: once a week the weights follow what the arms bring; units are members"
    )
    goal: Literal["revenue", "converted"] | None = Field(None, description="Of a bandit")
    floor: Share | None = Field(None, description="Of a bandit: the least weight of an arm")
    window_days: Annotated[int, Field(ge=1, le=730)] | None = Field(
        None, description="Of a bandit: the days of each member that count"
    )


class ChangeIn(schemas.Body):
    status: Literal["draft", "running", "stopped"] | None = None
    coverage: Share | None = Field(None, description="May only rise while the experiment runs")
    ends_at: datetime | None = None


class ArmOut(BaseModel):
    name: str
    weight: float
    range: list[float] = Field(description="The arm has the units whose bucket is in [low, high)")


class LayerOut(BaseModel):
    name: str
    low: float
    high: float


class ExperimentOut(BaseModel):
    name: str
    unit: str
    status: str
    open: bool = Field(description="Whether units get arms now")
    version: int
    seed: str
    hash_version: int
    coverage: float
    allocation: str = Field(description="The arms of a bandit are known to the server alone: ask `assign`")
    control: str
    arms: list[ArmOut]
    layer: LayerOut | None
    starts_at: datetime | None
    ends_at: datetime | None


class AssignIn(schemas.Body):
    units: list[schemas.Text] = Field(min_length=1, max_length=MAX_UNITS, description="Ids of the shop's own")
    source: schemas.Source = schemas.SOURCE
    log: bool = Field(True, description="false: only look; nothing is written")


class GivenOut(BaseModel):
    unit: str
    arm: str | None
    bucket: float
    in_experiment: bool
    why: str


class AssignOut(BaseModel):
    experiment: str
    version: int
    units: list[GivenOut]
    logged: int = Field(description="Exposures that were new")


def add_experiments(
    blueprint: APIBlueprint,
    guard: Guard,
    database: Database,
    settings: Settings,
    clock: Callable[[], datetime],
) -> None:
    """Make, change, look at an experiment; ask for arms; read it out."""
    _add_making(blueprint, guard, database, clock)
    _add_assigning(blueprint, guard, database, clock)
    add_results(blueprint, guard, database, settings, clock)


def _add_making(
    blueprint: APIBlueprint, guard: Guard, database: Database, clock: Callable[[], datetime]
) -> None:
    @blueprint.post("/experiments")
    @guard(blueprint, keys.EXPERIMENTS)
    @blueprint.input(ExperimentIn, arg_name="body")
    @blueprint.output(ExperimentOut)
    @blueprint.doc(
        summary="Make an experiment, as a draft",
        description="The same name with the same content answers what is there; with another content, 409.",
    )
    def make_experiment(body: ExperimentIn) -> dict[str, Any]:
        layer = experiments.Layer(**body.layer.model_dump()) if body.layer else None
        fields = body.model_dump(exclude={"arms", "layer"})
        arms = tuple((arm.name, arm.weight) for arm in body.arms)
        now = clock()
        with database.write() as session:
            new = experiments.NewExperiment(**fields, arms=arms, layer=layer)
            return experiments.to_json(experiments.create(session, new, now, by=ACTOR), now)

    @blueprint.post("/experiments/<name>")
    @guard(blueprint, keys.EXPERIMENTS)
    @blueprint.input(ChangeIn, arg_name="body")
    @blueprint.output(ExperimentOut)
    @blueprint.doc(summary="Start, ramp up, end or stop an experiment")
    def change_experiment(name: str, body: ChangeIn) -> dict[str, Any]:
        with database.write() as session:
            row = experiments.change(session, name, **body.model_dump(), by=ACTOR, now=clock())
            return experiments.to_json(row, clock())

    @blueprint.get("/experiments/<name>")
    @guard(blueprint, keys.READ)
    @blueprint.output(ExperimentOut)
    @blueprint.doc(summary="What a page needs to compute arms itself")
    def show_experiment(name: str) -> dict[str, Any]:
        with database.read() as session:
            return experiments.to_json(experiments.by_name(session, name), clock())


def _add_assigning(
    blueprint: APIBlueprint, guard: Guard, database: Database, clock: Callable[[], datetime]
) -> None:
    @blueprint.post("/experiments/<name>/assign")
    @guard(blueprint, keys.EXPERIMENTS)
    @blueprint.input(AssignIn, arg_name="body")
    @blueprint.output(AssignOut)
    @blueprint.doc(
        summary="The arms of units, and note that they see them",
        description=f"1 to {MAX_UNITS} units, answered in their order. The first time that a unit gets its "
        "arm is noted, so ask when the page shows it. Show a unit without an arm what the control is shown.",
    )
    def assign_units(name: str, body: AssignIn) -> dict[str, Any]:
        now = clock()
        with database.read() as session:
            row = experiments.by_name(session, name)
            members, given = answer(session, row, body.units, body.source, now)
            fresh = experiments.unseen(session, row, given, members) if body.log else []
        logged = 0
        if fresh:
            with database.write() as session:
                logged = experiments.log_exposures(session, row, fresh, members, now)
                # Two askers of a bandit may draw by different weights: the one stored first counts for both.
                given = experiments.keep_stored(session, row, given, members)
        units = [asdict(one) for one in given]
        return {"experiment": name, "version": row.version, "units": units, "logged": logged}


def answer(
    session: Session, row: Experiment, units: list[str], source: str, now: datetime
) -> tuple[dict[str, int], list[Given]]:
    """(ids of the units that are members, what each unit gets), in the order of ``units``."""
    members: dict[str, int] = {}
    left_out = None
    if row.unit == experiments.MEMBER:
        query = sa.select(Member.external_id, Member.id).where(
            Member.source == source,
            Member.erased_at.is_(None),
            among(session, Member.external_id, units),
        )
        members = {external_id: member_id for external_id, member_id in session.execute(query)}  # noqa: C416
        left_out, _ = programme.groups(units, *control(session, now))
    given = experiments.give(experiments.split_of(row), units, left_out)
    if (why := experiments.closed(row, now)) is not None:
        return members, [experiments.without(one, why) for one in given]
    if row.unit == experiments.MEMBER:
        unknown = experiments.UNKNOWN
        given = [one if one.unit in members else experiments.without(one, unknown) for one in given]
        given = experiments.keep_stored(session, row, given, members)
    return members, given
