"""The command line as the shop's scripts use it: answers as JSON, exit codes, refusals in one line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from core import settings as core_settings
from core.db import Database
from core.models import AuditEntry
from experiments import catalogue
from web.cli import main

MEMBERS = "member_id,email,email_consent,registered_at\nm1,a@example.com,true,2026-01-01\nm2,b@example.com,false,2026-01-01\n"
ORDERS = "order_id,member_id,ordered_at,amount,category\no1,m1,2026-01-05T10:00:00,12.50,coffee\no2,m1,2026-02-05T10:00:00,20,tea\n"


class Huiliu:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(main, list(arguments), input=stdin)

    def json(self, *arguments: str, code: int = 0, stdin: str | None = None) -> Any:
        result = self(*arguments, "--json", stdin=stdin)
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)

    def file(self, name: str, content: str) -> str:
        (self.folder / name).write_text(content, encoding="utf-8")
        return str(self.folder / name)


@pytest.fixture
def huiliu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Huiliu]:
    monkeypatch.setenv("HUILIU_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    core_settings.load.cache_clear()
    yield Huiliu(tmp_path)
    core_settings.load.cache_clear()


@pytest.fixture
def shop(huiliu: Huiliu) -> Huiliu:
    huiliu.json("init", "--email", "boss@example.com")
    huiliu.json("import", "members", huiliu.file("members.csv", MEMBERS))
    huiliu.json("import", "orders", huiliu.file("orders.csv", ORDERS))
    return huiliu


def test_init_makes_everything_once(huiliu: Huiliu) -> None:
    first = huiliu.json("init", "--email", "boss@example.com")
    assert first["admin"] == "boss@example.com"
    assert len(first["password"]) >= 12
    assert "password" not in huiliu.json("init")
    with Database(core_settings.load().url).read() as session:
        assert [row.name for row in catalogue.listing(session)] == sorted(
            one.name for one in catalogue.BUILT_IN
        )
        made = sa.select(sa.func.count()).where(AuditEntry.object_type == catalogue.OBJECT)
        assert session.scalar(made) == len(catalogue.BUILT_IN), "a second time adds nothing"
    assert huiliu("init", "--email", "other@example.com").exit_code == 1


def test_before_init_every_command_says_so(huiliu: Huiliu) -> None:
    result = huiliu("refresh")
    assert result.exit_code == 1
    assert "huiliu init" in result.stderr
    assert "Traceback" not in result.output


def test_an_import_answers_its_counts_and_3_with_rejects(shop: Huiliu) -> None:
    again = shop.json("import", "orders", shop.file("orders.csv", ORDERS))
    assert again == {
        "rows": 2,
        "inserted": 0,
        "updated": 0,
        "unchanged": 2,
        "rejected": 0,
        "rejects_file": None,
    }
    bad = shop.json("import", "orders", shop.file("bad.csv", ORDERS + "o3,m1,yesterday,1,x\n"), code=3)
    assert (bad["unchanged"], bad["rejected"]) == (2, 1)
    with Path(bad["rejects_file"]).open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["line"] == "4"
    assert "yesterday" in row["reason"]


def test_a_dry_run_says_that_it_was_one(shop: Huiliu) -> None:
    done = shop.json("import", "members", shop.file("more.csv", "member_id\nm3\n"), "--dry-run")
    assert (done["inserted"], done["dry_run"]) == (1, True)
    assert (
        shop.json("segments", "count", "--rule", "-", stdin='{"field": "member_id", "op": "is_set"}')["total"]
        == 2
    )


def test_columns_may_be_mapped(shop: Huiliu) -> None:
    path = shop.file("c.csv", "customer,mail\nm9,c@example.com\n")
    missing = shop("import", "members", path)
    assert missing.exit_code == 1
    assert "--map" in missing.stderr
    done = shop.json("import", "members", path, "--map", "customer=member_id", "--map", "mail=email")
    assert done["inserted"] == 1


def test_refresh_answers_stages_and_is_repeatable(shop: Huiliu) -> None:
    first = shop.json("refresh", "--as-of", "2026-03-01")
    assert (first["as_of"], first["members"], first["scored"]) == ("2026-03-01", 2, 1)
    assert first["stages"] == {"active": 1, "prospect": 1}
    second = shop.json("refresh", "--as-of", "2026-03-01")
    assert {**first, "seconds": 0} == {**second, "seconds": 0}


def test_a_rule_is_counted_without_being_saved(shop: Huiliu) -> None:
    shop.json("refresh", "--as-of", "2026-03-01")
    rule = {"event": "order", "where": [{"field": "category", "op": "=", "value": "coffee"}], "aggregate": "count",
            "op": ">=", "value": 1}  # fmt: skip
    path = shop.file("rule.json", json.dumps(rule))
    found = shop.json("segments", "count", "--rule", path, "--as-of", "2026-03-01")
    assert found == {"count": 1, "total": 2, "share": 0.5, "sample": ["m1"]}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["segments", "count", "--rule", "{rule}"], 1, "all[0].op"),
        (["segments", "count", "nobody"], 1, "There is no segment"),
        (["segments", "count"], 2, "--rule FILE"),
        (["campaigns", "run", "nothing"], 1, "There is no campaign"),
        (["refresh", "--as-of", "soon"], 1, "not a date"),
        (["import", "wishes", "x.csv"], 2, "wishes"),
        (["import", "orders", "nowhere.csv"], 1, "There is no file"),
        (["deliver", "--workers", "99"], 1, "from 1 to 32"),
    ],
)
def test_refusals_are_one_line_and_an_exit_code(
    shop: Huiliu, arguments: list[str], code: int, words: str
) -> None:
    rule = shop.file("bad.json", '{"all": [{"field": "city", "op": "over", "value": 1}]}')
    result = shop(*[argument.replace("{rule}", rule) for argument in arguments])
    assert result.exit_code == code
    assert words in result.stderr
    assert "Traceback" not in result.output


def test_an_empty_outbox_is_delivered_at_once(shop: Huiliu) -> None:
    done = shop.json("deliver", "--until-empty")
    assert {
        name: done[name] for name in ("sent", "deferred", "failed", "skipped", "unknown")
    } == dict.fromkeys(("sent", "deferred", "failed", "skipped", "unknown"), 0)


def test_doctor_is_content_with_a_fresh_installation(shop: Huiliu) -> None:
    shop.json("refresh", "--as-of", "2026-03-01")
    checks = shop.json("doctor")["checks"]
    assert [item for item in checks if not item["ok"]] == []
