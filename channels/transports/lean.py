"""HTTP for one request a message: aiohttp by itself, which costs a sixth of what httpx does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from channels.transports.base import Reaction, TransportError
from channels.transports.http import CONNECT_S, NOT_CONNECTED, TIMEOUT_S, retry_after

IDLE_S = 4.0
"""Less than the five seconds after which many servers close: a message must not meet a closing one."""
DNS_S = 300
MAX_ANSWER = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response; ``headers`` are found whatever their case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def open_session(connections: int, resolver: AbstractResolver | None = None) -> aiohttp.ClientSession:
    """A session without cookies, proxies or credentials from the environment. Made inside the loop."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=connections, resolver=resolver, ttl_dns_cache=DNS_S, keepalive_timeout=IDLE_S
        ),
        timeout=aiohttp.ClientTimeout(sock_connect=CONNECT_S, sock_read=TIMEOUT_S, total=2 * TIMEOUT_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=True,
    )


async def post(http: aiohttp.ClientSession, url: URL, content: bytes, headers: Mapping[str, str]) -> Answer:
    """The answer, following no redirect. Raises TransportError: UNREACHABLE when no connection came about,
    UNKNOWN when the request may have arrived, RETRY (with the server's own wait) for 5xx and 429.
    """
    host = url.host or ""
    try:
        async with http.post(url, data=content, headers=headers, allow_redirects=False) as response:
            if (response.content_length or 0) > MAX_ANSWER:
                raise aiohttp.ClientPayloadError(f"an answer of {response.content_length:,} bytes")
            answer = Answer(response.status, response.headers, await response.read())
    except NOT_CONNECTED as error:
        raise TransportError(
            f"{host} cannot be reached: {error}", Reaction.UNREACHABLE, code="connect"
        ) from None
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise TransportError(f"No answer from {host}: {error!r}", Reaction.UNKNOWN, code="silence") from None
    if answer.status >= 500 or answer.status == 429:
        raise TransportError(
            f"{host} answered {answer.status}.",
            Reaction.RETRY,
            code=str(answer.status),
            after_s=retry_after(answer.headers),
        )
    return answer
