"""The shop's stored promotions: saved in versions, archived, read for an evaluation, and their stock.

Guarantees: a stored definition has passed the parser; at most ``stock`` of a promotion are ever held, decided
inside the write; the same key with the same request is taken once; only a promotion with a stock touches
its row, so the others are never hot.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core import audit
from core.errors import Conflict, InvalidInput, NotFound
from loyalty.models import PromotionRow, PromotionTake, PromotionVersion
from loyalty.promotions.model import Promotion
from loyalty.promotions.parse import MAX_PROMOTIONS, read_promotion
from loyalty.requests import check_key, other_body
from loyalty.sets import insert_new

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,79}")
MAX_TITLE = 200
MAX_TAKE = 1_000_000
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


class SoldOut(Conflict):
    """Fewer are left than were asked for; nothing was taken."""

    reason = "sold_out"


@dataclass(frozen=True)
class Taken:
    """A hold of ``n`` of a promotion. ``released_at`` is set once it was given back."""

    key: str
    promotion_id: int
    n: int
    taken_at: datetime
    released_at: datetime | None = None


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
    session: Session, *, name: str, title: str, definition: Mapping[str, Any], by: str, now: datetime
) -> PromotionRow:
    """Store a promotion, or a new version of it when something differs. Raises InvalidInput, Conflict.

    ``definition`` has the :data:`FIELDS` of an evaluation's promotion. The count of what was taken of its
    stock goes on.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput("A name has lower-case letters, digits, - and _, at most 80.", "name")
    if not title.strip() or len(title) > MAX_TITLE:
        raise InvalidInput(f"The title is missing, or longer than {MAX_TITLE} characters.", "title")
    content = _checked(name, definition)
    values = {"title": title.strip(), **_columns(content, read_promotion({**content, "id": name}))}
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
            definition={"title": row.title, **content},
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
    new = {"name": name, "version": 1, "created_by": by, "created_at": now, "updated_at": now, **values}
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
    if isinstance(limits, dict) and "used" in limits:
        raise InvalidInput("limits.used: what was taken is counted here; leave it out.", "limits.used")
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


def active(session: Session) -> list[Promotion]:
    """The stored promotions as an evaluation takes them; those before or after their time are among
    them, so that the answer can say so."""
    return [to_promotion(row) for row in live(session)]


def to_promotion(row: PromotionRow) -> Promotion:
    """A stored promotion with what is taken of its stock now; its id is its name."""
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
        used=row.used,
    )


def archive(session: Session, name: str, by: str, now: datetime) -> None:
    """Take a promotion out of use. Doing it again changes nothing."""
    row = by_name(session, name)
    if row.archived_at is None:
        row.archived_at = now
        audit.record(session, by, "archive", "promotion", name, now)


def take(session: Session, promotion_id: int, key: str, n: int, now: datetime) -> Taken:
    """Hold ``n`` of a promotion for an order: all of them, or :class:`SoldOut` and nothing.

    The same ``key`` with the same request answers what it answered first, with another one it is a
    Conflict. A promotion that is archived, not begun or over is refused: that is part of the write too.
    """
    check_key(key)
    if isinstance(n, bool) or not 1 <= n <= MAX_TAKE:
        raise InvalidInput(f"n is a whole number from 1 to {MAX_TAKE}.", "n")
    row = session.execute(
        sa.select(PromotionRow.name, PromotionRow.stock).where(PromotionRow.id == promotion_id)
    ).one_or_none()
    if row is None:
        raise NotFound(f"There is no promotion with the id {promotion_id}.")
    values = {"key": key, "promotion_id": promotion_id, "n": n, "taken_at": now}
    # First the key, then the counter: a repetition waits here, and never counts a second time.
    if insert_new(session, PromotionTake.__table__, values, ["key"]) is None:
        return _repeated(session, promotion_id, key, n)
    if not _count(session, promotion_id, n, now):
        raise _refusal(session, promotion_id, n, now)
    return Taken(key, promotion_id, n, now)


def _repeated(session: Session, promotion_id: int, key: str, n: int) -> Taken:
    found = session.execute(sa.select(PromotionTake).where(PromotionTake.key == key)).scalar_one()
    if (found.promotion_id, found.n) != (promotion_id, n):
        raise other_body(key)
    return Taken(key, promotion_id, n, found.taken_at, found.released_at)


def _in_force(now: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        PromotionRow.archived_at.is_(None),
        sa.or_(PromotionRow.starts_at.is_(None), PromotionRow.starts_at <= now),
        sa.or_(PromotionRow.ends_at.is_(None), PromotionRow.ends_at > now),
    )


def _count(session: Session, promotion_id: int, n: int, now: datetime) -> bool:
    """Whether ``n`` more could be counted. Limit and time are tested by the write itself."""
    mine = (PromotionRow.id == promotion_id, *_in_force(now))
    limited = session.execute(
        sa.update(PromotionRow)
        .where(*mine, PromotionRow.stock.is_not(None), PromotionRow.used + n <= PromotionRow.stock)
        .values(used=PromotionRow.used + n)
        .execution_options(synchronize_session=False)
        .returning(PromotionRow.id)
    ).first()
    if limited is not None:
        return True
    unlimited = sa.select(PromotionRow.id).where(*mine, PromotionRow.stock.is_(None))
    return session.execute(unlimited).first() is not None


def _refusal(session: Session, promotion_id: int, n: int, now: datetime) -> Conflict:
    in_force = sa.and_(*_in_force(now)).label("in_force")
    row = session.execute(
        sa.select(PromotionRow.name, PromotionRow.stock, PromotionRow.used, in_force).where(
            PromotionRow.id == promotion_id
        )
    ).one()
    if not row.in_force:
        return Conflict(f"The promotion “{row.name}” is not in force now.")
    left = max(0, (row.stock or 0) - row.used)
    return SoldOut(f"Of “{row.name}” {left} are left, and {n} were asked for.")


def release(session: Session, key: str, now: datetime) -> Taken:
    """Give a hold back, once: the order was cancelled or never paid. Again changes nothing."""
    found = session.execute(
        sa.update(PromotionTake)
        .where(PromotionTake.key == key, PromotionTake.released_at.is_(None))
        .values(released_at=now)
        .execution_options(synchronize_session=False)
        .returning(PromotionTake.promotion_id, PromotionTake.n, PromotionTake.taken_at)
    ).one_or_none()
    if found is None:
        before = session.execute(
            sa.select(PromotionTake).where(PromotionTake.key == key)
        ).scalar_one_or_none()
        if before is None:
            raise NotFound(f"Nothing was taken with the key “{key}”.")
        return Taken(key, before.promotion_id, before.n, before.taken_at, before.released_at)
    session.execute(
        sa.update(PromotionRow)
        .where(PromotionRow.id == found.promotion_id, PromotionRow.stock.is_not(None))
        .values(used=sa.case((PromotionRow.used > found.n, PromotionRow.used - found.n), else_=0))
        .execution_options(synchronize_session=False)
    )
    return Taken(key, found.promotion_id, found.n, found.taken_at, now)
