"""Delivery's rate: e-mails from the outbox to ``smtp-sink``, beside ``smtp-source`` to the same sink.

    python -m tests.bench.deliver [--messages 50000] [--database sqlite|postgresql]

Prints one JSON object a database: messages a second of delivery and of smtp-source, their ratio,
and the peak resident memory of the delivering process in MB (it must stay under 300). As a part of
``python -m tests.bench`` it is repeated and compared like the others.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from channels import outbox
from channels.models import Message
from core import crypto
from core.db import Database
from core.settings import Settings
from migrations.runner import upgrade
from tests import postgres
from tests.bench.measure import Comparison, Sample, compare
from tests.channels.seed import CONTEXT, NOW, add_members, add_template, row

KIB = 1024
MESSAGES = 50_000
KINDS = ("sqlite", "postgresql")
MAX_ROUNDS = 3
SESSIONS = 10
SIZE = 7 * KIB
"""Of the HTML before it is encoded; the printed size is that of the whole e-mail."""
MAX_MB = 300
SECRET = base64.b64encode(bytes(range(32))).decode()

# The delivering process measures itself: its own peak, without the seeding's.
WORKER = """
import json, pathlib, sys
from channels.delivery import run_delivery
from core.db import Database
from core.settings import load
found = run_delivery(Database(load().url), load(), channels=["email"], concurrency=int(sys.argv[1]))
# Not ru_maxrss: a child starts with its parent's.
peak = int(pathlib.Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024
print(json.dumps({"sent": found.sent, "seconds": found.seconds, "peak_mb": round(peak, 1)}))
"""


@contextmanager
def sink() -> Iterator[int]:
    """A running smtp-sink; its port."""
    port = postgres.free_port()
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    process = subprocess.Popen(["smtp-sink", *user, f"127.0.0.1:{port}", "1024"], stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


def html_of(size: int) -> str:
    """A newsletter of about ``size`` bytes: a greeting, a table of products, tracked links."""
    product = (
        '<tr><td style="padding:12px;font-size:14px;color:#333333">Fresh arrivals picked for you: wool '
        "scarves, linen shirts and walking shoes, with free delivery above 99 yuan</td></tr>\n"
    )
    links = "".join(f'<a href="https://shop.example/p/{n}?utm_source=mail">第{n}款</a>\n' for n in range(5))
    head = "<p>{{ member.name }}，你好！券码 {{ coupon.code }}，面值 {{ coupon.amount|money }}</p>"
    body = product * max(1, (size - len(links) - len(head)) // len(product))
    return (
        f"<html><body>{head}<table>{body}</table>{links}"
        '<a href="{{ unsubscribe_url }}">退订</a></body></html>'
    )


def seed(database: Database, settings: Settings, messages: int) -> int:
    """Fill the outbox; the size of one e-mail in bytes."""
    template = add_template(
        database, settings, "email", html=html_of(SIZE), text="{{ member.name }}：请看网页版"
    )
    for start in range(1, messages + 1, 10_000):
        numbers = range(start, min(start + 10_000, messages + 1))
        add_members(database, numbers)
        with database.write() as session:
            outbox.enqueue(session, (row(n, "email", template) for n in numbers))
    from channels.render import Job, MemberView
    from channels.templates import load_contents

    with database.read() as session:
        content = load_contents(session, [template])[template]["zh_CN"]
    job = Job(
        1, "marketing", MemberView(1, "m1", name="会员1"), "m1@example.com", CONTEXT, settings.zone, NOW
    )
    payload = content.payload(settings, job)
    assert hasattr(payload, "content")
    return len(payload.content)


def smtp_source(port: int, messages: int, size: int) -> float:
    """Messages a second of Postfix's own generator, connections kept."""
    started = time.monotonic()
    subprocess.run(
        ["smtp-source", "-s", str(SESSIONS), "-m", str(messages), "-l", str(size), "-d", f"127.0.0.1:{port}"],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return messages / (time.monotonic() - started)


@contextmanager
def database_of(kind: str, folder: Path) -> Iterator[Database]:
    if kind == "sqlite":
        database = Database(f"sqlite:///{folder / 'huiliu.db'}")
        upgrade(database)
        yield database
        database.dispose()
        return
    with postgres.running(folder) as cluster:
        database = Database(cluster.url(cluster.create()))
        yield database
        database.dispose()


def measure(kind: str, messages: int) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="huiliu-bench-"))
    try:
        with sink() as port, database_of(kind, folder) as database:
            settings = Settings(
                home=folder, secret=SECRET, smtp_url=f"smtp://127.0.0.1:{port}", _env_file=None
            )
            size = seed(database, settings, messages)
            source = smtp_source(port, messages, size)
            environment = {
                **os.environ,
                "HUILIU_HOME": str(folder),
                "HUILIU_SECRET": SECRET,
                "HUILIU_DATABASE_URL": database.url,
                "HUILIU_SMTP_URL": settings.smtp_url,
            }
            output = subprocess.run(
                [sys.executable, "-c", WORKER, str(SESSIONS)],
                env=environment,
                check=True,
                capture_output=True,
            ).stdout
            found = json.loads(output)
            with database.read() as session:
                sent = session.scalar(sa.select(sa.func.count()).where(Message.state == "sent"))
            assert found["sent"] == sent == messages, f"{found} · {sent} settled"
            rate = messages / found["seconds"]
            assert found["peak_mb"] < MAX_MB, f"{found['peak_mb']} MB is more than {MAX_MB}"
            return {
                "database": kind,
                "messages": messages,
                "bytes": size,
                "delivery_per_s": round(rate),
                "smtp_source_per_s": round(source),
                "ratio": round(rate / source, 3),
                "peak_mb": found["peak_mb"],
            }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def bench(*, quick: bool, repetitions: int) -> Iterator[Comparison]:
    """A comparison a database. Every round seeds an outbox anew, so there are three at most."""
    messages = 2_000 if quick else MESSAGES
    for kind in KINDS:
        rounds = [measure(kind, messages) for _ in range(min(repetitions, MAX_ROUNDS))]
        samples = {
            "delivery": [Sample(messages / r["delivery_per_s"], None, r["peak_mb"]) for r in rounds],
            "smtp-source": [Sample(messages / r["smtp_source_per_s"], None, None) for r in rounds],
        }
        case = f"{messages:,} e-mails of {rounds[0]['bytes']:,} bytes, {kind}"
        yield compare("deliver", case, samples, "delivery", "smtp-source", rows=messages)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=MESSAGES)
    parser.add_argument("--database", choices=KINDS, action="append")
    options = parser.parse_args()
    crypto.install(crypto.Keyring(base64.b64decode(SECRET)))
    for kind in options.database or KINDS:
        print(json.dumps(measure(kind, options.messages)), flush=True)


if __name__ == "__main__":
    main()
