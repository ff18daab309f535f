"""What the global control group and its measured slice are compared by: the moment each would be sent to."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.decide import BUDGET, CONTROL, COUPONS_USED_UP, Plan
from campaigns.models import Decision
from campaigns.spec import HOLDOUT
from experiments import control as programme
from experiments.models import Assignment, Experiment


def log_programme(session: Session, wanted: Plan, decided: pa.Table, now: datetime) -> None:
    """The moment at which members of the global control group would have been sent to, and the same for
    the measured slice: everybody who passed the eligibility, also where a limit or a holdout came then."""
    passed = pc.or_(
        pc.is_null(decided["reason"]),
        pc.is_in(decided["reason"], value_set=pa.array([CONTROL, HOLDOUT, BUDGET, COUPONS_USED_UP])),
    )
    eligible = decided.filter(passed)
    ids = np.array(eligible["member_id"])
    in_control, measured = programme.groups(
        eligible["external_id"], wanted.control_share, wanted.control_quarter
    )
    programme.log(
        session,
        wanted.control_quarter,
        ids[in_control].tolist(),
        ids[measured].tolist(),
        now,
        wanted.control_share,
    )


def unlog_programme(session: Session, run_id: int, at: datetime) -> None:
    """Take back what a run that is undone had logged: nobody was sent to at ``at``, nor left out."""
    name = programme.name_of(programme.quarter_of(at))
    experiment = sa.select(Experiment.id).where(Experiment.name == name).scalar_subquery()
    members = sa.select(Decision.member_id).where(Decision.run_id == run_id)
    session.execute(
        sa.delete(Assignment).where(
            Assignment.experiment_id == experiment, Assignment.at == at, Assignment.member_id.in_(members)
        )
    )
