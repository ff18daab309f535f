"""Endpoint of consents: a member agrees or withdraws at the checkout, in a form, at the counter."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from apiflask import APIBlueprint

from channels import optin
from core import members
from core.db import Database
from core.errors import NotFound
from core.imports import ConsentChange
from core.settings import Settings
from loyalty import requests
from web.api import keys, schemas
from web.api.guard import REPEATABLE, Guard, idempotency_key


def add_consents(
    blueprint: APIBlueprint,
    guard: Guard,
    database: Database,
    settings: Settings,
    clock: Callable[[], datetime],
) -> None:
    """Grant and withdraw. Each request is one transaction."""

    @blueprint.post("/members/<path:external_id>/consents")
    @guard(blueprint, keys.INGEST)
    @blueprint.input(schemas.ConsentIn, arg_name="body")
    @blueprint.output(schemas.ConsentOut)
    @blueprint.doc(
        summary="Record a member's answer for a channel",
        description="The newest answer counts. Where the shop asks for a confirmation of e-mail consents, "
        f"the state is `pending` until the member clicks in the e-mail that is sent. {REPEATABLE}",
    )
    def change_consent(external_id: str, body: schemas.ConsentIn) -> dict[str, Any]:
        key, now = idempotency_key(), clock()
        asked = {"do": "consent", "member": external_id, **body.model_dump()}
        with database.write() as session:
            before = requests.claim(session, key, asked, now)
            if before is not None:
                return before
            member = members.by_external_id(session, external_id, body.source)
            if member.erased_at is not None:
                raise NotFound(f"There is no member “{external_id}”.")
            wanted = ConsentChange(member.id, body.channel, body.purpose, body.granted, body.origin, now)
            answer = {
                "member_id": external_id,
                "channel": body.channel,
                "purpose": body.purpose,
                "state": optin.change(session, settings, wanted),
                "at": now.isoformat(),
            }
            requests.remember(session, key, answer)
        return answer
