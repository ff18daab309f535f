"""Delivery: the outbox is drained by any number of workers on any number of machines.

A channel is worked on by two lanes of one event loop: while one sends, the other settles its last
batch and claims the next. For each batch: claim (:mod:`channels.claim`) → render → hand over (one
UPDATE) → send, outside any transaction → settle (:mod:`channels.settle`). Memory is bounded by
two batches a channel. This is the package's one module that owns transactions.

A process that dies loses nothing: what it had not handed over is sent by another, what it had is
sent again or called ``unknown`` as the provider and the account allow; at most one batch a lane is
in that state: one on the wire, and one that was sent and is being settled.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from sqlalchemy.orm import Session

from channels import circuit, events, trials, verp
from channels.bounces import intake
from channels.claim import Batch, Claimed, Terms, claim, hand_over, take_over
from channels.outbox import CREATED, FAILED, QUEUED, SENT, UNKNOWN
from channels.render import Content, Job, client_id
from channels.settle import Settlement, chance, decide, on_unknown, settle
from channels.sms.hours import hours_of
from channels.templates import choose_language, load_contents
from channels.transports import dkim, sms_tencent
from channels.transports.base import (
    NOT_ASKED,
    EmailPayload,
    Outcome,
    Outgoing,
    Reaction,
    Transport,
    TransportError,
)
from channels.transports.breaker import FIRST_S, SILENT
from channels.transports.email import EmailTransport
from channels.transports.mail_state import MailState
from channels.transports.mx import mx_host
from channels.transports.servers import parse_urls
from channels.transports.sms_aliyun import AliyunTransport, Credentials
from channels.transports.sms_router import SmsRouter
from channels.transports.sms_tencent import TencentTransport
from channels.transports.sms_twilio import TwilioTransport
from channels.transports.webhook import WebhookTransport
from channels.transports.wechat import WechatTransport
from channels.transports.wecom import WecomTransport
from core.collector import rare
from core.contacts import CHANNELS, EMAIL, SMS, WEBHOOK, WECOM
from core.db import Database
from core.errors import InvalidInput
from core.settings import Settings

log = logging.getLogger(__name__)

BATCH = 500
LANES = 2
SEND_S = 60.0
"""No message of a batch is begun later than this after the hand-over; see ``claim.LEASE``."""
POLL_S = 1.0
TURN = 16
"""Messages that are rendered (signed ones take 5 ms) before the loop sees to the other lane's connections."""
CONTENTS_KEPT = 200
EARLY_S = 5.0
"""How often receipts that overtook their message are looked for."""

Clock = Callable[[], datetime]


@dataclass(frozen=True)
class Delivered:
    """What a delivery did: messages by outcome, and how long it took."""

    sent: int = 0
    deferred: int = 0
    failed: int = 0
    skipped: int = 0
    unknown: int = 0
    created: int = 0
    """At the provider, waiting for somebody to confirm them."""
    seconds: float = 0.0


def utc_now() -> datetime:
    return datetime.now(UTC)


def owner_name() -> str:
    """A worker's name on its leases: unique, and readable in the outbox."""
    return f"{socket.gethostname()[:40]}:{os.getpid()}:{secrets.token_hex(4)}"


def transport_for(
    channel: str, database: Database, settings: Settings, concurrency: int | None, now: Clock
) -> Transport:
    """The channel's transport as the settings name it. A new provider is added here."""
    if channel == EMAIL:
        servers = parse_urls(settings.smtp)
        return EmailTransport(
            servers,
            settings.mail_from,
            connections=concurrency,
            state=MailState(database, servers),
            envelope_sender=verp.senders(settings),
            resolve=mx_host if settings.mx_lookup else None,
            now=now,
        )
    if channel == SMS:
        return sms_transport(settings, concurrency, now)
    if channel == WEBHOOK:
        return WebhookTransport(
            settings.webhook,
            settings.webhook_secret,
            # The built-in stand-in is on this machine.
            allow_private=settings.webhook_allow_private or not settings.webhook_url,
            connections=concurrency,
        )
    if channel == WECOM:
        return wecom_transport(database, settings, concurrency, now)
    return WechatTransport(
        database,
        settings.wechat,
        settings.wechat_appid,
        settings.wechat_secret,
        connections=concurrency,
        clock=now,
    )


def wecom_transport(
    database: Database, settings: Settings, concurrency: int | None, now: Clock
) -> WecomTransport:
    """WeCom, or its stand-in where no endpoint is set."""
    return WecomTransport(
        database,
        settings.wecom,
        settings.wecom_corpid,
        settings.wecom_secret,
        settings.wecom_sender,
        connections=concurrency,
        clock=now,
    )


def sms_transport(settings: Settings, concurrency: int | None, now: Clock) -> Transport:
    """The SMS provider of the settings, or a router where numbers abroad go to another."""
    made = {name: _sms_provider(name, settings, concurrency, now) for name in settings.sms_providers}
    if len(made) == 1:
        return made[settings.sms_provider]
    return SmsRouter(made[settings.sms_provider], made[settings.sms_provider_abroad])


def _sms_provider(name: str, settings: Settings, concurrency: int | None, now: Clock) -> Transport:
    if name == "tencent":
        return tencent_transport(settings, concurrency, now)
    if name == "twilio":
        return twilio_transport(settings, concurrency)
    return aliyun_transport(settings, concurrency)


def twilio_transport(settings: Settings, concurrency: int | None) -> TwilioTransport:
    """Twilio, or its stand-in where no endpoint is set."""
    return TwilioTransport(
        settings.twilio,
        settings.twilio_account_sid,
        settings.twilio_auth_token,
        settings.twilio_sender,
        base_url=settings.base_url,
        connections=concurrency,
    )


def tencent_transport(settings: Settings, concurrency: int | None, now: Clock) -> TencentTransport:
    """Tencent, or its stand-in where no endpoint is set. Only its waits follow ``now``: a request is
    signed by the real clock, which is the one that Tencent compares it with.
    """
    return TencentTransport(
        settings.tencent,
        sms_tencent.Credentials(settings.tencent_secret_id, settings.tencent_secret_key),
        sdk_app_id=settings.tencent_sdk_app_id,
        region=settings.tencent_region,
        sign_name=settings.tencent_sign_name,
        connections=concurrency,
        show_text=not settings.tencent_endpoint,
        now=now,
    )


def aliyun_transport(settings: Settings, concurrency: int | None) -> AliyunTransport:
    """Aliyun, or its stand-in where no endpoint is set."""
    return AliyunTransport(
        settings.aliyun,
        Credentials(settings.aliyun_access_key_id, settings.aliyun_access_key_secret),
        settings.aliyun_sign_name,
        connections=concurrency,
        show_text=not settings.aliyun_endpoint,
    )


async def deliver(
    database: Database,
    settings: Settings,
    *,
    owner: str | None = None,
    channels: Iterable[str] = CHANNELS,
    until_empty: bool = True,
    max_seconds: float | None = None,
    batch: int = BATCH,
    concurrency: int | None = None,
    now: Clock = utc_now,
) -> Delivered:
    """Send what is due; with ``until_empty`` return when nothing is, else after ``max_seconds``.

    ``concurrency`` is connections a channel (each transport has a default); ``batch`` messages a
    claim, twice which a crash may leave ``unknown``. Messages for later stay queued. Raises
    InvalidInput for settings that no transport can be made of.
    """
    wanted = tuple(channels)
    if unknown := [name for name in wanted if name not in CHANNELS]:
        raise InvalidInput(f"“{unknown[0]}” is not a channel; use some of {', '.join(CHANNELS)}.", "channels")
    started = time.monotonic()
    stop_at = None if max_seconds is None else started + max_seconds
    worker = owner or owner_name()
    workers = []
    async with AsyncExitStack() as stack:
        # Before the group, which would wrap what wrong settings raise here.
        for channel in wanted:
            transport = await stack.enter_async_context(
                transport_for(channel, database, settings, concurrency, now)
            )
            workers.append(_Channel(database, settings, channel, transport, worker, batch, now))
        stack.enter_context(rare())
        async with asyncio.TaskGroup() as group:
            for found in workers:
                for lane in range(LANES):
                    group.create_task(found.lane(lane, until_empty, stop_at))
    counts = {name: sum(found.counts[name] for found in workers) for name in _COUNTED}
    return Delivered(**counts, seconds=round(time.monotonic() - started, 3))


def run_delivery(
    database: Database,
    settings: Settings,
    *,
    owner: str | None = None,
    channels: Iterable[str] = CHANNELS,
    until_empty: bool = True,
    max_seconds: float | None = None,
    batch: int = BATCH,
    concurrency: int | None = None,
    now: Clock = utc_now,
) -> Delivered:
    """:func:`deliver` for callers without an event loop."""
    return asyncio.run(
        deliver(
            database,
            settings,
            owner=owner,
            channels=channels,
            until_empty=until_empty,
            max_seconds=max_seconds,
            batch=batch,
            concurrency=concurrency,
            now=now,
        )
    )


_COUNTED = ("sent", "deferred", "failed", "skipped", "unknown", "created")
_COUNT_OF = {SENT: "sent", QUEUED: "deferred", FAILED: "failed", UNKNOWN: "unknown", CREATED: "created"}


_NO_ANSWER = frozenset({Reaction.UNREACHABLE, Reaction.RETURN, Reaction.HOLD})
"""Outcomes that tell nothing of the provider."""


class _Channel:
    """One channel of one worker: its transport, and the lanes that share it."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        channel: str,
        transport: Transport,
        owner: str,
        batch: int,
        now: Clock,
    ) -> None:
        self._database, self._settings, self._channel = database, settings, channel
        self._transport, self._batch, self._now = transport, batch, now
        self._owner = owner
        self._terms = Terms(
            channel, transport.idempotent_s, settings.zone, hours_of(settings) if channel == SMS else None
        )
        # One batch at a time is on the wire: the other lane's is marked as handed over only when
        # it really goes out.
        self._wire = asyncio.Lock()
        self._contents: dict[tuple[int, int], Mapping[str, Content]] = {}
        self._signer = dkim.signer(settings.dkim_keys) if channel == EMAIL else None
        self._numbers = itertools.count()
        self._silence, self._rests_until = 0, 0.0
        self._early_due = 0.0
        self.counts = dict.fromkeys(_COUNTED, 0)

    async def lane(self, number: int, until_empty: bool, stop_at: float | None) -> None:
        """Batch after batch, until there is none or the time is up."""
        while stop_at is None or time.monotonic() < stop_at:
            if time.monotonic() < self._rests_until:
                if until_empty:
                    return
                await asyncio.sleep(POLL_S)
                continue
            owner = f"{self._owner}:{self._channel}:{number}:{next(self._numbers)}"
            batch = await asyncio.to_thread(self._claim, owner)
            self._count(skipped=batch.skipped, deferred=batch.deferred, unknown=batch.unknown)
            if batch.ready:
                await self._send(owner, batch)
            if batch.empty:
                if until_empty:
                    return
                left = POLL_S if stop_at is None else min(POLL_S, stop_at - time.monotonic())
                await asyncio.sleep(max(0.0, left))

    def _count(self, **more: int) -> None:
        for name, number in more.items():
            self.counts[name] += number

    def _claim(self, owner: str) -> Batch:
        now = self._now()
        with self._database.write() as session:
            lost = take_over(session, self._terms, now)
            if time.monotonic() >= self._early_due:
                self._early_due = time.monotonic() + EARLY_S
                events.apply_early(session, now)
                if self._channel == EMAIL:
                    intake.apply_early(session, now)
            batch = claim(session, self._terms, owner, self._batch, now)
        return replace(batch, unknown=batch.unknown + lost)

    async def _send(self, owner: str, batch: Batch) -> None:
        outgoing, settled = await self._render(batch.ready)
        by_id = {message.message_id: message for message in batch.ready}
        choice = await asyncio.to_thread(self._on_unknown)
        handed_over_at = None
        async with self._wire:
            if outgoing:
                handed_over_at = self._now()
                if not await asyncio.to_thread(self._hand_over, owner, batch.seen, handed_over_at):
                    log.warning("The batch %s was taken over or stopped before it was sent.", owner)
                    return
            outcomes = await self._transport.send_many(outgoing, SEND_S) if outgoing else []
        now = self._now()
        settled += [
            decide(
                by_id[message.message_id],
                outcome,
                self._channel,
                choice,
                self._transport.idempotent_s > 0,
                now,
                chance(),
            )
            for message, outcome in zip(outgoing, outcomes, strict=True)
        ]
        verdict = self._judge([outcome.error for outcome in outcomes], batch.seen)
        if any(found.pause for found in settled):
            log.error("Channel %s paused: %s", self._channel, next(f.reason for f in settled if f.pause))
        await asyncio.to_thread(self._settle, owner, settled, now, handed_over_at, batch.seen, verdict)
        for found in settled:
            self._count(**{_COUNT_OF[found.state]: 1})

    def _judge(
        self, errors: Sequence[TransportError | None], seen: circuit.Seen
    ) -> tuple[circuit.Verdict, str]:
        """What a batch tells of the provider, and why: out of reach, or takes messages and says nothing."""
        verdict, reason = circuit.Verdict.NOTHING, ""
        for error in errors:
            reaction = None if error is None else error.reaction
            if reaction is Reaction.UNKNOWN:
                self._silence += 1
            elif reaction not in _NO_ANSWER:
                self._silence, verdict = 0, circuit.Verdict.ANSWERS
        unreachable = [e for e in errors if e is not None and e.reaction is Reaction.UNREACHABLE]
        if tried := [error for error in unreachable if error.code != NOT_ASKED]:
            return circuit.Verdict.FAILS, str(tried[0])
        if unreachable:
            # This worker's own servers rest for longer than the account: others may well reach them.
            self._rests_until = time.monotonic() + FIRST_S
        if self._silence >= SILENT or (seen.probing and self._silence):
            return circuit.Verdict.FAILS, f"{self._silence} messages in a row without an answer"
        return verdict, reason

    def _on_unknown(self) -> str:
        with self._database.read() as session:
            return on_unknown(session, self._channel)

    def _hand_over(self, owner: str, seen: circuit.Seen, now: datetime) -> bool:
        with self._database.write() as session:
            mine = hand_over(session, owner, now)
            if not mine and seen.probing:
                circuit.free_probe(session, self._channel)
        return mine

    def _settle(
        self,
        owner: str,
        settlements: Sequence[Settlement],
        now: datetime,
        handed_over_at: datetime | None,
        seen: circuit.Seen,
        verdict: tuple[circuit.Verdict, str],
    ) -> None:
        with self._database.write() as session:
            settle(session, self._channel, self._transport.name, owner, settlements, now, handed_over_at)
            seconds = circuit.note(session, self._channel, seen, *verdict, now)
        if seconds is not None:
            log.warning("Channel %s is left alone for %d s: %s", self._channel, seconds, verdict[1])

    async def _render(self, messages: Sequence[Claimed]) -> tuple[list[Outgoing], list[Settlement]]:
        """Payloads of what can be rendered, and the failure of what cannot.

        In turns with the loop, not in a thread beside it: threads that both compute take the
        interpreter's lock from each other at every message. And the whole batch before its first
        message is sent: rendering each when a connection is free for it costs a seventh more.
        """
        await asyncio.to_thread(
            self._load, {(found.template_id, found.template_version) for found in messages}
        )
        now, outgoing, failed = self._now(), [], []
        for number, message in enumerate(messages, 1):
            try:
                outgoing.append(self._outgoing(message, now))
            except InvalidInput as error:
                outcome = Outcome(error=TransportError(str(error), Reaction.FAIL, code="template"))
                failed.append(decide(message, outcome, self._channel, "", False, now, 0.0))
            if number % TURN == 0:
                await asyncio.sleep(0)
        return outgoing, failed

    def _outgoing(self, message: Claimed, now: datetime) -> Outgoing:
        content = trials.draft_content(self._channel, message.source_kind, message.context)
        if content is None:
            contents = self._contents[message.template_id, message.template_version]
            if not contents:
                raise InvalidInput(
                    f"Template {message.template_id} has no usable version {message.template_version}."
                )
            content = contents[choose_language(contents, message.member.locale, self._settings)]
        job = Job(
            message.message_id,
            message.purpose,
            message.member,
            message.address,
            message.context,
            message.zone,
            now,
        )
        payload = content.payload(self._settings, job)
        if self._signer is not None and isinstance(payload, EmailPayload):
            signed = self._signer.sign(payload.content, now, payload.tail)
            payload = EmailPayload(signed, payload.tail)
        return Outgoing(message.message_id, client_id(message.message_id), message.address, payload)

    def _load(self, wanted: set[tuple[int, int]]) -> None:
        missing = wanted - self._contents.keys()
        if not missing:
            return
        with self._database.read() as session:
            try:
                loaded = load_contents(session, missing)
            except InvalidInput:
                loaded = {pair: _or_none(session, pair) for pair in missing}
        kept = {} if len(self._contents) + len(loaded) > CONTENTS_KEPT else self._contents
        needed = {pair: self._contents[pair] for pair in wanted & self._contents.keys()}
        # Replaced, not changed: the other lane may be reading it.
        self._contents = {**kept, **needed, **loaded}


def _or_none(session: Session, pair: tuple[int, int]) -> dict[str, Content]:
    """A version's contents, or none when an older release let it be saved and this one refuses it."""
    try:
        return load_contents(session, [pair])[pair]
    except InvalidInput as error:
        log.error("Template %s, version %s: %s", *pair, error)
        return {}
