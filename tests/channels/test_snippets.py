"""Snippets: put in when a template is saved, never changed in a version, found again when they change."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from channels import snippets, templates
from channels.models import TemplateContent
from channels.snippets import Piece
from core.db import Database
from core.errors import InvalidInput, NotFound
from core.settings import Settings
from tests.channels.seed import NOW

FOOTER = {
    "zh_CN": Piece('<p>回流 <a href="{{ unsubscribe_url }}">退订</a></p>', ""),
    "en": Piece('<p>Huiliu <a href="{{ unsubscribe_url }}">Leave</a></p>', "Huiliu"),
}


def save_footer(db: Database, pieces: dict[str, Piece] = FOOTER) -> int:
    with db.write() as session:
        return snippets.save(session, name="footer", pieces=pieces, by="ann", now=NOW)


def save_template(db: Database, settings: Settings, html: str = "<p>Hi</p>{{ snippet('footer') }}") -> int:
    contents = {"en": {"subject": "Hi", "html": html, "text": 'Hi {{ snippet("footer") }}'}}
    with db.write() as session:
        templates.save(
            session,
            settings,
            name="mail",
            channel="email",
            purpose="marketing",
            contents=contents,
            by="ann",
            now=NOW,
        )
        return templates.get(session, "mail").id


def test_a_snippet_is_put_in_when_the_template_is_saved(db: Database, settings: Settings) -> None:
    save_footer(db)
    number = save_template(db, settings)
    with db.read() as session:
        fields = templates.contents_of(session, number)["en"]
        assert fields["html"] == '<p>Hi</p><p>Huiliu <a href="{{ unsubscribe_url }}">Leave</a></p>'
        assert fields["text"] == "Hi Huiliu"
        assert templates.written_of(session, number)["en"]["html"] == "<p>Hi</p>{{ snippet('footer') }}"
        row = session.scalars(sa.select(TemplateContent)).one()
        assert row.snippets == {"footer": 1}


def test_a_changed_snippet_leaves_versions_alone_and_names_who_has_the_old_text(
    db: Database, settings: Settings
) -> None:
    save_footer(db)
    number = save_template(db, settings)
    with db.read() as session:
        assert snippets.outdated(session, "footer") == []
    assert save_footer(db, {"en": Piece('<a href="{{ unsubscribe_url }}">Bye</a>', "")}) == 2
    with db.read() as session:
        assert "Leave" in templates.contents_of(session, number)["en"]["html"]
        assert [(use.template, use.version) for use in snippets.outdated(session, "footer")] == [("mail", 1)]
    with db.write() as session:
        assert templates.restore(session, settings, number, 1, "bob", NOW + timedelta(days=1)) == 2
    with db.read() as session:
        assert "Bye" in templates.contents_of(session, number)["en"]["html"]
        assert "Leave" in templates.contents_of(session, number, 1)["en"]["html"]
        assert snippets.outdated(session, "footer") == []


def test_the_language_of_a_snippet_falls_back_as_a_template_does(db: Database, settings: Settings) -> None:
    save_footer(db)
    with db.read() as session:
        known = snippets.load(session)
    found = {
        language: snippets.inline(settings, language, {"html": '{{ snippet("footer") }}'}, known).fields[
            "html"
        ]
        for language in ("zh_TW", "fr", "en_GB")
    }
    assert "退订" in found["zh_TW"]
    assert "Leave" in found["fr"]
    assert "Leave" in found["en_GB"]


def test_text_fields_take_the_text_and_make_it_of_the_html_where_there_is_none(
    db: Database, settings: Settings
) -> None:
    save_footer(db)
    with db.read() as session:
        known = snippets.load(session)
    fields = {"text": 'A {{ snippet("footer") }}', "data": {"thing1": '{{snippet("footer")}}'}}
    found = snippets.inline(settings, "zh_CN", fields, known)
    assert found.fields["text"] == "A 回流 退订 ({{ unsubscribe_url }})"
    assert found.fields["data"]["thing1"] == "回流 退订 ({{ unsubscribe_url }})"
    assert found.versions == {"footer": 1}


def test_an_unknown_snippet_is_refused_beside_its_field(db: Database, settings: Settings) -> None:
    with pytest.raises(InvalidInput, match="no snippet “footer”") as refused:
        save_template(db, settings)
    assert refused.value.field == "en.html"


@pytest.mark.parametrize(
    ("name", "piece", "field"),
    [
        ("Foot er", Piece("x", ""), "name"),
        ("footer", Piece("{{ member.name }", ""), "en.html"),
        ("footer", Piece('{{ snippet("other") }}', ""), "en.html"),
        ("footer", Piece("", "{{ nobody.knows }}"), "en.text"),
        ("footer", Piece("x" * 50_001, ""), "en.html"),
    ],
)
def test_what_could_not_be_used_is_refused(db: Database, name: str, piece: Piece, field: str) -> None:
    with pytest.raises(InvalidInput) as refused, db.write() as session:
        snippets.save(session, name=name, pieces={"en": piece}, by="ann", now=NOW)
    assert refused.value.field == field
    with db.read() as session:
        assert snippets.load(session) == {}


def test_an_archived_snippet_is_gone_for_new_versions_only(db: Database, settings: Settings) -> None:
    save_footer(db)
    number = save_template(db, settings)
    with db.write() as session:
        snippets.archive(session, "footer", NOW)
    with db.read() as session:
        assert snippets.load(session) == {}
        assert "Leave" in templates.contents_of(session, number)["en"]["html"]
    with pytest.raises(NotFound), db.write() as session:
        snippets.archive(session, "header", NOW)
