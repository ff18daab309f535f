"""Who opened or clicked: a human, a proxy (an image cache on somebody's behalf), or a scanner.

Every visit is kept with its class and with what told it (``detail.told``). What a later fact shows to
have been a scanner's visit (the hidden link, every link within seconds) changes the class of what the
same visitor did just before, and leaves ``detail.was``. Where nothing speaks against it a visit counts
as human; Apple's prefetching can look like one, so opens are a hint and nothing should branch on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import crawleruseragents
import sqlalchemy as sa
from sqlalchemy.orm import Session

from channels import events, rewrite
from channels.events import CLICKED, OPENED, Receipt
from channels.models import Message, MessageEvent, TemplateContent
from channels.networks import Networks
from channels.outbox import LEASED
from channels.sql import mark_touches
from channels.tracking import HUMAN, PROXY, SCANNER

SCANNER_DELAY = timedelta(seconds=1.5)
"""A click or open this soon after the send was made by a mail filter, not by a reader."""
ALL_LINKS = timedelta(seconds=10)
"""Every link of a message within this time was followed by a machine."""
TRAP_REACH = timedelta(seconds=60)
"""What was done this long before and after the hidden link was followed was done by who followed it."""
AGENT_KEPT = 200
APPLE = "mozilla/5.0"
"""All that Apple's Mail Privacy Protection says of itself when it fetches images ahead."""
_PROXY_AGENTS = ("googleimageproxy", "yahoomailproxy", "ggpht.com", "mail.ru")
# Mail filters and libraries that the list of crawlers does not know, or not under every name.
_SCANNER_AGENTS = (
    "barracuda", "bot", "crawler", "curl", "headless", "httpclient", "mimecast", "monitor", "preview",
    "proofpoint", "python", "safelinks", "scan", "spider", "symantec", "urldefense", "wget",
)  # fmt: skip


@dataclass(frozen=True)
class Visit:
    """A request for a tracked address, as it came."""

    method: str
    agent: str
    address: str
    at: datetime
    prefetch: bool = False
    """The browser said that it only fetches ahead."""


class Verdict(NamedTuple):
    """The class, and what told it (empty where nothing spoke against a human)."""

    actor: str
    told: str


def classify(visit: Visit, kind: str, sent_at: datetime | None, state: str, networks: Networks) -> Verdict:
    """What a visit says of itself. Pure. ``sent_at`` and ``state`` are the message's."""
    agent = visit.agent.strip().lower()
    if any(word in agent for word in _PROXY_AGENTS):
        return Verdict(PROXY, "image_proxy")
    if visit.method == "HEAD":
        return Verdict(SCANNER, "head")
    if not agent:
        return Verdict(SCANNER, "no_agent")
    if agent == APPLE:
        return Verdict(PROXY if kind == OPENED else SCANNER, "apple")
    if any(word in agent for word in _SCANNER_AGENTS) or crawleruseragents.is_crawler(visit.agent):
        return Verdict(SCANNER, "agent")
    if visit.prefetch:
        return Verdict(SCANNER, "prefetch")
    if visit.address in networks:
        return Verdict(SCANNER, "network")
    # While the batch is still being sent nobody can have read it.
    if state == LEASED or (sent_at is not None and visit.at - sent_at < SCANNER_DELAY):
        return Verdict(SCANNER, "early")
    return Verdict(HUMAN, "")


def record(
    session: Session,
    kind: str,
    message_id: int,
    visit: Visit,
    networks: Networks,
    *,
    url: str = "",
    key: str = "",
) -> Verdict | None:
    """Record an open or a click, and judge again what came before; None for an unknown message.

    One a minute, class and ``key`` (which link) is enough to know, and bounds what a loop can write.
    """
    # Two links followed at once would each miss the other: the message's row makes them wait.
    row = session.execute(
        sa.select(Message.sent_at, Message.state, Message.template_id, Message.template_version)
        .where(Message.id == message_id)
        .with_for_update(key_share=True)
    ).one_or_none()
    if row is None:
        return None
    verdict = classify(visit, kind, row.sent_at, row.state, networks)
    if verdict.actor == HUMAN and _trapped(session, message_id, visit.at):
        verdict = Verdict(SCANNER, "honeypot")
    detail = _detail(visit, verdict.told, url)
    _apply(session, kind, message_id, visit.at, verdict.actor, key, detail)
    if kind == CLICKED and verdict.actor == HUMAN:
        since = visit.at - ALL_LINKS
        if _every_link(session, message_id, row.template_id, row.template_version, since, visit.at):
            reclassify(session, message_id, since, visit.at, "all_links")
            return Verdict(SCANNER, "all_links")
    return verdict


def trap(session: Session, message_id: int, visit: Visit) -> None:
    """The hidden link was followed: a scanner's visit, and so is what it did around that moment."""
    known = session.scalar(
        sa.select(Message.id).where(Message.id == message_id).with_for_update(key_share=True)
    )
    if known is None:
        return
    _apply(session, CLICKED, message_id, visit.at, SCANNER, "trap", _detail(visit, "honeypot", ""))
    reclassify(session, message_id, visit.at - TRAP_REACH, visit.at, "honeypot")


def _detail(visit: Visit, told: str, url: str) -> dict[str, Any]:
    found = {"url": url[:1000], "agent": visit.agent[:AGENT_KEPT], "told": told}
    return {name: value for name, value in found.items() if value}


def _apply(
    session: Session, kind: str, message_id: int, at: datetime, actor: str, key: str, detail: dict[str, Any]
) -> None:
    dedupe = f"{kind}:{message_id}:{actor}:{key}:{int(at.timestamp()) // 60}"
    receipt = Receipt(kind, at, dedupe, message_id=message_id, actor=actor, detail=detail)
    events.apply(session, [receipt], at)


def _trapped(session: Session, message_id: int, at: datetime) -> bool:
    latest = session.scalars(
        sa.select(MessageEvent.detail).where(
            MessageEvent.message_id == message_id,
            MessageEvent.kind == CLICKED,
            MessageEvent.actor == SCANNER,
            MessageEvent.at.between(at - TRAP_REACH, at),
        )
    )
    return any(detail.get("told") == "honeypot" for detail in latest)


def _every_link(
    session: Session, message_id: int, template_id: int, version: int, since: datetime, until: datetime
) -> bool:
    """Whether all links of the message were clicked in this time. One link alone says nothing."""
    details = session.scalars(
        sa.select(MessageEvent.detail).where(
            MessageEvent.message_id == message_id,
            MessageEvent.kind == CLICKED,
            MessageEvent.at.between(since, until),
        )
    )
    clicked = len({detail["url"] for detail in details if "url" in detail})
    if clicked < 2:
        return False
    contents = session.scalars(
        sa.select(TemplateContent.fields).where(
            TemplateContent.template_id == template_id, TemplateContent.version == version
        )
    )
    # The languages of a template may have different links; the member read one of them.
    links = [rewrite.link_count(str(fields.get("mjml") or fields.get("html") or "")) for fields in contents]
    known = [number for number in links if number > 1]
    return bool(known) and clicked >= min(known)


def reclassify(session: Session, message_id: int, since: datetime, until: datetime, told: str) -> int:
    """Call what counted as human in this time a scanner's; how many events changed."""
    found = session.scalars(
        sa.select(MessageEvent).where(
            MessageEvent.message_id == message_id,
            MessageEvent.kind.in_((OPENED, CLICKED)),
            MessageEvent.actor == HUMAN,
            MessageEvent.at.between(since, until),
        )
    ).all()
    for event in found:
        event.actor, event.detail = SCANNER, {**event.detail, "told": told, "was": HUMAN}
    if found:
        session.flush()
        mark_touches(
            session,
            [session.execute(sa.select(Message.created_at).where(Message.id == message_id)).scalar_one()],
        )
    return len(found)
