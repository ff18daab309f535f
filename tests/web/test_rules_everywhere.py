"""A bad rule is refused alike by every door: command line, API, the builder's count and its save."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from flask.testing import FlaskClient

from core import settings as core_settings
from segments.rules import MAX_LEAVES
from tests.conftest import count
from tests.segments.bad_rules import MALFORMED
from tests.segments.rules_shop import e, f, last, steps, without
from tests.web import seed
from tests.web.conftest import Browser, Shop
from web.api import keys
from web.cli import main

BUYERS = e("order", ">=", 1)


def storable(rule: Any) -> bool:
    """Whether any JSON body can hold it: the API refuses NaN and half characters before it looks at rules."""
    try:
        json.dumps(rule, allow_nan=False, ensure_ascii=False).encode()
    except ValueError:
        return False
    return True


BAD = [(rule, path, words) for rule, path, words in MALFORMED if storable(rule)]


@pytest.fixture
def api(shop: Shop) -> Callable[[Any], tuple[int, Any]]:
    with shop.database.write() as session:
        token = keys.create(session, "reads", [keys.READ], "ann", seed.NOW)[1]
    client: FlaskClient = shop.app.test_client()

    def post(body: Any) -> tuple[int, Any]:
        answer = client.post(
            "/api/v1/segments/count", json=body, headers={"Authorization": f"Bearer {token}"}
        )
        return answer.status_code, answer.get_json()

    return post


@pytest.fixture
def command(shop: Shop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    monkeypatch.setenv("HUILIU_HOME", str(shop.settings.home))
    core_settings.load.cache_clear()

    def run(rule: Any, *more: str, text: str | None = None) -> Any:
        typed = json.dumps(rule) if text is None else text
        return CliRunner().invoke(main, ["segments", "count", "--rule", "-", "--json", *more], input=typed)

    yield run
    core_settings.load.cache_clear()


def test_the_api_answers_a_count_as_the_command_line_does(
    api: Callable[[Any], tuple[int, Any]], command: Callable[..., Any]
) -> None:
    status, found = api({"rule": BUYERS, "sample": 3, "as_of": "2026-03-01"})
    assert status == 200
    assert set(found) == {"count", "total", "share", "sample"}
    assert 0 < found["count"] < found["total"]
    assert len(found["sample"]) == 3
    told = command(BUYERS, "--sample", "3", "--as-of", "2026-03-01")
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout) == found


def test_the_api_takes_a_sequence_and_a_bare_count(api: Callable[[Any], tuple[int, Any]]) -> None:
    rule = {"any": [steps("order", without("order", "30d")), e("order", within=last(30))]}
    status, found = api({"rule": rule, "sample": 0})
    assert (status, found["sample"]) == (200, [])
    assert found["count"] > 0


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "rule"),
        ({"rule": BUYERS, "sample": -1}, "sample"),
        ({"rule": BUYERS, "sample": 1001}, "sample"),
        ({"rule": BUYERS, "sample": "3"}, "sample"),
        ({"rule": BUYERS, "as_of": "soon"}, "as_of"),
        ({"rule": BUYERS, "limit": 3}, "limit"),
        ({"rule": {"segment": "no-such"}}, "segment"),
        ({"rule": {"not": {"list": "no-such"}}}, "list"),
    ],
)
def test_the_api_names_the_field_that_is_wrong(
    api: Callable[[Any], tuple[int, Any]], body: Any, field: str
) -> None:
    status, found = api(body)
    assert (status, found["error"]["field"]) == (422, field)


def test_the_api_needs_a_key_that_may_read(shop: Shop) -> None:
    with shop.database.write() as session:
        token = keys.create(session, "writes", [keys.INGEST], "ann", seed.NOW)[1]
    client = shop.app.test_client()
    body = {"rule": BUYERS}
    assert client.post("/api/v1/segments/count", json=body).status_code == 401
    refused = client.post("/api/v1/segments/count", json=body, headers={"Authorization": f"Bearer {token}"})
    assert refused.status_code == 403


def test_the_api_refuses_every_bad_rule_with_its_place(api: Callable[[Any], tuple[int, Any]]) -> None:
    for rule, path, words in BAD:
        status, found = api({"rule": rule})
        assert (status, found["error"]["field"]) == (422, path), rule
        assert words in found["error"]["message"], rule
    for rule, _, _ in MALFORMED:
        if not storable(rule) and "\\ud83d" not in json.dumps(rule):
            assert api({"rule": rule})[0] in (400, 422), rule


def test_the_command_line_refuses_every_bad_rule_with_its_place(command: Callable[..., Any]) -> None:
    for rule, path, words in MALFORMED:
        told = command(rule)
        assert told.exit_code == 1, rule
        assert told.stdout == ""
        assert told.stderr.startswith(f"huiliu: {'the rule' if path == 'rule' else path}"), rule
        assert words in told.stderr, rule
        assert told.stderr.count("\n") == 1, "one line, no traceback"


def test_the_builder_refuses_every_bad_rule_and_saves_nothing(shop: Shop) -> None:
    before = count(shop.database, "segments"), count(shop.database, "segment_versions")
    browser = shop.client()
    token = browser.token()

    def post(address: str, **data: str) -> Any:
        return browser.client.post(address, data={"csrf_token": token, **data}, headers=browser.headers)

    for rule, _, words in MALFORMED:
        text = json.dumps(rule)
        counted = post("/segments/count", rule=text)
        assert counted.status_code == 200
        assert (words if rule is not None else "empty") in html.unescape(counted.text), rule
        saved = post("/segments/new", rule=text, name="bad", title="Bad")
        assert saved.status_code == 422, rule
        assert (words if rule is not None else "needed") in html.unescape(saved.text), rule
    assert (count(shop.database, "segments"), count(shop.database, "segment_versions")) == before


@pytest.mark.parametrize("text", ["[" * 100_000, '{"not":' * 20_000, "nonsense", '{"all": [', "\x00", "[]]"])
def test_what_is_no_json_at_all_is_refused_too(shop: Shop, command: Callable[..., Any], text: str) -> None:
    told = command(None, text=text)
    assert told.exit_code == 1, told.output
    assert told.stderr.startswith("huiliu: ")
    browser: Browser = shop.client()
    counted = browser.post("/segments/count", {"rule": text})
    assert counted.status_code == 200
    assert 'data-problem-text="' in counted.text
    saved = browser.post("/segments/new", {"rule": text, "name": "bad", "title": "Bad"})
    assert saved.status_code == 422, "it says so, and does not break"
    assert (
        b'"error"'
        in shop.app.test_client()
        .post("/api/v1/segments/count", data=text, content_type="application/json")
        .data
    )


def test_a_circle_of_segments_is_refused_when_it_would_close(shop: Shop) -> None:
    browser = shop.client()

    def save(name: str, rule: Any, where: str = "new") -> Any:
        form = {"name": name, "title": name, "rule": json.dumps(rule)}
        return browser.post(f"/segments/{where}", form)

    assert save("first", f("city", "is_set")).status_code == 303
    assert save("second", {"segment": "first"}).status_code == 303
    refused = save("first", {"not": {"segment": "second"}}, "first/edit")
    assert refused.status_code == 422
    assert "refer to each other in a circle" in refused.text
    assert save("wide", {"any": [f("city", "is_set")] * MAX_LEAVES}).status_code == 303
    assert save("wider", {"any": [f("city", "is_set")] * (MAX_LEAVES + 1)}).status_code == 422
