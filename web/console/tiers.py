"""Loyalty: the ladder of tiers, who stands where, and a simulation before it is changed."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask_babel import gettext

from core.errors import InvalidInput
from core.money import to_major
from loyalty.tiers import review, store
from loyalty.tiers.model import BASES, MAX_TIERS, SPEND, WINDOWS, Program, Tier
from web import context
from web.context import actor, reading, require, writing
from web.forms import Form
from web.queries import points as queries
from web.roles import Permission

bp = Blueprint("tiers", __name__, url_prefix="/loyalty/tiers")
SPARE_ROWS = 2


def _form(program: Program) -> Form:
    data: dict[str, Any] = {
        "basis": program.basis,
        "window": program.window,
        "months": program.months,
        "grace_days": program.grace_days,
    }
    for place, tier in enumerate(program.tiers):
        spend = program.basis == SPEND
        values = {
            "name": tier.name,
            "title": tier.title,
            "title_en": tier.title_en or "",
            "threshold": to_major(tier.threshold, program.currency) if spend else tier.threshold,
            "multiplier": tier.benefits.get("multiplier", ""),
            "birthday_batch": tier.benefits.get("birthday_batch", ""),
            "free_shipping": "1" if tier.benefits.get("free_shipping") else "",
            "early_access_hours": tier.benefits.get("early_access_hours", ""),
        }
        data |= {f"tier-{place}-{name}": value for name, value in values.items()}
    return Form(data)


def _read(form: Form) -> Program | None:
    """The programme typed in; None with the errors beside their fields."""
    settings = context.console().settings
    basis, window = form.choice("basis", BASES), form.choice("window", WINDOWS)
    months = form.integer("months", low=1, high=120, required=True)
    grace = form.integer("grace_days", high=366, required=True)
    tiers = []
    for place, row in form.rows("tier"):
        if not row.get("name"):
            continue
        at = f"tier-{place}-"
        threshold = (
            form.money(f"{at}threshold", settings.shop_currency, required=True)
            if basis == SPEND
            else form.integer(f"{at}threshold", high=10**12, required=True)
        )
        benefits: dict[str, Any] = {
            "multiplier": row.get("multiplier", ""),
            "birthday_batch": row.get("birthday_batch", ""),
            "free_shipping": form.flag(f"{at}free_shipping"),
            "early_access_hours": form.integer(f"{at}early_access_hours", high=720) or 0,
        }
        try:
            tiers.append(
                Tier(
                    row["name"],
                    row.get("title") or row["name"],
                    threshold or 0,
                    row.get("title_en") or None,
                    {name: value for name, value in benefits.items() if value},
                )
            )
        except InvalidInput as error:
            form.refuse(error, {error.field: f"{at}{error.field}"} if error.field else None)
    if not form.ok or months is None or grace is None:
        return None
    try:
        return Program(
            tuple(tiers), basis, window, months, grace, settings.shop_timezone, settings.shop_currency
        )
    except InvalidInput as error:
        form.refuse(error, {"tiers": ""})
        return None


def _page(form: Form, code: int = 200, simulation: review.Simulation | None = None) -> tuple[str, int]:
    session = reading()
    program = store.load_program(session)
    shown = [member_id for member_id, *_ in simulation.shown] if simulation else []
    typed = {place for place, _ in form.rows("tier")}
    return render_template(
        "loyalty/tiers.html",
        form=form,
        program=program,
        places=range(min(MAX_TIERS, max(typed, default=-1) + 1 + SPARE_ROWS)),
        counts=store.counts(session),
        moves=queries.moves(session),
        simulation=simulation,
        names=queries.names(session, shown),
        bases=[
            ("spend", gettext("spend")),
            ("points", gettext("points earned")),
            ("orders", gettext("orders")),
        ],
        windows=[("rolling", gettext("rolling months")), ("calendar", gettext("calendar year"))],
    ), code


@bp.get("")
@require(Permission.VIEW)
def index() -> Any:
    return _page(_form(store.load_program(reading())))


@bp.post("")
@require(Permission.EDIT)
def save() -> Any:
    """Save the ladder, or show what it would change; nobody goes down before the review."""
    form = Form(request.form)
    program = _read(form)
    if program is None:
        return _page(form, 422)
    if request.form.get("do") == "simulate":
        return _page(form, simulation=review.simulate(reading(), program, context.now()))
    with writing() as session:
        store.save_program(session, program, actor(), context.now())
    flash(gettext("Saved. Members go up as they earn, and down at their review only."), "success")
    return redirect(url_for("tiers.index"), 303)
