"""Settings: the shop, users and roles, API keys, the audit log, and one's own account."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask_babel import gettext
from flask_security import current_user
from werkzeug.wrappers import Response

from core import audit
from core.errors import HuiliuError, InvalidInput
from web import context, users
from web.api import keys
from web.context import actor, reading, require, writing
from web.forms import Form
from web.models import User
from web.paging import wanted
from web.queries import settings as queries
from web.roles import ROLES, Permission
from web.security import new_password

bp = Blueprint("settings", __name__, url_prefix="/settings")
SCOPES = keys.SCOPES
OBJECT_TYPES = (
    "campaign", "segment", "template", "coupon_batch", "coupon", "claim_link", "promotion",
    "points_adjustment", "points_multiplier", "points_event_rule", "referral_program", "referral",
    "experiment", "group_offer", "abuse_hit",
    "member", "user", "api_key", "channel", "message", "settings", "preference",
)  # fmt: skip


@bp.get("")
@require(Permission.VIEW)
def index() -> str:
    """The shop, as the server's variables say."""
    return render_template("settings/index.html")


def _users_page(form: Form, code: int = 200, shown: tuple[str, str] | None = None) -> tuple[str, int]:
    rows = users.list_users(reading())
    return render_template("settings/users.html", rows=rows, roles=list(ROLES), form=form, shown=shown), code


@bp.get("/users")
@require(Permission.ADMINISTER)
def people() -> Any:
    return _users_page(Form())


@bp.post("/users")
@require(Permission.ADMINISTER)
def add_person() -> Any:
    """A new user with a password that is shown once."""
    form = Form(request.form)
    email, name = form.text("email", required=True, limit=255), form.text("name")
    roles = form.values("roles")
    if not roles:
        form.error("roles", gettext("Choose at least one role."))
    password = new_password()
    if form.ok:
        try:
            with writing() as session:
                users.add_user(session, email, password, roles, name=name, by=actor(), now=context.now())
        except HuiliuError as error:
            form.refuse(error, default="email")
    if not form.ok:
        return _users_page(form, 422)
    return _users_page(Form(), shown=(email, password))


@bp.post("/users/<int:user_id>")
@require(Permission.ADMINISTER)
def change_person(user_id: int) -> Response:
    with writing() as session:
        users.change_user(
            session,
            user_id,
            roles=request.form.getlist("roles"),
            active=bool(request.form.get("active")),
            by=actor(),
            now=context.now(),
        )
    flash(gettext("Saved."), "success")
    return redirect(url_for("settings.people"), 303)


@bp.post("/users/<int:user_id>/password")
@require(Permission.ADMINISTER)
def reset_password(user_id: int) -> Any:
    """A new password, shown once; open sessions of the user end, and the second step is off."""
    password = new_password()
    with writing() as session:
        users.set_password(session, user_id, password, by=actor(), now=context.now())
        user = session.get_one(User, user_id)
        user.tf_primary_method = user.tf_totp_secret = None
        email = user.email
    return _users_page(Form(), shown=(email, password))


def _keys_page(form: Form, code: int = 200, shown: str | None = None) -> tuple[str, int]:
    rows = queries.api_keys(reading())
    return render_template("settings/keys.html", rows=rows, scopes=SCOPES, form=form, shown=shown), code


@bp.get("/keys")
@require(Permission.ADMINISTER)
def api_keys() -> Any:
    return _keys_page(Form())


@bp.post("/keys")
@require(Permission.ADMINISTER)
def add_key() -> Any:
    form = Form(request.form)
    name, scopes = form.text("name", required=True, limit=80), form.values("scopes")
    if not scopes:
        form.error("scopes", gettext("Choose at least one scope."))
    key = None
    if form.ok:
        try:
            with writing() as session:
                key = _make_key(session, name, scopes)
        except InvalidInput as error:
            form.refuse(error, default="name")
    if not form.ok:
        return _keys_page(form, 422)
    return _keys_page(Form(), shown=key)


def _make_key(session: Any, name: str, scopes: list[str]) -> str:
    _row, key = keys.create(session, name, scopes, actor(), context.now())
    return str(key)


@bp.post("/keys/<int:key_id>/revoke")
@require(Permission.ADMINISTER)
def revoke_key(key_id: int) -> Response:
    with writing() as session:
        keys.revoke(session, key_id, actor(), context.now())
    flash(gettext("Revoked. The key answers nothing any more."), "success")
    return redirect(url_for("settings.api_keys"), 303)


@bp.get("/audit")
@require(Permission.ADMINISTER)
def audit_log() -> str:
    who, kind = request.args.get("actor", "").strip()[:200], request.args.get("type", "")
    page = queries.audit(reading(), wanted(), actor=who, object_type=kind)
    return render_template("settings/audit.html", page=page, who=who, kind=kind, kinds=OBJECT_TYPES)


@bp.get("/account")
@require(Permission.VIEW)
def account() -> str:
    """One's own name, password and second step."""
    return render_template("settings/account.html", form=Form({"name": current_user.name or ""}))


@bp.post("/account")
@require(Permission.VIEW)
def account_post() -> Response:
    name = request.form.get("name", "").strip()[:200]
    with writing() as session:
        user = session.get_one(User, current_user.id)
        user.name = name or None
        audit.record(session, actor(), "user.rename", "user", user.id, context.now())
    flash(gettext("Saved."), "success")
    return redirect(url_for("settings.account"), 303)
