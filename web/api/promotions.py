"""Endpoints of promotions: what baskets cost after them, and what orders take of limited ones.

Evaluating writes nothing, so it needs no Idempotency-Key.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal

from apiflask import APIBlueprint
from pydantic import BaseModel, ConfigDict, Field, model_validator

from core.db import Database
from core.errors import InvalidInput
from core.settings import Settings
from loyalty.promotions import takes
from loyalty.promotions.fields import fail
from loyalty.promotions.parse import Request, read_request
from loyalty.promotions.prices import price_all
from web.api import keys, schemas
from web.api.guard import REPEATABLE, Guard, idempotency_key
from web.api.known import known_member

MAX_BASKETS = 100
BASKETS = "baskets"


class BasketIn(schemas.Body):
    """A basket; or ``baskets``, up to 100 of them. What is inside is checked in one place for the
    command line too: an error's field is the path of the value, such as ``lines[0].unit_price``."""

    model_config = ConfigDict(extra="allow")

    currency: Any = Field(None, description="Such as CNY")
    at: Any = Field(None, description="Priced as of this time, with its offset; now where it is left out")
    member: Any = Field(None, description="{id, tier, orders_placed, segments, birthday}")
    lines: Any = Field(
        None, description="[{id, sku, category, unit_price, quantity, floor_price}], up to 1,000"
    )
    shipping: Any = None
    codes: Any = Field(None, description="Codes that the customer typed")
    promotions: Any = Field(None, description="The shop's stored ones where they are left out")
    baskets: Any = Field(None, description="Several baskets, each as above; nothing else beside it")

    @model_validator(mode="before")
    @classmethod
    def _can_be_stored(cls, data: Any) -> Any:
        """Nothing of a basket is stored, and NaN and NUL are refused with their path where they are read."""
        if not isinstance(data, dict):
            raise ValueError("the body is a JSON object")
        return data


class Adjustment(BaseModel):
    promotion: str
    amount: int


class LineOut(BaseModel):
    id: str
    subtotal: int
    discount: int
    total: int
    adjustments: list[Adjustment]


class GiftOut(BaseModel):
    promotion: str
    sku: str
    quantity: int


class RejectedOut(BaseModel):
    promotion: str
    reason: str
    detail: str
    detail_zh: str


class BasketOut(BaseModel):
    """A priced basket, money in minor units."""

    lines: list[LineOut]
    subtotal: int
    discount: int
    shipping: int
    shipping_discount: int
    total: int = Field(description="To pay, shipping included; never negative")
    gifts: list[GiftOut]
    points: int = Field(description="On top of what the order earns by itself")
    applied: list[Adjustment]
    rejected: list[RejectedOut]


class WantedIn(schemas.Body):
    promotion: schemas.Text = Field(description="Its name")
    n: Annotated[int, Field(ge=1, le=takes.MAX_TAKE, strict=True)] = 1


class TakeIn(schemas.Body):
    promotions: list[WantedIn] = Field(min_length=1, max_length=takes.MAX_AT_ONCE)
    member_id: schemas.Text | None = Field(None, description="Needed where a promotion has a limit a member")
    source: schemas.Source = schemas.SOURCE
    minutes: Annotated[int, Field(ge=1, le=takes.MAX_MINUTES, strict=True)] = takes.DEFAULT_MINUTES


class TakenIn(schemas.Body):
    take: schemas.Text = Field(description="The Idempotency-Key of the request that took it")


class WantedOut(BaseModel):
    promotion: str
    n: int


class TakenOut(BaseModel):
    take: str = Field(description="Confirm or release it with this")
    state: Literal["held", "confirmed", "released", "expired"]
    expires_at: datetime | None = Field(description="Until when it is held")
    promotions: list[WantedOut]


def _told(found: takes.Taken) -> dict[str, Any]:
    promotions = [{"promotion": name, "n": n} for name, n in found.promotions]
    return {
        "take": found.key,
        "state": found.state,
        "expires_at": found.expires_at,
        "promotions": promotions,
    }


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """The schema without references: an OpenAPI document has no ``$defs`` to look them up in."""
    if isinstance(schema, list):
        return [_inlined(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {key: _inlined(value, definitions) for key, value in schema.items() if key != "$defs"}


def _schema() -> dict[str, Any]:
    schema = BasketOut.model_json_schema()
    found: dict[str, Any] = _inlined(schema, schema["$defs"])
    return found


_RESPONSES: Any = {200: {"description": "Priced", "content": {"application/json": {"schema": _schema()}}}}


def add_promotions(
    blueprint: APIBlueprint,
    guard: Guard,
    database: Database,
    settings: Settings,
    clock: Callable[[], datetime],
) -> None:
    """Evaluate promotions on one basket or many; and what orders take of them."""
    add_promotion_takes(blueprint, guard, database, settings, clock)

    @blueprint.post("/promotions/evaluate")
    @guard(blueprint, keys.READ)
    @blueprint.input(BasketIn, arg_name="body")
    @blueprint.doc(
        summary="Price baskets with promotions",
        description=f"One basket, answered as shown; or `baskets`, up to {MAX_BASKETS}, answered as "
        '`{"results": […]}` in their order. A mistake in any of them is answered with 422 and its path, and '
        "none is priced. Nothing is written: repeat it as you like.",
        responses=_RESPONSES,
    )
    def evaluate_promotions(body: BasketIn) -> dict[str, Any]:
        sent, now = body.model_dump(exclude_unset=True), clock()
        requests = _baskets(sent, now) if BASKETS in sent else [read_request(sent, now)]
        with database.read() as session:
            found = price_all(session, requests, settings.zone, now)
        return {"results": found} if BASKETS in sent else found[0]


def add_promotion_takes(
    blueprint: APIBlueprint,
    guard: Guard,
    database: Database,
    settings: Settings,
    clock: Callable[[], datetime],
) -> None:
    """Take limited promotions for an order, then confirm or release them."""

    @blueprint.post("/promotions/take")
    @guard(blueprint, keys.LOYALTY)
    @blueprint.input(TakeIn, arg_name="body")
    @blueprint.output(TakenOut)
    @blueprint.doc(
        summary="Take promotions for an order: all of them, or none",
        description=f"They are held for `minutes`; confirm them when the order is paid. {REPEATABLE}",
    )
    def take_promotions(body: TakeIn) -> dict[str, Any]:
        key = idempotency_key()
        wanted = [(one.promotion, one.n) for one in body.promotions]
        with database.write() as session:
            member_id = None if body.member_id is None else known_member(session, body.source, body.member_id)
            found = takes.take_all(
                session, wanted, key, clock(), member_id, zone=settings.zone, minutes=body.minutes
            )
        return _told(found)

    @blueprint.post("/promotions/confirm")
    @guard(blueprint, keys.LOYALTY)
    @blueprint.input(TakenIn, arg_name="body")
    @blueprint.output(TakenOut)
    @blueprint.doc(summary="Make what was taken the order's for good", description=REPEATABLE)
    def confirm_promotions(body: TakenIn) -> dict[str, Any]:
        key = idempotency_key()
        with database.write() as session:
            return _told(takes.confirm_requested(session, body.take, idempotency_key=key, now=clock()))

    @blueprint.post("/promotions/release")
    @guard(blueprint, keys.LOYALTY)
    @blueprint.input(TakenIn, arg_name="body")
    @blueprint.output(TakenOut)
    @blueprint.doc(summary="Give back what was taken", description=REPEATABLE)
    def release_promotions(body: TakenIn) -> dict[str, Any]:
        key = idempotency_key()
        with database.write() as session:
            return _told(takes.release_requested(session, body.take, idempotency_key=key, now=clock()))


def _baskets(sent: dict[str, Any], now: datetime) -> list[Request]:
    baskets = sent[BASKETS]
    beside = sorted(set(sent) - {BASKETS})
    if beside:
        raise InvalidInput(f"{beside[0]}: beside baskets there is nothing else.", beside[0])
    if not isinstance(baskets, list) or not 1 <= len(baskets) <= MAX_BASKETS:
        raise fail(BASKETS, f"a list of 1 to {MAX_BASKETS} baskets is needed.")
    return [read_request(basket, now, f"{BASKETS}[{number}]") for number, basket in enumerate(baskets)]
