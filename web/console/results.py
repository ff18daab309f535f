"""Results: every experiment's read-outs, real and simulated ones plainly told apart."""

from __future__ import annotations

from flask import Blueprint, abort, render_template

from experiments.models import Experiment, Readout
from web.console import readouts
from web.context import reading, require
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


@bp.get("/<int:readout_id>")
@require(Permission.VIEW)
def page(readout_id: int) -> str:
    session = reading()
    row = session.get(Readout, readout_id)
    if row is None:
        abort(404)
    experiment = session.get_one(Experiment, row.experiment_id)
    campaign = queries.campaign_of(session, row.experiment_id)
    return render_template(
        "results/page.html", view=readouts.view(row), experiment=experiment, campaign=campaign
    )
