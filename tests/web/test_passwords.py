"""What a password costs whoever guesses it. The other tests' passwords are cheaper: see ``quick``."""

from __future__ import annotations

import argon2
import pytest
import sqlalchemy as sa
from passlib.hash import argon2 as log_in_hash

from core.db import Database
from tests.web import quick, seed
from tests.web.conftest import Shop
from web import users
from web.models import User

REAL = argon2.profiles.RFC_9106_LOW_MEMORY
EMAIL = "admin@example.com"


@pytest.fixture(autouse=True)
def _as_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "PasswordHasher", quick.GENUINE_HASHER)
    for name, value in quick.GENUINE_COSTS.items():
        monkeypatch.setattr(log_in_hash, name, value)


def _stored(database: Database) -> str:
    with database.read() as session:
        return str(session.execute(sa.select(User.password).where(User.email == EMAIL)).scalar_one())


def _costs(stored: str) -> tuple[str, int, int, int]:
    found = argon2.extract_parameters(stored)
    return found.type.name, found.memory_cost, found.time_cost, found.parallelism


def test_a_password_is_kept_as_argon2id_at_the_recommended_cost() -> None:
    costs = _costs(users.hash_password(seed.PASSWORD))
    assert costs == ("ID", REAL.memory_cost, REAL.time_cost, REAL.parallelism) == ("ID", 65536, 3, 4)


def test_a_log_in_leaves_a_password_of_that_cost_and_renews_a_cheaper_one(shop: Shop) -> None:
    cheap = _stored(shop.database)
    assert _costs(cheap) == ("ID", 8, 1, 1)
    shop.client(EMAIL)
    renewed = _stored(shop.database)
    assert renewed != cheap
    assert _costs(renewed) == ("ID", 65536, 3, 4)
    with shop.database.write() as session:
        session.execute(
            sa.update(User).where(User.email == EMAIL).values(password=users.hash_password(seed.PASSWORD))
        )
    real = _stored(shop.database)
    shop.client(EMAIL)
    assert _stored(shop.database) == real
