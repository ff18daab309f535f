"""Loyalty: the points ledger as a whole, how points are earned, what is owed, and corrections by hand."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from flask import Blueprint, Response, flash, redirect, render_template, request, url_for
from flask_babel import gettext
from werkzeug.wrappers import Response as AnyResponse

from core.errors import HuiliuError, InvalidInput
from core.money import exponent, to_major
from loyalty import (
    adjustments,
    earn_events,
    liability,
    multipliers,
    point_transfers,
    point_value,
    segment_members,
)
from loyalty.earn_rules import POLICIES, EarnRule, load_rule, save_rule
from segments import point_members
from web import charts, context, i18n
from web.context import actor, reading, require, writing
from web.forms import Form
from web.paging import wanted
from web.queries import loyalty as queries
from web.queries import points as point_queries
from web.queries import segments
from web.refusals import said
from web.roles import Permission
from web.security import new_password

bp = Blueprint("points", __name__, url_prefix="/loyalty/points")

EVENT_FIELDS = {"name": "event_name", "points": "event_points", "starts_at": "event_starts_at",
                "ends_at": "event_ends_at"}  # fmt: skip


def _words(text: str) -> tuple[str, ...]:
    """One name a line."""
    return tuple(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))


def _lines_of(times: Mapping[str, str]) -> str:
    return "\n".join(f"{name} = {number}" for name, number in times.items())


def _times(form: Form, field: str, example: str) -> dict[str, str]:
    """Names and their multipliers, one a line like ``tea = 2``."""
    times = {}
    for line in _words(form.text(field, limit=20_000)):
        name, _, number = line.rpartition("=")
        times[name.strip()] = number.strip()
        if not name.strip():
            form.error(field, example)
    return times


def _known_segments(form: Form, field: str, names: Collection[str]) -> None:
    """An error beside the field for a name that no live segment has."""
    unknown = sorted(set(names) - {name for name, _ in segments.names(reading())})
    if unknown and field not in form.errors:
        form.error(
            field, gettext("There is no segment “%(name)s”; write its name, not its title.", name=unknown[0])
        )


def _rule_form(rule: EarnRule) -> Form:
    return Form(
        {
            "points_per_unit": rule.points_per_unit,
            "pending_days": rule.pending_days,
            "expires": rule.expires,
            "expiry_months": rule.expiry_months or "",
            "expiry_years": rule.expiry_years,
            "category_times": _lines_of(rule.category_times),
            "segment_times": _lines_of(rule.segment_times),
            "excluded_categories": "\n".join(rule.excluded_categories),
            "excluded_skus": "\n".join(rule.excluded_skus),
        }
    )


def _money_form() -> Form:
    session = reading()
    transfers = point_transfers.load(session)
    return Form(
        {
            "point_value": point_value.to_major(
                point_value.load_text(session), context.console().settings.shop_currency
            ),
            "limit": adjustments.limit(session),
            "transfers": "1" if transfers.enabled else "",
            "per_day": transfers.per_day,
        }
    )


def _points_page(form: Form | None = None, money: Form | None = None, code: int = 200) -> tuple[str, int]:
    session = reading()
    currency = context.console().settings.shop_currency
    owed = liability.report(session, context.now())
    return render_template(
        "loyalty/points.html",
        overview=queries.points(session, context.now()),
        form=form or _rule_form(load_rule(session)),
        money=money or _money_form(),
        unit=i18n.money(10 ** exponent(currency), whole=True),
        smallest=to_major(1, currency),
        policies=[
            (name, text)
            for name, text in zip(
                POLICIES,
                (
                    gettext("after months"),
                    gettext("with the calendar year"),
                    gettext("after months without activity"),
                    gettext("never"),
                ),
                strict=True,
            )
        ],
        owed=owed,
        picture=_picture(owed, currency) if owed.months else None,
        in_segments=", ".join(
            gettext("%(name)s: %(count)s members", name=name, count=i18n.number(number))
            for name, number in sorted(segment_members.counts(session).items())
        ),
    ), code


def _picture(owed: liability.Liability, currency: str) -> charts.Chart:
    """What runs out when, in money: points are worth the same in every month, so a second axis would only
    say it twice. The table has both."""
    months = [due.month or gettext("never") for due in owed.months]
    worth = charts.Series(
        gettext("Worth"), [due.worth_minor for due in owed.months], charts.Unit("money", currency)
    )
    points = charts.Series(gettext("Points"), [due.points for due in owed.months])
    title, heading = gettext("Worth of the points outstanding, by the month they run out"), gettext("Month")
    drawn = charts.over(
        "liability", title, months, [worth], heading=heading,
        base=gettext("Worth by the month in which points run out, as of %(at)s", at=i18n.moment(owed.at)),
    )  # fmt: skip
    both = charts.over("liability", title, months, [points, worth], heading=heading)
    return replace(drawn, table=both.table)


@bp.get("")
@require(Permission.VIEW)
def index() -> Any:
    return _points_page()


@bp.post("")
@require(Permission.EDIT)
def save() -> Any:
    """How orders earn from now on."""
    form = Form(request.form)
    rate = form.text("points_per_unit", required=True, limit=12)
    pending = form.integer("pending_days", high=365, required=True)
    expires = form.choice("expires", POLICIES, "months")
    months = form.integer("expiry_months", low=1, high=120)
    years = form.integer("expiry_years", high=10) or 0
    times = _times(form, "category_times", gettext("Write a category and its multiplier, like: tea = 2"))
    of_segments = _times(
        form, "segment_times", gettext("Write a segment and its multiplier, like: loyal = 2")
    )
    _known_segments(form, "segment_times", of_segments)
    if form.ok and pending is not None:
        try:
            rule = EarnRule(
                rate,
                pending,
                months,
                context.console().settings.shop_timezone,
                expires,
                years,
                times,
                _words(form.text("excluded_categories", limit=20_000)),
                _words(form.text("excluded_skus", limit=20_000)),
                of_segments,
            )
            with writing() as session:
                save_rule(session, rule, actor(), context.now())
        except InvalidInput as error:
            place = (error.field or "").partition(".")[0]
            form.refuse(error, {error.field: place} if place and error.field else None)
    if not form.ok:
        return _points_page(form, code=422)
    _bring_members()
    flash(gettext("Saved. Orders earn by this rule from now on; what was earned stays."), "success")
    return redirect(url_for("points.index"), 303)


def _bring_members() -> None:
    """Who is in the segments named just now, without waiting for the night's refresh."""
    context.close_reading()
    point_members.bring(context.console().database, context.console().engine(), context.now())


@bp.post("/money")
@require(Permission.EDIT)
def save_money() -> Any:
    """What a point is worth, who approves adjustments, whether members may give points."""
    form = Form(request.form)
    value = form.text("point_value", required=True, limit=20).lstrip("¥￥$€")
    limit = form.integer("limit", required=True)
    per_day = form.integer("per_day", low=1, required=True)
    if form.ok and limit is not None and per_day is not None:
        try:
            minor = point_value.to_minor(value, context.console().settings.shop_currency)
            rule = point_transfers.TransferRule(form.flag("transfers"), per_day)
            with writing() as session:
                point_value.save(session, minor, actor(), context.now())
                adjustments.save_limit(session, limit, actor(), context.now())
                point_transfers.save(session, rule, actor(), context.now())
        except InvalidInput as error:
            form.refuse(error)
    if not form.ok:
        return _points_page(money=form, code=422)
    flash(gettext("Saved."), "success")
    return redirect(url_for("points.index"), 303)


@bp.get("/liability.csv")
@require(Permission.VIEW)
def liability_csv() -> Response:
    """The report's table: month, points, worth in major units."""
    currency = context.console().settings.shop_currency
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("month", "points", f"worth_{currency}"))
    for month, points, worth in liability.table(liability.report(reading(), context.now())):
        writer.writerow((month, points, to_major(worth, currency)))
    head = {"Content-Disposition": "attachment; filename=points-liability.csv"}
    return Response(text.getvalue(), mimetype="text/csv", headers=head)


def _adjustments_page(form: Form, code: int = 200) -> tuple[str, int]:
    session = reading()
    form.data.setdefault("key", f"console:{new_password()}")
    return render_template(
        "loyalty/adjustments.html",
        page=point_queries.adjustments(session, wanted()),
        form=form,
        limit=adjustments.limit(session),
        me=actor(),
    ), code


@bp.get("/adjustments")
@require(Permission.VIEW)
def corrections() -> Any:
    """Adjustments that wait, and those that were made."""
    return _adjustments_page(Form({"member": request.args.get("member", "")}))


@bp.post("/adjustments")
@require(Permission.EDIT)
def adjust() -> Any:
    """Ask for an adjustment; below the limit it is made at once."""
    form = Form(request.form)
    member = form.text("member", required=True, limit=128)
    points = form.integer("points", low=-(10**9), required=True)
    reason = form.text("reason", required=True, limit=adjustments.MAX_REASON)
    member_id = point_queries.member_by_id(reading(), member) if member else None
    if member and member_id is None:
        form.error("member", gettext("No member has this id. It is the shop's own id of the member."))
    state = ""
    if form.ok and points is not None and member_id is not None:
        try:
            with writing() as session:
                state = adjustments.ask(
                    session,
                    member_id,
                    points,
                    reason,
                    key=form.text("key", limit=128),
                    by=actor(),
                    now=context.now(),
                    allow_debt=form.flag("allow_debt"),
                ).state
        except HuiliuError as error:
            form.refuse(error, default="points")
    if not form.ok:
        return _adjustments_page(form, 422)
    done = state == adjustments.DONE
    flash(gettext("Adjusted.") if done else gettext("Waits for a second person to approve it."), "success")
    return redirect(url_for("points.corrections"), 303)


@bp.post("/adjustments/<int:adjustment_id>")
@require(Permission.APPROVE)
def decide_adjustment(adjustment_id: int) -> AnyResponse:
    """A second person's word on an adjustment."""
    approve = request.form.get("decision") == "approve"
    try:
        with writing() as session:
            adjustments.decide(session, adjustment_id, approve=approve, by=actor(), now=context.now())
    except HuiliuError as error:
        flash(said(error), "danger")
    else:
        flash(gettext("Approved.") if approve else gettext("Refused."), "success")
    return redirect(url_for("points.corrections"), 303)


def _sources_page(form: Form, event: Form, code: int = 200) -> tuple[str, int]:
    session = reading()
    return render_template(
        "loyalty/point_sources.html",
        campaigns=multipliers.listed(session),
        rules=earn_events.listed(session),
        segments=segments.names(session),
        kinds=earn_events.KINDS,
        form=form,
        event=event,
    ), code


@bp.get("/sources")
@require(Permission.VIEW)
def sources() -> Any:
    """Campaign multipliers, and points for events."""
    return _sources_page(Form(), Form())


@bp.post("/multipliers")
@require(Permission.EDIT)
def add_multiplier() -> Any:
    form = Form(request.form)
    zone = context.console().settings.zone
    name, times = form.text("name", required=True, limit=80), form.text("times", required=True, limit=12)
    starts, ends = form.time("starts_at", zone), form.time("ends_at", zone)
    chosen = tuple(dict.fromkeys(filter(None, form.values("segments"))))
    _known_segments(form, "segments", chosen)
    for field, at in (("starts_at", starts), ("ends_at", ends)):
        if at is None:
            form.error(field, gettext("This is needed."))
    if form.ok and starts is not None and ends is not None:
        try:
            new = multipliers.Multiplier(
                name,
                times,
                starts,
                ends,
                _words(form.text("categories", limit=20_000)),
                _words(form.text("tiers", limit=2000)),
                chosen,
            )
            with writing() as session:
                multipliers.create(session, new, actor(), context.now())
        except HuiliuError as error:
            form.refuse(error, default="name")
    if not form.ok:
        return _sources_page(form, Form(), 422)
    _bring_members()
    flash(gettext("Saved. Orders that are accrued from now on earn by it."), "success")
    return redirect(url_for("points.sources"), 303)


@bp.post("/events")
@require(Permission.EDIT)
def add_event_rule() -> Any:
    event = Form(request.form)
    name, kind = (
        event.text("event_name", required=True, limit=80),
        event.text("kind", required=True, limit=60),
    )
    points = event.integer("event_points", low=1, required=True)
    limits = {field: event.integer(field, low=1, high=10_000) for field in ("per_day", "per_member")}
    pending = event.integer("pending_days", high=365) or 0
    zone = context.console().settings.zone
    starts, ends = event.time("event_starts_at", zone), event.time("event_ends_at", zone)
    if event.ok and points is not None:
        try:
            new = earn_events.EventRule(
                name, kind, points, limits["per_day"], limits["per_member"], pending, starts, ends
            )
            with writing() as session:
                earn_events.create(session, new, actor(), context.now())
        except HuiliuError as error:
            event.refuse(error, EVENT_FIELDS, "event_name")
    if not event.ok:
        return _sources_page(Form(), event, 422)
    flash(gettext("Saved. Events that come in from now on bring points."), "success")
    return redirect(url_for("points.sources"), 303)


@bp.post("/sources/archive")
@require(Permission.EDIT)
def archive_source() -> AnyResponse:
    """End a multiplier or an event rule, by its name."""
    name = request.form.get("name", "")
    archive = multipliers.archive if request.form.get("what") == "multiplier" else earn_events.archive
    try:
        with writing() as session:
            archive(session, name, actor(), context.now())
    except HuiliuError as error:
        flash(said(error), "danger")
    else:
        flash(gettext("Archived. What was earned stays."), "success")
    return redirect(url_for("points.sources"), 303)
