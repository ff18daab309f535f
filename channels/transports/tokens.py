"""Access tokens that all workers share: a row of ``provider_tokens`` each, refreshed by one process.

Providers limit how often a token is asked for, and some end the old one when they give a new one: so one
process refreshes while the others use the old one or wait.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import httpx
import sqlalchemy as sa

from channels.models import ProviderToken
from channels.sql import table_of
from channels.transports.base import Reaction, TransportError
from core.bulk import bulk_insert
from core.db import Database

RENEW_EARLY = timedelta(seconds=300)
REFRESH_LEASE = timedelta(seconds=30)
WAIT_S = 0.2


class SharedToken(ABC):
    """The token kept under ``key``; a subclass asks its provider for it."""

    def __init__(self, database: Database, key: str, clock: Callable[[], datetime]) -> None:
        self._database, self._key, self._clock = database, key, clock
        self._known: tuple[str, datetime] | None = None

    @abstractmethod
    async def _ask(self, http: httpx.AsyncClient, *, force: bool) -> tuple[str, int]:
        """(a token, its seconds); with ``force`` another than before, where the provider can be told so.

        Raises TransportError: UNREACHABLE for silence, since nothing of a message was handed over.
        """

    async def get(self, http: httpx.AsyncClient) -> str:
        """A valid token. Raises TransportError when the provider gives none."""
        if self._known is not None and self._clock() < self._known[1] - RENEW_EARLY:
            return self._known[0]
        return await self._renewed(http, refused=None)

    async def replace(self, http: httpx.AsyncClient, refused: str) -> str:
        """Another token than ``refused``: the one somebody already fetched, or a new one."""
        self._known = None
        return await self._renewed(http, refused)

    async def _renewed(self, http: httpx.AsyncClient, refused: str | None) -> str:
        for _ in range(int(REFRESH_LEASE.total_seconds() / WAIT_S) + 1):
            token, mine = await asyncio.to_thread(self._take, refused)
            if token is not None:
                return token
            if mine:
                return await self._fetch(http, refused)
            await asyncio.sleep(WAIT_S)
        raise TransportError("No access token within 30 s.", Reaction.UNREACHABLE, code="token")

    def _take(self, refused: str | None) -> tuple[str | None, bool]:
        """(a usable token, False), (None, True): we refresh, or (None, False): somebody else does."""
        now = self._clock()
        with self._database.write() as session:
            bulk_insert(session, table_of(ProviderToken), ("key",), [(self._key,)], conflict=("key",))
            row = session.execute(
                sa.select(ProviderToken).where(ProviderToken.key == self._key).with_for_update()
            ).scalar_one()
            usable = row.token is not None and row.token != refused and row.expires_at is not None
            if usable and row.expires_at is not None and now < row.expires_at - RENEW_EARLY:
                self._known = (str(row.token), row.expires_at)
                return row.token, False
            if row.refreshing_until is None or row.refreshing_until < now:
                row.refreshing_until = now + REFRESH_LEASE
                return None, True
            if usable and row.expires_at is not None and now < row.expires_at:
                return row.token, False  # the old one works while another process fetches the next
            return None, False

    async def _fetch(self, http: httpx.AsyncClient, refused: str | None) -> str:
        try:
            token, expires_in = await self._ask(http, force=False)
            if token == refused:
                # Providers repeat a token that they themselves no longer take: only then force.
                token, expires_in = await self._ask(http, force=True)
        except TransportError:
            await asyncio.to_thread(self._store, None, None)
            raise
        expires_at = self._clock() + timedelta(seconds=expires_in)
        await asyncio.to_thread(self._store, token, expires_at)
        self._known = (token, expires_at)
        return token

    def _store(self, token: str | None, expires_at: datetime | None) -> None:
        values: dict[str, Any] = {"refreshing_until": None}
        if token is not None:
            values |= {"token": token, "expires_at": expires_at}
        with self._database.write() as session:
            session.execute(sa.update(ProviderToken).where(ProviderToken.key == self._key).values(**values))
