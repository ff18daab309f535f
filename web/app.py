"""The web application: console and public pages; beside them the HTTP API, an application of its own."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import lru_cache, partial
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from flask import Flask, current_app, flash, redirect, render_template, request
from flask_babel import gettext, lazy_gettext
from flask_wtf.csrf import CSRFError
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from core.db import Database
from core.errors import HuiliuError, InvalidInput, NotFound
from core.settings import Settings
from core.times import now
from core.warehouse.engine import DuckEngine
from segments.facts import open_engine
from web import context, i18n, security, static_files, words
from web.api.app import create_api
from web.assets.manifest import asset_path
from web.console import (
    calendar,
    campaign_again,
    campaigns,
    channels,
    delivery_rules,
    experiments,
    groups,
    insights,
    lists,
    loyalty,
    members,
    messages,
    metrics,
    overview,
    planning,
    points,
    predictions,
    programme,
    promotions,
    referrals,
    reminders,
    results,
    review,
    rules,
    scoring,
    segments,
    session,
    settings_pages,
    tags,
    template_editor,
    tiers,
    tree,
    watching,
    wording,
)
from web.public.views import create_blueprint as create_public
from web.refusals import said

FORM_PARTS = 5000
PAGES = (
    overview,
    members,
    segments,
    rules,
    lists,
    tags,
    insights,
    predictions,
    campaign_again,
    campaigns,
    loyalty,
    programme,
    promotions,
    calendar,
    points,
    tiers,
    channels,
    template_editor,
    wording,
    messages,
    delivery_rules,
    results,
    experiments,
    metrics,
    planning,
    tree,
    watching,
    settings_pages,
    scoring,
    session,
    review,
    referrals,
    groups,
    reminders,
)
_ERROR_TEXTS = {
    400: lazy_gettext("The request could not be read. Go back, and try again."),
    403: lazy_gettext("Your role does not allow this. An administrator can change it under Settings."),
    404: lazy_gettext("There is nothing at this address. It may have been archived, or the link is wrong."),
    405: lazy_gettext("This address cannot be used like that."),
    413: lazy_gettext("The upload is too large."),
    429: lazy_gettext("Too many attempts. Wait a minute, then try again."),
}


def create_app(
    settings: Settings,
    database: Database,
    *,
    engine: Callable[[], DuckEngine] | None = None,
    clock: Callable[[], datetime] | None = None,
) -> Flask:
    """The application over a migrated ``database``.

    ``engine`` makes the analytics engine (default: DuckDB over the settings' warehouse); ``clock``
    gives the time for everything that a page shows or writes (default: :func:`core.times.now`).
    """
    app = Flask("web", static_folder=None)
    app.config.update(
        MAX_CONTENT_LENGTH=settings.upload_limit_mb * 1024 * 1024,
        MAX_FORM_PARTS=FORM_PARTS,
        TEMPLATES_AUTO_RELOAD=False,
    )
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    moment = clock or partial(now, settings)
    app.extensions[context.EXTENSION] = context.Console(
        settings, database, engine or _engine_of(settings), moment
    )
    i18n.init(app, settings)
    csrf = security.init(app, settings, database)
    static_files.init(app)
    for module in PAGES:
        app.register_blueprint(module.bp)
    public = create_public(database, settings, moment)
    app.register_blueprint(public)
    csrf.exempt(public)  # links are signed, callbacks verified
    app.teardown_request(context.close_reading)
    app.context_processor(_for_templates)
    app.jinja_env.globals.update(asset=asset_path, word=words.word, tone=words.tone, options=words.options)
    app.jinja_env.filters.update(text_of=i18n.text_of, said=said)
    _register_errors(app)
    api = create_api(database, settings, moment)
    app.wsgi_app = _beside(app.wsgi_app, api.wsgi_app)  # type: ignore[method-assign, assignment]
    return app


def _beside(console: WSGIApplication, api: WSGIApplication) -> WSGIApplication:
    """What is below /api is answered by the API's application, with its whole address."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        chosen = api if environ.get("PATH_INFO", "").startswith("/api/") else console
        return chosen(environ, start_response)

    return answer


def _engine_of(settings: Settings) -> Callable[[], DuckEngine]:
    @lru_cache(maxsize=1)
    def make() -> DuckEngine:
        return open_engine(settings)

    return make


def _for_templates() -> dict[str, Any]:
    return {
        "settings": context.console().settings,
        "may": context.may,
        "now": context.now(),
        "frame": session.frame,
    }


def _register_errors(app: Flask) -> None:
    app.register_error_handler(CSRFError, _stale_form)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(HuiliuError, _refusal)
    app.register_error_handler(Exception, _crash)


def _page(code: int, text: str) -> tuple[str, int]:
    title = (
        gettext("Not found")
        if code == 404
        else gettext("Not allowed")
        if code == 403
        else gettext("That did not work")
    )
    return render_template("error.html", code=code, title=title, text=text), code


def _stale_form(_error: CSRFError) -> AnyResponse | tuple[Any, int]:
    text = gettext(
        "This form was open for too long, or belongs to another session. Load it again, then send it."
    )
    return _page(400, text)


def _http_error(error: HTTPException) -> AnyResponse | tuple[Any, int]:
    code = error.code or 500
    if error.response is not None or code < 400:
        return error.get_response()
    text = _ERROR_TEXTS.get(code)
    return _page(code, str(text) if text else str(error.description or error.name))


def _refusal(error: HuiliuError) -> AnyResponse | tuple[Any, int]:
    """A refusal that no view caught: its message says what to do, so the page shows it."""
    code = 404 if isinstance(error, NotFound) else 422 if isinstance(error, InvalidInput) else 409
    if request.method == "POST" and not context.is_htmx() and code != 404:
        flash(said(error), "error")
        back = request.referrer
        if back and back.startswith(request.host_url):
            return redirect(back, 303)
    return _page(code, said(error))


def _crash(error: Exception) -> AnyResponse | tuple[Any, int]:
    if current_app.testing:
        raise error
    current_app.logger.exception("A request failed: %s %s", request.method, request.path)
    return _page(
        500,
        gettext(
            "The server failed on this page. What you sent was not half written; the log has the details."
        ),
    )
