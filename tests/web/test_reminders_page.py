"""Loyalty → Reminders, and ``huiliu reminders``."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from campaigns import reminders
from campaigns.reminders import Reminders, Rule
from channels.models import Message
from core import settings as core_settings
from core.models import Preference
from loyalty import coupons
from tests.loyalty.data import add_batch
from tests.web import seed
from tests.web.conftest import Shop
from web.cli import main

FORM = {
    "coupons.on": "1", "coupons.days": "5", "coupons.template-0": "win-back-sms",
    "coupons.template-1": "win-back-mail", "coupons.template-2": "", "points.days": "7", "points.least": "50",
    "points.template-0": "", "hour": "9",
}  # fmt: skip
SAVED = Reminders(Rule(True, 5, ("win-back-sms", "win-back-mail")), Rule(days=7, least=50), 9)


def given_code(shop: Shop) -> None:
    batch = add_batch(shop.database, name="soon", ends_at=seed.NOW + timedelta(days=2))
    with shop.database.write() as session:
        coupons.issue(session, batch, [(9, "soon")], seed.NOW - timedelta(days=1))
        session.merge(Preference(key="campaigns.control", value=0.0, updated_at=seed.NOW))


def test_the_choice_is_saved_and_shown_again(shop: Shop) -> None:
    marketer = shop.client("marketer@example.com")
    assert marketer.post("/loyalty/reminders", FORM).status_code == 303
    with shop.database.read() as session:
        assert reminders.load(session) == SAVED
    page = marketer.get("/loyalty/reminders").text
    assert '<option value="win-back-sms" selected>SMS: win-back-sms</option>' in page
    assert '<option value="9" selected>09:00</option>' in page


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"coupons.template-0": "", "coupons.template-1": ""}, "coupons.template-0"),
        ({"coupons.template-0": "gone"}, "coupons.template-0"),
        ({"coupons.days": "0"}, "coupons.days"),
        ({"points.days": ""}, "points.days"),
        ({"points.least": ""}, "points.least"),
        ({"hour": "24"}, "hour"),
    ],
)
def test_an_error_stands_beside_its_field_and_nothing_is_lost(
    shop: Shop, changes: dict[str, str], field: str
) -> None:
    answer = shop.client().post("/loyalty/reminders", {**FORM, **changes})
    assert answer.status_code == 422
    assert f'id="{field}-error"' in answer.text
    assert '<option value="win-back-mail"' in answer.text
    with shop.database.read() as session:
        assert session.get(Preference, reminders.KEY) is None


def test_the_page_counts_and_queues_nothing(shop: Shop) -> None:
    given_code(shop)
    admin = shop.client()
    assert "No reminders are on" in admin.post("/loyalty/reminders", {"do": "count"}).text
    admin.post("/loyalty/reminders", FORM)
    page = admin.post("/loyalty/reminders", {"do": "count"}).text
    assert "<dt>Coupons that end soon</dt><dd>1</dd>" in page
    with shop.database.read() as session:
        assert session.scalar(sa.select(Message.id).where(Message.source_kind == "reminder")) is None
    analyst = shop.client("analyst@example.com")
    assert analyst.get("/loyalty/reminders").status_code == 200
    assert analyst.post("/loyalty/reminders", FORM).status_code == 403


def test_the_command_counts_and_queues(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    given_code(shop)
    with shop.database.write() as session:
        reminders.save(session, SAVED, "boss", seed.NOW)
    settings = shop.settings.model_copy(update={"database_url": shop.database.url})
    monkeypatch.setattr(core_settings, "load", lambda: settings)
    monkeypatch.setattr("web.commands.reminders.now", lambda _settings: seed.NOW)

    def run(*arguments: str) -> dict[str, object]:
        result = CliRunner().invoke(main, ["reminders", *arguments, "--json"])
        assert result.exit_code == 0, result.output
        found: dict[str, object] = json.loads(result.stdout)
        return found

    counted = run("--dry-run")
    assert counted["dry_run"] is True
    assert counted["coupons"]["due"] == 1  # type: ignore[index]
    assert run() == {**counted, "dry_run": False}
    assert run()["coupons"]["queued"] == {}  # type: ignore[index]
