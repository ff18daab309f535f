"""The money of a read-out and what it would take to know: waterfall, sentences, needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flask_babel import gettext

from campaigns import roi
from experiments import readout_needs
from experiments.readout_form import Need, ReadOut, Result
from web import charts, charts_results, i18n
from web.charts_results import Both, Picture, Step
from web.console import readouts
from web.console.readout_words import arm_numbers, writer
from web.words import word


@dataclass(frozen=True)
class Money:
    """A variant's money: the waterfall, and sentences."""

    arm: str
    picture: Picture
    sentences: list[str]


@dataclass(frozen=True)
class NeedRow:
    """What it would take to decide an arm's effect."""

    arm: str
    smallest: str
    estimate: str
    planned: str


# --- money ---------------------------------------------------------------------------------------


def money_of_all(readout_id: int, settings: Mapping[str, Any], found: ReadOut) -> list[Money]:
    shown = []
    numbers = arm_numbers(found)
    for arm, data in (settings.get("roi") or {}).items():
        if arm in numbers:
            shown.append(_money_of(readout_id, numbers[arm], arm, data, settings, found.currency or ""))
    return shown


def _money_of(
    readout_id: int,
    number: int,
    arm: str,
    data: Mapping[str, Any],
    settings: Mapping[str, Any],
    currency: str,
) -> Money:
    unit = charts.Unit("money", currency)
    steps = waterfall_steps(data)
    write = writer(unit, axis=True)
    rows = tuple((step.name, (step.amount, unit)) for step in steps)
    both = Both(lambda width: charts_results.waterfall(width, steps, write))
    title = gettext("%(arm)s: from incremental revenue to profit", arm=word("arm", arm))
    table = charts.Table((gettext("Step"), gettext("Amount")), rows)
    return Money(word("arm", arm), both.picture(f"r{readout_id}-money-{number}", title, table), [
        *_profit_words(data, currency),
        *_subsidy_words((settings.get("subsidies") or {}).get(arm), currency),
        *_payback_words((settings.get("paybacks") or {}).get(arm)),
    ])  # fmt: skip


def waterfall_steps(data: Mapping[str, Any]) -> list[Step]:
    """From incremental revenue over the margin and every cost to the profit."""
    revenue, profit, cost = data["incremental_revenue"], data["profit"], data["cost"]
    margin = profit["estimate"] + sum(cost.values())
    steps = [
        Step(gettext("Incremental revenue"), revenue["estimate"], True, revenue["low"], revenue["high"]),
        Step(gettext("Cost of goods"), margin - revenue["estimate"]),
        Step(gettext("Margin"), margin, True),
    ]
    for key, name in (
        ("messages", gettext("Messages")),
        ("coupons", gettext("Coupons")),
        ("points", gettext("Points")),
        ("fixed", gettext("Fixed cost")),
    ):
        if cost[key]:
            steps.append(Step(name, -cost[key]))
    return [*steps, Step(gettext("Profit"), profit["estimate"], True, profit["low"], profit["high"])]


def _profit_words(data: Mapping[str, Any], currency: str) -> list[str]:
    def whole(value: float) -> str:
        return i18n.money(value, currency, whole=True)

    profit = data["profit"]
    words = [
        gettext(
            "Profit %(estimate)s, between %(low)s and %(high)s.",
            estimate=whole(profit["estimate"]),
            low=whole(profit["low"]),
            high=whole(profit["high"]),
        )
    ]
    if data["iroas"] is None:
        return [*words, gettext("Nothing was spent so far, so there is no return on spend.")]
    interval = roi.FiellerInterval(**data["iroas"])
    return [
        *words,
        gettext(
            "Incremental revenue for each unit spent (iROAS): %(words)s.",
            words=roi.in_words(interval, i18n.content_locale()),
        ),
    ]


def _subsidy_words(data: Any, currency: str) -> list[str]:
    if not isinstance(data, Mapping):
        return []
    share, wasted = data["share"], data["wasted"]
    text = gettext(
        "Of the discounts, %(share)s (%(low)s – %(high)s) went to members who would have bought "
        "anyway: about "
        "%(amount)s.",
        share=i18n.share(share["estimate"]),
        low=i18n.share(share["low"]),
        high=i18n.share(share["high"]),
        amount=i18n.money(wasted["estimate"], currency, whole=True),
    )
    return (
        [text] if data["certain"] else [gettext("Too few coupons were used to say whom they were wasted on.")]
    )


def _payback_words(data: Any) -> list[str]:
    if not isinstance(data, Mapping):
        return []
    if data["day"] is None:
        return [gettext("By the estimate, the margin has not paid for the cost yet.")]
    if data["latest"] is None:
        return [
            gettext(
                "By the estimate, the margin paid for the cost by day %(day)s; by the interval that is "
                "not sure.",
                day=data["day"],
            )
        ]
    return [
        gettext(
            "The margin paid for the cost by day %(day)s, surely by day %(latest)s.",
            day=data["day"],
            latest=data["latest"],
        )
    ]


# --- what it would take --------------------------------------------------------------------------


def need_row(result: Result, found: ReadOut) -> NeedRow:
    write = writer(readouts.unit_in(found, result.metric))
    return NeedRow(
        word("arm", result.arm),
        "–" if result.mde is None else write(result.mde),
        _need_words(result.need_estimate, write),
        _need_words(result.need_planned, write),
    )


def _need_words(need: Need | None, write: Callable[[float], str]) -> str:
    if need is None:
        return str(gettext("more members than there are"))
    target = write(need.target)
    if not need.more:
        return str(gettext("%(target)s: enough already", target=target))
    if need.days is None:
        return str(
            gettext(
                "%(target)s: %(members)s members in both arms, %(more)s more",
                target=target,
                members=i18n.number(need.members),
                more=i18n.number(need.more),
            )
        )
    return str(
        gettext(
            "%(target)s: %(members)s members in both arms, %(more)s more, about %(days)s days",
            target=target,
            members=i18n.number(need.members),
            more=i18n.number(need.more),
            days=i18n.number(need.days),
        )
    )


def needs_note(found: ReadOut) -> str:
    formulas = {
        need.formula
        for result in found.results
        for need in (result.need_estimate, result.need_planned)
        if need
    }
    names = "; ".join(readout_needs.FORMULAS[name] for name in sorted(formulas & set(readout_needs.FORMULAS)))
    return str(
        gettext(
            "With a power of 80%%, at the pace so far, members varying as they have so far. "
            "Formula: %(formula)s.",
            formula=names or "–",
        )
    )
