"""Loyalty → Promotions: the list, a form with the fields of each kind, and a basket to try them on.

Guarantees: the form saves only what it can show again; a promotion of a richer shape, such as nested
conditions, is shown as it is and never flattened. Trying writes nothing.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from flask_babel import get_locale, gettext
from werkzeug.wrappers import Response

from core.errors import Conflict, InvalidInput
from core.money import to_major
from loyalty.promotions import notices, store
from loyalty.promotions.explain import in_words
from loyalty.promotions.model import Basket, Promotion
from loyalty.promotions.models import PromotionRow
from loyalty.promotions.notice import plain
from loyalty.promotions.parse import read_request
from loyalty.promotions.stacking import evaluate
from web import context
from web.context import actor, reading, require, writing
from web.forms import Form
from web.refusals import said
from web.roles import Permission

bp = Blueprint("promotions", __name__, url_prefix="/loyalty/promotions")
KINDS = (
    "percent", "fixed", "fixed_each", "fixed_price", "buy_x_get_y", "tiered", "free_shipping", "gift",
    "points",
)  # fmt: skip
SCOPED = KINDS[:6]
SCOPE = ("skus", "categories", "exclude_skus", "exclude_categories")
MONEY = {
    "percent": ("max_amount",),
    "fixed": ("amount",),
    "fixed_each": ("amount",),
    "fixed_price": ("price",),
}
NUMBERS = {
    "fixed_each": ("max_units",), "fixed_price": ("count", "max_times"),
    "buy_x_get_y": ("buy", "get", "max_times"), "gift": ("quantity",),
}  # fmt: skip
TEXTS = {"percent": ("percent", "round"), "buy_x_get_y": ("percent",), "tiered": ("by",), "gift": ("sku",)}
COUNTED = {"nth_order": "n", "member_day": "day", "birthday": "within_days"}
LIMITS = ("stock", "per_member", "per_day")
LISTED = ("tier", "segment", "weekday")
ABOVE_ZERO = ("max_amount", "amount")
MISSING = "it is missing."
"""What the reader of promotions says of a field that is not there."""
_TIER = re.compile(r"benefit\.tiers\[(\d+)\]\.?(\w*)")
_CONDITION = re.compile(r"conditions\[(\d+)\]")
TIERS = range(5)
TRIED_LINES = range(5)


def kind_words() -> dict[str, str]:
    """What each kind of benefit is called."""
    return {
        "percent": gettext("Per cent off"),
        "fixed": gettext("An amount off"),
        "fixed_each": gettext("An amount off each unit"),
        "fixed_price": gettext("So many for a price"),
        "buy_x_get_y": gettext("Buy some, get some"),
        "tiered": gettext("Steps: spend more, save more"),
        "free_shipping": gettext("Free shipping"),
        "gift": gettext("A gift"),
        "points": gettext("Extra points"),
    }


def _zone() -> ZoneInfo:
    return context.console().settings.zone


def _currency() -> str:
    return context.console().settings.shop_currency


@bp.get("")
@require(Permission.VIEW)
def index() -> str:
    """Promotions in the order in which they are applied."""
    rows, now = store.live(reading()), context.now()
    public = notices.standings(reading(), rows, _zone(), _currency(), now)
    return render_template(
        "loyalty/promotions.html",
        rows=rows,
        kinds=kind_words(),
        now=now,
        late={row_id for row_id, one in public.items() if one.late},
    )


def _row(promotion_id: int) -> PromotionRow:
    found = reading().get(PromotionRow, promotion_id)
    if found is None:
        abort(404)
    return found


# --- The form ------------------------------------------------------------------------------------------


def _major(minor: int | None) -> str:
    return "" if minor is None else str(to_major(minor, _currency()))


def _data(row: PromotionRow) -> dict[str, Any]:
    """The form's fields of a stored promotion."""
    benefit, kind = row.benefit, row.benefit["type"]
    data: dict[str, Any] = {
        "name": row.name, "title": row.title, "priority": row.priority, "group": row.group or "",
        "code": row.code or "", "type": kind, "large_sale": "1" if row.large_sale else "",
        "exclusive": "1" if row.exclusive else "",
        "starts_at": _local(row.starts_at), "ends_at": _local(row.ends_at),
    }  # fmt: skip
    limits = {"stock": row.stock, "per_member": row.per_member_limit, "per_day": row.daily_limit}
    data |= {name: "" if limit is None else limit for name, limit in limits.items()}
    data |= {name: _major(benefit.get(name)) for name in MONEY.get(kind, ())}
    data |= {name: benefit.get(name) or "" for name in (*NUMBERS.get(kind, ()), *TEXTS.get(kind, ()))}
    data |= {name: ", ".join(benefit.get("scope", {}).get(name, ())) for name in SCOPE}
    if kind == "points":
        data |= {"points": benefit.get("amount") or "", "times": benefit.get("times") or ""}
    data["repeat"] = "1" if benefit.get("repeat") else ""
    for number, tier in enumerate(benefit.get("tiers", [])[: len(TIERS)]):
        data[f"tier-{number}-from"] = _major(tier["from"]) if benefit["by"] == "amount" else tier["from"]
        data[f"tier-{number}-off"] = _major(tier.get("off"))
        data[f"tier-{number}-percent"] = tier.get("percent") or ""
    for condition in row.conditions:
        data |= _condition_data(condition)
    return data


def _condition_data(condition: dict[str, Any]) -> dict[str, Any]:
    kind = condition["type"]
    if kind in ("min_subtotal", "max_subtotal"):
        return {kind: _major(condition["amount"])}
    if kind in LISTED:
        return {kind: ", ".join(map(str, condition["in"]))}
    if kind == "first_order":
        return {kind: "1"}
    return {kind: condition.get(COUNTED.get(kind, "quantity"), "")}


def _local(at: datetime | None) -> str:
    return "" if at is None else f"{at.astimezone(_zone()):%Y-%m-%dT%H:%M}"


def _list(form: Form, name: str, limit: int = 2000) -> list[str]:
    text = form.text(name, limit=limit).replace("，", ",").replace("、", ",")
    return [part.strip() for part in text.split(",") if part.strip()]


def _definition(form: Form) -> dict[str, Any]:
    """What the form asks for, as an evaluation's promotion without its id."""
    kind = form.choice("type", KINDS)
    scope = {name: found for name in SCOPE if (found := _list(form, name))}
    zone = _zone()
    starts_at, ends_at = form.time("starts_at", zone), form.time("ends_at", zone)
    limits = {name: number for name in LIMITS if (number := form.integer(name)) is not None}
    wanted: dict[str, Any] = {
        "priority": form.integer("priority", low=-1000, high=1000) or 0,
        "exclusive": form.flag("exclusive"),
        "group": form.text("group", limit=80) or None,
        "code": form.text("code", limit=80) or None,
        "starts_at": None if starts_at is None else starts_at.isoformat(),
        "ends_at": None if ends_at is None else ends_at.isoformat(),
        "limits": limits or None,
        "currency": _currency(),
        "benefit": _benefit(form, kind, scope),
        "conditions": _conditions(form, scope if kind in SCOPED else {}),
    }
    return {name: value for name, value in wanted.items() if value is not None}


def _benefit(form: Form, kind: str, scope: dict[str, list[str]]) -> dict[str, Any]:
    currency = _currency()
    found: dict[str, Any] = {
        name: form.money(name, currency, above_zero=name in ABOVE_ZERO) for name in MONEY.get(kind, ())
    }
    found |= {name: form.integer(name) for name in NUMBERS.get(kind, ())}
    found |= {name: form.text(name, limit=128) or None for name in TEXTS.get(kind, ())}
    if kind == "points":
        found |= {"amount": form.integer("points"), "times": form.text("times", limit=10) or None}
    if kind == "tiered":
        found |= {"tiers": _tiers(form), "repeat": form.flag("repeat") or None}
    if kind in SCOPED and scope:
        found["scope"] = scope
    return {"type": kind, **{name: value for name, value in found.items() if value is not None}}


def _tiers(form: Form) -> list[dict[str, Any]]:
    by_amount, currency, found = form.text("by") != "quantity", _currency(), []
    for number in TIERS:
        start = f"tier-{number}-from"
        tier: dict[str, Any] = {
            "from": form.money(start, currency) if by_amount else form.integer(start, low=1),
            "off": form.money(f"tier-{number}-off", currency),
            "percent": form.text(f"tier-{number}-percent", limit=10) or None,
        }
        if any(value is not None for value in tier.values()):
            found.append({name: value for name, value in tier.items() if value is not None})
    return found


def _conditions(form: Form, scope: dict[str, list[str]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    scoped = {"scope": scope} if scope else {}
    for kind in ("min_subtotal", "max_subtotal"):
        amount = form.money(kind, _currency())
        if amount is not None:
            found.append({"type": kind, "amount": amount, **scoped})
    number = form.integer("min_quantity", low=1)
    if number is not None:
        found.append({"type": "min_quantity", "quantity": number, **scoped})
    for kind, name in COUNTED.items():
        number = form.integer(kind)
        if number is not None:
            found.append({"type": kind, name: number})
    if form.flag("first_order"):
        found.append({"type": "first_order"})
    for kind in LISTED:
        values: list[Any] = _list(form, kind)
        if values:
            days = [int(value) if value.isdecimal() else value for value in values]
            found.append({"type": kind, "in": days if kind == "weekday" else values})
    return found


def _representable(row: PromotionRow) -> bool:
    """Whether the form, shown and sent back, would leave the promotion as it is."""
    if any(one["type"] in ("any", "all", "not") for one in row.conditions):
        return False
    form = Form(_data(row))
    again = _definition(form)
    same = sorted(again["conditions"], key=str) == sorted(row.conditions, key=str)
    return form.ok and same and again["benefit"] == row.benefit and row.currency == _currency()


def _edit_page(form: Form, row: PromotionRow | None, code: int = 200) -> tuple[str, int]:
    return render_template(
        "loyalty/promotion.html",
        form=form,
        row=row,
        kinds=kind_words(),
        tiers=TIERS,
        editable=row is None or (row.archived_at is None and _representable(row)),
        versions=[] if row is None else store.versions(reading(), row),
        public=None if row is None else _standing(row),
    ), code


def _standing(row: PromotionRow) -> notices.Standing:
    return notices.standing(reading(), row, _zone(), _currency(), context.now())


@bp.get("/new")
@require(Permission.EDIT)
def create() -> Any:
    return _edit_page(Form({"type": "percent", "priority": "0"}), None)


@bp.post("/new")
@require(Permission.EDIT)
def create_post() -> Any:
    form = Form(request.form)
    name = form.text("name", required=True, limit=80)
    taken = store.find(reading(), name)
    if taken is not None:
        form.error("name", gettext("There is a promotion of this name already."))
    return _save(form, name, None)


@bp.get("/<int:promotion_id>")
@require(Permission.VIEW)
def edit(promotion_id: int) -> Any:
    row = _row(promotion_id)
    return _edit_page(Form(_data(row)), row)


@bp.post("/<int:promotion_id>")
@require(Permission.EDIT)
def edit_post(promotion_id: int) -> Any:
    row = _row(promotion_id)
    if not _representable(row):
        abort(409)
    return _save(Form(request.form), row.name, row)


def _save(form: Form, name: str, row: PromotionRow | None) -> Any:
    title, definition = form.text("title", required=True), _definition(form)
    if form.ok:
        try:
            with writing() as session:
                store.save(
                    session,
                    name=name,
                    title=title,
                    definition=definition,
                    by=actor(),
                    now=context.now(),
                    large_sale=form.flag("large_sale"),
                )
        except InvalidInput as error:
            path = error.field or ""
            form.error(_field_of(path, definition["conditions"]), _told(error))
        except Conflict as error:
            form.error("name", said(error))
    if not form.ok:
        return _edit_page(form, row, 422)
    flash(gettext("Saved. Baskets are priced with it from now on."), "success")
    return redirect(url_for("promotions.index"), 303)


def _told(error: InvalidInput) -> str:
    """The refusal without the path of the API's field: it stands beside the form's own."""
    rest = str(error).removeprefix(f"{error.field}: ")
    return gettext("This is needed.") if rest == MISSING else said(rest)


def _field_of(path: str, conditions: list[dict[str, Any]]) -> str:
    """The form's field of a path such as ``benefit.tiers[0].from`` or ``conditions[1].in[0]``.

    A condition's field is called like its type.
    """
    tier, condition = _TIER.match(path), _CONDITION.match(path)
    if tier is not None:
        return f"tier-{tier[1]}-{tier[2] or 'from'}"
    if condition is not None:
        return str(conditions[int(condition[1])]["type"])
    last = path.rpartition(".")[2].partition("[")[0]
    return {"tiers": "tier-0-from", "benefit": "points"}.get(last, last)


@bp.post("/<int:promotion_id>/archive")
@require(Permission.EDIT)
def archive(promotion_id: int) -> Response:
    name = _row(promotion_id).name
    with writing() as session:
        store.archive(session, name, actor(), context.now())
    flash(gettext("Archived. No basket is priced with it any more."), "success")
    return redirect(url_for("promotions.index"), 303)


# --- Its rules for the public --------------------------------------------------------------------------


@bp.get("/<int:promotion_id>/notice")
@require(Permission.VIEW)
def notice(promotion_id: int) -> str:
    """The rules in words, what of them is public, and by when they had to be."""
    row = _row(promotion_id)
    found = _standing(row)
    return render_template(
        "loyalty/notice.html",
        row=row,
        standing=found,
        plain={language: plain(found.texts, language) for language in found.texts},
        address=f"{context.console().settings.base_url}/p/{row.name}/notice",
        history=notices.history(reading(), row),
    )


@bp.post("/<int:promotion_id>/notice")
@require(Permission.EDIT)
def publish_notice(promotion_id: int) -> Response:
    """Make the rules of now public, as a new number where they differ."""
    _row(promotion_id)
    with writing() as session:
        row = session.get_one(PromotionRow, promotion_id)
        notices.publish(session, row, _zone(), _currency(), actor(), context.now())
    flash(gettext("Published. This text stays readable under its number."), "success")
    return redirect(url_for("promotions.notice", promotion_id=promotion_id), 303)


# --- A basket to try them on ---------------------------------------------------------------------------


@bp.get("/try")
@require(Permission.VIEW)
def try_out() -> Any:
    """A basket priced step by step with the stored promotions."""
    form = Form(request.args or {"line-0-sku": "mug", "line-0-price": "100", "line-0-quantity": "1"})
    priced, words = None, []
    if request.args:
        basket = _basket(form)
        if form.ok:
            try:
                sent = read_request(basket, context.now())
                priced = evaluate(sent.basket, _for_try(sent.basket), _zone())
                place = 1 if str(get_locale()).startswith("zh") else 0
                words = [
                    (one.promotion, in_words(one.reason, priced.currency, _zone())[place])
                    for one in priced.rejected
                ]
            except InvalidInput as error:
                form.refuse(error)
    titles = {row.name: row.title for row in store.live(reading())}
    return render_template(
        "loyalty/promotion_try.html", form=form, lines=TRIED_LINES, priced=priced, words=words, titles=titles
    ), 200 if form.ok else 422


def _for_try(basket: Basket) -> list[Promotion]:
    """The stored promotions, with what the member named took of them."""
    session, now = reading(), context.now()
    found = store.active(session, now)
    member = basket.member.id if basket.member is not None else None
    if member is None:
        return found
    taken = store.member_takes(session, [member], [one.id for one in found], now)
    return store.for_member(found, taken.get(member, []), basket.at, _zone())


def _basket(form: Form) -> dict[str, Any]:
    currency, lines = _currency(), []
    for number in TRIED_LINES:
        sku = form.text(f"line-{number}-sku", limit=128)
        if sku:
            lines.append(
                {
                    "id": f"{number + 1}",
                    "sku": sku,
                    "category": form.text(f"line-{number}-category", limit=128) or None,
                    "unit_price": form.money(f"line-{number}-price", currency, required=True),
                    "quantity": form.integer(f"line-{number}-quantity", low=1, high=1_000_000, required=True),
                    "floor_price": form.money(f"line-{number}-floor", currency),
                }
            )
    return {
        "currency": currency,
        "lines": lines,
        "shipping": form.money("shipping", currency),
        "codes": _list(form, "codes"),
        "member": {
            "id": form.text("member", limit=128) or None,
            "tier": form.text("tier", limit=128) or None,
            "orders_placed": form.integer("orders_placed"),
            "segments": _list(form, "segments"),
        },
    }
