"""Channels: templates as they are now, accounts and providers, and the sandbox's inbox."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response, abort, flash, redirect, render_template, request, url_for
from flask_babel import gettext
from werkzeug.wrappers import Response as AnyResponse

from channels import checks, circuit, trials
from channels import outbox as channel_outbox
from channels import templates as stored
from channels.callbacks.tencent import tencent_callback_url
from channels.models import Template
from channels.render import MemberView, compile_content
from channels.sandbox import inbox as sandbox
from channels.tracking import aliyun_callback_url
from channels.transports.servers import parse_urls
from core import audit
from core import members as core_members
from core.contacts import CHANNELS, mask
from core.errors import HuiliuError
from core.models import Member
from core.settings import Settings
from web import context, findings
from web.context import actor, reading, require, writing
from web.paging import Page, offset, page_of, wanted
from web.queries import channels as queries
from web.refusals import said
from web.roles import Permission
from web.security import MESSAGE_POLICY

bp = Blueprint("channels", __name__, url_prefix="/channels")
INBOX_ROWS = 30
MASKED = {"email": "email", "sms": "phone", "wechat": "openid", "webhook": "external_id", "wecom": "wecom"}


@bp.get("")
@require(Permission.VIEW)
def index() -> str:
    """Templates by channel."""
    archived = request.args.get("archived") == "1"
    rows = queries.templates(reading(), archived=archived)
    return render_template("channels/templates.html", rows=rows, archived=archived, channels=CHANNELS)


@bp.get("/templates/<int:template_id>")
@require(Permission.VIEW)
def template(template_id: int) -> str:
    session = reading()
    found = template_or_404(template_id)
    contents = stored.contents_of(session, template_id)
    return render_template(
        "channels/template.html",
        template=found,
        languages_here=sorted(contents),
        previews=_previews(found, contents),
        versions=queries.template_versions(session, template_id),
        older_snippets=queries.older_snippets(session, template_id),
        sentence=findings.sentence,
        finding_tone=findings.tone,
        own_address=actor() if found.channel == "email" else "",
        address_label=address_label(found.channel),
        test_limit=trials.MAX_A_MINUTE,
    )


def address_label(channel: str) -> str:
    """What a test of the channel is sent to."""
    labels = {
        "email": gettext("E-mail address"),
        "sms": gettext("Phone number"),
        "wechat": "openid",
        "webhook": gettext("Member id"),
        "wecom": gettext("WeCom customer id"),
    }
    return str(labels.get(channel) or gettext("Whole address"))


def template_or_404(template_id: int) -> Template:
    """The template, or the page that says there is none."""
    found = reading().get(Template, template_id)
    if found is None:
        abort(404)
    return found


def _previews(
    found: Template, contents: Mapping[str, Mapping[str, Any]]
) -> list[tuple[str, Any, str | None, list[checks.Finding]]]:
    """(language, fields filled in or None, why not, what the checks found) for each language."""
    session, settings = reading(), context.console().settings
    sample, words = queries.sample_members(session, checks.SAMPLED), checks.load_words(session)
    rendered: list[tuple[str, Any, str | None, list[checks.Finding]]] = []
    for language, fields in sorted(contents.items()):
        job = stored.sample_job(settings, found.channel, found.purpose, language, context.now())
        try:
            content = compile_content(found.channel, found.purpose, language, fields)
            shown = content.preview(settings, job)
        except HuiliuError as error:
            rendered.append((language, None, said(error), []))
            continue
        draft = checks.Draft(found.channel, found.purpose, language, fields, shown, job.address)
        rendered.append((language, shown, None, checks.findings(settings, draft, sample, words)))
    return rendered


@bp.get("/templates/<int:template_id>/preview.html")
@require(Permission.VIEW)
def preview_html(template_id: int) -> Response:
    """An e-mail template's HTML, for the sandboxed frame; ``?member=`` fills it in for that member."""
    found = template_or_404(template_id)
    if found.channel != "email":
        abort(404)
    wish = request.args.get("member", "")[:128]
    preview = stored.preview(
        reading(),
        context.console().settings,
        template_id,
        request.args.get("language", "en"),
        member=member_view(core_members.by_external_id(reading(), wish)) if wish else None,
        now=context.now(),
    )
    return message_html(str(preview.fields["html"]))


def member_view(member: Member) -> MemberView:
    """What a template may know of a member: no contact detail."""
    return MemberView(**{field.name: getattr(member, field.name) for field in dataclasses.fields(MemberView)})


@bp.post("/templates/<int:template_id>/archive")
@require(Permission.EDIT)
def archive(template_id: int) -> AnyResponse:
    name = template_or_404(template_id).name
    with writing() as session:
        stored.archive(session, template_id, context.now())
        audit.record(session, actor(), "archive", "template", name, context.now())
    flash(gettext("Archived. Messages in the queue are still sent with it."), "success")
    return redirect(url_for("channels.index"), 303)


@bp.get("/accounts")
@require(Permission.VIEW)
def accounts() -> str:
    session, settings = reading(), context.console().settings
    now = context.now()
    return render_template(
        "channels/accounts.html",
        queues=queries.queues(session, now),
        real=_real(settings),
        callbacks=callback_urls(settings),
        providers=queries.providers(session, now),
        servers=queries.mail_servers(session, parse_urls(settings.smtp), now),
        limits=queries.domain_limits(session, now),
    )


def _real(settings: Settings) -> dict[str, bool]:
    """Whether each channel points at its provider, and not at the sandbox."""
    return {
        "email": bool(settings.smtp_url),
        "sms": settings.sms_is_real,
        "wechat": bool(settings.wechat_endpoint),
        "webhook": bool(settings.webhook_url),
        "wecom": bool(settings.wecom_endpoint),
    }


def callback_urls(settings: Settings) -> dict[str, str]:
    """What to enter at the SMS providers in use, for receipts and replies."""
    known = {
        "aliyun": aliyun_callback_url(settings),
        "tencent": tencent_callback_url(settings),
        "twilio": f"{settings.base_url}/callbacks/twilio",
    }
    return {name: known[name] for name in settings.sms_providers}


@bp.post("/accounts/<channel>/<action>")
@require(Permission.EDIT)
def switch(channel: str, action: str) -> AnyResponse:
    """Pause or resume a channel, or choose what happens to messages without an answer."""
    if channel not in CHANNELS:
        abort(404)
    with writing() as session:
        if action == "pause":
            reason = request.form.get("reason", "").strip() or gettext("paused by %(who)s", who=actor())
            channel_outbox.pause(session, channel, reason, context.now())
        elif action == "resume":
            channel_outbox.resume(session, channel)
        elif action == "unknown":
            channel_outbox.set_on_unknown(session, channel, request.form.get("choice", ""))
        else:
            abort(404)
        audit.record(session, actor(), f"channel.{action}", "channel", channel, context.now())
    flash(gettext("Done."), "success")
    back = "messages.index" if request.form.get("back") == "outbox" else "channels.accounts"
    return redirect(url_for(back), 303)


@bp.post("/accounts/<channel>/circuit/close")
@require(Permission.ADMINISTER)
def close_circuit(channel: str) -> AnyResponse:
    """Ask a provider again at once that the workers leave alone."""
    if channel not in CHANNELS:
        abort(404)
    with writing() as session:
        before = circuit.shown(channel_outbox.account(session, channel), context.now())
        closed = circuit.close(session, channel)
        if closed:
            detail = {"failures": before.failures, "reason": before.reason} if before else {}
            audit.record(session, actor(), "channel.close", "channel", channel, context.now(), detail)
    flash(gettext("Done.") if closed else gettext("It was closed already."), "success")
    return redirect(url_for("channels.accounts"), 303)


@bp.get("/inbox")
@require(Permission.VIEW)
def inbox() -> Any:
    return _inbox(None)


@bp.get("/inbox/<int:message_id>")
@require(Permission.VIEW)
def inbox_message(message_id: int) -> Any:
    return _inbox(message_id)


def _inbox(message_id: int | None) -> Any:
    """What the sandbox received, newest first, with one message open."""
    settings = context.console().settings
    channel = request.args.get("channel", "")
    channel = channel if channel in CHANNELS else ""
    to = request.args.get("to", "").strip()[:320]
    number = wanted()
    rows = sandbox.list_messages(
        settings, channel or None, to or None, INBOX_ROWS + 1, offset(number, INBOX_ROWS)
    )
    page: Page[sandbox.SandboxMessage] = page_of(rows, number, size=INBOX_ROWS, by_time=True)
    opened = sandbox.get(settings, message_id) if message_id is not None else None
    if message_id is not None and opened is None:
        abort(404)
    return render_template(
        "channels/inbox.html",
        page=page,
        opened=opened,
        channel=channel,
        to=to,
        channels=CHANNELS,
        total=sandbox.count(settings, channel or None, to or None),
        shown=lambda name, address: address if context.may("contacts") else mask(MASKED[name], address),
    )


@bp.get("/inbox/<int:message_id>/html")
@require(Permission.VIEW)
def inbox_html(message_id: int) -> Response:
    """An e-mail's own HTML, for the sandboxed frame; its links open beside the console."""
    found = sandbox.get(context.console().settings, message_id)
    if found is None or found.html is None:
        abort(404)
    return message_html(found.html)


def message_html(html: str) -> Response:
    """A message's own HTML, for a sandboxed frame: no script, no form, an origin of its own."""
    response = Response(f'<base target="_blank">{html}', mimetype="text/html")
    response.headers["Content-Security-Policy"] = MESSAGE_POLICY
    return response
