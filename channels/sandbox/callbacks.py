"""Receipts that the stand-ins send back to the shop, in the providers' shapes, retried like theirs."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape

import aiohttp
import orjson

from channels.tracking import aliyun_callback_url
from core.settings import Settings
from core.times import now

log = logging.getLogger(__name__)

RETRY_S = (1.0, 5.0, 15.0)
BATCH = 100
SENDERS = 4
QUEUED = 100_000
_TIMEOUT = aiohttp.ClientTimeout(total=10)


class Callbacks:
    """Two bounded queues and the tasks that empty them; what nobody takes is dropped with a warning."""

    def __init__(self, settings: Settings, delay_s: float) -> None:
        self._settings, self._delay_s = settings, delay_s
        self._sms: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue(QUEUED)
        self._wechat: asyncio.Queue[tuple[str, int, str]] = asyncio.Queue(QUEUED)

    def sms_report(self, report: Mapping[str, Any]) -> None:
        """Queue one entry of an SmsReport."""
        self._put(self._sms, report)

    def wechat_finished(self, openid: str, msgid: int, status: str) -> None:
        """Queue a TEMPLATESENDJOBFINISH event."""
        self._put(self._wechat, (openid, msgid, status))

    def _put(self, queue: asyncio.Queue[Any], item: Any) -> None:
        try:
            queue.put_nowait(item)
        except asyncio.QueueFull:
            log.warning("A receipt was dropped: %s are waiting, and the shop does not answer.", QUEUED)

    async def run(self) -> None:
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as http, asyncio.TaskGroup() as group:
            group.create_task(self._send_sms(http))
            for _ in range(SENDERS):
                group.create_task(self._send_wechat(http))

    async def _send_sms(self, http: aiohttp.ClientSession) -> None:
        while True:
            batch = [await self._sms.get()]
            await asyncio.sleep(self._delay_s)
            while len(batch) < BATCH and not self._sms.empty():
                batch.append(self._sms.get_nowait())
            await self._post(
                http, aliyun_callback_url(self._settings), orjson.dumps(batch), "application/json"
            )

    async def _send_wechat(self, http: aiohttp.ClientSession) -> None:
        while True:
            openid, msgid, status = await self._wechat.get()
            await asyncio.sleep(self._delay_s / 10)
            timestamp, nonce = str(int(time.time())), secrets.token_hex(8)
            parts = sorted([self._settings.wechat_token, timestamp, nonce])
            signature = hashlib.sha1("".join(parts).encode()).hexdigest()  # noqa: S324 - WeChat's own scheme
            query = f"signature={signature}&timestamp={timestamp}&nonce={nonce}"
            url = f"{self._settings.base_url}/callbacks/wechat?{query}"
            event = _event(openid, msgid, status, int(now(self._settings).timestamp()))
            await self._post(http, url, event, "text/xml")

    async def _post(self, http: aiohttp.ClientSession, url: str, body: bytes, kind: str) -> None:
        for wait in (*RETRY_S, None):
            try:
                async with http.post(url, data=body, headers={"content-type": kind}) as response:
                    if response.status == 200:
                        return
                    problem = f"answered {response.status}"
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                problem = str(error)
            if wait is None:
                log.warning("A receipt was dropped: the shop %s.", problem)
                return
            await asyncio.sleep(wait)


def _event(openid: str, msgid: int, status: str, at: int) -> bytes:
    return (
        "<xml><ToUserName><![CDATA[gh_sandbox]]></ToUserName>"
        f"<FromUserName><![CDATA[{escape(openid)}]]></FromUserName><CreateTime>{at}</CreateTime>"
        "<MsgType><![CDATA[event]]></MsgType><Event><![CDATA[TEMPLATESENDJOBFINISH]]></Event>"
        f"<MsgID>{msgid}</MsgID><Status><![CDATA[{status}]]></Status></xml>"
    ).encode()
