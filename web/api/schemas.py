"""What the HTTP API takes and gives. Money is in minor units of its currency, times ISO 8601."""

from __future__ import annotations

import json
from datetime import date, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from segments.evaluate import MAX_SAMPLE

MAX_ROWS = 1_000
MAX_CODES = 1_000
MAX_MINOR = 10**12
MAX_POINTS = 10**9
SOURCE = "shop"
"""The name under which the shop's own ids are kept, unless a request names another."""

Text = Annotated[str, Field(min_length=1, max_length=128)]
Source = Annotated[str, Field(min_length=1, max_length=40)]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
Basket = Annotated[int, Field(ge=0, le=MAX_MINOR, strict=True)]
Points = Annotated[int, Field(ge=1, le=MAX_POINTS, strict=True)]


class Body(BaseModel):
    """A request's body: unknown fields are refused, and so is what no database can keep."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _can_be_stored(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise ValueError("the body is a JSON object")
        try:
            text = json.dumps(data, allow_nan=False, ensure_ascii=False)
            text.encode()
        except (ValueError, RecursionError) as error:
            raise ValueError(
                "NaN, infinity, lone surrogates and very deep nesting cannot be stored"
            ) from error
        if "\\u0000" in text:
            raise ValueError("NUL characters cannot be stored")
        return data


class RowsIn(Body):
    """Rows with the columns of the same import; ``attributes`` and ``properties`` may be objects."""

    rows: list[dict[str, Any]] = Field(min_length=1, max_length=MAX_ROWS)
    source: Source = SOURCE

    @field_validator("rows")
    @classmethod
    def _open_columns_are_objects(cls, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for index, row in enumerate(rows):
            for name in ("attributes", "properties"):
                if not isinstance(row.get(name), dict | str | None) or (
                    name == "attributes" and isinstance(row.get(name), str)
                ):
                    raise ValueError(f"row {index}: {name} is an object")
        return rows


class ConsentIn(Body):
    """A member's answer for a channel and purpose."""

    channel: Literal["email", "sms", "wechat", "webhook", "wecom"]
    purpose: Literal["marketing", "transactional"] = "marketing"
    granted: bool = Field(strict=True, description="false withdraws")
    origin: Annotated[str, Field(min_length=1, max_length=60)] = Field(
        "api", description="Where the member answered, such as `checkout`; it is kept as proof"
    )
    source: Source = SOURCE


class ConsentOut(BaseModel):
    member_id: str
    channel: str
    purpose: str
    state: Literal["granted", "withdrawn", "pending"] = Field(
        description="pending: granted once the member has confirmed it in the e-mail sent"
    )
    at: datetime


class RejectOut(BaseModel):
    index: int = Field(description="Place of the row in the request, from 0")
    reason: str


class WatchedOut(BaseModel):
    index: int
    decision: Literal["hold", "block"]


class ReportOut(BaseModel):
    rows: int
    inserted: int
    updated: int
    unchanged: int
    rejected: list[RejectOut]
    watched: list[WatchedOut] = Field(
        default_factory=list,
        description="Sign-ups that break a rule against abuse; they are loaded all the same",
    )


class IssueIn(Body):
    """Codes for members, or ``count`` codes for anybody."""

    batch: Annotated[str, Field(min_length=1, max_length=80)]
    member_ids: list[Text] | None = Field(None, min_length=1, max_length=MAX_CODES)
    count: int | None = Field(None, ge=1, le=MAX_CODES, strict=True)
    source: Source = SOURCE

    @model_validator(mode="after")
    def _one_of_both(self) -> IssueIn:
        if (self.member_ids is None) == (self.count is None):
            raise ValueError("give either member_ids or count")
        return self


class IssuedOut(BaseModel):
    member_id: str | None
    code: str | None
    reason: str | None = Field(description="total_limit or per_member_limit, where there is no code")


class IssuesOut(BaseModel):
    batch: str
    coupons: list[IssuedOut]


class CouponOut(BaseModel):
    code: str
    batch: str
    title: str
    benefit: dict[str, Any]
    currency: str
    min_spend_minor: int
    state: str
    valid_from: datetime | None
    valid_until: datetime | None
    member_id: str | None


class RuleIn(Body):
    """A rule, as the builder shows it under “The same rule as JSON”."""

    rule: Any
    sample: int = Field(20, ge=0, le=MAX_SAMPLE, strict=True, description="How many members to name")
    as_of: date | None = Field(None, description="Where it is left out, today counts too")


class RuleCountOut(BaseModel):
    count: int
    total: int = Field(description="Members who were there as of the date")
    share: float
    sample: list[str] = Field(description="Ids of the shop")


class ErrorDetail(BaseModel):
    code: str
    message: str
    field: str | None


class ErrorOut(BaseModel):
    error: ErrorDetail
