"""When marketing SMS may arrive: the rule alone, and at send time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from channels.consent import TRANSACTIONAL
from channels.delivery import run_delivery
from channels.sms.hours import Hours, hours_of, parse
from core.db import Database
from core.errors import InvalidInput
from core.settings import Settings
from tests.channels.seed import (
    NOW,
    Running,
    add_members,
    add_template,
    enqueue,
    message,
    row,
    sandbox_settings,
)

CN, NEW_YORK, SEATTLE, TOLL_FREE, LONDON = (
    "+8613800138000",
    "+12125550100",
    "+12065550100",
    "+18005550100",
    "+442071234567",
)


def rules(
    text: str = "+86=08:00-20:00 +1=08:00-21:00", mainland: str = "aliyun", abroad: str = "twilio"
) -> Hours:
    return Hours(parse(text), mainland, abroad, frozenset({mainland, abroad}))


def utc(day: int, hour: int, minute: int = 0, month: int = 3) -> datetime:
    return datetime(2026, month, day, hour, minute, tzinfo=UTC)


@pytest.mark.parametrize(
    ("phone", "zone", "now", "expected"),
    [
        # Shanghai is eight hours ahead: 20:00 is 12:00.
        (CN, None, utc(2, 11, 59), None),
        (CN, None, utc(2, 12), utc(3, 0)),
        (CN, None, utc(2, 23, 59), utc(3, 0)),
        (CN, None, utc(3, 0), None),
        (CN, "America/New_York", utc(2, 12), utc(3, 0)),
        # New York in March, before the clocks change: 21:00 is 02:00 of the next day.
        (NEW_YORK, None, utc(3, 1, 59), None),
        (NEW_YORK, None, utc(3, 2), utc(3, 13)),
        (NEW_YORK, None, utc(3, 12, 59), utc(3, 13)),
        (NEW_YORK, "America/Los_Angeles", utc(3, 2), None),
        (NEW_YORK, "no/zone", utc(3, 2), utc(3, 13)),
        (SEATTLE, None, utc(3, 13), utc(3, 16)),
        # A number of no place: New York's evening and Los Angeles' morning both count.
        (TOLL_FREE, None, utc(3, 13), utc(3, 16)),
        (TOLL_FREE, None, utc(3, 2), utc(3, 16)),
        (TOLL_FREE, None, utc(3, 20), None),
        (LONDON, None, utc(3, 3), None),
        # The night in which New York's clocks go forward: 08:00 stays 08:00.
        (NEW_YORK, None, utc(8, 3), utc(8, 12)),
    ],
)
def test_the_recipients_clock_decides(
    phone: str, zone: str | None, now: datetime, expected: datetime | None
) -> None:
    assert rules().opens(phone, zone, now) == expected


def test_a_provider_can_have_hours_of_its_own() -> None:
    found = rules("+86=08:00-20:00 tencent/+86=08:00-22:00 +44=09:00-18:00", "tencent", "tencent")
    assert found.opens(CN, None, utc(2, 13)) is None
    assert found.opens(CN, None, utc(2, 14)) == utc(3, 0)
    assert rules("tencent/+86=08:00-22:00").opens(CN, None, utc(2, 20)) is None, "another provider's"
    assert found.opens(LONDON, None, utc(3, 3)) == utc(3, 9)
    assert found.opens(NEW_YORK, None, utc(3, 3)) is None


@pytest.mark.parametrize("text", ["+86", "86=08:00-20:00", "+86=20:00-08:00", "+86=8-20x", "+86=08:00-08:00"])
def test_hours_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="HUILIU_SMS_HOURS"):
        parse(text)


def test_a_stand_in_disturbs_nobody_unless_told_to(settings: Settings) -> None:
    assert hours_of(settings) is None
    real = settings.model_copy(update={"aliyun_endpoint": "https://dysmsapi.aliyuncs.com"})
    found = hours_of(real)
    assert found is not None
    assert found.opens(CN, None, utc(2, 12)) == utc(3, 0)
    assert hours_of(real.model_copy(update={"sms_hours": "off"})) is None
    told = hours_of(settings.model_copy(update={"sms_hours": "+86=10:00-11:00"}))
    assert told is not None
    assert told.opens(CN, None, utc(2, 4)) == utc(3, 2)
    # Abroad by a stand-in, at home by the real one.
    mixed = hours_of(real.model_copy(update={"sms_provider_abroad": "twilio"}))
    assert mixed is not None
    assert mixed.opens(NEW_YORK, None, utc(3, 3)) is None


def test_marketing_waits_for_the_morning_and_receipts_do_not(db: Database, settings: Settings) -> None:
    add_members(db, [1, 2], timezone="Asia/Shanghai")
    marketing = add_template(db, settings, "sms")
    transactional = add_template(db, settings, "sms", TRANSACTIONAL)
    night = datetime(2026, 3, 2, 14, tzinfo=UTC)
    quiet = {"start": "21:00", "end": "09:30", "mode": "defer"}
    enqueue(
        db,
        row(1, "sms", marketing),
        row(2, "sms", marketing, quiet_hours=quiet),
        row(1, "sms", transactional, purpose=TRANSACTIONAL, key="receipt"),
        row(1, "sms", marketing, key="soon over", expires_at=night + timedelta(hours=1)),
        row(1, "sms", marketing, key="test", source_kind="test"),
    )
    there = sandbox_settings(db, settings, sms_hours="+86=08:00-20:00")
    with Running(there):
        found = run_delivery(db, there, now=lambda: night)
        assert (found.sent, found.deferred, found.skipped) == (2, 2, 1)
        waiting = message(db, "run:1:1:sms")
        assert (waiting.state, waiting.not_before, waiting.attempts) == ("queued", utc(3, 0), 0)
        assert message(db, "run:1:2:sms").not_before == utc(3, 1, 30), "the later of the two"
        assert message(db, "receipt").state == message(db, "test").state == "sent"
        assert message(db, "soon over").reason == "expired"
        assert run_delivery(db, there, now=lambda: utc(3, 0)).sent == 1
        assert run_delivery(db, there, now=lambda: utc(3, 2)).sent == 1
    assert night > NOW


@pytest.mark.parametrize(
    "wrong", [{"sms_hours": "+86=8-20"}, {"sms_hours": "always"}, {"sms_prices": ""}, {"sms_prices": "CN=1"}]
)
def test_settings_that_cannot_be_read_are_refused_at_the_start(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Settings(_env_file=None, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("good", ["", "off", "+86=08:00-20:00", " +86=08:00-20:00  tencent/+86=08:00-22:00 "])
def test_settings_take_what_the_rule_reads(good: str) -> None:
    found = Settings(_env_file=None, sms_hours=good, sms_prices=" CN:0.045  *:1 ")
    assert (hours_of(found) is None) is (good in ("", "off"))
