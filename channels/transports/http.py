"""The HTTP client that providers' transports share: httpx's API over aiohttp, bounded in time and number."""

from __future__ import annotations

from typing import Any

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from channels.transports.base import Reaction, TransportError

TIMEOUT_S = 20.0
CONNECT_S = 5.0
_NOT_CONNECTED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)


def client(connections: int) -> httpx.AsyncClient:
    """A client that follows no redirect and reads no proxy or credentials from the environment."""
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    return httpx.AsyncClient(
        transport=AiohttpTransport(limits=limits, trust_env=False),
        timeout=httpx.Timeout(TIMEOUT_S, connect=CONNECT_S),
        follow_redirects=False,
        trust_env=False,
    )


async def ask(http: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
    """The whole response. Raises TransportError: UNREACHABLE when no connection came about, UNKNOWN when
    the request may have arrived, RETRY for 5xx and 429.
    """
    try:
        response = await http.send(request)
    except httpx.TransportError as error:
        # The transport calls a refused connection and one lost under way by the same name
        # (ConnectTimeout); only what lies beneath tells them apart.
        host = request.url.host
        if isinstance(error.__cause__, _NOT_CONNECTED):
            raise TransportError(
                f"{host} cannot be reached: {error}", Reaction.UNREACHABLE, code="connect"
            ) from None
        raise TransportError(f"No answer from {host}: {error!r}", Reaction.UNKNOWN, code="silence") from None
    if response.status_code >= 500 or response.status_code == 429:
        raise TransportError(
            f"{request.url.host} answered {response.status_code}.",
            Reaction.RETRY,
            code=str(response.status_code),
        )
    return response


def json_of(response: httpx.Response) -> dict[str, Any]:
    """The JSON object of an answer. Raises TransportError(UNKNOWN) for anything else."""
    try:
        found = response.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise TransportError(
            f"The provider answered {response.status_code} with something that is no JSON object.",
            Reaction.UNKNOWN,
            code=str(response.status_code),
        )
    return found
