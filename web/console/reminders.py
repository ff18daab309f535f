"""Loyalty → Reminders: of coupons and points that end soon; by which template, how early, at which hour."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask_babel import gettext

from campaigns import reminders as stored
from campaigns.reminders import COUPONS, KINDS, MAX_DAYS, POINTS, Counts, Reminders, Rule
from core.errors import InvalidInput
from web import context
from web.context import actor, reading, require, writing
from web.forms import Form
from web.queries import campaigns as queries
from web.roles import Permission
from web.words import word

bp = Blueprint("reminders", __name__, url_prefix="/loyalty/reminders")
PLACES = 3
"""Templates that can be chosen in order: the first, and what follows where it reaches nobody."""


def _form_of(wanted: Reminders) -> Form:
    data: dict[str, Any] = {"hour": wanted.hour}
    for kind in KINDS:
        rule = wanted.rule(kind)
        data |= {
            f"{kind}.on": "1" if rule.on else "",
            f"{kind}.days": "" if rule.days is None else rule.days,
            f"{kind}.least": rule.least,
        }
        data |= {f"{kind}.template-{place}": name for place, name in enumerate(rule.templates)}
    return Form(data)


def _read(form: Form) -> Reminders | None:
    """The choice typed in; None with the errors beside their fields."""
    rules = {}
    for kind in KINDS:
        names = [form.text(f"{kind}.template-{place}") for place in range(PLACES)]
        days = form.integer(f"{kind}.days", low=1, high=MAX_DAYS, required=kind == POINTS)
        least = form.integer(f"{kind}.least", low=1, required=True) if kind == POINTS else 1
        rules[kind] = Rule(form.flag(f"{kind}.on"), days, tuple(name for name in names if name), least or 1)
    hour = form.integer("hour", high=23, required=True)
    return Reminders(**rules, hour=hour or 0) if form.ok else None


def _page(form: Form, code: int = 200, counted: dict[str, Counts] | None = None) -> tuple[str, int]:
    by_channel = queries.templates_by_channel(reading())
    options = [("", gettext("none"))]
    options += [
        (name, f"{word('channel', channel)}: {name}")
        for channel, names in by_channel.items()
        for name in names
    ]
    return render_template(
        "loyalty/reminders.html",
        form=form,
        kinds=[(COUPONS, gettext("Coupons that end soon")), (POINTS, gettext("Points that expire soon"))],
        templates=options,
        places=range(PLACES),
        hours=[(hour, f"{hour:02d}:00") for hour in range(24)],
        counted=counted,
    ), code


@bp.get("")
@require(Permission.VIEW)
def index() -> Any:
    return _page(_form_of(stored.load(reading())))


@bp.post("")
@require(Permission.EDIT)
def save() -> Any:
    """Save the choice; or count who would be reminded by what is saved, and queue nothing."""
    if request.form.get("do") == "count":
        console = context.console()
        form = _form_of(stored.load(reading()))
        try:
            counted = stored.send(console.database, console.settings, context.now(), dry_run=True)
        except InvalidInput as error:
            form.refuse(error, _names())
            return _page(form, 422)
        return _page(form, counted=counted)
    form = Form(request.form)
    wanted = _read(form)
    if wanted is None:
        return _page(form, 422)
    try:
        with writing() as session:
            stored.save(session, wanted, actor(), context.now())
    except InvalidInput as error:
        form.refuse(error, _names())
        return _page(form, 422)
    flash(gettext("Saved. It counts from the next hour on."), "success")
    return redirect(url_for("reminders.index"), 303)


def _names() -> dict[str, str]:
    return {f"{kind}.templates": f"{kind}.template-0" for kind in KINDS}
