"""``huiliu clv fit`` on the files that analysts have: answers, predictions, refusals, exit codes."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from core import settings as core_settings
from tests.segments.predict.data import cdnow_rows, dataset, write_csv
from web.cli import main

COLUMNS = ("--id", "customer", "--date", "date", "--amount", "amount")
CDNOW = (*COLUMNS, "--until", "1997-09-30", "--horizon", "39")


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """CDNOW's sample as CSV, in a folder without any installation."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HUILIU_HOME", str(tmp_path / "none"))
    core_settings.load.cache_clear()
    return write_csv(tmp_path / "cdnow.csv", cdnow_rows())


def fit(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["clv", "fit", *arguments])


def fit_json(*arguments: str, code: int = 0) -> dict[str, Any]:
    result = fit(*arguments, "--json")
    assert result.exit_code == code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def values(model: dict[str, Any], digits: int) -> list[float]:
    return [round(one["value"], digits) for one in model["parameters"].values()]


def test_the_published_values_come_out_of_the_transactions(log: str) -> None:
    found = fit_json(log, *CDNOW)
    assert values(found["bgnbd"], 3) == pytest.approx([0.243, 4.414, 0.793, 2.426], abs=0.0011)
    assert round(found["bgnbd"]["log_likelihood"], 1) == -9582.4
    assert values(found["gamma_gamma"], 2) == pytest.approx([6.25, 3.74, 15.45], abs=0.011)
    assert (found["n"], found["repeaters"], found["gamma_gamma"]["customers"]) == (2357, 946, 946)
    assert (found["rows"], found["rejected"], found["rejects_file"]) == (6919, 0, None)
    assert (found["usable"], found["hold_out_days"], found["until"]) == (True, 273, "1997-09-30")
    assert found["predictions_file"] is None
    assert not list(Path(log).parent.glob("*.rejects.csv"))


def test_a_row_a_customer_is_predicted(log: str, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    found = fit_json(log, *CDNOW, "--predict", str(out))
    assert found["predictions_file"] == str(out)
    table = pq.read_table(out)
    assert table.column_names == [
        "customer", "frequency", "recency", "T", "p_alive", "expected_purchases_39", "expected_spend", "clv",
    ]  # fmt: skip
    assert table.num_rows == 2357
    first = table.to_pylist()[0]
    assert (first["customer"], first["frequency"]) == ("0001", 2)
    assert (round(first["recency"], 2), round(first["T"], 2)) == (30.43, 38.86)
    assert first["expected_purchases_39"] == pytest.approx(1.226, abs=5e-4)
    assert [path.name for path in tmp_path.glob("out*")] == ["out.parquet"]


def test_margin_and_discount_change_the_value_alone(log: str, tmp_path: Path) -> None:
    def first(*options: str) -> dict[str, Any]:
        fit_json(log, *CDNOW, "--predict", str(tmp_path / "o.parquet"), *options)
        row: dict[str, Any] = pq.read_table(tmp_path / "o.parquet").to_pylist()[0]
        return row

    plain, share = first("--discount", "0"), first("--discount", "0", "--margin", "0.25")
    assert plain["clv"] == pytest.approx(plain["expected_purchases_39"] * plain["expected_spend"])
    assert share["clv"] == pytest.approx(plain["clv"] / 4)
    assert first()["clv"] < plain["clv"]
    assert first()["expected_spend"] == plain["expected_spend"]


def test_a_person_reads_a_table(log: str) -> None:
    result = fit(log, *CDNOW)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "2,357 customers until 1997-09-30, 946 of them bought again"
    assert any(line.split() == ["r", "0.2426", "0.0126"] for line in lines)
    assert any(line.startswith("  ok ") and "hold_out" in line for line in lines)


def test_as_a_process_of_its_own_on_the_whole_file(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "master.csv", cdnow_rows("CDNOW_master.txt"))
    command = [sys.executable, "-m", "web", "clv", "fit", path, *CDNOW, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert (found["n"], found["usable"], done.stderr) == (23570, True, "")


def test_the_samples_customers_in_the_whole_file_are_the_published_sample(tmp_path: Path, log: str) -> None:
    chosen = {line.split()[0] for line in dataset("CDNOW_sample.txt").read_text().splitlines() if line}
    rows = [row for row in cdnow_rows("CDNOW_master.txt") if row[0] in chosen]
    found = fit_json(write_csv(tmp_path / "tenth.csv", rows), *CDNOW)
    assert found["n"] == 2357
    assert found["bgnbd"] == fit_json(log, *CDNOW)["bgnbd"]


def test_shuffled_rows_give_the_same_answer(log: str, tmp_path: Path) -> None:
    rows = sorted(cdnow_rows(), key=lambda row: hash(row[2] + row[1]))
    assert fit_json(write_csv(tmp_path / "shuffled.csv", rows), *CDNOW) == fit_json(log, *CDNOW)


def test_bad_rows_are_reported_and_the_others_used(tmp_path: Path, log: str) -> None:
    path = write_csv(
        tmp_path / "some.csv",
        [("0001", "soon", "1"), *cdnow_rows(), ("0002", "19970101", "-3.00")],
    )
    found = fit_json(path, *CDNOW, code=3)
    assert (found["rows"], found["rejected"]) == (6921, 2)
    assert found["rejects"][0] == {
        "line": 2,
        "reason": "date: “soon” is not a date; write it like 2026-03-01.",
    }
    assert found["rejects"][1]["line"] == 6922
    assert "negative" in found["rejects"][1]["reason"]
    with Path(found["rejects_file"]).open(encoding="utf-8") as file:
        assert [row["line"] for row in csv.DictReader(file)] == ["2", "6922"]
    assert found["bgnbd"] == fit_json(log, *CDNOW)["bgnbd"]
    shown = fit(path, *CDNOW)
    assert (shown.exit_code, "line 2: date: “soon”" in shown.stdout) == (3, True)


def test_without_amounts_there_is_no_spend_and_no_value(log: str, tmp_path: Path) -> None:
    found = fit_json(
        log, "--id", "customer", "--date", "date", "--until", "1997-09-30", "--predict", "o.parquet"
    )
    assert (found["usable"], found["gamma_gamma"]) == (True, None)
    assert pq.read_table(tmp_path / "o.parquet").column_names[-1] == "expected_purchases_52"


def test_a_model_that_fails_a_check_predicts_nothing(tmp_path: Path, log: str) -> None:
    bought = [(row[0], row[1]) for row in cdnow_rows()]
    often = {customer: sum(other == customer for other, _ in bought) for customer in {c for c, _ in bought}}
    path = write_csv(tmp_path / "tied.csv", [(c, day, f"{10 * often[c]}") for c, day in bought])
    result = fit(path, *CDNOW, "--predict", "o.parquet", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert (found["usable"], found["predictions_file"]) == (False, None)
    assert any("correlate" in reason for reason in found["reasons"])
    assert not (tmp_path / "o.parquet").exists()
    assert "fail a check" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere.csv", *COLUMNS], 1, "There is no file nowhere.csv"),
        (
            ["{log}", "--id", "who", "--date", "date"],
            1,
            "has no column who. Its columns are customer, date, amount",
        ),
        (["{log}", "--id", "customer", "--date", "date", "--amount", "paid"], 1, "name one with --amount"),
        (["{log}", "--date", "date"], 2, "--id"),
        (["{log}", *COLUMNS, "--until", "autumn"], 1, "“autumn” is not a date"),
        (["{log}", *COLUMNS, "--until", "1990-01-01"], 1, "has no row that counts up to 1990-01-01"),
        (["{log}", *COLUMNS, "--unit", "year"], 2, "year"),
        (["{log}", *COLUMNS, "--horizon", "0"], 1, "horizon"),
        (["{log}", *COLUMNS, "--margin", "35"], 1, "margin is a share"),
        (["{few}", *COLUMNS], 1, "2 customers bought; a fit needs at least 100."),
        (["{empty}", *COLUMNS], 1, "is empty"),
        (["{header}", *COLUMNS], 1, "has no row that counts"),
        (["{bad}", *COLUMNS], 1, "Line 2: date: “x” is not a date"),
        (["{log}", *CDNOW, "--predict", "no/such/folder/o.parquet"], 1, "cannot be written"),
    ],
)
def test_refusals_are_one_line_and_an_exit_code(
    log: str, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    names = {
        "{log}": log,
        "{few}": "few.csv",
        "{empty}": "empty.csv",
        "{header}": "header.csv",
        "{bad}": "bad.csv",
    }
    write_csv(tmp_path / "few.csv", [("a", "2026-01-01", "1"), ("b", "2026-01-02", "1")])
    (tmp_path / "empty.csv").touch()
    write_csv(tmp_path / "header.csv", [])
    write_csv(tmp_path / "bad.csv", [("a", "x", "1")])
    result = fit(*[names.get(argument, argument) for argument in arguments])
    assert result.exit_code == code, result.output
    assert words in result.stderr
    assert "Traceback" not in result.output
