"""``huiliu experiments analyze``: a file in, the reference's values out, and everything wrong with it said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from scipy import stats

from web.cli import main

SPEND = ("--arm", "arm", "--control", "A", "--metric", "spend=spend")


def exactly(total: float, squares: float, n: int, seed: int) -> Any:
    """Numbers of just these sums."""
    noise = np.random.default_rng(seed).normal(0, 1, n)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    mean = total / n
    return mean + noise * np.sqrt((squares - total * mean) / (n - 1))


def write(path: Path, columns: dict[str, Any]) -> Path:
    table = pa.table(columns)
    if path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    else:
        pq.write_table(table, path)
    return path


def run(file: Path | str, *options: str) -> Result:
    return CliRunner().invoke(main, ["experiments", "analyze", str(file), *options])


def analyze(file: Path | str, *options: str) -> Any:
    result = run(file, *options, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def names(answer: Any) -> list[str]:
    return [check["name"] for check in answer["checks"]]


@pytest.fixture(params=["csv", "parquet"])
def reference(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    a, b = exactly(1396.87, 52377.9767, 3407, 1), exactly(2422.7, 134698.29, 3461, 2)
    columns = {"arm": ["A"] * 3407 + ["B"] * 3461, "spend": np.concatenate([a, b]), "orders": np.ones(6868)}
    return write(tmp_path / f"reference.{request.param}", columns)


def test_the_reference_values_come_out_of_a_file(reference: Path) -> None:
    answer = analyze(reference, *SPEND)
    assert set(answer) == {"srm", "arms", "checks", "results"}
    assert answer["srm"] == {"p": pytest.approx(0.5147, abs=1e-4), "ok": True}
    assert answer["arms"] == {"A": {"n": 3407}, "B": {"n": 3461}}
    assert answer["checks"] == []
    [result] = answer["results"]
    assert (result["metric"], result["arm"], result["control"], result["dimension"]) == (
        "spend",
        "B",
        "A",
        None,
    )
    assert (result["mean_control"], result["mean"]) == pytest.approx((0.41, 0.70), abs=1e-6)
    assert result["absolute"] == pytest.approx(
        {"estimate": 0.29, "low": 0.04538, "high": 0.53462, "p": 0.02016}, abs=5e-6
    )
    assert result["relative"] == pytest.approx(
        {"estimate": 0.70732, "low": -0.03526, "high": 1.44989, "p": 0.06191}, abs=5e-6
    )
    assert result["incremental_total"] == pytest.approx(
        {"estimate": 1003.7, "low": 157.1, "high": 1850.3}, abs=0.1
    )
    assert result["p_adjusted"] == result["absolute"]["p"]
    assert "refused" not in result


def test_the_sequential_reference_value_comes_out_of_a_file(tmp_path: Path) -> None:
    a, b = exactly(1396.87, 52377.9767, 3000, 1), exactly(2422.7, 134698.29, 3461, 2)
    file = write(
        tmp_path / "s.parquet", {"arm": ["A"] * 3000 + ["B"] * 3461, "spend": np.concatenate([a, b])}
    )
    answer = analyze(file, *SPEND, "--method", "sequential", "--tuning", "1000", "--weights", "A=3000,B=3461")
    relative = answer["results"][0]["relative"]
    assert (relative["estimate"], relative["low"], relative["high"]) == pytest.approx(
        (0.50336, -0.55844, 1.56516), abs=5e-6
    )
    assert answer["srm"]["p"] == pytest.approx(1.0)


def test_bayes_answers_with_chance_and_risk_and_no_p(tmp_path: Path) -> None:
    columns = {"arm": ["A"] * 100 + ["B"] * 100, "won": [1] * 49 + [0] * 51 + [1] * 51 + [0] * 49}
    file = write(tmp_path / "b.csv", columns)
    options = ("--arm", "arm", "--control", "A", "--metric", "won=won:proportion", "--method", "bayes")
    [result] = analyze(file, *options)["results"]
    assert result["relative"]["chance_to_win"] == pytest.approx(0.60918, abs=5e-6)
    assert (result["relative"]["low"], result["relative"]["high"]) == pytest.approx(
        (-0.24779, 0.32943), abs=5e-6
    )
    assert result["absolute"]["p"] is None
    assert result["p_adjusted"] is None
    assert "60.9%" not in run(file, *options).output  # the table's chance is that of the absolute difference
    assert "61.1%" in run(file, *options).output


def shop(n: int = 4000, seed: int = 5) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    arm = np.where(np.arange(n) % 2 == 0, "A", "B")
    before = rng.gamma(2, 10, n)
    orders = rng.poisson(1.5, n).astype(float)
    return {
        "id": np.arange(n),
        "arm": arm,
        "city": np.where(rng.random(n) < 0.5, "Rome", "Paris"),
        "before": before,
        "spend": before * 2 + orders + rng.normal(0, 5, n) + (arm == "B"),
        "orders": orders,
        "bought": orders > 0,
    }


def test_several_metrics_ratios_and_dimensions_are_adjusted_together(tmp_path: Path) -> None:
    data = shop()
    file = write(tmp_path / "shop.parquet", data)
    answer = analyze(
        file, "--arm", "arm", "--control", "A", "--metric", "spend=spend", "--metric", "bought=bought:proportion",
        "--ratio", "aov=spend/orders", "--by", "city", "--unit", "id",
    )  # fmt: skip
    shown = [(one["metric"], one["dimension"]) for one in answer["results"]]
    assert shown == [
        (metric, place) for place in (None, "Paris", "Rome") for metric in ("spend", "bought", "aov")
    ]
    whole = answer["results"][:3]
    raw = [one["absolute"]["p"] for one in whole]
    assert min(one["p_adjusted"] for one in whole) == pytest.approx(3 * min(raw))
    b, a = data["arm"] == "B", data["arm"] == "A"
    welch = stats.ttest_ind(data["spend"][b], data["spend"][a], equal_var=False)
    assert raw[0] == pytest.approx(welch.pvalue, rel=1e-9)
    assert whole[2]["mean"] == pytest.approx(data["spend"][b].sum() / data["orders"][b].sum(), rel=1e-12)
    assert whole[2]["incremental_total"] is None
    rome = data["city"] == "Rome"
    assert answer["results"][6]["mean"] == pytest.approx(data["spend"][b & rome].mean(), rel=1e-12)
    assert [(test["metric"], test["df"]) for test in answer["interactions"]] == [
        ("spend", 1),
        ("bought", 1),
        ("aov", 1),
    ]
    assert answer["checks"] == []


def test_a_covariate_narrows_the_interval_by_its_correlation(tmp_path: Path) -> None:
    data = shop()
    file = write(tmp_path / "shop.csv", data)
    [plain] = analyze(file, *SPEND)["results"]
    [adjusted] = analyze(file, *SPEND, "--covariate", "before")["results"]
    width = [one["absolute"]["high"] - one["absolute"]["low"] for one in (plain, adjusted)]
    rho = np.corrcoef(data["before"], data["spend"])[0, 1]
    assert (width[1] / width[0]) ** 2 == pytest.approx(1 - rho**2, rel=0.01)


def test_each_metric_may_have_covariates_of_its_own(tmp_path: Path) -> None:
    data = shop()
    data["before=2"] = np.random.default_rng(2).normal(0, 1, 4000)
    file = write(tmp_path / "shop.parquet", data)
    spend, orders = ("--metric", "spend=spend"), ("--ratio", "aov=spend/orders")
    arms = ("--arm", "arm", "--control", "A", "--adjust", "none")
    both = analyze(file, *arms, *spend, *orders, "--covariate", "spend=before", "--covariate", "before=2")
    alone = [
        analyze(file, *arms, *spend, "--covariate", "before", "--covariate", "before=2")["results"],
        analyze(file, *arms, *orders, "--covariate", "before=2")["results"],
    ]
    assert both["results"] == [*alone[0], *alone[1]]
    by_ratio = analyze(file, *arms, *orders, "--covariate", "aov=before/orders")["results"][0]
    assert by_ratio["absolute"] != alone[1][0]["absolute"]
    result = run(file, *arms, *spend, "--covariate", "spend=")
    assert (result.exit_code, "names no column" in result.output) == (1, True)


@pytest.mark.parametrize(("bounds", "critical"), [("obrien-fleming", 3.226), ("pocock", 2.413)])
def test_a_planned_look_has_the_interval_of_its_bound(tmp_path: Path, bounds: str, critical: float) -> None:
    """2.040 · √(5/2) at the second of five looks, and 2.413 at each (Jennison and Turnbull 2000, table 2.1)."""
    file = write(tmp_path / "shop.csv", shop())
    [fixed] = analyze(file, *SPEND)["results"]
    planned = ("--method", "group-sequential", "--looks", "5")
    answer = analyze(file, *SPEND, *planned, "--look", "2", "--bounds", bounds)
    [found] = answer["results"]
    assert found["absolute"]["estimate"] == fixed["absolute"]["estimate"]
    widths = [one["absolute"]["high"] - one["absolute"]["low"] for one in (found, fixed)]
    assert widths[0] / widths[1] == pytest.approx(critical / 1.96, rel=1e-3)
    stop = answer["group_sequential"]["stop_below"]
    assert stop == pytest.approx(2 * stats.norm.sf(critical), rel=1e-2)
    assert (found["absolute"]["p"] < stop) == (found["absolute"]["low"] > 0 or found["absolute"]["high"] < 0)
    assert answer["checks"] == [], "looks that were planned are no peeking"
    text = run(file, *SPEND, *planned, "--look", "2", "--bounds", bounds).output
    assert f"look 2 of 5 ({bounds}): stop where p <" in text
    for wrong, words in (((), "which of the 5"), (("--look", "6"), "no number 6")):
        result = run(file, *SPEND, *planned, *wrong)
        assert (result.exit_code, words in result.output) == (1, True)


def test_strata_are_weighed_alike_in_both_arms(tmp_path: Path) -> None:
    """The arms differ in where their members live, and the cities in what they spend: plainly compared that is
    taken for an effect."""
    rng = np.random.default_rng(3)
    n = 6_000
    arm = np.where(rng.random(n) < 0.5, "A", "B")
    rome = rng.random(n) < np.where(arm == "B", 0.7, 0.4)
    spend = 50.0 * rome + rng.normal(0, 5, n) + 1.0 * (arm == "B")
    data = {
        "arm": arm,
        "spend": spend,
        "city": np.where(rome, "Rome", "Paris"),
        "bought": rome,
        "one": np.ones(n),
    }
    file = write(tmp_path / "strata.parquet", data)
    arms = ("--arm", "arm", "--control", "A", "--by", "city", "--adjust", "none")
    plain = analyze(file, *arms, "--metric", "spend=spend")["results"][0]
    answer = analyze(file, *arms, "--metric", "spend=spend", "--stratify")
    found, *cells = answer["results"]
    assert plain["absolute"]["low"] > 10
    share = {"Rome": rome.mean(), "Paris": 1 - rome.mean()}
    expected = sum(share[one["dimension"]] * one["absolute"]["estimate"] for one in cells)
    assert found["absolute"]["estimate"] == pytest.approx(expected, rel=1e-9)
    assert found["absolute"]["low"] < 1 < found["absolute"]["high"] < 2
    # Who bought depends on the city alone: within a city nobody differs, and there is nothing to test.
    bought = analyze(file, *arms, "--metric", "bought=bought:proportion", "--stratify")["results"][0]
    assert bought["absolute"] is None
    ratio = analyze(file, *arms, "--ratio", "r=spend/one", "--stratify")["results"][0]
    assert "stratify its parts as means" in ratio["refused"]
    result = run(file, *arms[:4], "--metric", "spend=spend", "--stratify")
    assert (result.exit_code, "by which column" in result.output) == (1, True)


@pytest.mark.parametrize("gap", [None, float("nan")])
def test_rows_with_a_gap_in_one_column_count_for_the_metrics_that_do_not_need_it(
    tmp_path: Path, gap: float | None
) -> None:
    """Parquet without gaps is read on a shorter way; with one gap the answer is that of the other rows."""
    data = {name: list(values) for name, values in shop().items()}
    spend = ("--metric", "n=orders", *SPEND, "--covariate", "spend=before")
    whole = analyze(write(tmp_path / "whole.parquet", data), *spend)
    data["before"][7] = gap
    gappy = analyze(write(tmp_path / "gappy.parquet", data), *spend)
    rest = {name: values[:7] + values[8:] for name, values in data.items()}
    less = analyze(write(tmp_path / "less.parquet", rest), *spend)
    for part in ("estimate", "low", "high", "p"):
        assert gappy["results"][0]["absolute"][part] == pytest.approx(
            whole["results"][0]["absolute"][part], rel=1e-12
        )
        assert gappy["results"][1]["absolute"][part] == pytest.approx(
            less["results"][1]["absolute"][part], rel=1e-12
        )
    assert gappy["checks"][0]["detail"]["rows"] == {"before": 1}


def test_a_large_mean_loses_nothing(tmp_path: Path) -> None:
    data = shop()
    noise = np.random.default_rng(1).normal(0, 1, 4000)
    small = analyze(write(tmp_path / "small.parquet", {**data, "spend": noise}), *SPEND)["results"][0]
    large = analyze(write(tmp_path / "large.parquet", {**data, "spend": 1e8 + noise}), *SPEND)["results"][0]
    for part in ("estimate", "low", "high", "p"):
        assert large["absolute"][part] == pytest.approx(small["absolute"][part], abs=2e-6)


def test_units_in_several_arms_and_rows_that_repeat_are_told(tmp_path: Path) -> None:
    data = shop(1000)
    data["id"] = np.concatenate([np.arange(980), np.arange(1, 21)])  # the odd ones come back in the other arm
    answer = analyze(write(tmp_path / "m.csv", data), *SPEND, "--unit", "id")
    assert names(answer) == ["multiple_exposure"]
    assert answer["checks"][0]["detail"] == {"units": 20, "share": pytest.approx(20 / 980)}
    data["id"] = np.concatenate([np.arange(999), [1]])
    answer = analyze(write(tmp_path / "r.csv", data), *SPEND, "--unit", "id")
    assert names(answer) == ["repeated_units"]
    assert answer["checks"][0]["detail"] == {"rows": 1}


def test_a_split_that_is_off_looks_and_small_arms_are_told(tmp_path: Path) -> None:
    data = shop(1000)
    file = write(tmp_path / "s.csv", data)
    answer = analyze(file, *SPEND, "--weights", "A=.7,B=.3,C=0", "--looks", "5")
    assert answer["srm"]["ok"] is False
    assert answer["arms"]["C"] == {"n": 0}
    assert names(answer) == ["srm", "peeking"]
    assert answer["checks"][1]["detail"]["true_error"] == pytest.approx(0.142, abs=0.0005)
    assert names(analyze(file, *SPEND, "--looks", "5", "--method", "sequential")) == []
    refused = answer["results"][1]
    assert (refused["arm"], refused["absolute"]) == ("C", None)
    assert refused["refused"] == "The arm “C” is empty; a comparison needs members in both."
    few = write(tmp_path / "few.csv", shop(60))
    assert [check["detail"] for check in analyze(few, *SPEND)["checks"]] == [{"smallest": 30, "needed": 100}]


def test_a_covariate_out_of_balance_is_told(tmp_path: Path) -> None:
    data = shop()
    data["before"] = data["before"] + 5 * (data["arm"] == "B")
    answer = analyze(write(tmp_path / "c.csv", data), *SPEND, "--covariate", "before")
    assert names(answer) == ["covariate_imbalance"]
    assert answer["checks"][0]["detail"]["arm"] == "B"


def test_missing_values_are_counted_and_left_out(tmp_path: Path) -> None:
    rows = ["arm,spend"] + [f"{'AB'[i % 2]},{i % 7}" for i in range(400)] + ["A,", "A,NA", "B,nan", ",5"]
    file = tmp_path / "missing.csv"
    file.write_text("\n".join(rows))
    answer = analyze(file, *SPEND)
    assert [check["detail"]["rows"] for check in answer["checks"]] == [1, {"spend": 3}]
    assert answer["arms"] == {"A": {"n": 202}, "B": {"n": 201}}
    assert answer["results"][0]["mean_control"] == pytest.approx(np.mean([i % 7 for i in range(0, 400, 2)]))
    table = write(
        tmp_path / "nan.parquet", {"arm": ["A", "B"] * 200, "spend": [1.0, 2.0, 3.0, float("nan")] * 100}
    )
    assert analyze(table, *SPEND)["checks"][0]["detail"]["rows"] == {"spend": 100}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_infinite_values_are_refused(tmp_path: Path, suffix: str) -> None:
    file = write(tmp_path / f"inf.{suffix}", {"arm": ["A", "B"] * 2, "spend": [1.0, 2.0, float("inf"), 4.0]})
    result = run(file, *SPEND)
    assert result.exit_code == 1
    assert "“spend” has an infinite value;" in result.output


def test_a_metric_that_cannot_be_compared_says_why_and_the_others_stand(tmp_path: Path) -> None:
    data = shop(1000)
    data |= {"none": np.zeros(1000), "balance": np.where(np.arange(1000) % 4 < 2, 1.0, -1.0)}
    file = write(tmp_path / "z.parquet", data)
    answer = analyze(
        file,
        *SPEND,
        "--metric",
        "none=none",
        "--metric",
        "never=none:proportion",
        "--ratio",
        "r=spend/none",
        "--ratio",
        "q=spend/balance",
    )
    why = {one["metric"]: one.get("refused", "") for one in answer["results"]}
    assert why["spend"] == ""
    assert why["none"].startswith("No member differs")
    assert why["never"].startswith("Nobody converted")
    assert "none is 0 in an arm" in why["r"]
    assert "too close to 0 for a ratio" in why["q"]
    assert [one["p_adjusted"] for one in answer["results"][1:]] == [None] * 4
    lines = run(file, *SPEND, "--metric", "none=none").output
    assert "No member differs" in lines


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--control", "Z"), "the column holds A, B"),
        (("--arm", "nope"), "no column “nope”. Its columns are id, arm, city"),
        (("--by", "nope"), "no column “nope”"),
        (("--metric", "x=city"), "no numbers, such as “"),
        (("--metric", "x=orders:proportion"), "values other than 0 and 1"),
        (("--metric", "x"), "not of the form NAME=COLUMN"),
        (("--metric", "spend=orders"), "two metrics “spend”"),
        (("--ratio", "x=spend"), "not of the form NAME=NUM/DEN"),
        (("--alpha", "5"), "alpha lies between 0 and 1"),
        (("--weights", "A=1"), "The arms B have rows but no weight"),
        (("--weights", "A=1,B=x"), "not of the form ARM=NUMBER"),
        (("--weights", "A=1,B=nan"), "not of the form ARM=NUMBER"),
        (("--weights", "A=1,B=0"), "two arms with a weight"),
        (("--tuning", "0"), "N* is a number"),
        (("--looks", "0"), "1 to 100 looks"),
        (("--arm", "id", "--control", "1"), "different values; that is no column of arms"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_a_line_with_exit_code_1(
    tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    result = run(write(tmp_path / "shop.csv", shop(200)), *SPEND, *options)
    assert result.exit_code == 1
    assert said in result.output
    assert result.output.startswith("huiliu: ")
    assert result.output.count("\n") == 1


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    assert "There is no file" in run(tmp_path / "none.csv", *SPEND).output
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 and then nothing")
    assert "not a readable Parquet file" in run(broken, *SPEND).output
    header = tmp_path / "header.csv"
    header.write_text("arm,spend\n")
    assert "has no rows" in run(header, *SPEND).output
    (tmp_path / "one.csv").write_text("arm,spend\nA,1\nA,2\n")
    assert "a comparison needs two arms" in run(tmp_path / "one.csv", *SPEND).output
    assert run(tmp_path / "one.csv", "--arm", "arm", "--control", "A").exit_code == 1


def test_names_of_columns_are_never_code(tmp_path: Path) -> None:
    evil = 'a"; DROP TABLE x; --'
    data = shop(400)
    file = write(tmp_path / "evil.parquet", {"arm": data["arm"], evil: data["spend"]})
    [result] = analyze(file, "--arm", "arm", "--control", "A", "--metric", f"x={evil}")["results"]
    assert result["absolute"]["p"] is not None


def test_the_table_shows_arms_split_and_intervals(reference: Path) -> None:
    lines = run(reference, *SPEND).output.splitlines()
    assert lines[0] == "Arms: A 3,407, B 3,461"
    assert lines[1] == "Split: as planned (p 0.5147)"
    assert "+0.29 (+0.04538 to +0.5346)  +70.73% (-3.53% to +144.99%)  0.0202" in lines[-1]
