"""What templates share: snippets, and the list of words that advertising law or spam filters mind."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from flask_babel import gettext
from werkzeug.wrappers import Response

from channels import checks, snippets
from channels import templates as stored
from core import audit
from core.errors import InvalidInput
from web import context
from web.context import actor, reading, require, writing
from web.forms import Form
from web.refusals import said
from web.roles import Permission

bp = Blueprint("wording", __name__, url_prefix="/channels")
LANGUAGES = ("zh_CN", "en")
WORD_LISTS = ("zh", "en")
WORDS_LIMIT = 20_000


@bp.get("/snippets")
@require(Permission.VIEW)
def index() -> str:
    session = reading()
    return render_template(
        "channels/snippets.html", known=snippets.load(session), uses=snippets.uses(session)
    )


@bp.get("/snippets/new")
@require(Permission.EDIT)
def create() -> Any:
    return _page(Form(), None)


@bp.post("/snippets/new")
@require(Permission.EDIT)
def create_post() -> Any:
    form = Form(request.form)
    name = form.text("name", required=True, limit=40)
    if name and name in snippets.load(reading(), name):
        form.error("name", gettext("There is a snippet of this name already."))
    return _save(form, name, None)


@bp.get("/snippets/<name>")
@require(Permission.VIEW)
def snippet(name: str) -> Any:
    found = _found(name)
    data = {
        f"{language}.{part}": getattr(piece, part)
        for language, piece in found.languages.items()
        for part in ("html", "text")
    }
    return _page(Form(data), found)


@bp.post("/snippets/<name>")
@require(Permission.EDIT)
def save(name: str) -> Any:
    return _save(Form(request.form), name, _found(name))


def _found(name: str) -> snippets.Known:
    found = snippets.load(reading(), name).get(name)
    if found is None:
        abort(404)
    return found


def _page(form: Form, found: snippets.Known | None, code: int = 200) -> tuple[str, int]:
    session = reading()
    return render_template(
        "channels/snippet.html",
        form=form,
        snippet=found,
        tabs_offered=_languages(found),
        uses=snippets.uses(session, found.name).get(found.name, []) if found else [],
    ), code


def _languages(found: snippets.Known | None) -> list[str]:
    return list(dict.fromkeys([*LANGUAGES, *(found.languages if found else ())]))


def _save(form: Form, name: str, found: snippets.Known | None) -> Any:
    pieces = {}
    for language in _languages(found):
        html = form.text(f"{language}.html", limit=snippets.MAX_CHARACTERS)
        text = form.text(f"{language}.text", limit=snippets.MAX_CHARACTERS)
        if html or text:
            pieces[language] = snippets.Piece(html, text)
    if form.ok and not pieces:
        form.error(f"{LANGUAGES[0]}.html", gettext("Fill in at least one language."))
    if form.ok:
        try:
            with writing() as session:
                version = snippets.save(session, name=name, pieces=pieces, by=actor(), now=context.now())
                detail = {"version": version}
                audit.record(session, actor(), "save", "snippet", name, context.now(), detail)
        except InvalidInput as error:
            form.refuse(error)
    if not form.ok:
        return _page(form, _found(name) if found else None, 422)
    flash(gettext("Saved. Templates keep the text they have until they are saved again."), "success")
    return redirect(url_for("wording.snippet", name=name), 303)


@bp.post("/snippets/<name>/renew")
@require(Permission.EDIT)
def renew(name: str) -> Response:
    """Save the templates that have an older text of the snippet as new versions."""
    settings, now = context.console().settings, context.now()
    wanted = request.form.getlist("template", type=int)
    renewed, refused = 0, []
    for use in snippets.outdated(reading(), name):
        if use.template_id not in wanted:
            continue
        try:
            # One transaction a template: one that is refused does not keep the others.
            with writing() as session:
                number = stored.get(session, use.template).version
                new = stored.restore(session, settings, use.template_id, number, actor(), now)
                detail = {"version": new, "snippet": name}
                audit.record(session, actor(), "save", "template", use.template, now, detail)
            renewed += 1
        except InvalidInput as error:
            refused.append(f"{use.template}: {said(error)}")
    flash(gettext("%(count)s templates have the new text.", count=renewed), "success")
    for text in refused:
        flash(text, "error")
    return redirect(url_for("wording.snippet", name=name), 303)


@bp.post("/snippets/<name>/archive")
@require(Permission.EDIT)
def archive(name: str) -> Response:
    with writing() as session:
        snippets.archive(session, name, context.now())
        audit.record(session, actor(), "archive", "snippet", name, context.now())
    flash(gettext("Archived. Templates that have it keep its text."), "success")
    return redirect(url_for("wording.index"), 303)


@bp.get("/words")
@require(Permission.VIEW)
def words() -> Any:
    known = checks.load_words(reading())
    return _words_page(Form({language: "\n".join(known.get(language, ())) for language in WORD_LISTS}))


def _words_page(form: Form, code: int = 200) -> tuple[str, int]:
    return render_template("channels/words.html", form=form, lists=WORD_LISTS), code


@bp.post("/words")
@require(Permission.EDIT)
def save_words() -> Any:
    form = Form(request.form)
    listed = {
        language: [
            line.strip() for line in form.text(language, limit=WORDS_LIMIT).split("\n") if line.strip()
        ]
        for language in WORD_LISTS
    }
    if form.value("defaults"):
        listed = {language: list(checks.DEFAULT_WORDS[language]) for language in WORD_LISTS}
        form.errors.clear()
    if form.ok:
        try:
            with writing() as session:
                checks.save_words(session, listed, actor(), context.now())
        except InvalidInput as error:
            form.refuse(error)
    if not form.ok:
        return _words_page(form, 422)
    flash(gettext("Saved. The next check uses this list."), "success")
    return redirect(url_for("wording.words"), 303)
