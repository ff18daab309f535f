"""Loyalty → Group buying: offers, their groups, and how many of them fill in time."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask_babel import gettext
from flask_babel import lazy_gettext as _
from werkzeug.wrappers import Response

from core.errors import Conflict, InvalidInput
from loyalty.groups import offers
from loyalty.groups.groups import FAILED, OPEN, STATES, UNLOCKED
from web import context
from web.context import actor, reading, require, writing
from web.forms import Form
from web.paging import wanted
from web.queries import groups as queries
from web.queries.referrals import batches
from web.refusals import said
from web.roles import Permission

bp = Blueprint("groups", __name__, url_prefix="/loyalty/groups")
STATE_WORDS: dict[str, object] = {OPEN: _("Open"), UNLOCKED: _("Full in time"), FAILED: _("Not filled")}
TONES = {OPEN: "live", UNLOCKED: "good", FAILED: "bad"}


@bp.get("")
@require(Permission.VIEW)
def index() -> str:
    session = reading()
    state = request.args.get("state", OPEN)
    state = state if state in STATES else ""
    return render_template(
        "loyalty/groups.html",
        offers=queries.offers(session),
        page=queries.rows(session, wanted(), state),
        state=state,
        state_words=STATE_WORDS,
        tones=TONES,
    )


def _edit_page(form: Form, code: int = 200) -> tuple[str, int]:
    choices = [("", gettext("Choose a batch")), *batches(reading())]
    return render_template("loyalty/group_edit.html", form=form, batches=choices), code


@bp.get("/new")
@require(Permission.EDIT)
def create() -> Any:
    return _edit_page(Form({"seats": "3", "hours": "24", "max_open": "1"}))


@bp.post("/new")
@require(Permission.EDIT)
def create_post() -> Any:
    form = Form(request.form)
    zone = context.console().settings.zone
    new = offers.NewOffer(
        name=form.text("name", required=True, limit=80),
        title=form.text("title", required=True),
        seats=form.integer("seats", low=offers.MIN_SEATS, high=offers.MAX_SEATS, required=True) or 0,
        hours=form.integer("hours", low=1, high=offers.MAX_HOURS, required=True) or 0,
        batch_id=form.integer("batch_id", low=1, required=True) or 0,
        max_open=form.integer("max_open", low=1, high=offers.MAX_OPEN, required=True) or 0,
        starts_at=form.time("starts_at", zone),
        ends_at=form.time("ends_at", zone),
    )
    if form.ok:
        try:
            with writing() as session:
                offers.create(session, new, actor(), context.now())
        except InvalidInput as error:
            form.refuse(error)
        except Conflict as error:
            form.error("name", said(error))
    if not form.ok:
        return _edit_page(form, 422)
    flash(gettext("Made. The shop opens groups of it through the HTTP API."), "success")
    return redirect(url_for("groups.index"), 303)


@bp.post("/<int:offer_id>/archive")
@require(Permission.EDIT)
def archive(offer_id: int) -> Response:
    with writing() as session:
        offers.archive(session, offer_id, actor(), context.now())
    flash(gettext("Archived. Nobody opens a group any more; open ones may still fill."), "success")
    return redirect(url_for("groups.index"), 303)
