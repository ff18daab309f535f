"""Segments: the list, a segment with its rule in words, the editor; RFM and lifecycle."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from flask_babel import gettext
from werkzeug.wrappers import Response

from core.errors import Conflict, InvalidInput
from segments import segments as saved
from segments.models import Refresh, Segment, SegmentVersion
from segments.rules import validate
from web import builder, charts, context, i18n
from web.console.rules import RULE_LIMIT, Problem, as_of, count_of, problem_of, rule_in_words
from web.context import actor, reading, require, writing
from web.forms import Form
from web.queries import events as event_queries
from web.queries import lists as list_queries
from web.queries import members as member_queries
from web.queries import segments as queries
from web.refusals import said
from web.roles import Permission
from web.rule_diff import Line, diff
from web.words import word

bp = Blueprint("segments", __name__, url_prefix="/segments")
SAMPLE = 20
PERIODS = (7, 30, 90, 365)
COMPARED = 30
"""Versions whose changes are spelt out."""
EXAMPLE = {
    "all": [
        {"field": "lifecycle", "op": "in", "value": ["dormant", "churned"]},
        {"event": "order", "aggregate": "count", "op": ">=", "value": 2},
    ]
}


@bp.get("")
@require(Permission.VIEW)
def index() -> str:
    session = reading()
    archived = request.args.get("archived") == "1"
    rows = queries.rows(session, archived=archived)
    return render_template(
        "segments/index.html",
        rows=rows,
        archived=archived,
        latest=queries.latest(session),
        words={row.name: rule_in_words(row.rule) for row in rows},
    )


def _segment(name: str) -> Segment:
    return saved.by_name(reading(), name)


@bp.get("/<name>")
@require(Permission.VIEW)
def page(name: str) -> str:
    session = reading()
    segment = _segment(name)
    latest = queries.latest(session)
    counted, problem = count_of(segment.rule, SAMPLE)
    return render_template(
        "segments/page.html",
        segment=segment,
        words=rule_in_words(segment.rule),
        json=json.dumps(segment.rule, ensure_ascii=False, indent=2),
        counted=counted,
        problem=problem,
        sample=member_queries.of_ids(session, counted.sample) if counted else [],
        moves=(latest.segments.get(name) if latest else None),
        latest=latest,
        users=queries.used_by(session, name),
        versions=_versions(saved.versions(session, segment)),
        history=member_queries.history(session, "segment", name),
        as_of=as_of(),
        freeze=_freeze_form(segment),
    )


@dataclass(frozen=True)
class Version:
    """A version, and what it changed: None for the first one."""

    one: SegmentVersion
    words: str
    changed: list[Line] | None


def _versions(found: list[SegmentVersion]) -> list[Version]:
    """The newest first; only the newest are compared, a long history costs no more than a short one."""
    locale = i18n.content_locale()
    return [
        Version(
            one,
            rule_in_words(one.rule),
            diff(found[place + 1].rule, one.rule, locale)
            if place + 1 < len(found) and place < COMPARED
            else None,
        )
        for place, one in enumerate(found)
    ]


def _freeze_form(segment: Segment) -> dict[str, str]:
    """The name and title that a frozen list is offered."""
    day = as_of()
    return {
        "name": f"{segment.name[:70]}-{day:%Y%m%d}",
        "title": gettext("%(title)s on %(day)s", title=segment.title, day=i18n.day(day))[:200],
    }


def _edit_page(
    form: Form, name: str | None, code: int = 200, problem: Problem | None = None
) -> tuple[str, int]:
    session = reading()
    others = [pair for pair in queries.names(session) if pair[0] != name]
    return (
        render_template(
            "segments/edit.html",
            form=form,
            name=name,
            problem=problem,
            options_json=builder.options(others, event_queries.kinds(session), list_queries.names(session)),
        ),
        code,
    )


@bp.get("/new")
@require(Permission.EDIT)
def create() -> Any:
    """The editor with an example, the rule of a grid cell (``?rule=``), or another segment's (``?copy=``)."""
    if request.args.get("copy"):
        return _edit_page(_copy_of(_segment(request.args["copy"])), None)
    rule: Any = EXAMPLE
    wish = request.args.get("rule", "")
    if wish and len(wish) <= RULE_LIMIT:
        try:
            rule = json.loads(wish)
            validate(rule)
        except (ValueError, InvalidInput):
            rule = EXAMPLE
    form = Form(
        {
            "rule": json.dumps(rule, ensure_ascii=False, indent=2),
            "title": request.args.get("title", "")[:200],
            "name": request.args.get("name", "")[:80],
        }
    )
    return _edit_page(form, None)


def _copy_of(segment: Segment) -> Form:
    return Form(
        {
            "title": gettext("Copy of %(title)s", title=segment.title)[:200],
            "name": f"{segment.name[:75]}-copy",
            "description": segment.description,
            "rule": json.dumps(segment.rule, ensure_ascii=False, indent=2),
        }
    )


@bp.get("/<name>/edit")
@require(Permission.EDIT)
def edit(name: str) -> Any:
    segment = _segment(name)
    return _edit_page(
        Form(
            {
                "title": segment.title,
                "description": segment.description,
                "rule": json.dumps(segment.rule, ensure_ascii=False, indent=2),
            }
        ),
        name,
    )


@bp.post("/new")
@require(Permission.EDIT)
def create_post() -> Any:
    form = Form(request.form)
    name = form.text("name", required=True, limit=80)
    taken = form.ok and any(
        row.name == name for row in (*queries.rows(reading()), *queries.rows(reading(), archived=True))
    )
    if taken:
        form.error("name", gettext("There is a segment of this name already."))
    return _save(form, name, None)


@bp.post("/<name>/edit")
@require(Permission.EDIT)
def edit_post(name: str) -> Any:
    _segment(name)
    return _save(Form(request.form), name, name)


def _save(form: Form, name: str, editing: str | None) -> Any:
    title = form.text("title", required=True)
    description = form.text("description", limit=2000)
    rule, problem = form.json("rule"), None
    if rule is None:
        form.error("rule", gettext("This is needed."))
    if form.ok:
        try:
            with writing() as session:
                saved.save(
                    session,
                    name=name,
                    title=title,
                    rule=rule,
                    description=description,
                    by=actor(),
                    now=context.now(),
                )
        except InvalidInput as error:
            if error.field in ("name", "title"):
                form.error(error.field, said(error))
            else:
                problem = problem_of(rule, error)
                form.error("rule", problem.text)
        except Conflict as error:
            form.error("name", said(error))
    if not form.ok:
        return _edit_page(form, editing, 422, problem)
    flash(
        gettext("Saved. Its members are found at the next refresh; campaigns use the rule at once."),
        "success",
    )
    return redirect(url_for("segments.page", name=name), 303)


@bp.post("/<name>/archive")
@require(Permission.EDIT)
def archive(name: str) -> Response:
    with writing() as session:
        saved.archive(session, name, actor(), context.now())
    flash(gettext("Archived. It can be restored from the list of archived segments."), "success")
    return redirect(url_for("segments.index"), 303)


@bp.post("/<name>/restore")
@require(Permission.EDIT)
def restore(name: str) -> Response:
    with writing() as session:
        saved.restore(session, name, actor(), context.now())
    flash(gettext("Restored."), "success")
    return redirect(url_for("segments.page", name=name), 303)


@bp.post("/<name>/versions/<int:number>/restore")
@require(Permission.EDIT)
def restore_version(name: str, number: int) -> Response:
    """Have the rule of an earlier version again, as a new version."""
    with writing() as session:
        segment = saved.by_name(session, name)
        old = session.get(SegmentVersion, (segment.id, number))
        if old is None:
            abort(404)
        saved.save(
            session,
            name=name,
            title=segment.title,
            description=segment.description,
            rule=old.rule,
            by=actor(),
            now=context.now(),
        )
    flash(gettext("The rule is as it was in version %(number)s.", number=number), "success")
    return redirect(url_for("segments.page", name=name), 303)


@bp.get("/rfm")
@require(Permission.VIEW)
def rfm() -> str:
    session = reading()
    latest = queries.latest(session)
    engine = context.console().engine()
    cells = queries.grid(engine, latest.as_of) if latest else []
    return render_template(
        "segments/rfm.html",
        latest=latest,
        grid=_grid(cells),
        cells=cells,
        named=queries.groups(engine, latest.as_of, "rfm_segment") if latest else [],
        values=queries.groups(engine, latest.as_of, "value_segment") if latest else [],
        scored=sum(cell.members for cell in cells),
        revenue=sum(cell.revenue_minor for cell in cells),
        cut_points=_cut_points(latest) if latest else [],
    )


def _grid(cells: list[queries.Cell]) -> list[list[dict[str, Any] | None]]:
    """Five rows (recency 5 to 1) of five cells: side of the square by members, shade by revenue."""
    most = max((cell.members for cell in cells), default=1)
    richest = max((cell.revenue_minor for cell in cells), default=1) or 1
    found = {
        (cell.r, cell.f): {
            "cell": cell,
            "side": max(2.0, 46 * (cell.members / most) ** 0.5),
            "heat": min(4, int(4.999 * max(cell.revenue_minor, 0) / richest)),
            "rule": json.dumps(
                {
                    "all": [
                        {"field": "rfm.r", "op": "=", "value": cell.r},
                        {"field": "rfm.f", "op": "=", "value": cell.f},
                    ]
                }
            ),
            "title": f"RFM R{cell.r} F{cell.f} · {word('rfm', cell.segment)}",
            "name": f"rfm-r{cell.r}-f{cell.f}",
        }
        for cell in cells
    }
    return [[found.get((r, f)) for f in range(1, 6)] for r in range(5, 0, -1)]


def _cut_points(latest: Refresh) -> list[tuple[str, list[str]]]:
    """Each measure's cut points in its unit, score 5 first."""
    points = latest.rfm.get("cut_points", {})
    titles = {
        "recency": gettext("Days since the last order, R5 to R1: up to"),
        "frequency": gettext("Orders, F1 to F5: up to"),
        "monetary": gettext("Spend, M1 to M5: up to"),
    }
    return [
        (title, [i18n.money(p) if measure == "monetary" else i18n.number(p) for p in points[measure]])
        for measure, title in titles.items()
        if measure in points
    ]


@bp.get("/lifecycle")
@require(Permission.VIEW)
def lifecycle() -> str:
    from web.console.overview import stages_chart

    session = reading()
    latest = queries.latest(session)
    days = request.args.get("days", 30, type=int)
    days = days if days in PERIODS else 30
    changes = queries.flows(session, latest.as_of, days) if latest else []
    return render_template(
        "segments/lifecycle.html",
        latest=latest,
        stages=stages_chart(latest) if latest else None,
        groups=queries.groups(context.console().engine(), latest.as_of, "stage") if latest else [],
        flow=_flow_chart(changes, days) if changes else None,
        days=days,
        periods=PERIODS,
    )


def _flow_chart(changes: list[tuple[str, str, int]], days: int) -> charts.Chart:
    total = sum(count for _, _, count in changes)
    return charts.flows(
        "flow",
        gettext("Changes of stage"),
        [charts.Flow(word("stage", before), word("stage", after), count) for before, after, count in changes],
        headings=(gettext("From"), gettext("To"), gettext("Changes")),
        base=gettext("%(count)s changes in the last %(days)s days", count=i18n.number(total), days=days),
    )
