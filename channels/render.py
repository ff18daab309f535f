"""Templates made ready once per version and language, then filled in for one member after another.

Pure but for the keys that sign links: sources and values in, a payload out. What a template
costs (parsing, rewriting links, encoding its constant text) is paid by :func:`compile_content`;
filling in runs Jinja's compiled code, whose values come out already encoded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cached_property, lru_cache, partial
from types import MappingProxyType
from typing import Any
from zoneinfo import ZoneInfo

from channels import attachments, jinja, markup, mime, rewrite, tracking, utm, verp
from channels.sms.text import outgoing
from channels.source import READY, Source, source_of
from channels.transports.base import EmailPayload, SmsPayload, WebhookPayload, WechatPayload, WecomPayload
from channels.wechat import limits
from channels.wecom import limits as wecom_limits
from core.contacts import EMAIL, SMS, WEBHOOK, WECHAT, WECOM
from core.errors import InvalidInput
from core.settings import Settings

KINDS = ("template", "subscription", "service")
"""Of WeChat's messages; ``channels.transports.wechat`` sends them."""
SERVICE = KINDS[2]
MAX_RECOMMENDED = 10
"""Products that a message carries for its member."""
BOUNDARY = "=_huiliu_part"
"""Cannot occur in a quoted-printable body: there, ``=`` is only followed by hex digits or a line end."""

FIELDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        EMAIL: ("subject", "html", "text", "preheader", "mjml", "attachments"),
        SMS: ("text", "provider_template", "params"),
        WECHAT: ("kind", "provider_template", "url", "data", "miniprogram", "text"),
        WEBHOOK: ("title", "body", "url", "data"),
        WECOM: ("text", "link"),
    }
)
REQUIRED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        EMAIL: ("subject", "html"),
        SMS: ("text", "provider_template"),
        WECHAT: ("provider_template", "data"),
        WEBHOOK: ("title",),
        WECOM: ("text",),
    }
)
REQUIRED_OF_SERVICE = ("text",)
"""Of a WeChat customer-service message, which has no template at WeChat."""


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
    tracked: bool = True
    """False where it is only looked at: nothing in it counts the looker as a reader."""


def variables_for(settings: Settings, job: Job, language: str, names: frozenset[str]) -> dict[str, Any]:
    """The values a template sees; links are signed only where ``names`` asks for them."""
    track = partial(_link, settings, job)
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
    if "wallet_url" in names:
        # Whoever only looks at a message is not the member: the link that they see opens nothing.
        owner = job.member.id if job.tracked else 0
        found["wallet_url"] = tracking.wallet_url(settings.base_url, owner)
    if "_open_url" in names:
        found["_open_url"] = tracking.open_url(settings.base_url, job.message_id) if job.tracked else "data:,"
    if "_trap_url" in names:
        found["_trap_url"] = tracking.trap_url(settings.base_url, job.message_id) if job.tracked else "#"
    return found


def _link(settings: Settings, job: Job, url: str) -> str:
    """A tracked link, with the campaign's UTM parameters where it leads to the shop."""
    wanted = job.context.get("utm")
    if wanted:
        url = utm.tagged(url.strip(), wanted["params"], utm.hosts_of(settings.shop_url, wanted))
    return (
        tracking.click_url(settings.base_url, job.message_id, url) if job.tracked else tracking.plain_url(url)
    )


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
            for name in READY & source.names:
                values[f"_{prefix}{name}"] = ready(values[name])
            for count, url in enumerate(source.links):
                found = _link(settings, job, url)
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
        text = outgoing(settings, self.text.run(values).strip(), job.address, job.purpose)
        return SmsPayload(self.template_code, params, text)


@dataclass(frozen=True)
class WechatContent:
    """A WeChat message: the template's id and its data, or a text; and the page it opens (tracked)."""

    language: str
    template_id: str
    url: Source | None
    data: Mapping[str, Source]
    kind: str = KINDS[0]
    text: Source | None = None
    miniprogram: tuple[str, Source] | None = None

    @cached_property
    def names(self) -> frozenset[str]:
        path = self.miniprogram[1] if self.miniprogram else None
        own = [source.names for source in (self.url, self.text, path) if source is not None]
        return frozenset().union(*own, *(source.names for source in self.data.values()))

    def preview(self, settings: Settings, job: Job) -> dict[str, Any]:
        found = self.payload(settings, job)
        data = {"text": found.text} if found.kind == SERVICE else found.data
        return {
            "data": data,
            "url": found.url,
            "provider_template": found.template_id,
            "kind": found.kind,
            "text": found.text,
        }

    def payload(self, settings: Settings, job: Job) -> WechatPayload:
        values = variables_for(settings, job, self.language, self.names)
        program = None
        if self.miniprogram is not None:
            program = (self.miniprogram[0], self.miniprogram[1].run(values).strip())
        return WechatPayload(
            self.template_id,
            _tracked_url(settings, job, self.url.run(values)) if self.url else "",
            limits.fitted({name: source.run(values).strip() for name, source in self.data.items()}),
            self.kind,
            self.text.run(values).strip() if self.text else "",
            program,
        )

    def check(self, settings: Settings, job: Job) -> None:
        """Raises InvalidInput for what WeChat would refuse of a sample message."""
        values = variables_for(settings, job, self.language, self.names)
        data = {name: source.run(values).strip() for name, source in self.data.items()}
        limits.check(data, f"{self.language}.data")
        size = len(self.text.run(values).encode()) if self.text else 0
        if size > limits.MAX_SERVICE_BYTES:
            raise InvalidInput(
                f"{self.language}.text has {size:,} bytes; {limits.MAX_SERVICE_BYTES:,} is the most.",
                f"{self.language}.text",
            )


@dataclass(frozen=True)
class WebhookContent:
    """A message to the shop's own address: a title, a text, a page to open, and what else the app needs."""

    language: str
    title: Source
    body: Source | None
    url: Source | None
    data: Mapping[str, Source]

    @cached_property
    def names(self) -> frozenset[str]:
        own = [source.names for source in (self.title, self.body, self.url) if source is not None]
        return frozenset().union(*own, *(source.names for source in self.data.values()))

    def preview(self, settings: Settings, job: Job) -> dict[str, Any]:
        found = self.payload(settings, job)
        shown = {"title": found.title, "body": found.body, **found.data}
        return {"data": {name: text for name, text in shown.items() if text}, "url": found.url}

    def payload(self, settings: Settings, job: Job) -> WebhookPayload:
        values = variables_for(settings, job, self.language, self.names)
        return WebhookPayload(
            job.member.external_id,
            self.title.run(values).strip(),
            self.body.run(values).strip() if self.body else "",
            _tracked_url(settings, job, self.url.run(values)) if self.url else "",
            {name: source.run(values).strip() for name, source in self.data.items()},
        )


@dataclass(frozen=True)
class WecomContent:
    """A message from an employee to a customer: a text, and at most one page (tracked)."""

    language: str
    text: Source
    link: Mapping[str, Source]

    @cached_property
    def names(self) -> frozenset[str]:
        return self.text.names.union(*(source.names for source in self.link.values()))

    def preview(self, settings: Settings, job: Job) -> dict[str, Any]:
        found = self.payload(settings, job)
        title, url, desc, _ = found.link or ("", "", "", "")
        shown = {"text": found.text, "title": title, "desc": desc}
        return {"text": found.text, "url": url, "data": {name: text for name, text in shown.items() if text}}

    def payload(self, settings: Settings, job: Job) -> WecomPayload:
        """Raises InvalidInput for a text or an address that is too long; titles are shortened."""
        values = variables_for(settings, job, self.language, self.names)
        text = self.text.run(values).strip()
        wecom_limits.check_size(text, wecom_limits.MAX_TEXT, f"{self.language}.text")
        if not self.link:
            return WecomPayload(text)
        made = {name: source.run(values).strip() for name, source in self.link.items()}
        url, picture = _tracked_url(settings, job, made["url"]), made.get("picurl", "")
        for address, name in ((url, "url"), (picture, "picurl")):
            wecom_limits.check_size(address, wecom_limits.MAX_URL, f"{self.language}.link.{name}")
        title = wecom_limits.cut(made["title"], wecom_limits.MAX_TITLE)
        desc = wecom_limits.cut(made.get("desc", ""), wecom_limits.MAX_DESC)
        return WecomPayload(text, (title, url, desc, picture))


def _tracked_url(settings: Settings, job: Job, written: str) -> str:
    url = written.strip()
    if not url or url.startswith(f"{settings.base_url}/"):
        return url
    return _link(settings, job, url)


Content = EmailContent | SmsContent | WechatContent | WebhookContent | WecomContent


def compile_content(channel: str, purpose: str, language: str, fields: Mapping[str, Any]) -> Content:
    """Check a language's fields and make them ready. Raises InvalidInput with the field's path."""
    if channel not in FIELDS:
        raise InvalidInput(f"“{channel}” is not a channel; use one of {', '.join(FIELDS)}.", "channel")
    service = channel == WECHAT and fields.get("kind") == SERVICE
    for name in REQUIRED_OF_SERVICE if service else REQUIRED[channel]:
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
    if channel == WEBHOOK:
        title = source_of(str(fields["title"]), f"{language}.title")
        body, url = _optional(fields, language, "body"), _optional(fields, language, "url")
        return WebhookContent(
            language, title, body, url, _sources(fields.get("data") or {}, f"{language}.data")
        )
    if channel == WECOM:
        return _compile_wecom(language, fields)
    return _compile_wechat(language, fields)


def _compile_wecom(language: str, fields: Mapping[str, Any]) -> WecomContent:
    path = f"{language}.link"
    link = _sources(fields.get("link") or {}, path)
    if link and not ({"title", "url"} <= link.keys() <= set(wecom_limits.LINK)):
        raise InvalidInput(f"{path} has a title and a url, and may have a desc and a picurl.", path)
    return WecomContent(language, source_of(str(fields["text"]), f"{language}.text"), link)


def _optional(fields: Mapping[str, Any], language: str, name: str) -> Source | None:
    written = fields.get(name)
    return source_of(str(written), f"{language}.{name}") if written else None


def _compile_wechat(language: str, fields: Mapping[str, Any]) -> WechatContent:
    kind = str(fields.get("kind") or KINDS[0])
    if kind not in KINDS:
        raise InvalidInput(f"{language}.kind is one of {', '.join(KINDS)}.", f"{language}.kind")
    program = fields.get("miniprogram") or {}
    if program and not (isinstance(program, Mapping) and program.get("appid")):
        path = f"{language}.miniprogram"
        raise InvalidInput(f"{path} needs an appid, and the path of the page it opens.", path)
    page = source_of(str(program.get("pagepath") or ""), f"{language}.miniprogram") if program else None
    return WechatContent(
        language,
        str(fields.get("provider_template") or ""),
        _optional(fields, language, "url"),
        _sources(fields.get("data") or {}, f"{language}.data"),
        kind,
        _optional(fields, language, "text"),
        (str(program["appid"]), page) if page is not None else None,
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
