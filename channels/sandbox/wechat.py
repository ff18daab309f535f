"""The stand-in for WeChat's official account API: tokens, the three kinds of messages, followers, OAuth."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from collections import OrderedDict
from itertools import count
from typing import Any

from aiohttp import web

from channels.sandbox.callbacks import Callbacks
from channels.sandbox.inbox import Received, Store
from channels.sandbox.wechat_events import sent_event
from channels.sandbox.wechat_people import People, Refusal
from channels.wechat.limits import limit_of
from core.contacts import WECHAT
from core.settings import Settings

TOKEN_S = 7200
OVERLAP_S = 300
DOUBLE_S = 600
DOUBLES = 500_000
_OPENID = re.compile(r"[A-Za-z0-9_-]{6,128}\Z")


class Wechat:
    """Handlers of the API; :meth:`routes` lists them."""

    def __init__(self, settings: Settings, store: Store, callbacks: Callbacks, delay_s: float) -> None:
        self._settings, self._store, self._callbacks, self._delay_s = settings, store, callbacks, delay_s
        self._tokens: dict[str, float] = {}
        self._current = ""
        self._doubles: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()
        self._numbers = count(int(time.time() * 1000))
        self.people = People(settings, callbacks)
        self.issued = 0
        """Tokens issued: tests see by it who refreshed."""

    def expire_tokens(self) -> None:
        """Let every token end now, as WeChat may at any time."""
        self._tokens.clear()
        self._current = ""

    def routes(self) -> list[web.RouteDef]:
        """All but the token's and the template messages', below ``/wechat``."""
        start = "/wechat"
        return [
            web.post(f"{start}/cgi-bin/message/subscribe/bizsend", self.subscription),
            web.post(f"{start}/cgi-bin/message/custom/send", self.service),
            web.get(f"{start}/cgi-bin/user/get", self.followers),
            web.post(f"{start}/cgi-bin/user/info/batchget", self.infos),
            web.get(f"{start}/connect/oauth2/authorize", self.people.authorize),
            web.get(f"{start}/sns/oauth2/access_token", self.exchange),
            web.post(f"{start}/sandbox/act", self.people.act),
        ]

    async def stable_token(self, request: web.Request) -> web.Response:
        return await _answer(self._token, request)

    async def send(self, request: web.Request) -> web.Response:
        return await _answer(self._send, request)

    async def subscription(self, request: web.Request) -> web.Response:
        return await _answer(self._subscription, request)

    async def service(self, request: web.Request) -> web.Response:
        return await _answer(self._service, request)

    async def followers(self, request: web.Request) -> web.Response:
        return await _answer(self._followers, request)

    async def infos(self, request: web.Request) -> web.Response:
        return await _answer(self._infos, request)

    async def exchange(self, request: web.Request) -> web.Response:
        return await _answer(self._exchange, request)

    async def _exchange(self, request: web.Request) -> dict[str, Any]:
        return self.people.exchange(dict(request.query))

    async def _followers(self, request: web.Request) -> dict[str, Any]:
        self._check_token(request.query.get("access_token", ""))
        return self.people.page(request.query.get("next_openid", ""))

    async def _infos(self, request: web.Request) -> dict[str, Any]:
        self._check_token(request.query.get("access_token", ""))
        return {"user_info_list": self.people.infos((await _json(request)).get("user_list", []))}

    async def _subscription(self, request: web.Request) -> dict[str, Any]:
        self._check_token(request.query.get("access_token", ""))
        body = await _json(request)
        openid, template, data = _recipient(body), _template(body), _data(body)
        for name, text in data.items():
            limit = limit_of(name)
            if not text or (limit is not None and len(text) > limit):
                raise Refusal(47003, f"argument invalid! data.{name}.value invalid")
        self.people.take_grant(openid, template)
        msgid = next(self._numbers)
        fields = {"template_id": template, "url": body.get("page", ""), "data": data}
        await self._store.add(Received(WECHAT, openid, "", json.dumps(fields).encode()))
        self._callbacks.wechat_event(
            sent_event(self._settings, openid, template, msgid, refused=openid.startswith("blocked"))
        )
        return {"errcode": 0, "errmsg": "ok", "msgid": msgid}

    async def _service(self, request: web.Request) -> dict[str, Any]:
        self._check_token(request.query.get("access_token", ""))
        body = await _json(request)
        openid = _recipient(body)
        text = body.get("text", {}).get("content", "") if body.get("msgtype") == "text" else ""
        if not text:
            raise Refusal(44004, "empty content")
        if openid in self.people.unfollowed:
            raise Refusal(43004, "require subscribe")
        self.people.take_window(openid)
        await self._store.add(Received(WECHAT, openid, "", json.dumps({"data": {"text": text}}).encode()))
        return {"errcode": 0, "errmsg": "ok"}

    async def _token(self, request: web.Request) -> dict[str, Any]:
        body = await _json(request)
        if body.get("appid") != self._settings.wechat_appid:
            raise Refusal(40013, "invalid appid")
        if body.get("secret") != self._settings.wechat_secret:
            raise Refusal(40125, "invalid appsecret")
        now = time.time()
        left = self._tokens.get(self._current, 0) - now
        if body.get("force_refresh") or left < OVERLAP_S:
            if self._current in self._tokens:
                self._tokens[self._current] = min(self._tokens[self._current], now + OVERLAP_S)
            self._current = f"sandbox_{secrets.token_urlsafe(96)}"
            self._tokens[self._current] = now + TOKEN_S
            self.issued += 1
            left = TOKEN_S
        return {"access_token": self._current, "expires_in": int(left)}

    async def _send(self, request: web.Request) -> dict[str, Any]:
        self._check_token(request.query.get("access_token", ""))
        body = await _json(request)
        openid = _recipient(body)
        if openid.startswith("stranger") or openid in self.people.unfollowed:
            raise Refusal(43004, "require subscribe")
        if openid.startswith("busy"):
            raise Refusal(-1, "system error")
        template, data = _template(body), _data(body)
        if self._delay_s:
            await asyncio.sleep(self._delay_s)
        client_id = str(body.get("client_msg_id", ""))
        known = self._double(openid, client_id)
        if known is not None:
            return {"errcode": 0, "errmsg": "ok", "msgid": known}
        msgid = next(self._numbers)
        if client_id:
            self._doubles[openid, client_id] = (time.time(), msgid)
        fields = {
            "template_id": template,
            "url": body.get("url", ""),
            "data": data,
        }
        await self._store.add(Received(WECHAT, openid, client_id, json.dumps(fields).encode()))
        self._callbacks.wechat_finished(
            openid, msgid, "failed:user block" if openid.startswith("blocked") else "success"
        )
        return {"errcode": 0, "errmsg": "ok", "msgid": msgid}

    def _check_token(self, token: str) -> None:
        if not token:
            raise Refusal(41001, "access_token missing")
        if token not in self._tokens:
            raise Refusal(40001, "invalid credential, access_token is invalid or not latest")
        if self._tokens[token] < time.time():
            raise Refusal(42001, "access_token expired")

    def _double(self, openid: str, client_id: str) -> int | None:
        """The message that the same id was accepted as within ten minutes."""
        now = time.time()
        while self._doubles:
            key, (at, _) = next(iter(self._doubles.items()))
            if now - at < DOUBLE_S and len(self._doubles) <= DOUBLES:
                break
            del self._doubles[key]
        found = self._doubles.get((openid, client_id)) if client_id else None
        return None if found is None else found[1]


def _recipient(body: dict[str, Any]) -> str:
    openid = str(body.get("touser", ""))
    if not _OPENID.match(openid):
        raise Refusal(40003, "invalid openid")
    return openid


def _template(body: dict[str, Any]) -> str:
    template = str(body.get("template_id", ""))
    if not template or template.startswith("invalid"):
        raise Refusal(40037, "invalid template_id")
    return template


def _data(body: dict[str, Any]) -> dict[str, str]:
    data = body.get("data")
    if not isinstance(data, dict) or not all(isinstance(v, dict) and "value" in v for v in data.values()):
        raise Refusal(47003, "argument invalid! data")
    return {name: str(value["value"]) for name, value in data.items()}


async def _json(request: web.Request) -> dict[str, Any]:
    raw = await request.text()
    if re.search(r"\\u[0-9a-fA-F]{4}", raw):
        raise Refusal(40033, "invalid charset: \\uxxxx escapes")
    try:
        found = json.loads(raw)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Refusal(47001, "data format error")
    return found


async def _answer(handler: Any, request: web.Request) -> web.Response:
    try:
        return web.json_response(await handler(request))
    except Refusal as refusal:
        return web.json_response({"errcode": refusal.code, "errmsg": str(refusal)})
