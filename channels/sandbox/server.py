"""The sandbox's process: an SMTP server, an HTTP server, and the tasks that store and call back."""

from __future__ import annotations

import asyncio
import signal
from types import TracebackType
from typing import Self

from aiohttp import web
from aiosmtpd.smtp import SMTP

from channels.sandbox.aliyun import Aliyun
from channels.sandbox.callbacks import Callbacks
from channels.sandbox.inbox import Store
from channels.sandbox.smtp import Handler
from channels.sandbox.tencent import Tencent
from channels.sandbox.twilio import Twilio
from channels.sandbox.webhook import Webhook
from channels.sandbox.wechat import Wechat
from channels.sandbox.wecom import Wecom
from core import crypto
from core.errors import HuiliuError
from core.settings import Settings

HOST = "127.0.0.1"
HEADER_BYTES = 256 * 1024
BODY_BYTES = 4 * 1024 * 1024


class Sandbox:
    """Runs while the block does. ``delay_s`` slows every message down, ``callback_delay_s`` the receipts."""

    def __init__(self, settings: Settings, *, delay_s: float = 0.0, callback_delay_s: float = 0.2) -> None:
        self._settings, self._delay_s, self._callback_delay_s = settings, delay_s, callback_delay_s

    async def __aenter__(self) -> Self:
        settings = self._settings
        self._store = Store(settings)
        callbacks = Callbacks(settings, self._callback_delay_s)
        self._tasks = [asyncio.create_task(self._store.run()), asyncio.create_task(callbacks.run())]
        aliyun = Aliyun(settings, self._store, callbacks, self._delay_s)
        self.wechat = Wechat(settings, self._store, callbacks, self._delay_s)
        app = web.Application(client_max_size=BODY_BYTES)
        self.tencent = Tencent(settings, self._store, callbacks, self._delay_s)
        twilio = Twilio(settings, self._store, callbacks, self._delay_s)

        async def root(request: web.Request) -> web.Response:
            """Aliyun's and Tencent's own clients know a host and no path."""
            known = self.tencent if "x-tc-action" in request.headers else aliyun
            return await known.handle(request)

        app.router.add_post("/", root)
        app.router.add_post("/aliyun/", aliyun.handle)
        app.router.add_post("/tencent/", self.tencent.handle)
        for path in ("", "/twilio"):
            messages = f"{path}/2010-04-01/Accounts/{{account}}/Messages"
            app.router.add_post(f"{messages}.json", twilio.handle)
            app.router.add_get(f"{messages}/{{sid}}.json", twilio.handle)
        app.router.add_post("/wechat/cgi-bin/stable_token", self.wechat.stable_token)
        app.router.add_post("/wechat/cgi-bin/message/template/send", self.wechat.send)
        app.router.add_routes(self.wechat.routes())
        webhook = Webhook(settings, self._store, callbacks, self._delay_s)
        app.router.add_post("/webhook", webhook.handle)
        self.wecom = Wecom(settings, self._store, self._delay_s)
        app.router.add_routes(self.wecom.routes())
        self._runner = web.AppRunner(
            app, access_log=None, max_field_size=HEADER_BYTES, max_line_size=HEADER_BYTES
        )
        await self._runner.setup()
        handler = Handler(self._store, self._delay_s)
        loop = asyncio.get_running_loop()
        try:
            await web.TCPSite(self._runner, HOST, settings.sandbox_http_port).start()
            self._smtp = await loop.create_server(
                lambda: SMTP(handler, hostname="sandbox", enable_SMTPUTF8=True, loop=loop),
                HOST,
                settings.sandbox_smtp_port,
            )
        except OSError as error:
            await self._stop()
            raise HuiliuError(
                "The sandbox cannot listen on ports "
                f"{settings.sandbox_smtp_port} and {settings.sandbox_http_port}: "
                f"{error.strerror}. Stop the other sandbox, or set HUILIU_SANDBOX_SMTP_PORT and "
                "HUILIU_SANDBOX_HTTP_PORT."
            ) from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._smtp.close()
        await self._stop()

    async def _stop(self) -> None:
        await self._runner.cleanup()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._store.close()


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Serve until ``stop`` is set."""
    async with Sandbox(settings):
        await stop.wait()


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises HuiliuError when a port is taken."""
    crypto.install(crypto.open_keyring(settings))

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await run(settings, stop)

    asyncio.run(main())
