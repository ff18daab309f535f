"""The bundle: nothing fetched from elsewhere, hashed names, compressed answers, small enough."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need
from tests.web.conftest import Shop
from web import charts
from web.assets import build

SOURCES = build.SOURCES
FIRST_PAGE_BYTES = 300_000


def built() -> None:
    need((build.DIST / build.MANIFEST).exists(), "The console's bundle (python -m web.assets.build)")


def test_the_lock_file_names_no_registry_and_every_package_has_its_hash() -> None:
    lock = json.loads((SOURCES / "package-lock.json").read_text())
    packages = {name: about for name, about in lock["packages"].items() if name}
    assert len(packages) > 10
    for name, about in packages.items():
        assert "resolved" not in about, name
        assert about["integrity"].startswith("sha512-"), name


def test_exact_versions_are_asked_for() -> None:
    package = json.loads((SOURCES / "package.json").read_text())
    for name, version in {**package["dependencies"], **package["devDependencies"]}.items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version), name


def test_building_again_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    built()

    def never(*_args: Any) -> None:
        raise AssertionError("it ran a command though nothing had changed")

    monkeypatch.setattr(build, "_run", never)
    (build.DIST / build.STAMP).read_text()
    monkeypatch.setattr(build, "_digest_of_inputs", lambda: (build.DIST / build.STAMP).read_text())
    assert build.build() is False
    monkeypatch.setattr(build, "_digest_of_inputs", lambda: "changed")
    with pytest.raises(AssertionError, match="nothing had changed"):
        build.build()


def test_translations_are_compiled_when_they_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "zh" / "LC_MESSAGES"
    folder.mkdir(parents=True)
    (folder / "messages.po").write_text('msgid ""\nmsgstr ""\n\nmsgid "Yes"\nmsgstr "是"\n')
    monkeypatch.setattr(build, "TRANSLATIONS", tmp_path)
    assert build.compile_translations() == 1
    assert "是".encode() in (folder / "messages.mo").read_bytes()
    assert build.compile_translations() == 0


def test_files_with_a_hash_in_their_name_may_be_kept_and_travel_compressed(shop: Shop) -> None:
    built()
    client = shop.app.test_client()
    name = json.loads((build.DIST / build.MANIFEST).read_text())["console.js"]
    assert re.fullmatch(r"console-[0-9A-Z]{8}\.js", name)
    with (
        client.get(f"/static/dist/{name}", headers={"Accept-Encoding": "gzip"}) as packed,
        client.get(f"/static/dist/{name}") as plain,
    ):
        assert packed.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(packed.data) == plain.data
        assert packed.mimetype == plain.mimetype == "text/javascript"
        assert "immutable" in packed.headers["Cache-Control"]
        assert "Accept-Encoding" in packed.headers["Vary"]
    assert client.get("/static/../app.py").status_code == 404
    assert client.get("/static/dist/%2e%2e/%2e%2e/app.py").status_code == 404


def test_the_first_page_with_everything_it_loads_is_small(shop: Shop) -> None:
    built()
    client = shop.client()
    page = client.get("/")
    total = len(gzip.compress(page.data))
    links = set(re.findall(r'(?:src|href)="(/static/[^"#]+)', page.text))
    assert any("charts" in link for link in links)
    for link in links:
        with client.get(link, headers={"Accept-Encoding": "gzip"}) as answer:
            total += len(answer.data)
    assert total < FIRST_PAGE_BYTES, total


def test_every_icon_that_a_template_uses_is_in_the_sprite() -> None:
    named = set((SOURCES / "icons.txt").read_text().split())
    used = set()
    for path in (build.WEB / "templates").rglob("*.html"):
        text = path.read_text()
        used |= set(re.findall(r'icon\("([a-z0-9-]+)"', text)) | set(
            re.findall(r'empty\("([a-z0-9-]+)"', text)
        )
    assert used - named == set()


def test_an_interval_without_an_end_reaches_the_edge_and_zero_is_on_the_axis() -> None:
    rows = [charts.Interval("A", 2.0, 3.0, None), charts.Interval("B", 1.0, 2.0, 3.0)]
    found = charts.intervals("x", "X", rows, charts.COUNT, heading="Arm", words=("Low", "Est", "High"))
    axis, data = found.option["xAxis"], found.option["series"][0]["data"]
    assert axis["min"] < 0 < axis["max"]
    assert data[0] == [0, 2.0, 3.0, axis["max"]]
    assert data[1] == [1, 1.0, 2.0, 3.0]
    assert found.table.rows[0] == ("A", (2.0, charts.COUNT), (3.0, charts.COUNT), "–")


def test_series_of_another_unit_get_an_axis_of_their_own() -> None:
    money = charts.Unit("money", "CNY")
    found = charts.over(
        "x",
        "X",
        ["1", "2"],
        [charts.Series("a", [1, 2], money), charts.Series("b", [3, None], mark="line")],
        heading="w",
    )
    assert [axis["unit"]["kind"] for axis in found.option["yAxis"]] == ["money", "count"]
    assert [series["yAxisIndex"] for series in found.option["series"]] == [0, 1]
    assert found.table.rows == (("1", (1, money), (3, charts.COUNT)), ("2", (2, money), (None, charts.COUNT)))
    json.dumps(found.to_json())
