"""A headless Chromium for the console's tests: a page that fails the test on any script or policy error."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from waitress import wasyncore
from waitress.server import create_server

from tests.conftest import need

CHROMIUM = Path("/usr/bin/chromium")


def need_browser() -> None:
    """Skip, with the reason, where there is no Chromium to drive."""
    need(CHROMIUM.exists() and importlib.util.find_spec("playwright") is not None, "Chromium with Playwright")


@contextmanager
def serving(app: Any, port: int = 0) -> Iterator[str]:
    """The application on loopback, on a free port unless one is named; gives its address."""
    server = create_server(app, host="127.0.0.1", port=port, threads=8)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.effective_port}"
    finally:
        # In its own thread, which waits for these very sockets and fails where another one closes them.
        server.trigger.pull_trigger(lambda: wasyncore.close_all(server._map, ignore_all=True))
        thread.join(timeout=5)


@contextmanager
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        try:
            yield found
        finally:
            found.close()


def open_page(
    chromium: Any,
    base: str,
    *,
    width: int = 1440,
    height: int = 900,
    language: str = "en",
    dark: bool = False,
) -> Any:
    """A page in a context of its own; ``page.problems`` collects script and policy errors."""
    context = chromium.new_context(
        base_url=base,
        viewport={"width": width, "height": height},
        locale="zh-CN" if language == "zh" else "en-GB",
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on(
        "console", lambda message: page.problems.append(message.text) if message.type == "error" else None
    )
    return page


def log_in(page: Any, email: str, password: str) -> None:
    page.goto("/login")
    page.fill("#email", email)
    page.fill("#password", password)
    page.click("button:has-text('Log in'), button:has-text('登录')")
    page.wait_for_selector("#rail", state="attached")
