"""The web server: waitress on threads, in one process or several, ending cleanly when it is told to."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from types import FrameType
from typing import Any

from waitress.server import create_server

App = Callable[..., Any]
THREADS = 16
FORWARDED = {"x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"}
BACKLOG = 1024
RESTART_S = 1.0
"""Between the end of a process that nobody told to end, and its successor."""
STOP_S = 30.0
_STOPS = (signal.SIGTERM, signal.SIGINT)


def connections(threads: int) -> int:
    """To the database, for so many requests at a time: one that has read may need a second one to write."""
    return 2 * threads


def serve(app: App, host: str, port: int, *, threads: int = THREADS, proxies: int = 0) -> None:
    """Answer requests until SIGTERM or SIGINT; requests under way are finished first.

    With ``proxies`` of the installation's own before it, who asks is what the outermost of them says.
    """
    _answer(app, {"host": host, "port": port}, threads, proxies)


def serve_many(
    make_app: Callable[[], App],
    host: str,
    port: int,
    *,
    processes: int,
    threads: int = THREADS,
    proxies: int = 0,
) -> None:
    """As :func:`serve`, in several processes on one port. One that dies is started anew.

    ``make_app`` is called in each of them: connections must not be shared by processes.
    """
    # Refused here where somebody else has the port: between our own, SO_REUSEPORT would hide it.
    _listen(host, port, shared=False).close()

    def child() -> None:
        threading.Thread(target=_end_with_parent, daemon=True).start()
        # A queue each: of one shared by all, whoever wakes first takes nearly everything.
        _answer(make_app(), {"sockets": [_listen(host, port, shared=True)]}, threads, proxies)

    _keep(child, processes)


def _end_with_parent() -> None:
    """Stop when the first process is gone without a word: nobody could stop us or have the port any more."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


def _listen(host: str, port: int, *, shared: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.create_server((host, port), family=family, backlog=BACKLOG, reuse_port=shared)
    found.setblocking(False)
    return found


def _keep(child: Callable[[], None], processes: int) -> None:
    """Run ``child`` in so many processes until a signal; then end them all."""
    fork = multiprocessing.get_context("fork")
    running: list[Any] = []

    def start() -> None:
        process = fork.Process(target=child)
        process.start()
        running.append(process)

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(0)

    before = {number: signal.signal(number, stop) for number in _STOPS}
    try:
        for _ in range(processes):
            start()
        while True:
            wait([process.sentinel for process in running])
            for process in [process for process in running if not process.is_alive()]:
                print(f"A web process ended ({process.exitcode}); starting another.", file=sys.stderr)
                running.remove(process)
                time.sleep(RESTART_S)
                start()
    except SystemExit:
        pass
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.join(STOP_S)
            process.kill()
        for number, handler in before.items():
            signal.signal(number, handler)


def _answer(app: App, where: dict[str, Any], threads: int, proxies: int) -> None:
    # A request that waits a moment for a thread is no event; waitress warns of each.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    options: dict[str, Any] = {"threads": threads, "ident": "huiliu", "clear_untrusted_proxy_headers": True}
    if proxies:
        options |= {
            "trusted_proxy": "*",
            "trusted_proxy_count": proxies,
            "trusted_proxy_headers": FORWARDED,
        }
    server = create_server(app, **where, **options)

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(0)  # waitress ends its loop and its threads on it

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, stop) for number in _STOPS}
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
