"""How read-outs are written: names of checks and dimensions, figures with units, in the reader's language."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flask_babel import gettext

from experiments.readout_form import (
    BROKEN,
    KEPT,
    OTHER,
    SEQUENTIAL,
    UNKNOWN,
    UNSURE,
    Check,
    Guarded,
    ReadOut,
)
from experiments.readout_guardrails import NOBODY
from experiments.readout_guardrails import UNKNOWN as UNKNOWN_METRIC
from experiments.stats.effect import Effect
from web import charts, i18n
from web.console import metric_words
from web.refusals import said
from web.words import word


@dataclass(frozen=True)
class CheckRow:
    """A check: its name, ``good``, ``watch`` or ``bad``, and its numbers in words."""

    label: str
    tone: str
    text: str


def dimension_title(name: str) -> str:
    """A dimension's name for readers."""
    titles: dict[str, str] = {
        "stage": gettext("Lifecycle stage before"),
        "rfm_segment": gettext("RFM segment before"),
        "value_segment": gettext("Value segment before"),
        "tier": gettext("Member tier"),
        "channel": gettext("Channel of the last order before"),
        "city": gettext("City"),
        "province": gettext("Province"),
        "country": gettext("Country"),
        "gender": gettext("Gender"),
        "locale": gettext("Language"),
        "source": gettext("Source"),
    }
    return titles.get(name, name)


def metric_title(found: ReadOut, metric: str) -> str:
    """What a metric of a read-out is called; beside the read-out's own of that name it has its version."""
    measure = found.measures.get(metric)
    if measure is None:
        return word("metric", metric)
    title = metric_words.title_of(measure.name)
    if measure.name == metric:
        return title
    return str(gettext("%(metric)s (version %(number)s)", metric=title, number=measure.version))


def value_title(dimension: str, value: str) -> str:
    """A value of a dimension for readers."""
    if value == UNKNOWN:
        return str(gettext("unknown"))
    if value == OTHER:
        return str(gettext("all others"))
    kinds = {"stage": "stage", "rfm_segment": "rfm", "value_segment": "value"}
    return word(kinds[dimension], value) if dimension in kinds else value


def method(found: ReadOut) -> str:
    level = f"{100 * (1 - found.alpha):g}"
    if found.method == SEQUENTIAL:
        return str(
            gettext(
                "Intervals at %(level)s%% that hold however often one looks (confidence sequence, "
                "N* %(tuning)s).",
                level=level,
                tuning=i18n.number(found.tuning),
            )
        )
    return str(gettext("Intervals at %(level)s%%, for one look at the end.", level=level))


def check_title(name: str) -> str:
    """A check's name for readers."""
    titles: dict[str, str] = {
        "srm": gettext("Split of the arms"),
        "sample_size": gettext("Size of the sample"),
        "windows_closed": gettext("Windows closed"),
        "multiple_exposure": gettext("One arm a member"),
        "covariate_balance": gettext("Alike before"),
        "peeking": gettext("Earlier looks"),
    }
    return titles.get(name, name)


def check_row(check: Check) -> CheckRow:
    detail: Mapping[str, Any] = check.detail
    bad = "bad" if check.name in ("srm", "covariate_balance", "multiple_exposure") else "watch"
    text = ""
    if check.name == "srm" and detail:
        text = f"p {shown_p(detail['p'])}"
        if "always_valid_p" in detail:
            text = gettext(
                "p %(p)s, at every look %(always)s",
                p=shown_p(detail["p"]),
                always=shown_p(detail["always_valid_p"]),
            )
    elif check.name == "sample_size":
        text = gettext(
            "smallest arm %(count)s, needed %(needed)s",
            count=i18n.number(detail["smallest"]),
            needed=i18n.number(detail["needed"]),
        )
    elif check.name == "windows_closed":
        text = gettext(
            "%(open)s of %(members)s members still open",
            open=i18n.number(detail["open"]),
            members=i18n.number(detail["members"]),
        )
    elif check.name == "multiple_exposure":
        text = gettext(
            "%(count)s of %(members)s members were treated as two arms",
            count=i18n.number(detail["shared"]),
            members=i18n.number(detail["members"]),
        )
    elif check.name == "covariate_balance":
        text = gettext(
            "largest difference before: %(metric)s of %(arm)s, adjusted p %(p)s",
            metric=word("metric", detail["metric"]),
            arm=word("arm", detail["arm"]),
            p=shown_p(detail["p"]),
        )
    elif check.name == "peeking" and detail["looks"]:
        text = gettext(
            "looked at %(count)s times before: a fixed interval would be wrong in %(error)s of cases, "
            "so those "
            "for every look are used",
            count=i18n.number(detail["looks"]),
            error=i18n.share(detail["true_error"]),
        )
    elif check.name == "peeking":
        text = gettext("none: this is the first look")
    return CheckRow(check_title(check.name), "good" if check.ok else bad, text)


def guard_row(one: Guarded) -> CheckRow:
    """A planned guardrail as a check's row: kept, broken or not sure, with its numbers."""
    label = gettext(
        "Guardrail %(metric)s, %(arm)s", metric=metric_words.title_of(one.metric), arm=word("arm", one.arm)
    )
    if one.estimate is None or one.low is None or one.high is None:
        why = one.refused or ""
        known = {
            UNKNOWN_METRIC: gettext(
                "The metric of the planned version is not known any more, so nothing can be said."
            ),
            NOBODY: gettext("Nobody was assigned to it or to the control arm yet."),
        }
        return CheckRow(label, "watch", known.get(why) or said(why))
    states = {
        KEPT: ("good", gettext("kept")),
        BROKEN: ("bad", gettext("broken")),
        UNSURE: ("watch", gettext("not sure yet")),
    }
    tone, state = states[one.state]
    numbers: dict[str, Any] = {
        "state": state,
        "estimate": i18n.share(one.estimate, 1),
        "low": i18n.share(one.low, 1),
        "high": i18n.share(one.high, 1),
        "margin": i18n.share(one.margin, 1),
    }
    text = (
        gettext(
            "%(state)s: %(estimate)s (%(low)s to %(high)s), at most %(margin)s lower was planned", **numbers
        )
        if one.higher_is_better
        else gettext(
            "%(state)s: %(estimate)s (%(low)s to %(high)s), at most %(margin)s higher was planned", **numbers
        )
    )
    return CheckRow(label, tone, text)


def shown_p(value: float | None) -> str:
    if value is None:
        return "–"
    return i18n.number(value, 4) if value >= 0.0001 else "< 0.0001"


def writer(unit: charts.Unit, *, axis: bool = False) -> Callable[[float], str]:
    def write(value: float) -> str:
        if unit.kind == "money":
            return i18n.money(value, unit.currency, whole=axis and (value == 0 or abs(value) >= 10_000))
        if unit.kind == "share":
            return i18n.share(value, 2)
        return i18n.number(value, 3)

    return write


def two_lines(effect: Effect | None, write: Callable[[float], str]) -> tuple[str, str]:
    """The estimate, and its interval below it."""
    if effect is None:
        return "–", ""
    return write(effect.estimate), f"{write(effect.low)} – {write(effect.high)}"


def arm_numbers(found: ReadOut) -> dict[str, int]:
    """The colour of every treated arm: the same everywhere."""
    return {arm: number for number, arm in enumerate((a for a in found.arms if a != found.control), 1)}
