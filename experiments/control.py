"""The global control group: who gets no marketing this quarter, and what the programme brings.

Guarantees: control and the measured slice are equally large, drawn by one hash, and change every quarter;
up to a share of a quarter, nobody is in control or slice two quarters running. Both are logged at the first
moment of the quarter at which they were, or would have been, sent to, so that they differ by chance alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.bulk import bulk_insert
from core.errors import InvalidInput, NotFound
from core.warehouse.engine import Engine
from experiments import assignment, moments, readout
from experiments.models import Experiment

CONTROL, MEASURED = "control", "measured"
_SEED = "huiliu:control"
_BUCKETS = 10_000

Mask = npt.NDArray[np.bool_]


def quarter_of(at: datetime) -> int:
    """The number of the quarter (UTC): neighbours differ by one."""
    return at.year * 4 + (at.month - 1) // 3


def name_of(quarter: int) -> str:
    """As the programme's experiment is named: ``control:2026Q1``."""
    return f"control:{quarter // 4}Q{quarter % 4 + 1}"


def quarter_named(name: str) -> int:
    """The quarter of :func:`name_of`."""
    year, _, quarter = name.partition(":")[2].partition("Q")
    return int(year) * 4 + int(quarter) - 1


def groups(ids: assignment.Ids, share: float, quarter: int) -> tuple[Mask, Mask]:
    """(in control, in the measured slice) of every id. InvalidInput: a share beyond 0 to 1.

    Everybody has a fixed place on a circle; the two neighbouring arcs of ``share`` each move on by their
    whole length every quarter. Beyond a share of one half the slice is what the control group leaves.
    """
    if not 0 <= share <= 1:
        raise InvalidInput("The control group's share lies between 0 and 1.", "share")
    width = round(share * _BUCKETS)
    places = np.rint(assignment.hash_units(_SEED, ids) * _BUCKETS).astype(np.int64)
    ahead = (places - quarter * 2 * width) % _BUCKETS
    return ahead < width, (ahead >= width) & (ahead < 2 * width)


def log(
    session: Session,
    quarter: int,
    control: Iterable[int],
    measured: Iterable[int],
    now: datetime,
    share: float,
) -> int:
    """Note members who would have been, and were, sent to at ``now``. Who is noted already stays as they are.

    Answers how many were new.
    """
    rows = [(member, CONTROL, now) for member in control] + [(member, MEASURED, now) for member in measured]
    if not rows:
        return 0
    return assignment.store_assignments(session, _experiment(session, quarter, now, share), rows)


def _experiment(session: Session, quarter: int, now: datetime, share: float) -> int:
    query = sa.select(Experiment.id).where(Experiment.name == name_of(quarter))
    if (found := session.scalar(query)) is not None:
        return found
    control = share / (share + min(share, 1 - share))
    arms = [{"name": CONTROL, "weight": control}, {"name": MEASURED, "weight": 1 - control}]
    bulk_insert(
        session,
        Experiment.__table__,
        ("name", "salt", "arms", "control", "created_at", "kind"),
        [(name_of(quarter), _SEED, arms, CONTROL, now, "control")],
        conflict=["name"],
    )
    return session.execute(query).scalar_one()


def read_programme(
    session: Session,
    engine: Engine,
    quarter: int,
    *,
    window_days: int,
    as_of: datetime,
    currency: str | None = None,
    default_margin: float = moments.DEFAULT_MARGIN,
) -> readout.ReadOut:
    """What all marketing of a quarter brought a member: the measured slice against the control group.

    NotFound: nobody was in either. The windows run from each member's first moment in that quarter.
    """
    experiment = session.scalar(sa.select(Experiment).where(Experiment.name == name_of(quarter)))
    if experiment is None:
        raise NotFound(f"No campaign of {name_of(quarter)[8:]} met the control group; run one first.")
    found = moments.scan(
        engine,
        assignment.assigned(session, experiment.id),
        window_days=window_days,
        as_of=as_of,
        default_margin=default_margin,
    )
    weights = {arm["name"]: float(arm["weight"]) for arm in experiment.arms}
    return readout.read_out(found, weights, CONTROL, currency=currency)
