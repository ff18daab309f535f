"""Tables of consent, suppression, templates, the outbox and what came back."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from core.db import Base, BigId, Encrypted, Json, UTCDateTime


class Consent(Base):
    """Today's answer of a member for a channel and purpose; its history is in ``consent_events``."""

    __tablename__ = "consents"

    member_id: Mapped[int] = mapped_column(sa.ForeignKey("members.id"), primary_key=True)
    channel: Mapped[str] = mapped_column(sa.String(20), primary_key=True)
    purpose: Mapped[str] = mapped_column(sa.String(20), primary_key=True)
    granted: Mapped[bool]
    source: Mapped[str] = mapped_column(sa.String(60))
    at: Mapped[datetime] = mapped_column(UTCDateTime)


class ConsentEvent(Base):
    __tablename__ = "consent_events"
    __table_args__ = (sa.UniqueConstraint("member_id", "channel", "purpose", "at", "granted"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    member_id: Mapped[int] = mapped_column(sa.ForeignKey("members.id"))
    channel: Mapped[str] = mapped_column(sa.String(20))
    purpose: Mapped[str] = mapped_column(sa.String(20))
    granted: Mapped[bool]
    source: Mapped[str] = mapped_column(sa.String(60))
    at: Mapped[datetime] = mapped_column(UTCDateTime)


class MemberPreference(Base):
    """What a member asked for beyond yes or no: how often, and a pause. No row: nothing asked."""

    __tablename__ = "member_preferences"

    member_id: Mapped[int] = mapped_column(sa.ForeignKey("members.id"), primary_key=True)
    weekly_max: Mapped[int | None]
    """Marketing messages in seven days at most, over all channels; null: as the shop likes."""
    paused_until: Mapped[datetime | None] = mapped_column(UTCDateTime)
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime)


class OptIn(Base):
    """A consent that was asked for and waits for the click in an e-mail (double opt-in)."""

    __tablename__ = "opt_ins"
    __table_args__ = (sa.Index("ix_opt_ins_member_id", "member_id"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    request_key: Mapped[str] = mapped_column(sa.String(160), unique=True)
    """Natural key of the request: who asked, and their idempotency key."""
    member_id: Mapped[int] = mapped_column(sa.ForeignKey("members.id"))
    channel: Mapped[str] = mapped_column(sa.String(20))
    purpose: Mapped[str] = mapped_column(sa.String(20))
    source: Mapped[str] = mapped_column(sa.String(60))
    asked_at: Mapped[datetime] = mapped_column(UTCDateTime)
    expires_at: Mapped[datetime] = mapped_column(UTCDateTime)
    confirmed_at: Mapped[datetime | None] = mapped_column(UTCDateTime)


class Suppression(Base):
    """An address that must not be written to, whoever it belongs to."""

    __tablename__ = "suppressions"

    channel: Mapped[str] = mapped_column(sa.String(20), primary_key=True)
    address_index: Mapped[str] = mapped_column(sa.String(32), primary_key=True)
    reason: Mapped[str] = mapped_column(sa.String(40))
    source: Mapped[str] = mapped_column(sa.String(60))
    at: Mapped[datetime] = mapped_column(UTCDateTime)
    evidence: Mapped[dict[str, Any]] = mapped_column(Json)


class Template(Base):
    __tablename__ = "templates"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(80), unique=True)
    channel: Mapped[str] = mapped_column(sa.String(20))
    purpose: Mapped[str] = mapped_column(sa.String(20))
    version: Mapped[int]
    """The version that new messages use."""
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime)
    archived_at: Mapped[datetime | None] = mapped_column(UTCDateTime)


class TemplateContent(Base):
    """One language of one version; never changed once written."""

    __tablename__ = "template_contents"

    template_id: Mapped[int] = mapped_column(sa.ForeignKey("templates.id"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    language: Mapped[str] = mapped_column(sa.String(20), primary_key=True)
    fields: Mapped[dict[str, Any]] = mapped_column(Json)
    """email: subject, html, text, preheader · sms: text, provider_template, params · wechat:
    kind, provider_template, url, data {name: text}, miniprogram, text · webhook: title, body, url, data ·
    wecom: text, link {title, url, desc, picurl}."""
    written: Mapped[dict[str, Any] | None] = mapped_column(Json)
    """The fields as they were typed, where they name snippets; ``fields`` has the snippets' texts."""
    snippets: Mapped[dict[str, Any] | None] = mapped_column(Json)
    """Versions of the snippets in ``fields``: {name: version}."""
    changed_by: Mapped[str] = mapped_column(sa.String(200))
    changed_at: Mapped[datetime] = mapped_column(UTCDateTime)


class Snippet(Base):
    """A named piece of text that templates take in when they are saved."""

    __tablename__ = "snippets"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(40), unique=True)
    version: Mapped[int]
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime)
    archived_at: Mapped[datetime | None] = mapped_column(UTCDateTime)


class SnippetContent(Base):
    """One language of one version of a snippet; never changed once written."""

    __tablename__ = "snippet_contents"

    snippet_id: Mapped[int] = mapped_column(sa.ForeignKey("snippets.id"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    language: Mapped[str] = mapped_column(sa.String(20), primary_key=True)
    html: Mapped[str] = mapped_column(sa.Text)
    text: Mapped[str] = mapped_column(sa.Text)
    changed_by: Mapped[str] = mapped_column(sa.String(200))
    changed_at: Mapped[datetime] = mapped_column(UTCDateTime)


class Message(Base):
    """The outbox and the record of everything sent. States: see ``channels/outbox.py``."""

    __tablename__ = "messages"
    __table_args__ = (
        sa.Index("ix_messages_claim", "state", "channel", "not_before", "id"),
        # While marketing is stopped, a claim must not step over a million queued messages to find a receipt.
        sa.Index(
            "ix_messages_transactional",
            "channel",
            "not_before",
            "id",
            postgresql_where=sa.text("state = 'queued' AND purpose = 'transactional'"),
            sqlite_where=sa.text("state = 'queued' AND purpose = 'transactional'"),
        ),
        sa.Index("ix_messages_member_id_created_at", "member_id", "created_at"),
        sa.Index("ix_messages_provider_id", "provider_id"),
        # "Reason begins with": the C order of text_pattern_ops is the one in which a prefix is a range.
        sa.Index(
            "ix_messages_reason",
            "reason",
            "id",
            postgresql_ops={"reason": "text_pattern_ops"},
            postgresql_where=sa.text("reason IS NOT NULL"),
            sqlite_where=sa.text("reason IS NOT NULL"),
        ),
        sa.Index("ix_messages_source", "source_kind", "source_id"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    dedupe_key: Mapped[str] = mapped_column(sa.String(120), unique=True)
    """Natural key: ``run:<run id>:<member id>``, ``fallback:<message id>``, ``api:<idempotency key>``."""
    member_id: Mapped[int] = mapped_column(sa.ForeignKey("members.id"))
    channel: Mapped[str] = mapped_column(sa.String(20))
    purpose: Mapped[str] = mapped_column(sa.String(20))
    template_id: Mapped[int] = mapped_column(sa.ForeignKey("templates.id"))
    template_version: Mapped[int]
    context: Mapped[dict[str, Any]] = mapped_column(Json)
    """What the template needs beyond the member: coupon, points, campaign …; no contact detail."""
    source_kind: Mapped[str] = mapped_column(sa.String(20))
    """``run`` (of a campaign), ``journey``, ``reminder``, ``api`` or ``test``."""
    source_id: Mapped[int] = mapped_column(sa.BigInteger)
    fallback: Mapped[list[Any]] = mapped_column(Json)
    """Channels to try next, in order: [{channel, template_id, template_version}]."""
    quiet_hours: Mapped[dict[str, Any] | None] = mapped_column(Json)
    """{start: "21:00", end: "08:00", mode: "defer"|"drop"} in the member's zone; null: none."""
    state: Mapped[str] = mapped_column(sa.String(20))
    reason: Mapped[str | None] = mapped_column(sa.String(200))
    attempts: Mapped[int]
    not_before: Mapped[datetime] = mapped_column(UTCDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    lease_owner: Mapped[str | None] = mapped_column(sa.String(80))
    """The batch that holds the message: a row of ``leases``."""
    lease_until: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """The lease's end as the claim set it; handing the batch over renews its row in ``leases``."""
    handed_over_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """When the provider was asked first: from then on, no settlement means "perhaps sent". While the
    message is leased, the hand-over of its batch is in ``leases``."""
    provider: Mapped[str | None] = mapped_column(sa.String(20))
    provider_id: Mapped[str | None] = mapped_column(sa.String(128))
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)
    sent_at: Mapped[datetime | None] = mapped_column(UTCDateTime, index=True)
    settled_at: Mapped[datetime | None] = mapped_column(UTCDateTime)


class Lease(Base):
    """A batch in a worker's hands. One row a batch, so that handing it over is one small UPDATE."""

    __tablename__ = "leases"
    __table_args__ = (sa.Index("ix_leases_channel_until", "channel", "until"),)

    owner: Mapped[str] = mapped_column(sa.String(80), primary_key=True)
    """``host:process:random:channel:lane:number``, never used twice."""
    channel: Mapped[str] = mapped_column(sa.String(20))
    until: Mapped[datetime] = mapped_column(UTCDateTime)
    handed_over_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """Written just before the provider is asked."""


class MessageEvent(Base):
    """Something that happened to a message: attempts, provider answers, receipts, opens, clicks …"""

    __tablename__ = "message_events"
    __table_args__ = (sa.Index("ix_message_events_message_id_at", "message_id", "at"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    message_id: Mapped[int] = mapped_column(sa.ForeignKey("messages.id"))
    kind: Mapped[str] = mapped_column(sa.String(20))
    at: Mapped[datetime] = mapped_column(UTCDateTime)
    dedupe_key: Mapped[str] = mapped_column(sa.String(160), unique=True)
    actor: Mapped[str] = mapped_column(sa.String(20), default="")
    """For opens and clicks: ``human``, ``proxy`` or ``scanner``."""
    detail: Mapped[dict[str, Any]] = mapped_column(Json)


class EarlyReceipt(Base):
    """A provider's receipt that overtook the settlement of its message; applied once that is there."""

    __tablename__ = "early_receipts"

    dedupe_key: Mapped[str] = mapped_column(sa.String(160), primary_key=True)
    provider_id: Mapped[str] = mapped_column(sa.String(128), index=True)
    kind: Mapped[str] = mapped_column(sa.String(20))
    at: Mapped[datetime] = mapped_column(UTCDateTime)
    detail: Mapped[dict[str, Any]] = mapped_column(Json)
    received_at: Mapped[datetime] = mapped_column(UTCDateTime)


class Account(Base):
    """A channel's switch: paused with a reason, by an operator or by a provider's answer."""

    __tablename__ = "channel_accounts"

    channel: Mapped[str] = mapped_column(sa.String(20), primary_key=True)
    paused_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    paused_reason: Mapped[str | None] = mapped_column(sa.String(300))
    on_unknown: Mapped[str] = mapped_column(sa.String(10), default="keep")
    """A message whose provider never answered: ``keep`` (at most once) or ``resend`` (at least once)."""
    circuit_failures: Mapped[int] = mapped_column(default=0, server_default="0")
    """Of the circuit breaker that all workers share (``channels.circuit``), in a row; 0: closed."""
    circuit_opened_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    circuit_until: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """Until then nobody asks the provider; afterwards one worker tries."""
    circuit_reason: Mapped[str | None] = mapped_column(sa.String(300))
    circuit_probe_until: Mapped[datetime | None] = mapped_column(UTCDateTime)
    """The one try: until then no other worker makes another."""


class MailServer(Base):
    """What all workers must know of an SMTP server: paused, out of reach, how far its warm-up is."""

    __tablename__ = "mail_servers"

    name: Mapped[str] = mapped_column(sa.String(120), primary_key=True)
    """``user@host:port``."""
    paused_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    paused_reason: Mapped[str | None] = mapped_column(sa.String(300))
    warm_day: Mapped[date | None]
    """The day (UTC) that ``warm_sent`` counts."""
    warm_sent: Mapped[int] = mapped_column(default=0, server_default="0")


class DomainLimit(Base):
    """A receiver that asked us to slow down or to stop (a group of ``channels.transports.throttle``)."""

    __tablename__ = "domain_limits"

    group: Mapped[str] = mapped_column(sa.String(120), primary_key=True)
    stopped_until: Mapped[datetime | None] = mapped_column(UTCDateTime)
    slow_until: Mapped[datetime | None] = mapped_column(UTCDateTime)
    reason: Mapped[str] = mapped_column(sa.String(300))
    at: Mapped[datetime] = mapped_column(UTCDateTime)


class BounceCount(Base):
    """Bounces of an address that are no reason to suppress it yet; a delivery deletes the row."""

    __tablename__ = "bounce_counts"

    channel: Mapped[str] = mapped_column(sa.String(20), primary_key=True)
    address_index: Mapped[str] = mapped_column(sa.String(32), primary_key=True)
    soft: Mapped[int]
    inactive: Mapped[int]
    first_at: Mapped[datetime] = mapped_column(UTCDateTime)
    last_at: Mapped[datetime] = mapped_column(UTCDateTime)
    code: Mapped[str] = mapped_column(sa.String(40))


class BounceReport(Base):
    """A DSN or a feedback report as it came, and what was read from it: the evidence of a suppression."""

    __tablename__ = "bounce_reports"
    __table_args__ = (sa.Index("ix_bounce_reports_message_id", "message_id"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    dedupe_key: Mapped[str] = mapped_column(sa.String(160), unique=True)
    message_id: Mapped[int | None] = mapped_column(sa.ForeignKey("messages.id"))
    kind: Mapped[str] = mapped_column(sa.String(20))
    """A class of ``channels.bounces.classify``, ``complaint`` or ``unreadable``."""
    status: Mapped[str] = mapped_column(sa.String(20))
    received_at: Mapped[datetime] = mapped_column(UTCDateTime)
    raw: Mapped[str] = mapped_column(Encrypted)


class ProviderToken(Base):
    """An access token shared by all workers (WeChat: one per appid; WeCom: one per company and app)."""

    __tablename__ = "provider_tokens"

    key: Mapped[str] = mapped_column(sa.String(120), primary_key=True)
    token: Mapped[str | None] = mapped_column(Encrypted)
    expires_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    refreshing_until: Mapped[datetime | None] = mapped_column(UTCDateTime)


class WechatWindow(Base):
    """What a follower did lately that allows customer-service messages; the newest of each kind."""

    __tablename__ = "wechat_windows"

    openid_index: Mapped[str] = mapped_column(sa.String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(sa.String(20), primary_key=True)
    """``message`` or ``touch``: see ``channels.wechat.windows``."""
    opened_at: Mapped[datetime] = mapped_column(UTCDateTime)
    until: Mapped[datetime] = mapped_column(UTCDateTime)
    left: Mapped[int]
    """Messages that may still be sent."""


class WechatFollow(Base):
    """The newest of what an openid did of each kind, and the scene of the QR code that led there."""

    __tablename__ = "wechat_follows"

    openid_index: Mapped[str] = mapped_column(sa.String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(sa.String(20), primary_key=True)
    """``followed``, ``scanned`` or ``unfollowed``."""
    scene: Mapped[str] = mapped_column(sa.String(128))
    at: Mapped[datetime] = mapped_column(UTCDateTime)


class WechatGrant(Base):
    """Consents to single subscription messages that are not used up yet."""

    __tablename__ = "wechat_grants"

    openid_index: Mapped[str] = mapped_column(sa.String(32), primary_key=True)
    template_id: Mapped[str] = mapped_column(sa.String(128), primary_key=True)
    left: Mapped[int]


class WechatSpent(Base):
    """A message that took a grant or a window's place: a second attempt at it takes no other."""

    __tablename__ = "wechat_spent"

    client_id: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    at: Mapped[datetime] = mapped_column(UTCDateTime, index=True)


class WechatSeen(Base):
    """Callbacks and single-use states that were acted on, kept for as long as they could be repeated."""

    __tablename__ = "wechat_seen"

    key: Mapped[str] = mapped_column(sa.String(160), primary_key=True)
    at: Mapped[datetime] = mapped_column(UTCDateTime, index=True)
