"""Signed public links: open pixel, tracked click, unsubscribe, preferences, provider callbacks.

Every token names its message and its purpose and is signed, so that a link can neither be made
up nor be used for something else; a click's token carries its target, so that the redirect
leads nowhere but where the template pointed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from core import crypto
from core.settings import Settings

OPEN, CLICK, UNSUBSCRIBE, PREFERENCES = "open", "click", "unsubscribe", "preferences"
_CALLBACK = "callback"
_TRACKED = ("http://", "https://")
_UNTRACKED = ("mailto:", "tel:", "sms:", "weixin:", "#")

HUMAN, PROXY, SCANNER = "human", "proxy", "scanner"
SCANNER_DELAY = timedelta(seconds=1.5)
"""A click or open this soon after the send was made by a mail filter, not by a reader."""
_PROXY_AGENTS = ("googleimageproxy", "yahoomailproxy", "ggpht.com", "mail.ru")
_SCANNER_AGENTS = (
    "barracuda",
    "bot",
    "crawler",
    "curl",
    "headless",
    "httpclient",
    "mimecast",
    "monitor",
    "preview",
    "proofpoint",
    "python",
    "safelinks",
    "scan",
    "spider",
    "symantec",
    "urldefense",
    "wget",
)


@dataclass(frozen=True, slots=True)
class Click:
    """What a click's token says."""

    message_id: int
    url: str


def click_url(base_url: str, message_id: int, url: str) -> str:
    """The tracked form of an http(s) ``url``; other harmless links stay, the rest become ``#``."""
    url = url.strip()
    if url.lower().startswith(_TRACKED):
        return f"{base_url}/t/c/{crypto.keyring().sign(CLICK, f'{message_id}:{url}')}"
    return url if url.lower().startswith(_UNTRACKED) else "#"


def open_url(base_url: str, message_id: int) -> str:
    return f"{base_url}/t/o/{crypto.keyring().sign(OPEN, str(message_id))}.gif"


def unsubscribe_url(base_url: str, message_id: int) -> str:
    return f"{base_url}/u/{crypto.keyring().sign(UNSUBSCRIBE, str(message_id))}"


def preferences_url(base_url: str, message_id: int) -> str:
    return f"{base_url}/p/{crypto.keyring().sign(PREFERENCES, str(message_id))}"


def read_click(token: str) -> Click | None:
    """The content of a click's token, or None when it was not signed by us for a click."""
    payload = crypto.keyring().verify(CLICK, token)
    if payload is None:
        return None
    message_id, _, url = payload.partition(":")
    return Click(int(message_id), url)


def read_message(purpose: str, token: str) -> int | None:
    """The message that a token of ``OPEN``, ``UNSUBSCRIBE`` or ``PREFERENCES`` names, or None."""
    payload = crypto.keyring().verify(purpose, token)
    return None if payload is None else int(payload)


def callback_token(account: str) -> str:
    """The unguessable part of a callback's address, for providers that do not sign their callbacks."""
    return crypto.keyring().sign(_CALLBACK, account)


def aliyun_callback_url(settings: Settings) -> str:
    """The address to enter at Aliyun for receipts and replies."""
    return f"{settings.base_url}/callbacks/aliyun/{callback_token(settings.aliyun_access_key_id)}"


def actor(method: str, user_agent: str, at: datetime, sent_at: datetime | None) -> str:
    """Who opened or clicked: ``human``, ``proxy`` (an image cache on somebody's behalf) or ``scanner``.

    A scanner is who sends HEAD, has no user agent or a robot's, or comes within 1.5 s of the send.
    Anything else counts as human; Apple's prefetching cannot be told apart, so opens are a hint.
    """
    agent = user_agent.lower()
    if any(word in agent for word in _PROXY_AGENTS):
        return PROXY
    if method == "HEAD" or not agent or any(word in agent for word in _SCANNER_AGENTS):
        return SCANNER
    return SCANNER if sent_at is not None and at - sent_at < SCANNER_DELAY else HUMAN
