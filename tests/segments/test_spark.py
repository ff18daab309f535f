"""Every rule of the table finds the same members on a Spark cluster as on DuckDB."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from core.warehouse.engine import Stored
from core.warehouse.spark import SparkEngine, open_session
from tests.conftest import need
from tests.segments import cases, spark_cluster
from tests.segments.cases import CASES, Case
from tests.segments.conftest import AS_OF, Shop

pytestmark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.timeout(1200)]
# A hundred tiny queries: what helps big ones (many partitions, generated and optimised code) costs them most
# of their time.
SMALL = {
    "spark.driver.extraJavaOptions": spark_cluster.BRIEF,
    "spark.executor.extraJavaOptions": spark_cluster.BRIEF,
    "spark.executor.memory": "768m",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.sql.shuffle.partitions": "2",
    "spark.sql.codegen.wholeStage": "false",
    "spark.locality.wait": "0",
}
AT_ONCE = 3


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkEngine]:
    lack = spark_cluster.missing()
    need(lack is None, lack or "Spark")
    folder = tmp_path_factory.mktemp("spark")
    shop = Shop(folder)
    cases.build(shop)
    shop.snapshot()
    interrupt = signal.getsignal(signal.SIGINT)
    with spark_cluster.running(folder) as master:
        session = open_session(master, **SMALL)
        session.sparkContext.setLogLevel("ERROR")
        yield SparkEngine(shop.engine.replica, session)
        session.stop()
    signal.signal(signal.SIGINT, interrupt)  # Spark's own handler asks a session that has ended


@pytest.fixture(scope="module")
def found(spark: SparkEngine) -> Iterator[dict[str, Future[set[int]]]]:
    """The members of every case; several are asked at once, as a cluster is."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {repr(case.rule): pool.submit(cases.run_case, spark, case) for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_spark_finds_the_same_members(found: dict[str, Future[set[int]]], case: Case) -> None:
    assert found[repr(case.rule)].result() == set(case.expected)


def test_the_cluster_has_two_workers(spark: SparkEngine) -> None:
    context = spark.session.sparkContext
    assert context.master.startswith("spark://127.0.0.1:")
    deadline = time.monotonic() + 60  # executors register by and by
    executors = -1
    while executors < spark_cluster.WORKERS and time.monotonic() < deadline:
        executors = context._jsc.sc().getExecutorMemoryStatus().size() - 1  # one of them is this driver
        time.sleep(0.2)
    assert executors == spark_cluster.WORKERS


def test_parameters_tables_and_missing_files_are_as_on_duckdb(spark: SparkEngine) -> None:
    sql = "SELECT w.n, o.status FROM wanted AS w LEFT JOIN old AS o ON o.n = w.n WHERE w.name = $name AND w.n IN (1, 2)"
    tables = {"wanted": pa.table({"n": [1, 2, 3], "name": ["it's", "x", "it's"]})}
    files = {"old": Stored(None, pa.schema([("n", pa.int64()), ("status", pa.string())]))}
    answer = spark.query(sql, {"name": "it's"}, tables=tables, files=files)
    assert answer.to_pylist() == [{"n": 1, "status": None}]
    assert not [view.name for view in spark.session.catalog.listTables() if view.isTemporary], (
        "views are its own"
    )


def test_counts_come_from_the_cluster_too(spark: SparkEngine) -> None:
    evaluator = cases.evaluator_of(spark)
    counted = evaluator.count({"field": "city", "op": "is_set"})
    assert (counted.count, counted.total, counted.sample) == (3, 5, ["m1", "m2", "m6"])
    assert replace(evaluator, moment=replace(evaluator.moment, as_of=AS_OF.replace(year=2020))).total() <= 5


def test_a_machine_without_pyspark_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import sys

    from core.errors import HuiliuError

    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    with pytest.raises(HuiliuError, match="pip install"):
        open_session("spark://127.0.0.1:1")
