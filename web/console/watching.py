"""Results → Watching: alerts and their reasons, winners that wait, and the thresholds of the lights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date
from typing import Any

import sqlalchemy as sa
from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from flask_babel import gettext, lazy_gettext
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response

from campaigns import alerts as stored
from campaigns import campaigns, lights, rollout
from campaigns import watching as watch
from campaigns.alerts import CAMPAIGN, GOOD, Light
from campaigns.lights import Thresholds
from campaigns.models import Alert, Campaign, WatchDay
from core.errors import InvalidInput
from segments.tree import GroupPart
from segments.tree_alerts import Anomaly, Cause
from web import context, i18n, users
from web.console import tree as tree_pages
from web.context import actor, reading, require, writing
from web.forms import Form
from web.roles import Permission
from web.words import word

bp = Blueprint("watching", __name__, url_prefix="/results/watching")
LIGHTS: Mapping[str, object] = {
    lights.SRM: lazy_gettext("Split of the arms"),
    lights.GUARDRAIL: lazy_gettext("Guardrail"),
    lights.BUDGET: lazy_gettext("Budget"),
    lights.BOUNCE: lazy_gettext("Bounces and failures"),
    lights.COMPLAINTS: lazy_gettext("Complaints"),
    lights.UNSUBSCRIBE: lazy_gettext("Unsubscribing"),
    lights.NOTHING_SENT: lazy_gettext("Messages leave"),
}
TONES: Mapping[str, object] = {
    "good": lazy_gettext("green"),
    "watch": lazy_gettext("yellow"),
    "bad": lazy_gettext("red"),
}
SHARES = tuple(
    part.name
    for part in fields(Thresholds)
    if part.name.endswith(("_yellow", "_red")) or part.name == "guardrail_margin"
)
"""Thresholds that are typed as per cent."""


@dataclass(frozen=True)
class Shown:
    """An alert as the page shows it; ``campaign`` (name, title) where it is one's."""

    alert: Alert
    title: str
    text: str
    reasons: list[str]
    campaign: tuple[str, str] | None


def light_title(check: str) -> str:
    """A light's name: the guardrail of a metric and a variant names both."""
    family, _, rest = check.partition(":")
    text = str(LIGHTS.get(family, family))
    if rest:
        metric, _, arm = rest.rpartition(":")
        text = gettext(
            "%(light)s: %(metric)s, %(arm)s", light=text, metric=word("metric", metric), arm=word("arm", arm)
        )
    return text


def light_text(light: Light) -> str:
    """What was measured against what, in words."""
    detail, family = light.detail, light.family
    if family == lights.NOTHING_SENT:
        if light.tone == GOOD:
            return str(gettext("%(count)s messages left", count=i18n.number(light.value or 0)))
        return str(
            gettext(
                "No message left within %(hours)s hours, though %(count)s members were chosen",
                hours=detail["hours"],
                count=i18n.number(detail["chosen"]),
            )
        )
    if family == lights.BUDGET:
        if light.value is None:
            return str(gettext("%(spent)s spent, without a budget", spent=i18n.money(detail["spent"])))
        return str(
            gettext(
                "%(spent)s of %(budget)s spent (%(share)s)",
                spent=i18n.money(detail["spent"]),
                budget=i18n.money(detail["budget"]),
                share=i18n.share(light.value),
            )
        )
    if light.value is None:
        return str(gettext("not enough yet to judge"))
    if family == lights.SRM:
        return str(gettext("p = %(p)s, alert below %(limit)s", p=_p(light.value), limit=f"{light.limit:g}"))
    if family == lights.GUARDRAIL:
        return str(
            gettext(
                "%(change)s against the holdout (always valid: %(low)s to %(high)s), margin %(margin)s",
                change=_signed(light.value),
                low=_signed(detail["low"]),
                high=_signed(detail["high"]),
                margin=_signed(light.limit or 0.0),
            )
        )
    return str(
        gettext(
            "%(number)s of %(of)s messages (%(share)s), yellow or red from %(limit)s",
            number=i18n.number(detail["number"]),
            of=i18n.number(detail["of"]),
            share=i18n.share(light.value, 2),
            limit=i18n.share(light.limit, 2),
        )
    )


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0001 else "< 0.0001"


def _signed(share: float) -> str:
    return f"{'+' if share > 0 else '−' if share < 0 else ''}{i18n.share(abs(share))}"


def light_rows(day: WatchDay | None) -> list[tuple[Light, str, str]]:
    """(light, its name, its words) of a day, the worst first."""
    if day is None:
        return []
    found = [Light.from_json(one) for one in day.lights]
    found.sort(key=lambda light: -stored.TONES.index(light.tone))
    return [(light, light_title(light.check), light_text(light)) for light in found]


def _titles(session: Session, found: Sequence[Alert]) -> dict[str, str]:
    names = [alert.subject.removeprefix(CAMPAIGN) for alert in found if alert.subject.startswith(CAMPAIGN)]
    return dict(
        session.execute(sa.select(Campaign.name, Campaign.title).where(Campaign.name.in_(names))).all()
    )


def shown(session: Session, found: Sequence[Alert]) -> list[Shown]:
    """Alerts with their words."""
    titles = _titles(session, found)
    rows = []
    for alert in found:
        if alert.subject == stored.TREE:
            rows.append(_tree_row(alert))
            continue
        name = alert.subject.removeprefix(CAMPAIGN)
        detail = dict(alert.detail)
        light = Light(alert.light, alert.tone, detail.pop("value"), detail.pop("limit"), detail)
        campaign = (name, titles.get(name, name))
        rows.append(Shown(alert, light_title(alert.light), light_text(light), [], campaign))
    return rows


def _tree_row(alert: Alert) -> Shown:
    detail = alert.detail
    names = ("node", "before", "after", "expected", "low", "high", "weeks", "basis")
    week = date.fromisoformat(detail["week"])
    # Alerts of before have no figures of last year.
    last_year: dict[str, Any] = {name: detail.get(name) for name in ("year_before", "year")}
    one = Anomaly(week=week, **{name: detail[name] for name in names}, **last_year)
    reasons = [
        tree_pages.cause_sentence(
            Cause(item["by"], GroupPart(item["group"], None, None, 0, 0, 0), item["share"], item["size"]),
            one.basis,
        )
        for item in detail["causes"]
    ]
    title = gettext("Metrics tree, week from %(day)s", day=i18n.day(week))
    return Shown(alert, title, tree_pages.anomaly_sentence(one), reasons, None)


def alone() -> bool:
    """Whether the user is the only one who could approve."""
    return users.active_admins(reading()) == 1 and context.may("administer")


@bp.get("")
@require(Permission.VIEW)
def index() -> str:
    session = reading()
    return render_template(
        "watching/page.html",
        open_alerts=shown(session, stored.unresolved(session)),
        over=shown(session, stored.resolved(session)),
        waiting=proposals(session),
        alone=alone(),
    )


def proposals(session: Session, campaign_id: int | None = None) -> list[dict[str, Any]]:
    """Winners that wait, as the page shows them."""
    return [
        {
            "id": row.id,
            "name": campaign.name,
            "title": campaign.title,
            "arm": row.arm,
            "metric": row.evidence["metric"],
            "members": sum(row.evidence["members"].values()),
            "at": row.proposed_at,
            "own": campaign.created_by == actor(),
        }
        for row, campaign in rollout.waiting(session, campaign_id)
    ]


@bp.post("/alerts/<int:alert_id>/seen")
@require(Permission.EDIT)
def seen(alert_id: int) -> Response:
    with writing() as session:
        stored.mark_seen(session, alert_id, actor(), context.now())
    return redirect(url_for("watching.index"), 303)


@bp.post("/alerts/<int:alert_id>/resolve")
@require(Permission.EDIT)
def resolve(alert_id: int) -> Response:
    with writing() as session:
        stored.resolve(session, alert_id, actor(), context.now())
    flash(gettext("Resolved. Should the light still be on tomorrow, there is a new alert."), "success")
    return redirect(url_for("watching.index"), 303)


@bp.post("/rollouts/<int:rollout_id>/<op>")
@require(Permission.APPROVE)
def decide(rollout_id: int, op: str) -> Response:
    """Approve or reject a winner."""
    if op not in ("approve", "reject"):
        abort(404)
    may_alone = alone()
    with writing() as session:
        if op == "approve":
            campaign = rollout.approve(session, rollout_id, actor(), context.now(), alone=may_alone)
        else:
            campaign = rollout.reject(
                session, rollout_id, actor(), context.now(), request.form.get("why", "")
            )
        name = campaign.name
    flash(
        gettext("Coming runs get the winner; the holdout stays.")
        if op == "approve"
        else gettext("Rejected. Nothing changes."),
        "success",
    )
    return redirect(url_for("campaigns.page", name=name), 303)


@bp.get("/campaigns/<name>")
@require(Permission.VIEW)
def campaign(name: str) -> str:
    """A campaign's lights, its rule, and its winner."""
    session = reading()
    found = campaigns.by_name(session, name)
    return render_template("watching/campaign.html", **about(session, found))


def about(session: Session, found: Campaign) -> dict[str, Any]:
    """What a page shows of a campaign's watch."""
    day = watch.latest_days(session, [found.id]).get(found.id)
    return {
        "campaign": found,
        "day": day,
        "rows": light_rows(day),
        "rule": watch.rule_of(session, found.id),
        "stops": [(name, str(LIGHTS[name])) for name in watch.STOPS],
        "waiting": proposals(session, found.id),
        "alone": alone(),
        "tones": TONES,
    }


@bp.post("/campaigns/<name>")
@require(Permission.EDIT)
def save_rule(name: str) -> Response:
    """What pauses the campaign by itself."""
    with writing() as session:
        found = campaigns.by_name(session, name, lock=True)
        watch.save_rule(session, found, request.form.getlist("stop_on"), actor(), context.now())
    flash(gettext("Saved. It counts from the next watch on."), "success")
    return redirect(url_for("watching.campaign", name=name), 303)


def _form_of(found: Thresholds) -> Form:
    data: dict[str, Any] = {part.name: getattr(found, part.name) for part in fields(Thresholds)}
    data |= {name: f"{100 * data[name]:g}" for name in SHARES}
    data["emails"] = "\n".join(found.emails)
    return Form(data)


def _settings(form: Form, code: int = 200) -> tuple[str, int]:
    return render_template("watching/settings.html", form=form), code


@bp.get("/settings")
@require(Permission.VIEW)
def settings() -> Any:
    return _settings(_form_of(watch.load(reading())))


@bp.post("/settings")
@require(Permission.EDIT)
def save_settings() -> Any:
    form = Form(request.form)
    values: dict[str, Any] = {}
    for name in SHARES:
        found = form.percent(name, high=1000)
        if found is None:
            form.error(name, gettext("This is needed."))
        values[name] = found
    for name, most in (("least_messages", 10**9), ("nothing_after_hours", 720), ("days_after", 90)):
        values[name] = form.integer(name, low=1, high=most, required=True)
    try:
        values["srm_p"] = float(form.text("srm_p", required=True) or 0)
    except ValueError:
        form.error("srm_p", gettext("Write a number."))
    values["emails"] = tuple(form.text("emails", limit=4000).replace(",", " ").split())
    if form.ok:
        try:
            with writing() as session:
                watch.save(session, replace(watch.load(session), **values), actor(), context.now())
        except InvalidInput as error:
            form.refuse(error)
    if not form.ok:
        return _settings(form, 422)
    flash(gettext("Saved. It counts from the next watch on."), "success")
    return redirect(url_for("watching.settings"), 303)
