"""Results → Plans: what an experiment could find, the plan that is frozen before it runs, and its keeping.

Looking ahead writes nothing. A plan's numbers are reckoned anew as it is frozen, so that none can be typed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from flask_babel import gettext
from werkzeug.wrappers import Response

from campaigns import campaigns as stored
from campaigns import planning, rollout
from campaigns.models import Campaign
from core.errors import HuiliuError, InvalidInput, NotFound
from experiments import outlook
from experiments import planning as plans
from experiments.models import ExperimentPlan, Readout
from experiments.outlook import Advice, Option
from experiments.planning import Deviation, Plan
from experiments.readout_form import from_json
from web import charts, charts_planning, context, i18n
from web.console import metric_words, planning_form
from web.console.metric_words import title_of
from web.console.planning_form import Asked, Wish
from web.console.readout_words import CheckRow, guard_row
from web.console.rules import rule_in_words
from web.context import actor, reading, require, writing
from web.forms import Form
from web.paging import PAGE_ROWS, offset, page_of, wanted
from web.queries import campaigns as queries
from web.queries import segments as segment_queries
from web.refusals import said
from web.roles import Permission
from web.words import word

bp = Blueprint("planning", __name__, url_prefix="/results/plans")
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
    campaign: str | None
    mde: str
    method: str


def _view(row: ExperimentPlan) -> View:
    plan = plans.from_json(row.plan)
    kind, _, name = row.subject.partition(":")
    currency = context.console().settings.shop_currency
    unit = charts.Unit(
        {"money": "money", "share": "share"}.get(plan.unit, "number"),  # type: ignore[arg-type]
        currency if plan.unit == "money" else "",
    )
    campaign = name if kind == plans.CAMPAIGN else None
    return View(row, plan, unit, campaign, metric_words.shown(plan.mde, unit), method_word(plan.method))


def method_word(method: str) -> str:
    """What a method is called."""
    texts = {
        outlook.FIXED: gettext("fixed: read once"),
        outlook.SEQUENTIAL: gettext("sequential: read at any time"),
    }
    return str(texts.get(method, method))


# --- looking ahead ---------------------------------------------------------------------------------------


def _ask(args: Mapping[str, Any]) -> tuple[dict[str, Any], Asked | None]:
    session = reading()
    form = planning_form.defaults(session, args)
    asked = planning_form.read(session, form)
    campaign = asked.campaign if asked else None
    if campaign is None and form.value("campaign"):
        campaign = stored.by_name(session, form.value("campaign"))
    about = {
        "form": form,
        "asked": asked,
        "campaign": campaign,
        "audience": rule_in_words(stored.spec_of(campaign).audience) if campaign else None,
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
        if asked.campaign is None or not context.may("edit"):
            return None
        return url_for(
            "planning.freeze", name=asked.campaign.name, **_without(query),
            holdout=f"{one.holdout * 100:g}", days=one.days,
        )  # fmt: skip

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


def _without(query: Mapping[str, str]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if name not in ("campaign", "segment", "rule")}


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


def _freeze_page(form: Form, campaign: Campaign, code: int = 200) -> tuple[str, int]:
    session = reading()
    guards = planning_form.guard_options(session)
    return (
        render_template(
            "results/plan_freeze.html",
            form=form,
            campaign=campaign,
            spec=stored.spec_of(campaign),
            audience=rule_in_words(stored.spec_of(campaign).audience),
            started=planning.started(session, campaign),
            can_apply=_can_apply(campaign),
            guards=[(name, title_of(name)) for name in guards],
            query={**planning_form.address(form), "campaign": campaign.name},
            **_choices(),
        ),
        code,
    )


def _can_apply(campaign: Campaign) -> bool:
    """Only a campaign that is not approved yet takes over the plan's holdout and window."""
    return campaign.state in (stored.DRAFT, stored.PENDING)


@bp.get("/campaigns/<name>/freeze")
@require(Permission.EDIT)
def freeze(name: str) -> Any:
    """The form of a campaign's plan, with what was chosen while looking ahead."""
    session = reading()
    campaign = stored.by_name(session, name)
    form = planning_form.defaults(session, {**request.args.to_dict(), "campaign": name})
    usual = {
        "holdout": USUAL_HOLDOUT,
        "days": USUAL_DAYS,
        "decision": planning_form.usual_rule(),
        "apply": "1" if _can_apply(campaign) else "",
    }
    for field, value in usual.items():
        if not str(form.data.get(field) or ""):
            form.data[field] = value
    guards = planning_form.guard_options(session)
    form.data.setlist("guard", [one for one, goal in guards.items() if goal.spec.margin and goal.version])
    for one, goal in guards.items():
        form.data[f"guard-{one}"] = f"{(goal.spec.margin or 0.05) * 100:g}"
    return _freeze_page(form, campaign)


@bp.post("/campaigns/<name>/freeze")
@require(Permission.EDIT)
def freeze_post(name: str) -> Any:
    """Reckon the plan's numbers and store it as the campaign's next version."""
    session = reading()
    campaign = stored.by_name(session, name)
    form = Form(request.form)
    form.data["campaign"] = name
    asked, wish = planning_form.read(session, form), planning_form.read_wish(session, form)
    row_id = 0
    if asked is not None and form.ok:
        try:
            plan = _plan(asked, wish)
            if wish.apply and not _can_apply(campaign):
                raise InvalidInput("The campaign is approved already; plan it without changing it.", "apply")
            with writing() as writer:
                row_id = planning.freeze(
                    writer,
                    stored.by_name(writer, name, lock=True),
                    plan,
                    by=actor(),
                    now=context.now(),
                    apply=wish.apply,
                ).id
        except HuiliuError as error:
            form.refuse(error, REFUSED_AT)
    if not form.ok:
        return _freeze_page(form, stored.by_name(reading(), name), 422)
    flash(gettext("Frozen. The read-out will be held against it."), "success")
    return redirect(url_for("planning.page", plan_id=row_id), 303)


def _plan(asked: Asked, wish: Wish) -> Plan:
    console, spec, terms = context.console(), asked.goal.spec, asked.terms
    assert asked.spec is not None
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
    (option,) = outlook.options(spec, [past], terms, [wish.holdout])
    if option.mde is None:
        raise InvalidInput(
            "In the past of these members the goal never differed, so nothing can be planned by it; "
            "choose another goal or audience.",
            "metric",
        )
    arms = planning.arms_of(asked.spec, wish.holdout)
    return Plan(
        metric=spec.name,
        metric_version=asked.goal.version,
        mde=option.mde,
        mde_relative=option.relative,
        unit=metric_words.unit_of(spec).kind,
        alpha=terms.alpha,
        power=terms.power,
        control=next(iter(arms)),
        arms=arms,
        members=round(past.n * terms.reach),
        duration_days=wish.days,
        rule=wish.rule,
        method=terms.method,
        adjusted=terms.adjusted,
        ends_at=wish.ends_at,
        guardrails=wish.guardrails,
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
    campaign = _campaign(view.campaign)
    held = _held(campaign) if campaign is not None else None
    binding = plans.binding(session, row.subject)
    return render_template(
        "results/plan.html",
        view=view,
        campaign=campaign,
        versions=plans.versions(session, row.subject),
        binding=binding,
        deviations=held,
        guards=_guards(campaign) if campaign is not None else [],
        words=metric_words,
        duration=charts_planning.duration,
    )


def _campaign(name: str | None) -> Campaign | None:
    try:
        return stored.by_name(reading(), name) if name else None
    except NotFound:
        return None


def _newest(campaign: Campaign) -> Readout | None:
    session = reading()
    rows = queries.readouts(session, rollout.measured(session, campaign))
    return next((one for one in rows if one.kind == REAL), None)


def _guards(campaign: Campaign) -> list[CheckRow]:
    """The plan's guardrails in that read-out; empty where it has none."""
    found = _newest(campaign)
    return [] if found is None else [guard_row(one) for one in from_json(found.result).guardrails]


def _held(campaign: Campaign) -> list[Deviation] | None:
    """The newest real read-out of a campaign held against its plan; None where there is no read-out."""
    session, found = reading(), _newest(campaign)
    if found is None:
        return None
    goal = str(found.settings.get("metric", "revenue"))
    held = planning.held(
        session,
        campaign,
        as_of=found.as_of,
        assigned=found.result["arms"],
        metric=planning.GOALS.get(goal, goal),
        alpha=found.result["alpha"],
        method=str(found.settings.get("method", outlook.FIXED)),
        window_days=found.settings.get("window_days"),
    )
    return held.deviations if held else None


@bp.app_template_filter("deviation_words")
def deviation_words(one: Deviation | Mapping[str, Any]) -> str:
    """Where a read-out does not keep to its plan, in a sentence; also of one that was frozen as JSON."""
    if isinstance(one, Mapping):
        one = Deviation(one["code"], one.get("planned"), one.get("found"))
    shown = {"planned": _shown(one.code, one.planned), "found": _shown(one.code, one.found)}
    texts = {
        plans.PLANNED_LATE: gettext("The plan was made after the experiment had begun, so it binds nobody."),
        plans.READ_EARLY: gettext("Read early: on %(found)s, planned for %(planned)s or later.", **shown),
        plans.OTHER_METRIC: gettext("Another goal: %(found)s instead of %(planned)s.", **shown),
        plans.METRIC_CHANGED: gettext(
            "The goal's definition has changed: version %(found)s, planned with version %(planned)s.", **shown
        ),
        plans.SHORTER_WINDOW: gettext("A shorter window: %(found)s days instead of %(planned)s.", **shown),
        plans.LONGER_WINDOW: gettext("A longer window: %(found)s days instead of %(planned)s.", **shown),
        plans.FEWER_MEMBERS: gettext("Fewer members: %(found)s of the %(planned)s planned.", **shown),
        plans.OTHER_ARMS: gettext("Other arms: %(found)s instead of %(planned)s.", **shown),
        plans.OTHER_SPLIT: gettext("Another split: %(found)s instead of %(planned)s.", **shown),
        plans.OTHER_ALPHA: gettext("Another α: %(found)s instead of %(planned)s.", **shown),
        plans.OTHER_METHOD: gettext("Another method: %(found)s instead of %(planned)s.", **shown),
    }
    return str(texts.get(one.code, one.code))


def _shown(code: str, value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "–"
    if code == plans.READ_EARLY:
        return str(i18n.moment(datetime.fromisoformat(value)))
    if code == plans.OTHER_METRIC:
        return title_of(value)
    if code == plans.OTHER_METHOD:
        return method_word(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{word('arm', arm)} {i18n.share(share)}" for arm, share in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(word("arm", arm) for arm in value)
    return i18n.share(value) if code == plans.OTHER_ALPHA else i18n.number(value)
