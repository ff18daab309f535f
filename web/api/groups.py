"""Endpoints of group buying. Each request is one transaction, besides what watches over it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from typing import Any, Literal

from apiflask import APIBlueprint
from flask import request
from pydantic import BaseModel, Field

from core.db import Database
from core.settings import Settings
from loyalty.abuse.rules import GROUP
from loyalty.groups import groups
from web.api import abuse, keys, schemas
from web.api.guard import REPEATABLE, Guard, idempotency_key
from web.api.known import known_member

State = Literal["open", "unlocked", "failed"]


class OpenGroupIn(schemas.Body):
    offer: schemas.Text
    member_id: schemas.Text = Field(description="Who opens it and takes the first seat")
    source: schemas.Source = schemas.SOURCE
    client: abuse.ClientIn | None = None


class JoinGroupIn(schemas.Body):
    token: schemas.Text
    member_id: schemas.Text
    source: schemas.Source = schemas.SOURCE
    client: abuse.ClientIn | None = None


class SeatedOut(BaseModel):
    token: str
    url: str = Field(description="What the member sends to others")
    offer: str
    seats: int
    taken: int
    state: State
    deadline: datetime
    code: str | None = Field(description="The member's coupon, once the group is unlocked")


class GroupOut(BaseModel):
    token: str
    url: str
    offer: str
    title: str
    seats: int
    taken: int
    state: State
    deadline: datetime
    faces: list[str] = Field(description="Names, masked")
    join_url: str | None = Field(description="Where the member of ?member_id= joins without a log-in")


def page_url(settings: Settings, token: str) -> str:
    """The public page of a group."""
    return f"{settings.base_url}/g/{token}"


def add_groups(
    blueprint: APIBlueprint,
    guard: Guard,
    database: Database,
    settings: Settings,
    clock: Callable[[], datetime],
) -> None:
    """Open a group, join one, look at one."""

    def seated(found: groups.Seated) -> dict[str, Any]:
        deadline = datetime.fromisoformat(found.deadline)
        return {**asdict(found), "deadline": deadline, "url": page_url(settings, found.token)}

    @blueprint.post("/groups")
    @guard(blueprint, keys.LOYALTY)
    @blueprint.input(OpenGroupIn, arg_name="body")
    @blueprint.output(SeatedOut)
    @blueprint.doc(summary="Open a group", description=REPEATABLE)
    @abuse.watched(database, clock, GROUP)
    def open_group(body: OpenGroupIn) -> dict[str, Any]:
        key = idempotency_key()
        with database.write() as session:
            member_id = known_member(session, body.source, body.member_id)
            found = groups.open_group(session, body.offer, member_id, idempotency_key=key, now=clock())
        return seated(found)

    @blueprint.post("/groups/join")
    @guard(blueprint, keys.LOYALTY)
    @blueprint.input(JoinGroupIn, arg_name="body")
    @blueprint.output(SeatedOut)
    @blueprint.doc(summary="Take a seat in a group", description=REPEATABLE)
    @abuse.watched(database, clock, GROUP)
    def join_group(body: JoinGroupIn) -> dict[str, Any]:
        key = idempotency_key()
        with database.write() as session:
            member_id = known_member(session, body.source, body.member_id)
            found = groups.join(session, body.token, member_id, idempotency_key=key, now=clock())
        return seated(found)

    @blueprint.get("/groups/<token>")
    @guard(blueprint, keys.READ)
    @blueprint.output(GroupOut)
    @blueprint.doc(summary="How a group stands, and where a member joins it")
    def show_group(token: str) -> dict[str, Any]:
        external_id = request.args.get("member_id")
        join_url = None
        with database.read() as session:
            found = groups.look(session, token, clock())
            if external_id:
                source = request.args.get("source", schemas.SOURCE)
                member_id = known_member(session, source, external_id)
                signed = groups.member_token(found.group_id, member_id)
                join_url = f"{page_url(settings, token)}?m={signed}"
        shown = {name: getattr(found, name) for name in GroupOut.model_fields if hasattr(found, name)}
        return {**shown, "url": page_url(settings, token), "join_url": join_url}
