"""Channels: templates and their previews, the outbox, accounts, and the sandbox's inbox."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

from flask import Blueprint, Response, abort, flash, redirect, render_template, request, url_for
from flask_babel import gettext
from werkzeug.wrappers import Response as AnyResponse

from channels import outbox as channel_outbox
from channels import templates as stored
from channels.consent import PURPOSES
from channels.models import Template
from channels.render import Job, MemberView, compile_content
from channels.sandbox import inbox as sandbox
from core import audit
from core import members as core_members
from core.contacts import CHANNELS, mask
from core.errors import HuiliuError, InvalidInput
from core.models import Member
from web import context
from web.context import actor, reading, require, writing
from web.forms import Form
from web.paging import Page, offset, page_of, wanted
from web.queries import channels as queries
from web.refusals import said
from web.roles import Permission
from web.security import MESSAGE_POLICY

bp = Blueprint("channels", __name__, url_prefix="/channels")
LANGUAGES = ("zh_CN", "en")
"""The languages that the editor offers; others saved by a script stay as they are."""
FIELDS = {
    "email": ("subject", "preheader", "html", "text"),
    "sms": ("text", "provider_template", "params"),
    "wechat": ("kind", "provider_template", "url", "data", "miniprogram", "text"),
    "webhook": ("title", "body", "url", "data"),
}
BODY_LIMIT = 500_000
INBOX_ROWS = 30
MASKED = {"email": "email", "sms": "phone", "wechat": "openid", "webhook": "external_id"}


@bp.get("")
@require(Permission.VIEW)
def index() -> str:
    """Templates by channel."""
    archived = request.args.get("archived") == "1"
    rows = queries.templates(reading(), archived=archived)
    return render_template("channels/templates.html", rows=rows, archived=archived, channels=CHANNELS)


def _template_form(template: Any, contents: dict[str, dict[str, Any]]) -> Form:
    data: dict[str, Any] = {"name": template.name, "channel": template.channel, "purpose": template.purpose}
    for language, fields in contents.items():
        for name, value in fields.items():
            text = _lines(value) if isinstance(value, dict) else value
            data[f"{language}.{name}"] = text
    return Form(data)


def _lines(values: dict[str, Any]) -> str:
    return "\n".join(f"{name}: {text}" for name, text in values.items())


def _contents(
    form: Form, channel: str, kept: dict[str, dict[str, Any]] | None = None
) -> dict[str, dict[str, Any]]:
    """The languages that were filled in; those that the editor does not offer stay as they were."""
    contents = {language: fields for language, fields in (kept or {}).items() if language not in LANGUAGES}
    for language in LANGUAGES:
        fields: dict[str, Any] = {}
        for name in FIELDS[channel]:
            text = form.text(f"{language}.{name}", limit=BODY_LIMIT)
            if name in ("params", "data", "miniprogram"):
                pairs = _pairs(form, f"{language}.{name}", text)
                if pairs:
                    fields[name] = pairs
            elif text:
                fields[name] = text
        if fields:
            contents[language] = fields
    if not contents:
        form.error(f"{LANGUAGES[0]}.{FIELDS[channel][0]}", gettext("Fill in at least one language."))
    return contents


def _pairs(form: Form, name: str, text: str) -> dict[str, str]:
    pairs = {}
    for line in text.splitlines():
        if not line.strip():
            continue
        key, colon, value = line.partition(":")
        if not colon or not key.strip():
            form.error(name, gettext("Write one a line, as name: text."))
        pairs[key.strip()] = value.strip()
    return pairs


def _edit_page(form: Form, channel: str, template: Any | None, code: int = 200) -> tuple[str, int]:
    return (
        render_template(
            "channels/edit.html",
            form=form,
            channel=channel,
            template=template,
            languages_offered=LANGUAGES,
            fields=FIELDS[channel],
            purposes=PURPOSES,
        ),
        code,
    )


def _channel(name: str) -> str:
    if name not in CHANNELS:
        abort(404)
    return name


@bp.get("/templates/new/<channel>")
@require(Permission.EDIT)
def create(channel: str) -> Any:
    return _edit_page(Form({"purpose": "marketing"}), _channel(channel), None)


@bp.post("/templates/new/<channel>")
@require(Permission.EDIT)
def create_post(channel: str) -> Any:
    form = Form(request.form)
    name = form.text("name", required=True, limit=80)
    taken = form.ok and any(row.name == name for row in queries.templates(reading()))
    if taken:
        form.error("name", gettext("There is a template of this name already."))
    return _save(form, name, _channel(channel), None)


@bp.get("/templates/<int:template_id>")
@require(Permission.VIEW)
def template(template_id: int) -> str:
    session = reading()
    found = _template(template_id)
    contents = stored.contents_of(session, template_id)
    return render_template(
        "channels/template.html",
        template=found,
        languages_here=list(contents),
        previews=_previews(found, list(contents)),
        versions=queries.template_versions(session, template_id),
    )


def _template(template_id: int) -> Any:
    found = reading().get(Template, template_id)
    if found is None:
        abort(404)
    return found


def _previews(found: Any, languages: list[str]) -> list[tuple[str, Any, str | None]]:
    """(language, preview or None, why not) for each language."""
    rendered: list[tuple[str, Any, str | None]] = []
    for language in languages:
        try:
            preview = stored.preview(
                reading(), context.console().settings, found.id, language, now=context.now()
            )
            rendered.append((language, preview, None))
        except HuiliuError as error:
            rendered.append((language, None, said(error)))
    return rendered


@bp.get("/templates/<int:template_id>/preview.html")
@require(Permission.VIEW)
def preview_html(template_id: int) -> Response:
    """An e-mail template's HTML, for the sandboxed frame; ``?member=`` fills it in for that member."""
    found = _template(template_id)
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
    return _message_html(str(preview.fields["html"]))


def member_view(member: Member) -> MemberView:
    """What a template may know of a member: no contact detail."""
    return MemberView(**{field.name: getattr(member, field.name) for field in dataclasses.fields(MemberView)})


@bp.post("/templates/preview")
@require(Permission.EDIT)
def preview_draft() -> Response:
    """What is in the editor now, filled in for a sample member; nothing is saved."""
    form = Form(request.form)
    channel, language = form.choice("channel", CHANNELS), form.choice("preview", LANGUAGES)
    if not form.ok:
        abort(400)
    fields = _contents(form, channel).get(language, {})
    purpose = str(form.value("purpose") or "marketing")
    try:
        shown = compile_content(channel, purpose, language, fields).preview(
            context.console().settings, _sample(purpose, channel, language)
        )
    except InvalidInput as error:
        return _message_html(
            render_template("channels/draft.html", error=said(error), fields=None, channel=channel)
        )
    if channel == "email":
        return _message_html(str(shown["html"]))
    return _message_html(render_template("channels/draft.html", error=None, fields=shown, channel=channel))


def _sample(purpose: str, channel: str, language: str) -> Job:
    """A made-up member's message: what a draft is filled in with."""
    settings, now = context.console().settings, context.now()
    coupon = {**stored.SAMPLE_CONTEXT["coupon"], "valid_until": (now + timedelta(days=14)).isoformat()}
    address = "sample@example.com" if channel == "email" else "+8613800138000"
    return Job(
        0,
        purpose,
        stored.sample_member(language),
        address,
        {**stored.SAMPLE_CONTEXT, "coupon": coupon},
        settings.zone,
        now,
    )


@bp.get("/templates/<int:template_id>/edit")
@require(Permission.EDIT)
def edit(template_id: int) -> Any:
    found = _template(template_id)
    return _edit_page(_template_form(found, stored.contents_of(reading(), template_id)), found.channel, found)


@bp.post("/templates/<int:template_id>/edit")
@require(Permission.EDIT)
def edit_post(template_id: int) -> Any:
    found = _template(template_id)
    return _save(Form(request.form), found.name, found.channel, found)


def _save(form: Form, name: str, channel: str, editing: Any | None) -> Any:
    purpose = editing.purpose if editing is not None else form.choice("purpose", PURPOSES)
    kept = stored.contents_of(reading(), editing.id) if editing is not None else None
    contents = _contents(form, channel, kept)
    template_id = editing.id if editing is not None else None
    if form.ok:
        try:
            with writing() as session:
                version = stored.save(
                    session,
                    context.console().settings,
                    name=name,
                    channel=channel,
                    purpose=purpose,
                    contents=contents,
                    by=actor(),
                    now=context.now(),
                )
                template_id = stored.get(session, name).id
                audit.record(session, actor(), "save", "template", name, context.now(), {"version": version})
        except InvalidInput as error:
            form.refuse(error)
            _near_field(form)
    if not form.ok:
        return _edit_page(form, channel, editing, 422)
    flash(gettext("Saved. New messages use this version; those in the queue keep theirs."), "success")
    return redirect(url_for("channels.template", template_id=template_id), 303)


def _near_field(form: Form) -> None:
    """A path such as ``zh_CN.params.code`` belongs beside the field ``zh_CN.params``."""
    for name in list(form.errors):
        parts = name.split(".")
        if len(parts) > 2:
            form.errors.setdefault(".".join(parts[:2]), form.errors[name])


@bp.post("/templates/<int:template_id>/archive")
@require(Permission.EDIT)
def archive(template_id: int) -> AnyResponse:
    name = _template(template_id).name
    with writing() as session:
        stored.archive(session, template_id, context.now())
        audit.record(session, actor(), "archive", "template", name, context.now())
    flash(gettext("Archived. Messages in the queue are still sent with it."), "success")
    return redirect(url_for("channels.index"), 303)


@bp.get("/outbox")
@require(Permission.VIEW)
def outbox() -> str:
    state, channel = request.args.get("state", ""), request.args.get("channel", "")
    state = state if state in channel_outbox.STATES else ""
    channel = channel if channel in CHANNELS else ""
    session = reading()
    return render_template(
        "channels/outbox.html",
        queues=queries.queues(session),
        page=queries.messages(session, wanted(), state=state or None, channel=channel or None),
        state=state,
        channel=channel,
        states=channel_outbox.STATES,
        channels=CHANNELS,
    )


@bp.get("/outbox/<int:message_id>")
@require(Permission.VIEW)
def message(message_id: int) -> str:
    detail = queries.message(reading(), message_id)
    if detail is None:
        abort(404)
    return render_template("channels/message.html", detail=detail)


@bp.post("/outbox/<int:message_id>/retry")
@require(Permission.EDIT)
def retry(message_id: int) -> AnyResponse:
    with writing() as session:
        new = channel_outbox.retry(session, message_id, context.now())
        audit.record(session, actor(), "retry", "message", message_id, context.now())
    flash(
        gettext("Queued again, as a message of its own.")
        if new
        else gettext("It was queued again before; nothing changed."),
        "success",
    )
    return redirect(url_for("channels.message", message_id=message_id), 303)


@bp.get("/accounts")
@require(Permission.VIEW)
def accounts() -> str:
    return render_template("channels/accounts.html", queues=queries.queues(reading()))


@bp.post("/accounts/<channel>/<action>")
@require(Permission.EDIT)
def switch(channel: str, action: str) -> AnyResponse:
    """Pause or resume a channel, or choose what happens to messages without an answer."""
    _channel(channel)
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
    return _message_html(found.html)


def _message_html(html: str) -> Response:
    response = Response(f'<base target="_blank">{html}', mimetype="text/html")
    response.headers["Content-Security-Policy"] = MESSAGE_POLICY
    return response
