"""The HTTP client that providers' transports share: httpx's API over aiohttp, bounded in time and number."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self

import aiohttp
import httpx
import orjson
from httpx_aiohttp import AiohttpTransport

from channels.transports.base import Reaction, TransportError

TIMEOUT_S = 20.0
CONNECT_S = 5.0
MAX_RETRY_AFTER_S = 24 * 3600.0
NOT_CONNECTED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)


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
    the request may have arrived, RETRY (with the server's own wait) for 5xx and 429.
    """
    try:
        response = await http.send(request)
    except httpx.TransportError as error:
        # The transport calls a refused connection and one lost under way by the same name
        # (ConnectTimeout); only what lies beneath tells them apart.
        host = request.url.host
        if isinstance(error.__cause__, NOT_CONNECTED):
            raise TransportError(
                f"{host} cannot be reached: {error}", Reaction.UNREACHABLE, code="connect"
            ) from None
        raise TransportError(f"No answer from {host}: {error!r}", Reaction.UNKNOWN, code="silence") from None
    if response.status_code >= 500 or response.status_code == 429:
        raise TransportError(
            f"{request.url.host} answered {response.status_code}.",
            Reaction.RETRY,
            code=str(response.status_code),
            after_s=retry_after(response.headers),
        )
    return response


def object_of(status: int, body: bytes) -> dict[str, Any]:
    """The JSON object of an answer. Raises TransportError(UNKNOWN) for anything else."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise TransportError(
            f"The provider answered {status} with something that is no JSON object.",
            Reaction.UNKNOWN,
            code=str(status),
        )
    return found


def json_of(response: httpx.Response) -> dict[str, Any]:
    """The JSON object of a response; see :func:`object_of`."""
    return object_of(response.status_code, response.content)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that ``Retry-After`` asks for, at most a day; None where it says nothing.

    A date counts from the answer's own ``Date``, since the server's clock may be another than ours.
    """
    text = headers.get("Retry-After", "")
    if text.isdigit() and len(text) < 10:
        return min(float(text), MAX_RETRY_AFTER_S)
    try:
        until = parsedate_to_datetime(text)
        given = headers.get("Date")
        since = datetime.now(UTC) if given is None else parsedate_to_datetime(given)
        return min(max((until - since).total_seconds(), 0.0), MAX_RETRY_AFTER_S)
    except (TypeError, ValueError):  # nothing we know, or a date without a zone
        return None


class HttpTransport:
    """What transports over HTTP share: a client for as long as they are entered.

    No provider drops repetitions unless its own class says so.
    """

    idempotent_s = 0

    def __init__(self, connections: int) -> None:
        self._connections = connections

    async def __aenter__(self) -> Self:
        self._http = client(self._connections)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()
