"""Loyalty → Review: what the rules against abuse found, decided by a person; the allow-list; the rules.

Guarantees: nobody's device, address or phone is shown, since none is kept; every decision has a reason.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from flask import Blueprint, abort, flash, g, redirect, render_template, request, url_for
from flask_babel import gettext
from flask_babel import lazy_gettext as _
from werkzeug.wrappers import Response

from core.errors import HuiliuError, InvalidInput
from loyalty.abuse import review as decisions
from loyalty.abuse import rules
from loyalty.abuse.signals import CONFIRMED, DISMISSED, OPEN
from loyalty.abuse.subjects import KINDS, SHARED_KINDS
from web import context, i18n
from web.console import review_form
from web.context import actor, reading, require, writing
from web.forms import Form
from web.paging import wanted
from web.queries import abuse as queries
from web.refusals import said
from web.roles import Permission

bp = Blueprint("review", __name__, url_prefix="/loyalty/review")
AREA = ("loyalty", "promotions", "points", "tiers", "referrals", "groups", "review", "calendar",
        "reminders")  # fmt: skip
"""Blueprints whose pages show the tabs, and with them how many hits wait."""
ALLOW = "allow"
RULES_MAX = 50_000
KIND_WORDS: dict[str, object] = {
    "member": _("member"),
    "device": _("device"),
    "address": _("delivery address"),
    "phone": _("phone number"),
    "ip": _("IP address"),
}
ACTION_WORDS: dict[str, object] = {
    "claim": _("Coupon claimed"),
    "redeem": _("Coupon redeemed"),
    "referral": _("Joined as a friend"),
    "sign_up": _("Signed up"),
    "group": _("Joined a group"),
}
STATE_WORDS: dict[str, object] = {
    OPEN: _("Waits"),
    CONFIRMED: _("Confirmed"),
    DISMISSED: _("Dismissed"),
}
VERDICT_WORDS: dict[str, object] = {"hold": _("held for review"), "block": _("blocked")}
UNIT_WORDS: dict[str, object] = {
    str(rules.MINUTE_S): _("minutes"),
    str(rules.HOUR_S): _("hours"),
    str(rules.DAY_S): _("days"),
    "1": _("seconds"),
}
TONES = {OPEN: "watch", CONFIRMED: "bad", DISMISSED: ""}


@bp.app_context_processor
def _waiting() -> dict[str, Any]:
    """How many hits wait, for the tab's badge; asked once a request, on loyalty's pages only."""
    if request.blueprint not in AREA or not context.may(Permission.VIEW):
        return {}
    if "open_hits" not in g:
        g.open_hits = queries.open_count(reading())
    return {"open_hits": g.open_hits}


def evidence_words(row: queries.HitRow) -> str:
    """“6 members with the same delivery address within 30 days; the rule allows 5”."""
    evidence = row.evidence
    values = {
        "count": i18n.number(evidence["count"]),
        "kind": KIND_WORDS[row.kind],
        "window": _window(evidence["window_s"]),
        "limit": i18n.number(evidence["limit"]),
    }
    if evidence.get("shared"):
        text = gettext(
            "%(count)s members with the same %(kind)s within %(window)s; the rule allows %(limit)s", **values
        )
    else:
        text = gettext(
            "%(count)s times by the same %(kind)s within %(window)s; the rule allows %(limit)s", **values
        )
    return str(text)


def _window(seconds: int) -> str:
    if seconds in (rules.DAY_S, rules.HOUR_S):
        return str(gettext("a day") if seconds == rules.DAY_S else gettext("an hour"))
    if seconds % rules.DAY_S == 0:
        return str(gettext("%(n)s days", n=i18n.number(seconds // rules.DAY_S)))
    if seconds % rules.HOUR_S == 0:
        return str(gettext("%(n)s hours", n=i18n.number(seconds // rules.HOUR_S)))
    return str(gettext("%(n)s minutes", n=i18n.number(seconds / rules.MINUTE_S)))


def _words() -> dict[str, Any]:
    return {
        "evidence_words": evidence_words,
        "kind_words": KIND_WORDS,
        "action_words": ACTION_WORDS,
        "state_words": STATE_WORDS,
        "verdict_words": VERDICT_WORDS,
        "tones": TONES,
    }


@bp.get("")
@require(Permission.VIEW)
def index() -> str:
    """What waits for a decision; with other filters, what was decided."""
    session = reading()
    state, kind = request.args.get("state", OPEN), request.args.get("kind", "")
    action = request.args.get("action", "")
    chosen = {
        "state": state if state in decisions.STATES else "",
        "kind": kind if kind in KINDS else "",
        "action": action if action in rules.ACTIONS else "",
    }
    return render_template(
        "loyalty/review.html",
        page=queries.hits(session, wanted(), **chosen),
        chosen=chosen,
        allowances=queries.allowances(session),
        **_words(),
    )


def _hit_page(hit_id: int, form: Form, code: int = 200) -> tuple[str, int]:
    session = reading()
    row = queries.hit(session, hit_id)
    if row is None:
        abort(404)
    return render_template(
        "loyalty/review_hit.html",
        row=row,
        others=queries.names(session, row.evidence.get("members", ())),
        history=queries.history(session, hit_id),
        form=form,
        **_words(),
    ), code


@bp.get("/<int:hit_id>")
@require(Permission.VIEW)
def hit(hit_id: int) -> Any:
    return _hit_page(hit_id, Form())


@bp.post("/<int:hit_id>")
@require(Permission.EDIT)
def decide(hit_id: int) -> Any:
    """Confirm, dismiss, or put the subject on the allow-list."""
    form = Form(request.form)
    what = form.choice("decision", (CONFIRMED, DISMISSED, ALLOW))
    reason = form.text("reason", required=True, limit=decisions.MAX_REASON)
    until = form.time("until", context.console().settings.zone)
    if form.ok:
        try:
            with writing() as session:
                if what == ALLOW:
                    decisions.allow(session, hit_id, reason, actor(), context.now(), until)
                else:
                    decisions.decide(session, hit_id, what, reason, actor(), context.now())
        except InvalidInput as error:
            form.refuse(error)
    if not form.ok:
        return _hit_page(hit_id, form, 422)
    flash(gettext("Decided. It is in the audit log with your reason."), "success")
    return redirect(url_for("review.index"), 303)


@bp.post("/allowed/<kind>/<digest>/remove")
@require(Permission.EDIT)
def withdraw(kind: str, digest: str) -> Response:
    """Take a subject off the allow-list."""
    try:
        with writing() as session:
            decisions.withdraw(session, kind, digest, actor(), context.now())
        flash(gettext("Taken off the allow-list."), "success")
    except HuiliuError as error:
        flash(said(error), "error")
    return redirect(url_for("review.index"), 303)


def _json_rules(form: Form) -> rules.Rules | None:
    form.text("rules", required=True, limit=RULES_MAX)
    value = form.json("rules")
    if form.ok:
        try:
            return rules.parse(value)
        except InvalidInput as error:
            form.error("rules", said(error))
    return None


def _rules_page(form: Form, code: int = 200) -> tuple[str, int]:
    return render_template(
        "loyalty/review_rules.html",
        form=form,
        velocity=review_form.places(form, review_form.VELOCITY),
        shared=review_form.places(form, review_form.SHARED),
        actions=[(action, ACTION_WORDS[action]) for action in rules.ACTIONS],
        kinds=[(kind, KIND_WORDS[kind]) for kind in KINDS],
        shared_kinds=[(kind, KIND_WORDS[kind]) for kind in SHARED_KINDS],
        verdicts=[(verdict, VERDICT_WORDS[verdict]) for verdict in (rules.HOLD, rules.BLOCK)],
        units=list(UNIT_WORDS.items()),
    ), code


def _json_page(form: Form, code: int = 200) -> tuple[str, int]:
    return render_template("loyalty/review_rules_json.html", form=form), code


@bp.get("/rules")
@require(Permission.VIEW)
def rules_page() -> Any:
    """The rules as a form; with ``as=json`` as a text, to take to another installation."""
    stored = rules.load_rules(reading())
    if request.args.get("as") == "json":
        return _json_page(Form({"rules": json.dumps(asdict(stored), ensure_ascii=False, indent=1)}))
    return _rules_page(review_form.form_of(stored))


@bp.post("/rules")
@require(Permission.EDIT)
def save_rules() -> Any:
    """The rules that count from now on; what was found by the old ones stays."""
    form = Form(request.form)
    as_json = "rules" in request.form
    new = _json_rules(form) if as_json else review_form.read(form)
    if new is None:
        return _json_page(form, 422) if as_json else _rules_page(form, 422)
    with writing() as session:
        rules.save_rules(session, new, actor(), context.now())
    flash(gettext("Saved. The rules count from now on."), "success")
    return redirect(url_for("review.rules_page"), 303)
