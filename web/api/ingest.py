"""Endpoints that take the shop's data in: members, products, orders, events; sign-ups are watched."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from apiflask import APIBlueprint

from channels import optin
from core import imports
from core.db import Database
from core.settings import Settings
from web.api import keys, schemas, sign_ups
from web.api.guard import Guard

KINDS = ("members", "products", "orders", "events")


def add_imports(
    blueprint: APIBlueprint,
    guard: Guard,
    database: Database,
    settings: Settings,
    clock: Callable[[], datetime],
) -> None:
    def add(kind: str) -> None:
        @blueprint.post(f"/{kind}", endpoint=f"import_{kind}")
        @guard(blueprint, keys.INGEST)
        @blueprint.input(schemas.RowsIn, arg_name="body")
        @blueprint.output(schemas.ReportOut)
        @blueprint.doc(
            summary=f"Import {kind}",
            description=f"At most {schemas.MAX_ROWS} rows, with the columns of `huiliu import {kind}`. "
            "Rows that break a rule are answered with their reason; the others load. "
            "The same rows again change nothing." + sign_ups.DESCRIPTIONS.get(kind, ""),
        )
        def view(body: schemas.RowsIn) -> dict[str, Any]:
            rejected: list[dict[str, Any]] = []
            with database.read() as session:
                signing_up, unreadable = sign_ups.of_rows(session, kind, body.rows, body.source)
            # An empty row is refused too, so the others keep their numbers; the reason is the client's.
            rows = [{} if index in unreadable else row for index, row in enumerate(body.rows)]
            report = imports.load_rows(
                database,
                kind,
                imports.numbered(rows),
                settings=settings,
                source=body.source,
                now=clock(),
                consents=optin.importer(settings),
                on_reject=lambda found: rejected.append(
                    {"index": found.line - 1, "reason": unreadable.get(found.line - 1, found.reason)}
                ),
            )
            refused = {int(found["index"]) for found in rejected}
            found = [one for one in signing_up if one.index not in refused]
            return {
                "watched": sign_ups.observe(database, found, body.source, clock()),
                "rows": report.rows,
                "inserted": report.inserted,
                "updated": report.updated,
                "unchanged": report.unchanged,
                "rejected": sorted(rejected, key=lambda found: int(found["index"])),
            }

    for kind in KINDS:
        add(kind)
