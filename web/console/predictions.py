"""Predictions: whether the models may be trusted, what they found, and what they assume about money."""

from __future__ import annotations

from dataclasses import asdict
from datetime import date
from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask_babel import gettext

from core.errors import InvalidInput
from segments.predict import settings as predicting
from segments.scores import latest_refresh
from web import charts, context, i18n
from web.context import actor, reading, require, writing
from web.forms import Form
from web.queries import predictions as queries
from web.roles import Permission
from web.words import word

bp = Blueprint("predictions", __name__, url_prefix="/segments/predictions")


def _form_of(current: predicting.Predicting) -> Form:
    data: dict[str, Any] = asdict(current)
    for name in ("margin", "discount"):
        data[name] = f"{data[name] * 100:g}"
    return Form(data)


def _page(form: Form, code: int = 200) -> tuple[str, int]:
    latest = latest_refresh(reading())
    found = latest.predictions if latest else None
    summary = None
    if latest is not None and found and found["usable"]:
        summary = queries.summary(context.console().engine(), latest.as_of)
    return (
        render_template(
            "segments/predictions.html",
            form=form,
            latest=latest,
            found=found,
            checks=[{**one, "words": _words(one)} for one in found["checks"]] if found else [],
            pictures=_pictures(found) if found else [],
            summary=summary,
            risk=_risk(summary) if summary else None,
        ),
        code,
    )


@bp.get("")
@require(Permission.VIEW)
def index() -> Any:
    return _page(_form_of(predicting.load(reading())))


@bp.post("")
@require(Permission.ADMINISTER)
def save() -> Any:
    form = Form(request.form)
    horizon = form.integer("horizon_days", low=1, high=predicting.MAX_HORIZON_DAYS, required=True)
    clv_days = form.integer("clv_days", low=1, high=predicting.MAX_HORIZON_DAYS, required=True)
    margin = form.percent("margin", low=0.1, high=100)
    discount = form.percent("discount", low=0, high=1000)
    unit = form.choice("unit", tuple(predicting.UNIT_DAYS))
    if form.ok:
        wanted = predicting.Predicting(
            unit,
            horizon or 1,
            clv_days or 1,
            1.0 if margin is None else margin,
            0.0 if discount is None else discount,
        )
        try:
            with writing() as session:
                predicting.save(session, wanted, actor(), context.now())
        except InvalidInput as error:
            form.refuse(error)
    if not form.ok:
        return _page(form, 422)
    flash(gettext("Saved. The next refresh uses it."), "success")
    return redirect(url_for("predictions.index"), 303)


def _words(check: dict[str, Any]) -> str:
    """The check in a sentence: the package's own in English, number and bound in other languages."""
    if i18n.language() == "en":
        return str(check["message"])
    if check["value"] is None:
        return str(gettext("nothing to measure"))
    if check["bound"] is None:
        return str(gettext("measured %(value)s", value=_figure(check["value"])))
    words = gettext(
        "measured %(value)s, the bound is %(bound)s",
        value=_figure(check["value"]),
        bound=_figure(check["bound"]),
    )
    return str(words)


def _pictures(found: dict[str, Any]) -> list[charts.Chart]:
    """The model held against what happened: in the hold-out, over time, and by number of repeat orders."""
    pictures = []
    if found["hold_out"]:
        pictures.append(
            charts.over(
                "hold-out",
                gettext("Purchases in the hold-out, by repeat purchases before"),
                _labels(found["hold_out"]),
                [
                    _line(gettext("Bought"), _column(found["hold_out"], "actual")),
                    _line(gettext("Predicted"), _column(found["hold_out"], "expected")),
                ],
                heading=gettext("Repeat purchases before"),
                base=gettext(
                    "mean a customer in %(days)s days the model had not seen; %(count)s customers",
                    days=found["hold_out_days"],
                    count=i18n.number(sum(one["customers"] for one in found["hold_out"])),
                ),
            )
        )
    if found["tracking"]:
        pictures.append(
            charts.over(
                "tracking",
                gettext("Repeat purchases of everybody, added up"),
                [i18n.day(date.fromisoformat(one["day"]), "short") for one in found["tracking"]],
                [
                    _line(gettext("Bought"), _column(found["tracking"], "actual")),
                    _line(gettext("Predicted"), _column(found["tracking"], "expected")),
                ],
                heading=gettext("Day"),
                base=gettext("fitted to the days before the hold-out alone"),
            )
        )
    if found["frequencies"]:
        pictures.append(
            charts.over(
                "frequencies",
                gettext("Customers by repeat purchases"),
                _labels(found["frequencies"]),
                [
                    charts.Series(gettext("There are"), _column(found["frequencies"], "actual")),
                    charts.Series(gettext("The model says"), _column(found["frequencies"], "expected")),
                ],
                heading=gettext("Repeat purchases"),
                base=gettext("%(count)s customers", count=i18n.number(found["n"])),
            )
        )
    return pictures


def _labels(rows: list[dict[str, Any]]) -> list[str]:
    """Numbers of repeat purchases; the last stands for that many and more."""
    labels = [f"{row['frequency']}" for row in rows]
    return [*labels[:-1], f"{labels[-1]}+"]


def _figure(value: float) -> str:
    """A measured number, readable whatever its size."""
    return i18n.number(value) if abs(value) >= 100 else f"{value:.3g}"


def _column(rows: list[dict[str, Any]], name: str) -> list[float | None]:
    return [row[name] for row in rows]


def _line(name: str, values: list[float | None]) -> charts.Series:
    return charts.Series(name, values, charts.Unit("number"), mark="line")


def _risk(summary: queries.Summary) -> charts.Chart:
    currency = context.console().settings.shop_currency
    return charts.over(
        "risk",
        gettext("Buyers and their value by churn risk"),
        [word("risk", str(one.band)) for one in summary.bands],
        [
            charts.Series(gettext("Buyers"), [one.buyers for one in summary.bands]),
            charts.Series(
                gettext("Value to come"),
                [one.clv_minor for one in summary.bands],
                charts.Unit("money", currency),
                mark="line",
            ),
        ],
        heading=gettext("Churn risk"),
        base=gettext(
            "%(count)s buyers as of %(day)s", count=i18n.number(summary.buyers), day=i18n.day(summary.as_of)
        ),
    )
