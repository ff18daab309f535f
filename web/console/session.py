"""The frame of every page: navigation, work in progress, search, language."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, abort, g, redirect, render_template, request
from flask_babel import gettext
from flask_security import current_user
from werkzeug.wrappers import Response

from channels.stop import Stop
from channels.stop import current as stop_in_force
from core import members as core_members
from web import context, i18n
from web.context import reading, require, writing
from web.models import User
from web.queries import members as member_queries
from web.queries import shell as queries
from web.roles import Permission

bp = Blueprint("session", __name__)
SEARCH_MAX = 200


@dataclass(frozen=True)
class Entry:
    title: str
    endpoint: str
    icon: str
    current: bool


AREAS = {
    "scoring": "settings",
    "insights": "segments",
    "predictions": "segments",
    "rules": "segments",
    "delivery_rules": "channels",
    "lists": "segments",
    "promotions": "loyalty",
    "review": "loyalty",
    "referrals": "loyalty",
    "groups": "loyalty",
    "again": "campaigns",
    "experiments": "results",
    "metrics": "results",
    "planning": "results",
    "programme": "results",
    "tree": "results",
    "watching": "results",
}
"""Entry of the rail that a blueprint's pages belong to, where it is not called like one."""


@dataclass(frozen=True)
class Frame:
    nav: list[Entry]
    as_of: date | None
    jobs: list[queries.JobRow]
    stop: Stop | None
    """The stop over all channels, where one is in force."""


def frame() -> Frame:
    """What the frame shows; read once a request."""
    if "frame" not in g:
        session = reading()
        g.frame = Frame(
            _nav(),
            queries.as_of(session),
            queries.running_jobs(session, context.now()),
            stop_in_force(session),
        )
    found: Frame = g.frame
    return found


def _nav() -> list[Entry]:
    titles = (
        (gettext("Overview"), "overview.page", "home"),
        (gettext("Members"), "members.index", "users"),
        (gettext("Segments"), "segments.index", "filter"),
        (gettext("Campaigns"), "campaigns.index", "speakerphone"),
        (gettext("Loyalty"), "loyalty.index", "gift"),
        (gettext("Channels"), "channels.index", "send"),
        (gettext("Results"), "results.index", "chart-bar"),
        (gettext("Settings"), "settings.index", "settings"),
    )
    blueprint = (request.blueprint or "").split(".")[0]
    area = AREAS.get(blueprint, blueprint)
    return [Entry(title, endpoint, icon, endpoint.split(".")[0] == area) for title, endpoint, icon in titles]


@bp.get("/jobs")
@require(Permission.VIEW)
def jobs() -> Response | str:
    """The top bar's corner, asked for again every few seconds."""
    if not context.is_htmx():
        abort(404)
    return render_template("parts/jobs_box.html", shell=frame())


@bp.get("/search")
@require(Permission.VIEW)
def search() -> Any:
    """Members by id, e-mail, phone or name; campaigns, segments; a coupon by its code."""
    text = request.args.get("q", "").strip()[:SEARCH_MAX]
    session = reading()
    people = core_members.search(session, text) if text else []
    rows = member_queries.rows_of(session, [member.id for member in people])
    found = queries.find(session, text) if text else None
    return render_template("members/search.html", text=text, rows=rows, found=found)


@bp.post("/language")
@require(Permission.VIEW)
def set_language() -> Response:
    """Keep the language with the user."""
    wish = request.form.get("language", "")
    if wish not in i18n.LANGUAGES:
        abort(400)
    with writing() as session:
        user = session.get(User, current_user.id)
        if user is not None:
            user.locale = wish
    response = redirect(_own_address(request.form.get("next", "/")), 303)
    response.set_cookie(i18n.COOKIE, wish, max_age=i18n.COOKIE_SECONDS, samesite="Lax", httponly=True)
    return response


def _own_address(address: str) -> str:
    """``address`` where it is a path of this console, else the first page."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc or not address.startswith("/") or address.startswith(("//", "/\\")):
        return "/"
    kept = "&".join(p for p in parts.query.split("&") if p and not p.startswith("lang="))
    return f"{parts.path}?{kept}" if kept else parts.path
