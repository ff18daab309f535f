"""What loyalty gives to the warehouse."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa

from core.db import Database
from core.models import Member
from core.warehouse.engine import DuckEngine
from core.warehouse.replica import Replica
from loyalty import coupons, points
from loyalty.facts import FACTS
from tests.loyalty.data import NOW, add_batch, add_members


def test_redemptions_and_points_reach_the_replica_and_an_erased_member_leaves_it(
    db: Database, home: Path
) -> None:
    add_members(db, 2)
    batch = add_batch(db)
    with db.write() as session:
        made = coupons.issue(session, batch, [(1, "run:7:1"), (None, "g")], NOW)
        points.grant_many(session, [(1, 10, "a"), (2, 20, "b")], NOW)
    for key, at in (("run:7:1", NOW), ("g", NOW + timedelta(days=40))):
        with db.write() as session:
            coupons.redeem(
                session,
                made[key],
                order_ref=f"o-{key}",
                basket_minor=5000,
                currency="CNY",
                member_external_id=None,
                idempotency_key=key,
                now=at,
            )
    replica = Replica(str(home / "warehouse"), FACTS)
    assert replica.sync(db).rows == 4
    engine = DuckEngine(replica)
    with db.write() as session:  # a rollback changes the month of the redemption, not its own
        coupons.rollback(
            session, made["g"], order_ref="o-g", idempotency_key="r", now=NOW + timedelta(days=90)
        )
    assert replica.sync(db).months == 1
    rows = engine.query(
        "SELECT member_id, batch_id, issue_key, order_ref, discount_minor, "
        "rolled_back_at IS NOT NULL AS back FROM redemptions ORDER BY redeemed_at"
    ).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        (1, batch.id, "run:7:1", "o-run:7:1", 1000, False),
        (None, batch.id, "g", "o-g", 1000, True),
    ]
    sums = engine.query(
        "SELECT member_id, SUM(delta) AS total FROM points GROUP BY member_id ORDER BY 1"
    ).to_pylist()
    assert [tuple(row.values()) for row in sums] == [(1, 10), (2, 20)]
    with db.write() as session:
        session.execute(sa.update(Member).where(Member.id == 1).values(erased_at=NOW))
    replica.rebuild(db)
    assert engine.query("SELECT member_id FROM points").to_pylist() == [{"member_id": 2}]
    assert engine.query("SELECT member_id FROM redemptions").to_pylist() == [{"member_id": None}]
