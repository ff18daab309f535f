"""Loyalty: the points ledger as a whole, and how points are earned."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask_babel import gettext

from core.errors import InvalidInput
from core.money import exponent
from loyalty.earning import EarnRule, load_rule, save_rule
from web import context, i18n
from web.context import actor, reading, require, writing
from web.forms import Form
from web.queries import loyalty as queries
from web.roles import Permission

bp = Blueprint("points", __name__, url_prefix="/loyalty/points")


def _rule_form(rule: EarnRule) -> Form:
    return Form(
        {
            "points_per_unit": rule.points_per_unit,
            "pending_days": rule.pending_days,
            "expiry_months": rule.expiry_months or "",
        }
    )


def _points_page(form: Form, code: int = 200) -> tuple[str, int]:
    session = reading()
    unit = i18n.money(10 ** exponent(context.console().settings.shop_currency), whole=True)
    return render_template(
        "loyalty/points.html", overview=queries.points(session, context.now()), form=form, unit=unit
    ), code


@bp.get("")
@require(Permission.VIEW)
def index() -> Any:
    return _points_page(_rule_form(load_rule(reading())))


@bp.post("")
@require(Permission.EDIT)
def save() -> Any:
    """How orders earn from now on."""
    form = Form(request.form)
    rate = form.text("points_per_unit", required=True, limit=12)
    pending = form.integer("pending_days", high=365, required=True)
    months = form.integer("expiry_months", low=1, high=120)
    if form.ok and pending is not None:
        try:
            rule = EarnRule(rate, pending, months, context.console().settings.shop_timezone)
            with writing() as session:
                save_rule(session, rule, actor(), context.now())
        except InvalidInput as error:
            form.refuse(error)
    if not form.ok:
        return _points_page(form, 422)
    flash(gettext("Saved. Orders earn by this rule from now on; what was earned stays."), "success")
    return redirect(url_for("points.index"), 303)
