"""Published notices: the rules of a promotion as the public could read them, frozen by number.

Guarantees: what was published is never changed; publishing the same words again changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core import audit
from core.db import among
from core.errors import Conflict
from loyalty.promotions import store
from loyalty.promotions.models import PromotionNotice, PromotionRow
from loyalty.promotions.notice import notice, publish_by, to_texts


@dataclass(frozen=True)
class Standing:
    """How a promotion stands with its notice.

    ``late``: a large sale whose rules of today were not public in time, or cannot be any more.
    ``changed``: the rules differ from what was published last.
    """

    texts: dict[str, Any]
    published: PromotionNotice | None
    changed: bool
    publish_by: datetime | None
    late: bool


def texts_of(row: PromotionRow, zone: ZoneInfo, currency: str) -> dict[str, Any]:
    """The notice of the rules as they are now."""
    return to_texts(row.title, notice(store.to_promotion(row), zone, currency))


def history(session: Session, row: PromotionRow) -> list[PromotionNotice]:
    """What was published of the promotion, the newest first."""
    query = sa.select(PromotionNotice).where(PromotionNotice.promotion_id == row.id)
    return list(session.scalars(query.order_by(PromotionNotice.number.desc())))


def standing(session: Session, row: PromotionRow, zone: ZoneInfo, currency: str, now: datetime) -> Standing:
    """The words of today, and whether they were public in time."""
    found = history(session, row)
    return _standing(row, found[0] if found else None, zone, currency, now)


def standings(
    session: Session, rows: Iterable[PromotionRow], zone: ZoneInfo, currency: str, now: datetime
) -> dict[int, Standing]:
    """How the large sales among ``rows`` stand, by their id; in one query."""
    large = [row for row in rows if row.large_sale]
    if not large:
        return {}
    query = sa.select(PromotionNotice).where(
        among(session, PromotionNotice.promotion_id, [row.id for row in large])
    )
    last = {one.promotion_id: one for one in session.scalars(query.order_by(PromotionNotice.number))}
    return {row.id: _standing(row, last.get(row.id), zone, currency, now) for row in large}


def _standing(
    row: PromotionRow, last: PromotionNotice | None, zone: ZoneInfo, currency: str, now: datetime
) -> Standing:
    texts = texts_of(row, zone, currency)
    changed = last is not None and last.texts != texts
    needed = publish_by(row.starts_at) if row.large_sale else None
    public_at = now if last is None or changed else last.published_at
    return Standing(texts, last, changed, needed, needed is not None and public_at > needed)


def publish(
    session: Session, row: PromotionRow, zone: ZoneInfo, currency: str, by: str, now: datetime
) -> PromotionNotice:
    """Freeze the rules of today as the next number; the same words again answer the number they have.

    Conflict: the promotion is archived.
    """
    # Two who publish at once wait for each other here, so that a number is given once.
    session.execute(sa.select(PromotionRow.id).where(PromotionRow.id == row.id).with_for_update())
    if row.archived_at is not None:
        raise Conflict(f"The promotion “{row.name}” is archived; there is nothing to publish.")
    texts = texts_of(row, zone, currency)
    found = history(session, row)
    if found and found[0].texts == texts:
        return found[0]
    number = found[0].number + 1 if found else 1
    made = PromotionNotice(promotion_id=row.id, number=number, texts=texts, published_at=now, published_by=by)
    session.add(made)
    audit.record(session, by, "publish", "promotion", row.name, now, {"notice": number})
    session.flush()
    return made


def published(session: Session, name: str, number: int | None = None) -> tuple[PromotionNotice, int] | None:
    """A notice by its number (None: the newest), and how many there are; None: no such thing is public."""
    row = store.find(session, name)
    found = [] if row is None else history(session, row)
    chosen = next((one for one in found if number is None or one.number == number), None)
    return None if chosen is None else (chosen, len(found))
