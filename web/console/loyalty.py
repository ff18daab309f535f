"""Loyalty: coupon batches and their codes."""

from __future__ import annotations

import secrets
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import segno
from flask import Blueprint, abort, flash, redirect, render_template, request, send_file, url_for
from flask import Response as FlaskResponse
from flask_babel import gettext
from markupsafe import Markup
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response

from core import audit
from core.errors import Conflict, InvalidInput
from core.files import RejectsFile
from core.imports import Reject
from loyalty import batches as stored
from loyalty import claims, codes, coupons
from loyalty.models import ClaimLink, CouponBatch
from web import context, coupon_files, i18n
from web.context import actor, reading, require, writing
from web.forms import Form
from web.paging import wanted
from web.queries import loyalty as queries
from web.refusals import said
from web.roles import Permission

bp = Blueprint("loyalty", __name__, url_prefix="/loyalty")
STATES = (stored.ISSUED, stored.HELD, stored.REDEEMED, stored.EXPIRED, stored.REVOKED)
SHOWN_REJECTS = 5
"""Refused lines of a file that the message names."""
GENERIC_MAX = 10_000
"""Codes for anybody that one click of the console makes; a shop's system may ask for more."""
FIELD_NAMES = {"min_spend_minor": "min_spend", "benefit.amount": "amount", "benefit.max_amount": "max_amount",
               "benefit.percent": "percent", "benefit.type": "type", "budget_minor": "budget",
               "valid_months": "valid_months", "timezone": ""}  # fmt: skip


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
def batch(batch_id: int) -> Any:
    return _batch_page(_batch(batch_id))


def _batch_page(
    found: CouponBatch,
    status: int = 200,
    *,
    link_form: Form | None = None,
    issue_form: Form | None = None,
) -> tuple[str, int]:
    session, batch_id = reading(), found.id
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
        issue_form=issue_form or Form({"key": secrets.token_hex(8)}),
        rules=rule_words(found),
        links=_links(session, batch_id),
        held=queries.held(session, batch_id, context.now()),
        link_form=link_form or Form({"title": found.title}),
        refused=coupon_files.rejects_path(context.console().settings.home, batch_id).exists(),
    ), status


def _links(session: Session, batch_id: int) -> list[dict[str, Any]]:
    """The batch's claim links with their addresses and QR codes."""
    base = context.console().settings.base_url
    return [
        {
            "link": link,
            "batch": found,
            "state": claims.state_of(link, found, context.now()),
            "given": given,
            "url": claims.claim_url(base, link),
            "qr": Markup(  # noqa: S704 - segno's own drawing of our own address
                segno.make(claims.claim_url(base, link), error="m").svg_inline(
                    scale=4, light="#fff", title=link.title, svgclass=None, lineclass=None
                )
            ),
        }
        for link, found, given in queries.links(session, batch_id)
    ]


def rule_words(found: CouponBatch) -> list[str]:
    """What the batch will do, a sentence a rule."""
    said_: list[str] = []
    if found.generic_code:
        said_.append(
            gettext(
                "Everybody uses the code %(code)s; each use counts as a code given.", code=found.generic_code
            )
        )
    if found.activation == stored.AFTER_DAYS:
        said_.append(
            gettext("A code becomes valid %(days)s days after it was given.", days=found.activation_days)
        )
    elif found.activation == stored.NEXT_MONTH:
        said_.append(gettext("A code becomes valid on the first day of the next month."))
    if found.valid_months:
        said_.append(gettext("It lives %(months)s months.", months=found.valid_months))
    if found.daily_limit:
        said_.append(
            gettext("At most %(count)s codes are given a day.", count=i18n.number(found.daily_limit))
        )
    if found.daily_per_member_limit:
        said_.append(
            gettext("A member uses at most %(count)s a day.", count=i18n.number(found.daily_per_member_limit))
        )
    if found.budget_minor is not None:
        said_.append(
            gettext(
                "All discounts together stay within %(budget)s; %(used)s is used or held.",
                budget=i18n.money(found.budget_minor, found.currency),
                used=i18n.money(found.budget_used_minor, found.currency),
            )
        )
    said_.append(
        gettext("Members may hand their codes on.")
        if found.transferable
        else gettext("A member's code is good for that member only.")
    )
    if found.reminder_days:
        said_.append(
            gettext("Members may be reminded %(days)s days before the end.", days=found.reminder_days)
        )
    return [str(text) for text in said_]


def _edit_page(form: Form, code: int = 200) -> tuple[str, int]:
    return render_template("loyalty/edit.html", form=form), code


@bp.get("/batches/new")
@require(Permission.EDIT)
def create() -> Any:
    return _edit_page(
        Form(
            {
                "type": "fixed",
                "per_member_limit": "1",
                "valid_days": "14",
                "settlement_share": "100",
                "activation": stored.AT_ONCE,
            }
        )
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
            "max_amount": form.money("max_amount", currency, above_zero=True),
        }
    else:
        benefit = {"type": "fixed", "amount": form.money("amount", currency, required=True, above_zero=True)}
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
        valid_months=form.integer("valid_months", low=1, high=stored.MAX_VALID_MONTHS),
        activation=form.choice("activation", stored.ACTIVATIONS, stored.AT_ONCE),
        activation_days=form.integer("activation_days", low=1, high=stored.MAX_VALID_DAYS),
        timezone=settings.shop_timezone,
        generic_code=form.text("generic_code", limit=stored.MAX_GENERIC) or None,
        daily_limit=form.integer("daily_limit", low=1),
        daily_per_member_limit=form.integer("daily_per_member_limit", low=1),
        budget_minor=form.money("budget", currency, above_zero=True),
        transferable=form.flag("transferable"),
        reminder_days=form.integer("reminder_days", low=1, high=stored.MAX_VALID_DAYS),
    )


def _share(form: Form) -> float:
    share = form.percent("settlement_share", default=1.0)
    return 1.0 if share is None else share


@bp.post("/batches/<int:batch_id>/issue")
@require(Permission.EDIT)
def issue(batch_id: int) -> Any:
    """Codes for anybody, to print or hand out. The form's own key makes a second click harmless."""
    found = _batch(batch_id)
    form = Form(request.form)
    number = form.integer("number", low=1, high=GENERIC_MAX, required=True)
    key = form.text("key", required=True, limit=40)
    if number is not None and form.text("confirm") != str(number):
        form.error("confirm", gettext("Not issued: type the number of codes once more to confirm."))
    if not form.ok or number is None:
        return _batch_page(found, 422, issue_form=form)
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


def _back(batch_id: int) -> Response:
    return redirect(url_for("loyalty.batch", batch_id=batch_id), 303)


@bp.post("/batches/<int:batch_id>/links")
@require(Permission.EDIT)
def add_link(batch_id: int) -> Any:
    """A link by which members claim a code each."""
    found = _batch(batch_id)
    form = Form(request.form)
    zone = context.console().settings.zone
    new = claims.NewLink(
        form.text("title", required=True),
        form.integer("limit", low=1),
        form.time("starts_at", zone),
        form.time("ends_at", zone),
    )
    if form.ok:
        try:
            with writing() as session:
                claims.create_link(
                    session, session.get_one(CouponBatch, batch_id), new, actor(), context.now()
                )
        except InvalidInput as error:
            form.refuse(error)
    if not form.ok:
        return _batch_page(found, 422, link_form=form)
    flash(gettext("The link is made. Print its QR code, or send the address."), "success")
    return _back(batch_id)


@bp.post("/batches/<int:batch_id>/links/<int:link_id>/archive")
@require(Permission.EDIT)
def archive_link(batch_id: int, link_id: int) -> Response:
    with writing() as session:
        link = session.get(ClaimLink, link_id)
        if link is None or link.batch_id != batch_id:
            abort(404)
        claims.archive_link(session, link, actor(), context.now())
    flash(gettext("The link is closed. Codes that were claimed stay good."), "success")
    return _back(batch_id)


@bp.post("/batches/<int:batch_id>/import")
@require(Permission.EDIT)
def import_codes(batch_id: int) -> Response:
    """Codes of another system, from a CSV."""
    found = _batch(batch_id)
    file = request.files.get("file")
    if file is None or not file.filename:
        flash(gettext("Choose a file."), "error")
        return _back(batch_id)
    shown: list[str] = []
    keep = coupon_files.rejects_path(context.console().settings.home, batch_id)

    def refuse(kept: RejectsFile, reject: Reject) -> None:
        reason = said(reject.reason)
        kept.add(reject._replace(reason=reason))
        if len(shown) < SHOWN_REJECTS:
            shown.append(f"{reject.line}: {reason}")

    dry_run = Form(request.form).flag("dry_run")
    with tempfile.TemporaryDirectory(prefix="huiliu-codes-") as folder:
        path = Path(folder) / "codes.csv"
        file.save(path)
        context.close_reading()
        try:
            with coupon_files.keeping_rejects(keep) as kept:
                done = coupon_files.load_file(
                    context.console().database,
                    found.name,
                    path,
                    source="shop",
                    by=actor(),
                    now=context.now(),
                    dry_run=dry_run,
                    on_reject=partial(refuse, kept),
                )
        except (InvalidInput, Conflict) as error:
            flash(said(error), "error")
            return _back(batch_id)
    numbers = {name: i18n.number(number) for name, number in done.items()}
    text = gettext("%(inserted)s codes loaded, %(unchanged)s were there, %(rejected)s refused.", **numbers)
    if dry_run:
        text = gettext("Tried only, nothing was written: %(text)s", text=text)
    if shown:
        text = gettext("%(text)s By line: %(lines)s", text=text, lines="; ".join(shown))
    flash(text, "error" if shown else "success")
    return _back(batch_id)


@bp.get("/batches/<int:batch_id>/rejects.csv")
@require(Permission.EDIT)
def rejects(batch_id: int) -> Response:
    """The refused lines of the newest file, with their reasons."""
    path = coupon_files.rejects_path(context.console().settings.home, _batch(batch_id).id)
    if not path.exists():
        abort(404)
    return send_file(
        path.absolute(),
        mimetype="text/csv",
        as_attachment=True,
        download_name=f"coupons-{batch_id}-rejects.csv",
    )


@bp.get("/batches/<int:batch_id>/codes.csv")
@require(Permission.EDIT)
def export_codes(batch_id: int) -> FlaskResponse:
    """The batch's codes as CSV, without members; leaves an audit row."""
    found = _batch(batch_id)
    context.close_reading()
    pages = coupon_files.export(context.console().database, batch_id, actor(), context.now())
    answer = FlaskResponse(pages, mimetype="text/csv")
    answer.headers.set("Content-Disposition", "attachment", filename=f"coupons-{found.id}.csv")
    return answer
