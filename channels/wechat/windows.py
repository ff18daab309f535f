"""What WeChat allows to be sent: customer-service windows and subscription grants, counted and taken.

A user's message opens a window of 48 hours for five messages; a follow, scan or menu click one of a
minute for three. A grant is the consent to one message of one template. Both are taken in one
transaction a batch, under row locks, so that workers cannot take the same one; a message takes at most
one, however often it is tried.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from channels.models import Account, WechatGrant, WechatSeen, WechatSpent, WechatWindow
from channels.outbox import RESEND
from channels.sql import is_postgres, table_of
from core.bulk import bulk_insert
from core.contacts import WECHAT
from core.db import among

MESSAGE, TOUCH = "message", "touch"
WINDOWS: Mapping[str, tuple[timedelta, int]] = MappingProxyType(
    {MESSAGE: (timedelta(hours=48), 5), TOUCH: (timedelta(minutes=1), 3)}
)
"""How long a window is open, and for how many messages."""
SERVICE = ""
"""The template of a wish for a customer-service window."""
SPENT_KEPT = timedelta(days=3)
SEEN_KEPT = timedelta(days=1)
MAX_GRANTS = 1_000


class Opened(NamedTuple):
    """A follower did something at ``at`` that opens a window."""

    openid_index: str
    kind: str
    at: datetime


class Granted(NamedTuple):
    """A follower agreed (``number`` > 0) or refused (0) to get messages of a template."""

    openid_index: str
    template_id: str
    number: int


@dataclass(frozen=True, slots=True)
class Wish:
    """A message that needs a grant for ``template_id``, or (``SERVICE``) a place in a window."""

    client_id: str
    openid_index: str
    template_id: str


TAKEN, NONE, PERHAPS_SENT = "taken", "none", "perhaps_sent"
"""What became of a wish: go on, nothing to take, or an attempt before took it and got no answer."""


def first_time(session: Session, key: str, now: datetime) -> bool:
    """Whether ``key`` was never seen within a day; concurrent callers agree on one."""
    session.execute(sa.delete(WechatSeen).where(WechatSeen.at < now - SEEN_KEPT))
    row = (key[:160], now)
    return bool(
        bulk_insert(
            session, table_of(WechatSeen), ("key", "at"), [row], conflict=("key",), returning=("key",)
        )
    )


def open_windows(session: Session, happenings: Iterable[Opened]) -> None:
    """Open windows anew; news that is older than what is known changes nothing."""
    newest: dict[tuple[str, str], Opened] = {}
    for one in sorted(happenings, key=lambda one: one.at):
        newest[one.openid_index, one.kind] = one
    rows = [
        {
            "openid_index": one.openid_index,
            "kind": one.kind,
            "opened_at": one.at,
            "until": one.at + WINDOWS[one.kind][0],
            "left": WINDOWS[one.kind][1],
        }
        for _, one in sorted(newest.items())
    ]
    if not rows:
        return
    table = table_of(WechatWindow)
    insert: Any = postgresql.insert(table) if is_postgres(session) else sqlite.insert(table)
    new = insert.excluded
    changed = {name: new[name] for name in ("opened_at", "until", "left")}
    session.execute(
        insert.on_conflict_do_update(
            index_elements=["openid_index", "kind"], set_=changed, where=new.opened_at > table.c.opened_at
        ),
        rows,
    )


def change_grants(session: Session, changes: Iterable[Granted]) -> None:
    """Add what was agreed to; a refusal ends all that is left. In the order given."""
    number: dict[tuple[str, str], tuple[bool, int]] = {}
    for one in changes:
        refused, added = number.get((one.openid_index, one.template_id), (False, 0))
        key = (one.openid_index, one.template_id)
        number[key] = (True, 0) if one.number == 0 else (refused, added + one.number)
    table = table_of(WechatGrant)
    for clears in (True, False):
        rows = [
            {"openid_index": index, "template_id": template, "left": new}
            for (index, template), (refused, new) in sorted(number.items())
            if refused is clears
        ]
        if rows:
            insert: Any = postgresql.insert(table) if is_postgres(session) else sqlite.insert(table)
            added = insert.excluded.left
            total = added if clears else table.c.left + added
            session.execute(
                insert.on_conflict_do_update(
                    index_elements=["openid_index", "template_id"],
                    set_={"left": sa.case((total > MAX_GRANTS, MAX_GRANTS), else_=total)},
                ),
                rows,
            )


def take(session: Session, wishes: Sequence[Wish], now: datetime) -> list[str]:
    """Take what each wish needs, in order: ``TAKEN``, ``NONE`` or ``PERHAPS_SENT`` for each.

    A message that took something before and did not give it back may have been sent: it is only tried
    again where the account says so, and then takes nothing more.
    """
    if not wishes:
        return []
    session.execute(sa.delete(WechatSpent).where(WechatSpent.at < now - SPENT_KEPT))
    ids = [wish.client_id for wish in wishes]
    spent = set(
        session.scalars(sa.select(WechatSpent.client_id).where(among(session, WechatSpent.client_id, ids)))
    )
    resend = session.scalar(sa.select(Account.on_unknown).where(Account.channel == WECHAT)) == RESEND
    places = _Places(session, [wish for wish in wishes if wish.client_id not in spent], now)
    found = []
    for wish in wishes:
        if wish.client_id in spent:
            found.append(TAKEN if resend else PERHAPS_SENT)
        else:
            found.append(TAKEN if places.take(wish) else NONE)
    places.write(session)
    taken = [
        (wish.client_id, now)
        for wish, result in zip(wishes, found, strict=True)
        if result == TAKEN and wish.client_id not in spent
    ]
    bulk_insert(session, table_of(WechatSpent), ("client_id", "at"), taken, conflict=("client_id",))
    return found


class _Places:
    """The locked rows of a batch's wishes, and what was taken of them."""

    def __init__(self, session: Session, wishes: Sequence[Wish], now: datetime) -> None:
        self._now = now
        indexes = sorted({wish.openid_index for wish in wishes if wish.template_id == SERVICE})
        self._windows: dict[str, list[WechatWindow]] = {}
        if indexes:
            for window in session.scalars(
                sa.select(WechatWindow)
                .where(among(session, WechatWindow.openid_index, indexes))
                # The shorter window first: what is left of the longer one lasts.
                .order_by(WechatWindow.openid_index, WechatWindow.kind.desc())
                .with_for_update()
            ):
                self._windows.setdefault(window.openid_index, []).append(window)
        granted = sorted({wish.openid_index for wish in wishes if wish.template_id != SERVICE})
        templates = sorted({wish.template_id for wish in wishes if wish.template_id != SERVICE})
        self._grants: dict[tuple[str, str], WechatGrant] = {}
        if granted:
            for grant in session.scalars(
                sa.select(WechatGrant)
                .where(
                    among(session, WechatGrant.openid_index, granted), WechatGrant.template_id.in_(templates)
                )
                .order_by(WechatGrant.openid_index, WechatGrant.template_id)
                .with_for_update()
            ):
                self._grants[grant.openid_index, grant.template_id] = grant

    def take(self, wish: Wish) -> bool:
        if wish.template_id != SERVICE:
            grant = self._grants.get((wish.openid_index, wish.template_id))
            if grant is None or grant.left < 1:
                return False
            grant.left -= 1
            return True
        for window in self._windows.get(wish.openid_index, ()):
            if window.left > 0 and window.opened_at <= self._now < window.until:
                window.left -= 1
                return True
        return False

    def write(self, session: Session) -> None:
        # The unit of work updates the changed rows by one executemany a table.
        session.flush()


def give_back(session: Session, wishes: Sequence[Wish]) -> None:
    """These were certainly not sent: what they took is there again (a window only while it is open)."""
    if not wishes:
        return
    session.execute(
        sa.delete(WechatSpent).where(among(session, WechatSpent.client_id, [w.client_id for w in wishes]))
    )
    change_grants(
        session,
        [Granted(w.openid_index, w.template_id, 1) for w in wishes if w.template_id != SERVICE],
    )
    numbers = Counter(w.openid_index for w in wishes if w.template_id == SERVICE)
    if numbers:
        windows = session.scalars(
            sa.select(WechatWindow)
            .where(among(session, WechatWindow.openid_index, sorted(numbers)))
            .order_by(WechatWindow.openid_index, WechatWindow.until)
            .with_for_update()
        ).all()
        # The last of each follower's is the one that is open longest.
        for index, window in {window.openid_index: window for window in windows}.items():
            window.left = min(window.left + numbers[index], WINDOWS[window.kind][1])
        session.flush()


def close(session: Session, wishes: Sequence[Wish]) -> None:
    """WeChat says that there is nothing left of these: our count was too high."""
    change_grants(
        session, [Granted(w.openid_index, w.template_id, 0) for w in wishes if w.template_id != SERVICE]
    )
    indexes = [w.openid_index for w in wishes if w.template_id == SERVICE]
    if indexes:
        session.execute(
            sa.update(WechatWindow)
            .where(among(session, WechatWindow.openid_index, indexes))
            .values(left=0)
            .execution_options(synchronize_session=False)
        )
