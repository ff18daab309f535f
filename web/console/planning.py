"""Results → Plans: what an experiment could find, the plan that is frozen before it runs, and its keeping.

Looking ahead writes nothing. A plan's numbers are reckoned anew as it is frozen, so that none can be typed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from flask_babel import gettext
from werkzeug.wrappers import Response

from campaigns import planning
from core.errors import HuiliuError, InvalidInput
from experiments import outlook
from experiments import planning as plans
from experiments.metrics import RETENTION
from experiments.models import ExperimentPlan, Readout
from experiments.outlook import Advice, Option
from experiments.planning import Deviation, Plan
from experiments.readout_form import from_json
from web import charts, charts_planning, context, i18n
from web.console import metric_words, plan_targets, planning_form
from web.console.metric_words import title_of
from web.console.plan_targets import Target
from web.console.plan_words import deviation_words, method_word
from web.console.planning_form import Asked, Wish
from web.console.readout_words import guard_row
from web.context import actor, reading, require, writing
from web.forms import Form
from web.paging import PAGE_ROWS, offset, page_of, wanted
from web.queries import campaigns as queries
from web.queries import segments as segment_queries
from web.refusals import said
from web.roles import Permission

bp = Blueprint("planning", __name__, url_prefix="/results/plans")
bp.app_template_filter("deviation_words")(deviation_words)
REAL = "real"
REFUSED_AT = {
    "duration_days": "days", "guardrails": "guard", "audience": "metric", "mde": "metric", "rule": "decision",
}  # fmt: skip
"""Fields of the packages' refusals → the form's."""
USUAL_HOLDOUT, USUAL_DAYS = "20", "28"


@bp.get("")
@require(Permission.VIEW)
def index() -> str:
    """The newest plan of each campaign."""
    session, number = reading(), wanted()
    rows = plans.newest(session, PAGE_ROWS + 1, offset(number))
    return render_template(
        "results/plans.html",
        page=page_of([_view(row) for row in rows], number, by_time=True),
        words=metric_words,
        duration=charts_planning.duration,
    )


@dataclass(frozen=True)
class View:
    """A stored plan as pages show it."""

    row: ExperimentPlan
    plan: Plan
    unit: charts.Unit
    mde: str
    method: str

    @property
    def name(self) -> str:
        """Of the campaign or experiment that it is for."""
        return self.row.subject.partition(":")[2]


def _view(row: ExperimentPlan) -> View:
    plan = plans.from_json(row.plan)
    currency = context.console().settings.shop_currency
    unit = charts.Unit(
        {"money": "money", "share": "share"}.get(plan.unit, "number"),  # type: ignore[arg-type]
        currency if plan.unit == "money" else "",
    )
    return View(row, plan, unit, metric_words.shown(plan.mde, unit), method_word(plan.method))


# --- looking ahead ---------------------------------------------------------------------------------------


def _ask(args: Mapping[str, Any]) -> tuple[dict[str, Any], Asked | None]:
    session = reading()
    form = planning_form.defaults(session, args)
    asked = planning_form.read(session, form)
    about = {
        "form": form,
        "asked": asked,
        "target": asked.target if asked else planning_form.target_of(session, form),
        "segments": [("", gettext("Everybody")), *segment_queries.names(session)],
        "query": planning_form.address(form),
        **_choices(),
    }
    return about, asked


def _choices() -> dict[str, Any]:
    found = planning.goals(reading())
    return {
        "goals": [(name, title_of(name)) for name in sorted(found, key=lambda one: (title_of(one), one))],
        "alphas": [(one, f"{one} %") for one in planning_form.ALPHAS],
        "powers": [(one, f"{one} %") for one in planning_form.POWERS],
        "methods": [(one, method_word(one)) for one in outlook.METHODS],
        "yes_no": [("1", gettext("yes")), ("0", gettext("no"))],
    }


@bp.get("/ask")
@require(Permission.VIEW)
def ask() -> str:
    """The questions of planning; the answer comes by htmx."""
    about, _ = _ask(request.args)
    return render_template("results/plan_ask.html", answer=False, **about)


@bp.get("/answer")
@require(Permission.VIEW)
def answer() -> Response | str:
    """What the options find: a part of the page by htmx, the whole page without."""
    about, asked = _ask(request.args)
    found: dict[str, Any] = {"refused": None}
    if asked is not None:
        try:
            found |= _look(asked, about["query"])
        except InvalidInput as error:
            found["refused"] = said(error)
    name = "results/plan_answer.html" if context.is_htmx() else "results/plan_ask.html"
    return render_template(name, answer=True, **about, **found)


def _look(asked: Asked, query: Mapping[str, str]) -> dict[str, Any]:
    console, spec = context.console(), asked.goal.spec
    past = planning.history(
        reading(), console.engine(), console.settings, asked.rule, asked.exclude, spec, context.now()
    )
    options = outlook.options(spec, past, asked.terms)
    unit, terms = metric_words.unit_of(spec), asked.terms
    base = gettext(
        "n = %(n)s members in the audience, %(reach)s eligible; α %(alpha)s, power %(power)s, %(method)s",
        n=i18n.number(past[0].n),
        reach=i18n.share(terms.reach),
        alpha=i18n.share(terms.alpha),
        power=i18n.share(terms.power),
        method=method_word(terms.method),
    )

    def link(one: Option) -> str | None:
        if asked.target is None or not context.may("edit"):
            return None
        chosen = {"holdout": f"{one.holdout * 100:g}", "days": one.days}
        return asked.target.freeze_address(_without(query, asked.target) | chosen)

    return {
        "past": past,
        "options": options,
        "unit": unit,
        "advice": advice_in_words(outlook.recommend(options, terms), terms, unit),
        "picture": charts_planning.grid(options, unit, metric_words.shown, link, base),
        "lines": charts_planning.lines(options, base),
        "money": unit.kind == "money",
        "duration": charts_planning.duration,
        "words": metric_words,
    }


def _without(query: Mapping[str, str], target: Target) -> dict[str, Any]:
    """Without what the address of a target says by itself; a campaign also has its audience."""
    known = ("campaign", "experiment", *(("segment", "rule") if target.spec is not None else ()))
    return {name: value for name, value in query.items() if name not in known}


def advice_in_words(advice: Advice | None, terms: outlook.Terms, unit: charts.Unit) -> str:
    """The recommendation in one sentence."""
    if advice is None:
        return str(
            gettext("Nothing can be said: in the past of these members the goal never differed, or was 0.")
        )
    one = advice.option
    values = {
        "holdout": i18n.share(one.holdout),
        "duration": charts_planning.duration(one.days),
        "mde": metric_words.shown(one.mde, unit),
        "relative": i18n.share(one.relative),
        "cost": i18n.money(one.cost_minor, whole=True),
        "wanted": i18n.share(terms.wanted),
    }
    if advice.finds:
        return str(
            gettext(
                "%(holdout)s held out for %(duration)s finds %(mde)s a member (%(relative)s) or more, and "
                "costs about %(cost)s if the effect is %(wanted)s.",
                **values,
            )
        )
    values["needed"] = i18n.number(round(one.needed)) if one.needed is not None else "–"
    return str(
        gettext(
            "No option finds %(wanted)s. The best, %(holdout)s held out for %(duration)s, finds %(relative)s "
            "(%(mde)s a member) or more; for %(wanted)s it would take about %(needed)s eligible members.",
            **values,
        )
    )


# --- freezing --------------------------------------------------------------------------------------------


def _freeze_page(form: Form, target: Target, code: int = 200) -> tuple[str, int]:
    session = reading()
    guards = planning_form.guard_options(session)
    return (
        render_template(
            "results/plan_freeze.html",
            form=form,
            target=target,
            segments=[("", gettext("Everybody")), *segment_queries.names(session)],
            guards=[(name, title_of(name)) for name in guards],
            query={**planning_form.address(form), target.kind: target.name},
            **_choices(),
        ),
        code,
    )


@bp.get("/campaigns/<name>/freeze")
@require(Permission.EDIT)
def freeze(name: str) -> Any:
    """The form of a campaign's plan, with what was chosen while looking ahead."""
    return _freeze(plans.CAMPAIGN, name)


@bp.get("/experiments/<name>/freeze")
@require(Permission.EDIT)
def freeze_experiment(name: str) -> Any:
    """The form of the plan of an experiment on the shop's own pages."""
    return _freeze(plans.EXPERIMENT, name)


def _freeze(kind: str, name: str) -> Any:
    session = reading()
    target = plan_targets.find(session, kind, name, context.now())
    form = planning_form.defaults(session, {**request.args.to_dict(), kind: name})
    usual = {
        "holdout": USUAL_HOLDOUT if target.spec is not None else f"{target.holdout * 100:.4g}",
        "days": USUAL_DAYS,
        "decision": planning_form.usual_rule(kind),
        "apply": "1" if target.can_apply else "",
    }
    for field, value in usual.items():
        if not str(form.data.get(field) or ""):
            form.data[field] = value
    guards = planning_form.guard_options(session)
    form.data.setlist("guard", [one for one, goal in guards.items() if goal.spec.margin and goal.version])
    for one, goal in guards.items():
        form.data[f"guard-{one}"] = f"{(goal.spec.margin or 0.05) * 100:g}"
    return _freeze_page(form, target)


@bp.post("/campaigns/<name>/freeze")
@require(Permission.EDIT)
def freeze_post(name: str) -> Any:
    """Reckon the plan's numbers and store it as the campaign's next version."""
    return _freeze_post(plans.CAMPAIGN, name)


@bp.post("/experiments/<name>/freeze")
@require(Permission.EDIT)
def freeze_experiment_post(name: str) -> Any:
    """Reckon the plan's numbers and store it as the experiment's next version."""
    return _freeze_post(plans.EXPERIMENT, name)


def _freeze_post(kind: str, name: str) -> Any:
    session = reading()
    target = plan_targets.find(session, kind, name, context.now())
    form = Form(request.form)
    form.data[kind] = name
    asked, wish = planning_form.read(session, form), planning_form.read_wish(session, form)
    row_id = 0
    if asked is not None and form.ok:
        try:
            plan = _plan(asked, wish)
            if wish.apply and not target.can_apply:
                raise InvalidInput(_too_late(kind), "apply")
            with writing() as writer:
                row_id = plan_targets.freeze(
                    writer, target, plan, by=actor(), now=context.now(), apply=wish.apply
                ).id
        except HuiliuError as error:
            form.refuse(error, REFUSED_AT)
    if not form.ok:
        return _freeze_page(form, plan_targets.find(reading(), kind, name, context.now()), 422)
    flash(gettext("Frozen. The read-out will be held against it."), "success")
    return redirect(url_for("planning.page", plan_id=row_id), 303)


def _too_late(kind: str) -> str:
    if kind == plans.CAMPAIGN:
        return str(gettext("The campaign is approved already; plan it without changing it."))
    return str(gettext("The experiment has started; plan it without changing it."))


def _plan(asked: Asked, wish: Wish) -> Plan:
    console, spec, terms = context.console(), asked.goal.spec, asked.terms
    assert asked.target is not None
    (past,) = planning.history(
        reading(),
        console.engine(),
        console.settings,
        asked.rule,
        asked.exclude,
        spec,
        context.now(),
        [wish.days],
    )
    if spec.kind == RETENTION and wish.days < spec.until_day:
        raise InvalidInput(
            gettext(
                "This goal is known %(days)s days after the decision; plan so many days or more.",
                days=spec.until_day,
            ),
            "duration_days",
        )
    (option,) = outlook.options(spec, [past], terms, [wish.holdout])
    if option.mde is None:
        raise InvalidInput(
            gettext(
                "In the past of these members the goal never differed, so nothing can be planned by it; "
                "choose another goal or audience."
            ),
            "metric",
        )
    control, arms = asked.target.arms(wish.holdout)
    return Plan(
        metric=spec.name,
        metric_version=asked.goal.version,
        mde=option.mde,
        mde_relative=option.relative,
        unit=metric_words.unit_of(spec).kind,
        alpha=terms.alpha,
        power=terms.power,
        control=control,
        arms=arms,
        members=round(past.n * terms.reach),
        duration_days=wish.days,
        rule=wish.rule,
        method=terms.method,
        adjusted=terms.adjusted,
        ends_at=wish.ends_at,
        guardrails=wish.guardrails,
        also=tuple(one for one in wish.also if one.metric != spec.name),
        tuning=terms.tuning,
        baseline={"mean": past.mean, "sd": past.sd, "zeros": past.zeros, "rho": past.rho, "n": past.n,
                  "cost_minor": option.cost_minor, "wanted": terms.wanted},
    )  # fmt: skip


# --- a plan ----------------------------------------------------------------------------------------------


@bp.get("/<int:plan_id>")
@require(Permission.VIEW)
def page(plan_id: int) -> str:
    """A version of a plan, all versions, and how the newest read-out keeps to the one that binds."""
    session = reading()
    row = session.get(ExperimentPlan, plan_id)
    if row is None:
        abort(404)
    view = _view(row)
    target = plan_targets.of_subject(session, row.subject, context.now())
    kept = _newest(target) if target is not None else None
    binding = plans.binding(session, row.subject)
    return render_template(
        "results/plan.html",
        view=view,
        target=target,
        versions=plans.versions(session, row.subject),
        binding=binding,
        deviations=_held(target, kept) if target is not None and kept is not None else None,
        guards=[] if kept is None else [guard_row(one) for one in from_json(kept.result).guardrails],
        words=metric_words,
        duration=charts_planning.duration,
    )


def _newest(target: Target) -> Readout | None:
    rows = queries.readouts(reading(), target.measured)
    return next((one for one in rows if one.kind == REAL), None)


def _held(target: Target, kept: Readout) -> list[Deviation] | None:
    """The newest real read-out held against the plan; None where nothing was planned."""
    held = planning.held_readout(
        reading(),
        target.subject,
        target.experiment_id,
        from_json(kept.result),
        as_of=kept.as_of,
        settings=kept.settings,
    )
    return held.deviations if held else None
