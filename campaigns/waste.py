"""How much of a campaign's discounts went to members who would have bought anyway: counted, then split.

Members count by assignment, over the campaign's window from their own moment; who used one of the campaign's
codes in it is a redeemer, who has an order that was kept is a buyer.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.campaigns import spec_of
from campaigns.models import Campaign, CampaignRun, Decision
from campaigns.spec import HOLDOUT
from campaigns.subsidy import Arms, Subsidy, subsidy
from core.errors import Conflict, InvalidInput
from core.warehouse.engine import DuckEngine
from experiments.assignment import assigned
from experiments.models import Assignment
from loyalty.models import Coupon, CouponBatch, Redemption

_COUNTS = """
WITH bought AS (
  SELECT DISTINCT a.member_id FROM assignments a JOIN orders o ON o.member_id = a.member_id
  WHERE o.net_minor > 0 AND o.ordered_at >= a."at" AND o.ordered_at < $as_of
    AND o.ordered_at < a."at" + to_days(CAST($days AS INTEGER))
)
SELECT a.arm, COUNT(*) AS members, COUNT(r.member_id) AS redeemed, COUNT(b.member_id) AS bought,
  COUNT(*) FILTER (b.member_id IS NOT NULL AND r.member_id IS NULL) AS bought_without,
  COALESCE(SUM(r.discount), 0) AS discount
FROM assignments a LEFT JOIN bought b USING (member_id) LEFT JOIN redeemers r USING (member_id)
GROUP BY a.arm
"""


def subsidies(
    session: Session, engine: DuckEngine, campaign: Campaign, as_of: datetime, alpha: float = 0.05
) -> dict[str, Subsidy | str]:
    """Each variant's split of the discounts that the shop bears, or why there is none. Read from the replica
    as it is now and the books.

    Conflict: the campaign has not run, or held nobody out.
    """
    spec = spec_of(campaign)
    if campaign.experiment_id is None or not spec.holdout:
        raise Conflict(
            f"“{campaign.title}” has not run, or held nobody out: nothing says who would have bought anyway."
        )
    counts = {
        row["arm"]: row
        for row in engine.query(
            _COUNTS,
            {"as_of": as_of, "days": spec.window_days},
            {
                "assignments": assigned(session, campaign.experiment_id),
                "redeemers": _redeemers(session, campaign, spec.window_days, as_of),
            },
        ).to_pylist()
    }
    held_out: dict[str, Any] = counts.pop(HOLDOUT, {"members": 0, "bought": 0})
    found: dict[str, Subsidy | str] = {}
    for arm, row in sorted(counts.items()):
        arms = Arms(
            row["members"], row["redeemed"], row["bought_without"], held_out["members"], held_out["bought"]
        )
        try:
            found[arm] = subsidy(arms, row["discount"], alpha)
        except InvalidInput as refusal:
            found[arm] = str(refusal)
    return found


def _redeemers(session: Session, campaign: Campaign, window_days: int, as_of: datetime) -> pa.Table:
    """(member_id, discount that the shop bears), of codes of this campaign used within the window."""
    query = (
        sa.select(
            Assignment.member_id,
            Assignment.at,
            Redemption.redeemed_at,
            (Redemption.discount_minor - Redemption.returned_discount_minor) * CouponBatch.settlement_share,
        )
        .select_from(Assignment)
        .join(CampaignRun, CampaignRun.campaign_id == campaign.id)
        .join(
            Decision, sa.and_(Decision.run_id == CampaignRun.id, Decision.member_id == Assignment.member_id)
        )
        .join(Coupon, Coupon.code == Decision.coupon_code)
        .join(CouponBatch, CouponBatch.id == Coupon.batch_id)
        .join(Redemption, sa.and_(Redemption.coupon_id == Coupon.id, Redemption.rolled_back_at.is_(None)))
        .where(Assignment.experiment_id == campaign.experiment_id, Redemption.redeemed_at < as_of)
    )
    sums: dict[int, float] = {}
    for member, at, redeemed_at, discount in session.execute(query):
        if at <= redeemed_at < at + timedelta(days=window_days):
            sums[member] = sums.get(member, 0.0) + float(discount)
    return pa.table(
        {
            "member_id": pa.array(list(sums), pa.int64()),
            "discount": pa.array(list(sums.values()), pa.float64()),
        }
    )
