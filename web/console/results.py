"""Results: every experiment's read-outs, real and simulated ones plainly told apart; files and links."""

from __future__ import annotations

from flask import Blueprint, Response, abort, flash, redirect, render_template, request, url_for
from flask_babel import gettext
from werkzeug.wrappers import Response as AnyResponse

from campaigns.models import Campaign
from core.errors import InvalidInput
from experiments import readout_links
from experiments.models import Experiment, Readout
from web import context, readout_files, readout_pdf
from web.console import readout_page, readouts
from web.context import actor, reading, require, writing
from web.paging import Page, wanted
from web.queries import campaigns as queries
from web.roles import Permission

bp = Blueprint("results", __name__, url_prefix="/results")


@bp.get("")
@require(Permission.VIEW)
def index() -> str:
    page = queries.all_readouts(reading(), wanted())
    shown = [(row, readouts.view(row.readout)) for row in page.rows]
    return render_template("results/index.html", page=Page(shown, page.number, page.more, True))


def _found(readout_id: int) -> tuple[Readout, Experiment, Campaign | None]:
    session = reading()
    row = session.get(Readout, readout_id)
    if row is None:
        abort(404)
    experiment = session.get_one(Experiment, row.experiment_id)
    return row, experiment, queries.campaign_of(session, row.experiment_id)


@bp.get("/<int:readout_id>")
@require(Permission.VIEW)
def page(readout_id: int) -> str:
    """One read-out with everything about it; ``?by=`` chooses a dimension."""
    row, experiment, campaign = _found(readout_id)
    links = readout_links.open_links(reading(), readout_id, context.now())
    return render_template(
        "results/page.html",
        full=readout_page.full(row, request.args.get("by", "")),
        experiment=experiment,
        campaign=campaign,
        links=[(link, _address(readout_links.token(link))) for link in links],
        terms=readout_links.DAYS,
    )


def _address(token: str) -> str:
    return context.console().settings.base_url + url_for("public.readout", token=token)


def _title(experiment: Experiment, campaign: Campaign | None) -> str:
    return campaign.title if campaign else experiment.name


def _file(data: str | bytes, mimetype: str, name: str) -> Response:
    response = Response(data, mimetype=mimetype)
    response.headers.set("Content-Disposition", "attachment", filename=name)
    return response


@bp.get("/<int:readout_id>/numbers.csv")
@require(Permission.VIEW)
def csv(readout_id: int) -> Response:
    """Every number of the page."""
    row, experiment, campaign = _found(readout_id)
    text = readout_files.csv_of(row, _title(experiment, campaign), readouts.profits(row.settings))
    return _file(text, "text/csv", f"readout-{readout_id}.csv")


@bp.get("/<int:readout_id>/report.pdf")
@require(Permission.VIEW)
def pdf(readout_id: int) -> Response:
    """The page on paper, in the reader's language."""
    row, experiment, campaign = _found(readout_id)
    full = readout_page.full(row, request.args.get("by", ""))
    shop = context.console().settings.shop_name
    data = readout_pdf.pdf_of(full, _title(experiment, campaign), shop)
    return _file(data, "application/pdf", f"readout-{readout_id}.pdf")


@bp.post("/<int:readout_id>/share")
@require(Permission.EDIT)
def share(readout_id: int) -> AnyResponse:
    """A signed link that ends by itself."""
    days = request.form.get("days", readout_links.DEFAULT_DAYS, type=int)
    try:
        with writing() as session:
            readout_links.make(session, readout_id, days=days, by=actor(), now=context.now())
    except InvalidInput as error:
        flash(str(error), "error")
    else:
        flash(gettext("The link is below. It ends by itself, and can be withdrawn before."), "success")
    return redirect(url_for("results.page", readout_id=readout_id), 303)


@bp.post("/<int:readout_id>/links/<int:link_id>/withdraw")
@require(Permission.EDIT)
def withdraw(readout_id: int, link_id: int) -> AnyResponse:
    """The link opens nothing from now on."""
    with writing() as session:
        readout_links.withdraw(session, readout_id, link_id, by=actor(), now=context.now())
    flash(gettext("Withdrawn. Whoever opens it sees that it is no longer good."), "success")
    return redirect(url_for("results.page", readout_id=readout_id), 303)
