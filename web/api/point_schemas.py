"""What the endpoints of points and tiers take and give."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field

from web.api.schemas import MAX_MINOR, MAX_POINTS, SOURCE, Body, Points, Source, Text

MAX_LINES = 1_000


class EarnIn(Body):
    member_id: Text
    points: Points
    source: Source = SOURCE


class HoldIn(Body):
    member_id: Text
    points: Points
    order_id: Text = Field(description="What the points are for; a burn of the hold spends them on it")
    minutes: int = Field(30, ge=1, le=1440, strict=True, description="When the hold ends by itself")
    source: Source = SOURCE


class BurnIn(Body):
    member_id: Text
    points: Points | None = Field(None, description="With a hold: all that is held where it is left out")
    order_id: Text | None = Field(None, description="What the points are burnt on; one burn each")
    hold_id: int | None = Field(
        None, ge=1, lt=2**63, strict=True, description="Burns out of this hold, and releases the rest"
    )
    source: Source = SOURCE


class ReleaseIn(Body):
    member_id: Text
    hold_id: int = Field(ge=1, lt=2**63, strict=True)
    source: Source = SOURCE


class RefundIn(Body):
    member_id: Text
    order_id: Text
    points: Points | None = Field(None, description="All that is left of the burn where it is left out")
    source: Source = SOURCE


class PointsOut(BaseModel):
    member_id: str
    points: int
    available: int


class HeldOut(BaseModel):
    member_id: str
    hold_id: int
    points: int
    expires_at: datetime
    available: int


class BalanceOut(BaseModel):
    member_id: str
    available: int
    pending: int
    held: int
    debt: int
    next_expiry: datetime | None


class AdjustIn(Body):
    member_id: Text
    points: int = Field(ge=-MAX_POINTS, le=MAX_POINTS, strict=True, description="Below 0: taken")
    reason: Annotated[str, Field(min_length=1, max_length=300)]
    allow_debt: bool = Field(
        False, strict=True, description="Whether what the member has not becomes a debt; refused otherwise"
    )
    source: Source = SOURCE


class AdjustedOut(BaseModel):
    member_id: str
    adjustment_id: int
    points: int
    state: str = Field(description="done, or pending where a second person has to approve it in the console")
    available: int


class TransferIn(Body):
    member_id: Text = Field(description="Who gives")
    to_member_id: Text
    points: Points
    source: Source = SOURCE


class TransferredOut(BaseModel):
    member_id: str
    to_member_id: str
    points: int
    available: int = Field(description="Of the member who gave")


class QuoteLineIn(Body):
    id: Text
    amount: int = Field(ge=0, le=MAX_MINOR, strict=True, description="To pay for the line, in minor units")


class QuoteIn(Body):
    """What points are worth on these lines; nothing is written."""

    points: Points
    lines: list[QuoteLineIn] = Field(min_length=1, max_length=MAX_LINES)
    member_id: Text | None = Field(None, description="Where it is named, the answer says whether it has them")
    source: Source = SOURCE


class QuotedLine(BaseModel):
    id: str
    amount: int
    discount: int
    total: int


class QuoteOut(BaseModel):
    points: int = Field(description="Needed: fewer than asked for where the lines cost less")
    discount: int
    total: int
    lines: list[QuotedLine]
    enough: bool | None = Field(description="Whether the member can burn them now; null without a member")


class TierOut(BaseModel):
    member_id: str
    tier: str | None
    title: str | None
    since: datetime | None
    until: datetime | None = Field(description="The review; no downgrade before it")
    value: int
    next_tier: str | None
    to_next: int | None = Field(description="Points, minor units or orders missing to the next tier")
    benefits: dict[str, object]
