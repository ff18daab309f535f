"""The web server: waitress on threads, ending cleanly when it is told to."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from waitress.server import create_server

THREADS = 8


FORWARDED = {"x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"}


def serve(app: Callable[..., Any], host: str, port: int, *, threads: int = THREADS, proxies: int = 0) -> None:
    """Answer requests until SIGTERM or SIGINT; requests under way are finished first.

    With ``proxies`` of the installation's own before it, who asks is what the outermost of them says.
    """
    options: dict[str, Any] = {"threads": threads, "ident": "huiliu", "clear_untrusted_proxy_headers": True}
    if proxies:
        options |= {
            "trusted_proxy": "*",
            "trusted_proxy_count": proxies,
            "trusted_proxy_headers": FORWARDED,
        }
    server = create_server(app, host=host, port=port, **options)

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(0)  # waitress ends its loop and its threads on it

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    else:
        before = {}
    try:
        server.run()
    except SystemExit:
        pass
    finally:
        server.close()
        for number, handler in before.items():
            signal.signal(number, handler)
