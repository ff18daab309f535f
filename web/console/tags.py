"""Tags from the console: on one member, or on everybody in a segment or on a list.

Many are tagged in the background, a batch a transaction; one audit row says what was done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flask import Blueprint, abort, flash, redirect, request, url_for
from flask_babel import gettext
from werkzeug.wrappers import Response

from core import audit
from core.errors import InvalidInput
from segments import lists, tags
from segments import segments as saved
from web import context, work
from web.console.rules import evaluate
from web.context import actor, reading, require, writing
from web.queries import lists as list_queries
from web.queries import members as member_queries
from web.refusals import said
from web.roles import Permission

bp = Blueprint("tags", __name__)


@bp.post("/members/<int:member_id>/tags")
@require(Permission.EDIT)
def of_member(member_id: int) -> Response:
    """Put a tag on a member, or take one off."""
    member = member_queries.get(reading(), member_id)
    if member is None or member.erased_at is not None:
        abort(404)
    change = tags.remove_one if request.form.get("op") == "remove" else tags.add_one
    try:
        with writing() as session:
            change(session, member_id, request.form.get("tag", ""), actor(), context.now())
    except InvalidInput as error:
        flash(said(error), "error")
    return redirect(url_for("members.page", member_id=member_id), 303)


@bp.post("/segments/<name>/tags")
@require(Permission.EDIT)
def of_segment(name: str) -> Response:
    """Tag everybody who is in a segment as of the newest refresh."""
    rule = saved.by_name(reading(), name).rule
    evaluated = evaluate()
    back = redirect(url_for("segments.page", name=name), 303)
    return _tag_all("segment", name, lambda: evaluated.members(rule).column("member_id").to_pylist(), back)


@bp.post("/segments/lists/<name>/tags")
@require(Permission.EDIT)
def of_list(name: str) -> Response:
    """Tag everybody on a list."""
    list_id, database = lists.by_name(reading(), name).id, context.console().database

    def members() -> Sequence[int]:
        with database.read() as session:
            return list_queries.member_ids(session, list_id)

    return _tag_all("list", name, members, redirect(url_for("lists.page", name=name), 303))


def _tag_all(kind: str, name: str, members: Callable[[], Sequence[int]], back: Response) -> Response:
    """Start the work, where what was typed confirms it."""
    if request.form.get("confirm", "").strip() != name:
        flash(gettext("Not done: the name that was typed is another one."), "error")
        return back
    op = "remove" if request.form.get("op") == "remove" else "add"
    tag = tags.check(request.form.get("tag", ""))
    console, by, now = context.console(), actor(), context.now()

    def action(progress: work.Progress) -> int:
        ids, changed = sorted(members()), 0
        change = tags.remove if op == "remove" else tags.add
        for start in range(0, len(ids), tags.BATCH):
            batch = ids[start : start + tags.BATCH]
            with console.database.write() as session:
                changed += change(session, batch, tag, now)
            progress(start + len(batch), len(ids))
        with console.database.write() as session:
            detail = {"tag": tag, "members": len(ids), "changed": changed}
            audit.record(session, by, "untag" if op == "remove" else "tag", kind, name, now, detail)
        return changed

    context.close_reading()
    label = (
        gettext("Take “%(tag)s” off %(name)s", tag=tag, name=name)
        if op == "remove"
        else gettext("Put “%(tag)s” on %(name)s", tag=tag, name=name)
    )
    work.start(console.database, "tags", label, action, console.clock)
    flash(
        gettext("Under way; the progress is in the top bar. Rules see the tag at the next refresh."),
        "success",
    )
    return back
