"""The template editor: languages, a live preview beside the text, checks, snippets' texts, test messages.

Guarantees: what was typed comes back with every answer; a preview writes nothing, and shows a member's
own data with a coupon and points that are made up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from flask import Blueprint, Response, abort, flash, redirect, render_template, request, url_for
from flask_babel import gettext
from werkzeug.wrappers import Response as AnyResponse

from channels import checks, links, trials
from channels import templates as stored
from channels.consent import PURPOSES
from channels.render import FIELDS as ALL_FIELDS
from channels.render import KINDS, compile_content, variables_for
from channels.sms import cost
from channels.source import source_of
from core import audit
from core import members as core_members
from core.contacts import ADDRESS_COLUMN, CHANNELS, mask
from core.errors import HuiliuError, InvalidInput
from core.models import Member
from web import context, findings
from web.console.channels import address_label, member_view, message_html, template_or_404
from web.console.template_form import LANGUAGE, contents_in, fields_of, languages_of, template_form
from web.context import actor, reading, require, writing
from web.forms import Form
from web.queries import channels as queries
from web.refusals import said
from web.roles import Permission

bp = Blueprint("template_editor", __name__, url_prefix="/channels/templates")
MORE_LANGUAGES = ("zh_TW", "zh_HK", "ja", "ko", "th", "vi", "id", "ms", "de", "fr", "es", "pt", "it", "ru")
LOOKS = ("desktop", "phone", "dark")
FOUND_MEMBERS = 8


def _channel(name: str) -> str:
    if name not in CHANNELS:
        abort(404)
    return name


def _edit_page(form: Form, channel: str, template: Any | None, code: int = 200) -> tuple[str, int]:
    kept = stored.written_of(reading(), template.id) if template is not None else {}
    languages = languages_of(form, kept)
    chosen = str(form.value("add") or form.value("preview"))
    wish = form.integer("member", high=2**53)
    member = reading().get(Member, wish) if wish else None
    return (
        render_template(
            "channels/edit.html",
            form=form,
            channel=channel,
            template=template,
            tabs_offered=languages,
            chosen=chosen if chosen in languages else (next(iter(kept), languages[0])),
            more_languages=[name for name in MORE_LANGUAGES if name not in languages],
            fields=fields_of(channel, kept),
            kinds=KINDS,
            purposes=PURPOSES,
            member=member,
            snippet_names=queries.snippet_names(reading()),
            address_label=address_label(channel),
            own_address=actor() if channel == "email" else "",
            test_limit=trials.MAX_A_MINUTE,
        ),
        code,
    )


@bp.get("/new/<channel>")
@require(Permission.EDIT)
def create(channel: str) -> Any:
    return _edit_page(Form({"purpose": "marketing"}), _channel(channel), None)


@bp.post("/new/<channel>")
@require(Permission.EDIT)
def create_post(channel: str) -> Any:
    form = Form(request.form)
    if form.value("add"):
        return _with_language(form, _channel(channel), None)
    name = form.text("name", required=True, limit=80)
    taken = form.ok and any(row.name == name for row in queries.templates(reading()))
    if taken:
        form.error("name", gettext("There is a template of this name already."))
    return _save(form, name, _channel(channel), None)


@bp.get("/<int:template_id>/edit")
@require(Permission.EDIT)
def edit(template_id: int) -> Any:
    found = template_or_404(template_id)
    return _edit_page(template_form(found, stored.written_of(reading(), template_id)), found.channel, found)


@bp.post("/<int:template_id>/edit")
@require(Permission.EDIT)
def edit_post(template_id: int) -> Any:
    found = template_or_404(template_id)
    form = Form(request.form)
    if form.value("add"):
        return _with_language(form, found.channel, found)
    return _save(form, found.name, found.channel, found)


def _with_language(form: Form, channel: str, template: Any | None) -> Any:
    """One more tab; nothing is saved, and nothing typed is lost."""
    form.data.add("language", str(form.value("add")))
    return _edit_page(form, channel, template)


def _save(form: Form, name: str, channel: str, editing: Any | None) -> Any:
    purpose = editing.purpose if editing is not None else form.choice("purpose", PURPOSES)
    kept = stored.written_of(reading(), editing.id) if editing is not None else None
    contents = contents_in(form, channel, kept)
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
        editing = template_or_404(editing.id) if editing is not None else None
        return _edit_page(form, channel, editing, 422)
    flash(gettext("Saved. New messages use this version; those in the queue keep theirs."), "success")
    return redirect(url_for("channels.template", template_id=template_id), 303)


def _near_field(form: Form) -> None:
    """A path such as ``zh_CN.params.code`` belongs beside the field ``zh_CN.params``."""
    for name in list(form.errors):
        parts = name.split(".")
        if len(parts) > 2:
            form.errors.setdefault(".".join(parts[:2]), form.errors[name])


# --- preview ---------------------------------------------------------------------


@dataclass
class Shown:
    """What is in the editor, filled in; or the errors beside their fields."""

    channel: str
    language: str
    form: Form
    member: Member | None = None
    draft: checks.Draft | None = None
    preheader: str = ""
    found: list[checks.Finding] = field(default_factory=list)
    count: Any = None
    """An SMS's :class:`channels.sms.cost.MessageCost`."""
    cost: Any = None
    """Of a thousand such SMS: :class:`channels.sms.cost.Estimate`."""


def _shown(form: Form, *, checked: bool = True) -> Shown:
    """The language of the open tab, rendered for the chosen member; reads only."""
    settings, session = context.console().settings, reading()
    channel = form.choice("channel", CHANNELS)
    if channel not in CHANNELS:
        abort(400)
    language = str(form.value("preview"))
    if not LANGUAGE.fullmatch(language):
        abort(400)
    form.data.add("language", language)
    fields = contents_in(form, channel).get(language, {})
    number = form.integer("member", high=2**53)
    member = session.get(Member, number) if number else None
    shown = Shown(channel, language, form, member if member and member.erased_at is None else None)
    purpose = str(form.value("purpose") or "marketing")
    form.errors = {path: text for path, text in form.errors.items() if path.startswith(f"{language}.")}
    if form.errors or not fields:
        return shown
    try:
        _fill_in(shown, settings, purpose, fields)
    except InvalidInput as error:
        form.refuse(error)
        _near_field(form)
        return shown
    if checked and shown.draft is not None:
        sample = queries.sample_members(session, checks.SAMPLED)
        shown.found = checks.findings(settings, shown.draft, sample, checks.load_words(session))
    return shown


def _fill_in(shown: Shown, settings: Any, purpose: str, fields: dict[str, Any]) -> None:
    language, channel = shown.language, shown.channel
    whole = stored.inlined(reading(), settings, {language: fields})[language].fields
    content = compile_content(channel, purpose, language, whole)
    view = member_view(shown.member) if shown.member else None
    address = getattr(shown.member, ADDRESS_COLUMN[channel]) if shown.member else None
    job = stored.sample_job(
        settings, channel, purpose, language, context.now(), member=view, address=address or ""
    )
    shown.draft = checks.Draft(channel, purpose, language, whole, content.preview(settings, job), job.address)
    if channel == "email" and whole.get("preheader"):
        source = source_of(str(whole["preheader"]), f"{language}.preheader")
        shown.preheader = source.run(variables_for(settings, job, language, source.names))
    if channel == "sms":
        text = str(shown.draft.shown["text"])
        shown.count = cost.message_cost(settings, text, job.address, purpose)
        shown.cost = cost.estimate(settings, ((job.address, text) for _ in range(1000)), purpose)


@bp.post("/preview")
@require(Permission.EDIT)
def preview_draft() -> Response:
    """What is in the editor now, as a page for the sandboxed frame; nothing is saved."""
    shown = _shown(Form(request.form), checked=False)
    look = request.form.get("look", "")
    if shown.draft is None:
        text = next(iter(shown.form.errors.values()), "")
        return message_html(
            render_template("channels/draft.html", error=text, fields=None, channel=shown.channel)
        )
    if shown.channel == "email":
        html = str(shown.draft.shown["html"])
        return message_html(as_dark(html) if look == "dark" else html)
    return message_html(
        render_template("channels/draft.html", error=None, fields=shown.draft.shown, channel=shown.channel)
    )


_DARK = re.compile(r"prefers-color-scheme\s*:\s*dark", re.IGNORECASE)
_LIGHT = re.compile(r"prefers-color-scheme\s*:\s*light", re.IGNORECASE)


def as_dark(html: str) -> str:
    """The message as a mail program with a dark scheme shows it: its own dark rules, on a dark canvas."""
    html = _LIGHT.sub("max-width: 0", _DARK.sub("min-width: 0", html))
    return f"<style>:root{{color-scheme:dark;background:#121212;color:#e8e8e8}}</style>{html}"


@bp.post("/live")
@require(Permission.EDIT)
def live() -> str:
    """The panel beside the editor: inbox line, bubble or card, who it is filled in for, what is wrong."""
    shown = _shown(Form(request.form))
    available = [
        language
        for language in languages_of(shown.form, {})
        if any(shown.form.value(f"{language}.{name}") for name in ALL_FIELDS[shown.channel])
    ]
    locale = shown.member.locale if shown.member else shown.language
    settings = context.console().settings
    return render_template(
        "channels/live.html",
        shown=shown,
        fields=shown.draft.shown if shown.draft else None,
        sentence=findings.sentence,
        finding_tone=findings.tone,
        gets=stored.choose_language(available, locale, settings) if available else None,
        locale=locale,
    )


@bp.post("/links")
@require(Permission.EDIT)
def check_links() -> str:
    """Ask the draft's links whether they lead anywhere; only when the button is pressed."""
    form = Form(request.form)
    shown = _shown(form, checked=False)
    found: list[links.Looked] = []
    if shown.draft is not None:
        fields = shown.draft.fields
        source = str(fields.get("mjml") or fields.get("html") or "")
        written = [fields.get("url"), (fields.get("link") or {}).get("url")]
        urls = links.links_of(source, [str(url) for url in written if url])
        context.close_reading()
        found = links.check_links(context.console().settings, urls)
    bad = [
        checks.Finding(checks.ERROR, f"link_{one.state}", "", {"url": one.url, "status": one.status or ""})
        for one in found
        if one.state in ("dead", "unreachable", "private")
    ]
    return render_template(
        "channels/links.html",
        readable=shown.draft is not None,
        asked=sum(one.state != "skipped" for one in found),
        skipped=sum(one.state == "skipped" for one in found),
        bad=bad,
        sentence=findings.sentence,
    )


@bp.get("/members")
@require(Permission.EDIT)
def members() -> str:
    """Members to preview as: by id, whole e-mail address, whole phone number or start of the name."""
    text = request.args.get("q", "")[:320]
    found = core_members.search(reading(), text, FOUND_MEMBERS)
    rows = [
        (
            one.id,
            one.external_id,
            one.name or "",
            mask("email", one.email),
            mask("phone", one.phone),
            one.locale,
        )
        for one in found
        if one.source != trials.SOURCE
    ]
    return render_template("channels/members.html", rows=rows, text=text)


# --- tests and versions ----------------------------------------------------------


@bp.post("/<int:template_id>/test")
@require(Permission.EDIT)
def send_test(template_id: int) -> AnyResponse:
    """Queue the current version for an address that was typed in."""
    back = url_for("channels.template", template_id=template_id)
    address, language = request.form.get("address", "")[:320], request.form.get("language", "")
    try:
        with writing() as session:
            message_id = trials.send(session, template_id, language, address, actor(), context.now())
    except HuiliuError as error:
        flash(said(error), "error")
        return redirect(f"{back}#test", 303)
    flash(gettext("Queued. It leaves with the next delivery; this page shows what becomes of it."), "success")
    return redirect(url_for("messages.page", message_id=message_id), 303)


@bp.post("/<int:template_id>/draft/test")
@require(Permission.EDIT)
def send_draft(template_id: int) -> str:
    """Queue what stands in the editor of a template, for an address that was typed in; nothing is saved."""
    found = template_or_404(template_id)
    form, kept = Form(request.form), stored.written_of(reading(), template_id)
    return _try_draft(form, found.channel, found.purpose, kept, template_id)


@bp.post("/new/<channel>/test")
@require(Permission.EDIT)
def send_new_draft(channel: str) -> str:
    """:func:`send_draft` for a template that is not saved yet."""
    form = Form(request.form)
    return _try_draft(form, _channel(channel), form.choice("purpose", PURPOSES), None, None)


def _try_draft(
    form: Form, channel: str, purpose: str, kept: dict[str, dict[str, Any]] | None, template_id: int | None
) -> str:
    """The open language's text as a test: a part of the page that says what became of it."""
    language, address = str(form.value("preview")), str(form.value("address"))[:320]
    fields = contents_in(form, channel, kept).get(language, {})
    errors = {
        path: text for path, text in form.errors.items() if path.partition(".")[0] in (language, "purpose")
    }
    error = next(iter(errors.values()), None)
    if error is None and not fields:
        error = gettext("Nothing is written in this language yet.")
    message_id = None
    if error is None:
        draft = trials.Draft(channel, purpose, language, fields, template_id)
        try:
            with writing() as session:
                message_id = trials.send_draft(
                    session, context.console().settings, draft, address, actor(), context.now()
                )
        except HuiliuError as refused:
            error = said(refused)
    return render_template("channels/tried.html", error=error, message_id=message_id)


@bp.get("/<int:template_id>/versions/<int:number>")
@require(Permission.VIEW)
def version(template_id: int, number: int) -> str:
    """What a version changed against the one before it, or against ``?with=`` another."""
    found = template_or_404(template_id)
    session = reading()
    after = stored.written_of(session, template_id, number)
    if not after:
        abort(404)
    other = request.args.get("with", type=int) or number - 1
    before = stored.written_of(session, template_id, other) if other > 0 else {}
    versions = queries.template_versions(session, template_id)
    return render_template(
        "channels/version.html",
        template=found,
        number=number,
        other=other if before else None,
        entry=next(one for one in versions if one[0] == number),
        versions=[one[0] for one in versions],
        changes=queries.field_changes(before, after),
    )


@bp.post("/<int:template_id>/versions/<int:number>/restore")
@require(Permission.EDIT)
def restore(template_id: int, number: int) -> AnyResponse:
    found = template_or_404(template_id)
    name = found.name
    try:
        with writing() as session:
            new = stored.restore(
                session, context.console().settings, template_id, number, actor(), context.now()
            )
            detail = {"version": new, "restored": number}
            audit.record(session, actor(), "restore", "template", name, context.now(), detail)
    except InvalidInput as error:
        flash(said(error), "error")
        return redirect(url_for("template_editor.version", template_id=template_id, number=number), 303)
    flash(gettext("Restored as version %(number)s.", number=new), "success")
    return redirect(url_for("channels.template", template_id=template_id), 303)
