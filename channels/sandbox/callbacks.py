"""Receipts that the stand-ins send back to the shop, in the providers' shapes, retried like theirs."""

from __future__ import annotations

import asyncio
import base64
import hmac
import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import urlencode

import aiohttp
import orjson

from channels.callbacks.tencent import tencent_callback_url
from channels.sandbox import wechat_events
from channels.tracking import aliyun_callback_url
from core.settings import Settings

log = logging.getLogger(__name__)

RETRY_S = (1.0, 5.0, 15.0)
BATCH = 100
SENDERS = 4
QUEUED = 100_000
_TIMEOUT = aiohttp.ClientTimeout(total=10)


class Callbacks:
    """Bounded queues, one a provider, and the tasks that empty them; what nobody takes is dropped, loudly."""

    def __init__(self, settings: Settings, delay_s: float) -> None:
        self._settings, self._delay_s = settings, delay_s
        self._sms: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue(QUEUED)
        self._tencent: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue(QUEUED)
        self._twilio: asyncio.Queue[tuple[str, Mapping[str, str]]] = asyncio.Queue(QUEUED)
        self._wechat: asyncio.Queue[bytes] = asyncio.Queue(QUEUED)
        self._other: asyncio.Queue[tuple[str, bytes, str, Mapping[str, str]]] = asyncio.Queue(QUEUED)

    def sms_report(self, report: Mapping[str, Any]) -> None:
        """Queue one entry of an SmsReport."""
        self._put(self._sms, report)

    def tencent_report(self, report: Mapping[str, Any]) -> None:
        """Queue one status report of Tencent's."""
        self._put(self._tencent, report)

    def twilio_status(self, url: str, form: Mapping[str, str]) -> None:
        """Queue a status callback to the address that its message named; only the shop is called."""
        if url.startswith(f"{self._settings.base_url}/"):
            self._put(self._twilio, (url, form))

    def wechat_finished(self, openid: str, msgid: int, status: str) -> None:
        """Queue a TEMPLATESENDJOBFINISH event."""
        finished = {"MsgID": str(msgid), "Status": status}
        self.wechat_event(wechat_events.event(self._settings, openid, "TEMPLATESENDJOBFINISH", **finished))

    def wechat_event(self, document: bytes) -> None:
        """Queue a document for the official account's callback server."""
        self._put(self._wechat, document)

    def later(self, url: str, body: bytes, kind: str, headers: Mapping[str, str]) -> None:
        """Queue a callback that is complete."""
        self._put(self._other, (url, body, kind, headers))

    def _put(self, queue: asyncio.Queue[Any], item: Any) -> None:
        try:
            queue.put_nowait(item)
        except asyncio.QueueFull:
            log.warning("A receipt was dropped: %s are waiting, and the shop does not answer.", QUEUED)

    async def run(self) -> None:
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as http, asyncio.TaskGroup() as group:
            settings = self._settings
            group.create_task(self._send_sms(http, self._sms, aliyun_callback_url(settings)))
            group.create_task(self._send_sms(http, self._tencent, tencent_callback_url(settings)))
            for _ in range(SENDERS):
                group.create_task(self._send_twilio(http))
                group.create_task(self._send_wechat(http))
                group.create_task(self._send_other(http))

    async def _send_sms(
        self, http: aiohttp.ClientSession, queue: asyncio.Queue[Mapping[str, Any]], url: str
    ) -> None:
        while True:
            batch = [await queue.get()]
            await asyncio.sleep(self._delay_s)
            while len(batch) < BATCH and not queue.empty():
                batch.append(queue.get_nowait())
            await self._post(http, url, orjson.dumps(batch), "application/json")

    async def _send_twilio(self, http: aiohttp.ClientSession) -> None:
        while True:
            url, form = await self._twilio.get()
            await asyncio.sleep(self._delay_s / 10)
            signed = url + "".join(name + form[name] for name in sorted(form))
            key = self._settings.twilio_auth_token.encode()
            signature = base64.b64encode(hmac.digest(key, signed.encode(), "sha1")).decode()
            body, kind = urlencode(form).encode(), "application/x-www-form-urlencoded"
            await self._post(http, url, body, kind, {"x-twilio-signature": signature})

    async def _send_wechat(self, http: aiohttp.ClientSession) -> None:
        while True:
            document = await self._wechat.get()
            await asyncio.sleep(self._delay_s / 10)
            url, body = wechat_events.signed(self._settings, document)
            await self._post(http, url, body, "text/xml")

    async def _send_other(self, http: aiohttp.ClientSession) -> None:
        while True:
            url, body, kind, headers = await self._other.get()
            await asyncio.sleep(self._delay_s / 10)
            await self._post(http, url, body, kind, headers)

    async def _post(
        self,
        http: aiohttp.ClientSession,
        url: str,
        body: bytes,
        kind: str,
        more: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        for wait in (*RETRY_S, None):
            try:
                async with http.post(url, data=body, headers={"content-type": kind, **more}) as response:
                    if response.status == 200:
                        return
                    problem = f"answered {response.status}"
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                problem = str(error)
            if wait is None:
                log.warning("A receipt was dropped: the shop %s.", problem)
                return
            await asyncio.sleep(wait)
