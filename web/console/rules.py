"""Rules while they are written: counted, compared, tried on a member, and helped with the data's values.

Nothing here writes. Every answer is as of the newest refresh, as the segment pages are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any

from flask import Blueprint, jsonify, render_template, request
from flask_babel import gettext
from werkzeug.wrappers import Response

from core import members as core_members
from core.errors import HuiliuError, InvalidInput
from segments import segments as saved
from segments.compile import Lookup
from segments.evaluate import Count, Evaluator, Overlap, evaluator
from segments.explain import Explained, Explanation
from segments.suggest import MAX_LIMIT
from segments.words import in_words
from web import builder, context, i18n
from web.context import reading, require
from web.forms import Form
from web.queries import lists as list_queries
from web.queries import members as member_queries
from web.queries import segments as queries
from web.queries import suggestions
from web.refusals import said
from web.roles import Permission
from web.words import segment_titles, word

bp = Blueprint("rules", __name__, url_prefix="/segments")
SAMPLE = 5
RULE_LIMIT = 100_000
MOST_FOUND = 6
"""Members whom a search for one may answer before it asks for more letters."""
SUGGESTED = 12


@dataclass(frozen=True)
class Problem:
    """Why a rule cannot be evaluated, and where in it."""

    text: str
    """With its place, for a reader of the JSON."""
    path: str
    message: str
    """Without it, for a reader who sees it at its place."""


def as_of() -> date:
    """The newest refresh's date; today where there is none."""
    latest = queries.latest(reading())
    if latest is not None:
        return latest.as_of
    return context.now().astimezone(context.console().settings.zone).date()


def evaluate() -> Evaluator:
    """An evaluator as of the newest refresh."""
    console = context.console()
    return evaluator(reading(), console.engine(), console.settings, as_of())


def rule_in_words(rule: Any) -> str:
    """A rule as a sentence; a rule that is not valid any more as its reason."""
    try:
        return in_words(rule, i18n.content_locale(), segment_titles())
    except HuiliuError as error:
        return said(error)


def count_of(rule: Any, sample: int) -> tuple[Count | None, Problem | None]:
    """(Count, None), or (None, what is wrong with the rule)."""
    try:
        return evaluate().count(rule, sample), None
    except InvalidInput as error:
        return None, problem_of(rule, error)


def problem_of(rule: Any, error: InvalidInput) -> Problem:
    session = reading()
    segments = [name for name, _ in queries.names(session)]
    known = [name for name, _ in list_queries.names(session)]
    path = builder.problem_at(rule, error, segments, known)
    return Problem(said(error), path, builder.message_of(error))


def _asked(form: Form) -> tuple[Any, Problem | None]:
    """The rule of the request: of a saved segment, or as JSON out of the editor."""
    name = request.form.get("segment")
    if name:
        return saved.by_name(reading(), name).rule, None
    if len(request.form.get("rule", "")) > RULE_LIMIT:
        text = gettext("The rule is too long.")
        return None, Problem(text, "json", text)
    rule = form.json("rule")
    if rule is None:
        text = form.errors.get("rule") or gettext("The rule is empty.")
        return None, Problem(text, "json", text)
    return rule, None


@bp.post("/count")
@require(Permission.VIEW)
def count() -> str:
    """The live count beside the editor: evaluates a rule that is not saved; writes nothing."""
    rule, problem = _asked(Form(request.form))
    counted = None
    if problem is None:
        counted, problem = count_of(rule, SAMPLE)
    return render_template(
        "segments/count.html",
        counted=counted,
        problem=problem,
        words="" if problem else rule_in_words(rule),
        sample=member_queries.of_ids(reading(), counted.sample) if counted else [],
        as_of=as_of(),
    )


@bp.post("/overlap")
@require(Permission.VIEW)
def overlap() -> str:
    """How the rule and each segment overlap; the segment itself left out."""
    rule, problem = _asked(Form(request.form))
    own = request.form.get("segment") or request.form.get("own", "")
    titles = {name: title for name, title in queries.names(reading()) if name != own}
    total, found = 0, list[Overlap]()
    if problem is None:
        try:
            total, found = evaluate().overlap(rule, list(titles))
        except InvalidInput as error:
            problem = problem_of(rule, error)
    found.sort(key=lambda one: (-one.both, one.name))
    return render_template(
        "segments/overlap.html", total=total, found=found, titles=titles, problem=problem, as_of=as_of()
    )


@bp.post("/check")
@require(Permission.VIEW)
def check() -> str:
    """Whether one member matches, and which conditions fail."""
    form = Form(request.form)
    rule, problem = _asked(form)
    text, chosen = form.text("member"), form.integer("member_id", high=2**62)
    people, member, told = [], None, None
    evaluated = evaluate()
    if problem is None and chosen is not None:
        member = member_queries.get(reading(), chosen)
    elif problem is None and text:
        people = core_members.search(reading(), text, MOST_FOUND + 1)
        member = people[0] if len(people) == 1 else None
    refusal = ""
    if member is not None:
        try:
            told = evaluated.explain(rule, member.id, i18n.content_locale(), segment_titles())
        except InvalidInput as error:
            problem = problem_of(rule, error)
        except HuiliuError as error:
            refusal = said(error)
    return render_template(
        "segments/check.html",
        text=text,
        people=people[:MOST_FOUND],
        more=len(people) > MOST_FOUND,
        member=member,
        told=told,
        failing=_failing(told),
        problem=problem,
        refusal=refusal,
        segment=request.form.get("segment", ""),
        value_of=partial(_value_of, rule, evaluated.lookup),
        as_of=as_of(),
    )


def _failing(told: Explanation | None) -> list[Explained]:
    return told.failing() if told else []


def _value_of(rule: Any, lookup: Lookup, one: Explained) -> str:
    """What a condition looked at, as a page shows it; nothing where the member has none."""
    *outer, path = one.path.split("/")
    if outer:
        rule = lookup(outer[-1].rpartition("segment(")[2].removesuffix(")"))
    node = builder.node_at(rule, path)
    field = node.get("field") if isinstance(node, Mapping) else None
    if isinstance(field, str) and field in builder.CHOICE_WORDS and one.value is not None:
        return word(builder.CHOICE_WORDS[field], str(one.value))
    return shown(one.value)


def shown(value: Any) -> str:
    """A value of the data as a page shows it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(gettext("yes") if value else gettext("no"))
    if isinstance(value, int | float):
        return i18n.number(value, 4)
    if isinstance(value, date):
        return i18n.day(value)
    text = str(value)
    try:
        listed = json.loads(text)  # tags lie as the text of a JSON list
    except ValueError:
        return text
    return ", ".join(map(str, listed)) if isinstance(listed, list) else text


@bp.get("/suggest")
@require(Permission.VIEW)
def suggest() -> Response:
    """Values, or names, that the data holds and that start with ``q``: {"values": [{value, number}]}.

    ``field`` alone: of members; with ``event``: of that event's property. ``names=attributes`` and
    ``names=properties`` answer the names of attributes, and of an event's properties.
    """
    wish = request.args.get("q", "")[:200]
    event, field = request.args.get("event") or None, request.args.get("field", "")
    limit = min(request.args.get("limit", SUGGESTED, type=int), MAX_LIMIT)
    engine = context.console().engine()
    found: list[Mapping[str, Any]]
    try:
        if request.args.get("names") == "attributes":
            found = suggestions.attributes(engine, wish, limit)
        elif request.args.get("names") == "properties":
            found = suggestions.properties(engine, event or "", wish, limit)
        else:
            values = evaluate().suggestions(field, event=event, prefix=wish, limit=limit)
            found = [{"value": one.value, "number": one.number} for one in values]
    except InvalidInput:  # a name that is half typed has no values
        found = []
    return jsonify(values=[{**one, "shown": i18n.short(one["number"])} for one in found])
