"""Overview: what needs me today, and how the shop moves."""

from __future__ import annotations

from datetime import timedelta

from flask import Blueprint, render_template
from flask_babel import gettext

from campaigns import alerts
from segments.models import Refresh
from web import charts, context, i18n, words
from web.console import watching
from web.context import reading, require
from web.queries import overview as queries
from web.roles import Permission

bp = Blueprint("overview", __name__)
LIT = 8
"""Lights that are listed."""


@bp.get("/")
@require(Permission.VIEW)
def page() -> str:
    session = reading()
    latest = queries.latest(session)
    zone = context.console().settings.zone
    weeks = queries.weeks(session, zone)
    today = context.now().astimezone(zone).date()
    whole = [week for week in weeks if week.start + timedelta(days=7) <= today]
    return render_template(
        "overview/page.html",
        todo=queries.todo(session, context.now()),
        totals=queries.totals(session),
        latest=latest,
        stages=stages_chart(latest) if latest else None,
        weeks=_weeks_chart(weeks) if weeks else None,
        week=whole[-1] if whole else None,
        running=queries.running(session),
        waiting=watching.proposals(session),
        alone=watching.alone(),
        lit=watching.shown(session, alerts.unresolved(session, LIT)),
    )


def stages_chart(latest: Refresh) -> charts.Chart:
    """Members by lifecycle stage as of the newest refresh."""
    order = words.stages()
    bars = [(words.word("stage", stage), latest.stages[stage]) for stage in order if stage in latest.stages]
    return charts.ranked(
        "stages",
        gettext("Members by lifecycle stage"),
        bars,
        heading=gettext("Stage"),
        figure=gettext("Members"),
        base=gettext(
            "%(count)s members, as of %(day)s", count=i18n.number(latest.members), day=i18n.day(latest.as_of)
        ),
    )


def _weeks_chart(weeks: list[queries.Week]) -> charts.Chart:
    money = charts.Unit("money", context.console().settings.shop_currency)
    return charts.over(
        "weeks",
        gettext("Orders and revenue by week"),
        [i18n.day(week.start, "short") for week in weeks],
        [
            charts.Series(gettext("Revenue"), [week.revenue_minor for week in weeks], money),
            charts.Series(gettext("Orders"), [week.orders for week in weeks], mark="line"),
        ],
        heading=gettext("Week from"),
        base=gettext(
            "Net of refunds; weeks from %(start)s to %(end)s, of which the last may be incomplete",
            start=i18n.day(weeks[0].start),
            end=i18n.day(weeks[-1].start),
        ),
    )
