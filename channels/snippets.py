"""Snippets: named pieces of text that templates take in when they are saved.

A template says ``{{ snippet("footer") }}``; saving puts the snippet's text of the fitting language in
its place, so that a version never changes. What was typed is kept beside it, with the versions of the
snippets: when one changes, :func:`outdated` names the templates that may be saved anew. Snippets do not
contain snippets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from channels import rewrite
from channels.languages import choose_language
from channels.models import Snippet, SnippetContent, Template, TemplateContent
from channels.source import source_of
from core.errors import InvalidInput, NotFound
from core.settings import Settings

MAX_CHARACTERS = 50_000
MAX_SNIPPETS = 500
_CALL = re.compile(r"\{\{-?\s*snippet\(\s*(?:\"([^\"]*)\"|'([^']*)')\s*\)\s*-?\}\}")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_MARKUP = frozenset({"html", "mjml"})
"""Fields that take a snippet's HTML; the others take its text."""


@dataclass(frozen=True)
class Piece:
    """One language of a snippet: its HTML, and its text for parts without HTML."""

    html: str
    text: str


@dataclass(frozen=True)
class Known:
    """A snippet as it is now."""

    id: int
    name: str
    version: int
    updated_at: datetime
    languages: Mapping[str, Piece]


@dataclass(frozen=True)
class Use:
    """A template whose current version has a snippet in it."""

    template_id: int
    template: str
    channel: str
    version: int
    """The snippet's version that the template has."""


@dataclass(frozen=True)
class Inlined:
    """Fields with the snippets' texts in them."""

    fields: Mapping[str, Any]
    versions: Mapping[str, int]
    """Of the snippets that were put in: {name: version}; empty where there is none."""


def load(session: Session, name: str | None = None) -> dict[str, Known]:
    """The snippets in use, by name; with ``name`` that one at most. One query."""
    query = (
        sa.select(Snippet, SnippetContent)
        .join(
            SnippetContent,
            sa.and_(SnippetContent.snippet_id == Snippet.id, SnippetContent.version == Snippet.version),
        )
        .where(Snippet.archived_at.is_(None))
        .order_by(Snippet.name, SnippetContent.language)
    )
    if name is not None:
        query = query.where(Snippet.name == name)
    found: dict[str, tuple[Snippet, dict[str, Piece]]] = {}
    for snippet, content in session.execute(query).all():
        found.setdefault(snippet.name, (snippet, {}))[1][content.language] = Piece(content.html, content.text)
    return {
        name: Known(one.id, name, one.version, one.updated_at, pieces)
        for name, (one, pieces) in found.items()
    }


def save(session: Session, *, name: str, pieces: Mapping[str, Piece], by: str, now: datetime) -> int:
    """Keep a snippet as its next version; answers that version's number.

    Templates that have it stay as they are until they are saved again. Raises InvalidInput whose
    ``field`` is ``name`` or a path such as ``en.html``.
    """
    _check(name, pieces)
    known = session.scalar(sa.select(Snippet).where(Snippet.name == name).with_for_update())
    if known is None:
        if (session.scalar(sa.select(sa.func.count()).select_from(Snippet)) or 0) >= MAX_SNIPPETS:
            raise InvalidInput(f"There are {MAX_SNIPPETS} snippets already; change one of them.", "name")
        known = Snippet(name=name, version=0, updated_at=now)
        session.add(known)
    known.version, known.updated_at, known.archived_at = known.version + 1, now, None
    session.flush()
    session.add_all(
        SnippetContent(
            snippet_id=known.id,
            version=known.version,
            language=language,
            html=piece.html,
            text=piece.text,
            changed_by=by,
            changed_at=now,
        )
        for language, piece in pieces.items()
    )
    session.flush()
    return known.version


def _check(name: str, pieces: Mapping[str, Piece]) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidInput("A snippet's name has small letters, digits, “-” and “_”, at most 40.", "name")
    if not pieces:
        raise InvalidInput("Write the snippet in one language at least.", "name")
    for language, piece in pieces.items():
        for field, text in (("html", piece.html), ("text", piece.text)):
            path = f"{language}.{field}"
            if len(text) > MAX_CHARACTERS:
                raise InvalidInput(
                    f"{path} has {len(text):,} characters; {MAX_CHARACTERS:,} is the most.", path
                )
            if _CALL.search(text):
                raise InvalidInput(f"{path}: a snippet cannot contain another snippet.", path)
            source_of(text, path, html=field == "html")


def archive(session: Session, name: str, now: datetime) -> None:
    """Take a snippet out of use; templates that have it keep its text. Raises NotFound."""
    known = session.scalar(sa.select(Snippet).where(Snippet.name == name))
    if known is None:
        raise NotFound(f"There is no snippet “{name}”.")
    known.archived_at = now


def named_in(fields: Mapping[str, Any]) -> set[str]:
    """The snippets that fields name."""
    return {match[1] or match[2] or "" for text in texts_of(fields) for match in _CALL.finditer(text)}


def texts_of(fields: Mapping[str, Any]) -> Iterable[str]:
    """Every text of a template's fields, those of its named places too."""
    for value in fields.values():
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            yield from (text for text in value.values() if isinstance(text, str))


def inline(
    settings: Settings, language: str, fields: Mapping[str, Any], known: Mapping[str, Known]
) -> Inlined:
    """Fields with each ``{{ snippet("…") }}`` replaced. Raises InvalidInput for one that is not there."""
    versions: dict[str, int] = {}

    def put_in(name: str, text: str) -> str:
        def replace(match: re.Match[str]) -> str:
            wanted = match[1] or match[2] or ""
            snippet = known.get(wanted)
            if snippet is None:
                raise InvalidInput(
                    f"{language}.{name}: there is no snippet “{wanted}”; make it under Channels → Snippets.",
                    f"{language}.{name}",
                )
            versions[wanted] = snippet.version
            piece = snippet.languages[choose_language(snippet.languages, language, settings)]
            if name in _MARKUP:
                return piece.html or piece.text
            return (piece.text or rewrite.text_of(piece.html)).strip()

        return _CALL.sub(replace, text)

    done: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, str):
            done[name] = put_in(name, value)
        elif isinstance(value, Mapping):
            done[name] = {
                key: put_in(name, text) if isinstance(text, str) else text for key, text in value.items()
            }
        else:
            done[name] = value
    return Inlined(done, versions)


def uses(session: Session, name: str | None = None) -> dict[str, list[Use]]:
    """Templates in use whose current version has snippets, by the snippet's name; one query."""
    rows: Sequence[Any] = session.execute(
        sa.select(Template.id, Template.name, Template.channel, TemplateContent.snippets)
        .join(
            TemplateContent,
            sa.and_(TemplateContent.template_id == Template.id, TemplateContent.version == Template.version),
        )
        .where(Template.archived_at.is_(None), TemplateContent.written.is_not(None))
        .order_by(Template.name)
    ).all()
    found: dict[str, dict[int, Use]] = {}
    for template_id, template, channel, versions in rows:
        for snippet, version in (versions or {}).items():
            if name is None or snippet == name:
                found.setdefault(snippet, {})[template_id] = Use(template_id, template, channel, version)
    return {snippet: list(by_template.values()) for snippet, by_template in found.items()}


def outdated(session: Session, name: str) -> list[Use]:
    """Templates whose current version has an older text of the snippet."""
    now = load(session, name).get(name)
    return [use for use in uses(session, name).get(name, []) if now is not None and use.version < now.version]
