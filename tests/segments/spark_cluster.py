"""A real Spark cluster on loopback: the standalone master and two workers, in processes of their own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WORKERS = 2
START_S = 90
BRIEF = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""Options of a Java that lives for a minute: code that runs a few times is not worth optimising."""


def missing() -> str | None:
    """What this machine lacks for a cluster, or None."""
    if importlib.util.find_spec("pyspark") is None:
        return "PySpark"
    return None if shutil.which("java") or os.environ.get("JAVA_HOME") else "A Java runtime"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """The master's address; both workers have registered."""
    spec = importlib.util.find_spec("pyspark")
    assert spec is not None
    assert spec.origin is not None
    home = Path(spec.origin).parent
    port = _free_port()
    master = f"spark://127.0.0.1:{port}"
    environment = {
        **os.environ,
        "SPARK_HOME": str(home),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_DAEMON_JAVA_OPTS": BRIEF,
        "PYSPARK_PYTHON": sys.executable,
    }
    common = ["--host", "127.0.0.1", "--webui-port", "0"]
    commands = [["Master", *common, "--port", str(port)]]
    commands += [
        [
            "Worker",
            master,
            *common,
            "--cores",
            "1",
            "--memory",
            "1g",
            "--work-dir",
            str(folder / f"worker-{number}"),
        ]
        for number in range(WORKERS)
    ]
    processes, logs = [], []
    try:
        for number, (what, *arguments) in enumerate(commands):
            log = folder / f"{number}-{what}.log"
            logs.append(log)
            name = f"org.apache.spark.deploy.{what.lower()}.{what}"
            with log.open("wb") as out:
                command = [str(home / "bin" / "spark-class"), name, *arguments]
                processes.append(
                    subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
                )
            if what == "Master":
                _wait_for(log, "I have been elected leader")
        for log in logs[1:]:
            _wait_for(log, "Successfully registered with master")
        yield master
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(30)


def _wait_for(log: Path, words: str) -> None:
    deadline = time.monotonic() + START_S
    while words not in log.read_text(errors="replace"):
        assert time.monotonic() < deadline, (
            f"no “{words}” in {START_S} s:\n{log.read_text(errors='replace')[-2000:]}"
        )
        time.sleep(0.2)
