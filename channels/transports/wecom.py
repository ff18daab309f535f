"""Messages of an employee to the company's customers at WeCom ("group messages", one chat each).

A request makes a task that the employee confirms or not: what was accepted is ``created``, and
:mod:`channels.wecom.poll` finds out what became of it. One request carries one content for up to 10,000
customers, so that a batch is sent by equal contents. WeCom drops no repetitions: a request without an
answer is UNKNOWN.

Documented: the addresses, the shapes, ``fail_list``, and that tokens live for 7,200 s. From memory, kept
in :data:`REACTIONS` alone so that they can be corrected: what the codes other than the token's mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import httpx
import orjson

from channels.transports.base import (
    NOT_TRIED,
    Outcome,
    Outgoing,
    Reaction,
    TransportError,
    WecomPayload,
    send_groups,
)
from channels.transports.http import HttpTransport, ask, json_of
from channels.transports.tokens import SharedToken
from channels.wecom.limits import LINK, MAX_RECIPIENTS
from core.contacts import ADDRESS_COLUMN, WECOM, blind_index
from core.db import Database

CONNECTIONS = 4
PATH = "/cgi-bin/externalcontact"
BAD_TOKEN = frozenset({40001, 40014, 42001})
INDEX = 16
"""Characters of a customer's blind index in a message's ``provider_id``."""
BUSY_S = 60.0
_HEADERS = {"content-type": "application/json; charset=utf-8"}
_BUSY = frozenset({45009, 45033})
_OF_ONE = frozenset({"40096", "84061"})
"""Codes of one customer, for which the whole request is refused."""
_ACCOUNT = (*BAD_TOKEN, 40003, 40013, 40056, 41004, 48002, 60011, 60020, 60111, 84074, 301002)

REACTIONS: Mapping[int, Reaction] = MappingProxyType(
    {
        -1: Reaction.RETRY,
        **dict.fromkeys(sorted(_BUSY), Reaction.RETRY),
        40096: Reaction.SUPPRESS,
        84061: Reaction.SUPPRESS,
        **dict.fromkeys(_ACCOUNT, Reaction.PAUSE),
    }
)
"""errcode → reaction; another (41048: nobody to send to) fails the message and is kept as its code.
-1 busy · 45009, 45033 too many requests · 40096 no such customer, 84061 no contact of the company ·
secret, corpid, sender, IP address or permission refused: the rest. The token's codes come here only when
a new token was refused too."""
_SUPPRESSIONS = {40096: "invalid", 84061: "unfollowed"}
FAIL_LIST = "fail_list"


def error_of(code: int, message: str) -> TransportError:
    """What an errcode means."""
    return TransportError(
        f"{code} {message}"[:200],
        REACTIONS.get(code, Reaction.FAIL),
        code=str(code),
        after_s=BUSY_S if code in _BUSY else None,
        suppression=_SUPPRESSIONS.get(code, "blocked"),
    )


def provider_id(msgid: str, external_userid: str) -> str:
    """A msgid covers a request: with the customer's blind index it names one message."""
    return f"{msgid}:{(blind_index(ADDRESS_COLUMN[WECOM], external_userid) or '')[:INDEX]}"


def msgid_of(provider: str) -> str:
    """The request that a message's ``provider_id`` belongs to."""
    return provider.rpartition(":")[0]


class CorpToken(SharedToken):
    """The access token of a company's app; asked again, WeCom repeats it while it is good."""

    def __init__(
        self, database: Database, endpoint: str, corpid: str, secret: str, clock: Callable[[], datetime]
    ) -> None:
        # A company has a secret an app, and a token each.
        app = (blind_index("wecom-app", secret) or "")[:INDEX]
        super().__init__(database, f"wecom:{corpid}:{app}"[:120], clock)
        self._endpoint, self._query = endpoint, {"corpid": corpid, "corpsecret": secret}

    async def _ask(self, http: httpx.AsyncClient, *, force: bool) -> tuple[str, int]:
        request = http.build_request("GET", f"{self._endpoint}/cgi-bin/gettoken", params=self._query)
        try:
            answer = json_of(await ask(http, request))
        except TransportError as error:
            # Nothing of a message was handed over yet, whatever became of this request.
            raise TransportError(str(error), Reaction.UNREACHABLE, code=error.code) from None
        if not answer.get("access_token"):
            raise error_of(int(answer.get("errcode", -1)), str(answer.get("errmsg", "no token")))
        return str(answer["access_token"]), int(answer.get("expires_in", 0))


class WecomTransport(HttpTransport):
    """Creates the tasks, and asks what became of them."""

    name = "wecom"

    def __init__(
        self,
        database: Database,
        endpoint: str,
        corpid: str,
        secret: str,
        sender: str,
        *,
        connections: int | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__(connections or CONNECTIONS)
        self._endpoint, self._sender = endpoint.rstrip("/"), sender
        self._tokens = CorpToken(database, self._endpoint, corpid, secret, clock)

    async def send_many(self, messages: Sequence[Outgoing], deadline_s: float) -> list[Outcome]:
        async def send(places: Sequence[int]) -> dict[int, Outcome]:
            answer = await self._call("add_msg_template", self._body(messages, places))
            refused = {str(one) for one in answer.get("fail_list") or []}
            msgid = str(answer.get("msgid") or "")
            return {place: _outcome(messages[place].address, msgid, refused) for place in places}

        sent = await send_groups(
            _groups(messages),
            send,
            splits=lambda error: error.code in _OF_ONE,
            concurrency=self._connections,
            deadline_s=deadline_s,
        )
        return [sent.get(place, NOT_TRIED) for place in range(len(messages))]

    def _body(self, messages: Sequence[Outgoing], group: Sequence[int]) -> dict[str, Any]:
        payload = _payload(messages[group[0]])
        body: dict[str, Any] = {
            "chat_type": "single",
            # Two members may be one customer.
            "external_userid": list(dict.fromkeys(messages[number].address for number in group)),
            "sender": self._sender,
            "text": {"content": payload.text},
        }
        if payload.link is not None:
            link = {name: text for name, text in zip(LINK, payload.link, strict=True) if text}
            body["attachments"] = [{"msgtype": "link", "link": link}]
        return body

    async def results(self, msgid: str, limit: int, cursor: str) -> tuple[list[dict[str, Any]], str]:
        """(what became of a task's messages, the next page's cursor or ""): ``external_userid``,
        ``status``, ``send_time``. Raises TransportError.
        """
        body: dict[str, Any] = {"msgid": msgid, "userid": self._sender, "limit": limit}
        if cursor:
            body["cursor"] = cursor
        answer = await self._call("get_groupmsg_send_result", body)
        listed = [one for one in answer.get("send_list") or [] if isinstance(one, dict)]
        return listed, str(answer.get("next_cursor") or "")

    async def cancel(self, msgid: str) -> None:
        """Let nobody confirm a task any more. Raises TransportError."""
        await self._call("cancel_groupmsg_send", {"msgid": msgid})

    async def _call(self, action: str, body: Mapping[str, Any]) -> dict[str, Any]:
        content = orjson.dumps(body)
        token = await self._tokens.get(self._http)
        answer = await self._post(action, token, content)
        if answer.get("errcode") in BAD_TOKEN:
            token = await self._tokens.replace(self._http, token)
            answer = await self._post(action, token, content)
        if code := int(answer.get("errcode", 0)):
            raise error_of(code, str(answer.get("errmsg", "")))
        return answer

    async def _post(self, action: str, token: str, content: bytes) -> dict[str, Any]:
        url = f"{self._endpoint}{PATH}/{action}"
        params = {"access_token": token}
        request = self._http.build_request("POST", url, params=params, content=content, headers=_HEADERS)
        return json_of(await ask(self._http, request))


def _payload(message: Outgoing) -> WecomPayload:
    assert isinstance(message.payload, WecomPayload)
    return message.payload


def _groups(messages: Sequence[Outgoing]) -> list[list[int]]:
    """Places of messages with equal contents, at most ``MAX_RECIPIENTS`` together."""
    by_content: dict[WecomPayload, list[int]] = {}
    for number, message in enumerate(messages):
        by_content.setdefault(_payload(message), []).append(number)
    return [
        places[start : start + MAX_RECIPIENTS]
        for places in by_content.values()
        for start in range(0, len(places), MAX_RECIPIENTS)
    ]


def _outcome(address: str, msgid: str, refused: set[str]) -> Outcome:
    if address in refused:
        error = TransportError(
            "WeCom does not let it be sent to this customer.", Reaction.FAIL, code=FAIL_LIST
        )
        return Outcome(error=error)
    if not msgid:
        return Outcome(error=TransportError("WeCom's answer has no msgid.", Reaction.UNKNOWN, code="shape"))
    return Outcome(provider_id(msgid, address), created=True)
