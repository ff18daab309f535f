"""Templates and their versions: saved only when they render, chosen by the member's language.

A version is never changed once written: a message keeps the version it was queued with, and a
new save makes the next version for messages to come.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from channels import snippets
from channels.consent import PURPOSES
from channels.languages import choose_language as choose_language
from channels.models import Template, TemplateContent
from channels.render import Content, Job, MemberView, WechatContent, compile_content
from core.contacts import CHANNELS
from core.errors import InvalidInput, NotFound
from core.settings import Settings

MAX_LANGUAGES = 20
SAMPLE_CONTEXT: Mapping[str, Any] = {
    "coupon": {
        "code": "SAMPLE-2345-6789",
        "title": "¥20 off",
        "amount": 2000,
        "valid_until": "2030-01-31T15:59:59+00:00",
    },
    "points": {
        "amount": 200,
        "balance": 1250,
        "expires_at": "2030-01-31T15:59:59+00:00",
        "expiring": 300,
    },
    "campaign": {"name": "sample", "title": "Sample"},
    "data": None,
    "recommendations": [
        {
            "sku": f"SAMPLE-{number}",
            "name": f"Sample product {number}",
            "category": "Samples",
            "price": 1990 * number,
            "url": "https://shop.example/p",
            "image_url": "https://shop.example/p.jpg",
            "reason": "goes_with",
        }
        for number in range(1, 11)
    ],
}


class _AnyAttribute(dict[str, Any]):
    """Attributes differ per member: for the check, any name has a value."""

    def __missing__(self, key: str) -> str:
        return f"[{key}]"


@dataclass(frozen=True)
class Preview:
    """A template filled in for the console: ``fields`` as the channel shows them."""

    template_id: int
    version: int
    language: str
    channel: str
    fields: Mapping[str, Any]


def sample_member(language: str) -> MemberView:
    name = "王小明" if language.startswith("zh") else "Alex Sample"
    return MemberView(
        id=0,
        external_id="sample",
        name=name,
        city="上海" if language.startswith("zh") else "Shanghai",
        country="CN",
        locale=language,
        attributes=_AnyAttribute(),
    )


def save(
    session: Session,
    settings: Settings,
    *,
    name: str,
    channel: str,
    purpose: str,
    contents: Mapping[str, Mapping[str, Any]],
    by: str,
    now: datetime,
) -> int:
    """Check and keep a template as its next version; answers that version's number.

    ``contents`` maps languages (``zh_CN``, ``en``) to the channel's fields (``TemplateContent``); snippets
    that they name are put in. Raises InvalidInput whose ``field`` is a path such as ``zh_CN.html``.
    """
    whole = inlined(session, settings, contents)
    check(
        settings,
        name=name,
        channel=channel,
        purpose=purpose,
        contents={language: one.fields for language, one in whole.items()},
        now=now,
    )
    known = session.scalar(sa.select(Template).where(Template.name == name).with_for_update())
    if known is None:
        known = Template(name=name, channel=channel, purpose=purpose, version=0, updated_at=now)
        session.add(known)
    elif (known.channel, known.purpose) != (channel, purpose):
        raise InvalidInput(
            f"“{name}” is a {known.purpose} template for {known.channel}; save this one under another name.",
            "name",
        )
    known.version, known.updated_at, known.archived_at = known.version + 1, now, None
    session.flush()
    session.add_all(
        TemplateContent(
            template_id=known.id,
            version=known.version,
            language=language,
            fields=dict(one.fields),
            written=dict(contents[language]) if one.versions else None,
            snippets=dict(one.versions) if one.versions else None,
            changed_by=by,
            changed_at=now,
        )
        for language, one in whole.items()
    )
    session.flush()
    return known.version


def inlined(
    session: Session, settings: Settings, contents: Mapping[str, Mapping[str, Any]]
) -> dict[str, snippets.Inlined]:
    """Each language's fields with the snippets as they are now. Raises InvalidInput for an unknown one."""
    named = any(snippets.named_in(fields) for fields in contents.values())
    known = snippets.load(session) if named else {}
    return {
        language: snippets.inline(settings, language, fields, known) for language, fields in contents.items()
    }


def check(
    settings: Settings,
    *,
    name: str,
    channel: str,
    purpose: str,
    contents: Mapping[str, Mapping[str, Any]],
    now: datetime,
) -> None:
    """What :func:`save` refuses, without saving: every language is compiled and filled in for a sample."""
    if not name.strip() or len(name) > 80:
        raise InvalidInput("A template needs a name of at most 80 characters.", "name")
    if channel not in CHANNELS:
        raise InvalidInput(f"“{channel}” is not a channel; use one of {', '.join(CHANNELS)}.", "channel")
    if purpose not in PURPOSES:
        raise InvalidInput(f"“{purpose}” is not a purpose; use one of {', '.join(PURPOSES)}.", "purpose")
    if not contents or len(contents) > MAX_LANGUAGES:
        raise InvalidInput(f"A template needs 1 to {MAX_LANGUAGES} languages.", "contents")
    for language, fields in contents.items():
        if not language or len(language) > 20:
            raise InvalidInput(f"“{language}” is not a language; write it like zh_CN or en.", language)
        content = compile_content(channel, purpose, language, fields)
        job = sample_job(settings, channel, purpose, language, now)
        content.payload(settings, job)
        if isinstance(content, WechatContent):
            content.check(settings, job)


def sample_context(now: datetime, context: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a campaign would give, made up; ``context`` overrides it."""
    end = (now + timedelta(days=14)).isoformat()
    coupon = {**SAMPLE_CONTEXT["coupon"], "valid_until": end}
    points = {**SAMPLE_CONTEXT["points"], "expires_at": end}
    return {**SAMPLE_CONTEXT, "coupon": coupon, "points": points, **(context or {})}


def sample_job(
    settings: Settings,
    channel: str,
    purpose: str,
    language: str,
    now: datetime,
    context: Mapping[str, Any] | None = None,
    *,
    member: MemberView | None = None,
    address: str = "",
) -> Job:
    """A message to a made-up member, or to ``member`` with a made-up coupon and points."""
    return Job(
        message_id=0,
        purpose=purpose,
        member=member or sample_member(language),
        address=address or ("sample@example.com" if channel == "email" else "+8613800138000"),
        context=sample_context(now, context),
        zone=settings.zone,
        now=now,
        tracked=False,
    )


def load_contents(
    session: Session, wanted: Iterable[tuple[int, int]]
) -> dict[tuple[int, int], dict[str, Content]]:
    """The compiled languages of these (template id, version) pairs, by one query."""
    pairs = sorted(set(wanted))
    if not pairs:
        return {}
    rows = session.execute(
        sa.select(
            TemplateContent.template_id,
            TemplateContent.version,
            TemplateContent.language,
            TemplateContent.fields,
            Template.channel,
            Template.purpose,
        )
        .join(Template, Template.id == TemplateContent.template_id)
        .where(sa.tuple_(TemplateContent.template_id, TemplateContent.version).in_(pairs))
    ).all()
    found: dict[tuple[int, int], dict[str, Content]] = {pair: {} for pair in pairs}
    for template_id, version, language, fields, channel, purpose in rows:
        found[template_id, version][language] = compile_content(channel, purpose, language, fields)
    return found


def get(session: Session, name: str) -> Template:
    """The template of that name. Raises NotFound."""
    known = session.scalar(sa.select(Template).where(Template.name == name))
    if known is None:
        raise NotFound(f"There is no template “{name}”.")
    return known


def contents_of(session: Session, template_id: int, version: int | None = None) -> dict[str, dict[str, Any]]:
    """The fields of each language of a version (the current one without ``version``)."""
    known = session.get(Template, template_id)
    if known is None:
        raise NotFound(f"There is no template {template_id}.")
    rows = session.execute(
        sa.select(TemplateContent.language, TemplateContent.fields).where(
            TemplateContent.template_id == template_id, TemplateContent.version == (version or known.version)
        )
    )
    return {row.language: row.fields for row in rows}


def written_of(session: Session, template_id: int, version: int | None = None) -> dict[str, dict[str, Any]]:
    """The fields of each language as they were typed, with snippets by their names."""
    known = session.get(Template, template_id)
    if known is None:
        raise NotFound(f"There is no template {template_id}.")
    rows = session.scalars(
        sa.select(TemplateContent)
        .where(
            TemplateContent.template_id == template_id, TemplateContent.version == (version or known.version)
        )
        .order_by(TemplateContent.language)
    )
    return {row.language: row.written or row.fields for row in rows}


def restore(
    session: Session, settings: Settings, template_id: int, version: int, by: str, now: datetime
) -> int:
    """Save an older version as the next one, with its snippets as they are now; the new number.

    Raises NotFound, and InvalidInput where what it needs is not there any more.
    """
    contents = written_of(session, template_id, version)
    if not contents:
        raise NotFound(f"The template has no version {version}.")
    known = session.get_one(Template, template_id)
    return save(
        session,
        settings,
        name=known.name,
        channel=known.channel,
        purpose=known.purpose,
        contents=contents,
        by=by,
        now=now,
    )


def archive(session: Session, template_id: int, now: datetime) -> None:
    """Take a template out of the lists; messages queued with it are still sent."""
    known = session.get(Template, template_id)
    if known is None:
        raise NotFound(f"There is no template {template_id}.")
    known.archived_at = now


def preview(
    session: Session,
    settings: Settings,
    template_id: int,
    language: str,
    context: Mapping[str, Any] | None = None,
    *,
    member: MemberView | None = None,
    version: int | None = None,
    now: datetime,
) -> Preview:
    """A template as a member would see it; ``context`` overrides the sample coupon and points."""
    known = session.get(Template, template_id)
    if known is None:
        raise NotFound(f"There is no template {template_id}.")
    pair = (template_id, version or known.version)
    contents = load_contents(session, [pair])[pair]
    if not contents:
        raise NotFound(f"The template “{known.name}” has no version {pair[1]}.")
    chosen = choose_language(contents, language, settings)
    job = sample_job(settings, known.channel, known.purpose, chosen, now, context, member=member)
    return Preview(template_id, pair[1], chosen, known.channel, contents[chosen].preview(settings, job))
