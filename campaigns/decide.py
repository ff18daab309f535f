"""Who gets what, and why the others do not: pure, over Arrow tables, a row a candidate.

Order: eligible (excluded, resting, erased, address, consent, suppression, pause, caps, coupon already held) →
global control group → limits of the whole (budget, codes left) → holdout → variant → channel.
Eligibility comes before randomisation, so that the arms differ by chance alone; and a limit that
is reached ends the campaign for everybody after that candidate, held out or not, so that it
cannot tilt the arms either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from campaigns.spec import HOLDOUT
from experiments import control
from experiments.assignment import assign

EXCLUDED, ERASED, NO_ADDRESS, NO_CONSENT = "excluded", "erased", "no_address", "no_consent"
SUPPRESSED, CAPPED, COUPON_LIMIT, CONTROL = "suppressed", "capped", "coupon_limit", "control"
PAUSED, PREFERENCE_CAP = "paused", "preference_cap"
RESTING = "resting"
BUDGET, COUPONS_USED_UP, UNDONE = "budget", "coupons_used_up", "undone"
REASONS: dict[str, tuple[str, str]] = {
    EXCLUDED: ("in a segment that this campaign leaves out", "属于被排除的人群"),
    RESTING: (
        "reached by an earlier run of this campaign, and resting",
        "近期的执行已覆盖该会员，处于间隔期",
    ),
    ERASED: ("erased", "已注销"),
    NO_ADDRESS: ("has no address on any of the channels", "没有可用的联系方式"),
    NO_CONSENT: ("has not consented to marketing", "未授权接收营销消息"),
    SUPPRESSED: ("the address is suppressed", "联系方式在黑名单中"),
    CAPPED: ("already got as many messages as the frequency cap allows", "已达频次上限"),
    PAUSED: ("asked for a pause of marketing messages", "会员已暂停接收营销消息"),
    PREFERENCE_CAP: (
        "already got as many messages this week as they asked for",
        "已达会员自己设定的每周条数",
    ),
    COUPON_LIMIT: ("already holds as many of these coupons as one member may", "已达每人领券上限"),
    CONTROL: ("in the global control group, which gets no marketing", "属于全局对照组"),
    HOLDOUT: ("held out, to measure what the campaign brings", "属于对照组，用于衡量活动效果"),
    BUDGET: ("the budget was used up", "预算已用完"),
    COUPONS_USED_UP: ("the coupons were used up", "优惠券已发完"),
    UNDONE: ("the run was undone before a message had left", "活动在消息发出前已撤销"),
}
"""reason → words in English and Chinese."""

# A member without a usable channel is told the reason that was nearest to a send.
_NEARNESS = (ERASED, NO_ADDRESS, NO_CONSENT, SUPPRESSED, PAUSED, PREFERENCE_CAP, CAPPED)


@dataclass(frozen=True)
class ArmPlan:
    """What a variant sends and costs. Costs in minor units, whole."""

    name: str
    weight: float
    channels: tuple[str, ...]
    batch_id: int | None = None
    member_limit: int | None = None
    """Codes of the batch that one member may hold."""
    offer_cost: int = 0
    """Face value borne of the coupon plus the value of the points."""


@dataclass(frozen=True)
class Plan:
    """A campaign, ready to decide by."""

    salt: str
    channels: tuple[str, ...]
    arms: tuple[ArmPlan, ...]
    holdout: float
    control_share: float
    control_quarter: int
    """Of ``experiments.control``: who is in the control group changes every quarter."""
    message_cost: Mapping[str, int]
    cap: int | None = None
    rests: bool = False
    """Whether candidates come with ``resting``: an earlier run reached them too lately."""
    sticky: bool = False
    """Whether candidates come with ``assigned``, the arm that they have already and keep."""


@dataclass
class Left:
    """What is left of the limits of the whole; ``None``: no limit. Carried from batch to batch."""

    budget: int | None = None
    coupons: dict[int, int] = field(default_factory=dict)
    """coupon batch → codes left, for batches with a limit."""
    stopped: str | None = None
    """The limit that was reached: everybody after it is left out for it."""


DECISIONS = pa.schema(
    [
        ("member_id", pa.int64()),
        ("external_id", pa.string()),
        ("reason", pa.string()),
        ("arm", pa.string()),
        ("channel", pa.string()),
        ("fallback", pa.list_(pa.string())),
    ]
)


def candidate_schema(plan: Plan) -> pa.Schema:
    """Columns that :func:`decide` reads: one row a candidate, in the order of member ids."""
    return pa.schema(
        [
            ("member_id", pa.int64()),
            ("external_id", pa.string()),
            ("excluded", pa.bool_()),
            ("recent", pa.int64()),
            *([("resting", pa.bool_())] if plan.rests else []),
            *([("assigned", pa.string())] if plan.sticky else []),
            *((f"refusal_{channel}", pa.string()) for channel in plan.channels),
            *((f"held_{batch}", pa.int64()) for batch in limited_batches(plan)),
        ]
    )


def limited_batches(plan: Plan) -> list[int]:
    """Coupon batches of which one member may hold only so many."""
    return sorted(
        {arm.batch_id for arm in plan.arms if arm.batch_id is not None and arm.member_limit is not None}
    )


def decide(candidates: pa.Table, plan: Plan, left: Left) -> tuple[pa.Table, Left]:
    """Decide about every candidate. Answers a ``DECISIONS`` table and what is left afterwards.

    ``reason`` null means: send, by ``channel``, falling back to ``fallback``. Held-out members have
    the arm ``holdout``; members who are not eligible, or in the control group, have none.
    """
    number = candidates.num_rows
    reason = _ineligible(candidates, plan)
    ids = candidates["external_id"]
    held = _in_arm(assign(f"{plan.salt}:holdout", ids, _split(HOLDOUT, plan.holdout)), HOLDOUT)
    arm_names = np.array([arm.name for arm in plan.arms], dtype=object)
    chosen = assign(f"{plan.salt}:variant", ids, [(arm.name, arm.weight) for arm in plan.arms])
    index = np.array(chosen.dictionary_encode().indices.fill_null(0)) if number else np.zeros(0, np.int64)
    order = chosen.dictionary_encode().dictionary.to_pylist() if number else []
    arm = np.array([list(arm_names).index(name) for name in order] or [0], dtype=np.int64)[index]
    if plan.sticky:
        _keep(candidates["assigned"].combine_chunks(), held, arm, plan)
    channel, fallback = _channels(candidates, plan, arm)
    reason[(reason == None) & (channel < 0)] = NO_ADDRESS  # noqa: E711 - the variant has no template for it
    in_control, _ = control.groups(ids, plan.control_share, plan.control_quarter)
    _put(reason, in_control, CONTROL)
    left = _apply_limits(reason, held, arm, channel, plan, left)
    eligible = reason == None  # noqa: E711
    nothing: Any = None
    names = np.where(held, HOLDOUT, arm_names[arm])
    reason[eligible & held] = HOLDOUT
    sent = eligible & ~held
    channel_names = np.array([*plan.channels, None], dtype=object)
    return pa.Table.from_arrays(
        [
            candidates["member_id"].combine_chunks(),
            ids.combine_chunks(),
            pa.array(reason, pa.string()),
            pa.array(np.where(eligible, names, nothing), pa.string()),
            pa.array(np.where(sent, channel_names[channel], nothing), pa.string()),
            pa.array(
                [rest if s else None for rest, s in zip(fallback, sent, strict=True)], pa.list_(pa.string())
            ),
        ],
        schema=DECISIONS,
    ), left


def _keep(assigned: pa.Array, held: npt.NDArray[np.bool_], arm: npt.NDArray[np.int64], plan: Plan) -> None:
    """Whoever has an arm keeps it, whatever their id hashes to now; an arm that is no more binds nobody."""
    held |= _in_arm(assigned, HOLDOUT)
    for number, one in enumerate(plan.arms):
        here = _in_arm(assigned, one.name)
        arm[here], held[here] = number, False


def _split(name: str, share: float) -> list[tuple[str, float]]:
    return [(name, share), ("rest", 1 - share)]


def _in_arm(assigned: pa.Array, name: str) -> npt.NDArray[np.bool_]:
    return np.array(pa.compute.equal(assigned, name).fill_null(False), dtype=bool)


Reasons = npt.NDArray[np.object_]


def _ineligible(candidates: pa.Table, plan: Plan) -> Reasons:
    """The first reason that speaks against each candidate, or None."""
    number = candidates.num_rows
    reason: Reasons = np.full(number, None, dtype=object)
    ranks = np.full((len(plan.channels), number), len(_NEARNESS))
    for row, channel in enumerate(plan.channels):
        column = candidates[f"refusal_{channel}"].combine_chunks()
        for rank, name in enumerate(_NEARNESS):
            ranks[row][np.array(pa.compute.equal(column, name).fill_null(False), dtype=bool)] = rank
    best = ranks.max(axis=0)
    for rank, name in enumerate(_NEARNESS):
        reason[best == rank] = name
    for batch in limited_batches(plan):
        limit = min(
            arm.member_limit for arm in plan.arms if arm.batch_id == batch and arm.member_limit is not None
        )
        _put(reason, np.array(candidates[f"held_{batch}"]) >= limit, COUPON_LIMIT)
    if plan.cap is not None:
        _put(reason, np.array(candidates["recent"]) >= plan.cap, CAPPED)
    if plan.rests:
        reason[np.array(candidates["resting"], dtype=bool)] = RESTING
    reason[np.array(candidates["excluded"], dtype=bool)] = EXCLUDED
    return reason


def _put(reason: Reasons, where: npt.NDArray[np.bool_], name: str) -> None:
    reason[where & (reason == None)] = name  # noqa: E711


def _channels(
    candidates: pa.Table, plan: Plan, arm: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], list[list[str]]]:
    """Index of the first channel that may be used (−1: none), and the names of those after it."""
    number = candidates.num_rows
    usable = np.zeros((number, len(plan.channels)), dtype=bool)
    for column, channel in enumerate(plan.channels):
        allowed = np.array(candidates[f"refusal_{channel}"].combine_chunks().is_null(), dtype=bool)
        has_template = np.array([channel in item.channels for item in plan.arms], dtype=bool)
        usable[:, column] = allowed & has_template[arm] if number else False
    first = np.where(usable.any(axis=1), usable.argmax(axis=1), -1) if number else np.zeros(0, np.int64)
    # The rest depends on few bits only: one list a pattern, not one a member.
    codes = usable @ (1 << np.arange(len(plan.channels)))
    patterns = {
        int(code): [name for bit, name in enumerate(plan.channels) if code >> bit & 1][1:]
        for code in np.unique(codes)
    }
    return first, [patterns[int(code)] for code in codes]


def _apply_limits(
    reason: Reasons,
    held: npt.NDArray[np.bool_],
    arm: npt.NDArray[np.int64],
    channel: npt.NDArray[np.int64],
    plan: Plan,
    left: Left,
) -> Left:
    """Write the reason of the first limit reached to everybody from that candidate on."""
    if left.stopped:
        _put(reason, np.ones(len(reason), dtype=bool), left.stopped)
        return left
    sends = (reason == None) & ~held  # noqa: E711
    offer = np.array([item.offer_cost for item in plan.arms], dtype=np.int64)
    message = np.array([plan.message_cost.get(name, 0) for name in plan.channels] + [0], dtype=np.int64)
    cost = np.where(sends, offer[arm] + message[channel], 0)
    stops: list[tuple[int, str]] = []
    if left.budget is not None:
        over = np.flatnonzero(cost.cumsum() > left.budget)
        stops += [(int(over[0]), BUDGET)] if len(over) else []
    batches = np.array([item.batch_id if item.batch_id is not None else -1 for item in plan.arms])
    for batch, codes in left.coupons.items():
        over = np.flatnonzero((sends & (batches[arm] == batch)).cumsum() > codes)
        stops += [(int(over[0]), COUPONS_USED_UP)] if len(over) else []
    stop, why = min(stops, default=(len(reason), ""))
    tail = np.arange(len(reason)) >= stop
    if why:
        _put(reason, tail, why)
    kept = sends & ~tail
    coupons = {
        batch: codes - int((kept & (batches[arm] == batch)).sum()) for batch, codes in left.coupons.items()
    }
    budget = None if left.budget is None else left.budget - int(cost[kept].sum())
    return Left(budget, coupons, why or None)


@dataclass
class Counts:
    """Decisions counted: the answer of ``campaigns simulate`` and ``campaigns run``."""

    candidates: int = 0
    sent: dict[str, int] = field(default_factory=dict)
    holdout: int = 0
    control: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    coupons: int = 0
    points: int = 0
    variants: dict[str, int] = field(default_factory=dict)

    def add(self, decisions: pa.Table, offers: Mapping[str, tuple[bool, int]]) -> None:
        """Count a batch. ``offers``: arm → (with a coupon, points)."""
        self.candidates += decisions.num_rows
        reasons = decisions["reason"].value_counts().to_pylist()
        for entry in reasons:
            name, number = entry["values"], entry["counts"]
            if name == HOLDOUT:
                self.holdout += number
            elif name == CONTROL:
                self.control += number
            elif name is not None:
                self.skipped[name] = self.skipped.get(name, 0) + number
        sent = decisions.filter(pa.compute.is_null(decisions["reason"]))
        for column, target in (("channel", self.sent), ("arm", self.variants)):
            for entry in sent[column].value_counts().to_pylist():
                target[entry["values"]] = target.get(entry["values"], 0) + entry["counts"]
                if column == "arm":
                    with_coupon, points = offers[entry["values"]]
                    self.coupons += entry["counts"] * with_coupon
                    self.points += entry["counts"] * points

    def to_json(self) -> dict[str, Any]:
        return {
            "candidates": self.candidates,
            "sent": dict(sorted(self.sent.items())),
            "holdout": self.holdout,
            "control": self.control,
            "skipped": dict(sorted(self.skipped.items())),
            "coupons": self.coupons,
            "points": self.points,
            "variants": dict(sorted(self.variants.items())),
        }
