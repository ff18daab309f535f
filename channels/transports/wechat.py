"""Messages of a WeChat official (service) account, and its shared access token.

Template messages: WeChat drops a repeated ``client_msg_id`` per openid for ten minutes, so a repetition
inside them is safe. Subscription and customer-service messages have no such id: they take a grant or a
place in a window first (``channels.wechat.windows``), which lets a message be sent once. The token lives
in ``provider_tokens``, one row an appid for all workers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from types import MappingProxyType, TracebackType
from typing import Any, Self

import httpx
import orjson
from yarl import URL

from channels.transports import lean
from channels.transports.base import Outcome, Outgoing, Reaction, TransportError, WechatPayload, send_each
from channels.transports.http import ask, client, json_of, object_of
from channels.transports.tokens import SharedToken
from channels.wechat import windows
from channels.wechat.windows import Wish
from core.contacts import ADDRESS_COLUMN, WECHAT, blind_index
from core.db import Database

CONNECTIONS = 10
TEMPLATE, SUBSCRIPTION, SERVICE = "template", "subscription", "service"
KINDS = (TEMPLATE, SUBSCRIPTION, SERVICE)
PATHS: Mapping[str, str] = MappingProxyType(
    {
        TEMPLATE: "/cgi-bin/message/template/send",
        SUBSCRIPTION: "/cgi-bin/message/subscribe/bizsend",
        SERVICE: "/cgi-bin/message/custom/send",
    }
)
CHINA = timezone(timedelta(hours=8))
"""Daily quotas begin anew at its midnight."""
BAD_TOKEN = frozenset({40001, 40014, 42001})
_QUOTA, _NO_GRANT, _NOT_FOLLOWING = 45009, 43101, 43004
_NO_WINDOW = frozenset({45015, 45047})
_ACCOUNT = (40001, 40014, 42001, 40013, 40125, 40164, 40243, 48001, 50002)
_HEADERS = {"content-type": "application/json; charset=utf-8"}

REACTIONS: Mapping[int, Reaction] = MappingProxyType(
    {
        -1: Reaction.RETRY,
        40003: Reaction.SUPPRESS,
        _NOT_FOLLOWING: Reaction.SUPPRESS,
        43019: Reaction.SUPPRESS,
        _NO_GRANT: Reaction.FAIL,
        40037: Reaction.STOP,
        47003: Reaction.STOP,
        41030: Reaction.STOP,
        40165: Reaction.STOP,
        _QUOTA: Reaction.HOLD,
        45011: Reaction.RETRY,
        **dict.fromkeys(_NO_WINDOW, Reaction.FAIL),
        **dict.fromkeys(_ACCOUNT, Reaction.PAUSE),
    }
)
"""errcode → reaction; an unknown one fails the message and is kept as its code. The token's codes come
here only when a new token was refused too: then the secret is wrong."""
_SUPPRESSIONS = {40003: "invalid", _NOT_FOLLOWING: "unfollowed", 43019: "blocked"}


def error_of(code: int, message: str, now: datetime) -> TransportError:
    """What an errcode means."""
    after = 60.0 if code == 45011 else None
    return TransportError(
        f"{code} {message}"[:200],
        REACTIONS.get(code, Reaction.FAIL),
        code=str(code),
        after_s=until_reset_s(now) if code == _QUOTA else after,
        suppression=_SUPPRESSIONS.get(code, "blocked"),
    )


def until_reset_s(now: datetime) -> float:
    """Seconds until WeChat's daily quotas begin anew."""
    local = now.astimezone(CHINA)
    midnight = (local + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return (midnight - local).total_seconds()


def body_of(message: Outgoing, payload: WechatPayload) -> dict[str, Any]:
    """The request's object for the payload's kind."""
    if payload.kind == SERVICE:
        return {"touser": message.address, "msgtype": "text", "text": {"content": payload.text}}
    body: dict[str, Any] = {
        "touser": message.address,
        "template_id": payload.template_id,
        "data": {name: {"value": text} for name, text in payload.data.items()},
    }
    if payload.kind == TEMPLATE:
        body["client_msg_id"] = message.client_id
    if payload.url:
        body["url" if payload.kind == TEMPLATE else "page"] = payload.url
    if payload.miniprogram is not None:
        appid, path = payload.miniprogram
        body["miniprogram"] = {"appid": appid, "pagepath": path}
    return body


class TokenCache(SharedToken):
    """The access token of an appid, by WeChat's stable interface."""

    def __init__(
        self, database: Database, endpoint: str, appid: str, secret: str, clock: Callable[[], datetime]
    ) -> None:
        super().__init__(database, f"wechat:{appid}", clock)
        self._endpoint, self._appid, self._secret = endpoint.rstrip("/"), appid, secret

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
            raise error_of(
                int(answer.get("errcode", -1)), str(answer.get("errmsg", "no token")), self._clock()
            )
        return str(answer["access_token"]), int(answer["expires_in"])


class WechatTransport:
    """Sends template, subscription and customer-service messages, one request a recipient."""

    name = "wechat"
    idempotent_s = 590
    """WeChat's ten minutes, less the time a request may be on its way; of template messages. The others
    are kept from being sent twice by what they take."""

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
        self._database, self._clock = database, clock
        self._tokens = TokenCache(database, endpoint, appid, secret, clock)
        self._urls: dict[str, URL] = {}
        self._url_token = ""
        self._quota_until: dict[str, datetime] = {}
        """By kind: WeChat said that today's quota is used up."""

    @property
    def idempotent(self) -> bool:
        return self.idempotent_s > 0

    async def __aenter__(self) -> Self:
        self._http = client(1)
        self._lean = lean.open_session(self._connections)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._lean.close()
        await self._http.aclose()

    async def send_many(self, messages: Sequence[Outgoing], deadline_s: float) -> list[Outcome]:
        wishes = {index: wish for index, message in enumerate(messages) if (wish := _wish(message))}
        if not wishes:
            return await send_each(messages, self._send, self._connections, deadline_s)
        refused = await asyncio.to_thread(self._take, wishes)
        going = [index for index in range(len(messages)) if index not in refused]
        sent = await send_each(
            [messages[index] for index in going], self._send, self._connections, deadline_s
        )
        found = refused | dict(zip(going, sent, strict=True))
        await asyncio.to_thread(self._return, {i: w for i, w in wishes.items() if i not in refused}, found)
        return [found[index] for index in range(len(messages))]

    def _take(self, wishes: Mapping[int, Wish]) -> dict[int, Outcome]:
        """Take a grant or a window's place for each; the outcomes of those that cannot be sent."""
        with self._database.write() as session:
            found = windows.take(session, list(wishes.values()), self._clock())
        return {
            index: Outcome(error=_refusal(wish, result))
            for (index, wish), result in zip(wishes.items(), found, strict=True)
            if result != windows.TAKEN
        }

    def _return(self, wishes: Mapping[int, Wish], outcomes: Mapping[int, Outcome]) -> None:
        """Give back what was not used, and forget what WeChat says is used up."""
        back: list[Wish] = []
        used_up: list[Wish] = []
        for index, wish in wishes.items():
            error = outcomes[index].error
            if error is None or error.reaction is Reaction.UNKNOWN:
                continue
            gone = error.code in (str(_NO_GRANT), *map(str, _NO_WINDOW))
            (used_up if gone else back).append(wish)
        if back or used_up:
            with self._database.write() as session:
                windows.give_back(session, back)
                windows.close(session, used_up)

    async def _send(self, message: Outgoing) -> str | None:
        payload = message.payload
        assert isinstance(payload, WechatPayload)
        now = self._clock()
        if (until := self._quota_until.get(payload.kind)) is not None and now < until:
            raise error_of(_QUOTA, "daily quota used up, not asked again", now)
        # orjson writes raw UTF-8: WeChat refuses \u escapes (40033).
        content = orjson.dumps(body_of(message, payload))
        token = await self._tokens.get(self._http)
        answer = await self._post(token, payload.kind, content)
        if answer.get("errcode") in BAD_TOKEN:
            token = await self._tokens.replace(self._http, token)
            answer = await self._post(token, payload.kind, content)
        if code := int(answer.get("errcode", 0)):
            if code == _QUOTA:
                self._quota_until[payload.kind] = now + timedelta(seconds=until_reset_s(now))
            raise error_of(code, str(answer.get("errmsg", "")), now)
        return str(answer["msgid"]) if "msgid" in answer else None

    async def _post(self, token: str, kind: str, content: bytes) -> dict[str, Any]:
        try:
            answer = await lean.post(self._lean, self._url(token, kind), content, _HEADERS)
            return object_of(answer.status, answer.body)
        except TransportError as error:
            error.repeatable = kind == TEMPLATE
            raise

    def _url(self, token: str, kind: str) -> URL:
        if token != self._url_token:
            self._url_token = token
            self._urls = {
                name: URL(f"{self._endpoint}{path}").with_query(access_token=token)
                for name, path in PATHS.items()
            }
        return self._urls[kind]


def _wish(message: Outgoing) -> Wish | None:
    """What the message must take before it may be sent."""
    payload = message.payload
    assert isinstance(payload, WechatPayload)
    if payload.kind == TEMPLATE:
        return None
    index = str(blind_index(ADDRESS_COLUMN[WECHAT], message.address))
    template = payload.template_id if payload.kind == SUBSCRIPTION else windows.SERVICE
    return Wish(message.client_id, index, template)


def _refusal(wish: Wish, result: str) -> TransportError:
    """Why a message is not sent, in the codes that WeChat itself would give."""
    if result == windows.PERHAPS_SENT:
        return TransportError(
            "An earlier attempt got no answer.", Reaction.UNKNOWN, code="silence", repeatable=False
        )
    if wish.template_id == windows.SERVICE:
        return TransportError(
            "45015 the member has not written within 48 hours.", Reaction.FAIL, code="45015"
        )
    return TransportError(
        "43101 the member has no consent left for this template.", Reaction.FAIL, code=str(_NO_GRANT)
    )
