"""Segments: the list, a segment with its rule in words, the editor; RFM and lifecycle."""

from __future__ import annotations

import json
from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask_babel import gettext
from werkzeug.wrappers import Response

from core.errors import Conflict, HuiliuError, InvalidInput
from segments import segments as saved
from segments.evaluate import evaluator
from segments.models import Refresh, Segment
from segments.rules import validate
from segments.words import in_words
from web import builder, charts, context, i18n
from web.context import actor, reading, require, writing
from web.forms import Form
from web.queries import events as event_queries
from web.queries import members as member_queries
from web.queries import segments as queries
from web.roles import Permission
from web.words import word

bp = Blueprint("segments", __name__, url_prefix="/segments")
SAMPLE = 20
PERIODS = (7, 30, 90, 365)
RULE_LIMIT = 100_000
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
    return render_template(
        "segments/index.html",
        rows=queries.rows(session, archived=archived),
        archived=archived,
        latest=queries.latest(session),
        words={row.name: rule_in_words(row.rule) for row in queries.rows(session, archived=archived)},
    )


def rule_in_words(rule: Any) -> str:
    """A rule as a sentence; a rule that is not valid any more as its reason."""
    try:
        return in_words(rule, i18n.content_locale())
    except HuiliuError as error:
        return str(error)


def _segment(name: str) -> Segment:
    return saved.by_name(reading(), name)


@bp.get("/<name>")
@require(Permission.VIEW)
def page(name: str) -> str:
    session = reading()
    segment = _segment(name)
    latest = queries.latest(session)
    counted, error = _count(segment.rule)
    sizes = queries.sizes(session, name)
    campaigns, others = queries.used_by(session, name)
    return render_template(
        "segments/page.html",
        segment=segment,
        words=rule_in_words(segment.rule),
        json=json.dumps(segment.rule, ensure_ascii=False, indent=2),
        counted=counted,
        error=error,
        sample=member_queries.of_ids(session, counted.sample) if counted else [],
        sizes=_sizes_chart(sizes) if len(sizes) > 1 else None,
        moves=(latest.segments.get(name) if latest else None),
        latest=latest,
        campaigns=campaigns,
        others=others,
        versions=[(one, rule_in_words(one.rule)) for one in saved.versions(session, segment)],
    )


def _count(rule: Any) -> tuple[Any, str | None]:
    """(Count, None), or (None, why not)."""
    session, console = reading(), context.console()
    latest = queries.latest(session)
    day = latest.as_of if latest else context.now().astimezone(console.settings.zone).date()
    try:
        return evaluator(session, console.engine(), console.settings, day).count(rule, SAMPLE), None
    except InvalidInput as error:
        return None, str(error)


def _sizes_chart(sizes: list[tuple[Any, int]]) -> charts.Chart:
    return charts.over(
        "sizes",
        gettext("Members in the segment"),
        [i18n.day(day, "short") for day, _ in sizes],
        [charts.Series(gettext("Members"), [count for _, count in sizes], mark="line")],
        heading=gettext("As of"),
        base=gettext(
            "%(count)s refreshes, the last on %(day)s", count=len(sizes), day=i18n.day(sizes[-1][0])
        ),
        size="s",
    )


@bp.post("/count")
@require(Permission.VIEW)
def count() -> str:
    """The live count beside the editor: evaluates a rule that is not saved; writes nothing."""
    form = Form(request.form)
    rule = form.json("rule") if len(request.form.get("rule", "")) <= RULE_LIMIT else None
    if rule is None:
        return render_template(
            "segments/count.html", counted=None, error=form.errors.get("rule"), words="", sample=[]
        )
    counted, error = _count(rule)
    sample = member_queries.of_ids(reading(), counted.sample[:5]) if counted else []
    return render_template(
        "segments/count.html",
        counted=counted,
        error=error,
        words="" if error else rule_in_words(rule),
        sample=sample,
    )


def _edit_page(form: Form, name: str | None, code: int = 200) -> tuple[str, int]:
    session = reading()
    others = [pair for pair in queries.names(session) if pair[0] != name]
    text = form.value("rule")
    try:
        words = rule_in_words(json.loads(text))
    except ValueError:
        words = ""
    return (
        render_template(
            "segments/edit.html",
            form=form,
            name=name,
            words=words,
            options_json=builder.options(others, event_queries.kinds(session)),
        ),
        code,
    )


@bp.get("/new")
@require(Permission.EDIT)
def create() -> Any:
    """An empty editor, or one with the rule of a grid cell (``?rule=``)."""
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
    rule = form.json("rule")
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
            form.error(error.field if error.field in ("name", "title") else "rule", str(error))
        except Conflict as error:
            form.error("name", str(error))
    if not form.ok:
        return _edit_page(form, editing, 422)
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
