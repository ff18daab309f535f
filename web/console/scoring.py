"""How members are scored and staged: thresholds with their effect before saving, and the names of groups."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask_babel import gettext
from werkzeug.wrappers import Response

from core.errors import InvalidInput
from segments import preview as previews
from segments import settings as scoring
from segments.scores import latest_refresh
from web import context
from web.context import actor, reading, require, writing
from web.forms import Form
from web.refusals import said
from web.roles import Permission

bp = Blueprint("scoring", __name__, url_prefix="/settings/scoring")
DAYS = ("window_days", "new_days", "active_days", "churned_days", "reactivated_days", "silence_orders")
LANGUAGES = ("en", "zh")
MOVES_SHOWN = 12


def _form_of(current: scoring.Scoring) -> Form:
    data: dict[str, Any] = {field.name: getattr(current, field.name) for field in fields(current)}
    data["high_value_share"] = f"{current.high_value_share * 100:g}"
    data["silence_factor"] = f"{current.silence_factor:g}"
    data["same_day_once"] = "1" if current.same_day_once else ""
    for measure in scoring.MEASURES:
        points = (current.cut_points or {}).get(measure)
        data[f"cut.{measure}"] = ", ".join(map(str, points)) if points else ""
    return Form(data)


def _read(form: Form) -> scoring.Scoring | None:
    """The settings that the form asks for; None with an error beside each field that makes no sense."""
    numbers = {name: form.integer(name, low=1, high=3650, required=True) or 0 for name in DAYS}
    share = form.percent("high_value_share", low=1, high=99)
    factor = form.text("silence_factor", required=True, limit=10)
    cuts = {measure: _four(form, f"cut.{measure}") for measure in scoring.MEASURES}
    preset = form.choice("preset", ("standard", "tenure"))
    try:
        times = float(factor or 0)
    except ValueError:
        form.error("silence_factor", gettext("Write a number."))
    if not form.ok:
        return None
    wanted = replace(
        scoring.load(reading()),
        **numbers,
        preset=preset,
        same_day_once=form.flag("same_day_once"),
        high_value_share=share if share is not None else 0.2,
        silence_factor=times,
        cut_points={name: points for name, points in cuts.items() if points} or None,
    )
    try:
        return wanted.validated()
    except InvalidInput as error:
        name = error.field or ""
        form.error(
            name.replace("cut_points.", "cut.") if name != "cut_points" else "cut.recency", said(error)
        )
        return None


def _four(form: Form, name: str) -> list[int] | None:
    """Four ascending whole numbers, or nothing."""
    text = form.text(name)
    if not text:
        return None
    try:
        points = [int(part) for part in text.replace("，", ",").split(",")]
    except ValueError:
        points = []
    if len(points) != 4 or sorted(points) != points:
        form.error(name, gettext("Write four ascending whole numbers, separated by commas."))
    return points


def _page(form: Form, code: int = 200) -> tuple[str, int]:
    latest = latest_refresh(reading())
    return render_template("settings/scoring.html", form=form, latest=latest, measures=scoring.MEASURES), code


@bp.get("")
@require(Permission.VIEW)
def index() -> Any:
    """The settings in force; with ``freeze`` the last refresh's cut points are filled in, not saved."""
    form = _form_of(scoring.load(reading()))
    latest = latest_refresh(reading())
    if request.args.get("freeze") == "1" and latest is not None:
        for measure, points in latest.rfm["cut_points"].items():
            form.data[f"cut.{measure}"] = ", ".join(map(str, points))
    return _page(form)


@bp.post("")
@require(Permission.ADMINISTER)
def save() -> Any:
    form = Form(request.form)
    wanted = _read(form)
    if wanted is None:
        return _page(form, 422)
    with writing() as session:
        scoring.save(session, wanted, actor(), context.now())
    flash(gettext("Saved. The next refresh uses it."), "success")
    return redirect(url_for("scoring.index"), 303)


@bp.post("/preview")
@require(Permission.VIEW)
def preview() -> str:
    """What the settings on the form would change, against the last refresh. Writes nothing."""
    form = Form(request.form)
    wanted, latest = _read(form), latest_refresh(reading())
    found = None
    if wanted is not None and latest is not None:
        console, as_of = context.console(), latest.as_of
        context.close_reading()
        found = previews.preview(console.engine(), wanted, as_of, console.settings.zone)
    return render_template(
        "settings/preview.html", found=found, form=form, kinds=previews.KINDS, shown=MOVES_SHOWN
    )


@bp.get("/names")
@require(Permission.VIEW)
def names() -> Any:
    return _names_page(_names_form(scoring.titles(reading())))


@bp.post("/names")
@require(Permission.ADMINISTER)
def names_post() -> Any:
    form = Form(request.form)
    wanted: scoring.Titles = {
        kind: {name: (form.text(f"{kind}.{name}.en"), form.text(f"{kind}.{name}.zh")) for name in defaults}
        for kind, defaults in scoring.TITLES.items()
    }
    if form.ok:
        try:
            with writing() as session:
                scoring.save_titles(session, wanted, actor(), context.now())
        except InvalidInput as error:
            form.refuse(error)
    if not form.ok:
        return _names_page(form, 422)
    flash(gettext("Saved. Pages and rules show the new names at once."), "success")
    return _back("scoring.names")


def _back(endpoint: str) -> Response:
    return redirect(url_for(endpoint), 303)


def _names_form(titles: scoring.Titles) -> Form:
    return Form(
        {
            f"{kind}.{name}.{language}": pair[place]
            for kind, found in titles.items()
            for name, pair in found.items()
            for place, language in enumerate(LANGUAGES)
        }
    )


def _names_page(form: Form, code: int = 200) -> tuple[str, int]:
    return render_template("settings/names.html", form=form, titles=scoring.TITLES), code
