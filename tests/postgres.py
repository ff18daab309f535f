"""A private PostgreSQL cluster for the tests: own folder, free port, durable only where asked."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psycopg

from core.db import Database

OPTIONS = (
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "max_connections=300",
    "shared_buffers=256MB",
)
# Durability is not under test, and a test machine's disk is slow. No test waits for the autovacuum either.
NOT_DURABLE = (
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "wal_level=minimal",
    "max_wal_senders=0",
    "max_wal_size=256MB",
    "autovacuum=off",
)
MEMORY = Path("/dev/shm")
MEMORY_FREE = 4 * 1024**3
"""Free bytes from which a cluster is kept in memory: a thousand databases of 900 files each, made and
removed, cost a disk's file system more time than their tests take."""


def find() -> Path | None:
    """The folder of ``initdb`` and ``postgres``, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[4]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


def fast_folder() -> Path | None:
    """Where a cluster that need not be durable is best kept; None: the usual temporary folder."""
    if not MEMORY.is_dir() or not os.access(MEMORY, os.W_OK):
        return None
    return MEMORY if shutil.disk_usage(MEMORY).free >= MEMORY_FREE else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Cluster:
    port: int
    user: str
    _numbers: count[int]
    _strategy: str

    def url(self, name: str) -> str:
        return f"postgresql://{self.user}@127.0.0.1:{self.port}/{name}"

    def _admin(self, sql: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(sql)  # type: ignore[arg-type]

    def create(self, template: str = "huiliu_template") -> str:
        name = f"t{next(self._numbers)}"
        self._admin(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY {self._strategy}")
        return name

    def drop(self, name: str) -> None:
        self._admin(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@contextmanager
def running(folder: Path, *, durable: bool = False) -> Iterator[Cluster]:
    """Start a cluster under ``folder``; stop it at the end. ``durable`` syncs as in production."""
    from migrations.runner import upgrade

    binaries = find()
    assert binaries is not None
    data, port = folder / "data", free_port()
    # PostgreSQL refuses to run as root: there, Debian's own account runs it.
    as_root = os.geteuid() == 0
    user = "postgres" if as_root else getpass.getuser()
    prefix = ["runuser", "-u", "postgres", "--"] if as_root else []
    if as_root:
        for parent in [folder, *folder.parents[:4]]:
            if str(parent).startswith("/tmp/"):
                parent.chmod(0o755)
        shutil.chown(folder, "postgres", "postgres")
    subprocess.run(
        [
            *prefix,
            str(binaries / "initdb"),
            "-D",
            str(data),
            "-A",
            "trust",
            "-U",
            user,
            "-E",
            "UTF8",
            "--no-sync",
        ],
        check=True,
        capture_output=True,
    )
    options = [f"-c{option}" for option in (f"port={port}", *OPTIONS, *(() if durable else NOT_DURABLE))]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [*prefix, str(binaries / "postgres"), "-D", str(data), *options],
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
    # Copied files cost half of what logged pages do, but for a disk that has to sync every one of them.
    cluster = Cluster(port, user, count(), "WAL_LOG" if durable else "FILE_COPY")
    try:
        _wait(cluster, folder)
        cluster._admin("CREATE DATABASE huiliu_template")
        database = Database(cluster.url("huiliu_template"))
        upgrade(database)
        database.dispose()
        yield cluster
    finally:
        subprocess.run(
            [*prefix, str(binaries / "pg_ctl"), "-D", str(data), "stop", "-m", "immediate"],
            capture_output=True,
        )
        server.wait(timeout=30)


def _wait(cluster: Cluster, folder: Path) -> None:
    for _ in range(200):
        try:
            psycopg.connect(cluster.url("postgres")).close()
            return
        except psycopg.OperationalError:
            time.sleep(0.1)
    raise RuntimeError(f"PostgreSQL did not start: {(folder / 'log').read_text()[-2000:]}")
