"""Results → Experiments: those of the shop's own pages, made, started, ramped up, stopped and read out."""

from __future__ import annotations

import json
import pprint
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from flask import Blueprint, abort, current_app, flash, redirect, render_template, request, url_for
from flask_babel import gettext
from werkzeug.wrappers import Response

from campaigns import report
from core import audit
from core.errors import Conflict, HuiliuError
from experiments import bandits, drafts, experiments, planning_shop, readout
from experiments import planning as plans
from experiments.models import BanditWeek, Experiment
from web import charts_experiments, context, i18n
from web.console import experiment_form
from web.context import actor, reading, require, writing
from web.forms import Form
from web.paging import wanted
from web.queries import campaigns as campaign_queries
from web.queries import experiments as queries
from web.queries import members as member_queries
from web.queries.experiments import Span
from web.refusals import said
from web.roles import Permission
from web.words import word

bp = Blueprint("experiments", __name__, url_prefix="/results/experiments")
STEPS = (0.01, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Coverages that a ramp-up is offered."""
KINDS = ("shop", "campaign", "control")
WINDOWS = (7, 14, 30, 60, 90)
USUAL_WINDOW = 30
PACE_DAYS = 7


@bp.get("")
@require(Permission.VIEW)
def index() -> str:
    """Every experiment: the shop's own, and those of campaigns and of the control group."""
    kind = request.args.get("kind", "")
    page = queries.listing(reading(), wanted(), kind=kind if kind in KINDS else "")
    return render_template("experiments/index.html", page=page, kind=kind, kinds=KINDS)


def _row(experiment_id: int) -> Experiment:
    found = reading().get(Experiment, experiment_id)
    if found is None:
        abort(404)
    return found


def _own(experiment_id: int) -> Experiment:
    row = _row(experiment_id)
    if row.kind != experiments.SHOP:
        abort(404)
    return row


# --- making ----------------------------------------------------------------------------------------------


def _edit(form: Form, code: int = 200, row: Experiment | None = None) -> tuple[str, int]:
    return (
        render_template(
            "experiments/new.html",
            form=form,
            row=row,
            arms=experiment_form.rows_of(form),
            goals=[(one, word("metric", one)) for one in experiments.GOALS],
            floor=i18n.share(experiments.DEFAULT_FLOOR),
            window=experiments.DEFAULT_WINDOW_DAYS,
        ),
        code,
    )


@bp.get("/new")
@require(Permission.EDIT)
def create() -> Any:
    return _edit(experiment_form.usual())


@bp.post("/new")
@require(Permission.EDIT)
def create_post() -> Any:
    """Make a draft; a name is taken once."""
    form = Form(request.form)
    new = experiment_form.read(form, context.console().settings.zone)
    made = 0
    if form.ok:
        try:
            with writing() as session:
                made = experiments.create(session, new, context.now(), by=actor()).id
        except Conflict as error:
            form.error("name", said(error))
        except HuiliuError as error:
            form.refuse(error, experiment_form.REFUSED_AT)
    if not form.ok:
        return _edit(form, 422)
    flash(gettext("Made, as a draft: nobody gets an arm until you start it."), "success")
    return redirect(url_for("experiments.page", experiment_id=made), 303)


@bp.get("/<int:experiment_id>/edit")
@require(Permission.EDIT)
def edit(experiment_id: int) -> Any:
    """The form of a draft."""
    row = _own(experiment_id)
    if row.status != experiments.DRAFT:
        flash(gettext("It has started, so its arms stay as they are."), "error")
        return redirect(url_for("experiments.page", experiment_id=row.id), 303)
    return _edit(experiment_form.from_row(row, context.console().settings.zone), row=row)


@bp.post("/<int:experiment_id>/edit")
@require(Permission.EDIT)
def edit_post(experiment_id: int) -> Any:
    """Change a draft; its plan keeps what it was frozen with."""
    row = _own(experiment_id)
    form, name = Form(request.form), row.name
    new = experiment_form.read(form, context.console().settings.zone, name)
    if form.ok:
        try:
            with writing() as session:
                drafts.update(session, name, new, by=actor(), now=context.now())
        except HuiliuError as error:
            form.refuse(error, experiment_form.REFUSED_AT, "arms")
    if not form.ok:
        return _edit(form, 422, _own(experiment_id))
    flash(gettext("Changed. It is a draft still."), "success")
    return redirect(url_for("experiments.page", experiment_id=experiment_id), 303)


# --- one of them -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A coverage that may be chosen, and what it brings: units a day more, None where the pace is unknown."""

    to: float
    more: float | None

    @property
    def percent(self) -> str:
        return f"{self.to * 100:g}"


@bp.get("/<int:experiment_id>")
@require(Permission.VIEW)
def page(experiment_id: int) -> Any:
    """What it is, who has come, and what it takes to put it on a page."""
    session, row = reading(), _row(experiment_id)
    kept = queries.newest_readout(session, row.id)
    if row.kind != experiments.SHOP:
        campaign = campaign_queries.campaign_of(session, row.id)
        if campaign is not None and kept is None:
            return redirect(url_for("campaigns.page", name=campaign.name), 303)
        return redirect(
            url_for("results.page", readout_id=kept.id) if kept else url_for("experiments.index"), 303
        )
    weeks = bandits.history(session, row.id) if row.allocation == experiments.BANDIT else []
    now, zone = context.now(), context.console().settings.zone
    spans = queries.arrivals(session, row, zone, now, [week.at for week in weeks])
    others = queries.in_layer(session, row)
    shown, planned = experiments.to_json(row, now), _plan(row)
    return render_template(
        "experiments/page.html",
        row=row,
        shown=shown,
        closed=experiments.closed(row, now),
        total={arm["name"]: sum(span.arms.get(arm["name"], 0) for span in spans) for arm in row.arms},
        picture=charts_experiments.arrivals(spans, [arm["name"] for arm in row.arms]) if spans else None,
        split=bandits.check_split(_periods(row, weeks, spans)),
        layer=charts_experiments.layer(row, others) if others else None,
        overlaps=charts_experiments.overlaps(row, others),
        weeks=weeks,
        weights=charts_experiments.weights(row, weeks) if weeks else None,
        found=_found(row, weeks),
        steps=_steps(row, spans, now),
        kept=kept,
        plan=planned,
        windows=sorted({*WINDOWS, planned["days"]}),
        usual_window=planned["days"],
        history=member_queries.history(session, experiments.OBJECT, row.name),
        **_snippets(row, shown),
    )


def _plan(row: Experiment) -> dict[str, Any]:
    """The plan that binds its read-out, or the newest: whether one can be made, whether it fits the arms, and
    the days that a read-out counts."""
    if row.unit != experiments.MEMBER or row.allocation != experiments.FIXED:
        return {"can": False, "row": None, "fits": True, "days": USUAL_WINDOW}
    rows = plans.versions(reading(), plans.subject_of(plans.EXPERIMENT, row.name))
    found = next((one for one in rows if not one.after_start), rows[0] if rows else None)
    if found is None:
        return {"can": True, "row": None, "fits": True, "days": USUAL_WINDOW}
    plan = plans.from_json(found.plan)
    days = USUAL_WINDOW if found.after_start else plan.duration_days
    return {"can": True, "row": found, "fits": planning_shop.fits(row, plan), "days": days}


def _periods(
    row: Experiment, weeks: Sequence[BanditWeek], spans: Sequence[Span]
) -> list[tuple[Mapping[str, float], list[dict[str, int]]]]:
    """The spans by the weights that held in them."""
    changes = [week for week in weeks if week.before != week.weights]
    weights: list[Mapping[str, float]] = [*(week.before for week in changes), bandits.weights_of(row)]
    starts = [week.at for week in changes]
    days: list[list[dict[str, int]]] = [[] for _ in weights]
    for span in spans:
        days[sum(start <= span.start for start in starts)].append(span.arms)
    return list(zip(weights, days, strict=True))


def _found(row: Experiment, weeks: Sequence[BanditWeek]) -> list[dict[str, Any]]:
    """What the last reckoning of a bandit knew of each arm, with intervals of 95 %."""
    last = next((week for week in reversed(weeks) if week.found), None)
    if last is None:
        return []
    money = row.goal == "revenue"

    def shown(value: float) -> str:
        return i18n.money(value) if money else i18n.share(value)

    return [
        {
            "arm": arm,
            "n": one["n"],
            "mean": shown(one["mean"]),
            "low": shown(one["mean"] - 1.96 * one["se"]),
            "high": shown(one["mean"] + 1.96 * one["se"]),
            "weight": last.weights[arm],
        }
        for arm, one in last.found.items()
    ]


def _steps(row: Experiment, spans: Sequence[Span], now: datetime) -> list[Step]:
    """The coverages that may come next, with what the pace of the last days says of them."""
    if row.status == experiments.STOPPED:
        return []
    since = now - timedelta(days=PACE_DAYS)
    recent = [span for span in spans if span.day is not None and span.end > since]
    pace = None
    if recent and row.coverage:
        days = max((now - recent[0].start) / timedelta(days=1), 1.0)
        pace = sum(sum(span.arms.values()) for span in recent) / days
    offered = [one for one in STEPS if one > row.coverage + 1e-9]
    return [Step(one, None if pace is None else pace * (one / row.coverage - 1)) for one in offered]


def _snippets(row: Experiment, shown: Mapping[str, Any]) -> dict[str, Any]:
    """The lines to paste: both languages with this experiment's values, and a request by curl."""
    plain = json.loads(json.dumps(shown, default=lambda value: value.isoformat()))
    address = f"{context.console().settings.base_url}/api/v1/experiments/{quote(row.name, safe='')}"
    unit = "m1" if row.unit == experiments.MEMBER else "visitor-1"
    curl = (
        f"curl -X POST {shlex.quote(address + '/assign')} \\\n"
        "  -H 'Authorization: Bearer hl_…' -H 'Content-Type: application/json' \\\n"
        f"  -d '{json.dumps({'units': [unit]})}'"
    )
    return {
        "address": address,
        "curl": curl,
        "snippets": [] if row.allocation == experiments.BANDIT else _code(plain, unit),
    }


def _code(plain: dict[str, Any], unit: str) -> list[tuple[str, str, str]]:
    """(id, language, code): the functions of the documentation with this experiment's values."""
    asked = json.dumps(unit)
    values = pprint.pformat(plain, width=88, sort_dicts=False)
    python = f"experiment = {values}\n\n\n{_source('py')}\n\nprint(arm(experiment, {asked}))"
    values = json.dumps(plain, indent=2, ensure_ascii=False)
    script = f"const experiment = {values};\n\n{_source('js')}\nconsole.log(arm(experiment, {asked}));"
    return [("python", "Python", python), ("javascript", "JavaScript", script)]


def _source(ending: str) -> str:
    loader = current_app.jinja_env.loader
    assert loader is not None
    return str(loader.get_source(current_app.jinja_env, f"experiments/snippet.{ending}.txt")[0])


# --- steering --------------------------------------------------------------------------------------------


def _changed(experiment_id: int, done: str, **changes: Any) -> Response:
    name = _own(experiment_id).name
    try:
        with writing() as session:
            experiments.change(session, name, by=actor(), now=context.now(), **changes)
    except HuiliuError as error:
        flash(said(error), "error")
    else:
        flash(done, "success")
    return redirect(url_for("experiments.page", experiment_id=experiment_id), 303)


@bp.post("/<int:experiment_id>/start")
@require(Permission.EDIT)
def start(experiment_id: int) -> Response:
    return _changed(experiment_id, gettext("Started."), status=experiments.RUNNING)


@bp.post("/<int:experiment_id>/ramp")
@require(Permission.EDIT)
def ramp(experiment_id: int) -> Response:
    """A higher coverage: nobody who has an arm is moved."""
    form = Form(request.form)
    coverage = form.percent("coverage")
    if coverage is None or not form.ok:
        flash(gettext("Choose a share above nothing, and at most everybody."), "error")
        return redirect(url_for("experiments.page", experiment_id=experiment_id), 303)
    done = gettext("%(share)s of the units take part from now on.", share=i18n.share(coverage))
    return _changed(experiment_id, done, coverage=coverage)


@bp.post("/<int:experiment_id>/end")
@require(Permission.EDIT)
def end(experiment_id: int) -> Response:
    """A moment at which it ends by itself."""
    form = Form(request.form)
    at = form.time("ends_at", context.console().settings.zone)
    if at is None:
        flash(gettext("Write a date and time like 2026-03-01 09:30."), "error")
        return redirect(url_for("experiments.page", experiment_id=experiment_id), 303)
    return _changed(
        experiment_id, gettext("It ends by itself at %(when)s.", when=i18n.moment(at)), ends_at=at
    )


@bp.post("/<int:experiment_id>/stop")
@require(Permission.EDIT)
def stop(experiment_id: int) -> Response:
    """For good, once its name is typed."""
    if request.form.get("confirm", "").strip() != _own(experiment_id).name:
        flash(gettext("Not stopped: type the experiment's name to confirm."), "error")
        return redirect(url_for("experiments.page", experiment_id=experiment_id), 303)
    return _changed(
        experiment_id, gettext("Stopped for good. Nobody gets an arm any more."), status=experiments.STOPPED
    )


@bp.post("/<int:experiment_id>/measure")
@require(Permission.EDIT)
def measure(experiment_id: int) -> Response:
    """Read it out as of now, and keep that."""
    console, now, row = context.console(), context.now(), _own(experiment_id)
    days = request.form.get("window_days", USUAL_WINDOW, type=int)
    if row.allocation == experiments.BANDIT:
        flash(gettext("A bandit's arms are compared week by week, on this page."), "error")
        return redirect(url_for("experiments.page", experiment_id=experiment_id), 303)
    engine = console.engine()
    context.close_reading()
    engine.replica.sync(console.database)
    try:
        row = _own(experiment_id)
        found = report.of_shop(
            reading(), engine, row, window_days=days, as_of=now, currency=console.settings.shop_currency
        )
        with writing() as session:
            kept = readout.freeze(
                session, experiment_id, found.readout, as_of=now, settings={"window_days": days}, now=now
            ).id
            audit.record(session, actor(), "measure", experiments.OBJECT, row.name, now)
    except HuiliuError as error:
        flash(said(error), "error")
        return redirect(url_for("experiments.page", experiment_id=experiment_id), 303)
    flash(gettext("Measured and kept. Earlier read-outs stay as they were."), "success")
    return redirect(url_for("results.page", readout_id=kept), 303)
