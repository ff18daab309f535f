"""What the endpoints of coupons take and give. Money is in minor units of its currency."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field, model_validator

from loyalty.coupon_holds import DEFAULT_MINUTES, MAX_MINUTES
from web.api.abuse import ClientIn
from web.api.schemas import MAX_MINOR, SOURCE, Basket, Body, CouponOut, Currency, Source, Text

HoldId = Annotated[int, Field(ge=1, lt=2**63, strict=True)]
Batch = Annotated[str, Field(min_length=1, max_length=80)]


class HoldIn(Body):
    """A code kept for an order until it is paid."""

    code: Text
    order_id: Text
    basket_minor: Basket
    currency: Currency | None = Field(None, description="The shop's currency where it is left out")
    member_id: Text | None = None
    minutes: int = Field(DEFAULT_MINUTES, ge=1, le=MAX_MINUTES, strict=True)
    client: ClientIn | None = None


class HeldOut(BaseModel):
    hold_id: int
    code: str
    batch: str
    order_id: str
    basket_minor: int
    discount_minor: int = Field(description="At most this is taken when the hold is redeemed")
    currency: str
    state: str = Field(description="held, released or expired")
    expires_at: datetime


class ReleaseIn(Body):
    hold_id: HoldId


class RedeemIn(Body):
    """A use of a code: by the code, by its hold, or by batch and member (the code that ends first)."""

    code: Text | None = None
    hold_id: HoldId | None = None
    batch: Batch | None = Field(None, description="With `member_id`, instead of a code")
    order_id: Text
    basket_minor: Basket
    currency: Currency | None = Field(None, description="The shop's currency where it is left out")
    member_id: Text | None = None
    source: Source = SOURCE
    client: ClientIn | None = None

    @model_validator(mode="after")
    def _one_of_three(self) -> RedeemIn:
        if sum(given is not None for given in (self.code, self.hold_id, self.batch)) != 1:
            raise ValueError("give one of code, hold_id, and batch with member_id")
        if self.batch is not None and self.member_id is None:
            raise ValueError("a batch needs the member_id whose code of it is used")
        return self


class RollbackIn(Body):
    code: Text
    order_id: Text
    amount_minor: Annotated[int, Field(ge=1, le=MAX_MINOR, strict=True)] | None = Field(
        None, description="What of the basket came back; all that is left where it is left out"
    )


class RedeemedOut(BaseModel):
    redemption_id: int
    code: str
    batch: str
    order_id: str
    basket_minor: int
    discount_minor: int
    currency: str
    redeemed_at: datetime
    rolled_back_at: datetime | None = Field(description="When the whole had come back")
    returned_basket_minor: int = Field(description="What of the basket has come back so far")
    returned_discount_minor: int = Field(description="What of the discount has come back with it")


class ClaimIn(Body):
    link: Text = Field(description="The last part of the link's address")
    member_id: Text
    source: Source = SOURCE
    client: ClientIn | None = None


class ClaimedOut(BaseModel):
    member_id: str
    batch: str
    code: str
    again: bool = Field(description="Whether the member had the code of this link before")


class TransferIn(Body):
    code: Text
    from_member_id: Text
    to_member_id: Text
    source: Source = SOURCE


class TransferredOut(BaseModel):
    code: str
    batch: str
    from_member_id: str
    to_member_id: str


class MemberCouponsOut(BaseModel):
    member_id: str
    coupons: list[CouponOut]
