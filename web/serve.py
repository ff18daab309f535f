"""The web server: waitress on threads, ending cleanly when it is told to."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from waitress.server import create_server

THREADS = 8


def serve(app: Callable[..., Any], host: str, port: int, *, threads: int = THREADS) -> None:
    """Answer requests until SIGTERM or SIGINT; requests under way are finished first."""
    server = create_server(
        app, host=host, port=port, threads=threads, ident="huiliu", clear_untrusted_proxy_headers=True
    )

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
