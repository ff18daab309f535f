"""Drafts of the shop's own experiments: all but the name is changed until they start.

Guarantees: a change and a start wait for each other at the experiment's row, so that no unit gets an arm of a
split that is changed afterwards; what changed is in the audit trail.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from core import audit
from core.errors import Conflict
from experiments import experiments
from experiments.experiments import NewExperiment, split_of
from experiments.models import Experiment

FIELDS = (
    "arms", "control", "unit", "hash_version", "coverage", "layer", "layer_low", "layer_high", "starts_at",
    "ends_at", "about", "allocation", "goal", "floor", "window_days", "salt",
)  # fmt: skip
"""Columns that a draft may still change."""


def as_new(row: Experiment) -> NewExperiment:
    """The draft as it would be made anew."""
    split = split_of(row)
    return NewExperiment(
        row.name, split.arms, row.control, row.unit, row.salt, row.hash_version, row.coverage, split.layer,
        row.starts_at, row.ends_at, row.about, row.allocation, row.goal, row.floor, row.window_days,
    )  # fmt: skip


def update(session: Session, name: str, new: NewExperiment, *, by: str, now: datetime) -> Experiment:
    """Change a draft to ``new``; its name stays, and its seed where none is given. The same again changes
    nothing.

    NotFound: none of that name. Conflict: it has started. InvalidInput: what makes no sense.
    """
    row = experiments.by_name(session, name, lock=True)
    if row.status != experiments.DRAFT:
        raise Conflict(f"“{name}” has started, so its arms stay as they are; make a new experiment.")
    new = replace(new, name=name)
    split = experiments.checked(new, new.seed or row.salt)
    goal, floor, window = new.bandit
    layer = (new.layer.name, new.layer.low, new.layer.high) if new.layer else (None, None, None)
    arms = [{"name": arm, "weight": weight} for arm, weight in split.arms]
    wanted: dict[str, Any] = dict(
        zip(
            FIELDS,
            (arms, new.control, new.unit, new.hash_version, new.coverage, *layer, new.starts_at, new.ends_at,
             new.about, new.allocation, goal, floor, window, split.seed),
            strict=True,
        )
    )  # fmt: skip
    changed = {key: (getattr(row, key), value) for key, value in wanted.items() if getattr(row, key) != value}
    if changed:
        told = {key: [_told(before), _told(after)] for key, (before, after) in changed.items()}
        audit.record(session, by, "change", experiments.OBJECT, name, now, told)
        for key, (_, value) in changed.items():
            setattr(row, key, value)
        row.version += 1
        session.flush()
    return row


def _told(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
