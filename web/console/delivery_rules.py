"""Channels → Rules: the shop's caps and quiet hours for all marketing, and the switch over all channels."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask_babel import gettext
from werkzeug.wrappers import Response

from channels import caps, preferences, quiet, stop
from core.errors import InvalidInput
from web import context
from web.context import actor, reading, require, writing
from web.forms import Form
from web.roles import Permission

bp = Blueprint("delivery_rules", __name__, url_prefix="/channels/rules")
QUIET_FIELDS = ("start", "end", "mode")


def _form_of(rules: caps.Rules) -> Form:
    data: dict[str, Any] = {}
    for scope, cap in rules.caps.items():
        data |= {f"caps.{scope}": cap.messages, f"days.{scope}": cap.days}
    data |= {f"quiet_hours.{name}": (rules.quiet_hours or {}).get(name, "") for name in QUIET_FIELDS}
    return Form(data)


def _read(form: Form) -> caps.Rules | None:
    """The rules that the form asks for; None with an error beside each field that makes no sense."""
    found: dict[str, caps.Cap] = {}
    for scope in caps.SCOPES:
        messages = form.integer(f"caps.{scope}", low=1, high=caps.MAX_MESSAGES)
        days = form.integer(f"days.{scope}", low=1, high=caps.MAX_DAYS)
        if messages is not None:
            found[scope] = caps.Cap(messages, caps.WEEK if days is None else days)
    start, end = form.clock("quiet_hours.start"), form.clock("quiet_hours.end")
    mode = form.choice("quiet_hours.mode", (quiet.DEFER, quiet.DROP), quiet.DEFER)
    hours = None
    if start and end:
        if start == end:
            form.error("quiet_hours.end", gettext("Choose another time than the start."))
        hours = {"start": start, "end": end, "mode": mode}
    elif (start or end) and form.ok:
        missing = "quiet_hours.end" if start else "quiet_hours.start"
        form.error(missing, gettext("Give both times, or neither."))
    if not form.ok:
        return None
    try:
        return caps.Rules(found, hours).validated()
    except InvalidInput as error:
        form.refuse(error)
        return None


def _page(form: Form, code: int = 200) -> tuple[str, int]:
    session = reading()
    return render_template(
        "channels/rules.html",
        form=form,
        scopes=caps.SCOPES,
        stopped=stop.current(session),
        stop_scopes=stop.SCOPES,
        wishes=preferences.counts(session, context.now()),
    ), code


@bp.get("")
@require(Permission.VIEW)
def index() -> Any:
    return _page(_form_of(caps.load(reading())))


@bp.post("")
@require(Permission.ADMINISTER)
def save() -> Any:
    form = Form(request.form)
    wanted = _read(form)
    if wanted is None:
        return _page(form, 422)
    with writing() as session:
        caps.save(session, wanted, actor(), context.now())
    flash(gettext("Saved. It counts from the next decision and the next message on."), "success")
    return _back()


@bp.post("/stop")
@require(Permission.EDIT)
def stop_all() -> Any:
    """Stop every channel, after the typed word and with a reason."""
    if request.form.get("confirm", "").strip().upper() != "STOP":
        flash(gettext("Not stopped: type STOP to confirm."), "error")
        return _back()
    try:
        with writing() as session:
            scope, reason = request.form.get("scope", ""), request.form.get("reason", "")
            stop.stop(session, scope, reason, actor(), context.now())
    except InvalidInput:
        flash(gettext("Not stopped: say why, and choose what to stop."), "error")
        return _back()
    flash(gettext("Stopped. At most the batches on their way to a provider still leave."), "success")
    return _back()


@bp.post("/resume")
@require(Permission.EDIT)
def resume() -> Any:
    with writing() as session:
        stop.resume(session, actor(), context.now())
    flash(gettext("Sending goes on. What is too late by now is skipped."), "success")
    return _back()


def _back() -> Response:
    return redirect(url_for("delivery_rules.index"), 303)
