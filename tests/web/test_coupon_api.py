"""The endpoints of holds, parts, claims and transfers, and the command line, on both databases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from core import settings as core_settings
from core.db import Database
from core.models import AuditEntry
from loyalty import claims, coupons, foreign_codes
from loyalty.models import Coupon
from tests.conftest import count
from tests.loyalty.data import NOW, add_batch, add_members
from tests.web.test_api import Post, client, clock, get, post  # noqa: F401
from web.cli import main
from web.coupon_files import lines_in

ORDER = {"order_id": "o1", "basket_minor": 5000, "currency": "CNY"}


def reason(answer: tuple[int, dict[str, Any]]) -> tuple[int, str]:
    return answer[0], answer[1]["error"]["code"]


def a_code(database: Database, member: int | None = None, **batch: Any) -> str:
    made = add_batch(database, **batch)
    with database.write() as session:
        return coupons.issue(session, made, [(member, made.name)], NOW)[made.name]


def test_a_code_is_held_released_held_and_redeemed_by_its_hold(db: Database, post: Post) -> None:  # noqa: F811
    code = a_code(db, budget_minor=1000)
    status, held = post("coupons/hold", {**ORDER, "code": code, "minutes": 30}, "h1")
    assert (status, held["state"], held["discount_minor"]) == (200, "held", 1000)
    assert held["expires_at"].startswith("2026-03-01T12:30:00")
    assert post("coupons/hold", {**ORDER, "code": code, "minutes": 30}, "h1") == (200, held)
    other = {**ORDER, "order_id": "o2"}
    assert reason(post("coupons/redeem", {**other, "code": code}, "x1")) == (409, "held")
    released = post("coupons/release", {"hold_id": held["hold_id"]}, "r1")
    assert (released[0], released[1]["state"]) == (200, "released")
    assert post("coupons/release", {"hold_id": held["hold_id"]}, "r1") == released
    assert reason(post("coupons/release", {"hold_id": 99}, "r1")) == (409, "conflict")
    again = post("coupons/hold", {**ORDER, "code": code}, "h2")[1]
    status, done = post("coupons/redeem", {**other, "hold_id": again["hold_id"]}, "x2")
    assert (status, done["order_id"], done["code"]) == (200, "o2", code)
    part = post("coupons/rollback", {"code": code, "order_id": "o2", "amount_minor": 2500}, "b1")[1]
    assert (part["returned_basket_minor"], part["returned_discount_minor"]) == (2500, 500)
    assert part["rolled_back_at"] is None
    whole = post("coupons/rollback", {"code": code, "order_id": "o2"}, "b2")[1]
    assert (whole["returned_discount_minor"], whole["rolled_back_at"] is not None) == (1000, True)


def test_a_members_best_code_is_redeemed_and_listed(db: Database, post: Post, get: Post) -> None:  # noqa: F811
    add_members(db, 1)
    code = a_code(db, 1)
    body = {**ORDER, "batch": "spring", "member_id": "m1"}
    assert get("members/m1/coupons")[1]["coupons"][0]["state"] == "issued"
    assert post("coupons/redeem", body, "k1")[1]["code"] == code
    assert reason(post("coupons/redeem", body, "k2")) == (409, "no_coupon")
    assert reason(post("coupons/redeem", {**body, "member_id": "m9"}, "k3")) == (404, "not_found")
    listed = get("members/m1/coupons")[1]
    assert (listed["member_id"], [one["state"] for one in listed["coupons"]]) == ("m1", ["redeemed"])
    assert get("members/m9/coupons")[0] == 404


def test_codes_are_claimed_and_handed_on(db: Database, post: Post) -> None:  # noqa: F811
    add_members(db, 2)
    made = add_batch(db, transferable=True)
    with db.write() as session:
        token = claims.create_link(session, made, claims.NewLink("x", 1), "ann", NOW).token
    status, mine = post("coupons/claim", {"link": token, "member_id": "m1"}, "c1")
    assert (status, mine["again"], mine["member_id"]) == (200, False, "m1")
    assert post("coupons/claim", {"link": token, "member_id": "m1"}, "c2")[1]["again"] is True
    assert reason(post("coupons/claim", {"link": token, "member_id": "m2"}, "c3")) == (409, "claim_used_up")
    assert reason(post("coupons/claim", {"link": "none", "member_id": "m2"}, "c4")) == (404, "not_found")
    move = {"code": mine["code"], "from_member_id": "m1", "to_member_id": "m2"}
    status, moved = post("coupons/transfer", move, "t1")
    assert (status, moved["to_member_id"]) == (200, "m2")
    assert post("coupons/transfer", move, "t1") == (200, moved)
    assert reason(post("coupons/transfer", move, "t2")) == (409, "other_member")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("hold", {"code": "X", "minutes": 0}),
        ("hold", {"code": "X", "basket_minor": -1}),
        ("hold", {"code": "X", "basket_minor": 0.5}),
        ("hold", {"code": "X", "basket_minor": 10**15}),
        ("redeem", {}),
        ("redeem", {"code": "X", "hold_id": 1}),
        ("redeem", {"batch": "spring"}),
        ("rollback", {"code": "X", "amount_minor": 0}),
        ("rollback", {"code": "X", "amount_minor": 1.5}),
        ("rollback", {"code": "X", "amount_minor": 10**15}),
        ("hold", {"code": "X"}),
    ],
)
def test_bad_input_is_said_and_nothing_written(
    db: Database, post: Post, path: str, body: dict[str, Any]  # noqa: F811
) -> None:  # fmt: skip
    base = {"order_id": "o1"} if path == "rollback" else ORDER
    assert reason(post(f"coupons/{path}", {**base, **body}, "k")) == (422, "invalid_input")
    assert count(db, "coupon_holds") + count(db, "redemptions") == 0


@pytest.fixture
def run(db: Database, home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HUILIU_HOME", str(home))
    monkeypatch.setenv("HUILIU_DATABASE_URL", db.url)
    core_settings.load.cache_clear()
    yield lambda *words: CliRunner().invoke(main, ["coupons", *words])
    core_settings.load.cache_clear()


def test_the_command_line_loads_makes_and_writes_codes(
    db: Database, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_members(db, 1)
    add_batch(db)
    file = tmp_path / "codes.csv"
    file.write_text("\ufeffcode,member_id\nOLD-1,m1\nOLD-2,\nOLD-3,m9\n", encoding="utf-8")
    tried = run("import", str(file), "--batch", "spring", "--dry-run", "--json")
    assert (tried.exit_code, count(db, "coupons")) == (3, 0)
    done = run("import", str(file), "--batch", "spring", "--json")
    assert done.exit_code == 3
    report = json.loads(done.stdout)
    assert {name: report[name] for name in ("rows", "inserted", "unchanged", "rejected")} == {
        "rows": 3, "inserted": 2, "unchanged": 0, "rejected": 1
    }  # fmt: skip
    assert "m9" in Path(report["rejects_file"]).read_text(encoding="utf-8")
    assert run("import", str(file), "--batch", "none").exit_code == 1
    monkeypatch.setattr(foreign_codes, "LOT", 40)
    for _ in range(2):
        assert run("generate", "spring", "--count", "100", "--json").exit_code == 0
    assert count(db, "coupons") == 102
    lines = run("export", "spring").stdout.splitlines()
    assert (len(lines), lines[1].split(",")[:2]) == (103, ["OLD1", "issued"])
    with db.read() as session:
        assert "export" in session.scalars(sa.select(AuditEntry.action)).all()
        assert session.scalar(sa.select(sa.func.count()).where(Coupon.foreign)) == 2


def test_generating_stops_at_the_batchs_limit_and_says_so(db: Database, run: Any) -> None:
    add_batch(db, total_limit=30)
    done = run("generate", "spring", "--count", "50")
    assert (done.exit_code, "reached its limit" in done.stderr, count(db, "coupons")) == (1, True, 30)


def test_a_file_without_a_header_is_a_list_of_codes(tmp_path: Path) -> None:
    file = tmp_path / "codes.txt"
    file.write_text("A-1\n\nA-2\n", encoding="utf-8")
    assert [(line.number, line.code, line.member) for line in lines_in(file)] == [
        (1, "A-1", None), (3, "A-2", None)
    ]  # fmt: skip
