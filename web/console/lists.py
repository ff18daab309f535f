"""Static lists: uploaded, pasted, frozen from a segment; their members, changes and uses.

What is large runs on a thread of its own and shows its progress in the top bar. Ids that nobody has
are kept in a file beside the database until the next upload, so that they can be looked at and fetched.
"""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from flask import Blueprint, abort, flash, redirect, render_template, request, send_file, url_for
from flask_babel import gettext
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response

from core.errors import Conflict, InvalidInput
from segments import lists
from segments import segments as saved
from segments.models import MemberList
from web import context, i18n, uploads, work
from web.console.rules import evaluate
from web.context import actor, reading, require, writing
from web.forms import Form
from web.paging import wanted
from web.queries import lists as queries
from web.queries import members as member_queries
from web.refusals import said
from web.roles import Permission

bp = Blueprint("lists", __name__, url_prefix="/segments")
AT_ONCE_BYTES = 256 * 1024
"""An upload up to this size is loaded while the browser waits; a larger one in the background."""
AT_ONCE_MEMBERS = 20_000
PASTED_LIMIT = 400_000
UNKNOWN_SHOWN = 20
CHANGES = ("add", "replace", "remove")
Change = Callable[[Session, Iterable[str], lists.Progress], lists.Added | int]


@bp.get("/lists")
@require(Permission.VIEW)
def index() -> str:
    session = reading()
    archived = request.args.get("archived") == "1"
    rows = lists.rows(session, archived=archived)
    return render_template(
        "lists/index.html",
        rows=rows,
        archived=archived,
        users=queries.used_by(session, [row.name for row in rows]),
        origin=origin,
    )


def origin(text: str) -> tuple[str, str | None]:
    """Where a list comes from, in words, and the segment to link to."""
    kind, _, rest = text.partition(":")
    if kind == "segment":
        name, _, day = rest.rpartition("@")
        return gettext("Frozen from “%(name)s” on %(day)s", name=name, day=day), name
    if kind == "moves":
        return gettext("Found by moves: %(what)s", what=rest), None
    if kind == "funnel":
        return gettext("Found by a funnel: %(what)s", what=rest), None
    return gettext("Uploaded"), None


@bp.get("/lists/new")
@require(Permission.EDIT)
def create() -> Any:
    return _new_page(Form())


def _new_page(form: Form, code: int = 200) -> tuple[str, int]:
    return render_template(
        "lists/new.html", form=form, limit_mb=context.console().settings.upload_limit_mb
    ), code


@bp.post("/lists/new")
@require(Permission.EDIT)
def create_post() -> Any:
    """A list with a title, and its first members out of a file or a text field."""
    form = Form(request.form)
    name, title = form.text("name", required=True, limit=80), form.text("title", required=True)
    given = _given(form)
    if not form.ok or given is None:
        return _new_page(form, 422)
    by, now = actor(), context.now()
    try:
        with writing() as session:
            lists.create(session, name=name, title=title, external_ids=(), by=by, now=now)
    except (InvalidInput, Conflict) as error:
        given.discard()
        form.error("title" if getattr(error, "field", None) == "title" else "name", said(error))
        return _new_page(form, 422)
    return _load(name, given, lambda session, ids, told: lists.add(session, name, ids, by, now, told))


@dataclass(frozen=True)
class Given:
    """The ids that a form brought: a file, or a few that were pasted."""

    ids: list[str]
    path: Path | None = None

    @property
    def large(self) -> bool:
        return self.path is not None and self.path.stat().st_size > AT_ONCE_BYTES

    def read(self) -> Iterator[str]:
        return iter(self.ids) if self.path is None else uploads.ids_in(self.path)

    def discard(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _given(form: Form) -> Given | None:
    """The ids of the form, or None with the error noted."""
    file = request.files.get("file")
    if file is None or not file.filename:
        ids = uploads.pasted(form.text("ids", limit=PASTED_LIMIT))
        if not ids:
            form.error("file", gettext("Choose a file, or paste the ids."))
        return Given(ids) if ids else None
    handle, name = tempfile.mkstemp(prefix="huiliu-list-")
    os.close(handle)
    given = Given([], Path(name))
    file.save(name)
    try:
        given.read()  # says at once what the file cannot be
    except InvalidInput as error:
        form.error("file", said(error))
    if not form.ok:
        given.discard()
        return None
    return given


def _load(name: str, given: Given, change: Change) -> Response:
    """Have ``change`` take in the ids: at once, or in the background where they are many."""
    console = context.console()
    list_id = lists.by_name(reading(), name).id
    keep = _unknown_file(list_id)

    def action(progress: work.Progress) -> lists.Added | int:
        try:
            with console.database.write() as session:
                done = change(session, given.read(), progress)
        finally:
            given.discard()
        _keep_unknown(keep, done.unknown if isinstance(done, lists.Added) else [])
        return done

    context.close_reading()
    if given.large:
        try:
            work.start(console.database, "list", gettext("List %(name)s", name=name), action, console.clock)
        except Conflict:
            given.discard()
            raise
        flash(gettext("The file is being read; the progress is in the top bar."), "success")
    else:
        done = action(lambda _done, _total: None)
        _say(done)
    return redirect(url_for("lists.page", name=name), 303)


def _say(done: lists.Added | int) -> None:
    if isinstance(done, int):
        flash(gettext("%(count)s members are off the list.", count=i18n.number(done)), "success")
        return
    flash(gettext("%(count)s members are new on the list.", count=i18n.number(done.added)), "success")
    if done.unknown:
        flash(
            gettext(
                "%(count)s ids are nobody's; they are shown below.", count=i18n.number(len(done.unknown))
            ),
            "warning",
        )


def _unknown_file(list_id: int) -> Path:
    return context.console().settings.home / "rejects" / "lists" / f"{list_id}.csv"


def _keep_unknown(path: Path, unknown: list[str]) -> None:
    """Keep the unknown ids of the newest upload; nothing where all were known."""
    if not unknown:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    with temporary.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["member_id"])
        writer.writerows([one] for one in unknown)
    temporary.replace(path)


def _unknown_sample(path: Path) -> list[str]:
    with suppress(FileNotFoundError), path.open(encoding="utf-8-sig", newline="") as file:
        return [row[0] for row in islice(csv.reader(file), 1, UNKNOWN_SHOWN + 1) if row]
    return []


@bp.get("/lists/<name>")
@require(Permission.VIEW)
def page(name: str) -> Any:
    return _page(lists.by_name(reading(), name), Form())


def _page(found: MemberList, form: Form, code: int = 200) -> tuple[str, int]:
    session = reading()
    return (
        render_template(
            "lists/page.html",
            list=found,
            form=form,
            size=queries.size(session, found.id),
            page=queries.members(session, found.id, wanted()),
            users=queries.used_by(session, [found.name])[found.name],
            history=member_queries.history(session, "list", found.name),
            unknown=_unknown_sample(_unknown_file(found.id)),
            origin=origin(found.origin),
            limit_mb=context.console().settings.upload_limit_mb,
        ),
        code,
    )


@bp.get("/lists/<name>/unknown")
@require(Permission.VIEW)
def unknown(name: str) -> Response:
    """The ids of the newest upload that nobody has, as a file."""
    path = _unknown_file(lists.by_name(reading(), name).id)
    if not path.exists():
        abort(404)
    return send_file(
        path.absolute(), mimetype="text/csv", as_attachment=True, download_name=f"{name}-unknown.csv"
    )


@bp.post("/lists/<name>/members")
@require(Permission.EDIT)
def change(name: str) -> Any:
    """Add to the list, replace it, or take members off it."""
    found = lists.by_name(reading(), name)
    form = Form(request.form)
    how = form.choice("how", CHANGES, "add")
    if how == "replace" and request.form.get("confirm", "").strip() != name:
        form.error("confirm", gettext("Type the list's name to replace everybody on it."))
    given = _given(form)
    if not form.ok or given is None:
        if given is not None:
            given.discard()
        return _page(found, form, 422)
    by, now = actor(), context.now()
    actions: dict[str, Change] = {
        "add": lambda session, ids, told: lists.add(session, name, ids, by, now, told),
        "replace": lambda session, ids, told: lists.replace(session, name, ids, by, now, told),
        "remove": lambda session, ids, _told: lists.remove(session, name, ids, by, now),
    }
    return _load(name, given, actions[how])


@bp.post("/lists/<name>/rename")
@require(Permission.EDIT)
def rename(name: str) -> Any:
    form = Form(request.form)
    found = lists.by_name(reading(), name)
    title, new = form.text("title", required=True), form.text("name", required=True, limit=80)
    if form.ok:
        try:
            with writing() as session:
                lists.rename(session, name, title=title, new_name=new, by=actor(), now=context.now())
        except (InvalidInput, Conflict) as error:
            form.error("title" if getattr(error, "field", None) == "title" else "name", said(error))
    if not form.ok:
        return _page(found, form, 422)
    flash(gettext("Saved."), "success")
    return redirect(url_for("lists.page", name=new), 303)


@bp.post("/lists/<name>/archive")
@require(Permission.EDIT)
def archive(name: str) -> Response:
    with writing() as session:
        lists.archive(session, name, actor(), context.now())
    flash(gettext("Archived. It can be restored from the list of archived lists."), "success")
    return redirect(url_for("lists.index"), 303)


@bp.post("/lists/<name>/restore")
@require(Permission.EDIT)
def restore(name: str) -> Response:
    with writing() as session:
        lists.restore(session, name, actor(), context.now())
    flash(gettext("Restored."), "success")
    return redirect(url_for("lists.page", name=name), 303)


@bp.post("/<name>/freeze")
@require(Permission.EDIT)
def freeze(name: str) -> Response:
    """A list of who is in a segment as of the newest refresh."""
    console, by, now = context.console(), actor(), context.now()
    segment, evaluated = saved.by_name(reading(), name), evaluate()
    new, title = request.form.get("name", "").strip(), request.form.get("title", "").strip()
    many = evaluated.count(segment.rule, 0).count > AT_ONCE_MEMBERS
    context.close_reading()

    def action(_progress: work.Progress) -> int:
        with console.database.write() as session:
            return lists.freeze(session, evaluated, segment, name=new, title=title, by=by, now=now)

    if many:
        lists.check_new(reading(), new, title)
        context.close_reading()
        work.start(console.database, "list", gettext("List %(name)s", name=new), action, console.clock)
        flash(gettext("The list is being made; the progress is in the top bar."), "success")
        return redirect(url_for("lists.index"), 303)
    frozen = action(lambda _done, _total: None)
    flash(gettext("%(count)s members are on the list.", count=i18n.number(frozen)), "success")
    return redirect(url_for("lists.page", name=new), 303)


def make_of(member_ids: list[int], origin: str, form: Form) -> Response:
    """Make a list of members that another page found (form: ``name``, ``title``), and go to it."""
    name = form.text("name", limit=80)
    with writing() as session:
        added = lists.create_of_members(
            session,
            name=name,
            title=form.text("title"),
            member_ids=member_ids,
            by=actor(),
            now=context.now(),
            origin=origin,
        )
    flash(gettext("%(count)s members are on the list.", count=i18n.number(added)), "success")
    return redirect(url_for("lists.page", name=name), 303)
