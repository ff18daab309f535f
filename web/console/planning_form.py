"""The questions of planning, read from their addresses, and the form of a plan that is frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flask_babel import gettext
from sqlalchemy.orm import Session
from werkzeug.datastructures import MultiDict

from campaigns import planning
from campaigns.plan import control
from campaigns.planning import GOALS, Goal
from core.errors import InvalidInput
from experiments import planning as plans
from experiments.moments import DEFAULT_MARGIN
from experiments.outlook import FIXED, MAX_TUNING, METHODS, MIN_TUNING, Terms
from experiments.planning import Guardrail, Shown
from experiments.stats.sequential import DEFAULT_TUNING
from segments.evaluate import EVERYBODY
from segments.rules import validate
from web import context
from web.console import plan_targets
from web.console.plan_targets import Target
from web.forms import Form
from web.refusals import said

ALPHAS, POWERS = ("1", "5", "10"), ("80", "90", "95")
YES_NO = ("1", "0")
RULE_LIMIT = 100_000
MAX_DAYS = 365
HOLDOUTS = (1, 90)
"""Per cent that may be held out."""


@dataclass(frozen=True)
class Asked:
    """What is to be planned: whose audience, by which goal, and the terms."""

    target: Target | None
    rule: Mapping[str, Any]
    exclude: tuple[str, ...]
    goal: Goal
    terms: Terms


def defaults(session: Session, data: Mapping[str, Any]) -> Form:
    """The form of an address: what it does not say is as most begin, or as the campaign has it."""
    form = Form(MultiDict(data))
    found = target_of(session, form)
    spec = found.spec if found is not None else None
    share, _ = control(session, context.now())
    margin = spec.margin if spec else DEFAULT_MARGIN
    usual = {
        "metric": GOALS[spec.metric] if spec else "revenue",
        "alpha": "5",
        "power": "80",
        "wanted": "10",
        "margin": f"{margin * 100:g}",
        "reach": f"{(found.reach if found is not None else 1 - share) * 100:.4g}",
        "method": FIXED,
        "tuning": str(DEFAULT_TUNING),
    }
    for name, value in usual.items():
        if not str(form.data.get(name) or "").strip():
            form.data[name] = value
    if form.data.get("adjusted") not in YES_NO:
        chosen = planning.goals(session).get(str(form.data["metric"]))
        form.data["adjusted"] = "1" if chosen is not None and chosen.spec.covariate_days else "0"
    return form


def target_of(session: Session, form: Form) -> Target | None:
    """The campaign or experiment that is named. NotFound: there is none."""
    for kind in (plans.CAMPAIGN, plans.EXPERIMENT):
        if name := form.text(kind, limit=80):
            return plan_targets.find(session, kind, name, context.now())
    return None


def read(session: Session, form: Form) -> Asked | None:
    """What is asked; None where something is wrong, which then stands in the form."""
    target = target_of(session, form)
    spec = target.spec if target is not None else None
    goals = planning.goals(session)
    metric = form.choice("metric", goals)
    terms = read_terms(form, target)
    rule: Mapping[str, Any] = spec.audience if spec else _audience(form)
    if not form.ok:
        return None
    return Asked(target, rule, spec.exclude if spec else (), goals[metric], terms)


def read_terms(form: Form, target: Target | None) -> Terms:
    """The terms; their mistakes stand in the form."""
    return Terms(
        alpha=int(_known(form.choice("alpha", ALPHAS), ALPHAS)) / 100,
        power=int(_known(form.choice("power", POWERS), POWERS)) / 100,
        wanted=form.percent("wanted", low=0.1, high=500, default=0.1) or 0.1,
        margin=_or(form.percent("margin"), DEFAULT_MARGIN),
        reach=form.percent("reach", low=0.1, default=1.0) or 1.0,
        arm_share=target.arm_share if target is not None else 1.0,
        adjusted=form.choice("adjusted", YES_NO) == "1",
        method=_known(form.choice("method", METHODS), METHODS),
        tuning=form.integer("tuning", low=MIN_TUNING, high=MAX_TUNING) or DEFAULT_TUNING,
    )


def _known(text: str, known: tuple[str, ...]) -> str:
    return text if text in known else known[0]


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _audience(form: Form) -> Mapping[str, Any]:
    """The rule where one is written, else the segment, else everybody."""
    if form.text("rule", limit=RULE_LIMIT):
        rule = form.json("rule")
        if not form.errors.get("rule"):
            try:
                validate(rule)
            except InvalidInput as error:
                form.error("rule", said(error))
        return rule if isinstance(rule, dict) else EVERYBODY
    segment = form.text("segment", limit=80)
    return {"segment": segment} if segment else EVERYBODY


def address(form: Form) -> dict[str, str]:
    """The question as the arguments of an address."""
    names = (
        "campaign", "experiment", "segment", "rule", "metric", "alpha", "power", "wanted", "margin", "reach",
        "method", "adjusted", "tuning",
    )  # fmt: skip
    return {name: str(value) for name in names if (value := form.value(name)) not in ("", None)}


# --- the plan that is frozen -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Wish:
    """The plan as it is written in its form, before its numbers are reckoned."""

    holdout: float
    days: int
    ends_at: Any
    guardrails: tuple[Guardrail, ...]
    also: tuple[Shown, ...]
    rule: str
    apply: bool


def usual_rule(kind: str) -> str:
    """The decision rule that a new plan proposes."""
    if kind == plans.EXPERIMENT:
        return str(
            gettext(
                "If the interval of the goal lies above 0 and no guardrail is broken, everybody gets the new "
                "arm. Otherwise the control stays; and if the interval holds 0, nothing has been shown."
            )
        )
    return str(
        gettext(
            "If the interval of the goal lies above 0 and no guardrail is broken, the campaign goes on for "
            "everybody. If it lies below 0, it ends. Otherwise nothing has been shown, and it is tried anew."
        )
    )


def read_wish(session: Session, form: Form) -> Wish:
    """The plan's own fields; their mistakes stand in the form."""
    zone = context.console().settings.zone
    holdout = form.percent("holdout", low=HOLDOUTS[0], high=HOLDOUTS[1])
    if holdout is None and not form.errors.get("holdout"):
        form.error("holdout", gettext("This is needed."))
    return Wish(
        holdout or 0.1,
        form.integer("days", low=1, high=MAX_DAYS, required=True) or 1,
        form.time("ends_at", zone),
        _guardrails(session, form),
        _also(session, form),
        form.text("decision", required=True, limit=plans.MAX_RULE),
        form.flag("apply"),
    )


def guard_options(session: Session) -> dict[str, Goal]:
    """Metrics that may guard a plan: all of the catalogue."""
    return planning.goals(session)


def _guardrails(session: Session, form: Form) -> tuple[Guardrail, ...]:
    known, found = guard_options(session), []
    for name in form.values("guard"):
        if name not in known:
            form.error("guard", gettext("Choose one of the list."))
            continue
        margin = form.percent(f"guard-{name}", low=0.1, high=99)
        if margin is None:
            form.error(f"guard-{name}", gettext("This is needed."))
        found.append(Guardrail(name, known[name].version, margin or 0.1))
    return tuple(found)


def _also(session: Session, form: Form) -> tuple[Shown, ...]:
    known, found = guard_options(session), []
    for name in dict.fromkeys(form.values("also")):
        if name not in known:
            form.error("also", gettext("Choose one of the list."))
            continue
        found.append(Shown(name, known[name].version))
    return tuple(found)
