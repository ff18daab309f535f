"""The fact tables that core gives to the warehouse. No contact detail, and nobody who was erased."""

from __future__ import annotations

import sqlalchemy as sa

from core.models import IS_CUSTOMER, Event, Member, Order, OrderLine, Product, ProductChange
from core.warehouse.replica import Fact

MEMBERS, ORDERS, ORDER_LINES, PRODUCTS, EVENTS = "members", "orders", "order_lines", "products", "events"
PRODUCT_CHANGES = "product_changes"

_net = sa.case((Order.status == "cancelled", 0), else_=Order.total_minor - Order.refunded_minor)

FACTS = (
    Fact(
        MEMBERS,
        sa.select(
            Member.id.label("member_id"),
            Member.external_id,
            Member.source,
            Member.gender,
            Member.birthday,
            Member.city,
            Member.province,
            Member.country,
            Member.locale,
            Member.timezone,
            Member.registered_at,
            Member.email_index.is_not(None).label("has_email"),
            Member.phone_index.is_not(None).label("has_phone"),
            Member.openid_index.is_not(None).label("has_wechat"),
            sa.cast(Member.tags, sa.Text).label("tags"),
            sa.cast(Member.attributes, sa.Text).label("attributes"),
        ).where(IS_CUSTOMER),
        None,
    ),
    Fact(
        ORDERS,
        sa.select(
            Order.id.label("order_id"),
            Order.member_id,
            Order.external_id,
            Order.ordered_at,
            Order.status,
            Order.total_minor,
            Order.refunded_minor,
            sa.type_coerce(_net, sa.BigInteger).label("net_minor"),
            Order.discount_minor,
            Order.coupon_code,
            Order.channel,
        )
        .join(Member, Member.id == Order.member_id)
        .where(IS_CUSTOMER),
        "ordered_at",
    ),
    Fact(
        ORDER_LINES,
        sa.select(
            OrderLine.order_id,
            OrderLine.line_no,
            Order.member_id,
            Order.ordered_at,
            Order.status,
            Order.source,
            OrderLine.sku,
            OrderLine.category,
            OrderLine.quantity,
            OrderLine.amount_minor,
            OrderLine.discount_minor,
            OrderLine.refunded,
        )
        .join(Order, Order.id == OrderLine.order_id)
        .join(Member, Member.id == Order.member_id)
        .where(IS_CUSTOMER),
        "ordered_at",
    ),
    Fact(
        PRODUCTS,
        sa.select(
            Product.id.label("product_id"),
            Product.source,
            Product.sku,
            Product.name,
            Product.category,
            Product.brand,
            Product.price_minor,
            Product.margin,
            Product.stock,
            Product.url,
            Product.image_url,
        ),
        None,
    ),
    Fact(
        PRODUCT_CHANGES,
        sa.select(
            Product.source,
            Product.sku,
            ProductChange.at.label("changed_at"),
            ProductChange.old_price_minor,
            ProductChange.new_price_minor,
            ProductChange.old_stock,
            ProductChange.new_stock,
        ).join(Product, Product.id == ProductChange.product_id),
        "changed_at",
    ),
    Fact(
        EVENTS,
        sa.select(
            Event.id.label("event_id"),
            Event.member_id,
            Event.kind,
            Event.occurred_at,
            sa.cast(Event.properties, sa.Text).label("properties"),
        )
        .join(Member, Member.id == Event.member_id)
        .where(IS_CUSTOMER),
        "occurred_at",
    ),
)
