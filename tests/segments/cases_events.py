"""The table's part about what members did: aggregates, windows, sequences."""

from __future__ import annotations

from typing import Any

from tests.segments.rules_shop import EVIL, e, f, last, since, steps, then, without

ORDERS = [
    (e("order"), {1, 2, 5, 6}),
    (e("order", ">=", 2), {1}),  # a cancelled order is none
    (e("order", "=", 0), {3}),
    (e("order", "!=", 1), {1, 3}),
    (e("order", "between", [1, 2]), {1, 2, 5, 6}),
    (e("order", "in", [0, 2]), {1, 3}),
    (e("order", "not_in", [0, 2]), {2, 5, 6}),
    (e("order", "<", 1), {3}),
    (e("order", where=[f("amount", ">=", 20)]), {1}),
    (e("order", where=[f("amount", "=", 12.34)]), {2}),
    (e("order", where=[f("channel", "=", "web"), f("amount", "<", 15)]), {2}),
    (e("order", where=[f("channel", "is_not_set")]), {5, 6}),
    (e("order", where=[f("coupon_code", "starts_with", "SP")]), {1}),
    (e("order", where=[f("discount", ">", 0)]), {1}),
    (e("order", where=[f("status", "=", "cancelled")]), {1}),  # who names the status means it
    (e("order", where=[f("status", "=", "refunded")]), {5}),
    (e("order", ">=", 70, aggregate="sum", of="amount"), {1}),
    (e("order", "=", 10, aggregate="sum", of="amount"), {5}),  # net of what was refunded
    (e("order", "=", 0, aggregate="sum", of="amount"), {3}),
    (e("order", "=", 35, aggregate="avg", of="amount"), {1}),
    (e("order", "<=", 10, aggregate="avg", of="amount"), {5, 6}),  # no average without orders
    (e("order", ">=", 20, aggregate="min", of="amount"), {1}),
    (e("order", "between", [12, 50], aggregate="max", of="amount"), {1, 2}),
    (e("order", "=", 2, aggregate="distinct", of="channel"), {1}),
    (e("order", "=", 0, aggregate="distinct", of="channel"), {3, 5, 6}),
    (e("order", "<=", 30, aggregate="days_since"), {1, 2, 6}),
    (e("order", "=", 1, aggregate="days_since"), {2}),
    (e("order", ">", 30, aggregate="days_since"), {5}),
    (e("order", "=", 100, aggregate="days_since", where=[f("channel", "=", "web")]), {1}),
]
LINES = [
    (e("order", where=[f("category", "=", "coffee")]), {1, 5}),
    (e("order", "=", 2, where=[f("category", "=", "coffee")]), {1}),  # orders are counted, not lines
    (
        e("order", where=[f("category", "=", "tea")]),
        {1, 2},
    ),  # the catalogue knows it; a refunded line is none
    (e("order", where=[f("category", "=", "not ours")]), set()),
    (e("order", where=[f("brand", "=", "Leaf")]), {1, 2}),
    (e("order", where=[f("sku", "in", ["tea", "x"])]), {1, 2}),
    (e("order", where=[f("quantity", ">=", 2)]), {1}),
    (e("order", where=[f("category", "=", "coffee"), f("channel", "=", "app")]), {1}),
    (e("order", where=[f("category", "=", "coffee"), f("coupon_code", "is_set")]), {1}),
    (e("order", "=", 50, aggregate="sum", of="amount", where=[f("category", "=", "coffee")]), {1}),
    (e("order", ">", 0, aggregate="sum", of="discount", where=[f("category", "=", "tea")]), {1}),
    (e("order", ">=", 3, aggregate="sum", of="quantity"), {1}),
    (e("order", "=", 2, aggregate="max", of="quantity"), {1}),
    (e("order", "=", 2, aggregate="distinct", of="sku"), {1}),
    (
        e(
            "order",
            "=",
            100,
            aggregate="days_since",
            where=[f("sku", "=", "mug")],
            within={"before": "2026-01-01"},
        ),
        {1},
    ),
    (e("order", where=[f("status", "=", "cancelled"), f("sku", "=", "mug")]), {1}),
]
WINDOWS = [
    (e("order", within=last(10)), {1, 2}),  # the first moment of the window is in it
    (e("order", within=last(9)), {2}),
    (e("order", within=last(30)), {1, 2, 6}),
    (e("order", within=last(29)), {1, 2}),
    (e("order", within=last(1)), {2}),
    (e("order", ">=", 2, within=last(99)), set()),
    (
        e("order", within={"before": "2026-02-19"}),
        {1, 5, 6},
    ),  # the order at its first moment is not before it
    (e("order", "=", 1, within={"before": "2026-02-19"}), {1, 5, 6}),
    (e("order", "=", 2, within={"before": "2026-02-20"}), {1}),
    (
        e("order", within={"between": ["2026-01-30", "2026-02-19"]}),
        {6},
    ),  # from the first day, to before the last
    (e("order", within={"between": ["2026-01-31", "2026-02-20"]}), {1}),
    (e("order", within={"between": ["2026-02-28", "2026-04-01"]}), {2}),  # nothing after the as-of date
    (e("order", within={"before": "2027-01-01"}), {1, 2, 5, 6}),
    (e("order", ">=", 10, aggregate="sum", of="amount", within=last(30)), {1, 2}),
    (e("order", "=", 0, within=last(20)), {3, 5, 6}),
    (e("view", within=last(7)), {1, 2}),
    (e("view", ">=", 2, within=last(7)), {1}),
    (e("order", within=last(99999)), {1, 2, 5, 6}),
]
BEHAVIOUR = [
    (e("view"), {1, 2}),  # what happens on the as-of day does not count yet
    (e("view", "=", 0), {3, 5, 6}),
    (e("view", ">=", 3), {1}),
    (e("search", where=[f("q", "=", "100%")]), {3}),
    (e("view", ">=", 2, where=[f("sku", "=", "mug")]), {1}),
    (e("view", where=[f("dot.ted", "=", "y")]), {1}),
    (e("view", where=[f("dot.ted", "=", "n")]), set()),
    (e("view", where=[f("price", ">", 15)]), {1}),
    (e("view", where=[f("price", "is_set")]), {1, 2}),
    (e("view", "=", 1, where=[f("price", "is_not_set")]), {2}),
    (e("view", "=", 2, aggregate="distinct", of="sku"), {1}),
    (e("view", ">=", 30.5, aggregate="sum", of="price"), {1}),  # “dear” is no number
    (e("view", "=", 15.25, aggregate="avg", of="price"), {1}),
    (e("view", "=", 20, aggregate="max", of="price"), {1}),  # nor is “inf”
    (e("view", "=", 10.5, aggregate="min", of="price"), {1}),
    (e("view", "=", 7, aggregate="days_since", where=[f("sku", "is_set")]), {2}),
    (e("never"), set()),
    (e("pay", ">", 0.9, aggregate="sum", of="amount"), {5}),
]
LOYALTY_AND_MESSAGES = [
    (e("message_sent"), {1, 2}),
    (e("message_sent", where=[f("purpose", "=", "marketing")]), {1}),
    (e("message_opened"), {1}),  # the other opens after the as-of date
    (e("message_opened", within=last(3)), set()),
    (e("message_opened", within=last(4)), {1}),
    (e("message_clicked", where=[f("channel", "=", "sms")]), {2}),
    ({"not": e("message_opened", within=last(14))}, {2, 3, 5, 6}),
    (e("coupon_redeemed"), {1, 5}),  # given back by then is not redeemed; given back later is
    (e("coupon_redeemed", ">=", 5, aggregate="sum", of="amount"), {1}),
    (e("coupon_redeemed", "=", 8, aggregate="days_since"), {5}),
    (e("points_changed"), {1, 3}),
    (e("points_changed", ">=", 2), {1}),
    (e("points_changed", where=[f("kind", "=", "grant")]), {3}),
    (e("points_changed", "<=", -30, aggregate="min", of="delta"), {1}),
    (e("points_changed", "=", 70, aggregate="sum", of="delta"), {1}),
    (e("points_changed", where=[f("delta", "<", 0)], within=last(2)), {1}),
]
HOUR_WINDOWS = [
    (e("view", within={"last": "24h"}), {1}),  # exactly a day ago is in the window
    (e("view", within={"last": "23h"}), set()),
    (e("order", within={"last": "6h"}), {2}),
    (e("order", within={"last": "5h"}), set()),
    (e("view", ">=", 2, within={"last": "48h"}), {1}),
    (e("order", within={"before": "30d"}), {1, 5}),  # exactly 30 days ago is not before
    (e("order", within={"before": "29d"}), {1, 5, 6}),
    (e("order", "=", 1, within={"before": "240h"}), {1, 5, 6}),
    (e("order", within={"between": ["60d", "30d"]}), set()),
    (e("order", within={"between": ["61d", "29d"]}), {6}),
    (e("order", within={"between": ["30d", "29d"]}), {6}),  # the far end is in, the near one is not
    (e("view", "=", 2, within={"between": ["48h", "12h"]}), {1}),
    (e("view", "=", 1, within={"between": ["48h", "24h"]}), {1}),
    (e("order", "=", 2, within={"between": ["2025-01-01", "2026-03-01"]}), {1}),
]
FIRST_AND_LAST = [
    (e("order", "=", "2025-11-21", aggregate="first"), {1}),
    (e("order", "=", "2026-02-19", aggregate="last"), {1}),  # the cancelled one is none
    (e("order", "in_last", "10d", aggregate="last"), {1, 2}),
    (e("order", "in_last", "30d", aggregate="first"), {2, 6}),
    (e("order", "<", "2026-01-01", aggregate="last"), {5}),
    (e("order", "!=", "2026-02-19", aggregate="last"), {2, 5, 6}),
    (e("order", "between", ["2026-01-30", "2026-02-19"], aggregate="last"), {1, 6}),
    (e("order", "is_set", None, aggregate="first"), {1, 2, 5, 6}),
    (e("order", "is_not_set", None, aggregate="first"), {3}),
    (e("order", "anniversary_in", "166d", aggregate="first"), {5}),
    (e("order", "anniversary_in", "165d", aggregate="first"), set()),
    (e("order", "in_next", "30d", aggregate="last"), set()),
    (e("order", ">=", "2026-02-28", aggregate="last", where=[f("channel", "=", "web")]), {2}),
    (e("order", "=", "2026-01-30", aggregate="last", within=last(30)), {6}),
    (e("order", "=", "app", aggregate="last", of="channel"), {1}),
    (e("order", "=", "web", aggregate="first", of="channel"), {1, 2}),
    (e("order", "!=", "app", aggregate="last", of="channel"), {2}),
    (e("order", "is_not_set", None, aggregate="last", of="channel"), {3, 5, 6}),
    ({"not": e("order", "is_not_set", None, aggregate="last", of="channel")}, {1, 2}),
    (e("order", ">=", 30, aggregate="last", of="amount"), {1}),
    (e("order", "between", [10, 13], aggregate="last", of="amount"), {2, 5}),
    (e("order", "in", ["paid", "other"], aggregate="last", of="status"), {1, 2, 6}),
    (e("order", "=", "tea", aggregate="last", of="sku"), {1, 2}),  # the order's last line
    (e("order", "=", "mug", aggregate="first", of="sku"), {1, 5}),
    (e("order", "=", "Leaf", aggregate="last", of="brand"), {1, 2}),
    (e("order", "=", 2, aggregate="first", of="quantity", within=last(10)), {1}),
    (e("view", "=", "mug", aggregate="last", of="sku"), {1}),
    (e("view", "starts_with", "100%", aggregate="last", of="sku"), {2}),
    (e("view", "is_set", None, aggregate="first", of="sku"), {1}),  # the first one does not tell
    (e("view", ">=", 10, aggregate="last", of="price"), {1}),
    (e("view", ">", 0, aggregate="first", of="price"), set()),  # neither “dear” nor “inf” is a number
    (e("view", "contains", "dea", aggregate="first", of="price"), {1}),
    (e("tie", "=", "b", aggregate="last", of="v"), {1}),  # of one instant: the row that came later
    (e("tie", "=", "a", aggregate="first", of="v"), {1}),
    (e("tie", "is_set", None, aggregate="last", of="v"), {1}),
    (e("tie", "=", "x", aggregate="first", of="v"), {2}),
    (e("points_changed", "<", 0, aggregate="last", of="delta"), {1}),
    (e("points_changed", "=", "grant", aggregate="first", of="kind"), {3}),
    (e("coupon_redeemed", ">=", 5, aggregate="first", of="amount"), {1}),
    (e("message_sent", "=", "sms", aggregate="last", of="channel"), {2}),
    (e("message_opened", "=", "2026-02-25", aggregate="last"), {1}),
    (e("view", "=", 20, aggregate="max", of="properties.price"), {1}),
    (e("view", ">=", 2, where=[f("properties.sku", "=", "mug")]), {1}),
]
SINCE_EVENT = [
    (e("view", within=since("order")), {1}),
    (e("view", ">=", 2, within=since("order")), {1}),
    (e("view", ">=", 3, within=since("order", which="first")), {1}),
    (e("view", "=", 0, within=since("order")), {2, 3, 5, 6}),  # without an order there is nothing to count
    (e("view", "=", 1, within=since("order", limit="8d")), {1}),  # exactly 8 days after is in
    (e("view", within=since("order", limit="7d")), set()),
    (e("view", within=since("order", limit="191h")), set()),
    (e("view", ">=", 30.5, aggregate="sum", of="price", within=since("order")), {1}),
    (e("view", "=", "mug", aggregate="first", of="sku", within=since("order")), {1}),
    (e("view", ">=", 3, within=since("order", where=[f("channel", "=", "web")])), {1}),
    (e("order", within=since("view")), {2}),
    (e("order", within=since("view", limit="7d")), {2}),
    (e("order", within=since("view", limit="6d")), set()),
    (e("order", within=since("view", which="first")), {1, 2}),
    (e("order", where=[f("category", "=", "tea")], within=since("view", which="first")), {1, 2}),
    (e("order", "=", 10, aggregate="days_since", within=since("view", which="first")), {1}),
    (e("buy", within=since("cart", which="first")), {1, 2, 6}),  # at the same instant is not after
    (e("buy", within=since("cart")), {2, 6}),
    (e("buy", within=since("never")), set()),
    (e("points_changed", within=since("coupon_redeemed")), {1}),
    (e("order", within=since("message_sent")), {2}),
    ({"not": e("buy", within=since("cart"))}, {1, 3, 5}),
]
SEQUENCES = [
    (steps("cart", without("buy", "3d")), {1, 2, 5}),
    (steps("cart", without("buy", "3d"), within=last(7)), {1}),
    (steps("cart", without("buy", "4d")), {1, 5}),
    (steps("cart", without("buy", "120h")), {1, 5}),  # exactly five days are over
    (steps("cart", without("buy", "121h")), {5}),
    ({"not": steps("cart", without("buy", "3d"))}, {3, 6}),
    (steps("cart", "buy"), {1, 2, 6}),  # at the same instant is not later
    (steps("cart", then("buy", "1d")), {1, 6}),
    (steps("cart", then("buy", "23h")), set()),
    (steps("cart", then("buy", "4d")), {1, 2, 6}),
    (steps("cart", without("wish"), "buy"), {1, 2}),
    (steps("cart", without("wish"), then("buy", "1d")), {1}),
    (steps("buy", "cart"), {1, 6}),
    (steps("buy", then("cart", "1d")), {6}),
    (steps("buy", "cart", "buy"), {6}),
    (steps("buy", "cart", without("buy", "3d")), {1}),
    (steps("cart", "buy", without("cart", "10d")), {1, 6}),
    (steps("cart", "buy", without("cart", "14d")), set()),  # exactly 14 days later is within them
    (steps("buy", "cart", "wish", "buy"), {6}),
    (steps("buy", then("cart", "1d"), then("wish", "12h"), then("buy", "12h")), {6}),
    (steps("buy", then("cart", "1d"), then("wish", "12h"), then("buy", "11h")), set()),
    (steps("buy", "cart", "wish", "buy", without("cart", "10d")), {6}),
    (steps("buy", "cart", "wish", without("buy"), "buy"), {6}),
    (steps("cart", without("buy", "3d"), without("wish", "3d")), {1, 2, 5}),
    (steps("cart", without("wish", "3d"), without("never", "5d")), {1, 2, 5}),
    (steps("cart", "cart"), {1}),
    (steps("cart", without("cart", "30d")), set()),
    (steps("view", "order"), {1, 2}),
    (steps("order", without("order", "30d")), {1, 5, 6}),
    (steps("order", without("order", "91d")), {5}),
    (steps(then("order", where=[f("category", "=", "coffee")]), "order"), {1}),
    (steps(then("order", where=[f("amount", ">=", 20)]), without("message_opened", "2d")), {1}),
    (steps("message_sent", without("message_opened", "12h")), {1, 2}),
    (steps("message_sent", without("message_opened", "1d")), {2}),
    (steps("message_sent", "message_opened"), {1}),
    (steps("coupon_redeemed", "points_changed"), {1}),
    (steps("cart", "buy", within={"between": ["15d", "9d"]}), {6}),
    (steps("cart", "buy", within={"before": "15d"}), {1}),
    (steps("cart", without("buy", "9d"), within={"before": "15d"}), set()),
    (steps("cart", without("buy", "3d"), within={"between": ["10d", "9d"]}), {2}),
    (steps("never", "buy"), set()),
    (steps("never", without("buy", "1d")), set()),
    (steps(then("view", where=[f("sku", "=", EVIL)]), "order"), {2}),
]
EVENT_TABLE: list[tuple[dict[str, Any], set[int]]] = [
    *ORDERS,
    *LINES,
    *WINDOWS,
    *BEHAVIOUR,
    *LOYALTY_AND_MESSAGES,
    *HOUR_WINDOWS,
    *FIRST_AND_LAST,
    *SINCE_EVENT,
    *SEQUENCES,
]
