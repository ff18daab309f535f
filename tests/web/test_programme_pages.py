"""Pages of all marketing, of two campaigns' overlap, and of attribution: what they say of made-up effects."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from campaigns import programme_worth as programme
from campaigns.models import Campaign, CampaignRun, Rollout
from channels.models import Message, Template
from core.models import Member
from core.warehouse.replica import mark
from experiments import assignment, control
from experiments.models import Experiment
from loyalty.models import Coupon, CouponBatch, PointsEntry, Redemption
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


def spend(shop: Shop) -> tuple[list[int], list[int]]:
    """Messages, a coupon and points of that quarter's members: (control, measured)."""
    ids = people(shop)
    without, measured = ids[::2], ids[1::2]
    at = START + timedelta(hours=1)
    with shop.database.write() as session:
        template = session.scalar(sa.select(sa.func.min(Template.id)))
        run = session.scalars(sa.select(CampaignRun).order_by(CampaignRun.id)).first()
        assert run is not None
        run.spec = {**run.spec, "message_cost_minor": {"sms": 700}}
        sent = [(one, "run", run.id, at) for one in measured[:10]]
        sent += [(one, "reminder", 1, at) for one in (*measured[:4], *without[:2])]
        sent.append((measured[0], "run", run.id, START + 6 * DAY))  # the window is over
        sent.append((measured[0], "run", run.id, START - DAY))
        for number, (member, kind, source, when) in enumerate(sent):
            session.add(
                Message(
                    member_id=member, channel="sms", purpose="marketing", source_kind=kind, source_id=source,
                    template_id=template, template_version=1, dedupe_key=f"p{number}", state="sent",
                    created_at=when, sent_at=when, not_before=when, attempts=1, fallback=[], context={},
                )
            )  # fmt: skip
        batch = session.scalars(sa.select(CouponBatch).order_by(CouponBatch.id)).first()
        assert batch is not None
        batch.settlement_share = 0.5
        for number, (member, undone) in enumerate(((measured[0], None), (measured[1], at))):
            coupon = Coupon(
                batch_id=batch.id,
                code=f"PROG{number}",
                issue_key=f"prog{number}",
                state="redeemed",
                issued_at=at,
                member_id=member,
            )
            session.add(coupon)
            session.flush()
            session.add(
                Redemption(
                    coupon_id=coupon.id, member_id=member, order_ref=f"p{number}", basket_minor=9_000,
                    discount_minor=3_000, currency="CNY", redeemed_at=at, rolled_back_at=undone,
                    idempotency_key=f"prog{number}", request_hash="x",
                )
            )  # fmt: skip
        for number, (member, kind, delta) in enumerate(
            ((measured[0], "grant", 400), (without[0], "earn", 100), (measured[1], "spend", -50))
        ):
            session.add(
                PointsEntry(
                    member_id=member, lot_id=None, kind=kind, source_id=f"p{number}", delta=delta, at=at
                )
            )
        mark(session, "touches", [at, START + 6 * DAY, START - DAY])
        mark(session, "redemptions", [at])
        mark(session, "points", [at])
    sync(shop)
    return without, measured


def test_all_marketing_after_its_cost_moves_the_interval_by_what_the_control_did_not_cost(shop: Shop) -> None:
    quarter(shop, 5_000)
    number = control.quarter_of(START)
    engine, later = open_engine(shop.settings), {"window_days": 5, "as_of": seed.NOW}
    with shop.database.read() as session:
        before = programme.costs(session, engine, number, **later)
    without, measured = spend(shop)
    engine = open_engine(shop.settings)
    with shop.database.read() as session:
        after = programme.costs(session, engine, number, **later)
        found = control.read_programme(session, engine, number, **later, currency="CNY")
        worth = programme.worth(session, engine, number, found, **later)
    more = {
        arm: tuple(getattr(after[arm], kind) - getattr(before[arm], kind) for kind in ("messages", "coupons", "points"))
        for arm in after
    }  # fmt: skip
    # Ten at the campaign's price and four at the usual one; half of one coupon, the other was undone.
    assert more == {"measured": (7_020.0, 1_500.0, 400.0), "control": (10.0, 0.0, 100.0)}
    assert worth is not None
    scale = len(measured) / len(without)
    cost = after["measured"].total - scale * after["control"].total
    assert worth.cost.total == pytest.approx(cost)
    margin = found.result("margin").absolute
    assert margin is not None
    n = len(measured)
    for end in ("estimate", "low", "high"):
        assert getattr(worth.profit, end) == pytest.approx(n * getattr(margin, end) - cost)
    assert worth.profit.high - worth.profit.low == pytest.approx(n * (margin.high - margin.low))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_of_all_marketing_shows_the_way_to_its_profit(shop: Shop, language: str) -> None:
    quarter(shop, 5_000)
    spend(shop)
    name = control.name_of(control.quarter_of(START)).partition(":")[2]
    text = shop.client(language=language).get(f"/results/programme?quarter={name}&window=5").text
    part = text.split('class="pic-box"')[1]
    if language == "en":
        assert "After its cost" in text
        assert "Incremental revenue" in part
        assert "the profit of the" in text
    assert part.count('<th scope="row">') >= 6


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
                    name=f"meeting{place}", title=f"Campaign {place}", state="finished", spec={}, created_by="t",
                    created_at=START, updated_at=START, experiment_id=experiment.id,
                )
            )  # fmt: skip
            names.append(f"meeting{place}")
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


def test_an_experiment_of_before_a_roll_out_overlaps_as_well(shop: Shop) -> None:
    first, second = two(shop, -25_000)
    with shop.database.write() as session:
        campaign = session.scalars(sa.select(Campaign).where(Campaign.name == first)).one()
        session.add(
            Rollout(
                campaign_id=campaign.id, experiment_id=campaign.experiment_id, arm="A", state="approved",
                evidence={}, before=[], proposed_at=START, decided_by="t", decided_at=START + 5 * DAY,
            )
        )  # fmt: skip
        new = Experiment(
            name="overlap-new", salt="x", control="holdout", created_at=START + 5 * DAY,
            arms=[{"name": "holdout", "weight": 0.1}, {"name": "A", "weight": 0.9}],
        )  # fmt: skip
        session.add(new)
        session.flush()
        campaign.experiment_id = new.id
    client = shop.client()
    page = client.get("/results/overlap").text
    assert f'<option value="{first}"' in page
    assert '<option value="overlap0"' in page, "the experiment of before, by its own name"
    assert "Campaign 0, until " in page
    text = client.get(f"/results/overlap?first=overlap0&second={second}&metric=revenue&window=10").text
    assert "less than the sum of each alone" in text


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
