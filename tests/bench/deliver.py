"""Delivery's rate: e-mails from the outbox to ``smtp-sink``, beside ``smtp-source`` to the same sink.

    python -m tests.bench.deliver [--messages 100000] [--database postgresql] [--workers 2] [--dkim rsa]
    python -m tests.bench.deliver --claims 1000000

Prints one JSON object a database: messages a second of delivery (claim, render, build, send, settle) and
of its peers in the same run, their ratios, and the peak resident memory of the largest worker in MB (it must
stay under 250). As a part of ``python -m tests.bench`` it is repeated and compared like the others.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
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
MESSAGES = 100_000
KINDS = ("sqlite", "postgresql")
MAX_ROUNDS = 3
SESSIONS = 10
SIZE = 8 * KIB
"""Of the HTML before it is encoded; the printed size is that of the whole e-mail."""
MAX_MB = 250
LOOP_MESSAGES = 3_000
FAR_MESSAGES = 2_000
ROUND_TRIP_S = 0.02
CLAIMS = 1_000_000
SECRET = base64.b64encode(bytes(range(32))).decode()

# A delivering process measures itself: its own peak, without the seeding's.
WORKER = """
import json, pathlib, sys, time
from channels.delivery import run_delivery
from core.db import Database
from core.settings import load
started = time.time()
found = run_delivery(Database(load().url), load(), channels=["email"], concurrency=int(sys.argv[1]))
# Not ru_maxrss: a child starts with its parent's.
peak = int(pathlib.Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024
print(json.dumps({"sent": found.sent, "started": started, "ended": time.time(), "peak_mb": round(peak, 1)}))
"""

# What one writes first: a message object per recipient, a library that waits for every reply.
LOOP = """
import asyncio, json, sys, time
from email.message import EmailMessage
import aiosmtplib
port, number, size, connections = map(int, sys.argv[1:])
html = sys.stdin.read()
async def lane(count):
    client = aiosmtplib.SMTP(hostname="127.0.0.1", port=port, start_tls=False, use_tls=False)
    await client.connect()
    for n in range(count):
        message = EmailMessage()
        message["From"], message["To"] = "shop@example.com", f"m{n}@example.com"
        message["Subject"] = f"会员{n}，我们想你了"
        message.set_content(f"会员{n}：请看网页版")
        message.add_alternative(html.replace("NAME", f"会员{n}"), subtype="html")
        await client.sendmail("shop@example.com", [f"m{n}@example.com"], bytes(message))
    await client.quit()
async def main():
    started = time.monotonic()
    await asyncio.gather(*[lane(number // connections) for _ in range(connections)])
    print(json.dumps({"seconds": time.monotonic() - started}))
asyncio.run(main())
"""

PRIMITIVE = """
import json, sys, time
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.hashes import SHA256
from channels.transports.dkim import load_keys
(key,) = load_keys(sys.argv[1])
started, number = time.monotonic(), int(sys.argv[2])
for _ in range(number):
    key.sign(b"x" * 600)
print(json.dumps({"seconds": time.monotonic() - started}))
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


@contextmanager
def far(port: int, seconds: float) -> Iterator[int]:
    """A way to ``port`` that takes ``seconds`` there and back; its port. A process of its own."""
    near = postgres.free_port()
    command = [sys.executable, "-m", "tests.bench.deliver", "--proxy", str(near), str(port), str(seconds)]
    process = subprocess.Popen(command)
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", near)) == 0:
                    break
            time.sleep(0.05)
        yield near
    finally:
        process.terminate()
        process.wait()


async def proxy(near: int, port: int, seconds: float) -> None:
    """Passes bytes on, each ``seconds`` / 2 later."""
    loop = asyncio.get_running_loop()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            loop.call_later(seconds / 2, writer.write, data)
        loop.call_later(seconds / 2, writer.close)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, back), pump(there, writer), return_exceptions=True)

    server = await asyncio.start_server(serve, "127.0.0.1", near)
    await server.serve_forever()


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
    if database.dialect == "postgresql":
        with database.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("ANALYZE")
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


def library_loop(port: int, messages: int, connections: int = 1) -> float:
    """Messages a second of EmailMessage and aiosmtplib."""
    command = [sys.executable, "-c", LOOP, str(port), str(messages), str(SIZE), str(connections)]
    html = html_of(SIZE).replace("{{ member.name }}", "NAME")
    done = subprocess.run(command, input=html.encode(), capture_output=True, check=True)
    return float(messages / json.loads(done.stdout)["seconds"])


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


def _key(folder: Path, kind: str) -> str:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

    made: Any = (
        rsa.generate_private_key(65537, 2048) if kind == "rsa" else ed25519.Ed25519PrivateKey.generate()
    )
    (folder / "dkim.pem").write_bytes(
        made.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return f"s:example.com:{folder}/dkim.pem"


def _work(environment: dict[str, str], workers: int) -> dict[str, Any]:
    """All workers at once; from the first one's start to the last one's end."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(SESSIONS)], env=environment, stdout=subprocess.PIPE
        )
        for _ in range(workers)
    ]
    found = [json.loads(process.communicate()[0]) for process in processes]
    return {
        "sent": sum(one["sent"] for one in found),
        "seconds": max(one["ended"] for one in found) - min(one["started"] for one in found),
        "peak_mb": max(one["peak_mb"] for one in found),
    }


def measure(
    kind: str, messages: int, workers: int = 1, dkim: str = "", round_trip_s: float = 0.0
) -> dict[str, Any]:
    """One delivery and its peers in the same run."""
    folder = Path(tempfile.mkdtemp(prefix="huiliu-bench-"))
    try:
        with ExitStack() as stack:
            port = stack.enter_context(sink())
            if round_trip_s:
                port = stack.enter_context(far(port, round_trip_s))
            database = stack.enter_context(database_of(kind, folder))
            keys = _key(folder, dkim) if dkim else ""
            url = f"smtp://127.0.0.1:{port}"
            settings = Settings(home=folder, secret=SECRET, smtp_url=url, _env_file=None)
            size = seed(database, settings, messages)
            source = 0.0 if round_trip_s else smtp_source(port, messages, size)
            loop = library_loop(port, min(messages, LOOP_MESSAGES if not round_trip_s else 1000),
                                SESSIONS if round_trip_s else 1)  # fmt: skip
            # Before and after: the machine is not equally fast for minutes.
            primitives = [_primitive(keys, min(messages, 5_000))] if dkim else []
            environment = {
                **os.environ,
                "HUILIU_HOME": str(folder),
                "HUILIU_SECRET": SECRET,
                "HUILIU_DATABASE_URL": database.url,
                "HUILIU_SMTP_URL": url,
                "HUILIU_DKIM_KEYS": keys,
            }
            found = _work(environment, workers)
            primitives += [_primitive(keys, min(messages, 5_000))] if dkim else []
            with database.read() as session:
                sent = session.scalar(sa.select(sa.func.count()).where(Message.state == "sent"))
            assert found["sent"] == sent == messages, f"{found} · {sent} settled"
            rate = messages / found["seconds"]
            primitive = sum(primitives) / 2
            assert found["peak_mb"] < MAX_MB, f"{found['peak_mb']} MB is more than {MAX_MB}"
            return {
                "database": kind,
                "messages": messages,
                "workers": workers,
                "dkim": dkim,
                "bytes": size,
                "delivery_per_s": round(rate),
                "smtp_source_per_s": round(source),
                "ratio": round(rate / source, 3) if source else None,
                "library_per_s": round(loop),
                "times_library": round(rate / loop, 1),
                "signature_per_s": round(primitive),
                "of_signature": round(rate / primitive, 2) if primitive else None,
                "peak_mb": found["peak_mb"],
            }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _primitive(keys: str, number: int) -> float:
    """Signatures a second of the key alone, one process."""
    command = [sys.executable, "-c", PRIMITIVE, keys, str(number)]
    done = subprocess.run(command, capture_output=True, check=True)
    return float(number / json.loads(done.stdout)["seconds"])


def claims(messages: int, batch: int = 500) -> dict[str, Any]:
    """How long a claim takes from the first to the last of a long queue on PostgreSQL: medians of tenths."""
    from channels.claim import Terms, claim, hand_over
    from channels.settle import Settlement, settle

    folder = Path(tempfile.mkdtemp(prefix="huiliu-bench-"))
    times: list[float] = []
    try:
        with database_of("postgresql", folder) as database:
            settings = Settings(home=folder, secret=SECRET, _env_file=None)
            seed(database, settings, messages)
            terms = Terms("email", 0, settings.zone)
            while True:
                owner = f"bench:{len(times)}"
                started = time.monotonic()
                with database.write() as session:
                    ready = claim(session, terms, owner, batch, NOW).ready
                taken = time.monotonic() - started
                if not ready:
                    break
                times.append(taken)
                with database.write() as session:
                    hand_over(session, owner, NOW)
                with database.write() as session:
                    settle(session, "email", "smtp", owner, [Settlement(m, "sent") for m in ready], NOW, NOW)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    tenth = max(1, len(times) // 10)
    parts = [
        round(median(times[at : at + tenth]) * 1000, 1) for at in range(0, len(times) - tenth + 1, tenth)
    ]
    return {
        "messages": messages,
        "batch": batch,
        "claim_ms_by_tenth": parts,
        "worst_ms": round(max(times) * 1e3, 1),
    }


def _samples(rounds: Sequence[dict[str, Any]], peer: str, name: str) -> dict[str, list[Sample]]:
    messages = rounds[0]["messages"]
    return {
        "delivery": [Sample(messages / r["delivery_per_s"], None, r["peak_mb"]) for r in rounds],
        name: [Sample(messages / r[peer], None, None) for r in rounds],
    }


def bench(*, quick: bool, repetitions: int) -> Iterator[Comparison]:
    """Comparisons a database. Every round seeds an outbox anew, so there are three at most."""
    messages, turns = 2_000 if quick else MESSAGES, min(repetitions, MAX_ROUNDS)
    workers = os.cpu_count() or 1
    for kind in KINDS:
        many = workers if kind == "postgresql" else 1
        rounds = [measure(kind, messages, many) for _ in range(turns)]
        case = f"{messages:,} e-mails of {rounds[0]['bytes']:,} bytes, {kind}, {many} workers"
        source = _samples(rounds, "smtp_source_per_s", "smtp-source")
        library = _samples(rounds, "library_per_s", "EmailMessage and aiosmtplib")
        target = 0.4 if kind == "postgresql" else None
        yield compare("deliver", case, source, "delivery", "smtp-source", rows=messages, at_least=target)
        yield compare(
            "deliver", case, library, "delivery", "EmailMessage and aiosmtplib", rows=messages, at_least=6
        )
    rounds = [measure("postgresql", messages, workers, "rsa") for _ in range(turns)]
    signed = _samples(rounds, "signature_per_s", "RSA-2048 alone")
    case = f"{messages:,} e-mails with DKIM, postgresql, {workers} workers"
    yield compare("deliver", case, signed, "delivery", "RSA-2048 alone", rows=messages, at_least=0.8)
    number = min(messages, FAR_MESSAGES)
    rounds = [measure("postgresql", number, 1, "", ROUND_TRIP_S) for _ in range(turns)]
    distant = _samples(rounds, "library_per_s", "aiosmtplib, as many connections")
    case = f"{number:,} e-mails at {ROUND_TRIP_S * 1000:.0f} ms, {SESSIONS} connections"
    yield compare(
        "deliver", case, distant, "delivery", "aiosmtplib, as many connections", rows=number, at_least=3
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=MESSAGES)
    parser.add_argument("--database", choices=KINDS, action="append")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--dkim", choices=("rsa", "ed25519"), default="")
    parser.add_argument("--far", action="store_true", help="at 20 ms round trip")
    parser.add_argument("--claims", type=int, help="measure claims on a queue of this length instead")
    parser.add_argument("--proxy", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.proxy:
        near, port, seconds = options.proxy
        asyncio.run(proxy(int(near), int(port), float(seconds)))
        return
    crypto.install(crypto.Keyring(base64.b64decode(SECRET)))
    if options.claims:
        print(json.dumps(claims(options.claims)), flush=True)
        return
    for kind in options.database or KINDS:
        found = measure(
            kind, options.messages, options.workers, options.dkim, ROUND_TRIP_S if options.far else 0.0
        )
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
