"""Tables of members, catalogue, orders, events, and of the bookkeeping that every package shares."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import Mapped, mapped_column

from core.db import Base, BigId, Encrypted, Json, Minor, UTCDateTime


class Member(Base):
    """A customer. Contact details are encrypted; ``*_index`` is their keyed blind index."""

    __tablename__ = "members"
    __table_args__ = (sa.UniqueConstraint("source", "external_id"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    source: Mapped[str] = mapped_column(sa.String(40))
    external_id: Mapped[str] = mapped_column(sa.String(128))
    name: Mapped[str | None] = mapped_column(sa.String(200))
    email: Mapped[str | None] = mapped_column(Encrypted)
    email_index: Mapped[str | None] = mapped_column(sa.String(32), index=True)
    phone: Mapped[str | None] = mapped_column(Encrypted)
    phone_index: Mapped[str | None] = mapped_column(sa.String(32), index=True)
    openid: Mapped[str | None] = mapped_column(Encrypted)
    openid_index: Mapped[str | None] = mapped_column(sa.String(32), index=True)
    unionid: Mapped[str | None] = mapped_column(Encrypted)
    unionid_index: Mapped[str | None] = mapped_column(sa.String(32), index=True)
    wecom: Mapped[str | None] = mapped_column(Encrypted)
    """The customer's external_userid at WeCom."""
    wecom_index: Mapped[str | None] = mapped_column(sa.String(32), index=True)
    gender: Mapped[str | None] = mapped_column(sa.String(20))
    birthday: Mapped[date | None]
    city: Mapped[str | None] = mapped_column(sa.String(100))
    province: Mapped[str | None] = mapped_column(sa.String(100))
    country: Mapped[str | None] = mapped_column(sa.String(100))
    locale: Mapped[str | None] = mapped_column(sa.String(20))
    timezone: Mapped[str | None] = mapped_column(sa.String(60))
    registered_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    tags: Mapped[list[str]] = mapped_column(Json)
    """The shop's, and those that the console gave or took."""
    shop_tags: Mapped[list[str] | None] = mapped_column(Json)
    """As the last import said: what changes there is all that the next one changes in ``tags``."""
    attributes: Mapped[dict[str, Any]] = mapped_column(Json)
    fingerprint: Mapped[str] = mapped_column(sa.String(32))
    """Hash of the imported row: an equal one means that nothing changed."""
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime)
    erased_at: Mapped[datetime | None] = mapped_column(UTCDateTime)

    @hybrid_property
    def external_id_index(self) -> str | None:
        """What suppressions of the channel ``webhook`` are kept by: the id, which is no contact detail."""
        return str(self.id)

    @external_id_index.inplace.expression
    @classmethod
    def _external_id_index(cls) -> sa.ColumnElement[str]:
        return sa.cast(cls.id, sa.String(32))


TEST_SOURCE = "console-test"
"""The source of made-up members that test messages go to: in no list and no fact."""
IS_CUSTOMER = sa.and_(Member.erased_at.is_(None), Member.source != TEST_SOURCE)
"""Who lists and facts are about: not who was erased, nobody made up for a test."""


class Product(Base):
    __tablename__ = "products"
    __table_args__ = (sa.UniqueConstraint("source", "sku"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    source: Mapped[str] = mapped_column(sa.String(40))
    sku: Mapped[str] = mapped_column(sa.String(128))
    name: Mapped[str | None] = mapped_column(sa.String(300))
    category: Mapped[str | None] = mapped_column(sa.String(200), index=True)
    brand: Mapped[str | None] = mapped_column(sa.String(200))
    price_minor: Mapped[int | None] = mapped_column(Minor)
    currency: Mapped[str] = mapped_column(sa.String(3))
    margin: Mapped[float | None]
    """Share of the price that is margin, 0 to 1."""
    stock: Mapped[int | None]
    url: Mapped[str | None] = mapped_column(sa.String(1000))
    image_url: Mapped[str | None] = mapped_column(sa.String(1000))
    fingerprint: Mapped[str] = mapped_column(sa.String(32))
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime)


class ProductChange(Base):
    """A price or a stock that an import changed: what "back in stock" and "cheaper now" are told from."""

    __tablename__ = "product_changes"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    product_id: Mapped[int] = mapped_column(sa.ForeignKey("products.id"), index=True)
    at: Mapped[datetime] = mapped_column(UTCDateTime)
    old_price_minor: Mapped[int | None] = mapped_column(Minor)
    new_price_minor: Mapped[int | None] = mapped_column(Minor)
    old_stock: Mapped[int | None]
    new_stock: Mapped[int | None]


class Order(Base):
    """An order; ``total_minor`` is what its lines cost after discounts, before refunds."""

    __tablename__ = "orders"
    __table_args__ = (
        sa.UniqueConstraint("source", "external_id"),
        sa.Index("ix_orders_member_id_ordered_at", "member_id", "ordered_at"),
        # What a week brought is read from the index alone.
        sa.Index("ix_orders_ordered_at", "ordered_at", "status", "total_minor", "refunded_minor"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    source: Mapped[str] = mapped_column(sa.String(40))
    external_id: Mapped[str] = mapped_column(sa.String(128))
    member_id: Mapped[int] = mapped_column(sa.ForeignKey("members.id"))
    ordered_at: Mapped[datetime] = mapped_column(UTCDateTime)
    status: Mapped[str] = mapped_column(sa.String(20))
    """``paid``, ``refunded`` (wholly or in part: see ``refunded_minor``) or ``cancelled``."""
    currency: Mapped[str] = mapped_column(sa.String(3))
    total_minor: Mapped[int] = mapped_column(Minor)
    discount_minor: Mapped[int] = mapped_column(Minor)
    refunded_minor: Mapped[int] = mapped_column(Minor)
    coupon_code: Mapped[str | None] = mapped_column(sa.String(64))
    channel: Mapped[str | None] = mapped_column(sa.String(40))
    fingerprint: Mapped[str] = mapped_column(sa.String(32))
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime)


class OrderLine(Base):
    __tablename__ = "order_lines"

    order_id: Mapped[int] = mapped_column(sa.ForeignKey("orders.id", ondelete="CASCADE"), primary_key=True)
    line_no: Mapped[int] = mapped_column(primary_key=True)
    sku: Mapped[str | None] = mapped_column(sa.String(128))
    category: Mapped[str | None] = mapped_column(sa.String(200))
    quantity: Mapped[int]
    amount_minor: Mapped[int] = mapped_column(Minor)
    discount_minor: Mapped[int] = mapped_column(Minor)
    refunded: Mapped[bool]


class Event(Base):
    """Something a member did on the shop's pages, as the shop reports it."""

    __tablename__ = "events"
    __table_args__ = (
        sa.UniqueConstraint("source", "external_id"),
        sa.Index("ix_events_member_id_occurred_at", "member_id", "occurred_at"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    source: Mapped[str] = mapped_column(sa.String(40))
    external_id: Mapped[str] = mapped_column(sa.String(128))
    member_id: Mapped[int] = mapped_column(sa.ForeignKey("members.id"))
    kind: Mapped[str] = mapped_column(sa.String(60))
    occurred_at: Mapped[datetime] = mapped_column(UTCDateTime, index=True)
    properties: Mapped[dict[str, Any]] = mapped_column(Json)


class WarehouseMark(Base):
    """ "This month of this table changed": left by insert only, so that no row is hot."""

    __tablename__ = "warehouse_marks"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    table_name: Mapped[str] = mapped_column(sa.String(40))
    month: Mapped[str] = mapped_column(sa.String(7))
    """``YYYY-MM``, or ``all`` for tables without months."""


class Todo(Base):
    """A fact that another package has to act on, left in the fact's own transaction."""

    __tablename__ = "todos"
    __table_args__ = (sa.Index("ix_todos_queue_id", "queue", "id"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    queue: Mapped[str] = mapped_column(sa.String(40))
    """Who acts: ``loyalty.orders`` …"""
    subject_id: Mapped[int] = mapped_column(sa.BigInteger)


class Job(Base):
    """Long work that a page or the top bar shows: an import, a refresh, a run, a delivery."""

    __tablename__ = "jobs"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    kind: Mapped[str] = mapped_column(sa.String(40))
    label: Mapped[str] = mapped_column(sa.String(200))
    state: Mapped[str] = mapped_column(sa.String(20), index=True)
    """``running``, ``done`` or ``failed``."""
    done: Mapped[int] = mapped_column(default=0)
    total: Mapped[int | None]
    message: Mapped[str | None] = mapped_column(sa.Text)
    started_at: Mapped[datetime] = mapped_column(UTCDateTime)
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UTCDateTime)


class AuditEntry(Base):
    """Who changed or looked at what."""

    __tablename__ = "audit_entries"
    __table_args__ = (sa.Index("ix_audit_entries_object_type_object_id", "object_type", "object_id"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    at: Mapped[datetime] = mapped_column(UTCDateTime, index=True)
    actor: Mapped[str] = mapped_column(sa.String(200))
    action: Mapped[str] = mapped_column(sa.String(60))
    object_type: Mapped[str] = mapped_column(sa.String(40))
    object_id: Mapped[str] = mapped_column(sa.String(128))
    detail: Mapped[dict[str, Any]] = mapped_column(Json)


class Preference(Base):
    """A setting that marketers change in the console (RFM window, stage thresholds, names …)."""

    __tablename__ = "preferences"

    key: Mapped[str] = mapped_column(sa.String(60), primary_key=True)
    value: Mapped[Any] = mapped_column(Json)
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime)
