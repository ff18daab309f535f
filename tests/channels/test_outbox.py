"""The transition table, what outcomes mean, quiet hours, and the queue itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from channels import events, outbox
from channels.claim import Claimed
from channels.models import Account, Message
from channels.outbox import STATES, TRANSITIONS, may_become, states_before
from channels.quiet import check, quiet_until
from channels.render import MemberView
from channels.settle import BACKOFF_S, decide
from channels.transports.base import Outcome, Reaction, TransportError
from core.contacts import CHANNELS
from core.db import Database
from core.errors import InvalidInput
from core.settings import Settings
from tests.channels.seed import NOW, add_members, add_template, enqueue, message, row, states
from tests.conftest import count
from web.queries.messages import Filter, messages, statement

ALLOWED = {
    ("queued", "leased"),
    ("queued", "skipped"),
    ("leased", "queued"),
    ("leased", "created"),
    ("leased", "sent"),
    ("leased", "failed"),
    ("leased", "skipped"),
    ("leased", "unknown"),
    ("unknown", "created"),
    ("unknown", "sent"),
    ("unknown", "delivered"),
    ("unknown", "failed"),
    ("created", "sent"),
    ("created", "delivered"),
    ("created", "failed"),
    ("sent", "delivered"),
    ("sent", "failed"),
}


def test_the_transition_table_is_the_one_documented() -> None:
    assert {(a, b) for a, b in product(STATES, STATES) if may_become(a, b)} == ALLOWED
    assert {"delivered", "failed", "skipped"} == outbox.FINAL
    assert all(state in TRANSITIONS for following in TRANSITIONS.values() for state in following)
    assert set(states_before("failed")) == {"leased", "unknown", "created", "sent"}


def test_a_receipt_moves_a_message_only_as_the_table_allows(db: Database, settings: Settings) -> None:
    cases = dict(enumerate(product(STATES, events.KINDS), 1))
    add_members(db, list(cases))
    template = add_template(db, settings, "email")
    enqueue(db, *[row(number, "email", template) for number in cases])
    receipts = [
        events.Receipt(kind, NOW, f"once:{number}", message_id=number, actor="human")
        for number, (_, kind) in cases.items()
    ]
    with db.write() as session:
        for number, (before, _) in cases.items():
            session.execute(sa.update(Message).where(Message.id == number).values(state=before))
        assert events.apply(session, [*receipts, *receipts], NOW) == events.Applied(new=len(cases))
        assert events.apply(session, receipts, NOW) == events.Applied(repeated=len(cases))
        found = {number: state for number, state in session.execute(sa.select(Message.id, Message.state))}  # noqa: C416 - a Result has keys
    for number, (before, kind) in cases.items():
        after = events.NEW_STATE.get(kind, before)
        # What is under way is settled by whoever holds its lease.
        expected = after if (before, after) in ALLOWED and before != "leased" else before
        assert found[number] == expected, (before, kind)
    assert count(db, "message_events") == len(cases)
    assert count(db, "suppressions") == len(STATES) * len(events.SUPPRESSION)


def claimed(
    attempts: int = 0, expires_at: datetime | None = None, handed_over_at: datetime | None = None
) -> Claimed:
    return Claimed(
        1,
        "marketing",
        1,
        1,
        {},
        "run",
        1,
        True,
        attempts,
        NOW,
        expires_at,
        MemberView(1, "m"),
        "a@b.c",
        "i",
        ZoneInfo("UTC"),
        handed_over_at,
    )


def outcome(reaction: Reaction, after_s: float | None = None) -> Outcome:
    return Outcome(error=TransportError("because", reaction, code="c", after_s=after_s))


@pytest.mark.parametrize(
    ("reaction", "state", "effects"),
    [
        (Reaction.RETRY, "queued", set()),
        (Reaction.DEFER, "queued", set()),
        (Reaction.FAIL, "failed", {"fall_back"}),
        (Reaction.SUPPRESS, "failed", {"fall_back", "suppression"}),
        (Reaction.STOP, "failed", {"stop"}),
        (Reaction.PAUSE, "queued", {"pause"}),
        (Reaction.UNREACHABLE, "queued", set()),
        (Reaction.UNKNOWN, "unknown", set()),
        (Reaction.RETURN, "queued", set()),
    ],
)
def test_what_each_reaction_asks_for(reaction: Reaction, state: str, effects: set[str]) -> None:
    found = decide(claimed(), outcome(reaction), "email", "keep", False, NOW, 0.0)
    assert found.state == state
    assert {name for name in ("fall_back", "suppression", "stop", "pause") if getattr(found, name)} == effects
    assert found.attempted is (reaction not in (Reaction.PAUSE, Reaction.UNREACHABLE, Reaction.RETURN))


@pytest.mark.parametrize("channel", CHANNELS)
def test_retries_back_off_and_end(channel: str) -> None:
    for attempts, wait in enumerate(BACKOFF_S[channel]):
        for chance in (0.0, 1.0):
            found = decide(claimed(attempts), outcome(Reaction.RETRY), channel, "keep", False, NOW, chance)
            assert found.not_before == NOW + timedelta(seconds=wait * (1 + 0.2 * chance))
    last = decide(claimed(len(BACKOFF_S[channel])), outcome(Reaction.RETRY), channel, "keep", False, NOW, 0.0)
    assert (last.state, last.fall_back) == ("failed", True)


def test_silence_to_the_last_is_unknown_and_falls_back_to_nothing() -> None:
    silent = outcome(Reaction.UNKNOWN)
    first = decide(claimed(), silent, "wechat", "keep", True, NOW, 0.0)
    assert (first.state, first.perhaps_sent_at) == ("queued", NOW)
    earlier = NOW - timedelta(minutes=1)
    second = decide(claimed(1, handed_over_at=earlier), silent, "wechat", "keep", True, NOW, 0.0)
    assert second.perhaps_sent_at == earlier, "the provider's memory began with the first attempt"
    last = decide(claimed(3), silent, "wechat", "keep", True, NOW, 0.0)
    assert (last.state, last.fall_back) == ("unknown", False)
    assert decide(claimed(), silent, "email", "resend", False, NOW, 0.0).state == "queued"


def test_a_retry_after_the_end_of_an_offer_is_not_made() -> None:
    found = decide(
        claimed(0, NOW + timedelta(minutes=4)), outcome(Reaction.RETRY), "email", "keep", False, NOW, 0.0
    )
    assert (found.state, found.fall_back) == ("failed", True)


@pytest.mark.parametrize(
    ("quiet", "zone", "now", "until"),
    [
        (("21:00", "08:00"), "Asia/Shanghai", (2026, 3, 1, 12, 59), None),
        (("21:00", "08:00"), "Asia/Shanghai", (2026, 3, 1, 13, 0), (2026, 3, 2, 0, 0)),
        (("21:00", "08:00"), "Asia/Shanghai", (2026, 3, 1, 23, 59), (2026, 3, 2, 0, 0)),
        (("21:00", "08:00"), "Asia/Shanghai", (2026, 3, 2, 0, 0), None),
        (("12:00", "14:00"), "UTC", (2026, 3, 1, 13, 0), (2026, 3, 1, 14, 0)),
        (("12:00", "14:00"), "UTC", (2026, 3, 1, 14, 0), None),
        (("08:00", "08:00"), "UTC", (2026, 3, 1, 8, 0), None),
        # New York's clocks go forward at 07:00 UTC: eight o'clock is an hour nearer.
        (("21:00", "08:00"), "America/New_York", (2026, 3, 8, 3, 0), (2026, 3, 8, 12, 0)),
        (("21:00", "08:00"), "America/New_York", (2026, 3, 7, 3, 0), (2026, 3, 7, 13, 0)),
    ],
)
def test_quiet_hours(
    quiet: tuple[str, str], zone: str, now: tuple[int, ...], until: tuple[int, ...] | None
) -> None:
    found = quiet_until(
        {"start": quiet[0], "end": quiet[1]},
        ZoneInfo(zone),
        datetime(*now, tzinfo=UTC),  # type: ignore[misc]
    )
    assert found == (None if until is None else datetime(*until, tzinfo=UTC))  # type: ignore[misc]


@pytest.mark.parametrize(
    "broken", [{}, {"start": "9", "end": "x"}, {"start": "21:00", "end": "08:00", "mode": "maybe"}]
)
def test_quiet_hours_are_checked(broken: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        check(broken)
    check({"start": "21:00", "end": "08:00", "mode": "drop"})


def test_a_message_is_queued_once(db: Database, settings: Settings) -> None:
    add_members(db, range(1, 2001))
    template = add_template(db, settings, "sms")
    rows = [row(n, "sms", template) for n in range(1, 2001)]
    with db.write() as session:
        assert outbox.enqueue(session, rows[:5]) == 5
        assert outbox.enqueue(session, iter(rows)) == 1995
        assert outbox.enqueue(session, rows) == 0
    assert states(db) == {"queued": 2000}
    stored = message(db, "run:1:9:sms")
    assert (stored.context, stored.quiet_hours, stored.attempts) == (rows[8].context, None, 0)


def test_what_waits_can_be_cancelled_and_what_failed_sent_again(db: Database, settings: Settings) -> None:
    add_members(db, [1, 2, 3])
    template = add_template(db, settings, "sms")
    enqueue(db, row(1, "sms", template), row(2, "sms", template), row(3, "sms", template, source_id=2))
    with db.write() as session:
        session.execute(sa.update(Message).where(Message.member_id == 1).values(state="failed"))
        assert outbox.cancel(session, "run", 1, "campaign archived", NOW) == 1
    assert states(db) == {"failed": 1, "queued": 1, "skipped": 1}
    with db.write() as session:
        failed = message(db, "run:1:1:sms").id
        assert outbox.retry(session, failed, NOW)
        assert not outbox.retry(session, failed, NOW)
        with pytest.raises(InvalidInput):
            outbox.retry(session, message(db, "run:1:2:sms").id, NOW)


def test_the_first_reason_of_a_pause_stays(db: Database) -> None:
    with db.write() as session:
        outbox.pause(session, "sms", "first", NOW)
        outbox.pause(session, "sms", "second", NOW)
        assert session.get_one(Account, "sms").paused_reason == "first"
        outbox.resume(session, "sms")
        assert session.get_one(Account, "sms").paused_at is None
        with pytest.raises(InvalidInput):
            outbox.set_on_unknown(session, "sms", "maybe")


@pytest.mark.parametrize("typed", ["550 5.1", "550_5.1", "Unreach"])
def test_a_reasons_beginning_is_found_by_an_index(db: Database, settings: Settings, typed: str) -> None:
    numbers = range(1, 3001)
    add_members(db, numbers)
    template = add_template(db, settings, "email")
    enqueue(db, *[row(n, "email", template) for n in numbers])
    with db.write() as session:
        session.execute(
            sa.text("UPDATE messages SET state = 'failed', reason = 'other ' || id WHERE id % 2 = 0")
        )
        for number, reason in ((10, "550 5.1.1 no such user"), (11, "550_5.1.1"), (12, "unreachable: x")):
            session.execute(sa.update(Message).where(Message.id == number).values(reason=reason))
        session.execute(sa.text("ANALYZE"))
    with db.read() as session:
        page = messages(session, 1, Filter(reason=typed))
        expected = {"550 5.1": 10, "550_5.1": 11, "Unreach": 12}[typed]
        assert [found.id for found in page.rows] == [expected], "neither _ nor % is a wildcard"
        query = statement(session, 1, Filter(reason=typed))
        text = str(query.compile(db.engine, compile_kwargs={"literal_binds": True}))
        how = "EXPLAIN " if db.dialect == "postgresql" else "EXPLAIN QUERY PLAN "
        plan = str(
            session.connection()
            .exec_driver_sql(how + text.replace("%", "%%" if db.dialect == "postgresql" else "%"))
            .all()
        )
        assert "ix_messages_reason" in plan, plan
