"""What an evaluation works on and answers: frozen, integers in minor units, percentages in basis points.

Nothing here is checked: :mod:`loyalty.promotions.parse` makes these of JSON and refuses what is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal

FULL = 10_000
"""Basis points of 100 %."""


@dataclass(frozen=True, slots=True)
class Line:
    """``quantity`` units of one price. No unit is sold below ``floor_price`` by a promotion."""

    id: str
    sku: str
    category: str | None
    unit_price: int
    quantity: int
    floor_price: int = 0

    @property
    def subtotal(self) -> int:
        return self.unit_price * self.quantity


@dataclass(frozen=True, slots=True)
class Shopper:
    """What conditions may ask of the buyer."""

    id: str | None = None
    tier: str | None = None
    orders_placed: int | None = None
    segments: frozenset[str] = frozenset()
    birthday: tuple[int, int] | None = None
    """Month and day."""


@dataclass(frozen=True, slots=True)
class Basket:
    """``member`` None: nobody known. ``points_per_unit``: what a major unit earns (None: the shop's rule)."""

    currency: str
    at: datetime
    lines: tuple[Line, ...]
    shipping: int = 0
    codes: frozenset[str] = frozenset()
    member: Shopper | None = None
    points_per_unit: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Scope:
    """Lines whose sku or category is listed (nothing listed: all), without those excluded."""

    skus: frozenset[str] = frozenset()
    categories: frozenset[str] = frozenset()
    exclude_skus: frozenset[str] = frozenset()
    exclude_categories: frozenset[str] = frozenset()

    def covers(self, line: Line) -> bool:
        if line.sku in self.exclude_skus or line.category in self.exclude_categories:
            return False
        listed = self.skus or self.categories
        return not listed or line.sku in self.skus or line.category in self.categories


EVERYTHING = Scope()


@dataclass(frozen=True, slots=True)
class Condition:
    """``number`` is the amount, quantity, order, day or days that its type asks for."""

    type: str
    number: int = 0
    scope: Scope = EVERYTHING
    values: frozenset[str] = frozenset()
    parts: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class Percent:
    points: int
    """Basis points: 1250 is 12.5 %."""
    scope: Scope = EVERYTHING
    max_amount: int | None = None
    by_line: bool = False


@dataclass(frozen=True, slots=True)
class Fixed:
    amount: int
    scope: Scope = EVERYTHING


@dataclass(frozen=True, slots=True)
class FixedEach:
    amount: int
    scope: Scope = EVERYTHING
    max_units: int | None = None


@dataclass(frozen=True, slots=True)
class FixedPrice:
    count: int
    price: int
    scope: Scope = EVERYTHING
    max_times: int | None = None


@dataclass(frozen=True, slots=True)
class BuyXGetY:
    buy: int
    get: int
    points: int = FULL
    scope: Scope = EVERYTHING
    max_times: int | None = None


@dataclass(frozen=True, slots=True)
class Tier:
    """Reached from ``start`` on. Either ``off`` (minor units) or ``points`` (basis points)."""

    start: int
    off: int | None = None
    points: int | None = None


@dataclass(frozen=True, slots=True)
class Tiered:
    """``tiers`` ascend. ``repeat``: the highest tier reached counts once for each time it is reached."""

    by: Literal["amount", "quantity"]
    tiers: tuple[Tier, ...]
    scope: Scope = EVERYTHING
    repeat: bool = False


@dataclass(frozen=True, slots=True)
class FreeShipping:
    pass


@dataclass(frozen=True, slots=True)
class Gift:
    sku: str
    quantity: int


@dataclass(frozen=True, slots=True)
class Points:
    """``amount`` points more, or the order's own points ``times`` (in hundredths: 250 is 2.5 times)."""

    amount: int | None = None
    times: int | None = None


Benefit = Percent | Fixed | FixedEach | FixedPrice | BuyXGetY | Tiered | FreeShipping | Gift | Points


@dataclass(frozen=True, slots=True)
class Promotion:
    """One promotion. In force from ``starts_at`` until just before ``ends_at``.

    ``stock`` None: no limit; else ``used`` of it were taken when the promotion was read. ``currency`` None:
    any basket's. ``per_member`` and ``per_day`` limit what a member may take in all and a day; ``taken`` and
    ``taken_today`` are what the basket's member took so far.
    """

    id: str
    benefit: Benefit
    conditions: tuple[Condition, ...] = ()
    priority: int = 0
    exclusive: bool = False
    group: str | None = None
    code: str | None = None
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    currency: str | None = None
    stock: int | None = None
    used: int = 0
    per_member: int | None = None
    per_day: int | None = None
    taken: int = 0
    taken_today: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """A promotion's limits, as ``limits`` of its definition has them."""

    stock: int | None = None
    used: int = 0
    per_member: int | None = None
    per_day: int | None = None
    taken: int = 0
    taken_today: int = 0


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a promotion was not applied: a code, and the facts that its words need."""

    code: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rejected:
    promotion: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Applied:
    """``amount`` came off lines and shipping together; ``points`` are given on top of the order's own."""

    promotion: str
    amount: int
    points: int = 0


@dataclass(frozen=True, slots=True)
class PricedLine:
    id: str
    subtotal: int
    discount: int
    total: int
    adjustments: tuple[tuple[str, int], ...]
    """Promotion and what it took off, in the order in which they were applied."""


@dataclass(frozen=True, slots=True)
class Priced:
    """A basket after its promotions; ``total`` is what is to pay, shipping included."""

    currency: str
    lines: tuple[PricedLine, ...]
    subtotal: int
    discount: int
    shipping: int
    shipping_discount: int
    total: int
    gifts: tuple[tuple[str, str, int], ...]
    """Promotion, sku, quantity."""
    points: int
    applied: tuple[Applied, ...]
    rejected: tuple[Rejected, ...]


@dataclass(frozen=True, slots=True)
class Moment:
    """The evaluation's time as the shop's calendar has it."""

    at: datetime
    day: date
