"""Experiments on the shop's own pages in every state: running, draft, stopped, of visitors, a bandit."""

from __future__ import annotations

import random
from datetime import timedelta

import sqlalchemy as sa

from core.db import Database
from core.models import Member
from experiments import assignment, bandits, experiments
from experiments.bandits import Week
from experiments.experiments import Layer, NewExperiment
from tests.web import seed

BY = "marketer@example.com"
PAIR = (("control", 0.5), ("new", 0.5))
THREE = (("control", 0.34), ("photo", 0.33), ("film", 0.33))
WEEKS = (
    dict(THREE),
    dict(THREE),
    {"control": 0.2, "photo": 0.3, "film": 0.5},
    {"control": 0.08, "photo": 0.2, "film": 0.72},
)
"""The weights of the bandit's weeks."""
PAGES = ("/results/experiments", "/results/experiments?kind=campaign", "/results/experiments/new")


def fill(database: Database) -> dict[str, int]:
    """Name → id."""
    luck, zone = random.Random(3), seed.NOW.tzinfo
    assert zone is not None
    begin = seed.NOW - timedelta(days=24)
    with database.write() as session:
        for new in (
            NewExperiment("new-checkout", PAIR, "control", coverage=0.1, layer=Layer("checkout", 0, 0.5),
                          about="One page instead of three, as half of the baskets are left on the second."),
            NewExperiment("price-first", PAIR, "control", layer=Layer("checkout", 0.4, 0.8)),
            NewExperiment("old-idea", PAIR, "control"),
            NewExperiment("landing", PAIR, "control", unit="visitor"),
            NewExperiment("hero-banner", THREE, "control", allocation="bandit", goal="revenue", floor=0.05),
        ):  # fmt: skip
            experiments.create(session, new, begin, by=BY)
        for name in ("new-checkout", "old-idea", "landing", "hero-banner"):
            experiments.change(session, name, status="running", by=BY, now=begin)
        experiments.change(session, "old-idea", status="stopped", by=BY, now=seed.NOW)
        rows = {
            name: experiments.by_name(session, name) for name in ("new-checkout", "landing", "hero-banner")
        }
        members = list(session.scalars(sa.select(Member.id).order_by(Member.id)))
        came = [(one, begin + timedelta(days=23.5 * luck.random() ** 0.7)) for one in members]
        pairs = [(one, ("control", "new")[number % 2], at) for number, (one, at) in enumerate(came)]
        assignment.store_assignments(session, rows["new-checkout"].id, pairs)
        drawn = [
            (one, luck.choices(list(WEEKS[0]), list(WEEKS[min((at - begin).days // 7, 3)].values()))[0], at)
            for one, at in came
        ]
        assignment.store_assignments(session, rows["hero-banner"].id, drawn)
        visitors = experiments.give(experiments.split_of(rows["landing"]), [f"v{n}" for n in range(80)])
        experiments.log_exposures(session, rows["landing"], visitors, {}, begin)
        weights = WEEKS[0]
        for number, after in enumerate(WEEKS[1:]):
            at = begin + timedelta(days=7 * (number + 1))
            found = {
                arm: {"n": 400.0 * (number + 1), "mean": mean, "se": 150.0 / (number + 1)}
                for arm, mean in (("control", 2400.0), ("photo", 2550.0), ("film", 2800.0))
            }
            row = experiments.by_name(session, "hero-banner")
            week = Week(row.id, row.name, row.version, bandits.week_of(at, zone), weights, after, found)
            bandits.store(session, week, at)
            weights = after
        return {row.name: row.id for row in session.scalars(sa.select(experiments.Experiment))}
