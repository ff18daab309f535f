"""Everything on this machine: Prefect's server, deployments and worker, the console, the sandbox.

Guarantees: what was started is stopped, in reverse order, on Ctrl-C, SIGTERM, or when one of
them ends by itself (which is reported with the end of its log).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import httpx

from core.errors import HuiliuError
from core.settings import Settings

STOP_SECONDS = 15
START_SECONDS = 120
POOL = "huiliu"
PREFECT = [sys.executable, "-m", "prefect"]


@dataclass
class Service:
    name: str
    process: subprocess.Popen[bytes]
    log: Path
    ready: Callable[[], bool] | None

    def end(self) -> None:
        """Ask it to stop; kill it with its children when it does not."""
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@dataclass
class Services:
    """Child processes with their logs under ``home/log``."""

    settings: Settings
    say: Callable[[str], None]
    running: list[Service] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What every child needs to find this installation and its Prefect server."""
        api = f"http://127.0.0.1:{self.settings.prefect_port}/api"
        return {
            **os.environ,
            **settings_environment(self.settings),
            "PREFECT_API_URL": api,
            "PREFECT_HOME": str((self.settings.home / "prefect").absolute()),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_LOGGING_LEVEL": "WARNING",
            "DO_NOT_TRACK": "1",
        }

    def start(self, name: str, arguments: list[str], ready: Callable[[], bool] | None = None) -> None:
        """Start a process; :meth:`wait` for it before you use it."""
        folder = self.settings.home / "log"
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / f"{name}.log"
        with log.open("ab") as file:
            # A session of its own: Ctrl-C reaches only us, and we stop them in order.
            process = subprocess.Popen(
                arguments, stdout=file, stderr=subprocess.STDOUT, env=self.environment, start_new_session=True
            )
        self.running.append(Service(name, process, log, ready))

    def wait(self) -> None:
        """Until every service answers. Raises HuiliuError with its log when one fails."""
        deadline = time.monotonic() + START_SECONDS
        for service in self.running:
            while service.ready is not None and not service.ready():
                if service.process.poll() is not None:
                    raise HuiliuError(f"{service.name} ended while starting:\n{_tail(service.log)}")
                if time.monotonic() > deadline:
                    raise HuiliuError(f"{service.name} did not answer in time:\n{_tail(service.log)}")
                time.sleep(0.2)

    def stop_one(self, name: str) -> None:
        """End one service, for a restart with other settings."""
        for service in [item for item in self.running if item.name == name]:
            service.end()
            self.running.remove(service)

    def watch(self) -> None:
        """Return on Ctrl-C or SIGTERM; raise HuiliuError when a service ends by itself."""
        stopping = False

        def stop(_number: int, _frame: FrameType | None) -> None:
            nonlocal stopping
            stopping = True

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            while not stopping:
                for service in self.running:
                    if service.process.poll() is not None:
                        code = service.process.returncode
                        raise HuiliuError(f"{service.name} ended with code {code}:\n{_tail(service.log)}")
                time.sleep(0.3)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def stop(self) -> None:
        """End every service, the last started first; what does not end in time is killed."""
        for service in reversed(self.running):
            service.process.terminate()
        for service in reversed(self.running):
            service.end()
        self.running.clear()

    def __enter__(self) -> Services:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()


def settings_environment(settings: Settings) -> Mapping[str, str]:
    """The settings as variables, so that children read the very same ones."""
    return {
        f"HUILIU_{name.upper()}": str(value.absolute() if isinstance(value, Path) else value)
        for name, value in settings.model_dump().items()
    }


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def listens(host: str, port: int) -> Callable[[], bool]:
    """Whether something accepts connections there."""

    def check() -> bool:
        try:
            with socket.create_connection((host, port), timeout=1):
                return True
        except OSError:
            return False

    return check


def start_prefect_server(services: Services) -> None:
    port = services.settings.prefect_port

    def healthy() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/api/health", timeout=2, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    arguments = [*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    services.start("prefect-server", arguments, healthy)


def deploy(services: Services) -> None:
    """Create the work pool and deploy ``prefect.yaml``. Raises HuiliuError with Prefect's words."""
    root = Path(__file__).parent.parent
    if not (root / "prefect.yaml").exists():
        raise HuiliuError("prefect.yaml is not beside the packages; run `huiliu up` from a checkout.")
    for arguments in (
        ["work-pool", "create", POOL, "--type", "process", "--overwrite"],
        ["deploy", "--all"],
    ):
        command = [*PREFECT, "--no-prompt", *arguments]
        done = subprocess.run(command, cwd=root, env=services.environment, capture_output=True, text=True)
        if done.returncode:
            words = f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
            raise HuiliuError(f"Prefect refused `prefect {' '.join(arguments)}`:\n{words}")


def start_worker(services: Services) -> None:
    services.start("prefect-worker", [*PREFECT, "worker", "start", "--pool", POOL, "--type", "process"])


def start_sandbox(services: Services) -> None:
    settings = services.settings
    ready = listens("127.0.0.1", settings.sandbox_http_port)
    services.start("sandbox", [sys.executable, "-m", "web", "sandbox"], ready)


def start_console(services: Services) -> None:
    settings = services.settings
    services.start("console", [sys.executable, "-m", "web", "serve"], listens(settings.host, settings.port))


def start_all(services: Services) -> None:
    """Server, deployments, sandbox (without provider settings), console, worker."""
    if services.settings.uses_sandbox:
        start_sandbox(services)
    start_console(services)
    start_prefect_server(services)
    services.wait()
    services.say("the servers answer")
    deploy(services)
    services.say("the deployments of prefect.yaml are in place")
    start_worker(services)
    services.say("the worker is up")
