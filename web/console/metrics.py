"""Results → Metrics: the catalogue, a metric's page with its picture and its SQL, and its form."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from flask_babel import gettext
from werkzeug.wrappers import Response

from campaigns import planning
from core.errors import HuiliuError, InvalidInput
from experiments import catalogue, metrics
from experiments.metrics import KINDS, MetricSpec
from experiments.models import Metric
from web import charts, charts_planning, context
from web.console import metric_form, metric_words
from web.context import actor, reading, require, writing
from web.forms import Form
from web.queries import members as member_queries
from web.refusals import said
from web.roles import Permission

bp = Blueprint("metrics", __name__, url_prefix="/results/metrics")
MOST_CONDITIONS = metrics.MAX_CONDITIONS


def _facts() -> Any:
    return context.console().engine().replica.facts


@bp.get("")
@require(Permission.VIEW)
def index() -> str:
    """What is measured here, and what uses it."""
    session, archived = reading(), request.args.get("archived") == "1"
    rows = catalogue.listing(session, archived=archived)
    there = {row.name for row in (*rows, *catalogue.listing(session, archived=not archived))}
    return render_template(
        "results/metrics.html",
        rows=[(row, catalogue.spec_of(row)) for row in rows],
        uses=planning.uses(session),
        archived=archived,
        missing=[metric_words.title_of(spec.name) for spec in catalogue.BUILT_IN if spec.name not in there],
        words=metric_words,
    )


def _row(metric_id: int) -> Metric:
    found = reading().get(Metric, metric_id)
    if found is None:
        abort(404)
    return found


@bp.get("/<int:metric_id>")
@require(Permission.VIEW)
def page(metric_id: int) -> str:
    session, row = reading(), _row(metric_id)
    spec = catalogue.spec_of(row)
    try:
        sql, params = catalogue.shown_sql(spec, _facts(), context.now())
        refused = None
    except InvalidInput as error:
        sql, params, refused = "", {}, said(error)
    return render_template(
        "results/metric.html",
        row=row,
        spec=spec,
        sql=sql,
        params=params,
        refused=refused,
        uses=planning.uses(session).get(row.name, []),
        versions=catalogue.versions(session, row.name),
        history=member_queries.history(session, catalogue.OBJECT, row.name),
        words=metric_words,
    )


@bp.get("/<int:metric_id>/look")
@require(Permission.VIEW)
def look(metric_id: int) -> str:
    """How it looked over the last weeks: a part of its page by htmx, a page of its own without."""
    row = _row(metric_id)
    return _look(catalogue.spec_of(row))


def _look(spec: MetricSpec) -> str:
    found, refused = None, None
    try:
        found = catalogue.weekly(context.console().engine(), spec, context.now())
    except InvalidInput as error:
        refused = said(error)
    return render_template(
        "results/metric_picture.html" if context.is_htmx() else "results/metric_look.html",
        chart_of=_chart(spec, found) if found else None,
        quiet=found is not None and not any(week.members for week in found.weeks),
        refused=refused,
        title=metric_words.title_of(spec.name),
    )


def _chart(spec: MetricSpec, found: catalogue.Look) -> charts.Chart:
    return charts_planning.weeks(metric_words.title_of(spec.name), found, metric_words.unit_of(spec))


# --- making and changing ---------------------------------------------------------------------------------


def _edit_page(form: Form, row: Metric | None, code: int = 200) -> tuple[str, int]:
    return (
        render_template(
            "results/metric_edit.html",
            form=form,
            row=row,
            kinds=[(kind, f"{metric_words.KINDS[kind]} – {metric_form.kind_hint(kind)}") for kind in KINDS],
            columns=(columns := metric_form.column_options(_facts())),
            facts=[(name, metric_words.fact_word(name)) for name in columns],
            operators=[(op, str(text)) for op, text in metric_words.OPERATORS.items()],
            conditions=[index for index, _ in form.rows("where")],
            matches=metric_words.matches(),
            most=MOST_CONDITIONS,
            words=metric_words,
        ),
        code,
    )


@bp.get("/new")
@require(Permission.EDIT)
def create() -> Any:
    return _edit_page(metric_form.empty(), None)


@bp.post("/new")
@require(Permission.EDIT)
def create_post() -> Any:
    form, made = Form(request.form), 0
    spec = metric_form.read(form, _facts())
    if spec is not None:
        try:
            with writing() as session:
                made = catalogue.create(session, spec, _facts(), actor(), context.now()).id
        except HuiliuError as error:
            metric_form.refuse(form, error)
    if not form.ok:
        return _edit_page(form, None, 422)
    flash(gettext("Made. Look at the picture: does the metric look as you know it?"), "success")
    return redirect(url_for("metrics.page", metric_id=made), 303)


@bp.get("/<int:metric_id>/edit")
@require(Permission.EDIT)
def edit(metric_id: int) -> Any:
    row = _row(metric_id)
    return _edit_page(metric_form.from_spec(catalogue.spec_of(row)), row)


@bp.post("/<int:metric_id>/edit")
@require(Permission.EDIT)
def edit_post(metric_id: int) -> Any:
    form, row = Form(request.form), _row(metric_id)
    spec = metric_form.read(form, _facts(), row.name)
    version = row.version
    if spec is not None:
        try:
            with writing() as session:
                version = catalogue.change(session, spec, _facts(), actor(), context.now()).version
        except HuiliuError as error:
            metric_form.refuse(form, error)
    if not form.ok:
        return _edit_page(form, _row(metric_id), 422)
    flash(
        gettext("Saved as version %(number)s. Plans keep the version they were made with.", number=version),
        "success",
    )
    return redirect(url_for("metrics.page", metric_id=metric_id), 303)


@bp.post("/ready-made")
@require(Permission.EDIT)
def add_built_in() -> Response:
    """Add the metrics that every shop wants."""
    facts = _facts()
    with writing() as session:
        added = catalogue.add_built_in(session, facts, actor(), context.now())
    flash(gettext("%(count)s metrics added; what you had stays as it was.", count=len(added)), "success")
    return redirect(url_for("metrics.index"), 303)


@bp.post("/<int:metric_id>/archive")
@require(Permission.EDIT)
def archive(metric_id: int) -> Response:
    name = _row(metric_id).name
    with writing() as session:
        catalogue.archive(session, name, actor(), context.now())
    flash(gettext("Archived. Plans and read-outs that name it stay as they are."), "success")
    return redirect(url_for("metrics.index"), 303)


@bp.post("/<int:metric_id>/restore")
@require(Permission.EDIT)
def restore(metric_id: int) -> Response:
    name = _row(metric_id).name
    with writing() as session:
        catalogue.restore(session, name, actor(), context.now())
    flash(gettext("In use again."), "success")
    return redirect(url_for("metrics.page", metric_id=metric_id), 303)
