"""Loyalty → Referrals: programmes, the funnel, who is where in it, and those held for a decision."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from flask_babel import gettext
from flask_babel import lazy_gettext as _
from werkzeug.wrappers import Response

from core.errors import Conflict, InvalidInput
from loyalty.referrals import joining, programs, reasons
from loyalty.referrals.models import ReferralProgram
from web import context, i18n
from web.context import actor, reading, require, writing
from web.forms import Form
from web.paging import wanted
from web.queries import referrals as queries
from web.refusals import said
from web.roles import Permission

bp = Blueprint("referrals", __name__, url_prefix="/loyalty/referrals")
NOTHING, POINTS, COUPON = "nothing", "points", "coupon"
KINDS = (POINTS, COUPON, NOTHING)
SIDES = ("referrer", "friend")
STATE_WORDS: dict[str, object] = {
    joining.JOINED: _("Joined"),
    joining.ORDERED: _("Ordered, return window runs"),
    joining.HELD: _("Held for review"),
    joining.REWARDED: _("Rewarded"),
    joining.REJECTED: _("Rejected"),
}
TONES = {joining.HELD: "watch", joining.REWARDED: "good", joining.REJECTED: "bad", joining.ORDERED: "live"}
FIELD_NAMES = {"min_order_minor": "min_order", "referrer_batch_id": "referrer_batch",
               "friend_batch_id": "friend_batch"}  # fmt: skip


def reason_words(reason: str | None) -> str:
    """Why a referral is held or rejected, in the language of the page."""
    if reason is None:
        return ""
    return reasons.WORDS[reason][1 if i18n.language() == "zh" else 0]


def _reward_words(points: int | None, batch_id: int | None, titles: dict[int, str]) -> str:
    if points is not None:
        return str(gettext("%(count)s points", count=i18n.number(points)))
    return titles.get(batch_id, gettext("a coupon")) if batch_id is not None else "–"


@bp.get("")
@require(Permission.VIEW)
def index() -> str:
    session = reading()
    state = request.args.get("state", "")
    state = state if state in joining.STATES else ""
    titles = dict(queries.batches(session))
    current = programs.current(session, context.now())
    return render_template(
        "loyalty/referrals.html",
        programs=queries.programs(session),
        current_id=current.id if current is not None else None,
        reward_words=lambda points, batch_id: _reward_words(points, batch_id, titles),
        funnel=queries.funnel(session),
        cost=queries.cost(session),
        top=queries.top(session),
        page=queries.rows(session, wanted(), state),
        state=state,
        state_words=STATE_WORDS,
        tones=TONES,
        reason_words=reason_words,
    )


def _edit_page(form: Form, program: ReferralProgram | None, code: int = 200) -> tuple[str, int]:
    batches = [("", gettext("Choose a batch")), *queries.batches(reading())]
    kinds = [(POINTS, gettext("Points")), (COUPON, gettext("A coupon")), (NOTHING, gettext("Nothing"))]
    return render_template(
        "loyalty/referrals_edit.html", form=form, program=program, batches=batches, kinds=kinds
    ), code


def _program(program_id: int) -> ReferralProgram:
    found = reading().get(ReferralProgram, program_id)
    if found is None:
        abort(404)
    return found


def _data(row: ReferralProgram) -> dict[str, Any]:
    """The form's fields of a stored programme."""
    zone = context.console().settings.zone
    data: dict[str, Any] = {
        "name": row.name,
        "title": row.title,
        "return_days": row.return_days,
        "weekly_limit": row.weekly_limit,
        "min_order": i18n.plain_money(row.min_order_minor, row.currency) if row.min_order_minor else "",
    }
    for name in ("starts_at", "ends_at"):
        at = getattr(row, name)
        data[name] = at.astimezone(zone).strftime("%Y-%m-%dT%H:%M") if at else ""
    for side in SIDES:
        points, batch_id = getattr(row, f"{side}_points"), getattr(row, f"{side}_batch_id")
        data[f"{side}_kind"] = POINTS if points is not None else COUPON if batch_id is not None else NOTHING
        data[f"{side}_points"], data[f"{side}_batch"] = points or "", batch_id or ""
    return data


def _new_program(form: Form) -> programs.NewProgram:
    settings = context.console().settings
    currency = settings.shop_currency
    rewards: dict[str, int | None] = {}
    for side in SIDES:
        kind = form.choice(f"{side}_kind", KINDS, NOTHING)
        points = form.integer(f"{side}_points", low=1, required=True) if kind == POINTS else None
        batch = form.integer(f"{side}_batch", low=1, required=True) if kind == COUPON else None
        rewards |= {f"{side}_points": points, f"{side}_batch_id": batch}
    days = form.integer("return_days", high=programs.MAX_RETURN_DAYS, required=True)
    weekly = form.integer("weekly_limit", low=1, high=programs.MAX_WEEKLY, required=True)
    return programs.NewProgram(
        name=form.text("name", required=True, limit=80),
        title=form.text("title", required=True),
        currency=currency,
        return_days=days or 0,
        weekly_limit=weekly or 1,
        min_order_minor=form.money("min_order", currency) or 0,
        starts_at=form.time("starts_at", settings.zone),
        ends_at=form.time("ends_at", settings.zone),
        **rewards,
    )


def _save(form: Form, program_id: int | None) -> None:
    new = _new_program(form)
    if not form.ok:
        return
    try:
        with writing() as session:
            if program_id is None:
                programs.create(session, new, actor(), context.now())
            else:
                programs.change(session, program_id, new, actor(), context.now())
    except InvalidInput as error:
        form.refuse(error, FIELD_NAMES)
    except Conflict as error:
        form.error("name", said(error))


@bp.get("/programs/new")
@require(Permission.EDIT)
def create() -> Any:
    start = {"referrer_kind": POINTS, "friend_kind": POINTS, "return_days": "14", "weekly_limit": "10"}
    return _edit_page(Form(start), None)


@bp.post("/programs/new")
@require(Permission.EDIT)
def create_post() -> Any:
    form = Form(request.form)
    _save(form, None)
    if not form.ok:
        return _edit_page(form, None, 422)
    flash(gettext("Made. Members' links lead to it from its start on."), "success")
    return redirect(url_for("referrals.index"), 303)


@bp.get("/programs/<int:program_id>")
@require(Permission.EDIT)
def edit(program_id: int) -> Any:
    row = _program(program_id)
    return _edit_page(Form(_data(row)), row)


@bp.post("/programs/<int:program_id>")
@require(Permission.EDIT)
def edit_post(program_id: int) -> Any:
    row = _program(program_id)
    form = Form(request.form)
    form.data["name"] = row.name
    _save(form, program_id)
    if not form.ok:
        return _edit_page(form, _program(program_id), 422)
    flash(gettext("Saved. Rewards from now on go by it; what was given stays."), "success")
    return redirect(url_for("referrals.index"), 303)


@bp.post("/programs/<int:program_id>/archive")
@require(Permission.EDIT)
def archive(program_id: int) -> Response:
    _program(program_id)
    with writing() as session:
        programs.archive(session, program_id, actor(), context.now())
    flash(gettext("Archived. Nobody joins any more; who joined is still rewarded."), "success")
    return redirect(url_for("referrals.index"), 303)


@bp.post("/<int:referral_id>/<any(approve, reject):op>")
@require(Permission.EDIT)
def decide(referral_id: int, op: str) -> Response:
    """Let a held referral go on, or reject it."""
    with writing() as session:
        joining.decide(session, referral_id, approve=op == "approve", by=actor(), now=context.now())
    flash(gettext("Decided; it is in the audit log."), "success")
    return redirect(url_for("referrals.index", state=joining.HELD), 303)
