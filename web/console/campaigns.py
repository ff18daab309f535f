"""Campaigns: list, editor, simulation, approval, run, and what became of it."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from flask_babel import gettext
from werkzeug.wrappers import Response

from campaigns import campaigns as stored
from campaigns import results, rollout
from campaigns import run as runner
from campaigns import undo as undoing
from campaigns.models import Campaign
from campaigns.spec import METRICS, CampaignSpec
from channels import templates as channel_templates
from core import audit
from core import members as core_members
from core.contacts import CHANNELS
from core.errors import HuiliuError, InvalidInput
from web import builder, context, users, work
from web.console import campaign_form, readouts, watching
from web.console.channels import member_view
from web.console.rules import rule_in_words
from web.context import actor, reading, require, writing
from web.forms import Form
from web.paging import wanted
from web.queries import campaigns as queries
from web.queries import events as event_queries
from web.queries import lists as list_queries
from web.queries import loyalty as loyalty_queries
from web.queries import members as member_queries
from web.queries import segments as segment_queries
from web.refusals import said
from web.roles import Permission

bp = Blueprint("campaigns", __name__, url_prefix="/campaigns")
MOST_VARIANTS = 8


@bp.get("")
@require(Permission.VIEW)
def index() -> str:
    state = request.args.get("state", "")
    state = state if state in stored.STATES else ""
    page = queries.rows(reading(), wanted(), state=state)
    return render_template("campaigns/index.html", page=page, state=state, states=stored.STATES)


def _campaign(name: str) -> Campaign:
    return stored.by_name(reading(), name)


# --- editing -------------------------------------------------------------------------------------


def _edit_page(form: Form, campaign: Campaign | None, code: int = 200) -> tuple[str, int]:
    session = reading()
    segments = segment_queries.names(session)
    return (
        render_template(
            "campaigns/edit.html",
            form=form,
            campaign=campaign,
            segments=segments,
            templates=queries.templates_by_channel(session),
            batches=loyalty_queries.batch_names(session),
            metrics=METRICS,
            channels=CHANNELS,
            variants=[index for index, _ in form.rows("variant")],
            most_variants=MOST_VARIANTS,
            quiet_modes=campaign_form.QUIET_MODES,
            variant_names=campaign_form.VARIANT_NAMES,
            options_json=builder.options(segments, event_queries.kinds(session), list_queries.names(session)),
        ),
        code,
    )


@bp.get("/new")
@require(Permission.EDIT)
def create() -> Any:
    return _edit_page(campaign_form.empty(request.args.get("segment", "")[:80]), None)


@bp.post("/new")
@require(Permission.EDIT)
def create_post() -> Any:
    form = Form(request.form)
    draft = campaign_form.read(form, context.console().settings, name=None)
    if draft.spec is not None and form.ok:
        try:
            with writing() as session:
                stored.create(
                    session,
                    name=draft.name,
                    title=draft.title,
                    spec=draft.spec,
                    by=actor(),
                    now=context.now(),
                    budget_minor=draft.budget_minor,
                    scheduled_at=draft.scheduled_at,
                )
        except InvalidInput as error:
            campaign_form.refuse(form, error)
    if not form.ok:
        return _edit_page(form, None, 422)
    flash(gettext("Saved as a draft. Simulate it, then submit it for approval."), "success")
    return redirect(url_for("campaigns.page", name=draft.name), 303)


@bp.get("/<name>/edit")
@require(Permission.EDIT)
def edit(name: str) -> Any:
    campaign = _campaign(name)
    form = campaign_form.from_campaign(campaign, stored.spec_of(campaign), context.console().settings.zone)
    return _edit_page(form, campaign)


@bp.post("/<name>/edit")
@require(Permission.EDIT)
def edit_post(name: str) -> Any:
    form = Form(request.form)
    draft = campaign_form.read(form, context.console().settings, name=name)
    if draft.spec is not None and form.ok:
        try:
            with writing() as session:
                stored.update(
                    session,
                    stored.by_name(session, name, lock=True),
                    title=draft.title,
                    spec=draft.spec,
                    by=actor(),
                    now=context.now(),
                    budget_minor=draft.budget_minor,
                    scheduled_at=draft.scheduled_at,
                )
        except InvalidInput as error:
            campaign_form.refuse(form, error)
        except HuiliuError as error:
            form.error("", said(error))
    if not form.ok:
        return _edit_page(form, _campaign(name), 422)
    flash(gettext("Saved. It is a draft again and needs approval."), "success")
    return redirect(url_for("campaigns.page", name=name), 303)


# --- the page ------------------------------------------------------------------------------------


@bp.get("/<name>")
@require(Permission.VIEW)
def page(name: str) -> str:
    session = reading()
    campaign = _campaign(name)
    spec = stored.spec_of(campaign)
    runs = queries.runs(session, campaign.id)
    alone = users.active_admins(session) == 1 and context.may("administer")
    return render_template(
        "campaigns/page.html",
        campaign=campaign,
        spec=spec,
        audience=rule_in_words(spec.audience),
        runs=runs,
        flow=run_funnel(runs[0].counts) if runs else None,
        funnels=queries.funnels(session, runs[0].id) if runs else [],
        readouts=[
            readouts.view(one) for one in queries.readouts(session, rollout.measured(session, campaign))
        ],
        job=queries.last_job(session, "campaign", campaign.title),
        history=member_queries.history(session, "campaign", name),
        own=stored.asked_by(campaign) == actor(),
        alone=alone,
        can_undo=undoing.can_undo(session, campaign),
        watch=watching.about(session, campaign),
    )


def run_funnel(counts: dict[str, Any]) -> list[dict[str, Any]]:
    """From the audience down to what was sent: steps with what was left out on the way."""
    total = counts.get("candidates", 0)
    if not total:
        return []
    losses = sorted(counts.get("skipped", {}).items(), key=lambda pair: -pair[1])
    losses += [(name, counts[name]) for name in ("control", "holdout") if counts.get(name)]
    sent = sum(counts.get("sent", {}).values())
    steps = [{"kind": "audience", "code": "", "count": total}]
    steps += [{"kind": "lost", "code": reason, "count": count} for reason, count in losses]
    steps.append({"kind": "sent", "code": "", "count": sent})
    for step in steps:
        step["share"] = int(step["count"]) / total
    return steps


@bp.get("/<name>/simulation")
@require(Permission.VIEW)
def simulation(name: str) -> str:
    """What a run now would do; writes nothing. A part of the page by htmx, a page of its own without."""
    console = context.console()
    campaign = _campaign(name)
    context.close_reading()
    found, error = None, None
    try:
        found = runner.simulate(
            console.database,
            console.engine(),
            console.settings,
            name,
            context.now(),
            rest_days=request.args.get("rest_days", type=int),
        )
    except InvalidInput as refusal:
        error = str(refusal)
    counts = found.counts.to_json() if found else {}
    sample = found.sample if found else []
    ids = {
        row.external_id: row.id for row in member_queries.of_ids(reading(), [one["member"] for one in sample])
    }
    return render_template(
        "campaigns/simulation_part.html" if context.is_htmx() else "campaigns/simulation.html",
        campaign=campaign,
        counts=counts,
        flow=run_funnel(counts),
        sample=[{**one, "id": ids.get(one["member"])} for one in sample],
        error=error,
        costs=_costs(stored.spec_of(campaign), counts),
    )


def _costs(spec: CampaignSpec, counts: dict[str, Any]) -> int:
    """What the messages and points may cost, in minor units (coupons cost when they are redeemed)."""
    messages: int = sum(
        n * spec.message_cost_minor.get(channel, 0) for channel, n in counts.get("sent", {}).items()
    )
    points = round(float(counts.get("points", 0)) * spec.point_value_minor)
    return messages + points + spec.fixed_cost_minor


@bp.get("/<name>/preview")
@require(Permission.VIEW)
def preview(name: str) -> str:
    """Every variant's messages as one member would have them."""
    session, settings = reading(), context.console().settings
    campaign = _campaign(name)
    spec = stored.spec_of(campaign)
    member, error = None, None
    wish = request.args.get("member", "").strip()[:128]
    if wish:
        try:
            member = core_members.by_external_id(session, wish)
        except HuiliuError as refusal:
            error = str(refusal)
    language = (
        (member.locale if member and member.locale else None) or request.args.get("language") or "zh_CN"
    )
    view = member_view(member) if member else None
    ids = queries.template_ids(session, [t for variant in spec.variants for t in variant.templates.values()])
    shown = []
    for variant in spec.variants:
        for channel in spec.channels:
            template = variant.templates.get(channel)
            if template is None or template not in ids:
                continue
            try:
                found: Any = channel_templates.preview(
                    session, settings, ids[template], language, member=view, now=context.now()
                )
            except HuiliuError as refusal:
                found = str(refusal)
            shown.append((variant.name, channel, template, ids[template], found))
    return render_template(
        "campaigns/preview.html",
        campaign=campaign,
        member=member,
        wish=wish,
        error=error,
        shown=shown,
        chosen=language,
    )


@bp.get("/<name>/runs/<int:run_id>")
@require(Permission.VIEW)
def decisions(name: str, run_id: int) -> str:
    """Who got what in a run, and why the others did not."""
    session = reading()
    campaign = _campaign(name)
    run = next((one for one in queries.runs(session, campaign.id) if one.id == run_id), None)
    if run is None:
        abort(404)
    reason = request.args.get("reason", "")[:40]
    reasons = [
        "sent",
        *run.counts.get("skipped", {}),
        *(r for r in ("control", "holdout") if run.counts.get(r)),
    ]
    return render_template(
        "campaigns/decisions.html",
        campaign=campaign,
        run=run,
        reason=reason,
        reasons=reasons,
        page=queries.decisions(session, run_id, wanted(), reason=reason),
    )


# --- the way of a campaign -----------------------------------------------------------------------


def _step(name: str, action: Any, done: str) -> Response:
    with writing() as session:
        action(session, stored.by_name(session, name, lock=True), actor(), context.now())
    flash(done, "success")
    return redirect(url_for("campaigns.page", name=name), 303)


@bp.post("/<name>/submit")
@require(Permission.EDIT)
def submit(name: str) -> Response:
    return _step(name, stored.submit, gettext("Submitted. Somebody else approves it now."))


@bp.post("/<name>/reject")
@require(Permission.APPROVE)
def reject(name: str) -> Response:
    why = request.form.get("why", "").strip()[:500]
    with writing() as session:
        campaign = stored.by_name(session, name, lock=True)
        stored.reject(session, campaign, actor(), context.now(), why)
        over = campaign.state == stored.FINISHED
    flash(
        gettext("It does not run again; what it did stays.")
        if over
        else gettext("Sent back to its author as a draft."),
        "success",
    )
    return redirect(url_for("campaigns.page", name=name), 303)


@bp.post("/<name>/approve")
@require(Permission.APPROVE)
def approve(name: str) -> Response:
    """Approval takes the campaign's name, typed; its author's only where nobody else could give it."""
    if request.form.get("confirm", "").strip() != name:
        flash(gettext("Not approved: type the campaign's name to confirm."), "error")
        return redirect(url_for("campaigns.page", name=name), 303)
    with writing() as session:
        alone = context.may("administer") and users.active_admins(session) == 1
        campaign = stored.by_name(session, name, lock=True)
        seen = request.form.get("version", type=int)
        if seen is not None and seen != campaign.version:
            flash(gettext("Not approved: the campaign was changed after you opened it. Look again."), "error")
            return redirect(url_for("campaigns.page", name=name), 303)
        stored.approve(session, campaign, actor(), context.now(), alone=alone)
    flash(gettext("Approved. It can run now, or runs at its time."), "success")
    return redirect(url_for("campaigns.page", name=name), 303)


@bp.post("/<name>/run")
@require(Permission.EDIT)
def run(name: str) -> Response:
    """Run an approved campaign on a thread of its own; the top bar shows the progress."""
    if request.form.get("confirm", "").strip() != name:
        flash(gettext("Not run: type the campaign's name to confirm."), "error")
        return redirect(url_for("campaigns.page", name=name), 303)
    campaign = _campaign(name)
    if campaign.state not in (stored.APPROVED, stored.RUNNING):
        flash(gettext("Only an approved campaign runs."), "error")
        return redirect(url_for("campaigns.page", name=name), 303)
    _start(name, campaign.title)
    flash(gettext("Running. You may leave this page."), "success")
    return redirect(url_for("campaigns.page", name=name), 303)


def _start(name: str, title: str) -> None:
    console, now, who = context.console(), context.now(), actor()
    context.close_reading()
    engine = console.engine()
    with console.database.write() as session:
        audit.record(session, who, "run", "campaign", name, now)
    work.start(
        console.database,
        "campaign",
        title,
        lambda progress: runner.run(console.database, engine, console.settings, name, now, progress=progress),
        console.clock,
    )


@bp.post("/<name>/pause")
@require(Permission.EDIT)
def pause(name: str) -> Response:
    return _step(
        name, stored.pause, gettext("Paused after the batch under way. Messages already queued still leave.")
    )


@bp.post("/<name>/resume")
@require(Permission.EDIT)
def resume(name: str) -> Response:
    return _step(name, stored.resume, gettext("Approved again; run it to go on where it stopped."))


@bp.post("/<name>/undo")
@require(Permission.EDIT)
def undo(name: str) -> Response:
    """Take the newest run back while no message of it has left."""
    if request.form.get("confirm", "").strip() != name:
        flash(gettext("Not undone: type the campaign's name to confirm."), "error")
        return redirect(url_for("campaigns.page", name=name), 303)
    again = _campaign(name).again_key is not None
    return _step(
        name,
        undoing.undo,
        gettext("Undone: nobody was written to, coupons and points were taken back. Earlier runs stay.")
        if again
        else gettext(
            "Undone: nobody was written to, coupons and points were taken back. It is a draft again."
        ),
    )


@bp.post("/<name>/measure")
@require(Permission.EDIT)
def measure(name: str) -> Response:
    """Read the campaign out as of now, and keep the read-out as it is."""
    console, now = context.console(), context.now()
    engine = console.engine()
    context.close_reading()
    engine.replica.sync(console.database)
    found = results.result(reading(), engine, _campaign(name), now, console.settings.shop_currency)
    with writing() as session:
        campaign = stored.by_name(session, name)
        results.freeze(session, campaign, found, as_of=now, now=now)
        audit.record(session, actor(), "measure", "campaign", name, now)
    flash(gettext("Measured and kept. Earlier read-outs stay as they were."), "success")
    return redirect(url_for("campaigns.page", name=name), 303)


@bp.post("/<name>/archive")
@require(Permission.EDIT)
def archive(name: str) -> Response:
    return _step(name, stored.archive, gettext("Archived. Its decisions and results stay."))
