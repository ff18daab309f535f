"""The API beside the console: JSON for everything below /api, and nothing of a console's in its answers."""

from __future__ import annotations

from typing import Any

import pytest

from core import imports
from core.settings import Settings
from tests.conftest import SECRET
from tests.web.conftest import Shop
from web.api import keys
from web.app import create_app


def key_of(shop: Shop) -> dict[str, str]:
    with shop.database.write() as session:
        _, key = keys.create(
            session, "test", ("ingest",), "admin@example.com", shop.app.extensions["huiliu"].clock()
        )
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("get", "/api/v1/nothing", 404, "not_found"),
        ("get", "/api/", 404, "not_found"),
        ("get", "/api/v1/members", 405, "method_not_allowed"),
        ("post", "/api/v1/members", 401, "unauthorized"),
    ],
)
def test_what_is_refused_below_api_is_json(
    shop: Shop, method: str, path: str, status: int, code: str
) -> None:
    answer = getattr(shop.app.test_client(), method)(path)
    assert answer.status_code == status
    assert answer.get_json()["error"]["code"] == code


def test_addresses_that_only_look_like_the_api_are_the_consoles(shop: Shop) -> None:
    answer = shop.client().get("/apis")
    assert answer.status_code == 404
    assert answer.mimetype == "text/html"


def test_a_crash_is_an_answer_without_the_reason(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: Any, **_options: Any) -> None:
        raise RuntimeError("a password")

    monkeypatch.setattr(imports, "load_rows", fail)
    row = {"member_id": "m1"}
    answer = shop.app.test_client().post("/api/v1/members", json={"rows": [row]}, headers=key_of(shop))
    assert answer.status_code == 500
    assert answer.get_json() == {
        "error": {"code": "internal", "message": "The server failed; see its log.", "field": None}
    }


def test_answers_set_no_cookie_and_may_not_be_shown_as_pages(shop: Shop) -> None:
    client = shop.client().client  # with the cookie of a console's session
    answer = client.get("/api/openapi.json?lang=zh")
    assert answer.status_code == 200
    assert "Set-Cookie" not in answer.headers
    assert answer.headers.getlist("Content-Security-Policy") == ["default-src 'none'; frame-ancestors 'none'"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "Strict-Transport-Security" not in answer.headers


def test_by_https_the_api_too_asks_for_https_alone(shop: Shop) -> None:
    settings = Settings(
        home=shop.settings.home,
        database_url=shop.database.url,
        secret=SECRET,
        base_url="https://shop.example",
        _env_file=None,
    )
    answer = create_app(settings, shop.database).test_client().get("/api/openapi.json")
    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
