"""The page behind a claim link, on both databases."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from core.contacts import blind_index
from core.db import Database
from core.models import Member
from core.settings import Settings
from loyalty import claims, coupons
from loyalty.models import ClaimLink, Coupon
from tests.conftest import count
from tests.loyalty.data import NOW, add_batch, add_members
from web.public.views import create_blueprint
from web.queries import loyalty as queries


@pytest.fixture
def client(db: Database, settings: Settings) -> FlaskClient:
    app = Flask("test")
    app.register_blueprint(create_blueprint(db, settings, now=lambda: NOW))
    add_members(db, 3)
    with db.write() as session:
        session.execute(
            sa.update(Member)
            .where(Member.id == 1)
            .values(
                phone="+8613800138000",
                phone_index=blind_index("phone", "+8613800138000"),
                email_index=blind_index("email", "ann@example.com"),
            )
        )
    return app.test_client()


def a_link(database: Database, batch: dict[str, Any] | None = None, **link: Any) -> ClaimLink:
    made = add_batch(database, **(batch or {}))
    with database.write() as session:
        return claims.create_link(session, made, claims.NewLink("Welcome", **link), "ann", NOW)


def signed(settings: Settings, link: ClaimLink, member_id: int) -> str:
    return claims.member_url(settings.base_url, link, member_id).removeprefix(settings.base_url)


def test_a_signed_link_shows_the_same_code_with_every_try(
    db: Database, client: FlaskClient, settings: Settings
) -> None:
    link = a_link(db, limit=1)
    address = signed(settings, link, 2)
    assert client.get(address).status_code == 200
    assert count(db, "coupons") == 0, "looking claims nothing"
    first, again = client.post(address), client.post(address)
    assert first.text == again.text
    assert "Set-Cookie" not in first.headers
    found = re.search(r"<strong>(\w+)</strong>", first.text)
    assert found is not None
    with db.read() as session:
        coupon = session.scalars(sa.select(Coupon)).one()
        assert (coupon.code, coupon.member_id) == (found.group(1), 2)
        assert session.scalars(sa.select(ClaimLink.claimed)).one() == 1
    assert "All coupons were claimed" in client.post(signed(settings, link, 3)).text
    assert count(db, "coupons") == 1


@pytest.mark.parametrize("typed", ["13800138000", " Ann@Example.com ", "13900139000", "bob@example.com"])
def test_a_typed_address_is_answered_alike_whether_it_is_known_or_not(
    db: Database, client: FlaskClient, typed: str
) -> None:
    link = a_link(db)
    answer = client.post(f"/claim/{link.token}", data={"contact": typed})
    other = client.post(f"/claim/{link.token}", data={"contact": "13700137000"})
    assert (answer.status_code, answer.text) == (200, other.text)
    with db.read() as session:
        codes = session.execute(sa.select(Coupon.member_id, Coupon.code)).all()
    assert [row.member_id for row in codes] == ([1] if "9" not in typed and "bob" not in typed else [])
    assert not any(row.code in answer.text for row in codes)


def test_a_link_of_one_member_or_offer_is_good_for_no_other(
    db: Database, client: FlaskClient, settings: Settings
) -> None:
    link = a_link(db)
    with db.write() as session:
        batch = coupons.find_batch(session, "spring")
        other = claims.create_link(session, batch, claims.NewLink("Other"), "ann", NOW)
    stolen = signed(settings, link, 2).replace(link.token, other.token)
    assert 'name="contact"' in client.get(stolen).text
    assert client.post(stolen).status_code == 422
    assert "not valid" in client.get("/claim/nothing").text
    assert "not valid" in client.post("/claim/nothing").text
    assert count(db, "coupons") == 0


@pytest.mark.parametrize("typed", ["", "hello", "1", "a@", "x" * 400])
def test_what_is_no_address_is_said_beside_what_was_typed(
    db: Database, client: FlaskClient, typed: str
) -> None:
    link = a_link(db)
    answer = client.post(f"/claim/{link.token}", data={"contact": typed})
    assert answer.status_code == 422
    assert "neither a phone number" in answer.text
    assert f'value="{typed[:254]}"' in answer.text


def test_a_closed_link_says_so_to_everybody(db: Database, client: FlaskClient, settings: Settings) -> None:
    link = a_link(db, starts_at=NOW + timedelta(days=1))
    assert "Not open yet" in client.get(f"/claim/{link.token}").text
    assert "over" in client.post(signed(settings, link, 2)).text
    with db.write() as session:
        session.merge(link).starts_at = None
        claims.archive_link(session, session.merge(link), "ann", NOW)
    for path in (f"/claim/{link.token}", signed(settings, link, 2)):
        assert "This offer is over" in client.get(path).text
        assert "This offer is over" in client.post(path, data={"contact": "13800138000"}).text
    assert count(db, "coupons") == 0


def test_trying_addresses_is_slowed_down(db: Database, client: FlaskClient) -> None:
    link = a_link(db)
    answers = [
        client.post(f"/claim/{link.token}", data={"contact": f"139001390{n:02}"}).status_code
        for n in range(21)
    ]
    assert answers == [200] * 20 + [429]


def test_the_batch_knows_what_each_of_its_links_gave(db: Database, client: FlaskClient) -> None:
    link = a_link(db, limit=5)
    with db.write() as session:
        other = claims.create_link(
            session, coupons.find_batch(session, "spring"), claims.NewLink("Other"), "ann", NOW
        )
        for member_id in (1, 2, 2):
            claims.claim_code(session, link.token, member_id, NOW)
        claims.claim_code(session, other.token, 3, NOW)
    with db.read() as session:
        found = queries.links(session, link.batch_id)
        assert [(one.id, given) for one, _, given in found] == [(other.id, 1), (link.id, 2)]
        assert queries.held(session, link.batch_id, NOW) == (0, 0)
        assert queries.given(session, link.batch_id) == (0, 0)
