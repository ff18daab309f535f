"""Experiments on the shop's own pages: stored, started, ramped up, and asked for arms.

Guarantees: an arm follows from the stored seed, weights, coverage and layer alone, by GrowthBook's hashes,
so that a page can compute it itself and agrees with the server. What would move a unit to another arm
(seed, arms, weights, layer, a lower coverage) is refused once the experiment runs. Asking logs the first
exposure, by insert only.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from sqlalchemy.orm import Session

from core import audit, crypto
from core.bulk import bulk_insert
from core.db import among
from core.errors import Conflict, InvalidInput, NotFound
from core.warehouse.engine import Engine
from experiments import assignment, moments, readout
from experiments.assignment import Arm
from experiments.models import Assignment, Experiment, Exposure

SHOP = "shop"
FIXED, BANDIT = "fixed", "bandit"
GOALS = ("revenue", "converted")
"""What a bandit may maximise, a member."""
DEFAULT_FLOOR, DEFAULT_WINDOW_DAYS = 0.05, 14
"""Of a bandit: the least weight of an arm, and the days of each member that count."""
MAX_ABOUT = 500
MEMBER, VISITOR = "member", "visitor"
DRAFT, RUNNING, STOPPED = "draft", "running", "stopped"
ASSIGNED, COVERAGE, LAYER, CONTROL = "assigned", "coverage", "layer", "control"
NOT_RUNNING, NOT_STARTED, ENDED, UNKNOWN = "not_running", "not_started", "ended", "unknown_member"
WHY = (ASSIGNED, COVERAGE, LAYER, CONTROL, NOT_RUNNING, NOT_STARTED, ENDED, UNKNOWN)
"""Why a unit has an arm, or has none."""
MAX_UNITS = 1_000
"""Units of one question."""
OBJECT = "experiment"
"""In the audit trail."""


@dataclass(frozen=True)
class Layer:
    """The part [low, high) of a namespace: experiments in parts that do not overlap exclude each other."""

    name: str
    low: float
    high: float


@dataclass(frozen=True)
class Split:
    """All that decides a unit's arm. ``cover_seed``: who takes part is drawn by a hash of its own.

    A bandit needs that: where coverage and arm come from one hash, an arm that grows takes in members who
    came before and were left out, who are not like those that come for the first time.
    """

    seed: str
    arms: tuple[Arm, ...]
    hash_version: int = 2
    coverage: float = 1.0
    layer: Layer | None = None
    cover_seed: str | None = None

    @property
    def ranges(self) -> list[assignment.Range]:
        """Each arm's part of [0, 1)."""
        coverage = self.coverage if self.cover_seed is None else 1.0
        return assignment.bucket_ranges([weight for _, weight in self.arms], coverage)


@dataclass(frozen=True)
class Given:
    """What a unit got. ``bucket``: its place in [0, 1), whatever the outcome; ``why``: one of ``WHY``."""

    unit: str
    arm: str | None
    bucket: float
    in_experiment: bool
    why: str


def check(split: Split) -> None:
    """InvalidInput unless arms, weights, coverage, version and layer make sense."""
    assignment.check_arms(split.arms)
    if len(split.arms) < 2:
        raise InvalidInput("An experiment compares two arms or more.", "arms")
    if split.hash_version not in (1, 2):
        raise InvalidInput(f"There is no hash version {split.hash_version}; take 1 or 2.", "hash_version")
    if not 0 <= split.coverage <= 1:
        raise InvalidInput("The coverage is a share of the units between 0 and 1.", "coverage")
    if not 0 < len(split.seed) <= 80:
        raise InvalidInput("The seed has 1 to 80 characters.", "seed")
    if (layer := split.layer) is not None:
        if not 0 < len(layer.name) <= 80:
            raise InvalidInput("The layer's name has 1 to 80 characters.", "layer.name")
        if not 0 <= layer.low < layer.high <= 1:
            raise InvalidInput("The layer's part is low < high, both between 0 and 1.", "layer")


def give(split: Split, units: Sequence[str], left_out: npt.NDArray[np.bool_] | None = None) -> list[Given]:
    """The arm of every unit, pure. ``left_out``: those of the global control group, who get none."""
    places = assignment.hash_units(split.seed, units, split.hash_version)
    inside = np.ones(len(units), dtype=bool)
    if split.layer is not None:
        inside = assignment.in_namespace_many(units, split.layer.name, split.layer.low, split.layer.high)
    control = np.zeros(len(units), dtype=bool) if left_out is None else left_out
    covered = np.ones(len(units), dtype=bool)
    if split.cover_seed is not None:
        covered = assignment.hash_units(split.cover_seed, units, split.hash_version) < split.coverage
    ranges = split.ranges

    def one(unit: str, place: float, member_of_layer: bool, in_control: bool, takes_part: bool) -> Given:
        if in_control:
            return Given(unit, None, place, False, CONTROL)
        if not member_of_layer:
            return Given(unit, None, place, False, LAYER)
        index = assignment.choose(place, ranges) if takes_part else -1
        if index < 0:
            return Given(unit, None, place, False, COVERAGE)
        return Given(unit, split.arms[index][0], place, True, ASSIGNED)

    columns = (places.tolist(), inside.tolist(), control.tolist(), covered.tolist())
    return [one(*row) for row in zip(units, *columns, strict=True)]


def without(given: Given, why: str) -> Given:
    """The same unit without an arm."""
    return replace(given, arm=None, in_experiment=False, why=why)


def split_of(row: Experiment) -> Split:
    """What decides the arms of a stored experiment."""
    layer = None
    if row.layer is not None and row.layer_low is not None and row.layer_high is not None:
        layer = Layer(row.layer, row.layer_low, row.layer_high)
    arms = tuple((arm["name"], float(arm["weight"])) for arm in row.arms)
    cover_seed = f"{row.salt}:cover" if row.allocation == BANDIT else None
    return Split(row.salt, arms, row.hash_version, row.coverage, layer, cover_seed)


def by_name(session: Session, name: str, *, lock: bool = False) -> Experiment:
    """An experiment of the shop's pages. NotFound: none of that name."""
    query = sa.select(Experiment).where(Experiment.name == name, Experiment.kind == SHOP)
    found = session.scalar(query.with_for_update() if lock else query)
    if found is None:
        raise NotFound(f"There is no experiment “{name}”; make it first.")
    return found


@dataclass(frozen=True)
class NewExperiment:
    """An experiment to be made; without a seed one is drawn. ``goal``, ``floor`` and ``window_days`` are a
    bandit's."""

    name: str
    arms: tuple[Arm, ...]
    control: str
    unit: str = MEMBER
    seed: str | None = None
    hash_version: int = 2
    coverage: float = 1.0
    layer: Layer | None = None
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    about: str | None = None
    allocation: str = FIXED
    goal: str | None = None
    floor: float | None = None
    window_days: int | None = None

    @property
    def bandit(self) -> tuple[str, float, int] | tuple[None, None, None]:
        """(goal, floor, window in days) with their defaults; Nones of a fixed allocation."""
        if self.allocation != BANDIT:
            return None, None, None
        floor = DEFAULT_FLOOR if self.floor is None else self.floor
        return self.goal or GOALS[0], floor, self.window_days or DEFAULT_WINDOW_DAYS


def create(session: Session, new: NewExperiment, now: datetime, by: str | None = None) -> Experiment:
    """Make a draft; the control arm comes first. The same again answers what is there.

    ``by``: who, for the audit trail. InvalidInput: what makes no sense. Conflict: the name is taken by
    another experiment.
    """
    seed = new.seed or secrets.token_hex(16)
    split = checked(new, seed)
    layer = (new.layer.name, new.layer.low, new.layer.high) if new.layer else (None, None, None)
    stored = [{"name": name, "weight": weight} for name, weight in split.arms]
    made = bulk_insert(
        session,
        Experiment.__table__,
        ("name", "salt", "arms", "control", "created_at", "kind", "unit", "hash_version", "coverage",
         "layer", "layer_low", "layer_high", "status", "starts_at", "ends_at", "version", "about",
         "allocation", "goal", "floor", "window_days"),
        [(new.name, split.seed, stored, new.control, now, SHOP, new.unit, new.hash_version, new.coverage,
          *layer, DRAFT, new.starts_at, new.ends_at, 1, new.about, new.allocation, *new.bandit)],
        conflict=["name"],
        returning=["id"],
    )  # fmt: skip
    if made:
        if by is not None:
            audit.record(session, by, "create", OBJECT, new.name, now, {"allocation": new.allocation})
        return session.get_one(Experiment, made[0][0])
    return _same(session, new, split)


def checked(new: NewExperiment, seed: str) -> Split:
    """What decides its arms, the control first. InvalidInput: what makes no sense."""
    if new.control not in {arm for arm, _ in new.arms}:
        raise InvalidInput(f"“{new.control}” is none of the arms; name the control arm.", "control")
    if not 0 < len(new.name) <= 80 or ":" in new.name or "/" in new.name:
        raise InvalidInput("The name has 1 to 80 characters, without “:” and “/”.", "name")
    if new.unit not in (MEMBER, VISITOR):
        raise InvalidInput(f"Units are “{MEMBER}” or “{VISITOR}”.", "unit")
    if new.starts_at and new.ends_at and new.ends_at <= new.starts_at:
        raise InvalidInput("The end comes after the start.", "ends_at")
    if new.about is not None and len(new.about) > MAX_ABOUT:
        raise InvalidInput(f"What is tried is told in {MAX_ABOUT} characters at most.", "about")
    arms = tuple(sorted(new.arms, key=lambda arm: arm[0] != new.control))
    cover_seed = f"{seed}:cover" if new.allocation == BANDIT else None
    split = Split(seed, arms, new.hash_version, new.coverage, new.layer, cover_seed)
    check(split)
    _check_bandit(new)
    return split


def _check_bandit(new: NewExperiment) -> None:
    """InvalidInput unless the allocation makes sense."""
    if new.allocation not in (FIXED, BANDIT):
        raise InvalidInput(f"The allocation is “{FIXED}” or “{BANDIT}”.", "allocation")
    if new.allocation == FIXED:
        named = next((one for one in ("goal", "floor", "window_days") if getattr(new, one) is not None), None)
        if named:
            raise InvalidInput("Goal, floor and window are a bandit's; leave them out.", named)
        return
    if new.unit != MEMBER:
        raise InvalidInput("A bandit learns from orders, and visitors have none here; use members.", "unit")
    goal, floor, days = new.bandit
    if goal not in GOALS:
        raise InvalidInput(f"A bandit's goal is one of {', '.join(GOALS)}.", "goal")
    if floor is None or not 0 < floor * len(new.arms) <= 1:
        raise InvalidInput(
            "The least weight of an arm lies above 0, and all of them sum to 1 at most.", "floor"
        )
    if any(weight < floor - assignment.WEIGHT_TOLERANCE for _, weight in new.arms):
        raise InvalidInput("Every arm of a bandit starts at its least weight or above.", "arms")
    if days is None or not 1 <= days <= moments.MAX_WINDOW_DAYS:
        raise InvalidInput(f"The window has 1 to {moments.MAX_WINDOW_DAYS} days.", "window_days")


def _same(session: Session, new: NewExperiment, split: Split) -> Experiment:
    taken = Conflict(f"There is an experiment “{new.name}” already; take another name.")
    found = session.scalar(sa.select(Experiment).where(Experiment.name == new.name))
    if found is None or found.kind != SHOP:
        raise taken
    there = split_of(found)
    wanted = split if new.seed else replace(split, seed=there.seed, cover_seed=there.cover_seed)
    mine = (new.unit, new.control, new.allocation, new.bandit)
    if (wanted, *mine) != (
        there, found.unit, found.control, found.allocation, (found.goal, found.floor, found.window_days)
    ):  # fmt: skip
        raise taken
    return found


def change(
    session: Session,
    name: str,
    *,
    status: str | None = None,
    coverage: float | None = None,
    ends_at: datetime | None = None,
    by: str | None = None,
    now: datetime | None = None,
) -> Experiment:
    """Start, ramp up, end or stop. Each change counts the version up; one that changes nothing does not.

    ``by`` and ``now``: who and when, for the audit trail. Conflict: going back (stopped is for good), or a
    lower coverage while it runs, which would take units out that have seen their arm.
    """
    row = by_name(session, name, lock=True)
    order = (DRAFT, RUNNING, STOPPED)
    if status is not None and status not in order:
        raise InvalidInput(f"The status is one of {', '.join(order)}.", "status")
    status = status or row.status
    if order.index(status) < order.index(row.status):
        raise Conflict(f"“{name}” is {row.status} and does not become {status}; make a new experiment.")
    wanted = row.coverage if coverage is None else coverage
    check(replace(split_of(row), coverage=wanted))
    if row.status == STOPPED and (wanted != row.coverage or ends_at is not None):
        raise Conflict(f"“{name}” is stopped for good; make a new experiment.")
    if row.status == RUNNING and wanted < row.coverage:
        raise Conflict(
            f"“{name}” covers {row.coverage:g} already; less would take units out that have seen their arm. "
            "Stop it instead."
        )
    if ends_at is not None and row.starts_at is not None and ends_at <= row.starts_at:
        raise InvalidInput("The end comes after the start.", "ends_at")
    changed = (status, wanted, ends_at or row.ends_at)
    if changed != (row.status, row.coverage, row.ends_at):
        if by is not None and now is not None:
            audit.record(session, by, _action(row, status), OBJECT, name, now, _told(row, wanted, ends_at))
        row.status, row.coverage, row.ends_at = changed
        row.version += 1
    session.flush()
    return row


def _action(row: Experiment, status: str) -> str:
    if status != row.status:
        return "experiment.start" if status == RUNNING else "experiment.stop"
    return "change"


def _told(row: Experiment, coverage: float, ends_at: datetime | None) -> dict[str, Any]:
    found: dict[str, Any] = {"coverage": [row.coverage, coverage]} if coverage != row.coverage else {}
    return found | ({"ends_at": ends_at.isoformat()} if ends_at is not None else {})


def closed(row: Experiment, now: datetime) -> str | None:
    """Why nobody gets an arm at ``now``; None while the experiment is open."""
    if row.status != RUNNING:
        return NOT_RUNNING
    if row.starts_at is not None and now < row.starts_at:
        return NOT_STARTED
    return ENDED if row.ends_at is not None and now >= row.ends_at else None


def to_json(row: Experiment, now: datetime) -> dict[str, Any]:
    """All that a page needs to compute arms itself, and how the experiment stands."""
    split = split_of(row)
    return {
        "name": row.name,
        "unit": row.unit,
        "status": row.status,
        "open": closed(row, now) is None,
        "version": row.version,
        "seed": split.seed,
        "hash_version": split.hash_version,
        "coverage": split.coverage,
        "allocation": row.allocation,
        "control": row.control,
        "arms": [
            {"name": name, "weight": weight, "range": list(part)}
            for (name, weight), part in zip(split.arms, split.ranges, strict=True)
        ],
        "layer": None
        if split.layer is None
        else {"name": split.layer.name, "low": split.layer.low, "high": split.layer.high},
        "starts_at": row.starts_at,
        "ends_at": row.ends_at,
    }


def unseen(
    session: Session, row: Experiment, given: Sequence[Given], members: Mapping[str, int]
) -> list[Given]:
    """Those in the experiment whose exposure is not logged yet: most questions need no write at all."""
    inside = [one for one in given if one.in_experiment]
    if not inside:
        return []
    if row.unit == MEMBER:
        query = sa.select(Assignment.member_id).where(
            Assignment.experiment_id == row.id,
            among(session, Assignment.member_id, [members[one.unit] for one in inside]),
        )
        seen = set(session.scalars(query))
        return [one for one in inside if members[one.unit] not in seen]
    hashes = {one.unit: unit_hash(one.unit) for one in inside}
    found = sa.select(Exposure.unit_hash).where(
        Exposure.experiment_id == row.id, among(session, Exposure.unit_hash, hashes.values())
    )
    hashed = set(session.scalars(found))
    return [one for one in inside if hashes[one.unit] not in hashed]


def keep_stored(
    session: Session, row: Experiment, given: Sequence[Given], members: Mapping[str, int]
) -> list[Given]:
    """The same units, those of a bandit who have an arm with that one: a changed weight moves nobody.

    Who gets none for another reason than the coverage (the control group, a closed experiment) gets none here
    either. Of a fixed allocation the arm follows from the split, and nothing is asked.
    """
    if row.allocation != BANDIT:
        return list(given)
    asked = {
        members[one.unit]: one.unit
        for one in given
        if one.why in (ASSIGNED, COVERAGE) and one.unit in members
    }
    query = sa.select(Assignment.member_id, Assignment.arm).where(
        Assignment.experiment_id == row.id, among(session, Assignment.member_id, asked)
    )
    stored = {asked[member_id]: arm for member_id, arm in session.execute(query)} if asked else {}
    return [
        replace(one, arm=stored[one.unit], in_experiment=True, why=ASSIGNED)
        if one.unit in stored and one.why in (ASSIGNED, COVERAGE)
        else one
        for one in given
    ]


def log_exposures(
    session: Session,
    row: Experiment,
    given: Sequence[Given],
    members: Mapping[str, int],
    now: datetime,
) -> int:
    """Store the first exposure of each; who is there stays. Answers how many were new."""
    inside = [(one.unit, one.arm) for one in given if one.arm is not None]
    if row.unit == MEMBER:
        rows = [(members[unit], arm, now) for unit, arm in inside]
        return assignment.store_assignments(session, row.id, rows)
    new = bulk_insert(
        session,
        Exposure.__table__,
        ("experiment_id", "unit_hash", "arm", "first_at"),
        [(row.id, unit_hash(unit), arm, now) for unit, arm in inside],
        conflict=["experiment_id", "unit_hash"],
        returning=["unit_hash"],
    )
    return len(new)


def read(
    session: Session,
    engine: Engine,
    name: str,
    *,
    window_days: int,
    as_of: datetime,
    currency: str | None = None,
) -> readout.ReadOut:
    """What the arms brought: every member by the arm first seen, over a window from that moment.

    Conflict: the units are visitors, of whom the warehouse has no orders.
    """
    row = by_name(session, name)
    if row.unit != MEMBER:
        raise Conflict(
            f"The units of “{name}” are visitors, who have no orders here; analyse a file of theirs."
        )
    check_comparable(row)
    found = moments.scan(engine, assignment.assigned(session, row.id), window_days=window_days, as_of=as_of)
    weights = {arm["name"]: float(arm["weight"]) for arm in row.arms}
    return readout.read_out(found, weights, row.control, currency=currency)


def unit_hash(unit: str) -> str:
    """The keyed hash under which a visitor is stored: the id itself is kept nowhere."""
    return crypto.keyring().blind_index("visitor", unit)


def check_comparable(row: Experiment) -> None:
    """Conflict where the weights changed on the way: arms then differ by when their units came, too."""
    if row.allocation == BANDIT:
        raise Conflict(
            f"The weights of “{row.name}” changed from week to week, so its arms do not compare as they are; "
            "its page compares them period by period."
        )
