"""What orders take of promotions: stock, limits of a member, time limits; the endpoints; and their races."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from apiflask import APIFlask
from prefect.logging import disable_run_logger
from sqlalchemy.orm import Session

from core.db import Database
from core.errors import Conflict, InvalidInput, NotFound
from core.settings import Settings
from loyalty import flows
from loyalty.promotions import store, takes
from loyalty.promotions.models import PromotionRow
from loyalty.promotions.takes import MemberLimit, NotInForce, Resolved, SoldOut
from tests.conftest import count
from tests.loyalty.data import NOW, add_members, scalar, together
from tests.loyalty.promotions.cases import ZONE, Json, basket, off
from tests.loyalty.test_races import meet
from web.api import keys
from web.api.views import create_blueprint

LATER = NOW + timedelta(minutes=15)
USED = "SELECT used FROM promotions"
Call = Callable[..., tuple[int, Any]]


def add(database: Database, name: str = "sale", **definition: Any) -> int:
    with database.write() as session:
        content = {"benefit": off(100), **definition}
        return store.save(session, name=name, title=name, definition=content, by="ann", now=NOW).id


def take(session: Session, key: str, n: int = 1, member: int | None = None, **more: Any) -> takes.Taken:
    at = more.pop("at", NOW)
    return takes.take(session, more.pop("name", "sale"), n, key, at, member, zone=ZONE, **more)


def states(database: Database) -> Counter[str]:
    with database.engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT state, sum(n) FROM promotion_takes GROUP BY state"))
        return Counter({state: int(n) for state, n in rows})


def test_stock_is_taken_once_a_key_and_never_beyond(db: Database) -> None:
    add(db, limits={"stock": 4})
    with db.write() as session:
        first = take(session, "a", 3)
        assert first == takes.Taken("a", "held", (("sale", 3),), LATER)
        assert take(session, "a", 3, at=NOW + timedelta(1)) == first
        with pytest.raises(Conflict, match="another request"):
            take(session, "a", 2)
    with pytest.raises(SoldOut, match="1 are left, and 2 were asked for"), db.write() as session:
        take(session, "b", 2)
    assert (scalar(db, USED), count(db, "promotion_takes")) == (3, 1)
    with db.write() as session:
        take(session, "b", 1)  # the refused key is free again
    with db.write() as session:
        assert takes.release(session, "a", NOW).state == "released"
        assert takes.release(session, "a", NOW + timedelta(1)).state == "released"
        with pytest.raises(NotFound):
            takes.release(session, "none", NOW)
    assert scalar(db, USED) == 1
    with db.write() as session:
        for wrong in (0, -1, True, 10**7):
            with pytest.raises(InvalidInput):
                take(session, "c", wrong)
        for minutes in (0, 1441, True):
            with pytest.raises(InvalidInput):
                take(session, "c", minutes=minutes)
        with pytest.raises(InvalidInput):
            take(session, "")
    with pytest.raises(NotFound), db.write() as session:
        take(session, "c", name="none")


def test_a_promotion_without_stock_is_held_without_touching_its_row(db: Database) -> None:
    add(db)
    with db.write() as session:
        take(session, "a", 5)
        takes.release(session, "a", NOW)
        take(session, "b", 5)
    assert (scalar(db, USED), count(db, "promotion_takes")) == (0, 2)


def test_nothing_is_taken_outside_the_time_or_of_the_archive(db: Database) -> None:
    add(db, limits={"stock": 4}, starts_at="2026-03-01T12:00:00Z", ends_at="2026-03-01T12:10:00Z")
    for minutes, works in ((-1, False), (0, True), (9, True), (10, False)):
        with db.write() as session:
            if works:
                take(session, f"k{minutes}", at=NOW + timedelta(minutes=minutes))
                continue
            with pytest.raises(NotInForce):
                take(session, f"k{minutes}", at=NOW + timedelta(minutes=minutes))
            session.rollback()
    with db.write() as session:
        store.archive(session, "sale", "ann", NOW)
    with pytest.raises(NotInForce), db.write() as session:
        take(session, "late")
    assert scalar(db, USED) == 2


def test_an_order_takes_all_of_its_promotions_or_none(db: Database) -> None:
    add(db, "a", limits={"stock": 5})
    add(db, "b", limits={"stock": 1})
    add(db, "c")
    wanted = [("b", 1), ("c", 7), ("a", 2)]
    with db.write() as session:
        takes.take_all(session, wanted, "one", NOW, None, zone=ZONE)
    with pytest.raises(SoldOut), db.write() as session:
        takes.take_all(session, [("a", 1), ("b", 1)], "two", NOW, None, zone=ZONE)
    with db.read() as session:
        assert [(row.name, row.used) for row in store.live(session)] == [("a", 2), ("b", 1), ("c", 0)]
    for twice in ([("a", 1), ("a", 1)], []):
        with pytest.raises(InvalidInput), db.write() as session:
            takes.take_all(session, twice, "three", NOW, None, zone=ZONE)
    with db.write() as session:
        assert takes.release(session, "one", NOW).promotions == (("a", 2), ("b", 1), ("c", 7))
    with db.read() as session:
        assert [row.used for row in store.live(session)] == [0, 0, 0]


def test_a_member_takes_no_more_than_the_limit_in_all_and_a_day(db: Database) -> None:
    add_members(db, 2)
    add(db, limits={"per_member": 3, "per_day": 2})
    with pytest.raises(InvalidInput, match="say who takes it"), db.write() as session:
        take(session, "a")
    with db.write() as session:
        take(session, "a", 1, 1)
        take(session, "other", 2, 2)
    with pytest.raises(MemberLimit, match="2 a day; this one has 1 today, and 2"), db.write() as session:
        take(session, "b", 2, 1)
    with db.write() as session:
        take(session, "b", 1, 1)
        takes.confirm(session, "a", NOW)
        takes.confirm(session, "b", NOW)
    # 16:00 UTC is midnight in the shop's zone: a new day, of which one is left in all.
    for hours, n, works in ((3, 1, False), (4, 2, False), (4, 1, True), (30, 1, False)):
        at = NOW + timedelta(hours=hours)
        if works:
            with db.write() as session:
                take(session, f"{hours} {n}", n, 1, at=at)
                takes.confirm(session, f"{hours} {n}", at)
            continue
        with pytest.raises(MemberLimit), db.write() as session:
            take(session, f"{hours} {n}", n, 1, at=at)
    assert states(db) == {"confirmed": 3, "held": 2}


def test_a_hold_resolves_once(db: Database) -> None:
    add(db, limits={"stock": 10})
    with db.write() as session:
        for key in ("confirmed", "released", "expired"):
            take(session, key)
    with db.write() as session:
        assert takes.confirm(session, "confirmed", NOW).state == "confirmed"
        assert takes.confirm(session, "confirmed", LATER).state == "confirmed"
        takes.release(session, "released", NOW)
        assert takes.release(session, "expired", LATER).state == "expired"
        for key, do in (
            ("confirmed", takes.release),
            ("released", takes.confirm),
            ("expired", takes.confirm),
        ):
            with pytest.raises(Resolved) as caught:
                do(session, key, NOW)
            assert caught.value.reason == key
    assert states(db) == {"confirmed": 1, "released": 1, "expired": 1}
    assert scalar(db, USED) == 1


def test_what_is_over_by_its_time_is_free_at_once_and_swept_later(db: Database) -> None:
    add_members(db, 1)
    add(db, limits={"stock": 2, "per_member": 2})
    with db.write() as session:
        take(session, "a", 2, 1)
        take(session, "long", 1, 1, name=_unlimited(session))
    with db.read() as session:
        assert [one.used for one in store.active(session, LATER) if one.id == "sale"] == [0]
        assert [one.used for one in store.active(session, NOW) if one.id == "sale"] == [2]
    with db.write() as session, pytest.raises(Resolved, match="expired"):
        takes.confirm(session, "a", LATER)
    with db.write() as session:
        take(session, "b", 2, 1, at=LATER)  # nobody has swept yet
    assert states(db) == {"expired": 2, "held": 3}
    with db.write() as session:
        assert takes.expire(session, LATER - timedelta(seconds=1), 10) == 0
        assert takes.expire(session, LATER, 10) == 1
        assert takes.expire(session, LATER + timedelta(hours=1), 10) == 1
        assert takes.expire(session, LATER + timedelta(hours=1), 10) == 0
    assert scalar(db, "SELECT used FROM promotions WHERE name = 'sale'") == 0


def _unlimited(session: Session) -> str:
    definition = {"benefit": off(1)}
    return store.save(session, name="open", title="o", definition=definition, by="ann", now=NOW).name


def test_the_flow_expires_what_was_held_for_too_long(
    sqlite_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(sqlite_db, limits={"stock": 9})
    with sqlite_db.write() as session:
        take(session, "old", 4)
        take(session, "kept", 2)
        takes.confirm(session, "kept", NOW)
    monkeypatch.setattr(
        flows.core_settings, "load", lambda: Settings(database_url=sqlite_db.url, _env_file=None)
    )
    monkeypatch.setattr(flows, "clock", lambda _settings: LATER)
    with disable_run_logger():
        assert flows.expire.fn()["promotion_takes"] == 1
    assert (states(sqlite_db), scalar(sqlite_db, USED)) == ({"expired": 4, "confirmed": 2}, 2)


# --- By HTTP -------------------------------------------------------------------------------------------


@pytest.fixture
def call(db: Database, settings: Settings) -> Call:
    app = APIFlask("test", spec_path=None, docs_path=None)
    app.register_blueprint(create_blueprint(db, settings, clock=lambda: NOW))
    with db.write() as session:
        token = keys.create(session, "till", ["read", "loyalty"], "ann", NOW)[1]

    def send(path: str, body: Any, key: str | None = "k") -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {token}", **({"Idempotency-Key": key} if key else {})}
        answer = app.test_client().post(f"/api/v1/promotions/{path}", json=body, headers=headers)
        return answer.status_code, answer.get_json()

    return send


def test_taken_confirmed_and_released_by_http(db: Database, call: Call) -> None:
    add_members(db, 1)
    add(db, "a", limits={"stock": 3})
    add(db, "b", limits={"per_member": 1})
    body: Json = {"promotions": [{"promotion": "a", "n": 2}, {"promotion": "b"}], "member_id": "m1"}
    status, found = call("take", body)
    assert (status, found["take"], found["state"]) == (200, "k", "held")
    assert found["promotions"] == [{"promotion": "a", "n": 2}, {"promotion": "b", "n": 1}]
    assert found["expires_at"].startswith("2026-03-01T12:15:00")
    assert call("take", body) == (status, found)
    for sent, key, wanted in (
        ({**body, "minutes": 5}, "k", (409, "conflict")),
        ({"promotions": [{"promotion": "a", "n": 2}]}, "k2", (409, "sold_out")),
        ({"promotions": [{"promotion": "b"}], "member_id": "m1"}, "k2", (409, "member_limit")),
        ({"promotions": [{"promotion": "b"}]}, "k2", (422, "invalid_input")),
        ({"promotions": [{"promotion": "b"}], "member_id": "nobody"}, "k2", (404, "not_found")),
        ({"promotions": [{"promotion": "zzz"}]}, "k2", (404, "not_found")),
        ({"promotions": []}, "k2", (422, "invalid_input")),
        ({"promotions": [{"promotion": "a", "n": 1.0}]}, "k2", (422, "invalid_input")),
        (body, None, (422, "invalid_input")),
    ):
        status, refused = call("take", sent, key)
        assert (status, refused["error"]["code"]) == wanted, sent
    assert count(db, "promotion_takes") == 2
    status, done = call("confirm", {"take": "k"}, "c1")
    assert (status, done["state"]) == (200, "confirmed")
    assert call("confirm", {"take": "k"}, "c1") == (200, done)
    status, refused = call("release", {"take": "k"}, "r1")
    assert (status, refused["error"]["code"]) == (409, "confirmed")
    call("take", {"promotions": [{"promotion": "a"}]}, "k3")
    status, done = call("release", {"take": "k3"}, "r2")
    assert (status, done["state"], scalar(db, "SELECT used FROM promotions WHERE name = 'a'")) == (
        200,
        "released",
        2,
    )


def test_an_evaluation_says_what_is_used_up(db: Database, call: Call) -> None:
    add_members(db, 2)
    add(db, "gone", limits={"stock": 1})
    add(db, "mine", limits={"per_member": 2})
    add(db, "today", limits={"per_day": 1})
    call("take", {"promotions": [{"promotion": "gone"}]}, "k1")
    call("take", {"promotions": [{"promotion": "mine", "n": 2}], "member_id": "m1"}, "k2")
    call("take", {"promotions": [{"promotion": "today"}], "member_id": "m1"}, "k3")

    def rejected(**more: Any) -> dict[str, str]:
        request = {**basket(1000), "at": "2026-03-01T20:00:00+08:00", **more}
        del request["promotions"]
        status, found = call("evaluate", request, None)
        assert status == 200, found
        return {one["promotion"]: one["reason"] for one in found["rejected"]}

    gone, limit = {"gone": "sold_out"}, "member_limit"
    assert rejected(member={"id": "m1"}) == {**gone, "mine": limit, "today": limit}
    assert rejected(member={"id": "m1"}, at="2026-03-02T00:00:00+08:00") == {**gone, "mine": limit}
    assert rejected(member={"id": "m2"}) == rejected(member={"id": "unknown"}) == gone
    assert rejected() == {**gone, "mine": limit, "today": limit}


def test_members_of_many_baskets_are_looked_up_in_one_query(db: Database, call: Call) -> None:
    add_members(db, 50)
    add(db, limits={"per_member": 1})
    request = basket(1000)
    del request["promotions"]
    seen: list[str] = []

    @sa.event.listens_for(db.engine, "before_cursor_execute")
    def note(_c: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if "promotion_takes" in statement:
            seen.append(statement)

    status, found = call("evaluate", {"baskets": [{**request, "member": {"id": f"m{n}"}} for n in range(50)]})
    assert (status, len(found["results"]), len(seen)) == (200, 50, 1)


# --- Races ---------------------------------------------------------------------------------------------


def rush(database: Database, threads: int, turns: int, do: Callable[[Session, str], Any]) -> Counter[str]:
    """``threads`` × ``turns`` transactions, the threads let go at one moment; how they ended."""
    ends: Counter[str] = Counter()
    lock = threading.Lock()

    def job(number: int) -> Callable[[], None]:
        def run() -> None:
            for turn in range(turns):
                try:
                    with database.write() as session:
                        do(session, f"{number}-{turn}")
                    end = "done"
                except Exception as error:
                    end = type(error).__name__
                with lock:
                    ends[end] += 1

        return run

    assert together([job(number) for number in range(threads)]) == {"done": threads}
    return ends


def test_a_thousand_tries_take_exactly_the_hundred_there_are(pg_db: Database) -> None:
    add(pg_db, limits={"stock": 100})
    assert rush(pg_db, 40, 25, take) == {"done": 100, "SoldOut": 900}
    assert scalar(pg_db, USED) == count(pg_db, "promotion_takes") == 100


def test_without_the_conditional_write_more_than_there_are_is_taken(
    pg_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(pg_db, limits={"stock": 5})
    gate = threading.Barrier(20)

    def unlocked(session: Session, promotion_id: int, n: int, now: Any) -> bool:
        mine = PromotionRow.id == promotion_id
        used = session.execute(sa.select(PromotionRow.used).where(mine)).scalar_one()
        gate.wait(timeout=30)  # twenty have looked before one of them writes
        if used + n > 5:
            return False
        session.execute(sa.update(PromotionRow).where(mine).values(used=PromotionRow.used + n))
        return True

    monkeypatch.setattr(takes, "_count", unlocked)
    assert rush(pg_db, 20, 1, take)["done"] == scalar(pg_db, USED) == 20


def one_member(session: Session, key: str) -> takes.Taken:
    return take(session, key, 1, 1)


@pytest.mark.parametrize("limits", [{"per_member": 1}, {"per_day": 1}])
def test_twenty_orders_of_one_member_at_once_get_the_one_that_is_allowed(
    pg_db: Database, limits: Json
) -> None:
    add_members(pg_db, 1)
    add(pg_db, limits=limits)
    assert rush(pg_db, 20, 1, one_member) == {"done": 1, "MemberLimit": 19}
    assert states(pg_db) == {"held": 1}


def test_without_the_members_lock_all_twenty_get_it(pg_db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    add_members(pg_db, 1)
    add(pg_db, limits={"per_member": 1})
    monkeypatch.setattr(takes, "_lock_member", lambda _session, _member_id: None)
    monkeypatch.setattr(takes, "_of_member", meet(20, takes._of_member))
    assert rush(pg_db, 20, 1, one_member) == {"done": 20}


def confirm_against_expiry(database: Database) -> tuple[str, int]:
    """One confirms a moment before the end by its clock, one sweeps by a clock a moment ahead."""
    with database.write() as session:
        take(session, "k")
    gate = threading.Barrier(2)

    def confirm() -> None:
        with database.write() as session:
            gate.wait(timeout=30)
            takes.confirm(session, "k", LATER - timedelta(milliseconds=1))

    def sweep() -> None:
        with database.write() as session:
            gate.wait(timeout=30)
            takes.expire(session, LATER, 10)

    together([confirm, sweep])
    return next(iter(states(database))), int(scalar(database, USED))


def test_a_confirmation_and_the_expiry_of_a_hold_never_both_win(pg_db: Database) -> None:
    add(pg_db, limits={"stock": 1})
    for _ in range(15):
        found = confirm_against_expiry(pg_db)
        assert found in (("confirmed", 1), ("expired", 0))
        with pg_db.engine.begin() as connection:
            for sql in ("DELETE FROM promotion_takes", "DELETE FROM loyalty_requests"):
                connection.execute(sa.text(sql))
            connection.execute(sa.text("UPDATE promotions SET used = 0"))


def test_without_the_lock_of_the_hold_both_win(pg_db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    add(pg_db, limits={"stock": 1})
    swept = threading.Event()
    locked = takes._locked

    def unlocked(session: Session, key: str) -> Any:
        monkeypatch.setattr(sa.Select, "with_for_update", lambda self, **_: self)
        rows = locked(session, key)
        monkeypatch.undo()
        with pg_db.write() as other:
            takes.expire(other, LATER, 10)
        swept.set()
        return rows

    with pg_db.write() as session:
        take(session, "k")
    monkeypatch.setattr(takes, "_locked", unlocked)
    with pg_db.write() as session:
        takes.confirm(session, "k", LATER - timedelta(milliseconds=1))
    assert swept.is_set()
    # Confirmed, and yet its place was given away: the violation.
    assert (states(pg_db), scalar(pg_db, USED)) == ({"confirmed": 1}, 0)


def test_the_same_order_at_once_from_twenty_threads_is_counted_once(pg_db: Database) -> None:
    add(pg_db, limits={"stock": 100})
    answers = []

    def run() -> None:
        with pg_db.write() as session:
            answers.append(take(session, "one", 7))

    assert together([run] * 20) == {"done": 20}
    assert len(set(answers)) == 1
    assert scalar(pg_db, USED) == 7


def test_a_hold_released_twenty_times_at_once_gives_back_once(pg_db: Database) -> None:
    add(pg_db, limits={"stock": 10})
    with pg_db.write() as session:
        take(session, "a", 4)
        take(session, "b", 5)

    def run() -> None:
        with pg_db.write() as session:
            takes.release(session, "a", NOW)

    assert together([run] * 20) == {"done": 20}
    assert scalar(pg_db, USED) == 5
    assert states(pg_db) == {"released": 4, "held": 5}
