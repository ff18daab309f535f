"""Imports: members, products, orders and events, from any source of rows, idempotently.

Guarantees: a row that breaks a rule is reported with its line and reason and the others load;
the same rows again change nothing; an order is loaded whole or not at all; every chunk is one
transaction, with its warehouse marks and to-do rows inside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from itertools import chain, islice
from typing import Any, NamedTuple, Protocol

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core import catalog, facts
from core.bulk import bulk_insert
from core.collector import paused
from core.db import Database, among
from core.errors import InvalidInput
from core.models import Event, Member, Order, OrderLine, Preference, Product, Todo
from core.rows import PARSERS, EventRow, LineRow, MemberRow, ProductRow, Raw, Shop, lines_fingerprint
from core.settings import Settings
from core.upsert import existing, upsert
from core.warehouse.replica import mark

KINDS = tuple(PARSERS)
CHUNK_ROWS = 5_000
MAX_ROWS_IN_MEMORY = 5_000_000
LOYALTY_QUEUE = "loyalty.orders"
"""To-do rows of every order that is new or changed: points."""
COUPON_QUEUE = "loyalty.coupons"
"""To-do rows of those that name a coupon code, or named one before."""
EVENT_QUEUE = "loyalty.events"
"""To-do rows of new events whose kind stands in the preference ``EVENT_KINDS``: points for them."""
EVENT_KINDS = "loyalty.event_kinds"


class Numbered(NamedTuple):
    """A row and its line in the source; ``problem`` where it could not even be read."""

    line: int
    row: Raw
    problem: str | None = None


class Reject(NamedTuple):
    line: int
    reason: str
    row: Raw


class ConsentChange(NamedTuple):
    """A member's answer about a channel and purpose. ``at`` is when it was given, not when it arrived."""

    member_id: int
    channel: str
    purpose: str
    granted: bool
    source: str
    at: datetime


class ConsentWriter(Protocol):
    """Stores consents (rows shaped as :class:`ConsentChange`) in the caller's transaction.

    Core cannot import channels, so whoever imports hands in ``channels.consent.set_imported``.
    """

    def __call__(self, session: Session, changes: Sequence[ConsentChange], /) -> Any: ...


@dataclass
class Report:
    """Counts of rows; the four parts add up to ``rows``."""

    rows: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: int = 0

    def add(self, other: Report) -> None:
        for part in fields(self):
            setattr(self, part.name, getattr(self, part.name) + getattr(other, part.name))


@dataclass
class _Chunk:
    """Parsed rows of one transaction, and what they came from."""

    parsed: list[tuple[Numbered, Any]] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)


class _DryRun(Exception):
    """Leaves a chunk's transaction without committing it."""


def load_rows(
    database: Database,
    kind: str,
    rows: Iterable[Numbered],
    *,
    settings: Settings,
    source: str,
    now: datetime,
    consents: ConsentWriter,
    dry_run: bool = False,
    on_reject: Callable[[Reject], None] = lambda _reject: None,
    progress: Callable[[int], None] = lambda _rows: None,
) -> Report:
    """Load rows of ``kind`` (members, products, orders, events). Lines of one order must be adjacent.

    Every rejected row goes to ``on_reject``; ``progress`` hears of every chunk's rows. With
    ``dry_run`` everything is checked and counted, and nothing is written.
    """
    if kind not in PARSERS:
        raise InvalidInput(f"“{kind}” cannot be imported; the kinds are {', '.join(KINDS)}.", "kind")
    shop = Shop(settings.zone, settings.shop_currency)
    write = _WRITERS[kind]
    total = Report()
    for chunk in _chunks(kind, rows, shop):
        report = Report(rejected=len(chunk.rejects))
        try:
            with paused(), database.write() as session:
                report.add(write(session, [parsed for _, parsed in chunk.parsed], source, now, consents))
                if dry_run:
                    raise _DryRun
        except _DryRun:
            pass
        report.rows = len(chunk.parsed) + len(chunk.rejects)
        total.add(report)
        for reject in chunk.rejects:
            on_reject(reject)
        progress(report.rows)
    return total


def numbered(rows: Iterable[Raw]) -> list[Numbered]:
    """Rows of a request, numbered from 1, those of one order brought together."""
    return together(Numbered(index, row) for index, row in enumerate(rows, 1))


def together(rows: Iterable[Numbered], limit: int = MAX_ROWS_IN_MEMORY) -> list[Numbered]:
    """Rows in the order of their order's first line. Refuses more rows than ``limit``."""
    first: dict[str, int] = {}
    found: list[Numbered] = []
    for item in rows:
        first.setdefault(str(item.row.get("order_id")), item.line)
        found.append(item)
        if len(found) > limit:
            raise InvalidInput(
                f"The lines of an order stand apart in a file of over {limit:,} rows. "
                "Sort it by order_id and import it again."
            )
    return sorted(found, key=lambda item: first[str(item.row.get("order_id"))])


def _chunks(kind: str, rows: Iterable[Numbered], shop: Shop) -> Iterator[_Chunk]:
    seen: dict[str, int] = {}
    groups = _orders(rows, shop) if kind == "orders" else _singles(kind, rows, shop, seen)
    iterator = iter(groups)
    while group := list(islice(iterator, 1)):
        chunk = _Chunk()
        size = 0
        with paused():
            for parsed, rejects in chain(group, iterator):
                chunk.parsed.extend(parsed)
                chunk.rejects.extend(rejects)
                size += len(parsed) + len(rejects)
                if size >= CHUNK_ROWS:
                    break
        yield chunk


_Group = tuple[list[tuple[Numbered, Any]], list[Reject]]


def _parse(kind: str, item: Numbered, shop: Shop) -> Any:
    if item.problem:
        raise InvalidInput(item.problem)
    return PARSERS[kind](item.row, shop)


def _singles(kind: str, rows: Iterable[Numbered], shop: Shop, seen: dict[str, int]) -> Iterator[_Group]:
    for item in rows:
        try:
            parsed = _parse(kind, item, shop)
            first = seen.setdefault(parsed.external_id, item.line)
            if first != item.line:
                raise InvalidInput(f"“{parsed.external_id}” stands already on line {first}.")
            yield [(item, parsed)], []
        except InvalidInput as error:
            yield [], [Reject(item.line, str(error), item.row)]


def _orders(rows: Iterable[Numbered], shop: Shop) -> Iterator[_Group]:
    """Groups of adjacent lines with the same order id: an order loads whole or not at all."""
    group: list[tuple[Numbered, LineRow | str]] = []
    current: object = None
    for item in rows:
        key = str(item.row.get("order_id"))
        if group and (key != current or item.problem):
            yield _whole_order(group)
            group = []
        current = key
        try:
            group.append((item, _parse("orders", item, shop)))
        except InvalidInput as error:
            group.append((item, str(error)))
    if group:
        yield _whole_order(group)


def _whole_order(group: list[tuple[Numbered, LineRow | str]]) -> _Group:
    problems: dict[int, str] = {}
    head: LineRow | None = None
    for item, line in group:
        if isinstance(line, str):
            problems[item.line] = line
        elif head is None:
            head = line
        elif (line.member_id, line.ordered_at) != (head.member_id, head.ordered_at):
            problems[item.line] = f"order “{line.external_id}” has another member or time on its first line."
    if not problems:
        return group, []
    bad = min(problems)
    rest = f"line {bad} of the same order was refused; an order is loaded whole or not at all."
    return [], [Reject(item.line, problems.get(item.line, rest), item.row) for item, _ in group]


def _report(records: Sequence[Any], inserted: int, written: Mapping[str, int]) -> Report:
    return Report(inserted=inserted, updated=len(written) - inserted, unchanged=len(records) - len(written))


def _write_members(
    session: Session, records: Sequence[MemberRow], source: str, now: datetime, consents: ConsentWriter
) -> Report:
    common = {"source": source, "updated_at": now}
    inserted, written = upsert(session, Member, "external_id", records, common, {"created_at": now})
    changes = [
        ConsentChange(written[record.external_id], channel, "marketing", granted, "import", now)
        for record in records
        if record.external_id in written
        for channel, granted in record.consents.items()
    ]
    if changes:
        consents(session, changes)
    if written:
        mark(session, facts.MEMBERS, [None])
    return _report(records, inserted, written)


def _write_products(
    session: Session, records: Sequence[ProductRow], source: str, now: datetime, _consents: ConsentWriter
) -> Report:
    before = catalog.offers(session, source, (record.external_id for record in records))
    inserted, written = upsert(session, Product, "sku", records, {"source": source, "updated_at": now}, {})
    after = {
        record.external_id: before[record.external_id]._replace(
            **{name: record.values[name] for name in catalog.Offer._fields if name in record.values}
        )
        for record in records
        if record.external_id in before
    }
    catalog.note_changes(session, written, before, after, now)
    if written:
        mark(session, facts.PRODUCTS, [None])
    return _report(records, inserted, written)


def member_ids(session: Session, source: str, external_ids: Iterable[str], now: datetime) -> dict[str, int]:
    """Ids of members by external id; who is not known yet becomes a member with an id and nothing else."""
    wanted = set(external_ids)
    query = sa.select(Member.external_id, Member.id).where(Member.source == source)
    found: dict[str, int] = dict(
        session.execute(query.where(among(session, Member.external_id, wanted))).all()
    )
    missing = sorted(wanted - found.keys())
    if missing:
        columns = ("source", "external_id", "tags", "attributes", "fingerprint", "created_at", "updated_at")
        bare: list[tuple[Any, ...]] = [(source, external_id, [], {}, "", now, now) for external_id in missing]
        bulk_insert(session, Member.__table__, columns, bare, conflict=["source", "external_id"])
        found |= dict(session.execute(query.where(among(session, Member.external_id, missing))).all())
        mark(session, facts.MEMBERS, [None])
    return found


@dataclass
class _OrderGroup:
    lines: list[LineRow]

    def row(self, source: str, member_id: int, now: datetime) -> dict[str, Any]:
        head = self.lines[0]
        gone = [line.amount_minor for line in self.lines if line.status != "paid"]
        cancelled = all(line.status == "cancelled" for line in self.lines)
        return {
            "source": source,
            "external_id": head.external_id,
            "member_id": member_id,
            "ordered_at": head.ordered_at,
            "status": "cancelled" if cancelled else "refunded" if gone else "paid",
            "currency": head.currency,
            "total_minor": sum(line.amount_minor for line in self.lines),
            "discount_minor": sum(line.discount_minor for line in self.lines),
            "refunded_minor": sum(gone),
            "coupon_code": next((line.coupon_code for line in self.lines if line.coupon_code), None),
            "channel": head.channel,
            "fingerprint": lines_fingerprint(self.lines),
            "updated_at": now,
        }


_LINE_COLUMNS = (
    "order_id",
    "line_no",
    "sku",
    "category",
    "quantity",
    "amount_minor",
    "discount_minor",
    "refunded",
)


def _line_rows(order_id: int, lines: Sequence[LineRow]) -> Iterator[tuple[Any, ...]]:
    for number, line in enumerate(lines, 1):
        refunded = line.status != "paid"
        yield (
            order_id,
            number,
            line.sku,
            line.category,
            line.quantity,
            line.amount_minor,
            line.discount_minor,
            refunded,
        )


def _write_orders(
    session: Session, records: Sequence[LineRow], source: str, now: datetime, _consents: ConsentWriter
) -> Report:
    groups: dict[str, _OrderGroup] = {}
    for line in records:
        groups.setdefault(line.external_id, _OrderGroup([])).lines.append(line)
    members = member_ids(session, source, (line.member_id for line in records), now)
    known = existing(session, Order, "external_id", source, groups)
    new, changed = [], []
    for external_id, group in groups.items():
        row = group.row(source, members[group.lines[0].member_id], now)
        row_id, old = known.get(external_id, (None, None))
        if row_id is None:
            new.append(row)
        elif old != row["fingerprint"]:
            changed.append({**row, "id": row_id})
    ids = _insert_orders(session, new)
    before, named_before = _update_orders(session, changed)
    months = _one_a_month({row["ordered_at"] for row in (*new, *changed)} | before)
    ids |= {row["external_id"]: row["id"] for row in changed}
    named = (row["external_id"] for row in (*new, *changed) if row["coupon_code"])
    # An order that another import stored meanwhile has no id here: that import leaves its to-do.
    with_code = {ids[external_id] for external_id in named if external_id in ids} | named_before
    lines = (
        row
        for external_id, order_id in ids.items()
        for row in _line_rows(order_id, groups[external_id].lines)
    )
    bulk_insert(session, OrderLine.__table__, _LINE_COLUMNS, lines)
    bulk_insert(
        session,
        Todo.__table__,
        ("queue", "subject_id"),
        [
            *((LOYALTY_QUEUE, order_id) for order_id in ids.values()),
            *((COUPON_QUEUE, order_id) for order_id in sorted(with_code)),
        ],
    )
    mark(session, facts.ORDERS, months)
    mark(session, facts.ORDER_LINES, months)
    updated = sum(len(groups[row["external_id"]].lines) for row in changed)
    written = sum(len(groups[external_id].lines) for external_id in ids)
    return Report(inserted=written - updated, updated=updated, unchanged=len(records) - written)


def _one_a_month(times: Iterable[datetime]) -> list[datetime]:
    """A time of each month among ``times`` (in UTC): all that a mark needs."""
    return list({(at.year, at.month): at for at in times}.values())


def _insert_orders(session: Session, new: list[dict[str, Any]]) -> dict[str, int]:
    if not new:
        return {}
    columns = list(new[0])
    rows = (tuple(row[name] for name in columns) for row in new)
    found = bulk_insert(
        session,
        Order.__table__,
        columns,
        rows,
        conflict=["source", "external_id"],
        returning=["id", "external_id"],
    )
    return {external_id: order_id for order_id, external_id in found}


def _update_orders(session: Session, changed: list[dict[str, Any]]) -> tuple[set[datetime], set[int]]:
    """Update orders and clear their lines. Answers their old times, and the ids that named a code before."""
    if not changed:
        return set(), set()
    ids = [row["id"] for row in changed]
    before = session.execute(
        sa.select(Order.id, Order.ordered_at, Order.coupon_code).where(Order.id.in_(ids))
    ).all()
    session.execute(sa.delete(OrderLine).where(OrderLine.order_id.in_(ids)))
    session.execute(sa.update(Order), changed)
    return {row.ordered_at for row in before}, {row.id for row in before if row.coupon_code}


def _write_events(
    session: Session, records: Sequence[EventRow], source: str, now: datetime, _consents: ConsentWriter
) -> Report:
    members = member_ids(session, source, (record.member_id for record in records), now)
    columns = ("source", "external_id", "member_id", "kind", "occurred_at", "properties")
    rows = (
        (
            source,
            record.external_id,
            members[record.member_id],
            record.kind,
            record.occurred_at,
            record.properties,
        )
        for record in records
    )
    back = ["external_id", "id", "kind"]
    new = bulk_insert(
        session, Event.__table__, columns, rows, conflict=["source", "external_id"], returning=back
    )
    fresh = {external_id for external_id, _, _ in new}
    # Only the kinds that somebody waits for: a million page views leave no to-do.
    wanted = session.get(Preference, EVENT_KINDS)
    if wanted is not None and wanted.value:
        todos = ((EVENT_QUEUE, event_id) for _, event_id, kind in new if kind in wanted.value)
        bulk_insert(session, Todo.__table__, ("queue", "subject_id"), todos)
    mark(session, facts.EVENTS, {record.occurred_at for record in records if record.external_id in fresh})
    return Report(inserted=len(new), unchanged=len(records) - len(new))


_WRITERS: dict[str, Callable[..., Report]] = {
    "members": _write_members,
    "products": _write_products,
    "orders": _write_orders,
    "events": _write_events,
}
