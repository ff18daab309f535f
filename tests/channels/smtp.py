"""SMTP servers for the tests: Postfix's smtp-sink with its faults, and one that answers as it is told."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import need
from tests.postgres import fast_folder, free_port

_MESSAGE_ID = re.compile(rb"^Message-ID: <([^>]+)>", re.MULTILINE)


def _listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class Sink:
    """A running smtp-sink."""

    port: int
    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.port}"

    def received(self) -> Counter[str]:
        """How often each Message-ID came; needs ``keep``."""
        found: Counter[str] = Counter()
        for path in self.folder.iterdir():
            ids = _MESSAGE_ID.findall(path.read_bytes())
            found.update(ids[:1] and [ids[0].decode()])
        return found

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def sink(*options: str, port: int | None = None, keep: bool = False) -> Iterator[Sink]:
    """smtp-sink with its faults; ``keep``: every message becomes a file."""
    need(shutil.which("smtp-sink") is not None, "Postfix's smtp-sink")
    port = port or free_port()
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    # A file for each message: in memory, as thousands of them cost a disk more than they cost the server.
    with tempfile.TemporaryDirectory(prefix="huiliu-sink-", dir=fast_folder()) as name:
        folder = Path(name)
        folder.chmod(0o777)  # it writes as nobody
        more = ["-d", f"{folder}/m."] if keep else []
        process = subprocess.Popen(
            ["smtp-sink", *user, *options, *more, f"127.0.0.1:{port}", "1024"], stdout=subprocess.DEVNULL
        )
        found = Sink(port, process, folder)
        try:
            end = time.monotonic() + 10
            while not _listening(port):
                assert time.monotonic() < end, "smtp-sink did not start"
                time.sleep(0.02)
            yield found
        finally:
            found.kill()


Script = Callable[["Line"], Awaitable[None]]


class Line:
    """A connection as a server sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.heard: list[bytes] = []

    async def say(self, *lines: str) -> None:
        self._writer.write("".join(f"{line}\r\n" for line in lines).encode())
        await self._writer.drain()

    async def hear(self) -> bytes:
        line = (await self._reader.readline()).rstrip(b"\r\n")
        self.heard.append(line)
        return line

    async def greet(self, *extensions: str) -> None:
        await self.say("220 ready")
        await self.hear()
        *most, last = ["scripted", *extensions]
        await self.say(*[f"250-{word}" for word in most], f"250 {last}")

    async def envelope(self) -> list[bytes]:
        return [await self.hear() for _ in range(3)]

    async def body(self) -> bytes:
        lines = []
        while (line := await self._reader.readline()) != b".\r\n":
            assert line, "the connection ended within a message"
            lines.append(line)
        return b"".join(lines)

    def cut(self) -> None:
        self._writer.transport.abort()


class Scripted:
    """A server that plays one script a connection, the last one again and again."""

    def __init__(self, scripts: Sequence[Script]) -> None:
        self._scripts = scripts
        self.connections = 0
        self.failure: BaseException | None = None

    async def __aenter__(self) -> Scripted:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        if self.failure is not None:
            raise self.failure

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = self._scripts[min(self.connections, len(self._scripts) - 1)]
        self.connections += 1
        try:
            await script(Line(reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except BaseException as error:
            self.failure = error
        finally:
            writer.close()
