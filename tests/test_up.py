"""``huiliu up`` for real: a Prefect server, the deployments of prefect.yaml, a worker that runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from core.db import Database
from core.imports import load_rows, numbered
from core.settings import Settings
from tests.conftest import SECRET
from tests.postgres import free_port
from web.up import settings_environment

ROOT = Path(__file__).parent.parent


@pytest.fixture
def installation(sqlite_db: Database, home: Path) -> Settings:
    ports = {name: free_port() for name in ("port", "prefect_port", "sandbox_smtp_port", "sandbox_http_port")}
    return Settings(
        home=home, secret=SECRET, base_url=f"http://127.0.0.1:{ports['port']}", _env_file=None, **ports
    )


def environment(settings: Settings) -> dict[str, str]:
    return {**os.environ, **settings_environment(settings), "PYTHONUNBUFFERED": "1"}


def wait_for_line(process: subprocess.Popen[str], text: str, seconds: float = 150) -> None:
    assert process.stdout is not None
    lines = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        line = process.stdout.readline()
        lines.append(line)
        if text in line:
            return
        if not line and process.poll() is not None:
            break
    raise AssertionError("".join(lines))


@pytest.mark.prefect
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_up_deploys_runs_on_a_worker_and_stops_everything(
    sqlite_db: Database, installation: Settings
) -> None:
    load_rows(
        sqlite_db, "orders",
        numbered([{"order_id": "o1", "member_id": "m1", "ordered_at": "2026-01-05T10:00:00", "amount": "10"}]),
        settings=installation, source="shop", now=datetime.now(UTC), consents=lambda _s, _c: None,
    )  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "web", "up"],
        cwd=ROOT, env=environment(installation), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        wait_for_line(process, "Ctrl-C stops everything")
        api = f"http://127.0.0.1:{installation.prefect_port}/api"
        listed = httpx.post(f"{api}/deployments/filter", json={}, timeout=10).json()
        wanted = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
        assert {item["name"] for item in listed} == {item["name"] for item in wanted}
        scheduled = {item["name"] for item in wanted if item.get("schedules")}
        assert {item["name"] for item in listed if item["schedules"]} == scheduled

        sync = next(item for item in listed if item["name"] == "sync-replica")
        run = httpx.post(f"{api}/deployments/{sync['id']}/create_flow_run", json={}, timeout=10).json()
        assert _final_state(api, run["id"]) == "COMPLETED"
        assert (installation.home / "warehouse" / "orders" / "2026-01.parquet").exists()
        assert httpx.get(f"{installation.base_url}/login", timeout=10).status_code == 200
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 4
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 0
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == [], "nothing that was started is left behind"


def _final_state(api: str, run_id: str) -> str:
    for _ in range(240):
        state = httpx.get(f"{api}/flow_runs/{run_id}", timeout=10).json()["state_type"]
        if state in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            return str(state)
        time.sleep(0.5)
    return "TIMED OUT"


def test_up_says_why_a_service_did_not_start(installation: Settings) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", installation.sandbox_http_port))
        taken.listen()
        done = subprocess.run(
            [sys.executable, "-m", "channels.sandbox"],
            env=environment(installation),
            capture_output=True,
            text=True,
        )
    assert done.returncode != 0
    assert str(installation.sandbox_http_port) in done.stderr


def test_doctor_names_what_is_missing(installation: Settings, home: Path) -> None:
    (home / "huiliu.db").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "web", "doctor", "--json"],
        env=environment(installation),
        capture_output=True,
        text=True,
    )
    found = {item["check"]: item for item in json.loads(done.stdout)["checks"]}
    assert done.returncode == 1
    assert not found["database"]["ok"]
    assert "huiliu init" in found["database"]["detail"]


@pytest.mark.parametrize(("processes", "fine"), [("2", True), ("9", False)])
def test_doctor_compares_the_web_servers_connections_with_postgresqls(
    installation: Settings, pg_db: Database, processes: str, fine: bool
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "web", "doctor", "--json"],
        env=environment(installation) | {"HUILIU_DATABASE_URL": pg_db.url, "HUILIU_PROCESSES": processes},
        capture_output=True,
        text=True,
    )
    found = {item["check"]: item for item in json.loads(done.stdout)["checks"]}["connections"]
    assert found["ok"] is fine
    # The suite's own cluster takes 300: 9 processes with 16 threads may open 288, and workers need some too.
    assert f"takes 300, the web server may open {int(processes) * 32}" in found["detail"]
    assert fine or "raise max_connections" in found["detail"]
