"""Members: find one, and see who it is, what happened, and why they were or were not messaged."""

from __future__ import annotations

from datetime import date
from itertools import groupby
from typing import Any

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from flask_babel import gettext
from markupsafe import Markup
from werkzeug.wrappers import Response

from channels import tracking
from channels.wechat.binding import LINK_LASTS, bind_qr
from core import audit
from core.contacts import mask
from core.models import Member
from segments import erasure, memberships
from segments.recommend.rank import Product, recommend
from web import context, i18n
from web.console.review import ACTION_WORDS, STATE_WORDS, TONES
from web.context import actor, reading, require, writing
from web.paging import wanted
from web.queries import member_loyalty, shell
from web.queries import members as queries
from web.queries import predictions as prediction_queries
from web.roles import Permission

bp = Blueprint("members", __name__, url_prefix="/members")
PRODUCTS = 5
CONTACT_COLUMNS = ("email", "phone", "openid", "unionid", "wecom")


@bp.get("")
@require(Permission.VIEW)
def index() -> str:
    """The newest members; the search field finds the others."""
    return render_template("members/index.html", page=queries.newest(reading(), wanted()))


def _member(member_id: int) -> Member:
    member = queries.get(reading(), member_id)
    if member is None:
        abort(404)
    return member


def contact(member: Member, *, shown: bool) -> list[tuple[str, str]]:
    """(column, text) of the contact details there are, masked unless ``shown``."""
    values = ((column, getattr(member, column)) for column in CONTACT_COLUMNS)
    return [(column, value if shown else mask(column, value)) for column, value in values if value]


@bp.get("/<int:member_id>")
@require(Permission.VIEW)
def page(member_id: int) -> str:
    return _page(_member(member_id), shown=False)


def _page(member: Member, *, shown: bool) -> str:
    session, engine = reading(), context.console().engine()
    as_of = shell.as_of(session)
    moments = queries.timeline(session, member.id)
    return render_template(
        "members/page.html",
        member=member,
        contact=contact(member, shown=shown),
        shown=shown,
        days=[
            (label, list(group)) for label, group in groupby(moments, key=lambda moment: i18n.day(moment.at))
        ],
        decisions=queries.decisions(session, member.id),
        coupons=queries.coupons(session, member.id),
        points=queries.points(session, member.id, context.now()),
        loyalty=member_loyalty.load(session, member.id),
        action_words=ACTION_WORDS,
        hit_states=STATE_WORDS,
        hit_tones=TONES,
        consents=queries.consents(session, member.id),
        suppressions=queries.suppressions(session, member),
        standing=queries.standing(engine, member.id, as_of),
        products=_products(member.id, as_of),
        predicted=prediction_queries.of_member(engine, member.id, as_of),
        segments=memberships.of_member(session, engine, member.id) if as_of else [],
        history=queries.history(session, "member", str(member.id)) if context.may("administer") else [],
        as_of=as_of,
    )


def _products(member_id: int, as_of: date | None) -> list[Product]:
    console = context.console()
    if as_of is None:
        return []
    return recommend(console.engine(), [member_id], as_of, console.settings.zone, n=PRODUCTS)[member_id]


@bp.post("/<int:member_id>/contact")
@require(Permission.CONTACTS)
def show_contact(member_id: int) -> Any:
    """The contact details in full. Looking is a change of the audit trail, hence a POST."""
    member = _member(member_id)
    with writing() as session:
        audit.record(session, actor(), "member.contact_shown", "member", member_id, context.now())
    if context.is_htmx():
        return render_template(
            "members/contact.html", member=member, contact=contact(member, shown=True), shown=True
        )
    return _page(_member(member_id), shown=True)


@bp.post("/<int:member_id>/wechat")
@require(Permission.CONTACTS)
def wechat(member_id: int) -> str:
    """A QR code that binds whoever scans it in WeChat to this member; made anew each time."""
    member = _member(member_id)
    if member.erased_at is not None:
        abort(404)
    with writing() as session:
        audit.record(session, actor(), "member.wechat_code", "member", member_id, context.now())
    # The link's end is judged by the public pages' clock, which is this one.
    code = bind_qr(context.console().settings, member_id, context.now())
    minutes = int(LINK_LASTS.total_seconds() // 60)
    part = "members/wechat.html" if context.is_htmx() else "members/wechat_page.html"
    return render_template(part, member=member, code=Markup(code), minutes=minutes)  # noqa: S704 - made by us


@bp.post("/<int:member_id>/wallet")
@require(Permission.CONTACTS)
def wallet(member_id: int) -> Response:
    """The member's own wallet, codes in full: like the contact details, a look that is noted."""
    if _member(member_id).erased_at is not None:
        abort(404)
    with writing() as session:
        audit.record(session, actor(), "member.wallet_shown", "member", member_id, context.now())
    # On the console's own host, which may be another one than members use.
    return redirect(tracking.wallet_url("", member_id), 303)


@bp.post("/<int:member_id>/erase")
@require(Permission.ADMINISTER)
def erase(member_id: int) -> Response:
    member = _member(member_id)
    if request.form.get("confirm", "").strip() != member.external_id:
        flash(gettext("Not erased: the id that was typed is another one."), "error")
        return redirect(url_for("members.page", member_id=member_id), 303)
    with writing() as session:
        erasure.erase(session, member_id, actor(), context.now())
    flash(gettext("Erased. The warehouse forgets with its next refresh."), "success")
    return redirect(url_for("members.page", member_id=member_id), 303)
