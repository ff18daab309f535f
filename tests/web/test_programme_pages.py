"""Pages of all marketing, of two campaigns' overlap, and of attribution: what they say of made-up effects."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from campaigns.models import Campaign
from channels.models import Message, Template
from core.models import Member
from core.warehouse.replica import mark
from experiments import assignment, control
from experiments.models import Experiment
from segments.facts import open_engine
from tests.loyalty.data import put_order
from tests.web import seed
from tests.web.conftest import Shop

START = seed.NOW - timedelta(days=40)
DAY = timedelta(days=1)


def people(shop: Shop) -> list[int]:
    with shop.database.read() as session:
        return list(session.scalars(sa.select(Member.id).order_by(Member.id)))


def sync(shop: Shop) -> None:
    open_engine(shop.settings).replica.sync(shop.database)


def quarter(shop: Shop, lift: int) -> None:
    """Half the members without marketing; the others spend ``lift`` more."""
    ids = people(shop)
    with shop.database.write() as session:
        session.execute(
            sa.delete(assignment.Assignment).where(
                assignment.Assignment.experiment_id.in_(
                    sa.select(Experiment.id).where(Experiment.kind == "control")
                )
            )
        )
        control.log(session, control.quarter_of(START), ids[::2], ids[1::2], START, 0.05)
        for number, member in enumerate(ids):
            put_order(
                session,
                900_000 + number,
                member,
                10_000 + number % 7 * 100 + (number % 2) * lift,
                at=START + DAY,
            )
        mark(session, "orders", [START + DAY])
    sync(shop)


def test_without_a_control_group_the_page_teaches(empty_shop: Shop) -> None:
    text = empty_shop.client().get("/results/programme").text
    assert "Nobody is measured yet" in text


@pytest.mark.parametrize(
    ("lift", "words"),
    [
        (5_000, "together brought"),
        (-5_000, "without any marketing"),
        (0, "No difference between marketing and none"),
    ],
)
def test_all_marketing_of_a_quarter_in_a_sentence(shop: Shop, lift: int, words: str) -> None:
    quarter(shop, lift)
    name = control.name_of(control.quarter_of(START)).partition(":")[2]
    page = shop.client().get(f"/results/programme?quarter={name}&window=5")
    assert page.status_code == 200
    assert words in page.text
    assert name in page.text
    assert 'aria-current="page">All marketing</a>' in page.text
    refused = shop.client().get("/results/programme?quarter=1999Q1")
    assert "Choose one of the list." in refused.text


def two(shop: Shop, interaction: int) -> tuple[str, str]:
    """Two campaigns over the same members, every cell alike large; both together bring ``interaction`` more."""
    ids = people(shop)
    with shop.database.write() as session:
        names = []
        for place in range(2):
            experiment = Experiment(
                name=f"overlap{place}", salt="x", control="holdout", created_at=START,
                arms=[{"name": "holdout", "weight": 0.5}, {"name": "A", "weight": 0.5}],
            )  # fmt: skip
            session.add(experiment)
            session.flush()
            rows = [
                (member, "A" if number >> place & 1 else "holdout", START)
                for number, member in enumerate(ids)
            ]
            assignment.store_assignments(session, experiment.id, rows)
            session.add(
                Campaign(
                    name=f"overlap{place}", title=f"Campaign {place}", state="finished", spec={}, created_by="t",
                    created_at=START, updated_at=START, experiment_id=experiment.id,
                )
            )  # fmt: skip
            names.append(f"overlap{place}")
        for number, member in enumerate(ids):
            both = number & 3 == 3
            put_order(
                session, 800_000 + number, member,
                60_000 + number // 4 % 5 * 10 + 2_000 * (number & 1) + 3_000 * (number >> 1 & 1) + interaction * both,
                at=START + DAY,
            )  # fmt: skip
        mark(session, "orders", [START + DAY])
    sync(shop)
    return names[0], names[1]


@pytest.mark.parametrize(
    ("interaction", "words"),
    [(-25_000, "less than the sum of each alone"), (25_000, "more than the sum of each alone")],
)
def test_two_campaigns_that_touch_each_other_are_told(shop: Shop, interaction: int, words: str) -> None:
    first, second = two(shop, interaction)
    client = shop.client()
    text = client.get(f"/results/overlap?first={first}&second={second}&metric=revenue&window=10").text
    assert words in text
    assert "“Campaign 0” alone" in text
    same = client.get(f"/results/overlap?first={first}&second={first}&metric=revenue&window=10").text
    assert "Choose two different campaigns." in same
    assert words not in same


def test_attribution_gives_every_touched_order_away_in_each_model(shop: Shop) -> None:
    ids, at_first = people(shop)[:3], START - 300 * DAY
    with shop.database.write() as session:
        template = session.scalar(sa.select(sa.func.min(Template.id)))
        for number, (member, channel, at) in enumerate(
            [
                (ids[0], "email", at_first),
                (ids[0], "sms", at_first + DAY),
                (ids[1], "email", at_first),
                (ids[2], "sms", at_first),
            ]
        ):
            session.add(
                Message(
                    member_id=member, channel=channel, purpose="marketing", source_kind="reminder", source_id=1,
                    template_id=template, template_version=1,
                    dedupe_key=f"t{number}", state="sent", created_at=at, sent_at=at, not_before=at, attempts=1, fallback=[], context={},
                )
            )  # fmt: skip
        for number, member in enumerate(ids[:2]):
            put_order(session, 700_000 + number, member, 10_000, at=at_first + 2 * DAY)
        mark(session, "touches", [at_first, at_first + DAY])
        mark(session, "orders", [at_first + 2 * DAY])
    sync(shop)
    day = at_first.date()
    address = (
        f"/results/attribution?from={day}&to={day + timedelta(days=3)}&lookback=7&group=channel&basis=sent"
    )
    for model in ("last", "first", "linear", "position", "markov"):
        page = shop.client().get(f"{address}&model={model}")
        assert page.status_code == 200, model
        # (E-mail's orders, those of SMS): of two orders, one had both, the other e-mail alone.
        shares = {"last": ("1", "1"), "first": ("2", "0")}.get(model, ("1.5", "0.5"))
        if model != "markov":
            assert all(f">{share}</span>" in page.text for share in shares), model
    text = page.text
    assert "E-mail" in text
    assert "SMS" in text
    assert "Markov chain" in text
    wrong = shop.client().get("/results/attribution?from=2026-03-05&to=2026-03-01")
    assert "This must not lie after the second date." in wrong.text
