"""The endpoint that reads an experiment out: advice, checks, guardrails, its plan, and every number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal

from apiflask import APIBlueprint
from flask import request
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from campaigns import planning, report
from core.db import Database
from core.errors import Conflict, InvalidInput
from core.settings import Settings
from core.warehouse.engine import DuckEngine
from experiments import experiments, readout
from experiments import planning as plans
from experiments.models import Experiment
from experiments.readout_advice import advise
from experiments.readout_form import ReadOut
from segments.facts import open_engine
from web.api import keys
from web.api.guard import Guard

LANGUAGES = ("en", "zh")
USUAL_DAYS = 30


class WordsOut(BaseModel):
    en: str
    zh: str


class AdviceOut(WordsOut):
    code: Literal["send", "choose", "test", "stop", "open", "none"] = Field(
        description="send it to everyone; several are as good; it may not pay; stop; not decided; no word"
    )
    arms: list[str] = Field(description="The arms that it names first")


class CheckOut(BaseModel):
    name: str
    ok: bool
    detail: dict[str, Any]


class GuardrailOut(BaseModel):
    metric: str
    version: int = Field(description="The metric's, as planned; 0: ready-made")
    arm: str
    margin: float = Field(description="The share of the control's mean that it may lose")
    state: str
    higher_is_better: bool
    estimate: float | None
    low: float | None
    high: float | None
    alpha: float | None
    refused: str | None


class DeviationOut(BaseModel):
    code: Literal[plans.CODES]  # type: ignore[valid-type]
    planned: Any = None
    found: Any = None


class HeldOut(BaseModel):
    version: int
    after_start: bool = Field(description="Made when the experiment had begun: it binds nobody")
    made_by: str
    made_at: datetime
    plan: dict[str, Any] = Field(description="Goal, arms, members, days, α, power, method, guardrails, rule")
    deviations: list[DeviationOut] = Field(
        description="Where the results do not keep to the plan; empty: they keep to all of it"
    )


class ResultsOut(BaseModel):
    experiment: str
    window_days: int
    as_of: datetime
    ok: bool = Field(description="Whether every check holds; do not trust the results otherwise")
    advice: AdviceOut = Field(description="What to do, as a code and in words")
    verdict: str = Field(description="The result in a sentence, in English")
    verdicts: WordsOut
    checks: list[CheckOut]
    guardrails: list[GuardrailOut] = Field(description="Of the plan that binds; empty: none were planned")
    plan: HeldOut | None = Field(description="The plan that they are held against; null: none was made")
    readout: dict[str, Any] = Field(
        description="Every metric and arm with its intervals, fixed and always valid, curves by day, and the "
        "result by group"
    )


def add_results(
    blueprint: APIBlueprint,
    guard: Guard,
    database: Database,
    settings: Settings,
    clock: Callable[[], datetime],
) -> None:
    """Read an experiment of members out."""

    @lru_cache(maxsize=1)
    def engine() -> DuckEngine:
        return open_engine(settings)

    @blueprint.get("/experiments/<name>/results")
    @guard(blueprint, keys.READ)
    @blueprint.output(ResultsOut)
    @blueprint.doc(
        summary="What the arms of an experiment on members brought, and what to do",
        description="`?window_days=` counts from each member's first exposure; left out, it is what the plan "
        "that binds says, else 30. Of the replica as the last refresh left it. Nothing is kept.",
    )
    def show_results(name: str) -> dict[str, Any]:
        now = clock()
        with database.read() as session:
            row = experiments.by_name(session, name)
            if row.unit != experiments.MEMBER:
                raise Conflict(
                    f"The units of “{name}” are visitors, who have no orders here; analyse a file of theirs."
                )
            days = _days(session, row)
            found = report.of_shop(
                session, engine(), row, window_days=days, as_of=now, currency=settings.shop_currency
            ).readout
            plan = _held(session, row, found, now, days)
        return {
            "experiment": name,
            "window_days": days,
            "as_of": now,
            "ok": found.ok,
            "advice": _advice(found),
            "verdict": readout.verdict(found, "en"),
            "verdicts": {language: readout.verdict(found, language) for language in LANGUAGES},
            "checks": [asdict(one) for one in found.checks],
            "guardrails": [asdict(one) for one in found.guardrails],
            "plan": plan,
            "readout": readout.to_json(found),
        }


def _days(session: Session, row: Experiment) -> int:
    """As asked, else as the plan that binds says, else as usual."""
    text = request.args.get("window_days")
    if text is None:
        plan = plans.binding(session, plans.subject_of(plans.EXPERIMENT, row.name))
        return plans.from_json(plan.plan).duration_days if plan is not None else USUAL_DAYS
    if not text.isdecimal() or len(text) > 4:
        raise InvalidInput("window_days is a whole number of days.", "window_days")
    return int(text)


def _advice(found: ReadOut) -> dict[str, Any]:
    said = {language: advise(found, language) for language in LANGUAGES}
    return {
        "code": said["en"].kind,
        "arms": list(said["en"].arms),
        **{language: one.sentence for language, one in said.items()},
    }


def _held(
    session: Session, row: Experiment, found: ReadOut, now: datetime, days: int
) -> dict[str, Any] | None:
    subject = plans.subject_of(plans.EXPERIMENT, row.name)
    held = planning.held_readout(session, subject, row.id, found, as_of=now, settings={"window_days": days})
    if held is None:
        return None
    return {
        "version": held.row.version,
        "after_start": held.row.after_start,
        "made_by": held.row.made_by,
        "made_at": held.row.made_at,
        "plan": held.row.plan,
        "deviations": [one.to_json() for one in held.deviations],
    }
