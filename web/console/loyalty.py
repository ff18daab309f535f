"""Loyalty: coupon batches and their codes."""

from __future__ import annotations

import secrets
from typing import Any

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from flask_babel import gettext
from werkzeug.wrappers import Response

from core import audit
from core.errors import Conflict, InvalidInput
from loyalty import batches as stored
from loyalty import codes, coupons
from loyalty.models import CouponBatch
from web import context, i18n
from web.context import actor, reading, require, writing
from web.forms import Form
from web.paging import wanted
from web.queries import loyalty as queries
from web.refusals import said
from web.roles import Permission

bp = Blueprint("loyalty", __name__, url_prefix="/loyalty")
STATES = (stored.ISSUED, stored.REDEEMED, stored.EXPIRED, stored.REVOKED)
GENERIC_MAX = 10_000
"""Codes for anybody that one click of the console makes; a shop's system may ask for more."""
FIELD_NAMES = {"min_spend_minor": "min_spend", "benefit.amount": "amount", "benefit.max_amount": "max_amount",
               "benefit.percent": "percent", "benefit.type": "type"}  # fmt: skip


def benefit_words(benefit: dict[str, Any], currency: str, min_spend_minor: int = 0) -> str:
    """“¥20 off from ¥100”."""
    if benefit["type"] == "fixed":
        text = gettext("%(amount)s off", amount=i18n.money(benefit["amount"], currency))
    else:
        text = gettext("%(percent)s%% off", percent=f"{float(benefit['percent']):g}")
        if benefit.get("max_amount"):
            text = gettext(
                "%(text)s, at most %(amount)s", text=text, amount=i18n.money(benefit["max_amount"], currency)
            )
    if min_spend_minor:
        text = gettext("%(text)s, from %(amount)s", text=text, amount=i18n.money(min_spend_minor, currency))
    return str(text)


@bp.get("")
@require(Permission.VIEW)
def index() -> str:
    """Coupon batches."""
    archived = request.args.get("archived") == "1"
    rows = queries.batches(reading(), archived=archived)
    return render_template("loyalty/batches.html", rows=rows, archived=archived, benefit_words=benefit_words)


def _batch(batch_id: int) -> CouponBatch:
    found = reading().get(CouponBatch, batch_id)
    if found is None:
        abort(404)
    return found


@bp.get("/batches/<int:batch_id>")
@require(Permission.VIEW)
def batch(batch_id: int) -> str:
    session = reading()
    found = _batch(batch_id)
    state = request.args.get("state", "")
    state = state if state in STATES else ""
    code = request.args.get("code", "").strip()
    note = None
    if code:
        try:
            code = codes.check(code)
        except InvalidInput as error:
            note = said(error)
    return render_template(
        "loyalty/batch.html",
        batch=found,
        words=benefit_words(found.benefit, found.currency, found.min_spend_minor),
        counts=queries.states(session, batch_id, context.now()),
        given=queries.given(session, batch_id),
        page=queries.codes(session, batch_id, wanted(), state=state or None, code=code or None),
        state=state,
        code=code,
        note=note,
        states=STATES,
        generic_max=GENERIC_MAX,
        issue_key=secrets.token_hex(8),
    )


def _edit_page(form: Form, code: int = 200) -> tuple[str, int]:
    return render_template("loyalty/edit.html", form=form), code


@bp.get("/batches/new")
@require(Permission.EDIT)
def create() -> Any:
    return _edit_page(
        Form({"type": "fixed", "per_member_limit": "1", "valid_days": "14", "settlement_share": "100"})
    )


@bp.post("/batches/new")
@require(Permission.EDIT)
def create_post() -> Any:
    form = Form(request.form)
    new = _new_batch(form)
    batch_id = 0
    if form.ok:
        try:
            with writing() as session:
                batch_id = stored.create_batch(session, new, actor(), context.now()).id
        except InvalidInput as error:
            form.refuse(error, FIELD_NAMES)
        except Conflict as error:
            form.error("name", said(error))
    if not form.ok:
        return _edit_page(form, 422)
    flash(gettext("Made. Campaigns can offer it now."), "success")
    return redirect(url_for("loyalty.batch", batch_id=batch_id), 303)


def _new_batch(form: Form) -> stored.NewBatch:
    settings = context.console().settings
    currency = settings.shop_currency
    benefit: dict[str, Any]
    if form.choice("type", ("fixed", "percent")) == "percent":
        benefit = {
            "type": "percent",
            "percent": form.text("percent", required=True, limit=10).rstrip("%"),
            "max_amount": form.money("max_amount", currency),
        }
    else:
        benefit = {"type": "fixed", "amount": form.money("amount", currency, required=True)}
    return stored.NewBatch(
        name=form.text("name", required=True, limit=80),
        title=form.text("title", required=True),
        benefit=benefit,
        currency=currency,
        min_spend_minor=form.money("min_spend", currency) or 0,
        prefix=form.text("prefix", limit=12),
        total_limit=form.integer("total_limit", low=1),
        per_member_limit=form.integer("per_member_limit", low=1),
        starts_at=form.time("starts_at", settings.zone),
        ends_at=form.time("ends_at", settings.zone),
        valid_days=form.integer("valid_days", low=1, high=3650),
        settlement_share=_share(form),
    )


def _share(form: Form) -> float:
    share = form.percent("settlement_share", default=1.0)
    return 1.0 if share is None else share


@bp.post("/batches/<int:batch_id>/issue")
@require(Permission.EDIT)
def issue(batch_id: int) -> Response:
    """Codes for anybody, to print or hand out. The form's own key makes a second click harmless."""
    found = _batch(batch_id)
    form = Form(request.form)
    number = form.integer("number", low=1, high=GENERIC_MAX, required=True)
    key = form.text("key", required=True, limit=40)
    if not form.ok or number is None:
        flash(next(iter(form.errors.values())), "error")
        return redirect(url_for("loyalty.batch", batch_id=batch_id), 303)
    if form.text("confirm") != str(number):
        flash(gettext("Not issued: type the number of codes once more to confirm."), "error")
        return redirect(url_for("loyalty.batch", batch_id=batch_id), 303)
    with writing() as session:
        live = session.get_one(CouponBatch, batch_id)
        rows = [(None, f"console:{key}:{index}") for index in range(number)]
        issued = coupons.issue(session, live, rows, context.now())
        audit.record(
            session, actor(), "issue", "coupon_batch", batch_id, context.now(), {"codes": len(issued)}
        )
    flash(
        gettext(
            "%(count)s codes issued from “%(title)s”.", count=i18n.number(len(issued)), title=found.title
        ),
        "success",
    )
    return redirect(url_for("loyalty.batch", batch_id=batch_id), 303)


@bp.post("/batches/<int:batch_id>/archive")
@require(Permission.EDIT)
def archive(batch_id: int) -> Response:
    _batch(batch_id)
    with writing() as session:
        stored.archive_batch(session, session.get_one(CouponBatch, batch_id), actor(), context.now())
    flash(gettext("Archived. Its codes cannot be issued or redeemed any more."), "success")
    return redirect(url_for("loyalty.index"), 303)
