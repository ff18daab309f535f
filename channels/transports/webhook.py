"""Messages to the shop's own address: signed JSON, one request a message.

The receiver is asked to drop a repeated ``Idempotency-Key``, but nobody can be sure that it does, so that
a message without an answer counts as unknown. Addresses of private networks are refused where the name is
resolved, for each connection anew: what a name means may change after it was looked at.
"""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

import orjson
from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from channels.callbacks.webhook import sign
from channels.transports import lean
from channels.transports.base import (
    Outcome,
    Outgoing,
    Reaction,
    TransportError,
    WebhookPayload,
    send_each,
)
from core.errors import InvalidInput

CONNECTIONS = 10
_PRIVATE = "is an address of a private network: set HUILIU_WEBHOOK_ALLOW_PRIVATE=true if that is meant"


class PublicResolver(AbstractResolver):
    """Resolves names to public addresses only."""

    def __init__(self) -> None:
        self._inner = ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)  # type: ignore[arg-type]
        public = [one for one in found if _is_public(one["host"])]
        if not public:
            raise OSError(errno.EACCES, f"{host} {_PRIVATE}")
        return public

    async def close(self) -> None:
        await self._inner.close()


def _is_public(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None) or getattr(found, "sixtofour", None)
    return found.is_global and not found.is_multicast and (mapped is None or mapped.is_global)


def checked_url(text: str, *, allow_private: bool) -> URL:
    """The address to post to. Raises InvalidInput for one that is none, or is plainly private."""
    url = URL(text)
    if url.scheme not in ("http", "https") or not url.host or url.user is not None:
        raise InvalidInput("HUILIU_WEBHOOK_URL must be like https://shop.example/messages.", "webhook_url")
    try:
        ipaddress.ip_address(url.host)
    except ValueError:
        return url
    if not allow_private and not _is_public(url.host):
        raise InvalidInput(f"HUILIU_WEBHOOK_URL: {url.host} {_PRIVATE}.", "webhook_url")
    return url


class WebhookTransport:
    """Posts ``{message_id, member_id, title, body, url, data}``; 2xx is done, 410 ends the member."""

    name = "webhook"
    idempotent_s = 0

    def __init__(
        self,
        url: str,
        secret: str,
        *,
        allow_private: bool = False,
        connections: int | None = None,
    ) -> None:
        self._url = checked_url(url, allow_private=allow_private)
        self._secret, self._allow_private = secret, allow_private
        self._connections = connections or CONNECTIONS

    async def __aenter__(self) -> Self:
        resolver = None if self._allow_private else PublicResolver()
        self._lean = lean.open_session(self._connections, resolver)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._lean.close()

    async def send_many(self, messages: Sequence[Outgoing], deadline_s: float) -> list[Outcome]:
        return await send_each(messages, self._send, self._connections, deadline_s)

    async def _send(self, message: Outgoing) -> None:
        payload = message.payload
        assert isinstance(payload, WebhookPayload)
        body = orjson.dumps(
            {
                "message_id": message.message_id,
                "member_id": payload.member_id,
                "title": payload.title,
                "body": payload.body,
                "url": payload.url,
                "data": payload.data,
            }
        )
        # Signed by the real clock, which is the one that the receiver compares it with.
        headers = {
            "content-type": "application/json",
            "idempotency-key": message.client_id,
            "x-huiliu-signature": sign(self._secret, body, int(datetime.now(UTC).timestamp())),
        }
        answer = await lean.post(self._lean, self._url, body, headers)
        if 200 <= answer.status < 300:
            return
        reaction = Reaction.SUPPRESS if answer.status == 410 else Reaction.FAIL
        raise TransportError(
            f"{self._url.host} answered {answer.status}.",
            reaction,
            code=str(answer.status),
            suppression="invalid",
        )
