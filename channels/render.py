"""Templates made ready once per version and language, then filled in for one member after another.

Pure but for the keys that sign links: sources and values in, a payload out. What a template
costs (parsing, rewriting links, encoding its constant text) is paid by :func:`compile_content`;
filling in runs Jinja's compiled code, whose values come out already encoded.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cached_property, lru_cache, partial
from types import MappingProxyType
from typing import Any
from zoneinfo import ZoneInfo

from jinja2 import Template, nodes

from channels import attachments, jinja, markup, mime, rewrite, tracking, verp
from channels.transports.base import EmailPayload, SmsPayload, WechatPayload
from core.contacts import EMAIL, SMS, WECHAT
from core.errors import InvalidInput
from core.settings import Settings

log = logging.getLogger(__name__)

_PLAIN = jinja.Environment(html=False)
_HTML = jinja.Environment(html=True)
_PLAIN_ENCODED = jinja.Environment(html=False, finalize=mime.text_value)
_HTML_ENCODED = jinja.Environment(html=True, finalize=mime.html_value)
_HTML_SIMPLE = jinja.Environment(html=False, finalize=mime.html_value)
"""The finalizer escapes; Jinja's own escaping is only needed where a template itself makes markup."""
_MAKES_MARKUP = frozenset({"e", "escape", "join", "striptags"})

MAX_RECOMMENDED = 10
"""Products that a message carries for its member."""
BOUNDARY = "=_huiliu_part"
"""Cannot occur in a quoted-printable body: there, ``=`` is only followed by hex digits or a line end."""

FIELDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        EMAIL: ("subject", "html", "text", "preheader", "mjml", "attachments"),
        SMS: ("text", "provider_template", "params"),
        WECHAT: ("provider_template", "url", "data"),
    }
)
REQUIRED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {EMAIL: ("subject", "html"), SMS: ("text", "provider_template"), WECHAT: ("provider_template", "data")}
)


@dataclass(frozen=True, slots=True)
class MemberView:
    """What a template may know of a member: no contact detail."""

    id: int
    external_id: str
    name: str | None = None
    gender: str | None = None
    birthday: date | None = None
    city: str | None = None
    province: str | None = None
    country: str | None = None
    locale: str | None = None
    timezone: str | None = None
    tags: list[str] = field(default_factory=list)
    attributes: Mapping[str, Any] = field(default_factory=dict)


jinja.plain(MemberView, MemberView.__slots__)


@dataclass(frozen=True, slots=True)
class Job:
    """One message to fill in."""

    message_id: int
    purpose: str
    member: MemberView
    address: str
    context: Mapping[str, Any]
    zone: ZoneInfo
    now: datetime


@dataclass(frozen=True)
class Source:
    """A checked template: its tree as a reader sees it and, for e-mail parts, encoded for the wire."""

    field: str
    plain: Template
    encoded: Template | None
    names: frozenset[str]
    links: tuple[str, ...] = ()
    """Constant targets of tracked links; the encoded tree reads their signed form as ``_link0``, …"""
    bounded: bool = False
    """Without loops the result cannot outgrow its limit, so that it is not counted while it is made."""

    def run(self, variables: Mapping[str, Any]) -> str:
        return jinja.run(self.plain, variables, self.field)

    def run_encoded(self, variables: dict[str, Any]) -> str:
        assert self.encoded is not None
        return self._run(self.encoded, variables)

    def run_plain(self, variables: dict[str, Any]) -> str:
        """:meth:`run`, as fast as a message a hundred microseconds needs it."""
        return self._run(self.plain, variables)

    def _run(self, template: Template, variables: dict[str, Any]) -> str:
        if self.bounded:
            context = template.environment.context_class(
                template.environment, variables, template.name, template.blocks
            )
            try:
                return "".join(template.root_render_func(context))
            except Exception:
                log.debug("%s is run again for a message with the line", self.field)
        return jinja.run(template, variables, self.field)


def source_of(
    text: str, field_path: str, *, html: bool = False, encode: bool = False, prefix: str = ""
) -> Source:
    """Check and compile one template text. Raises InvalidInput naming ``field_path`` and the line."""
    environment = _HTML if html else _PLAIN
    tree = jinja.parse(environment, text, field_path)
    names = frozenset(jinja.names_used(tree))
    plain = environment.from_string(tree)
    bounded = tree.find(nodes.For) is None
    if not encode:
        return Source(field_path, plain, None, names, (), bounded)
    environment = _PLAIN_ENCODED
    if html:
        marked = any(found.name in _MAKES_MARKUP for found in tree.find_all(nodes.Filter))
        environment = _HTML_ENCODED if marked else _HTML_SIMPLE
    tree = jinja.parse(environment, text, field_path)
    for data in tree.find_all(nodes.TemplateData):
        data.data = mime.piece(data.data)
    links = _constant_links(tree, prefix)
    return Source(field_path, plain, environment.from_string(tree), names, links, bounded)


_READY = frozenset({"unsubscribe_url", "preferences_url", "_open_url"})
"""Addresses that are encoded once a message, wherever they stand by themselves."""


def _constant_links(tree: nodes.Template, prefix: str) -> tuple[str, ...]:
    """Replace ``_track("…")`` and bare addresses by names of ready values; the targets in order."""
    links: list[str] = []
    for output in list(tree.find_all(nodes.Output)):
        for place, node in enumerate(output.nodes):
            if isinstance(node, nodes.Name) and node.name in _READY:
                output.nodes[place] = nodes.Name(f"_{prefix}{node.name}", "load", lineno=node.lineno)
            elif _is_constant_link(node):
                assert isinstance(node, nodes.Call)
                target = node.args[0]
                assert isinstance(target, nodes.Const)
                if target.value not in links:
                    links.append(target.value)
                name = f"_{prefix}link{links.index(target.value)}"
                output.nodes[place] = nodes.Name(name, "load", lineno=node.lineno)
    return tuple(links)


def _is_constant_link(node: nodes.Node) -> bool:
    return (
        isinstance(node, nodes.Call)
        and isinstance(node.node, nodes.Name)
        and node.node.name == "_track"
        and len(node.args) == 1
        and isinstance(node.args[0], nodes.Const)
        and isinstance(node.args[0].value, str)
        and not node.kwargs
    )


def variables_for(settings: Settings, job: Job, language: str, names: frozenset[str]) -> dict[str, Any]:
    """The values a template sees; links are signed only where ``names`` asks for them."""
    track = partial(tracking.click_url, settings.base_url, job.message_id)
    found: dict[str, Any] = {
        "coupon": None,
        "points": None,
        "campaign": None,
        "data": None,
        **job.context,
        "member": job.member,
        "shop": {"name": settings.shop_name, "url": settings.shop_url or settings.base_url},
        "track": track,
        "recommend": partial(_recommend, job.context.get("recommendations") or ()),
        "_track": track,
        "_language": language,
        "_currency": settings.shop_currency,
        "_zone": job.zone,
        "range": jinja.bounded_range,
    }
    if "unsubscribe_url" in names:
        found["unsubscribe_url"] = tracking.unsubscribe_url(settings.base_url, job.message_id)
    if "preferences_url" in names:
        found["preferences_url"] = tracking.preferences_url(settings.base_url, job.message_id)
    if "_open_url" in names:
        found["_open_url"] = tracking.open_url(settings.base_url, job.message_id)
    return found


def _recommend(products: Sequence[Mapping[str, Any]], n: int = 3) -> list[Mapping[str, Any]]:
    """The first ``n`` products that the message has for its member; none where nothing is known."""
    if not isinstance(n, int) or not 1 <= n <= MAX_RECOMMENDED:
        raise InvalidInput(f"recommend(n) takes a number from 1 to {MAX_RECOMMENDED}.")
    return list(products[:n])


@dataclass(frozen=True)
class EmailContent:
    """An e-mail template of one language: subject, HTML and text, and its constant header lines."""

    language: str
    subject: Source
    html: Source
    text: Source
    files: attachments.Files

    @cached_property
    def names(self) -> frozenset[str]:
        return self.subject.names | self.html.names | self.text.names

    def preview(self, settings: Settings, job: Job) -> dict[str, Any]:
        values = variables_for(settings, job, self.language, self.names)
        return {
            "subject": self.subject.run(values),
            "html": self.html.run(values),
            "text": self.text.run(values),
        }

    def payload(self, settings: Settings, job: Job) -> EmailPayload:
        """The whole message. Raises InvalidInput for what the template or a header value does wrong."""
        values = variables_for(settings, job, self.language, self.names)
        subject = mime.header_text(self.subject.run_plain(values).strip(), "Subject")
        self._make_ready(settings, job, values)
        unsubscribe = ""
        if job.purpose == "marketing":
            url = values.get("unsubscribe_url") or tracking.unsubscribe_url(settings.base_url, job.message_id)
            unsubscribe = _list_headers(url, settings.bounce_domain, job.message_id)
        # The HTML first: what both parts do wrong is said of the one that the marketer wrote.
        html = self.html.run_encoded(values)
        return EmailPayload(
            (
                f"From: {_sender(settings.shop_name, settings.mail_from)}\r\n"
                f"To: {mime.address_header(job.address)}\r\n"
                f"Subject: {subject}\r\n"
                f"Date: {mime.date_header(job.now)}\r\n"
                f"Message-ID: {message_id_header(settings, job.message_id)}\r\n"
                f"{unsubscribe}MIME-Version: 1.0\r\n{self.files.before}{_HEAD}"
                f"{self.text.run_encoded(values)}{_BETWEEN}{html}{_TAIL}"
            ).encode(),
            self.files.after,
        )

    def _make_ready(self, settings: Settings, job: Job, values: dict[str, Any]) -> None:
        """Signed addresses in the form that the wire takes, for both parts."""
        for prefix, source, ready in (
            ("h", self.html, mime.html_ready),
            ("t", self.text, mime.text_ready),
        ):
            for name in _READY & source.names:
                values[f"_{prefix}{name}"] = ready(values[name])
            for count, url in enumerate(source.links):
                found = tracking.click_url(settings.base_url, job.message_id, url)
                values[f"_{prefix}link{count}"] = ready(found)


_PART = "Content-Type: {}; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
_HEAD = (
    f'Content-Type: multipart/alternative; boundary="{BOUNDARY}"\r\n\r\n'
    f"--{BOUNDARY}\r\n{_PART.format('text/plain')}"
)
_BETWEEN = f"\r\n--{BOUNDARY}\r\n{_PART.format('text/html')}"
_TAIL = f"\r\n--{BOUNDARY}--\r\n"


def _list_headers(url: str, bounce_domain: str, message_id: int) -> str:
    """RFC 2369 and RFC 8058: one HTTPS address for one click; where we read mail, an address as well."""
    mail = (
        f", <mailto:{verp.address(message_id, bounce_domain)}?subject=unsubscribe>" if bounce_domain else ""
    )
    return f"List-Unsubscribe: <{url}>{mail}\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"


@lru_cache(maxsize=16)
def _sender(name: str, address: str) -> str:
    shown = mime.header_text(name, "From")
    if shown == name:
        escaped = name.replace("\\", "\\\\").replace('"', '\\"')
        shown = f'"{escaped}"'
    return f"{shown} <{mime.address_header(address)}>"


def message_id_header(settings: Settings, message_id: int) -> str:
    """The same Message-ID for a message at every attempt."""
    domain = settings.mail_from.rpartition("@")[2] or "localhost"
    return f"<{client_id(message_id)}@{domain}>"


def client_id(message_id: int) -> str:
    """A message's name towards providers: constant, at most 32 characters, and not guessable."""
    from core import crypto

    return f"{message_id}.{crypto.keyring().blind_index('message', str(message_id))[:12]}"


@dataclass(frozen=True)
class SmsContent:
    """An SMS template: the provider's template code with its parameters, and the text they make."""

    language: str
    text: Source
    template_code: str
    params: Mapping[str, Source]

    @cached_property
    def names(self) -> frozenset[str]:
        return self.text.names.union(*(source.names for source in self.params.values()))

    def preview(self, settings: Settings, job: Job) -> dict[str, Any]:
        found = self.payload(settings, job)
        return {"text": found.text, "params": found.params, "provider_template": found.template_code}

    def payload(self, settings: Settings, job: Job) -> SmsPayload:
        values = variables_for(settings, job, self.language, self.names)
        params = {name: source.run(values).strip() for name, source in self.params.items()}
        return SmsPayload(self.template_code, params, self.text.run(values).strip())


@dataclass(frozen=True)
class WechatContent:
    """A WeChat template message: the template's id, its data, and the page it opens (tracked)."""

    language: str
    template_id: str
    url: Source | None
    data: Mapping[str, Source]

    @cached_property
    def names(self) -> frozenset[str]:
        own = self.url.names if self.url else frozenset()
        return own.union(*(source.names for source in self.data.values()))

    def preview(self, settings: Settings, job: Job) -> dict[str, Any]:
        found = self.payload(settings, job)
        return {"data": found.data, "url": found.url, "provider_template": found.template_id}

    def payload(self, settings: Settings, job: Job) -> WechatPayload:
        values = variables_for(settings, job, self.language, self.names)
        url = self.url.run(values).strip() if self.url else ""
        if url and not url.startswith(f"{settings.base_url}/"):
            url = tracking.click_url(settings.base_url, job.message_id, url)
        return WechatPayload(self.template_id, url, {k: s.run(values).strip() for k, s in self.data.items()})


Content = EmailContent | SmsContent | WechatContent


def compile_content(channel: str, purpose: str, language: str, fields: Mapping[str, Any]) -> Content:
    """Check a language's fields and make them ready. Raises InvalidInput with the field's path."""
    if channel not in FIELDS:
        raise InvalidInput(f"“{channel}” is not a channel; use one of {', '.join(FIELDS)}.", "channel")
    for name in REQUIRED[channel]:
        if not fields.get(name) and not (name == "html" and fields.get("mjml")):
            raise InvalidInput(f"{language}.{name} is missing.", f"{language}.{name}")
    for name in fields:
        if name not in FIELDS[channel]:
            raise InvalidInput(
                f"{language}.{name} is no field of {channel}; there are {', '.join(FIELDS[channel])}.",
                f"{language}.{name}",
            )
    if channel == EMAIL:
        return _compile_email(purpose, language, fields)
    if channel == SMS:
        return SmsContent(
            language,
            source_of(str(fields["text"]), f"{language}.text"),
            str(fields["provider_template"]),
            _sources(fields.get("params") or {}, f"{language}.params"),
        )
    url = fields.get("url")
    return WechatContent(
        language,
        str(fields["provider_template"]),
        source_of(str(url), f"{language}.url") if url else None,
        _sources(fields["data"], f"{language}.data"),
    )


def _sources(texts: Any, path: str) -> dict[str, Source]:
    if not isinstance(texts, Mapping):
        raise InvalidInput(f"{path} must be a list of names with their texts.", path)
    return {str(name): source_of(str(text), f"{path}.{name}") for name, text in texts.items()}


def _compile_email(purpose: str, language: str, fields: Mapping[str, Any]) -> EmailContent:
    written = "mjml" if fields.get("mjml") else "html"
    path, html = f"{language}.{written}", str(fields[written])
    # The marketer's own text is checked first, so that lines and messages are about that.
    own = source_of(html, path, html=True)
    if purpose == "marketing" and "unsubscribe_url" not in own.names:
        raise InvalidInput(
            f"{path} has no {{{{ unsubscribe_url }}}}: marketing e-mail needs a link to leave, "
            'like <a href="{{ unsubscribe_url }}">Unsubscribe</a>.',
            path,
        )
    files = attachments.compiled(fields.get("attachments"), f"{language}.attachments")
    html = markup.html_of_mjml(html, path) if written == "mjml" else markup.inlined(html, path)
    text = str(fields.get("text") or rewrite.text_of(html))
    prepared = rewrite.tracked(attachments.referred(html, fields.get("attachments") or ()))
    if preheader := str(fields.get("preheader") or ""):
        source_of(preheader, f"{language}.preheader", html=True)
        prepared = rewrite.with_preheader(prepared, preheader)
    prepared = rewrite.with_pixel(prepared)
    return EmailContent(
        language,
        source_of(str(fields["subject"]), f"{language}.subject"),
        source_of(prepared + "\n", path, html=True, encode=True, prefix="h"),
        source_of(text + "\n", f"{language}.text", encode=True, prefix="t"),
        files,
    )
