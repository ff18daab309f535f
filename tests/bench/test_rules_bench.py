"""The contestants of the rules' benchmark give the same numbers, and the fifty segments are not trivial."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.settings import Settings
from segments.compile import Moment
from segments.evaluate import Evaluator
from segments.facts import open_engine
from segments.scores import SNAPSHOT, snapshot_path
from tests.bench import rules


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rules-bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(folder))
        return rules._home(folder, 3_000, 30_000, 60_000)


@pytest.mark.parametrize("name", rules.RULES)
def test_the_evaluator_counts_what_the_query_by_hand_counts(home: Path, name: str) -> None:
    ours = rules.timed_count(str(home), name, 1)
    assert ours["count"] == rules.timed_by_hand(str(home), name, 1)["count"]
    assert 0 < ours["count"] < 3_000


def test_fifty_segments_together_are_what_each_is_alone(home: Path) -> None:
    found = rules.timed_evaluation(str(home), 1)["counts"]
    settings = Settings(home=home, shop_timezone=rules.ZONE, _env_file=None)
    engine = open_engine(settings)
    moment = Moment(rules.AS_OF, settings.zone)
    alone = Evaluator(engine, moment, {}.get, snapshot_path(engine, SNAPSHOT, rules.AS_OF))
    assert found == [alone.count(rule, 0).count for rule in rules.fifty()]
    assert sum(0 < count < 3_000 for count in found) >= 45


def test_the_preview_answers_over_http(home: Path) -> None:
    page = rules.timed_preview(str(home), "profile", 1)["page"]
    assert f"{rules.timed_count(str(home), 'profile', 1)['count']:,}" in page


def test_of_twenty_rounds_the_second_slowest_is_the_95th_percentile() -> None:
    assert rules.p95([float(n) for n in range(20)]) == 18.0
    assert rules.p95([3.0]) == 3.0
