"""The form of an experiment on the shop's own pages: read into what is made, refusals beside their fields."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from flask_babel import gettext

from experiments import experiments
from experiments.assignment import MAX_ARMS
from experiments.experiments import Layer, NewExperiment
from experiments.models import Experiment
from web import i18n
from web.forms import Form

USUAL = {
    "unit": experiments.MEMBER,
    "allocation": experiments.FIXED,
    "hash_version": "2",
    "coverage": "100",
    "arm-0-name": "control",
    "arm-1-name": "new",
}
REFUSED_AT = {
    "layer": "layer_low",
    "layer.name": "layer",
    "control": "arms",
}
"""Fields of the package's refusals → the form's."""


def usual() -> Form:
    """An experiment of two arms, before anything is typed."""
    return Form(dict(USUAL))


def from_row(row: Experiment, zone: ZoneInfo) -> Form:
    """The form of a draft."""

    def percent(share: float | None) -> str:
        return "" if share is None else f"{share * 100:.10g}"

    def local(at: datetime | None) -> str:
        return "" if at is None else at.astimezone(zone).strftime("%Y-%m-%dT%H:%M")

    data: dict[str, object] = {
        "name": row.name,
        "unit": row.unit,
        "allocation": row.allocation,
        "hash_version": str(row.hash_version),
        "coverage": percent(row.coverage),
        "about": row.about or "",
        "seed": row.salt,
        "layer": row.layer or "",
        "layer_low": percent(row.layer_low),
        "layer_high": percent(row.layer_high),
        "starts_at": local(row.starts_at),
        "ends_at": local(row.ends_at),
        "goal": row.goal or "",
        "floor": percent(row.floor),
        "window_days": row.window_days or "",
    }
    for number, arm in enumerate(row.arms):
        data[f"arm-{number}-name"] = arm["name"]
        data[f"arm-{number}-weight"] = percent(float(arm["weight"]))
    return Form(data)


def rows_of(form: Form) -> list[int]:
    """Numbers of the arms' rows that the page shows."""
    return [number for number, _ in form.rows("arm")] or [0, 1]


def read(form: Form, zone: ZoneInfo, name: str | None = None) -> NewExperiment:
    """What the form asks for; errors are noted beside their fields. ``name``: of one that exists."""
    arms = _arms(form)
    allocation = form.choice("allocation", (experiments.FIXED, experiments.BANDIT), experiments.FIXED)
    bandit = allocation == experiments.BANDIT
    return NewExperiment(
        name=name or form.text("name", required=True, limit=80),
        arms=arms,
        control=arms[0][0] if arms else "",
        unit=form.choice("unit", (experiments.MEMBER, experiments.VISITOR), experiments.MEMBER),
        seed=form.text("seed", limit=80) or None,
        hash_version=1 if form.choice("hash_version", ("1", "2"), "2") == "1" else 2,
        coverage=_share(form, "coverage", 1.0),
        layer=_layer(form),
        starts_at=form.time("starts_at", zone),
        ends_at=form.time("ends_at", zone),
        about=form.text("about", limit=experiments.MAX_ABOUT) or None,
        allocation=allocation,
        goal=form.choice("goal", experiments.GOALS, experiments.GOALS[0]) if bandit else None,
        floor=form.percent("floor", default=experiments.DEFAULT_FLOOR) if bandit else None,
        window_days=(form.integer("window_days", low=1, high=730) or experiments.DEFAULT_WINDOW_DAYS)
        if bandit
        else None,
    )


def _share(form: Form, name: str, default: float) -> float:
    found = form.percent(name, default=default)
    return default if found is None else found


def _arms(form: Form) -> tuple[tuple[str, float], ...]:
    """The arms of the rows with a name, the control first; weights left empty everywhere are equal."""
    rows = [(number, one) for number, one in form.rows("arm") if one.get("name") or one.get("weight")]
    if len(rows) < 2:
        form.error("arms", gettext("An experiment compares two arms or more."))
    if len(rows) > MAX_ARMS:
        form.error("arms", gettext("At most %(count)s arms.", count=MAX_ARMS))
    found = []
    empty = not any(one.get("weight") for _, one in rows)
    for number, _ in rows:
        name = form.text(f"arm-{number}-name", required=True, limit=40)
        weight = 1 / len(rows) if empty else _share(form, f"arm-{number}-weight", 0.0)
        found.append((name, weight))
    names = [name for name, _ in found]
    if len(set(names)) < len(names):
        form.error("arms", gettext("Every arm has a name of its own."))
    total = sum(weight for _, weight in found)
    if found and form.ok and abs(total - 1) > 1e-6:
        form.error(
            "arms",
            gettext(
                "The weights sum to %(total)s; make them 100 %%, or leave all of them empty for equal ones.",
                total=i18n.share(total, 2),
            ),
        )
    return tuple(found)


def _layer(form: Form) -> Layer | None:
    name = form.text("layer", limit=80)
    low, high = form.percent("layer_low"), form.percent("layer_high")
    if not name:
        if low is not None or high is not None:
            form.error("layer", gettext("Name the layer whose part this is."))
        return None
    return Layer(name, 0.0 if low is None else low, 1.0 if high is None else high)
