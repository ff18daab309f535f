"""``kill -9`` of the whole web server while tills are busy: nothing twice, nothing lost, books that agree.

A real server of two processes over a durable PostgreSQL; tills are threads that repeat a request, with
the same key and the same body, until it is answered.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from core.db import Database
from loyalty import coupons, points
from loyalty.models import Coupon, CouponBatch, CouponHold, PointsEntry, PointsHold, Redemption
from tests import postgres
from tests.conftest import SECRET, need
from tests.loyalty.data import add_batch, add_members
from web.api import keys

ROOT = Path(__file__).parents[2]
TILLS = 24
MEMBERS, GRANTED = 30, 600
SINGLE, CONTESTED, HELD, TIGHT = 70, 40, 60, 30
TIGHT_ROOM = 20
"""Redemptions that the tight batch's budget has room for."""
BURNS = 90
ANSWER_S = 60
Answer = tuple[int, dict[str, Any]]


@dataclass
class Till:
    """What all tills share: where the server is, and what it said to whom."""

    port: int
    token: str
    answers: dict[str, Answer] = field(default_factory=dict)
    bodies: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    cut_off: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, path: str, body: dict[str, Any], key: str) -> dict[str, Any]:
        """Repeat until there is an answer that is no failure of the server."""
        with self.lock:
            self.bodies[key] = path, body
        found = self.send(path, body, key)
        with self.lock:
            self.answers[key] = found
        return found[1]

    def send(self, path: str, body: dict[str, Any], key: str) -> Answer:
        end = time.monotonic() + ANSWER_S
        headers = {"Authorization": f"Bearer {self.token}", "Idempotency-Key": key,
                   "Content-Type": "application/json"}  # fmt: skip
        while time.monotonic() < end:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
            sent = False
            try:
                connection.request("POST", f"/api/v1/{path}", json.dumps(body), headers)
                sent = True
                answer = connection.getresponse()
                text = answer.read()
                if answer.status < 500:
                    return answer.status, json.loads(text)
            except (OSError, http.client.HTTPException):
                with self.lock:
                    self.cut_off["under way" if sent else "refused"] += 1
                time.sleep(0.05)
            finally:
                connection.close()
        raise AssertionError(f"{path} with the key {key} was not answered within {ANSWER_S} s")


@dataclass
class Shop:
    database: Database
    home: Path
    port: int
    till: Till

    def start(self) -> subprocess.Popen[bytes]:
        """The server, leader of a process group of its own; it answers when this returns."""
        environment = {**os.environ, "HUILIU_SECRET": SECRET, "HUILIU_HOME": str(self.home),
                       "HUILIU_DATABASE_URL": self.database.url, "HUILIU_PORT": str(self.port)}  # fmt: skip
        command = [sys.executable, "-m", "web", "serve", "--processes", "2"]
        with (self.home / "server.log").open("ab") as log:
            server = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        for _ in range(400):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            with suppress(OSError, http.client.HTTPException), closing(connection):
                connection.request("GET", "/api/v1/members/m1/points")
                answer = connection.getresponse()
                answer.read()
                if answer.status == 401:
                    return server
            assert server.poll() is None, (self.home / "server.log").read_text()
            time.sleep(0.05)
        raise AssertionError("the server did not start")

    def codes(self, name: str, number: int, **batch: Any) -> list[str]:
        made = add_batch(self.database, name=name, **batch)
        with self.database.write() as session:
            rows = [(None, f"{name}:{place}") for place in range(number)]
            return list(coupons.issue(session, made, rows, datetime.now(UTC)).values())


def kill(server: subprocess.Popen[bytes]) -> None:
    os.killpg(server.pid, signal.SIGKILL)
    server.wait(30)


@pytest.fixture
def shop(home: Path) -> Iterator[Shop]:
    need(postgres.find() is not None, "PostgreSQL")
    with (
        tempfile.TemporaryDirectory(prefix="huiliu-kill-") as folder,
        postgres.running(Path(folder), durable=True) as cluster,
    ):
        database = Database(cluster.url(cluster.create()))
        add_members(database, MEMBERS)
        now = datetime.now(UTC)
        with database.write() as session:
            points.grant_many(session, [(n, GRANTED, f"g{n}") for n in range(1, MEMBERS + 1)], now)
            token = keys.create(session, "shop", keys.SCOPES, "ann", now)[1]
        port = postgres.free_port()
        yield Shop(database, home, port, Till(port, token))
        database.dispose()


def redeeming(till: Till, code: str, order: str, basket: int) -> Callable[[], None]:
    body = {"code": code, "order_id": order, "basket_minor": basket, "currency": "CNY"}
    return lambda: void(till.ask("coupons/redeem", body, f"redeem:{order}"))


def holding(till: Till, code: str, number: int) -> Callable[[], None]:
    """Held, then redeemed by the hold, or released: every third."""

    def run() -> None:
        order = {"order_id": f"held-{number}", "basket_minor": 3000 + number, "currency": "CNY"}
        held = till.ask("coupons/hold", {**order, "code": code, "minutes": 60}, f"hold:{number}")
        named = {"hold_id": held["hold_id"]}
        if number % 3:
            till.ask("coupons/redeem", {**order, **named}, f"take:{number}")
        else:
            till.ask("coupons/release", named, f"release:{number}")

    return run


def burning(till: Till, number: int) -> Callable[[], None]:
    """Burnt at once, or (every third) out of a hold. The members have less than all this."""
    member, wanted = {"member_id": f"m{number % MEMBERS + 1}"}, 230 + number

    def run() -> None:
        order = f"burn-{number}"
        if number % 3:
            till.ask("points/burn", {**member, "points": wanted, "order_id": order}, f"burn:{number}")
            return
        held = till.ask("points/hold", {**member, "points": wanted, "order_id": order, "minutes": 60},
                        f"set-aside:{number}")  # fmt: skip
        if "hold_id" in held:
            part = {"points": wanted - 30} if number % 2 else {}
            till.ask("points/burn", {**member, **part, "hold_id": held["hold_id"]}, f"burn:{number}")

    return run


def void(_answer: object) -> None:
    """A till's job answers nothing."""


def jobs_of(shop: Shop) -> list[Callable[[], None]]:
    till = shop.till
    single = shop.codes("single", SINGLE, budget_minor=10**9, benefit={"type": "percent", "percent": "12.5"})
    contested = shop.codes("contested", CONTESTED)
    held = shop.codes("held", HELD, budget_minor=10**9)
    tight = shop.codes("tight", TIGHT, budget_minor=TIGHT_ROOM * 1000)
    return [
        *(redeeming(till, code, f"single-{n}", 777 + 13 * n) for n, code in enumerate(single)),
        *(redeeming(till, code, f"{side}-{n}", 5000) for n, code in enumerate(contested) for side in "ab"),
        *(redeeming(till, code, f"tight-{n}", 5000) for n, code in enumerate(tight)),
        *(holding(till, code, n) for n, code in enumerate(held)),
        *(burning(till, n) for n in range(BURNS)),
    ]


def work(jobs: list[Callable[[], None]]) -> tuple[list[threading.Thread], list[BaseException]]:
    """The tills at their jobs, started; what stopped one of them is in the list."""
    todo, lock = iter(jobs), threading.Lock()
    broken: list[BaseException] = []

    def till() -> None:
        try:
            while True:
                with lock:
                    job = next(todo, None)
                if job is None:
                    return
                job()
        except BaseException as error:
            broken.append(error)

    threads = [threading.Thread(target=till, daemon=True) for _ in range(TILLS)]
    for thread in threads:
        thread.start()
    return threads, broken


@pytest.mark.slow
def test_a_server_killed_three_times_at_busy_tills_doubles_nothing_and_loses_nothing(shop: Shop) -> None:
    generator = random.Random(11)
    jobs = jobs_of(shop)
    generator.shuffle(jobs)
    till, server = shop.till, shop.start()
    try:
        threads, broken = work(jobs)
        for share in (0.15, 0.4, 0.65):
            while len(till.answers) < share * len(jobs) and not broken:
                time.sleep(0.002)
            time.sleep(generator.random() * 0.1)  # anywhere inside the transactions under way
            kill(server)
            assert any(thread.is_alive() for thread in threads), "killed when nobody worked any more"
            server = shop.start()
        for thread in threads:
            thread.join(ANSWER_S)
        assert broken == []
        assert till.cut_off["under way"] >= 3, "the kills must have cut somebody off"
        check_answers(till)
        with shop.database.read() as session:
            check_coupons(session, till)
            check_points(session, till)
    finally:
        with suppress(ProcessLookupError):
            kill(server)


def good(till: Till, *prefixes: str) -> dict[str, dict[str, Any]]:
    """The answers that were no refusals, by key."""
    return {
        key: body
        for key, (status, body) in till.answers.items()
        if status == 200 and key.split(":")[0] in prefixes
    }


def check_answers(till: Till) -> None:
    """Asked once more, every till hears what it heard; nobody was told anything but a known refusal."""
    refusals = Counter(body["error"]["code"] for status, body in till.answers.values() if status != 200)
    short = refusals["insufficient_points"]
    assert refusals == {
        "already_redeemed": CONTESTED, "budget": TIGHT - TIGHT_ROOM, "insufficient_points": short
    }  # fmt: skip
    assert 0 < short < BURNS, "some burns exceed what the members have"
    again: dict[str, Answer] = {}
    threads, broken = work(
        [
            lambda key=key: again.__setitem__(key, till.send(*till.bodies[key], key))  # type: ignore[misc]
            for key, (status, _) in till.answers.items()
            if status == 200
        ]
    )
    for thread in threads:
        thread.join(ANSWER_S)
    assert broken == []
    assert again == {key: answer for key, answer in till.answers.items() if answer[0] == 200}


def check_coupons(session: Any, till: Till) -> None:
    redeemed = good(till, "redeem", "take")
    rows = {row.id: row for row in session.scalars(sa.select(Redemption))}
    assert {body["redemption_id"]: body["discount_minor"] for body in redeemed.values()} == {
        number: row.discount_minor for number, row in rows.items()
    }
    assert len({row.coupon_id for row in rows.values()}) == len(rows) == len(redeemed)
    released = [n for n in range(HELD) if n % 3 == 0]
    assert len(redeemed) == SINGLE + CONTESTED + TIGHT_ROOM + HELD - len(released)
    states = Counter(session.scalars(sa.select(Coupon.state)))
    assert states == {"redeemed": len(rows), "issued": len(released) + TIGHT - TIGHT_ROOM}
    holds = Counter(session.scalars(sa.select(CouponHold.state)))
    assert holds == {"redeemed": HELD - len(released), "released": len(released)}
    used = session.execute(
        sa.select(CouponBatch.name, CouponBatch.budget_used_minor, sa.func.sum(Redemption.discount_minor))
        .join(Coupon, Coupon.batch_id == CouponBatch.id)
        .join(Redemption, Redemption.coupon_id == Coupon.id)
        .where(CouponBatch.budget_minor.is_not(None))
        .group_by(CouponBatch.id)
    ).all()
    assert [(name, int(total)) for name, _, total in used] == [(name, counted) for name, counted, _ in used]
    assert {name for name, _, _ in used} == {"single", "held", "tight"}


def check_points(session: Any, till: Till) -> None:
    assert points.check(session) == []
    burned = good(till, "burn")
    spent = -session.scalar(sa.select(sa.func.sum(PointsEntry.delta)).where(PointsEntry.kind == "spend"))
    assert spent == sum(body["points"] for body in burned.values())
    sources = session.scalar(
        sa.select(sa.func.count(PointsEntry.source_id.distinct())).where(PointsEntry.kind == "spend")
    )
    assert sources == len(burned)
    states = Counter(session.scalars(sa.select(PointsHold.state)))
    assert states == {"captured": len(good(till, "set-aside"))}
    assert states["captured"] > 0
