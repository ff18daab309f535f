"""The outbox, and the page of a message: what it said, what became of it, and why.

Guarantees: looking at a message changes nothing that is counted (its links and its pixel are those of no
message); a raw report, which has the address in it, opens for who may see contacts, with an audit row.
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, abort, flash, redirect, render_template, request, url_for
from flask_babel import gettext
from flask_babel import lazy_gettext as _
from werkzeug.wrappers import Response as AnyResponse

from channels import outbox, stop, trials
from channels import templates as stored
from channels.render import Job
from core import audit
from core.contacts import CHANNELS
from core.errors import HuiliuError
from web import codes, context
from web.console.channels import member_view, message_html
from web.context import actor, reading, require, writing
from web.paging import wanted
from web.queries import channels as channel_queries
from web.queries import messages as queries
from web.refusals import said
from web.roles import Permission

bp = Blueprint("messages", __name__, url_prefix="/channels/outbox")
RETRIABLE = (outbox.FAILED, outbox.UNKNOWN)
MEANINGS: dict[str, object] = {
    outbox.QUEUED: _("It waits for a worker, its time, or the end of a pause."),
    outbox.LEASED: _("A worker has it and is about to ask the provider, or just did."),
    outbox.CREATED: _("It is a task at WeCom: an employee has to confirm it before it is sent."),
    outbox.SENT: _("The provider took it. Whether it arrived, a receipt will say, where there are receipts."),
    outbox.DELIVERED: _("The provider or the receiver says that it arrived."),
    outbox.FAILED: _("It did not arrive, and is not tried again by itself."),
    outbox.SKIPPED: _("It was not sent, for the reason given."),
    outbox.UNKNOWN: _(
        "The provider was asked and never answered: it may have arrived. A late answer counts."
    ),
}

REPORTS: dict[str, object] = {
    "hard": _("Bounced: the address does not exist"),
    "inactive": _("Bounced: the mailbox is switched off"),
    "soft": _("Bounced for now"),
    "expired": _("Tried until the time was up"),
    "ours": _("Refused for the form of the message"),
    "policy": _("Refused by policy"),
    "complaint": _("Complained"),
    "unreadable": _("A report that could not be read"),
}
DETAILS: dict[str, object] = {
    "reason": _("Reason"),
    "url": _("Link"),
    "how": _("How"),
    "provider": _("Provider"),
    "agent": _("Program"),
    "id": _("Provider's id"),
}


@bp.get("")
@require(Permission.VIEW)
def index() -> str:
    session = reading()
    state, channel = request.args.get("state", ""), request.args.get("channel", "")
    campaigns = queries.campaigns_with_messages(session)
    chosen = queries.Filter(
        state if state in outbox.STATES else "",
        channel if channel in CHANNELS else "",
        request.args.get("reason", "").strip()[:200],
        request.args.get("campaign", "")[:80],
    )
    return render_template(
        "channels/outbox.html",
        queues=channel_queries.queues(session, context.now()),
        minutes=int(channel_queries.RATE_WITHIN.total_seconds() // 60),
        page=queries.messages(session, wanted(), chosen),
        chosen=chosen,
        campaigns=campaigns,
        states=outbox.STATES,
        channels=CHANNELS,
        retriable=RETRIABLE,
        stopped=stop.current(session),
    )


@bp.get("/<int:message_id>")
@require(Permission.VIEW)
def page(message_id: int) -> str:
    return _page(message_id)


def _page(message_id: int, opened: Any = None) -> str:
    story = _story(message_id)
    shown, why_not = _rendered(story)
    return render_template(
        "channels/message.html",
        story=story,
        row=story.row,
        message=story.message,
        shown=shown,
        why_not=why_not,
        meaning=MEANINGS[story.row.state],
        following=[state for state in outbox.STATES if state in outbox.TRANSITIONS[story.row.state]],
        code_meaning=lambda code: codes.meaning(story.message.provider, story.row.channel, str(code)),
        retriable=RETRIABLE,
        report_words=REPORTS,
        detail_words=DETAILS,
        opened=opened,
    )


def _story(message_id: int) -> queries.Story:
    story = queries.story(reading(), message_id)
    if story is None:
        abort(404)
    return story


def _rendered(story: queries.Story) -> tuple[Any, str | None]:
    """(what the message said, None), or (None, why it cannot be told)."""
    message, member, settings = story.message, story.member, context.console().settings
    if member.erased_at is not None:
        return None, gettext("The member was erased; what the message said went with them.")
    pair = (message.template_id, message.template_version)
    try:
        content = trials.draft_content(message.channel, message.source_kind, message.context)
        if content is None:
            contents = stored.load_contents(reading(), [pair])[pair]
            content = contents[stored.choose_language(contents, member.locale, settings)]
        # Number 0 is no message: neither its pixel nor its links count, and nothing unsubscribes anybody.
        job = Job(
            0,
            message.purpose,
            member_view(member),
            "shown@example.com" if message.channel == "email" else "+8613800138000",
            message.context,
            settings.zone,
            message.sent_at or message.created_at,
            tracked=False,
        )
        return content.preview(settings, job), None
    except (HuiliuError, IndexError) as error:
        return None, said(error) if isinstance(error, HuiliuError) else gettext("Its template is gone.")


@bp.get("/<int:message_id>/body.html")
@require(Permission.VIEW)
def body(message_id: int) -> Response:
    """An e-mail's HTML as it was sent, for the sandboxed frame."""
    shown, _why = _rendered(_story(message_id))
    if shown is None or "html" not in shown:
        abort(404)
    return message_html(str(shown["html"]))


@bp.post("/<int:message_id>/retry")
@require(Permission.EDIT)
def retry(message_id: int) -> AnyResponse:
    with writing() as session:
        new = outbox.retry(session, message_id, context.now())
        audit.record(session, actor(), "retry", "message", message_id, context.now())
    flash(
        gettext("Queued again, as a message of its own.")
        if new
        else gettext("It was queued again before; nothing changed."),
        "success",
    )
    return redirect(url_for("messages.page", message_id=message_id), 303)


@bp.post("/<int:message_id>/reports/<int:report_id>")
@require(Permission.CONTACTS)
def report(message_id: int, report_id: int) -> str:
    """A bounce or complaint as it came. Looking is a change of the audit trail, hence a POST."""
    if queries.report(reading(), message_id, report_id) is None:
        abort(404)
    with writing() as session:
        detail = {"report": report_id}
        audit.record(session, actor(), "member.contact_shown", "message", message_id, context.now(), detail)
    return _page(message_id, queries.report(reading(), message_id, report_id))
