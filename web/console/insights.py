"""Insights over time, beside the segments: moves, cohorts, funnels, paths, a segment's history.

Every question stands in its address, so that it can be shared. A page answers at once with its
form; what has to be counted comes as a part of it (``…/result``), or with the page where there is
no script.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import date
from typing import Any

from flask import Blueprint, abort, make_response, render_template, request, url_for
from flask_babel import gettext
from werkzeug.wrappers import Response

from segments import segments as saved
from segments.evaluate import evaluator
from segments.explore import cohorts, funnels, moves, paths
from segments.explore.history import history
from segments.scores import SNAPSHOT, snapshot_path
from web import context, i18n
from web.console import insight_forms as forms
from web.console import insight_pictures as pictures
from web.console import lists
from web.context import reading, require
from web.forms import Form
from web.paging import PAGE_ROWS, Page, offset, wanted
from web.queries import members as member_queries
from web.queries import segments as queries
from web.roles import Permission
from web.words import word

bp = Blueprint("insights", __name__, url_prefix="/segments")
FIELD_OF = {"stage": "lifecycle", "rfm_segment": "rfm.segment", "value_segment": "rfm.value_segment"}
"""Column of a snapshot → the field of a rule."""


def _answer(name: str, part: Any, **about: Any) -> Response:
    """The result alone for a script; the whole page with it otherwise."""
    if context.is_htmx():
        response = make_response(render_template(f"insights/{name}_result.html", **(part or {}), **about))
    else:
        response = make_response(
            render_template(f"insights/{name}.html", inline=True, **(part or {}), **about)
        )
    response.headers["Vary"] = "HX-Request, Cookie"
    return response


def _form() -> Form:
    return Form(request.args)


# Moves


@bp.get("/moves")
@require(Permission.VIEW)
def moves_page() -> str:
    about, _ = _moves()
    return render_template("insights/moves.html", **about)


@bp.get("/moves/result")
@require(Permission.VIEW)
def moves_result() -> Response:
    about, asked = _moves()
    return _answer("moves", _count_moves(asked) if asked else None, **about)


def _moves() -> tuple[dict[str, Any], forms.Compared | None]:
    days = moves.available(context.console().engine())
    form = _form()
    asked = forms.read_moves(form, days)
    about = {
        "form": form,
        "asked": asked,
        "days": days,
        "columns": [(name, word("moves_column", name)) for name in moves.COLUMNS],
        "query": forms.address(form),
    }
    return about, asked


def _count_moves(asked: forms.Compared) -> dict[str, Any]:
    engine = context.console().engine()
    found = moves.matrix(engine, asked.column, asked.before, asked.after)
    latest = queries.latest(reading())
    now = latest is not None and latest.as_of == asked.after

    def link(source: str, target: str) -> str:
        return url_for("insights.moves_members", source=source, target=target, **_dates(asked))

    return {
        "found": found,
        "picture": pictures.moves_grid(found, link),
        "flow": pictures.moves_flow(found) if asked.column == "stage" else None,
        "nets": [
            (
                pictures.name_of(asked.column, name),
                found.at_start(name),
                found.at_end(name),
                found.net(name),
                _value_rule(asked.column, name)
                if now and name not in (moves.ABSENT, moves.UNSCORED)
                else None,
            )
            for name in found.names
            if name != moves.ABSENT
        ],
    }


def _value_rule(column: str, name: str) -> dict[str, str]:
    """Arguments of the editor for everybody who stands at a value now."""
    return {
        "rule": json.dumps({"field": FIELD_OF[column], "op": "=", "value": name}),
        "title": pictures.name_of(column, name),
        "name": f"{column.partition('_')[0]}-{name}".replace("_", "-"),
    }


@bp.get("/moves/members")
@require(Permission.VIEW)
def moves_members() -> str:
    """Who is in one cell of the matrix."""
    form = _form()
    days = moves.available(context.console().engine())
    asked = forms.read_moves(form, days)
    source, target = form.text("source", required=True), form.text("target", required=True)
    if asked is None or not form.ok:
        abort(404)
    number = wanted()
    ids = _moved(asked, source, target, PAGE_ROWS + 1, offset(number))
    latest = queries.latest(reading())
    return render_template(
        "insights/members.html",
        title=f"{pictures.name_of(asked.column, source)} → {pictures.name_of(asked.column, target)}",
        lead=gettext(
            "Members who stood at the first on %(before)s and at the second on %(after)s.",
            before=i18n.day(asked.before),
            after=i18n.day(asked.after),
        ),
        back=(gettext("Moves"), url_for("insights.moves_page", **_dates(asked))),
        page=_members_page(ids, number),
        rule=_cell_rule(asked, source, target) if latest and latest.as_of == asked.after else None,
        gone=target == moves.ABSENT,
        make_list=url_for("insights.moves_list", source=source, target=target, **_dates(asked)),
        list_name=_list_name(source, target, asked.after),
    )


def _moved(
    asked: forms.Compared, source: str, target: str, rows: int | None = None, skip: int = 0
) -> list[int]:
    """Ids of the members of a cell; all of them without ``rows``."""
    engine = context.console().engine()
    return moves.members(
        engine, asked.column, asked.before, asked.after, source, target, rows=rows, skip=skip
    )


@bp.post("/moves/members/list")
@require(Permission.EDIT)
def moves_list() -> Response:
    """A list of everybody in one cell of the matrix."""
    form = _form()
    asked = forms.read_moves(form, moves.available(context.console().engine()))
    source, target = form.text("source", required=True), form.text("target", required=True)
    if asked is None or not form.ok:
        abort(404)
    what = f"{source} → {target}, {asked.before} – {asked.after}"
    return lists.make_of(_moved(asked, source, target), f"moves:{what}", Form(request.form))


def _list_name(first: str, second: str, day: date) -> str:
    """The name that a list of found members is offered."""
    plain = re.sub(r"[^a-z0-9]+", "-", f"{first}-{second}".lower()).strip("-")
    return f"{plain[:70]}-{day:%Y%m%d}"


def _dates(asked: forms.Compared) -> dict[str, Any]:
    return {"column": asked.column, "before": asked.before.isoformat(), "after": asked.after.isoformat()}


def _members_page(ids: list[int], number: int) -> Page[member_queries.MemberRow]:
    """A page of one row more than is shown."""
    rows = member_queries.rows_of(reading(), ids[:PAGE_ROWS])
    return Page(rows, number, len(ids) > PAGE_ROWS)


def _cell_rule(asked: forms.Compared, source: str, target: str) -> Mapping[str, str] | None:
    """The nearest that a rule can say of a cell of stages: where members stand, and since when.

    A rule sees the newest snapshot only, not where a member came from.
    """
    if asked.column != "stage" or moves.ABSENT in (source, target):
        return None
    stayed = source == target
    since = {"field": "lifecycle.since", "op": "<=" if stayed else ">", "value": asked.before.isoformat()}
    name = pictures.name_of("stage", target)
    day = i18n.day(asked.before)
    return {
        "rule": json.dumps({"all": [{"field": "lifecycle", "op": "=", "value": target}, since]}),
        "title": gettext("%(stage)s since %(day)s or before", stage=name, day=day)
        if stayed
        else gettext("%(stage)s since after %(day)s", stage=name, day=day),
        "name": f"{target}-{'by' if stayed else 'after'}-{asked.before:%Y%m%d}".replace("_", "-"),
    }


# Cohorts


@bp.get("/cohorts")
@require(Permission.VIEW)
def cohorts_page() -> str:
    about, _ = _cohorts()
    return render_template("insights/cohorts.html", **about)


@bp.get("/cohorts/result")
@require(Permission.VIEW)
def cohorts_result() -> Response:
    about, asked = _cohorts()
    return _answer("cohorts", _count_cohorts(asked) if asked else None, **about)


def _cohorts() -> tuple[dict[str, Any], forms.CohortsAsked | None]:
    form = _form()
    segments = queries.names(reading())
    asked = forms.read_cohorts(form, segments)
    channels = cohorts.channels(context.console().engine())
    typed = form.value("channel")
    about = {
        "form": form,
        "asked": asked,
        "measures": [(name, word("cohort_measure", name)) for name in forms.MEASURES],
        "periods": [(name, word("cohort_period", name)) for name in cohorts.LIMITS],
        "channels": [
            ("", gettext("Every channel")),
            *((c, c) for c in dict.fromkeys((*channels, typed)) if c),
        ],
        "segments": [("", gettext("Everybody")), *segments],
        "query": forms.address(form),
    }
    return about, asked


def _count_cohorts(asked: forms.CohortsAsked) -> dict[str, Any]:
    session, console = reading(), context.console()
    engine, day = console.engine(), forms.as_of().day
    members = None
    if asked.segment is not None:
        members = evaluator(session, engine, console.settings, day).members({"segment": asked.segment})
    found = cohorts.cohorts(
        engine,
        day,
        console.settings.zone,
        period=asked.period,
        count=asked.count,
        channel=asked.channel,
        members=members,
    )
    title = word("cohort_measure", asked.measure)
    return {
        "found": found,
        "picture": pictures.cohorts_grid(found, asked.measure, title) if found.cohorts else None,
        "line": pictures.cohorts_line(found, asked.measure, title),
        "title": title,
    }


# Funnels


@bp.get("/funnels")
@require(Permission.VIEW)
def funnels_page() -> str:
    about, _ = _funnels()
    return render_template("insights/funnels.html", **about)


@bp.get("/funnels/result")
@require(Permission.VIEW)
def funnels_result() -> Response:
    about, asked = _funnels()
    return _answer("funnels", _count_funnel(asked, about) if asked else None, **about)


def _funnels() -> tuple[dict[str, Any], funnels.Question | None]:
    form = _form()
    asked = forms.read_funnel(form, forms.as_of().day)
    names = forms.kinds(asked.steps if asked else form.values("step"))
    about = {
        "form": form,
        "asked": asked,
        "names": names,
        "steps": [kind for kind in form.values("step") if kind] or forms.usual_steps(names),
        "most": funnels.MAX_STEPS,
        "fields": [
            ("", gettext("No breakdown")),
            *((name, word("funnel_by", name)) for name in funnels.FIELDS),
        ],
        "query": forms.address(form),
    }
    return about, asked


def _count_funnel(asked: funnels.Question, about: Mapping[str, Any]) -> dict[str, Any]:
    engine, as_of = context.console().engine(), forms.as_of()
    snapshot = snapshot_path(engine, SNAPSHOT, as_of.latest.as_of if as_of.latest else None)
    found = funnels.funnel(engine, asked, as_of.instant, snapshot)

    def link(index: int, dropped: bool) -> str:
        return url_for("insights.funnels_members", **about["query"], at=index, dropped=int(dropped))

    names = about["names"]
    return {
        "found": found,
        "picture": pictures.funnel(found, names, lambda i: link(i, True), lambda i: link(i, False)),
        "groups": pictures.funnel_groups(found, names),
        "whole": pictures.lasting(found.whole),
        "window": pictures.lasting(asked.window),
        "as_of": as_of.day,
    }


@bp.get("/funnels/members")
@require(Permission.VIEW)
def funnels_members() -> str:
    """Who got to a step, or no further than it."""
    about, asked = _funnels()
    at, dropped = request.args.get("at", 0, type=int), request.args.get("dropped") == "1"
    if asked is None or not 0 <= at < len(asked.steps):
        abort(404)
    number = wanted()
    engine, as_of = context.console().engine(), forms.as_of()
    ids = funnels.members(
        engine, asked, as_of.instant, at, dropped=dropped, rows=PAGE_ROWS + 1, skip=offset(number)
    )
    name = about["names"][asked.steps[at]]
    query = {key: value for key, value in about["query"].items() if key not in ("at", "dropped")}
    return render_template(
        "insights/members.html",
        title=gettext("Got to “%(step)s” and no further", step=name)
        if dropped
        else gettext("Got to “%(step)s”", step=name),
        lead=gettext(
            "Members of the funnel %(steps)s.", steps=" → ".join(about["names"][kind] for kind in asked.steps)
        ),
        back=(gettext("Funnels"), url_for("insights.funnels_page", **query)),
        page=_members_page(ids, number),
        rule=None,
        gone=False,
        make_list=url_for("insights.funnels_list", **query, at=at, dropped=int(dropped)),
        list_name=_list_name("lost-at" if dropped else "got-to", asked.steps[at], as_of.day),
    )


@bp.post("/funnels/members/list")
@require(Permission.EDIT)
def funnels_list() -> Response:
    """A list of everybody who got to a step, or no further than it."""
    _, asked = _funnels()
    at, dropped = request.args.get("at", 0, type=int), request.args.get("dropped") == "1"
    if asked is None or not 0 <= at < len(asked.steps):
        abort(404)
    ids = funnels.members(
        context.console().engine(), asked, forms.as_of().instant, at, dropped=dropped, rows=None
    )
    what = f"{' → '.join(asked.steps)}: {'no further than' if dropped else 'got to'} {asked.steps[at]}"
    return lists.make_of(ids, f"funnel:{what}", Form(request.form))


# Paths


@bp.get("/paths")
@require(Permission.VIEW)
def paths_page() -> str:
    about, _ = _paths()
    return render_template("insights/paths.html", **about)


@bp.get("/paths/result")
@require(Permission.VIEW)
def paths_result() -> Response:
    about, asked = _paths()
    return _answer("paths", _follow(asked, about) if asked else None, **about)


def _paths() -> tuple[dict[str, Any], paths.Question | None]:
    form = _form()
    names = forms.kinds((form.text("event"), *form.values("kind")))
    asked = forms.read_paths(form, forms.as_of().day, names)
    chosen = form.values("kind") or list(names)
    about = {
        "form": form,
        "asked": asked,
        "names": names,
        "chosen": chosen,
        "usual": forms.usual_steps(names)[0],
        "directions": [("after", gettext("after it")), ("before", gettext("before it"))],
        "query": forms.address(form),
    }
    return about, asked


def _follow(asked: paths.Question, about: Mapping[str, Any]) -> dict[str, Any]:
    as_of = forms.as_of()
    found = paths.paths(context.console().engine(), asked, as_of.instant)
    return {
        "found": found,
        "picture": pictures.paths_flow(found, about["names"]) if found.members else None,
        "window": pictures.lasting(asked.window),
        "as_of": as_of.day,
    }


# History


@bp.get("/<name>/history")
@require(Permission.VIEW)
def history_part(name: str) -> str:
    """A segment's size, entries and exits: a part of its page."""
    session = reading()
    points = history(session, saved.by_name(session, name))
    drawn = pictures.history(points) if len(points) > 1 else None
    return render_template("insights/history.html", points=points, drawn=drawn)
