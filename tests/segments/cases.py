"""The table of rules over the small shop, as data: who matches each, for any engine.

:func:`build` lays the shop out, :func:`run_case` asks an engine over it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from core.warehouse.engine import Engine
from segments.compile import Moment
from segments.evaluate import Evaluator
from segments.predict.snapshot import PREDICTIONS as PREDICTIONS_KIND
from segments.scores import SNAPSHOT
from tests.segments.cases_events import EVENT_TABLE
from tests.segments.conftest import AS_OF, ZONE
from tests.segments.rules_shop import EVIL, RULES, build, e, f


@dataclass(frozen=True)
class Case:
    rule: dict[str, Any]
    expected: frozenset[int]
    """Member ids."""

    @property
    def id(self) -> str:
        return json.dumps(self.rule, ensure_ascii=True)[:100]


def evaluator_of(engine: Engine) -> Evaluator:
    """An evaluator over the small shop's files, which :func:`build` and a snapshot wrote."""

    def path(kind: str) -> str | None:
        found = engine.replica.path("snapshots", kind, f"{AS_OF.isoformat()}.parquet")
        return found if engine.replica.fs.exists(found) else None

    return Evaluator(engine, Moment(AS_OF, ZONE), RULES.get, path(SNAPSHOT), path(PREDICTIONS_KIND))


def run_case(engine: Engine, case: Case) -> set[int]:
    """The member ids that the engine finds for a case."""
    return set(evaluator_of(engine).members(case.rule).column("member_id").to_pylist())


ALL = {1, 2, 3, 5, 6}
TEXTS = [
    (f("city", "=", "北京"), {1}),
    (f("city", "=", "shanghai"), set()),  # texts are compared as they are written
    (f("city", "!=", "北京"), {2, 6}),  # a missing value is not unequal, it is missing
    ({"not": f("city", "=", "北京")}, {2, 3, 5, 6}),  # while not is the plain opposite
    (f("city", "in", ["北京", "Shanghai"]), {1, 2}),
    (f("city", "not_in", ["北京", "Shanghai"]), {6}),
    (f("city", "contains", "hang"), {2}),
    (f("city", "starts_with", "Sha"), {2}),
    (f("city", "starts_with", "hang"), set()),
    (f("city", "is_set"), {1, 2, 6}),
    (f("city", "is_not_set"), {3, 5}),
    (f("member_id", "=", "m3"), {3}),
    (f("gender", "in", ["f", "x"]), {1}),
    (f("locale", "starts_with", "zh"), {1}),
    (f("country", "!=", "US"), {1}),
]
FLAGS_AND_TAGS = [
    (f("has_phone", "=", True), {1}),
    (f("has_email", "=", False), {2}),
    (f("tags", "matches_any", ["vip"]), {1}),  # neither “vip2” nor “x"vip”
    (f("tags", "matches_any", ["vip2", "新"]), {2, 6}),  # both databases' ways of writing it
    (f("tags", "matches_any", ["新客"]), {1}),
    (f("tags", "matches_any", ['x"vip']), {6}),
    (f("tags", "matches_any", ["\\"]), {6}),
    (f("tags", "matches_any", ["a", "b"]), set()),
    (f("tags", "is_set"), {1, 2, 6}),
    (f("tags", "is_not_set"), {3, 5}),
    ({"not": f("tags", "matches_any", ["vip"])}, {2, 3, 5, 6}),
]
ATTRIBUTES = [
    (f("attributes.level", "=", "gold"), {1}),
    (f("attributes.level", "!=", "gold"), {5}),  # null is missing
    (f("attributes.level", "is_set"), {1, 5}),
    (f("attributes.level", "is_not_set"), {2, 3, 6}),
    (f("attributes.size", ">=", 38), {1, 2}),  # a text that looks like a number is one
    (f("attributes.size", "<", 0), {5}),
    (f("attributes.size", "between", [-2, 38]), {2, 5}),
    (f("attributes.size", "in", [42, 38]), {1, 2}),
    (f("attributes.size", "not_in", [42, 38]), {5}),
    (f("attributes.size", "!=", 42), {2, 5}),
    (f("attributes.size", "=", "42"), {1}),
    (f("attributes.code", "=", "007"), {1}),
    (f("attributes.nan", ">", 0), set()),  # no number, and above none
    (f("attributes.level", ">", 0), set()),
    (f("attributes.a.b", "=", "dot"), {1}),  # a dot is part of the name
    (f("attributes.note", "contains", "DROP"), {6}),
    (f("attributes.missing", "!=", "x"), set()),
]
DATES = [
    (f("birthday", "=", "1990-03-05"), {1}),
    (f("birthday", "!=", "1990-03-05"), {2}),
    (f("birthday", "<", "1992-02-29"), {1}),
    (f("birthday", "between", ["1990-03-05", "1992-02-29"]), {1, 2}),
    (f("birthday", "anniversary_in", "4d"), set()),  # 1 to 4 March
    (f("birthday", "anniversary_in", "5d"), {1}),  # the 5th too
    (f("birthday", "anniversary_in", "364d"), {1}),
    (f("birthday", "anniversary_in", "365d"), {1, 2}),  # the 29th is celebrated on 28 February 2027
    (f("birthday", "is_not_set"), {3, 5, 6}),
    (f("registered_at", "in_last", "1d"), {6}),
    (f("registered_at", "in_last", "9d"), {6}),
    (f("registered_at", "in_last", "10d"), {2, 6}),
    (f("registered_at", "in_next", "3d"), set()),
    (f("registered_at", "in_next", "4d"), {5}),
    (f("registered_at", "=", "2026-02-28"), {6}),  # the first moment of that day in the shop's zone
    (f("registered_at", ">=", "2026-02-19"), {2, 5, 6}),
    (f("registered_at", "is_set"), {1, 2, 5, 6}),
    (f("lifecycle.since", "=", "2026-03-01"), ALL),
]
SCORES = [
    (f("lifecycle", "=", "new"), {2, 6}),
    (f("lifecycle", "in", ["active", "dormant"]), {1, 5}),
    (f("lifecycle", "not_in", ["prospect"]), {1, 2, 5, 6}),
    (f("lifecycle", "=", "prospect"), {3}),
    (f("rfm.r", ">=", 4), {1, 2}),
    (f("rfm.r", "is_not_set"), {3}),
    (f("rfm.f", "=", 4), {1}),
    (f("rfm.m", "between", [1, 2]), {5, 6}),
    (f("rfm.recency", "<=", 10), {1, 2}),
    (f("rfm.frequency", "!=", 1), {1}),
    (f("rfm.monetary", "=", 12.34), {2}),  # rules speak of major units
    (f("rfm.segment", "=", "loyal"), {1}),
    (f("rfm.segment", "!=", "loyal"), {2, 5, 6}),
    (f("rfm.value_segment", "is_set"), {1, 2, 5, 6}),
    (f("points", ">=", 5), {1, 3}),
    (f("points", "=", 70), {1}),
    (f("points", "=", 0), {2, 5, 6}),  # none is a balance of 0, and points of tomorrow do not count
    (f("points", "is_set"), ALL),
    (f("tier", "=", "gold"), {1, 6}),
    (f("tier", "in", ["gold", "silver"]), {1, 2, 6}),
    (f("tier", "!=", "gold"), {2}),  # who has no tier is not in another one
    ({"not": f("tier", "=", "gold")}, {2, 3, 5}),
    (f("tier", "is_not_set"), {3, 5}),
    ({"all": [f("tier", "is_set"), f("points", "<", 5)]}, {2, 6}),
]
CONSENTS = [
    (f("consent.email", "=", True), {1}),
    (f("consent.email", "=", False), {3}),
    (f("consent.email", "is_not_set"), {2, 5, 6}),  # an answer about SMS says nothing about e-mail
    (f("consent.sms", "=", True), {2}),
    (f("consent.sms", "is_set"), {1, 2}),
    (f("consent.wechat", "is_set"), set()),
    ({"not": f("consent.email", "=", True)}, {2, 3, 5, 6}),
]
LOGIC = [
    ({"all": [f("city", "is_set"), f("has_phone", "=", True)]}, {1}),
    ({"any": [f("gender", "=", "m"), f("has_phone", "=", True)]}, {1, 2}),
    ({"not": {"any": [f("gender", "=", "m"), f("has_phone", "=", True)]}}, {3, 5, 6}),
    ({"not": {"all": [f("city", "is_set"), {"not": f("gender", "=", "m")}]}}, {2, 3, 5}),
    ({"not": {"not": f("gender", "=", "m")}}, {2}),
    ({"all": [f("member_id", "is_set")]}, ALL),
    ({"all": [{"any": [f("gender", "=", "f"), f("gender", "=", "m")]}, {"not": e("order", ">=", 2)}]}, {2}),
    ({"segment": "beijing"}, {1}),
    ({"segment": "either"}, {1, 2}),
    ({"not": {"segment": "either"}}, {3, 5, 6}),
    ({"all": [{"segment": "buyers"}, {"not": {"segment": "beijing"}}]}, {2, 5, 6}),
    ({"any": [{"segment": "buyers"}, {"segment": "buyers"}]}, {1, 2, 5, 6}),
]
PREDICTIONS = [
    (f("predictions.p_alive", ">=", 0.5), {1}),
    (f("predictions.p_alive", "is_not_set"), {2, 3, 6}),
    ({"not": f("predictions.p_alive", ">=", 0.5)}, {2, 3, 5, 6}),
    (f("predictions.churn_risk", ">", 0.5), {5}),
    (f("predictions.expected_purchases", "between", [1, 2]), {1}),
    (f("predictions.expected_spend", "=", 40), {1}),  # in major units
    (f("predictions.clv", ">=", 100), {1}),
    (f("predictions.clv", "<", 2), {5}),
]
LISTS = [
    ({"list": "vip"}, {1, 2}),
    ({"not": {"list": "vip"}}, {3, 5, 6}),
    ({"list": "others"}, {3}),
    ({"any": [{"list": "vip"}, {"list": "others"}]}, {1, 2, 3}),
    ({"all": [{"list": "vip"}, e("order", ">=", 2)]}, {1}),
    ({"list": "nobody"}, set()),
]
# What is unknown is false, and “not” turns false into true: at whatever depth the missing value lies.
MISSING = [
    ({"not": f("city", "!=", "x")}, {3, 5}),
    ({"not": {"not": f("city", "!=", "x")}}, {1, 2, 6}),
    ({"not": {"all": [f("city", "=", "北京"), f("gender", "=", "f")]}}, {2, 3, 5, 6}),
    ({"not": {"any": [f("city", "=", "北京"), f("gender", "=", "m")]}}, {3, 5, 6}),
    ({"not": {"any": [{"not": f("city", "is_set")}, f("gender", "=", "m")]}}, {1, 6}),
    ({"any": [f("gender", "!=", "f"), {"not": f("gender", "!=", "f")}]}, ALL),
    ({"not": f("rfm.r", ">=", 1)}, {3}),
    ({"not": f("birthday", "anniversary_in", "365d")}, {3, 5, 6}),
    ({"not": f("tags", "matches_any", ["vip", "vip2"])}, {3, 5, 6}),
    ({"not": f("attributes.size", "not_in", [42])}, {1, 3, 6}),
    ({"not": e("order", ">=", 0, aggregate="avg", of="amount")}, {3}),
    ({"not": e("order", "<", 1)}, {1, 2, 5, 6}),
    ({"not": e("order", "<=", 30, aggregate="days_since")}, {3, 5}),
    ({"not": e("order", "=", "app", aggregate="last", of="channel")}, {2, 3, 5, 6}),
    ({"not": e("order", "=", 0, aggregate="sum", of="amount")}, {1, 2, 5, 6}),
    ({"not": {"not": {"not": {"not": {"not": f("consent.email", "=", True)}}}}}, {2, 3, 5, 6}),
    ({"not": {"segment": "missing_city"}}, {3, 5}),
]
HOSTILE = [
    (f("city", "=", EVIL), {6}),
    (f("city", "contains", "%"), {6}),
    (f("city", "contains", "_\\'"), {6}),
    (f("city", "starts_with", "100%_\\'\""), {6}),
    (f("city", "contains", "'; DROP"), set()),
    (f("city", "in", ["x' OR '1'='1", EVIL]), {6}),
    (f("city", "=", "x' OR 1=1 --"), set()),
    (f("city", "=", "北京\x00"), set()),
    (f("city", "contains", "\x00"), set()),
    (f("city", "!=", "\x00"), {1, 2, 6}),
    (f("city", "contains", "\n"), set()),
    (f("city", "=", "𝒳𝓎🎉\u202e"), set()),
    (f("tags", "matches_any", ["'; DROP TABLE members;--", '"]', "\x00"]), set()),
    (f("tags", "matches_any", ['vip", "新客']), set()),
    (f("attributes.note", "=", EVIL), {6}),
    (f("attributes.x__y-z w", "=", "'"), set()),
    (e("view", where=[f("sku", "=", EVIL)]), {2}),
    (e("view", where=[f("sku", "=", "$1 {0} %s ? :name @x")]), set()),
    (e("order", where=[f("category", "=", "coffee' OR 'a'='a")]), set()),
    (f("city", "contains", ""), {1, 2, 6}),
]
TABLE: list[tuple[dict[str, Any], set[int]]] = [
    *TEXTS,
    *FLAGS_AND_TAGS,
    *ATTRIBUTES,
    *DATES,
    *SCORES,
    *CONSENTS,
    *LOGIC,
    *PREDICTIONS,
    *LISTS,
    *MISSING,
    *EVENT_TABLE,
    *HOSTILE,
]


CASES = [Case(rule, frozenset(expected)) for rule, expected in TABLE]

__all__ = ["CASES", "RULES", "Case", "build", "evaluator_of", "run_case"]
