"""The stand-in for a shop's own address: it checks the signature, drops doubles, and reports delivery."""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict

from aiohttp import web

from channels.callbacks.webhook import FRESH_S, sign, signed
from channels.sandbox.callbacks import Callbacks
from channels.sandbox.inbox import Received, Store
from core.contacts import WEBHOOK
from core.settings import Settings

DOUBLES = 100_000


class Webhook:
    """``gone…``, ``busy…`` and ``refused…`` among the members' ids are answered 410, 503 and 422."""

    def __init__(self, settings: Settings, store: Store, callbacks: Callbacks, delay_s: float) -> None:
        self._settings, self._store, self._callbacks, self._delay_s = settings, store, callbacks, delay_s
        self._known: OrderedDict[str, None] = OrderedDict()

    async def handle(self, request: web.Request) -> web.Response:
        raw = await request.read()
        header = request.headers.get("X-Huiliu-Signature", "")
        if not signed(self._settings.webhook_secret, header, raw, time.time(), FRESH_S):
            return web.json_response({"error": "wrong signature"}, status=401)
        body = json.loads(raw)
        member, key = str(body["member_id"]), request.headers.get("Idempotency-Key", "")
        for prefix, status in (("gone", 410), ("busy", 503), ("refused", 422)):
            if member.startswith(prefix):
                return web.json_response({}, status=status, headers={"Retry-After": "7"})
        if self._delay_s:
            await asyncio.sleep(self._delay_s)
        if key in self._known:
            return web.json_response({})
        self._known[key] = None
        if len(self._known) > DOUBLES:
            self._known.popitem(last=False)
        shown = {"title": body["title"], "body": body["body"], **body["data"]}
        fields = {"data": {name: text for name, text in shown.items() if text}, "url": body["url"]}
        await self._store.add(Received(WEBHOOK, member, key, json.dumps(fields).encode()))
        receipt = json.dumps({"message_id": body["message_id"], "kind": "delivered"}).encode()
        headers = {"X-Huiliu-Signature": sign(self._settings.webhook_secret, receipt, int(time.time()))}
        url = f"{self._settings.base_url}/callbacks/webhook"
        self._callbacks.later(url, receipt, "application/json", headers)
        return web.json_response({})
