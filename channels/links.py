"""Whether the links of a message lead anywhere: asked only when somebody presses the button.

Nothing but public addresses is asked, whatever a name resolves to when the connection is made, unless
host and port are the shop's own; redirects are not followed, so that none leads inside. One look is bounded
in number and in time.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.parse import urlsplit

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from channels.transports.webhook import PublicResolver, checked_url
from core.errors import InvalidInput
from core.settings import Settings

TIMEOUT_S = 5.0
MAX_LINKS = 50
AT_ONCE = 8
_GONE = 400
_NO_HEAD = frozenset({400, 403, 404, 405, 406, 501})
"""Answers to HEAD after which GET is asked: some servers know no HEAD."""
_EXPRESSION = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)


@dataclass(frozen=True)
class Looked:
    """What a link answered. ``state``: ``ok``, ``dead``, ``unreachable``, ``private`` or ``skipped``."""

    url: str
    state: str
    status: int | None = None


class _Hrefs(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, None] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        url = named.get("href") if tag in ("a", "mj-button", "mj-navbar-link", "mj-image") else None
        if url and url.strip():
            self.found[url.strip()] = None


def links_of(html: str, others: Iterable[str] = ()) -> list[str]:
    """The web addresses of a source's links and of ``others``, each once; those with expressions as well."""
    parser = _Hrefs()
    parser.feed(html)
    wanted = [*parser.found, *(url.strip() for url in others)]
    return list(dict.fromkeys(url for url in wanted if url.startswith(("http://", "https://"))))[:MAX_LINKS]


def check_links(settings: Settings, urls: Sequence[str]) -> list[Looked]:
    """Ask each address by HEAD, then GET; never raises for what an address does."""
    return asyncio.run(_check(settings, urls[:MAX_LINKS]))


async def _check(settings: Settings, urls: Sequence[str]) -> list[Looked]:
    own = {_place(url) for url in (settings.base_url, settings.shop_url) if url}
    limit = asyncio.Semaphore(AT_ONCE)
    async with _client(None) as inside, _client(PublicResolver()) as public:

        async def look(url: str) -> Looked:
            if _EXPRESSION.search(url):
                return Looked(url, "skipped")
            trusted = _place(url) in own
            async with limit:
                return await _look(inside if trusted else public, url, trusted=trusted)

        return list(await asyncio.gather(*(look(url) for url in urls)))


def _place(url: str) -> tuple[str | None, str]:
    """Host and port as written: another port of the shop's own host is another service."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return None, ""
    return parts.hostname, parts.netloc.rpartition("@")[2].lower()


def _client(resolver: PublicResolver | None) -> httpx.AsyncClient:
    connector = aiohttp.TCPConnector(resolver=resolver, limit=AT_ONCE)
    transport = AiohttpTransport(client=lambda: aiohttp.ClientSession(connector=connector, trust_env=False))
    return httpx.AsyncClient(transport=transport, timeout=TIMEOUT_S, follow_redirects=False, trust_env=False)


async def _look(client: httpx.AsyncClient, url: str, *, trusted: bool) -> Looked:
    try:
        checked_url(url, allow_private=trusted)
    except (InvalidInput, ValueError):
        return Looked(url, "private")
    try:
        async with asyncio.timeout(TIMEOUT_S):
            answer = await client.head(url)
            status = answer.status_code
            if status in _NO_HEAD:
                # Only the head of the answer is of interest, not its body.
                async with client.stream("GET", url) as opened:
                    status = opened.status_code
    except (httpx.HTTPError, TimeoutError, ValueError, OSError) as error:
        return Looked(url, "private" if "private network" in _reasons(error) else "unreachable")
    return Looked(url, "dead" if status >= _GONE else "ok", status)


def _reasons(error: BaseException | None) -> str:
    """The words of an error and of what caused it."""
    found = []
    while error is not None:
        found.append(str(error))
        error = error.__cause__ or error.__context__
    return " ".join(found)
