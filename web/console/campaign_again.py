"""A finished campaign once more: what it did, what it would do now, and the asking for another run."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask_babel import gettext

from campaigns import campaigns as stored
from campaigns.models import Campaign
from core.errors import HuiliuError
from web import context
from web.context import actor, reading, require, writing
from web.forms import Form
from web.i18n import plain_money
from web.queries import campaigns as queries
from web.refusals import said
from web.roles import Permission

bp = Blueprint("again", __name__, url_prefix="/campaigns")
REST_DAYS = 14
"""Days that whom a campaign reached rest, as the form begins with."""


def _page(campaign: Campaign, form: Form, code: int = 200) -> tuple[str, int]:
    session = reading()
    runs = [one for one in queries.runs(session, campaign.id) if one.state == stored.FINISHED]
    return (
        render_template(
            "campaigns/again.html",
            campaign=campaign,
            spec=stored.spec_of(campaign),
            form=form,
            runs=runs,
        ),
        code,
    )


@bp.get("/<name>/again")
@require(Permission.EDIT)
def page(name: str) -> Any:
    """Before asking for another run: what earlier ones did, and what one would do now."""
    campaign = stored.by_name(reading(), name)
    if campaign.state != stored.FINISHED:
        flash(gettext("Only a finished campaign runs again."), "error")
        return redirect(url_for("campaigns.page", name=name), 303)
    rest = stored.spec_of(campaign).rest_days or REST_DAYS
    return _page(campaign, Form({"rest_days": rest, "budget": plain_money(campaign.budget_minor)}))


@bp.post("/<name>/again")
@require(Permission.EDIT)
def ask(name: str) -> Any:
    """Ask for another run; a second person approves it on the campaign's page."""
    settings, form = context.console().settings, Form(request.form)
    rest_days = form.integer("rest_days", low=1, high=365)
    budget_minor = form.money("budget", settings.shop_currency, above_zero=True)
    scheduled_at = form.time("scheduled_at", settings.zone)
    if form.ok:
        try:
            with writing() as session:
                stored.run_again(
                    session,
                    stored.by_name(session, name, lock=True),
                    actor(),
                    context.now(),
                    rest_days=rest_days,
                    budget_minor=budget_minor,
                    scheduled_at=scheduled_at,
                )
        except HuiliuError as error:
            form.error("", said(error))
    if not form.ok:
        return _page(stored.by_name(reading(), name), form, 422)
    flash(gettext("Asked for. Somebody else approves it now, and then it can run."), "success")
    return redirect(url_for("campaigns.page", name=name), 303)
