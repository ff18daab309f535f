"""``kill -9`` at random points of a run, then again to the end: nobody twice, nobody missed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time

import pytest

from campaigns.run import simulate
from loyalty import points
from tests.campaigns.conftest import NOW, Shop
from tests.conftest import SECRET, count

MEMBERS = 2600


def start(shop: Shop) -> subprocess.Popen[str]:
    arguments = [
        sys.executable,
        "-m",
        "tests.campaigns.runner",
        str(shop.settings.home),
        shop.database.url,
        "back",
    ]
    environment = {**os.environ, "HUILIU_SECRET": SECRET}
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


def kill_after_some_work(process: subprocess.Popen[str], generator: random.Random) -> bool:
    """Kill -9 somewhere within the next batches; True when the process had finished before."""
    assert process.stdout is not None
    steps = generator.randrange(2, 6)
    lines = 0
    for line in process.stdout:
        lines += line.strip().isdigit()
        if lines >= steps:
            time.sleep(generator.random() * 0.08)  # anywhere inside the next transaction
            process.kill()
            break
    process.stdout.close()
    process.wait(timeout=60)
    return process.returncode == 0


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_stopped(shop: Shop) -> None:
    generator = random.Random(1)
    shop.members(MEMBERS, lambda n: ("email sms", "sms", "wechat", "")[n % 4])
    shop.campaign()
    expected = simulate(shop.database, shop.engine, shop.settings, "back", NOW).counts
    kills = 0
    while not kill_after_some_work(start(shop), generator):
        kills += 1
        assert count(shop.database, "decisions") % 200 == 0, "whole batches only"
        assert kills < 40
    assert kills >= 2, "the test must have killed something"
    verify(shop, expected)


@pytest.mark.slow
def test_two_processes_killed_in_turn_still_double_nothing(shop: Shop) -> None:
    generator = random.Random(7)
    shop.members(MEMBERS)
    shop.campaign()
    expected = simulate(shop.database, shop.engine, shop.settings, "back", NOW).counts
    finished = [False, False]

    def work(number: int) -> None:
        own = random.Random(generator.random() + number)
        for _ in range(40):
            if kill_after_some_work(start(shop), own):
                finished[number] = True
                return

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert finished == [True, True]
    verify(shop, expected)


def verify(shop: Shop, expected: object) -> None:
    database = shop.database
    assert count(database, "decisions") == MEMBERS
    sent = shop.rows("SELECT count(*) FROM decisions WHERE reason IS NULL")[0][0]
    assert sent == sum(expected.sent.values())  # type: ignore[attr-defined]
    assert count(database, "messages") == count(database, "coupons") == sent
    assert shop.rows("SELECT count(DISTINCT member_id) FROM coupons") == [(sent,)]
    assert shop.rows("SELECT count(DISTINCT member_id), count(*), sum(issued) FROM points_lots") == [
        (expected.variants["B"], expected.variants["B"], expected.points)  # type: ignore[attr-defined]
    ]
    assert shop.rows("SELECT counts FROM campaign_runs")
    with database.read() as session:
        assert points.check(session) == []
