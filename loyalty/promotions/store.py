"""The shop's stored promotions: saved in versions, archived, and read for an evaluation.

Guarantees: a stored definition has passed the parser. What orders take of them is
:mod:`loyalty.promotions.takes`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core import audit
from core.db import among
from core.errors import Conflict, InvalidInput, NotFound
from core.models import Member, Product
from loyalty.promotions.model import Condition, Promotion, Scope
from loyalty.promotions.models import PromotionRow, PromotionTake, PromotionVersion
from loyalty.promotions.overlaps import scope_of
from loyalty.promotions.parse import MAX_PROMOTIONS, read_promotion
from loyalty.promotions.takes import HELD, counts
from loyalty.sets import insert_new

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,79}")
MAX_TITLE = 200
FIELDS = (
    "priority",
    "exclusive",
    "group",
    "code",
    "starts_at",
    "ends_at",
    "conditions",
    "benefit",
    "currency",
    "limits",
)
"""What a definition may hold: a promotion of an evaluation's input, without its id."""
COUNTED = ("used", "taken", "taken_today")
SOURCE = "shop"
"""Whose ids of members an evaluation names."""


def find(session: Session, name: str) -> PromotionRow | None:
    """The stored promotion of this name, archived or not."""
    return session.scalars(sa.select(PromotionRow).where(PromotionRow.name == name)).one_or_none()


def by_name(session: Session, name: str) -> PromotionRow:
    """The stored promotion of this name. Raises NotFound."""
    found = find(session, name)
    if found is None:
        raise NotFound(f"There is no promotion “{name}”; look its name up under Loyalty.")
    return found


def save(
    session: Session,
    *,
    name: str,
    title: str,
    definition: Mapping[str, Any],
    by: str,
    now: datetime,
    large_sale: bool | None = None,
) -> PromotionRow:
    """Store a promotion, or a new version of it when something differs. Raises InvalidInput, Conflict.

    ``definition`` has the :data:`FIELDS` of an evaluation's promotion. The count of what was taken of its
    stock goes on. ``large_sale``: its rules have to be public some days ahead (None: as it was).
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput("A name has lower-case letters, digits, - and _, at most 80.", "name")
    if not title.strip() or len(title) > MAX_TITLE:
        raise InvalidInput(f"The title is missing, or longer than {MAX_TITLE} characters.", "title")
    content = _checked(name, definition)
    values = {"title": title.strip(), **_columns(content, read_promotion({**content, "id": name}))}
    if large_sale is not None:
        values["large_sale"] = large_sale
    row = session.scalars(sa.select(PromotionRow).where(PromotionRow.name == name).with_for_update()).first()
    if row is None:
        row = _create(session, name, values, by, now)
    elif row.archived_at is not None:
        raise Conflict(f"The promotion “{name}” is archived. Choose another name.")
    else:
        if all(getattr(row, field) == value for field, value in values.items()):
            return row
        row.version += 1
        for field, value in values.items():
            setattr(row, field, value)
        row.updated_at = now
    session.flush()
    session.add(
        PromotionVersion(
            promotion_id=row.id,
            version=row.version,
            definition={"title": row.title, **content, **({"large_sale": True} if row.large_sale else {})},
            changed_by=by,
            changed_at=now,
        )
    )
    audit.record(session, by, "save", "promotion", name, now, {"version": row.version})
    return row


def _create(session: Session, name: str, values: dict[str, Any], by: str, now: datetime) -> PromotionRow:
    live = sa.select(sa.func.count()).select_from(PromotionRow).where(PromotionRow.archived_at.is_(None))
    if session.execute(live).scalar_one() >= MAX_PROMOTIONS:
        raise Conflict(f"There are {MAX_PROMOTIONS} promotions already; archive those that are over.")
    new = {
        "name": name,
        "version": 1,
        "large_sale": False,
        "created_by": by,
        "created_at": now,
        "updated_at": now,
        **values,
    }
    key = insert_new(session, PromotionRow.__table__, {**new, "used": 0}, ["name"])
    if key is None:
        raise Conflict(f"Somebody has just made a promotion “{name}”; look at it first.")
    return session.get_one(PromotionRow, key[0])


def _checked(name: str, definition: Mapping[str, Any]) -> dict[str, Any]:
    """The definition as it is stored: without nulls, numbers that JSON cannot keep exactly as texts."""
    unknown = sorted(set(definition) - set(FIELDS))
    if unknown:
        raise InvalidInput(
            f"{unknown[0]}: there is no such field here; there are {', '.join(FIELDS)}.", unknown[0]
        )
    limits = definition.get("limits")
    for name in COUNTED:
        if isinstance(limits, dict) and name in limits:
            path = f"limits.{name}"
            raise InvalidInput(f"{path}: what was taken is counted here; leave it out.", path)
    read_promotion({**definition, "id": name})
    return {key: _plain(value) for key, value in definition.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Decimal | float) else value


def _columns(content: Mapping[str, Any], read: Promotion) -> dict[str, Any]:
    return {
        "priority": read.priority,
        "exclusive": read.exclusive,
        "group": read.group,
        "code": read.code,
        "starts_at": read.starts_at,
        "ends_at": read.ends_at,
        "conditions": content.get("conditions", []),
        "benefit": content["benefit"],
        "currency": read.currency,
        "stock": read.stock,
        "per_member_limit": read.per_member,
        "daily_limit": read.per_day,
    }


def versions(session: Session, row: PromotionRow) -> list[PromotionVersion]:
    """The versions of a promotion, the newest first."""
    query = sa.select(PromotionVersion).where(PromotionVersion.promotion_id == row.id)
    return list(session.scalars(query.order_by(PromotionVersion.version.desc())))


def live(session: Session) -> list[PromotionRow]:
    """Promotions that are not archived, in the order in which they are applied."""
    query = sa.select(PromotionRow).where(PromotionRow.archived_at.is_(None))
    found = list(session.scalars(query))
    # Not in SQL: a database sorts texts by its own language, the evaluation by characters.
    return sorted(found, key=lambda row: (-row.priority, row.name))


def active(session: Session, now: datetime) -> list[Promotion]:
    """The stored promotions as an evaluation takes them; those before or after their time are among
    them, so that the answer can say so. What was held for too long by ``now`` counts as free."""
    rows = live(session)
    free: dict[int, int] = {}
    if any(row.stock is not None for row in rows):
        lapsed = (
            sa.select(PromotionTake.promotion_id, sa.func.sum(PromotionTake.n))
            .where(
                PromotionTake.state == HELD,
                PromotionTake.released_at.is_(None),
                PromotionTake.expires_at <= now,
            )
            .group_by(PromotionTake.promotion_id)
        )
        free = {promotion_id: int(n) for promotion_id, n in session.execute(lapsed)}
    return [to_promotion(row, free.get(row.id, 0)) for row in rows]


@dataclass(frozen=True)
class MemberTake:
    """What a member took of a promotion on a day of the shop's zone."""

    promotion: str
    day: str | None
    n: int


def member_takes(
    session: Session, external_ids: Iterable[str], names: Sequence[str], now: datetime
) -> dict[str, list[MemberTake]]:
    """What members (by the shop's own ids) took of the promotions ``names``: one query for all of them."""
    ids = sorted(set(external_ids))
    found: dict[str, list[MemberTake]] = {}
    if not ids or not names:
        return found
    query = (
        sa.select(Member.external_id, PromotionRow.name, PromotionTake.day, sa.func.sum(PromotionTake.n))
        .join(Member, Member.id == PromotionTake.member_id)
        .join(PromotionRow, PromotionRow.id == PromotionTake.promotion_id)
        .where(
            Member.source == SOURCE,
            among(session, Member.external_id, ids),
            among(session, PromotionRow.name, names),
            counts(now),
        )
        .group_by(Member.external_id, PromotionRow.name, PromotionTake.day)
    )
    for external_id, name, day, n in session.execute(query):
        found.setdefault(external_id, []).append(MemberTake(name, day, int(n)))
    return found


def for_member(
    promotions: Sequence[Promotion], taken: Sequence[MemberTake], at: datetime, zone: ZoneInfo
) -> list[Promotion]:
    """The promotions with what the basket's member took of each, in all and on the day of ``at``."""
    if not taken:
        return list(promotions)
    day = at.astimezone(zone).date().isoformat()
    in_all: Counter[str] = Counter()
    today: Counter[str] = Counter()
    for one in taken:
        in_all[one.promotion] += one.n
        today[one.promotion] += one.n if one.day == day else 0
    return [
        replace(one, taken=in_all[one.id], taken_today=today[one.id]) if one.id in in_all else one
        for one in promotions
    ]


def to_promotion(row: PromotionRow, free: int = 0) -> Promotion:
    """A stored promotion with what is taken of its stock now (``free`` of it lapsed); its id is its name."""
    definition = {
        "id": row.name,
        "conditions": row.conditions,
        "benefit": row.benefit,
        "priority": row.priority,
    }
    read = read_promotion(definition, f"promotion {row.name}")
    return Promotion(
        id=row.name,
        benefit=read.benefit,
        conditions=read.conditions,
        priority=row.priority,
        exclusive=row.exclusive,
        group=row.group,
        code=row.code,
        starts_at=row.starts_at,
        ends_at=row.ends_at,
        currency=row.currency,
        stock=row.stock,
        used=max(0, row.used - free),
        per_member=row.per_member_limit,
        per_day=row.daily_limit,
    )


def categories_of(session: Session, promotions: Iterable[Promotion]) -> dict[str, str | None]:
    """Categories of the SKUs that the promotions' benefits and conditions name, of those the shop knows."""
    scopes = [found for one in promotions for found in (scope_of(one), *_scopes(one.conditions)) if found]
    skus = {sku for scope in scopes for sku in scope.skus | scope.exclude_skus}
    if not skus:
        return {}
    # Where two sources disagree about a SKU, nothing is known of it.
    query = (
        sa.select(Product.sku, sa.func.max(Product.category))
        .where(among(session, Product.sku, sorted(skus)))
        .group_by(Product.sku)
        .having(sa.func.count(sa.distinct(sa.func.coalesce(Product.category, ""))) == 1)
    )
    return {sku: category for sku, category in session.execute(query)}  # noqa: C416


def _scopes(conditions: Iterable[Condition]) -> Iterator[Scope]:
    for one in conditions:
        yield one.scope
        yield from _scopes(one.parts)


def archive(session: Session, name: str, by: str, now: datetime) -> None:
    """Take a promotion out of use. Doing it again changes nothing."""
    row = by_name(session, name)
    if row.archived_at is None:
        row.archived_at = now
        audit.record(session, by, "archive", "promotion", name, now)
