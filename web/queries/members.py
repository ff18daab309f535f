"""Members: lists, and everything about one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.models import Campaign, CampaignRun, Decision
from channels.models import Consent, ConsentEvent, Message, MessageEvent, Suppression, Template
from core.contacts import ADDRESS_COLUMN, CHANNELS
from core.models import IS_CUSTOMER, AuditEntry, Event, Member, Order
from core.warehouse.engine import DuckEngine
from loyalty.models import Coupon, CouponBatch, PointsEntry, PointsLot, Redemption
from segments.models import StageChange
from segments.scores import SNAPSHOT, SNAPSHOT_SCHEMA, snapshot_path
from web.paging import PAGE_ROWS, Page, offset, page_of

EACH = 150
"""The newest of each kind that a timeline reads."""
TIMELINE = 200
TOUCHES = ("opened", "clicked", "unsubscribed", "complaint", "hard_bounce", "soft_bounce")
"""Events of a message that a timeline shows besides the message itself."""
DECISIONS = 50
COUPONS = 50


@dataclass(frozen=True)
class MemberRow:
    id: int
    external_id: str
    name: str | None
    city: str | None
    registered_at: datetime | None
    orders: int
    spent_minor: int
    last_order_at: datetime | None


@dataclass(frozen=True)
class Moment:
    """One entry of the timeline. ``detail`` depends on ``kind`` (see the page's template)."""

    at: datetime
    kind: str
    code: str
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DecisionRow:
    campaign: str
    title: str
    reason: str | None
    arm: str | None
    channel: str | None
    coupon_code: str | None
    points: int
    at: datetime
    state: str | None
    """The message's state, where there is one."""
    state_reason: str | None


@dataclass(frozen=True)
class CouponRow:
    code: str
    title: str
    batch_id: int
    state: str
    valid_until: datetime | None


@dataclass(frozen=True)
class ConsentRow:
    channel: str
    purpose: str
    granted: bool
    source: str
    at: datetime


def rows_of(session: Session, ids: Sequence[int]) -> list[MemberRow]:
    """List rows of these members, in the order given; two queries."""
    if not ids:
        return []
    members = session.execute(
        sa.select(Member.id, Member.external_id, Member.name, Member.city, Member.registered_at).where(
            Member.id.in_(ids)
        )
    ).all()
    orders = {
        row.member_id: row
        for row in session.execute(
            sa.select(
                Order.member_id,
                sa.func.count().label("orders"),
                sa.func.sum(Order.total_minor - Order.refunded_minor).label("spent"),
                sa.func.max(Order.ordered_at).label("last"),
            )
            .where(Order.member_id.in_(ids), Order.status != "cancelled")
            .group_by(Order.member_id)
        )
    }
    place = {member_id: index for index, member_id in enumerate(ids)}
    found = [
        MemberRow(
            row.id,
            row.external_id,
            row.name,
            row.city,
            row.registered_at,
            orders[row.id].orders if row.id in orders else 0,
            int(orders[row.id].spent or 0) if row.id in orders else 0,
            orders[row.id].last if row.id in orders else None,
        )
        for row in members
    ]
    return sorted(found, key=lambda row: place[row.id])


def newest(session: Session, number: int) -> Page[MemberRow]:
    """Members, the latest known first."""
    ids = session.scalars(
        sa.select(Member.id)
        .where(IS_CUSTOMER)
        .order_by(Member.id.desc())
        .offset(offset(number))
        .limit(PAGE_ROWS + 1)
    ).all()
    return page_of(rows_of(session, ids), number)


def of_ids(session: Session, external_ids: Sequence[str]) -> list[MemberRow]:
    """List rows of members by the shop's ids: a sample."""
    ids = session.scalars(sa.select(Member.id).where(Member.external_id.in_(external_ids))).all()
    return rows_of(session, ids)


def get(session: Session, member_id: int) -> Member | None:
    return session.get(Member, member_id)


def timeline(session: Session, member_id: int) -> list[Moment]:
    """What happened, newest first: one query for each kind of fact."""
    found: list[Moment] = []
    for reader in (_orders, _events, _messages, _coupons, _redemptions, _points, _stages, _consents):
        found += reader(session, member_id)
    found.sort(key=lambda moment: moment.at, reverse=True)
    return found[:TIMELINE]


def _orders(session: Session, member_id: int) -> list[Moment]:
    query = sa.select(Order).where(Order.member_id == member_id).order_by(Order.ordered_at.desc()).limit(EACH)
    return [
        Moment(
            order.ordered_at,
            "order",
            order.status,
            {
                "id": order.external_id,
                "total": order.total_minor,
                "refunded": order.refunded_minor,
                "currency": order.currency,
                "coupon": order.coupon_code,
            },
        )
        for order in session.scalars(query)
    ]


def _events(session: Session, member_id: int) -> list[Moment]:
    query = (
        sa.select(Event.occurred_at, Event.kind, Event.properties)
        .where(Event.member_id == member_id)
        .order_by(Event.occurred_at.desc())
        .limit(EACH)
    )
    return [
        Moment(at, "event", kind, {"properties": properties or {}})
        for at, kind, properties in session.execute(query)
    ]


def _messages(session: Session, member_id: int) -> list[Moment]:
    messages = (
        sa.select(Message.id, Message.channel, Message.state, Message.reason, Message.sent_at,
                  Message.created_at, Message.source_kind, Template.name)
        .join(Template, Template.id == Message.template_id)
        .where(Message.member_id == member_id)
        .order_by(Message.created_at.desc())
        .limit(EACH)
    )  # fmt: skip
    rows = session.execute(messages).all()
    found = [
        Moment(
            row.sent_at or row.created_at,
            "message",
            row.state,
            {
                "channel": row.channel,
                "template": row.name,
                "reason": row.reason,
                "source": row.source_kind,
                "id": row.id,
            },
        )
        for row in rows
    ]
    if rows:
        channel = {row.id: (row.channel, row.name) for row in rows}
        events = session.execute(
            sa.select(MessageEvent.at, MessageEvent.kind, MessageEvent.actor, MessageEvent.message_id)
            .where(
                MessageEvent.message_id.in_(channel),
                MessageEvent.kind.in_(TOUCHES),
            )
            .order_by(MessageEvent.at.desc())
            .limit(EACH)
        )  # fmt: skip
        found += [
            Moment(
                at,
                "touch",
                kind,
                {"actor": who, "channel": channel[message][0], "template": channel[message][1]},
            )
            for at, kind, who, message in events
        ]
    return found


def _coupons(session: Session, member_id: int) -> list[Moment]:
    query = (
        sa.select(Coupon.issued_at, Coupon.code, CouponBatch.title)
        .join(CouponBatch, CouponBatch.id == Coupon.batch_id)
        .where(Coupon.member_id == member_id)
        .order_by(Coupon.issued_at.desc())
        .limit(EACH)
    )
    return [
        Moment(at, "coupon", "issued", {"code": code, "title": title})
        for at, code, title in session.execute(query)
    ]


def _redemptions(session: Session, member_id: int) -> list[Moment]:
    query = (
        sa.select(Redemption, Coupon.code, CouponBatch.title)
        .join(Coupon, Coupon.id == Redemption.coupon_id)
        .join(CouponBatch, CouponBatch.id == Coupon.batch_id)
        .where(Redemption.member_id == member_id)
        .order_by(Redemption.redeemed_at.desc())
        .limit(EACH)
    )
    found = []
    for redemption, code, title in session.execute(query):
        detail = {
            "code": code,
            "title": title,
            "discount": redemption.discount_minor,
            "currency": redemption.currency,
            "order": redemption.order_ref,
        }
        found.append(Moment(redemption.redeemed_at, "coupon", "redeemed", detail))
        if redemption.rolled_back_at is not None:
            found.append(Moment(redemption.rolled_back_at, "coupon", "rolled_back", detail))
    return found


def _points(session: Session, member_id: int) -> list[Moment]:
    query = (
        sa.select(PointsEntry.at, PointsEntry.kind, PointsEntry.delta, PointsEntry.note)
        .where(PointsEntry.member_id == member_id)
        .order_by(PointsEntry.at.desc(), PointsEntry.id.desc())
        .limit(EACH)
    )
    return [
        Moment(at, "points", kind, {"delta": delta, "note": note})
        for at, kind, delta, note in session.execute(query)
    ]


def _stages(session: Session, member_id: int) -> list[Moment]:
    query = (
        sa.select(StageChange.as_of, StageChange.from_stage, StageChange.to_stage)
        .where(StageChange.member_id == member_id)
        .order_by(StageChange.as_of.desc())
        .limit(EACH)
    )
    return [
        Moment(datetime(as_of.year, as_of.month, as_of.day, tzinfo=UTC), "stage", after, {"before": before})
        for as_of, before, after in session.execute(query)
    ]


def _consents(session: Session, member_id: int) -> list[Moment]:
    query = (
        sa.select(ConsentEvent)
        .where(ConsentEvent.member_id == member_id)
        .order_by(ConsentEvent.at.desc())
        .limit(EACH)
    )
    return [
        Moment(
            row.at,
            "consent",
            "granted" if row.granted else "withdrawn",
            {"channel": row.channel, "purpose": row.purpose, "source": row.source},
        )
        for row in session.scalars(query)
    ]


def decisions(session: Session, member_id: int) -> list[DecisionRow]:
    """Why this member was, or was not, messaged: the newest decisions with their campaign and message."""
    query = (
        sa.select(Campaign.name, Campaign.title, Decision, Message.state, Message.reason)
        .join(CampaignRun, CampaignRun.id == Decision.run_id)
        .join(Campaign, Campaign.id == CampaignRun.campaign_id)
        .outerjoin(
            Message,
            sa.and_(
                Message.member_id == Decision.member_id,
                Message.source_kind == "run",
                Message.source_id == Decision.run_id,
                Message.channel == Decision.channel,
            ),
        )
        .where(Decision.member_id == member_id)
        .order_by(Decision.at.desc())
        .limit(DECISIONS)
    )
    return [
        DecisionRow(
            name,
            title,
            one.reason,
            one.arm,
            one.channel,
            one.coupon_code,
            one.points,
            one.at,
            state,
            state_reason,
        )
        for name, title, one, state, state_reason in session.execute(query)
    ]


def coupons(session: Session, member_id: int) -> list[CouponRow]:
    query = (
        sa.select(Coupon.code, CouponBatch.title, CouponBatch.id, Coupon.state, Coupon.valid_until)
        .join(CouponBatch, CouponBatch.id == Coupon.batch_id)
        .where(Coupon.member_id == member_id)
        .order_by(sa.case((Coupon.state == "issued", 0), else_=1), Coupon.id.desc())
        .limit(COUPONS)
    )
    return [CouponRow(*row) for row in session.execute(query)]


@dataclass(frozen=True)
class Points:
    available: int
    pending: int
    next_expiry: datetime | None
    next_expiring: int


def points(session: Session, member_id: int, now: datetime) -> Points:
    """Points that can be spent, that wait, and that run out next."""
    live = sa.and_(
        PointsLot.member_id == member_id,
        PointsLot.remaining > 0,
        sa.or_(PointsLot.expires_at.is_(None), PointsLot.expires_at > now),
    )
    available, pending = session.execute(
        sa.select(
            sa.func.coalesce(
                sa.func.sum(sa.case((PointsLot.available_at <= now, PointsLot.remaining), else_=0)), 0
            ),
            sa.func.coalesce(
                sa.func.sum(sa.case((PointsLot.available_at > now, PointsLot.remaining), else_=0)), 0
            ),
        ).where(live)
    ).one()
    following = session.execute(
        sa.select(PointsLot.expires_at, sa.func.sum(PointsLot.remaining))
        .where(live, PointsLot.expires_at.is_not(None), PointsLot.available_at <= now)
        .group_by(PointsLot.expires_at)
        .order_by(PointsLot.expires_at)
        .limit(1)
    ).first()
    return Points(
        int(available),
        int(pending),
        following[0] if following else None,
        int(following[1]) if following else 0,
    )


def consents(session: Session, member_id: int) -> list[ConsentRow]:
    query = (
        sa.select(Consent).where(Consent.member_id == member_id).order_by(Consent.channel, Consent.purpose)
    )
    return [
        ConsentRow(row.channel, row.purpose, row.granted, row.source, row.at)
        for row in session.scalars(query)
    ]


def suppressions(session: Session, member: Member) -> list[tuple[str, str, datetime]]:
    """(channel, reason, since) of the member's addresses that must not be written to."""
    pairs = [
        (channel, index)
        for channel in CHANNELS
        if (index := getattr(member, f"{ADDRESS_COLUMN[channel]}_index")) is not None
    ]
    if not pairs:
        return []
    query = sa.select(Suppression.channel, Suppression.reason, Suppression.at).where(
        sa.or_(
            *(
                sa.and_(Suppression.channel == channel, Suppression.address_index == index)
                for channel, index in pairs
            )
        )
    )
    return [(row.channel, row.reason, row.at) for row in session.execute(query)]


def standing(engine: DuckEngine, member_id: int, as_of: date | None) -> dict[str, Any] | None:
    """The member's row of the newest snapshot: scores, stage, since when. None without one."""
    path = snapshot_path(engine, SNAPSHOT, as_of)
    if path is None:
        return None
    with engine.connect() as connection:
        engine.add_view(connection, "snapshot", path, SNAPSHOT_SCHEMA)
        found = connection.sql("SELECT * FROM snapshot WHERE member_id = $id", params={"id": member_id})
        rows: list[dict[str, Any]] = found.to_arrow_table().to_pylist()
    return rows[0] if rows else None


def history(session: Session, object_type: str, object_id: str, limit: int = 20) -> list[AuditEntry]:
    """Who changed or looked at an object, newest first."""
    query = (
        sa.select(AuditEntry)
        .where(AuditEntry.object_type == object_type, AuditEntry.object_id == object_id)
        .order_by(AuditEntry.id.desc())
        .limit(limit)
    )
    return list(session.scalars(query))
