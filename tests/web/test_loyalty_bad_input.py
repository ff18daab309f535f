"""Bad input to the endpoints of coupons and points: each says what is wrong and where, and writes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient

from core.db import Base, Database
from loyalty import claims, codes, coupons, points
from tests.loyalty.data import NOW, add_batch, add_members
from tests.web.test_api import Clock, client, clock, make_key  # noqa: F401

MISSING = object()
ORDER = {"order_id": "o1", "basket_minor": 5000, "currency": "CNY"}
NOTED = ("abuse_signals", "abuse_hits", "abuse_guesses", "api_keys")
"""What watches over the endpoints notes refused requests too, and keys their last use."""
LONG = "x" * 200
LONGER = {"reason": 300}
"""Characters of texts that may be longer than an id."""
IDS = ("hold_id",)
"""Numbers that may be large: of a thing that nobody knows."""
NUMBERS: tuple[Any, ...] = (-(10**15), 0.5, 10**15, 10**30, "12", True, [1], {"a": 1}, float("nan"))
TEXTS: tuple[Any, ...] = ("", LONG, 5, True, ["a"], {"a": 1}, "a\x00b", "\ud800", float("inf"))


@dataclass(frozen=True)
class Endpoint:
    """A path, a body that it takes, and the fields that may be left out."""

    path: str
    body: dict[str, Any]
    optional: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shop:
    database: Database
    client: FlaskClient
    token: str
    code: str
    other: str
    link: str
    hold_id: int
    points_hold_id: int

    def post(self, path: str, body: Any, key: str | None = "k") -> Any:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        if key is not None:
            headers["Idempotency-Key"] = key
        answer = self.client.post(f"/api/v1/{path}", data=data, headers=headers)
        return answer.status_code, answer.get_json()

    def endpoint(self, path: str) -> Endpoint:
        return next(one for one in self.endpoints() if one.path == path)

    def endpoints(self) -> list[Endpoint]:
        member = {"member_id": "m1", "source": "shop"}
        code, source = {"code": self.code}, ("source",)
        order_free = ("currency", "member_id")
        return [
            Endpoint("coupons/issue", {"batch": "spring", "count": 1, "source": "shop"}, source),
            Endpoint("coupons/hold", {**ORDER, **code, "minutes": 5}, (*order_free, "minutes")),
            Endpoint("coupons/release", {"hold_id": self.hold_id}),
            Endpoint("coupons/redeem", {**ORDER, **code}, order_free),
            Endpoint("coupons/rollback", {**code, "order_id": "o1", "amount_minor": 1}, ("amount_minor",)),
            Endpoint("coupons/claim", {**member, "link": self.link}, source),
            Endpoint(
                "coupons/transfer",
                {**code, "from_member_id": "m1", "to_member_id": "m2", "source": "shop"},
                source,
            ),
            Endpoint("points/earn", {**member, "points": 5}, source),
            Endpoint(
                "points/hold", {**member, "points": 5, "order_id": "p", "minutes": 5}, (*source, "minutes")
            ),
            Endpoint("points/release", {**member, "hold_id": self.points_hold_id}, source),
            Endpoint("points/burn", {**member, "points": 5, "order_id": "p"}, source),
            Endpoint("points/refund", {**member, "points": 5, "order_id": "p"}, (*source, "points")),
            Endpoint(
                "points/adjust",
                {**member, "points": 5, "reason": "why", "allow_debt": False},
                (*source, "allow_debt"),
            ),
            Endpoint(
                "points/transfer",
                {**member, "to_member_id": "m2", "points": 5},
                source,
            ),
        ]


PATHS = tuple(one.path for one in Shop(None, None, "", "", "", "", 0, 0).endpoints())  # type: ignore[arg-type]


@pytest.fixture
def shop(db: Database, client: FlaskClient) -> Shop:  # noqa: F811
    """Two codes, one of them held; a link; a member with 100 points, 20 of them held."""
    add_members(db, 2)
    batch = add_batch(db, transferable=True, budget_minor=100_000)
    with db.write() as session:
        points.grant_many(session, [(1, 100, "g")], NOW)
        code, other = coupons.issue(session, batch, [(None, "i1"), (None, "i2")], NOW).values()
        link = claims.create_link(session, batch, claims.NewLink("Welcome"), "ann", NOW)
    made = Shop(db, client, make_key(db), code, other, link.token, 0, 0)
    held = made.post("coupons/hold", {**ORDER, "code": other, "minutes": 10}, "seed-1")[1]
    aside = made.post("points/hold", {"member_id": "m1", "points": 20, "order_id": "s"}, "seed-2")[1]
    return Shop(db, client, made.token, code, other, link.token, held["hold_id"], aside["hold_id"])


def rows(database: Database) -> dict[str, list[str]]:
    """Every row of every table that a request writes, in words."""
    with database.engine.connect() as connection:
        return {
            name: sorted(str(tuple(row)) for row in connection.execute(sa.select(table)))
            for name, table in Base.metadata.tables.items()
            if name not in NOTED
        }


def bad_bodies(one: Endpoint) -> Iterator[tuple[str, dict[str, Any]]]:
    """(the field that is wrong, the body), for every field and everything that it may not be."""
    yield "surprise", {**one.body, "surprise": 1}
    for name, good in one.body.items():
        if isinstance(good, bool):
            wrong: tuple[Any, ...] = ("yes", 1, LONG, [True])
        else:
            wrong = NUMBERS if isinstance(good, int) else TEXTS
        if name in IDS:
            wrong = tuple(value for value in wrong if value != 10**15)
        if name in LONGER:
            wrong = tuple("x" * (LONGER[name] + 1) if value == LONG else value for value in wrong)
        for value in wrong:
            yield name, {**one.body, name: value}
        if name not in one.optional:
            yield name, {field: value for field, value in one.body.items() if field != name}
            yield name, {**one.body, name: None}


def about(error: dict[str, Any], field: str) -> bool:
    """Whether the error names the field; what no text can hold, and which of several fields is needed, are
    said of the body."""
    named = error["field"]
    general = ("cannot be stored", "NaN", "give one of", "give either", "Say how many points")
    return (
        named == field
        or (named is None and any(part in error["message"] for part in general))
        or (named in ("points", "order_id") and error["message"].startswith("Say how many points"))
    )


@pytest.mark.parametrize("path", PATHS)
def test_every_wrong_value_is_named_and_nothing_written(shop: Shop, path: str) -> None:
    one, before, wrong = shop.endpoint(path), rows(shop.database), []
    for field, body in bad_bodies(one):
        status, answer = shop.post(path, body)
        error = answer.get("error", {})
        if status != 422 or error.get("code") != "invalid_input" or not about(error, field):
            wrong.append((field, {name: str(value)[:40] for name, value in body.items()}, status, answer))
    assert wrong == []
    assert rows(shop.database) == before


@pytest.mark.parametrize("path", PATHS)
def test_what_is_no_json_object_or_has_no_key_is_refused(shop: Shop, path: str) -> None:
    body, before = shop.endpoint(path).body, rows(shop.database)
    assert shop.post(path, b"{oops")[0] == 400
    assert shop.post(path, b"\xff\xfe")[0] == 400
    assert shop.post(path, b"[" * 100_000)[0] == 400
    for raw in (b"[]", b'"text"', b"5", b"null", b""):
        assert shop.post(path, raw)[0] in (400, 422), raw
    for key in (None, "", LONG):
        status, answer = shop.post(path, body, key)
        assert (status, answer["error"]["field"]) in [
            (422, "Idempotency-Key"), (422, "idempotency_key")
        ], (key, answer)  # fmt: skip
    assert rows(shop.database) == before


# What each endpoint's second body has that its first, which was answered, had not.
OTHER_BODY: dict[str, dict[str, Any]] = {
    "coupons/issue": {"count": 2},
    "coupons/hold": {"minutes": 6},
    "coupons/redeem": {"basket_minor": 5001},
    "coupons/release": {"hold_id": 1_000_000},
    "coupons/claim": {"member_id": "m2"},
    "points/earn": {"points": 6},
    "points/hold": {"points": 6},
    "points/release": {"hold_id": 1_000_000},
    "points/burn": {"points": 6},
    "points/adjust": {"points": 6},
}


@pytest.mark.parametrize("path", OTHER_BODY)
def test_a_key_with_another_body_is_refused_and_with_the_same_answered_alike(shop: Shop, path: str) -> None:
    body = shop.endpoint(path).body
    first = shop.post(path, body, "mine")
    assert first[0] == 200, first
    before = rows(shop.database)
    status, answer = shop.post(path, {**body, **OTHER_BODY[path]}, "mine")
    assert (status, answer["error"]["code"]) == (409, "conflict")
    assert "“mine”" in answer["error"]["message"] or path == "points/adjust"
    assert shop.post(path, body, "mine") == first
    assert rows(shop.database) == before


def test_what_is_well_formed_but_wrong_has_a_reason_and_writes_nothing(
    shop: Shop, clock: Clock  # noqa: F811
) -> None:  # fmt: skip
    last = shop.code[-1]
    typo = shop.code[:-1] + next(sign for sign in codes.ALPHABET if sign != last)
    (unknown,) = codes.generate("", 12, 1)
    member = {"member_id": "m1"}
    order = {**ORDER, "code": shop.code}
    table: list[tuple[str, dict[str, Any], int, str]] = [
        ("coupons/redeem", {**order, "code": typo}, 422, "invalid_input"),
        ("coupons/hold", {**order, "code": typo}, 422, "invalid_input"),
        ("coupons/rollback", {"code": typo, "order_id": "o1"}, 422, "invalid_input"),
        ("coupons/transfer", {"code": typo, "from_member_id": "m1", "to_member_id": "m2"}, 422,
         "invalid_input"),
        ("coupons/redeem", {**order, "code": unknown}, 404, "not_found"),
        ("coupons/rollback", {"code": unknown, "order_id": "o1"}, 404, "not_found"),
        ("coupons/redeem", {**order, "currency": "EUR"}, 409, "wrong_currency"),
        ("coupons/hold", {**order, "currency": "EUR"}, 409, "wrong_currency"),
        ("coupons/hold", {**order, "currency": "cny"}, 422, "invalid_input"),
        ("coupons/redeem", {**ORDER, "order_id": "o2", "code": shop.other}, 409, "held"),
        ("coupons/redeem", {**ORDER, "hold_id": 2**62}, 404, "not_found"),
        ("coupons/release", {"hold_id": 2**62}, 404, "not_found"),
        ("coupons/rollback", {"code": shop.code, "order_id": "o1"}, 409, "conflict"),
        ("coupons/claim", {"link": "none", **member}, 404, "not_found"),
        ("coupons/claim", {"link": shop.link, "member_id": "nobody"}, 404, "not_found"),
        ("coupons/issue", {"batch": "none", "count": 1}, 404, "not_found"),
        ("coupons/issue", {"batch": "spring", "member_ids": ["m1", "nobody"]}, 404, "not_found"),
        ("points/earn", {"member_id": "nobody", "points": 1}, 404, "not_found"),
        ("points/earn", {**member, "source": "other", "points": 1}, 404, "not_found"),
        ("points/burn", {**member, "points": 81, "order_id": "p"}, 409, "insufficient_points"),
        ("points/hold", {**member, "points": 81, "order_id": "p"}, 409, "insufficient_points"),
        ("points/burn", {**member, "hold_id": 2**62}, 404, "not_found"),
        ("points/burn", {"member_id": "m2", "hold_id": shop.points_hold_id}, 404, "not_found"),
        ("points/release", {**member, "hold_id": 2**62}, 404, "not_found"),
        ("points/refund", {**member, "order_id": "none"}, 404, "not_found"),
        ("points/transfer", {**member, "to_member_id": "m2", "points": 5}, 409, "transfer_refused"),
    ]  # fmt: skip
    before = rows(shop.database)
    found = [(path, body, *told(shop.post(path, body, f"k{n}"))) for n, (path, body, *_) in enumerate(table)]
    assert found == table
    clock.now = NOW + timedelta(minutes=31)
    expired = [
        told(shop.post("coupons/redeem", {**ORDER, "hold_id": shop.hold_id}, "late-1")),
        told(shop.post("points/burn", {**member, "hold_id": shop.points_hold_id}, "late-2")),
    ]
    assert expired == [(409, "hold_expired"), (409, "hold_over")]
    assert rows(shop.database) == before


def told(answer: tuple[int, dict[str, Any]]) -> tuple[int, str]:
    status, body = answer
    error = body.get("error", {"code": "done", "message": "x"})
    assert len(error["message"]) > 10 or error["code"] == "done"
    return status, error["code"]
