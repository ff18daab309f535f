"""The stand-in for WeCom: tokens, tasks that wait for an employee, and an employee who confirms them.

Among the customers' ids, ``refused…`` are in the ``fail_list``, ``stranger…`` have the whole request
refused (84061), and when a task is confirmed ``unfriended…`` are told as status 2, ``capped…`` as 3.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from channels.sandbox import inbox
from channels.sandbox.inbox import Received, Store
from channels.sandbox.wechat_people import Refusal
from channels.wecom.limits import LINK, MAX_DESC, MAX_RECIPIENTS, MAX_TEXT, MAX_TITLE, MAX_URL
from core.contacts import WECOM
from core.settings import Settings
from core.times import now

TOKEN_S = 7200
WAITS, DONE = "waits for confirmation", "confirmed"
MAX_RESULTS = 1_000
_SIZES = dict(zip(LINK, (MAX_TITLE, MAX_URL, MAX_DESC, MAX_URL), strict=True))


@dataclass
class Task:
    """A request's customers, and what became of each: (status, when)."""

    sender: str
    customers: dict[str, tuple[int, int]] = field(default_factory=dict)
    cancelled: bool = False


class Wecom:
    """Handlers of the API; :meth:`routes` lists them."""

    def __init__(self, settings: Settings, store: Store, delay_s: float) -> None:
        self._settings, self._store, self._delay_s = settings, store, delay_s
        self._token, self._until = "", 0.0
        self.tasks: dict[str, Task] = {}
        self.issued = 0
        """Tokens issued: tests see by it who refreshed."""
        self.refusing: int | None = None
        """An errcode that every task is refused with, while it is set."""

    def expire_tokens(self) -> None:
        """Let the token end now, as WeCom may at any time."""
        self._token = ""

    def routes(self) -> list[web.RouteDef]:
        """Below ``/wecom``."""
        api = "/wecom/cgi-bin/externalcontact"
        return [
            web.get("/wecom/cgi-bin/gettoken", self.token),
            web.post(f"{api}/add_msg_template", self.add),
            web.post(f"{api}/get_groupmsg_send_result", self.result),
            web.post(f"{api}/cancel_groupmsg_send", self.cancel),
            web.post("/wecom/sandbox/confirm", self.confirm),
        ]

    async def token(self, request: web.Request) -> web.Response:
        query = request.query
        if query.get("corpid") != self._settings.wecom_corpid:
            return _refused(Refusal(40013, "invalid corpid"))
        if query.get("corpsecret") != self._settings.wecom_secret:
            return _refused(Refusal(40001, "invalid credential"))
        if not self._token or self._until < time.time():
            self._token, self._until = f"sandbox_{secrets.token_urlsafe(96)}", time.time() + TOKEN_S
            self.issued += 1
        left = int(self._until - time.time())
        return web.json_response(
            {"errcode": 0, "errmsg": "ok", "access_token": self._token, "expires_in": left}
        )

    async def add(self, request: web.Request) -> web.Response:
        try:
            return web.json_response(await self._add(await self._body(request)))
        except Refusal as refusal:
            return _refused(refusal)

    async def result(self, request: web.Request) -> web.Response:
        try:
            return web.json_response(self._result(await self._body(request)))
        except Refusal as refusal:
            return _refused(refusal)

    async def cancel(self, request: web.Request) -> web.Response:
        try:
            task = self.tasks.get(str((await self._body(request)).get("msgid")))
            if task is None:
                raise Refusal(41047, "invalid group msg id")
            if all(status for status, _ in task.customers.values()):
                raise Refusal(41065, "the task is over")
        except Refusal as refusal:
            return _refused(refusal)
        task.cancelled = True
        return web.json_response({"errcode": 0, "errmsg": "ok"})

    async def confirm(self, request: web.Request) -> web.Response:
        """The employee sends what waits: ``{"msgid"}`` one task, without it all."""
        asked = (await request.json()) if request.can_read_body else {}
        msgids = [str(asked["msgid"])] if asked.get("msgid") else list(self.tasks)
        at, sent = int(now(self._settings).timestamp()), 0
        for msgid in msgids:
            task = self.tasks.get(msgid)
            if task is None:
                return web.json_response({"error": f"no task {msgid}"}, status=404)
            if task.cancelled:
                continue
            for customer, (status, _) in task.customers.items():
                if status == 0:
                    ended = (
                        2 if customer.startswith("unfriended") else 3 if customer.startswith("capped") else 1
                    )
                    task.customers[customer] = (ended, at)
                    sent += ended == 1
            await asyncio.to_thread(inbox.annotate, self._settings, WECOM, msgid, "status", DONE)
        return web.json_response({"confirmed": len(msgids), "sent": sent})

    async def _body(self, request: web.Request) -> dict[str, Any]:
        token = request.query.get("access_token", "")
        if not token or token != self._token:
            raise Refusal(40014, "invalid access_token")
        if self._until < time.time():
            raise Refusal(42001, "access_token expired")
        try:
            found = json.loads(await request.text())
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise Refusal(40035, "invalid json")
        return found

    async def _add(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.refusing is not None:
            raise Refusal(self.refusing, "refused")
        if body.get("chat_type") != "single" or body.get("sender") != self._settings.wecom_sender:
            raise Refusal(40003, "invalid sender userid")
        customers, text, link = _customers(body), _text(body), _link(body)
        if any(one.startswith("stranger") for one in customers):
            raise Refusal(84061, "not external contact")
        failed = [one for one in customers if one.startswith("refused")]
        good = [one for one in customers if one not in failed]
        if not good:
            raise Refusal(41048, "no customer to send")
        if self._delay_s:
            await asyncio.sleep(self._delay_s)
        msgid = f"msg{secrets.token_hex(13)}"
        shown = {"text": text, **{n: t for n, t in link.items() if n in ("title", "desc")}, "status": WAITS}
        content = json.dumps({"data": shown, "url": link.get("url", "")}).encode()
        await self._store.add(*[Received(WECOM, one, msgid, content) for one in good])
        self.tasks[msgid] = Task(str(body["sender"]), dict.fromkeys(good, (0, 0)))
        return {"errcode": 0, "errmsg": "ok", "fail_list": failed, "msgid": msgid}

    def _result(self, body: dict[str, Any]) -> dict[str, Any]:
        task = self.tasks.get(str(body.get("msgid")))
        if task is None:
            raise Refusal(41047, "invalid group msg id")
        limit, cursor = body.get("limit", 500), body.get("cursor") or "0"
        if body.get("userid") != task.sender:
            raise Refusal(40003, "invalid userid")
        if not isinstance(limit, int) or not 1 <= limit <= MAX_RESULTS or not str(cursor).isdecimal():
            raise Refusal(40058, "invalid limit or cursor")
        start = int(cursor)
        rows = list(task.customers.items())
        listed = [
            {"external_userid": one, "userid": task.sender, "status": status}
            | ({"send_time": at} if status == 1 else {})
            for one, (status, at) in rows[start : start + limit]
        ]
        more = str(start + limit) if start + limit < len(rows) else ""
        return {"errcode": 0, "errmsg": "ok", "send_list": listed, "next_cursor": more}


def _customers(body: dict[str, Any]) -> list[str]:
    listed = body.get("external_userid")
    if not isinstance(listed, list) or not 1 <= len(listed) <= MAX_RECIPIENTS:
        raise Refusal(40058, "invalid external_userid count")
    if not all(isinstance(one, str) and one and len(one) <= 128 for one in listed):
        raise Refusal(40096, "invalid external userid")
    if len(set(listed)) < len(listed):
        raise Refusal(40058, "duplicate external_userid")
    return listed


def _text(body: dict[str, Any]) -> str:
    text = (body.get("text") or {}).get("content")
    if not isinstance(text, str) or not text or len(text.encode()) > MAX_TEXT:
        raise Refusal(40058, "invalid text size")
    return text


def _link(body: dict[str, Any]) -> dict[str, str]:
    attached = body.get("attachments") or []
    if not attached:
        return {}
    one = attached[0] if isinstance(attached, list) and len(attached) <= 9 else {}
    link = one.get("link")
    if one.get("msgtype") != "link" or not isinstance(link, dict) or not link.get("title"):
        raise Refusal(40058, "invalid attachments")
    if not str(link.get("url", "")).startswith("http"):
        raise Refusal(40058, "invalid link url")
    if any(name not in _SIZES or len(str(text).encode()) > _SIZES[name] for name, text in link.items()):
        raise Refusal(40058, "invalid link size")
    return {str(name): str(text) for name, text in link.items()}


def _refused(refusal: Refusal) -> web.Response:
    return web.json_response({"errcode": refusal.code, "errmsg": str(refusal)})
