"""A second evaluation, slow and obvious: fractions, a list of units, dictionaries straight from JSON.

Written from the definitions alone: it imports nothing of the package it judges.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

Json = dict[str, Any]


def half_up(value: Fraction) -> int:
    return int((value + Fraction(1, 2)) // 1)


def water(amount: int, weights: list[int], caps: list[int]) -> list[int]:
    """The allocation, literally: proportional, capped, what was cut off refilled, largest remainder."""
    amount = min(amount, sum(caps))
    exact = [Fraction(0)] * len(caps)
    full: set[int] = {n for n, cap in enumerate(caps) if cap == 0}
    left = Fraction(amount)
    while left > 0:
        weight = sum(w for n, w in enumerate(weights) if n not in full)
        poured = {n: left * w / weight for n, w in enumerate(weights) if n not in full}
        left = Fraction(0)
        for n, more in poured.items():
            exact[n] += more
            if exact[n] >= caps[n]:
                left += exact[n] - caps[n]
                exact[n] = Fraction(caps[n])
                full.add(n)
    shares = [int(x // 1) for x in exact]
    by_remainder = sorted(range(len(caps)), key=lambda n: (-(exact[n] - shares[n]), n))
    for n in by_remainder[: amount - sum(shares)]:
        shares[n] += 1
    return shares


def in_scope(line: Json, scope: Json | None) -> bool:
    scope = scope or {}
    if line["sku"] in scope.get("exclude_skus", []) or line.get("category") in scope.get(
        "exclude_categories", []
    ):
        return False
    if "skus" not in scope and "categories" not in scope:
        return True
    return line["sku"] in scope.get("skus", []) or line.get("category") in scope.get("categories", [])


class Oracle:
    def __init__(self, basket: Json) -> None:
        self.basket = basket
        self.lines = basket["lines"]
        self.running = [line["unit_price"] * line["quantity"] for line in self.lines]
        self.shipping = basket.get("shipping", 0)

    def places(self, scope: Json | None) -> list[int]:
        return [n for n, line in enumerate(self.lines) if in_scope(line, scope)]

    def above(self, n: int) -> int:
        line = self.lines[n]
        return max(0, self.running[n] - line.get("floor_price", 0) * line["quantity"])

    def units(self, scope: Json | None) -> list[tuple[int, int]]:
        """(price, line), a unit each: the line's total spread over its units."""
        found = []
        for n in self.places(scope):
            quantity = self.lines[n]["quantity"]
            for unit in range(quantity):
                found.append((self.running[n] // quantity + (unit < self.running[n] % quantity), n))
        return found

    def holds(self, condition: Json) -> bool:
        kind, member = condition["type"], self.basket.get("member") or {}
        inside = self.places(condition.get("scope"))
        if kind == "min_subtotal":
            return sum(self.running[n] for n in inside) >= condition["amount"]
        if kind == "max_subtotal":
            return sum(self.running[n] for n in inside) <= condition["amount"]
        if kind == "min_quantity":
            return sum(self.lines[n]["quantity"] for n in inside) >= condition["quantity"]
        if kind == "first_order":
            return member.get("orders_placed") == 0
        if kind == "nth_order":
            return "orders_placed" in member and member["orders_placed"] + 1 == condition["n"]
        if kind == "tier":
            return member.get("tier") in condition["in"]
        if kind == "segment":
            return bool(set(member.get("segments", [])) & set(condition["in"]))
        if kind == "any":
            return any(self.holds(part) for part in condition["conditions"])
        if kind == "all":
            return all(self.holds(part) for part in condition["conditions"])
        assert kind == "not"
        return not self.holds(condition["condition"])

    def allocated(self, amount: int, places: list[int]) -> dict[int, int]:
        shares = water(amount, [self.running[n] for n in places], [self.above(n) for n in places])
        return dict(zip(places, shares, strict=True))

    def off(self, benefit: Json) -> dict[int, int]:
        kind, inside = benefit["type"], self.places(benefit.get("scope"))
        value = sum(self.running[n] for n in inside)
        if kind == "fixed":
            return self.allocated(benefit["amount"], inside)
        if kind == "percent":
            rate, most = Fraction(str(benefit["percent"])) / 100, benefit.get("max_amount")
            if benefit.get("round") != "line":
                off = half_up(value * rate)
                return self.allocated(off if most is None else min(off, most), inside)
            each = {n: min(half_up(self.running[n] * rate), self.above(n)) for n in inside}
            if most is not None and sum(each.values()) > most:
                shares = water(most, [self.running[n] for n in inside], [each[n] for n in inside])
                each = dict(zip(inside, shares, strict=True))
            return each
        if kind == "tiered":
            have = value if benefit["by"] == "amount" else sum(self.lines[n]["quantity"] for n in inside)
            reached = [tier for tier in benefit["tiers"] if tier["from"] <= have]
            if not reached:
                return {}
            best = max(reached, key=lambda tier: tier["from"])
            if "percent" in best:
                return self.allocated(half_up(value * Fraction(str(best["percent"])) / 100), inside)
            return self.allocated(
                best["off"] * (have // best["from"] if benefit.get("repeat") else 1), inside
            )
        return self.off_units(benefit)

    def off_units(self, benefit: Json) -> dict[int, int]:
        kind, units = benefit["type"], self.units(benefit.get("scope"))
        dearest = sorted(units, key=lambda unit: (-unit[0], unit[1]))
        cheapest = sorted(units, key=lambda unit: (unit[0], unit[1]))
        floor = [line.get("floor_price", 0) for line in self.lines]
        found: dict[int, int] = {}
        if kind == "fixed_each":
            most = benefit.get("max_units")
            for price, n in dearest if most is None else dearest[:most]:
                found[n] = found.get(n, 0) + min(benefit["amount"], max(0, price - floor[n]))
        elif kind == "buy_x_get_y":
            times = len(units) // (benefit["buy"] + benefit["get"])
            times = min(times, benefit.get("max_times", times))
            for price, n in cheapest[: times * benefit["get"]]:
                off = half_up(price * Fraction(str(benefit.get("percent", 100))) / 100)
                found[n] = found.get(n, 0) + min(off, max(0, price - floor[n]))
        else:
            assert kind == "fixed_price"
            count, saved, inside = benefit["count"], 0, []
            for turn in range(min(len(units) // count, benefit.get("max_times", len(units)))):
                bundle = dearest[turn * count : (turn + 1) * count]
                if sum(price for price, _ in bundle) > benefit["price"]:
                    saved += sum(price for price, _ in bundle) - benefit["price"]
                    inside += bundle
            places = sorted({n for _, n in inside})
            weights = [sum(price for price, m in inside if m == n) for n in places]
            caps = [sum(max(0, price - floor[n]) for price, m in inside if m == n) for n in places]
            found = dict(zip(places, water(saved, weights, caps), strict=True))
        return found

    def effect(self, promotion: Json) -> tuple[dict[int, int], int] | None:
        """What the promotion takes off lines and shipping; None where it does not apply."""
        if promotion.get("code") and promotion["code"] not in self.basket.get("codes", []):
            return None
        if not all(self.holds(condition) for condition in promotion.get("conditions", [])):
            return None
        kind = promotion["benefit"]["type"]
        if kind in ("gift", "points"):
            return {}, 0
        if kind == "free_shipping":
            return ({}, self.shipping) if self.shipping else None
        off = {n: amount for n, amount in self.off(promotion["benefit"]).items() if amount}
        return (off, 0) if off else None


def evaluate(basket: Json) -> Json:
    """Line totals, shipping, and who was applied with what, in order."""
    oracle = Oracle(basket)
    order = sorted(basket["promotions"], key=lambda one: one["id"])
    order.sort(key=lambda one: one.get("priority", 0), reverse=True)
    for promotion in order:
        if promotion.get("exclusive") and oracle.effect(promotion) is not None:
            order = [promotion]
            break
    groups: set[str] = set()
    applied = []
    for promotion in order:
        if promotion.get("group") in groups:
            continue
        found = oracle.effect(promotion)
        if found is None:
            continue
        off, shipping = found
        for n, amount in off.items():
            oracle.running[n] -= amount
        oracle.shipping -= shipping
        applied.append((promotion["id"], sum(off.values()) + shipping))
        if promotion.get("group"):
            groups.add(promotion["group"])
    return {"totals": oracle.running, "shipping": oracle.shipping, "applied": applied}
