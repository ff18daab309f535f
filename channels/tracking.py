"""Signed public links: open pixel, tracked click, hidden trap, leaving, preferences, callbacks.

Every token names its message (a wallet's: its member) and its purpose and is signed, so that a link
can neither be made up nor be used for something else; a click's token carries its target, so that the
redirect leads nowhere but where the template pointed.
"""

from __future__ import annotations

from dataclasses import dataclass

from core import crypto
from core.settings import Settings

OPEN, CLICK, UNSUBSCRIBE, PREFERENCES = "open", "click", "unsubscribe", "preferences"
TRAP = "trap"
WALLET, WISHES = "wallet", "member-preferences"
"""Purposes of tokens that name a member; ``WISHES`` leads to the same page as ``PREFERENCES``."""
CONFIRM = "confirm"
HUMAN, PROXY, SCANNER = "human", "proxy", "scanner"
"""Who opened or clicked; :mod:`channels.visits` tells."""
_CALLBACK = "callback"
_TRACKED = ("http://", "https://")
_UNTRACKED = ("mailto:", "tel:", "sms:", "weixin:", "#")


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


def plain_url(url: str) -> str:
    """A link as it is, where nobody follows it for a member; what may do harm becomes ``#``."""
    url = url.strip()
    return url if url.lower().startswith((*_TRACKED, *_UNTRACKED)) else "#"


def open_url(base_url: str, message_id: int) -> str:
    return f"{base_url}/t/o/{crypto.keyring().sign(OPEN, str(message_id))}.gif"


def trap_url(base_url: str, message_id: int) -> str:
    """Where the link leads that no reader sees."""
    return f"{base_url}/t/h/{crypto.keyring().sign(TRAP, str(message_id))}"


def unsubscribe_url(base_url: str, message_id: int) -> str:
    return f"{base_url}/u/{crypto.keyring().sign(UNSUBSCRIBE, str(message_id))}"


def preferences_url(base_url: str, message_id: int) -> str:
    return f"{base_url}/p/{crypto.keyring().sign(PREFERENCES, str(message_id))}"


def wallet_url(base_url: str, member_id: int) -> str:
    """The member's own page: good until the member is erased, so it belongs into messages to them alone."""
    return f"{base_url}/w/{crypto.keyring().sign(WALLET, str(member_id))}"


def member_preferences_url(base_url: str, member_id: int) -> str:
    """The preference centre from the wallet, where no message leads to it."""
    return f"{base_url}/p/{crypto.keyring().sign(WISHES, str(member_id))}"


def read_member(purpose: str, token: str) -> int | None:
    """The member that a token of ``WALLET`` or ``WISHES`` names, or None."""
    payload = crypto.keyring().verify(purpose, token)
    return None if payload is None else int(payload)


def read_click(token: str) -> Click | None:
    """The content of a click's token, or None when it was not signed by us for a click."""
    payload = crypto.keyring().verify(CLICK, token)
    if payload is None:
        return None
    message_id, _, url = payload.partition(":")
    return Click(int(message_id), url)


def read_message(purpose: str, token: str) -> int | None:
    """The message that a token of ``OPEN``, ``TRAP``, ``UNSUBSCRIBE`` or ``PREFERENCES`` names, or None."""
    payload = crypto.keyring().verify(purpose, token)
    return None if payload is None else int(payload)


def callback_token(account: str) -> str:
    """The unguessable part of a callback's address, for providers that do not sign their callbacks."""
    return crypto.keyring().sign(_CALLBACK, account)


def aliyun_callback_url(settings: Settings) -> str:
    """The address to enter at Aliyun for receipts and replies."""
    return f"{settings.base_url}/callbacks/aliyun/{callback_token(settings.aliyun_access_key_id)}"
