"""An independent implementation finds the same parameters and predicts the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import clv


@pytest.mark.filterwarnings("ignore")
def test_lifetimes_fits_and_predicts_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lifetimes")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = str(clv.made(5_000))
    ours, theirs = clv.timed_fit(path)["parameters"], clv.timed_fit_lifetimes(path)["parameters"]
    clv.assert_same_parameters(ours, theirs)
    clv.assert_same_predictions(clv.timed_predict(path, ours), clv.timed_predict_lifetimes(path, ours))
    with pytest.raises(AssertionError):
        clv.assert_same_predictions(
            clv.timed_predict(path, ours), clv.timed_predict_lifetimes(path, {**ours, "r": 9})
        )
