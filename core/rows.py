"""Rows of an import: one mapping of texts becomes one checked, typed record, or a reason why not.

Pure: no database, no clock. The four record types are what :mod:`core.imports` writes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

import orjson

from core.contacts import normalise_email, normalise_phone
from core.errors import InvalidInput
from core.money import to_minor

Raw = Mapping[str, Any]
STATUSES = ("paid", "refunded", "cancelled")
MAX_TEXT = 1000
MAX_QUANTITY = 1_000_000
CONSENT_COLUMNS = {
    "email_consent": "email",
    "sms_consent": "sms",
    "wechat_consent": "wechat",
    "webhook_consent": "webhook",
    "wecom_consent": "wecom",
}

COLUMNS: dict[str, tuple[str, ...]] = {
    kind: tuple(names.split())
    for kind, names in {
        "members": "member_id name email phone wechat_openid wechat_unionid gender birthday city province "
        "country locale timezone registered_at tags email_consent sms_consent wechat_consent "
        "webhook_consent wecom_external_userid wecom_consent",
        "products": "sku name category brand price currency margin stock url image_url",
        "orders": "order_id member_id ordered_at sku category quantity amount discount currency status "
        "coupon_code channel",
        "events": "event_id member_id kind occurred_at properties",
    }.items()
}
REQUIRED = {
    "members": ("member_id",),
    "products": ("sku",),
    "orders": ("order_id", "member_id", "ordered_at", "amount"),
    "events": ("member_id", "kind", "occurred_at"),
}
OPEN_PREFIX = {"members": "attributes.", "events": "properties."}
"""Columns beyond the fixed ones that a kind takes."""


@dataclass(frozen=True)
class Shop:
    """What parsing needs to know of the shop."""

    zone: ZoneInfo
    currency: str
    country: str = "CN"


@dataclass(frozen=True, slots=True)
class MemberRow:
    external_id: str
    values: dict[str, Any]
    """The columns of ``members`` that the row gives, without the contact details' indexes; of ``attributes``
    the given ones alone, None where the row empties one.
    """
    consents: dict[str, bool]
    fingerprint: str


@dataclass(frozen=True, slots=True)
class ProductRow:
    external_id: str
    values: dict[str, Any]
    """The columns of ``products`` that the row gives, and the currency."""
    fingerprint: str


@dataclass(frozen=True, slots=True)
class LineRow:
    """One line of an order, with the order's own columns repeated."""

    external_id: str
    member_id: str
    ordered_at: datetime
    status: str
    currency: str
    coupon_code: str | None
    channel: str | None
    sku: str | None
    category: str | None
    quantity: int
    amount_minor: int
    discount_minor: int


@dataclass(frozen=True, slots=True)
class EventRow:
    external_id: str
    member_id: str
    kind: str
    occurred_at: datetime
    properties: dict[str, Any]


def _text(row: Raw, name: str, limit: int = 200, *, needed: bool = False) -> str | None:
    value = row.get(name)
    text = "" if value is None else str(value).strip()
    if not text:
        if needed:
            raise InvalidInput(f"{name} is missing.", name)
        return None
    if len(text) > limit:
        raise InvalidInput(f"{name} has {len(text)} characters; at most {limit} fit.", name)
    if "\x00" in text:
        raise InvalidInput(f"{name} contains a NUL character.", name)
    return text


def _must(row: Raw, name: str, limit: int = 128) -> str:
    return _text(row, name, limit, needed=True) or ""


@lru_cache(maxsize=100_000)
def _parse_time(text: str, zone: ZoneInfo) -> datetime:
    """The instant in UTC. The lines of an order repeat its time."""
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo else at.replace(tzinfo=zone)).astimezone(UTC)


def _time(row: Raw, name: str, zone: ZoneInfo) -> datetime | None:
    value = row.get(name)
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=zone)).astimezone(UTC)
    text = _text(row, name)
    if text is None:
        return None
    try:
        at = _parse_time(text, zone)
    except (ValueError, OverflowError):
        raise InvalidInput(
            f"{name}: “{text}” is not a time; write it like 2026-03-01T12:00:00+08:00.", name
        ) from None
    if not 1970 <= at.year <= 2200:
        raise InvalidInput(f"{name}: the year {at.year} is out of range (1970 to 2200).", name)
    return at


def _day(row: Raw, name: str) -> date | None:
    value = row.get(name)
    if isinstance(value, datetime):
        return value.date()
    if isinstance(value, date):
        return value
    text = _text(row, name)
    if text is None:
        return None
    try:
        return date.fromisoformat(text[:10])
    except ValueError:
        raise InvalidInput(f"{name}: “{text}” is not a date; write it like 1990-05-17.", name) from None


def _whole(row: Raw, name: str, default: int | None, low: int = 0, high: int = MAX_QUANTITY) -> int | None:
    text = _text(row, name)
    if text is None:
        return default
    if len(text) < 10 and text.isascii() and text.isdecimal() and low <= (plain := int(text)) <= high:
        return plain
    try:
        number = Decimal(text)
        whole = int(number)
    except (ArithmeticError, ValueError):
        raise InvalidInput(f"{name}: “{text}” is not a whole number.", name) from None
    if whole != number or not low <= whole <= high:
        raise InvalidInput(f"{name}: {text} must be a whole number from {low:,} to {high:,}.", name)
    return whole


def _flag(row: Raw, name: str) -> bool | None:
    value = row.get(name)
    if isinstance(value, bool):
        return value
    text = (_text(row, name) or "").lower()
    if not text:
        return None
    if text in ("true", "1", "yes", "y", "是"):
        return True
    if text in ("false", "0", "no", "n", "否"):
        return False
    raise InvalidInput(f"{name}: “{text}” is neither true nor false.", name)


def _currency(row: Raw, shop: Shop) -> str:
    text = (_text(row, "currency", 20) or shop.currency).upper()
    if text != shop.currency:
        raise InvalidInput(
            f"currency: “{text}” is not the shop's currency, {shop.currency}. Convert the amounts, "
            "or set HUILIU_SHOP_CURRENCY.",
            "currency",
        )
    return text


def _open_values(row: Raw, prefix: str) -> dict[str, Any]:
    found = {}
    for name, value in row.items():
        if name.startswith(prefix) and value is not None and value != "":
            found[name[len(prefix) :]] = (
                _number_if_it_is_one(value) if isinstance(value, str) else _plain(value)
            )
    return found


def _plain(value: Any) -> Any:
    return (
        value.isoformat()
        if isinstance(value, date)
        else float(value)
        if isinstance(value, Decimal)
        else value
    )


def _number_if_it_is_one(text: str) -> Any:
    """Texts of a CSV that are plainly numbers become numbers, so that rules can compare them.

    ``007`` and a 20-digit id stay text: turning them into numbers would change them.
    """
    stripped = text.strip()
    if stripped.lower() in ("true", "false"):
        return stripped.lower() == "true"
    if (
        not stripped
        or len(stripped) > 15
        or (stripped.lstrip("-")[:1] == "0" and stripped.lstrip("-")[1:2].isdigit())
    ):
        return stripped
    try:
        return int(stripped)
    except ValueError:
        pass
    try:
        number = float(stripped)
    except ValueError:
        return stripped
    return number if number - number == 0 else stripped


def fingerprint(*values: Any) -> str:
    """32 hex characters that differ when any of the values does."""
    text = json.dumps(values, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def lines_fingerprint(lines: Sequence[LineRow]) -> str:
    """:func:`fingerprint` of an order: of all its lines, in their order."""
    try:
        text = orjson.dumps(lines)
    except TypeError:  # a text with half a character, as JSON may bring it
        return fingerprint([astuple(line) for line in lines])
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def parse_member(row: Raw, shop: Shop) -> MemberRow:
    """A row of ``members``. Raises InvalidInput naming the column."""
    email, phone = _text(row, "email", 320), _text(row, "phone", 40)
    zone = _text(row, "timezone", 60)
    if zone is not None:
        _check_zone(zone)
    values: dict[str, Any] = {
        "name": _text(row, "name"),
        "email": normalise_email(email) if email else None,
        "phone": normalise_phone(phone, shop.country) if phone else None,
        "openid": _text(row, "wechat_openid", 128),
        "unionid": _text(row, "wechat_unionid", 128),
        "wecom": _text(row, "wecom_external_userid", 128),
        "gender": _text(row, "gender", 20),
        "birthday": _day(row, "birthday"),
        "city": _text(row, "city", 100),
        "province": _text(row, "province", 100),
        "country": _text(row, "country", 100),
        "locale": _text(row, "locale", 20),
        "timezone": zone,
        "registered_at": _time(row, "registered_at", shop.zone),
    }
    # What a row does not name stays as it is: half a file must not empty the other half.
    values = {name: value for name, value in values.items() if _MEMBER_COLUMNS.get(name, name) in row}
    if "tags" in row:
        values["tags"] = _tags(row["tags"])
    if attributes := _attributes(row):
        values["attributes"] = attributes
    consents = {
        channel: flag
        for column, channel in CONSENT_COLUMNS.items()
        if (flag := _flag(row, column)) is not None
    }
    return MemberRow(_must(row, "member_id"), values, consents, fingerprint(values, consents))


_MEMBER_COLUMNS = {"openid": "wechat_openid", "unionid": "wechat_unionid", "wecom": "wecom_external_userid"}
"""Columns that files call differently."""


def _tags(given: Any) -> list[str]:
    listed = given if isinstance(given, list) else str(given or "").split(";")
    return sorted({text for tag in listed if (text := str(tag).strip())})


def _attributes(row: Raw) -> dict[str, Any]:
    prefix = "attributes."
    named = {name.removeprefix(prefix): None for name in row if name.startswith(prefix)}
    return {**dict(row.get("attributes") or {}), **named, **_open_values(row, prefix)}


@lru_cache(maxsize=1000)
def _check_zone(name: str) -> None:
    try:
        ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        raise InvalidInput(
            f"timezone: “{name}” is unknown; use a name such as Asia/Shanghai.", "timezone"
        ) from None


def parse_product(row: Raw, shop: Shop) -> ProductRow:
    """A row of ``products``. ``margin`` is a share of the price, 0 to 1."""
    currency = _currency(row, shop)
    price, margin = _text(row, "price"), _text(row, "margin")
    try:
        share = None if margin is None else float(margin)
    except ValueError:
        share = -1.0
    if share is not None and not 0 <= share <= 1:
        raise InvalidInput(f"margin: “{margin}” is not a share from 0 to 1 (0.35 for 35 %).", "margin")
    price_minor = None if price is None else to_minor(price, currency, "price")
    if price_minor is not None and price_minor < 0:
        raise InvalidInput(f"price: {price} is negative.", "price")
    values = {
        "name": _text(row, "name", 300),
        "category": _text(row, "category"),
        "brand": _text(row, "brand"),
        "price_minor": price_minor,
        "currency": currency,
        "margin": share,
        "stock": _whole(row, "stock", None, high=2**31 - 1),
        "url": _text(row, "url", MAX_TEXT),
        "image_url": _text(row, "image_url", MAX_TEXT),
    }
    named = {"price_minor": "price"}
    values = {
        name: value for name, value in values.items() if name == "currency" or named.get(name, name) in row
    }
    return ProductRow(_must(row, "sku"), values, fingerprint(values))


def parse_line(row: Raw, shop: Shop) -> LineRow:
    """A row of ``orders``: one line, amounts after discounts, never negative."""
    currency = _currency(row, shop)
    ordered_at = _time(row, "ordered_at", shop.zone)
    if ordered_at is None:
        raise InvalidInput("ordered_at is missing.", "ordered_at")
    status = (_text(row, "status", 20) or "paid").lower()
    if status not in STATUSES:
        raise InvalidInput(f"status: “{status}” is none of {', '.join(STATUSES)}.", "status")
    amount = to_minor(_must(row, "amount"), currency, "amount")
    discount = to_minor(_text(row, "discount") or "0", currency, "discount")
    if amount < 0 or discount < 0:
        name = "amount" if amount < 0 else "discount"
        raise InvalidInput(f"{name}: {row.get(name)} is negative; report refunds by status.", name)
    quantity = _whole(row, "quantity", 1)
    assert quantity is not None
    return LineRow(
        external_id=_must(row, "order_id"),
        member_id=_must(row, "member_id"),
        ordered_at=ordered_at,
        status=status,
        currency=currency,
        coupon_code=_text(row, "coupon_code", 64),
        channel=_text(row, "channel", 40),
        sku=_text(row, "sku", 128),
        category=_text(row, "category"),
        quantity=quantity,
        amount_minor=amount,
        discount_minor=discount,
    )


def parse_event(row: Raw, shop: Shop) -> EventRow:
    """A row of ``events``. Without an ``event_id``, its content is its identity."""
    occurred_at = _time(row, "occurred_at", shop.zone)
    if occurred_at is None:
        raise InvalidInput("occurred_at is missing.", "occurred_at")
    properties = row.get("properties")
    if isinstance(properties, str) and properties.strip():
        try:
            properties = json.loads(properties)
        except ValueError as error:
            raise InvalidInput(f"properties is not JSON: {error}", "properties") from None
    if properties and not isinstance(properties, dict):
        raise InvalidInput('properties must be a JSON object, like {"price": 12.5}.', "properties")
    merged = {**(properties or {}), **_open_values(row, "properties.")}
    member, kind = _must(row, "member_id"), _must(row, "kind", 60)
    event_id = _text(row, "event_id", 128) or fingerprint(member, kind, occurred_at, merged)
    return EventRow(event_id, member, kind, occurred_at, merged)


PARSERS: dict[str, Callable[[Raw, Shop], Any]] = {
    "members": parse_member,
    "products": parse_product,
    "orders": parse_line,
    "events": parse_event,
}
