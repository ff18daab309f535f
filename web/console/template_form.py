"""What the template editor's form holds: languages, their fields, and how they are read and shown again."""

from __future__ import annotations

import re
from typing import Any

from flask_babel import gettext

from channels import templates as stored
from channels.render import FIELDS as ALL_FIELDS
from web.forms import Form

LANGUAGES = ("zh_CN", "en")
"""The languages that a new template begins with; others are added in the editor."""
FIELDS = {
    "email": ("subject", "preheader", "html", "text"),
    "sms": ("text", "provider_template", "params"),
    "wechat": ("kind", "provider_template", "url", "data", "miniprogram", "text"),
    "webhook": ("title", "body", "url", "data"),
    "wecom": ("text", "link"),
}
PAIRS = ("params", "data", "miniprogram", "link")
BODY_LIMIT = 500_000
LANGUAGE = re.compile(r"[a-z]{2,3}(_[A-Za-z]{2,8})*")


def fields_of(channel: str, contents: dict[str, dict[str, Any]]) -> tuple[str, ...]:
    """The editor's fields of a channel: an e-mail written in MJML keeps MJML."""
    if channel == "email" and any(fields.get("mjml") for fields in contents.values()):
        return ("subject", "preheader", "mjml", "text")
    return FIELDS.get(channel, ALL_FIELDS[channel])


def template_form(template: Any, contents: dict[str, dict[str, Any]]) -> Form:
    data: dict[str, Any] = {"name": template.name, "channel": template.channel, "purpose": template.purpose}
    for language, fields in contents.items():
        for name, value in fields.items():
            data[f"{language}.{name}"] = _lines(value) if isinstance(value, dict) else value
    return Form(data)


def _lines(values: dict[str, Any]) -> str:
    return "\n".join(f"{name}: {text}" for name, text in values.items())


def languages_of(form: Form, kept: dict[str, dict[str, Any]]) -> list[str]:
    """The tabs: those that always are, those saved, those added in the editor."""
    added = [name for name in form.values("language") if LANGUAGE.fullmatch(name) and len(name) <= 20]
    return list(dict.fromkeys([*LANGUAGES, *kept, *added]))[: stored.MAX_LANGUAGES]


def contents_in(
    form: Form, channel: str, kept: dict[str, dict[str, Any]] | None = None
) -> dict[str, dict[str, Any]]:
    """The languages that were filled in; fields that the editor does not offer stay as they were."""
    known = kept or {}
    offered = set(fields_of(channel, known)) | ({"mjml"} if form.value("has_mjml") else set())
    contents: dict[str, dict[str, Any]] = {}
    sent = {key.partition(".")[0] for key in form.data}
    for language in languages_of(form, known):
        if language not in sent and language not in LANGUAGES and language in known:
            contents[language] = known[language]
            continue
        fields: dict[str, Any] = {}
        for name in ALL_FIELDS[channel]:
            path = f"{language}.{name}"
            if name not in offered:
                continue
            text = form.text(path, limit=BODY_LIMIT)
            if name in PAIRS:
                if pairs := _pairs(form, path, text):
                    fields[name] = pairs
            elif text:
                fields[name] = text
        untouched = {name: value for name, value in known.get(language, {}).items() if name not in offered}
        if fields:
            contents[language] = {**untouched, **fields}
    if not contents:
        form.error(f"{LANGUAGES[0]}.{ALL_FIELDS[channel][0]}", gettext("Fill in at least one language."))
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
