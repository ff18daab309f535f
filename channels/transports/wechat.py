"""WeChat template messages of an official (service) account, and its shared access token.

WeChat drops a repeated ``client_msg_id`` per openid for ten minutes, so a repetition inside them is
safe. The token lives in ``provider_tokens``, one row an appid for all workers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import MappingProxyType, TracebackType
from typing import Any, Self

import httpx
import orjson
import sqlalchemy as sa

from channels.models import ProviderToken
from channels.sql import table_of
from channels.transports.base import Outcome, Outgoing, Reaction, TransportError, WechatPayload, send_each
from channels.transports.http import ask, client, json_of
from core.db import Database, bulk_insert

CONNECTIONS = 10
RENEW_EARLY = timedelta(seconds=300)
REFRESH_LEASE = timedelta(seconds=30)
WAIT_S = 0.2
_DAY_S = 24 * 3600.0
_BAD_TOKEN = frozenset({40001, 40014, 42001})

REACTIONS: Mapping[int, Reaction] = MappingProxyType(
    {
        -1: Reaction.RETRY,
        40003: Reaction.SUPPRESS,
        43004: Reaction.FAIL,
        43019: Reaction.SUPPRESS,
        43101: Reaction.FAIL,
        40037: Reaction.STOP,
        47003: Reaction.STOP,
        41030: Reaction.STOP,
        40165: Reaction.STOP,
        45009: Reaction.PAUSE,
        45011: Reaction.RETRY,
        45015: Reaction.FAIL,
        45047: Reaction.FAIL,
        **dict.fromkeys((40001, 40014, 42001, 40013, 40125, 40164, 40243, 48001, 50002), Reaction.PAUSE),
    }
)
"""errcode → reaction; an unknown one fails the message. The token's codes come here only when a
new token was refused too: then the secret is wrong."""
_SUPPRESSIONS = {40003: "invalid", 43019: "blocked"}


def error_of(code: int, message: str) -> TransportError:
    """What an errcode means."""
    reaction = REACTIONS.get(code, Reaction.FAIL)
    after = 60.0 if code == 45011 else None
    return TransportError(
        f"{code} {message}"[:200],
        reaction,
        code=str(code),
        after_s=after,
        suppression=_SUPPRESSIONS.get(code, "blocked"),
    )


class TokenCache:
    """The access token of an appid: one process refreshes, the others use the old one or wait."""

    def __init__(
        self, database: Database, endpoint: str, appid: str, secret: str, clock: Callable[[], datetime]
    ) -> None:
        self._database, self._endpoint, self._clock = database, endpoint.rstrip("/"), clock
        self._appid, self._secret = appid, secret
        self._key = f"wechat:{appid}"
        self._known: tuple[str, datetime] | None = None

    async def get(self, http: httpx.AsyncClient) -> str:
        """A valid token. Raises TransportError when WeChat gives none."""
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
        raise TransportError("No WeChat access token within 30 s.", Reaction.UNREACHABLE, code="token")

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
                # The stable interface repeats a token that WeChat itself no longer takes: only then force.
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

    async def _ask(self, http: httpx.AsyncClient, *, force: bool) -> tuple[str, int]:
        body = {
            "grant_type": "client_credential",
            "appid": self._appid,
            "secret": self._secret,
            "force_refresh": force,
        }
        request = http.build_request(
            "POST", f"{self._endpoint}/cgi-bin/stable_token", content=orjson.dumps(body)
        )
        try:
            answer = json_of(await ask(http, request))
        except TransportError as error:
            # Nothing of a message was handed over yet, whatever became of this request.
            raise TransportError(str(error), Reaction.UNREACHABLE, code=error.code) from None
        if "access_token" not in answer:
            raise error_of(int(answer.get("errcode", -1)), str(answer.get("errmsg", "no token")))
        return str(answer["access_token"]), int(answer["expires_in"])


class WechatTransport:
    """Sends template messages, one request a recipient."""

    name = "wechat"
    idempotent_s = 590
    """WeChat's ten minutes, less the time a request may be on its way."""

    def __init__(
        self,
        database: Database,
        endpoint: str,
        appid: str,
        secret: str,
        *,
        connections: int | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._endpoint, self._connections = endpoint.rstrip("/"), connections or CONNECTIONS
        self._tokens = TokenCache(database, endpoint, appid, secret, clock)

    @property
    def idempotent(self) -> bool:
        return self.idempotent_s > 0

    async def __aenter__(self) -> Self:
        self._http = client(self._connections)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def send_many(self, messages: Sequence[Outgoing], deadline_s: float) -> list[Outcome]:
        return await send_each(messages, self._send, self._connections, deadline_s)

    async def _send(self, message: Outgoing) -> str:
        token = await self._tokens.get(self._http)
        answer = await self._post(token, message)
        if answer.get("errcode") in _BAD_TOKEN:
            token = await self._tokens.replace(self._http, token)
            answer = await self._post(token, message)
        if answer.get("errcode", 0) != 0:
            raise error_of(int(answer["errcode"]), str(answer.get("errmsg", "")))
        return str(answer["msgid"])

    async def _post(self, token: str, message: Outgoing) -> dict[str, Any]:
        payload = message.payload
        assert isinstance(payload, WechatPayload)
        body = {
            "touser": message.address,
            "template_id": payload.template_id,
            "client_msg_id": message.client_id,
            "data": {name: {"value": text} for name, text in payload.data.items()},
        }
        if payload.url:
            body["url"] = payload.url
        request = self._http.build_request(
            "POST",
            f"{self._endpoint}/cgi-bin/message/template/send",
            params={"access_token": token},
            # orjson writes raw UTF-8: WeChat refuses \u escapes (40033).
            content=orjson.dumps(body),
            headers={"content-type": "application/json; charset=utf-8"},
        )
        return json_of(await ask(self._http, request))
