"""How members are scored and staged: defaults, the marketer's own, and the names of the results.

Names are data: the keys below are what snapshots and rules hold; titles may be edited.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from typing import Any

import pyarrow as pa
from sqlalchemy.orm import Session

from core import audit
from core.errors import InvalidInput
from core.models import Preference

KEY = "segments.scoring"
TITLES_KEY = "segments.titles"
MAX_TITLE = 40
MEASURES = ("recency", "frequency", "monetary")

STAGES = ("prospect", "new", "active", "high_value", "at_risk", "dormant", "churned", "reactivated")
TENURE_STAGES = ("days_0_7", "days_7_30", "days_30_90", "days_90_365", "days_over_365")
STAGE_TITLES = {
    "prospect": ("Prospect", "潜客"),
    "new": ("New", "新客"),
    "active": ("Active", "活跃"),
    "high_value": ("High value", "高价值"),
    "at_risk": ("At risk", "预警"),
    "dormant": ("Dormant", "沉睡"),
    "churned": ("Churned", "流失"),
    "reactivated": ("Reactivated", "回流"),
    "days_0_7": ("0–7 days", "0–7 天"),
    "days_7_30": ("7–30 days", "7–30 天"),
    "days_30_90": ("30–90 days", "30–90 天"),
    "days_90_365": ("90–365 days", "90–365 天"),
    "days_over_365": ("Over 365 days", "365 天以上"),
}
RFM_TITLES = {
    "hibernating": ("Hibernating", "休眠"),
    "at_risk": ("At risk", "有流失风险"),
    "cant_lose": ("Can't lose", "不可流失"),
    "about_to_sleep": ("About to sleep", "即将休眠"),
    "need_attention": ("Need attention", "需要关注"),
    "loyal": ("Loyal", "忠诚"),
    "promising": ("Promising", "有潜力的新客"),
    "new": ("New", "新客"),
    "potential_loyalist": ("Potential loyalist", "潜在忠诚"),
    "champions": ("Champions", "冠军"),
}
VALUE_TITLES = {
    "important_value": ("Important: value", "重要价值"),
    "important_develop": ("Important: develop", "重要发展"),
    "important_keep": ("Important: keep", "重要保持"),
    "important_win_back": ("Important: win back", "重要挽留"),
    "general_value": ("General: value", "一般价值"),
    "general_develop": ("General: develop", "一般发展"),
    "general_keep": ("General: keep", "一般保持"),
    "general_win_back": ("General: win back", "一般挽留"),
}
TITLES: dict[str, dict[str, tuple[str, str]]] = {
    "stage": STAGE_TITLES, "rfm": RFM_TITLES, "value": VALUE_TITLES,
}  # fmt: skip
"""kind → name → its title in English and Chinese, as it comes."""
# segment → (recency scores, frequency scores): all 25 cells, each once.
CELLS: dict[str, list[tuple[str, str]]] = {
    "hibernating": [("12", "12")],
    "at_risk": [("12", "34")],
    "cant_lose": [("12", "5")],
    "about_to_sleep": [("3", "12")],
    "need_attention": [("3", "3")],
    "loyal": [("34", "45")],
    "promising": [("4", "1")],
    "new": [("5", "1")],
    "potential_loyalist": [("45", "23")],
    "champions": [("5", "45")],
}


@dataclass(frozen=True)
class Scoring:
    """RFM and lifecycle settings. Days are whole days before the as-of date."""

    window_days: int = 730
    same_day_once: bool = False
    """Several orders of one member on one day count once for frequency."""
    cut_points: dict[str, list[int]] | None = None
    """Fixed cut points {measure: four ascending numbers}; None: the quantiles of each refresh."""
    preset: str = "standard"
    """``standard`` stages or ``tenure`` bands."""
    new_days: int = 30
    active_days: int = 90
    churned_days: int = 365
    reactivated_days: int = 30
    silence_orders: int = 3
    silence_factor: float = 2.0
    high_value_share: float = 0.2

    def validated(self) -> Scoring:
        """Itself, or InvalidInput naming the field that makes no sense."""
        for name in ("window_days", "new_days", "active_days", "churned_days", "reactivated_days"):
            if not 1 <= getattr(self, name) <= 3650:
                raise InvalidInput(f"{name} must be from 1 to 3650 days.", name)
        if not self.new_days <= self.active_days < self.churned_days:
            raise InvalidInput("Days must grow: new ≤ active < churned.", "active_days")
        if self.reactivated_days > self.active_days:
            raise InvalidInput("reactivated_days cannot exceed active_days.", "reactivated_days")
        if self.preset not in ("standard", "tenure"):
            raise InvalidInput("preset is “standard” or “tenure”.", "preset")
        if not 0 < self.high_value_share < 1:
            raise InvalidInput("high_value_share must be between 0 and 1.", "high_value_share")
        if self.silence_orders < 3 or not 1 <= self.silence_factor <= 100:
            raise InvalidInput(
                "Silence needs at least 3 orders and a factor from 1 to 100.", "silence_orders"
            )
        for measure, points in (self.cut_points or {}).items():
            if measure not in MEASURES or len(points) != 4 or sorted(points) != list(points):
                raise InvalidInput(
                    "cut_points are four ascending numbers a measure.", f"cut_points.{measure}"
                )
        if self.cut_points is not None and set(self.cut_points) != set(MEASURES):
            raise InvalidInput("cut_points need recency, frequency and monetary.", "cut_points")
        return self

    @property
    def stages(self) -> tuple[str, ...]:
        return STAGES if self.preset == "standard" else TENURE_STAGES


def cells() -> pa.Table:
    """The 25 cells as an Arrow table (r, f, segment)."""
    rows = [
        {"r": int(r), "f": int(f), "segment": segment}
        for segment, blocks in CELLS.items()
        for rs, fs in blocks
        for r in rs
        for f in fs
    ]
    return pa.Table.from_pylist(
        rows, pa.schema([("r", pa.int8()), ("f", pa.int8()), ("segment", pa.string())])
    )


def load(session: Session) -> Scoring:
    """The marketer's settings, or the defaults."""
    stored = session.get(Preference, KEY)
    if stored is None:
        return Scoring()
    known = {part.name for part in fields(Scoring)}
    return replace(Scoring(), **{name: value for name, value in stored.value.items() if name in known})


def save(session: Session, scoring: Scoring, by: str, now: datetime) -> None:
    """Keep new settings; the next refresh uses them."""
    value: dict[str, Any] = asdict(scoring.validated())
    session.merge(Preference(key=KEY, value=value, updated_at=now))
    audit.record(session, by, "change", "settings", KEY, now, value)


Titles = dict[str, dict[str, tuple[str, str]]]


def titles(session: Session) -> Titles:
    """The titles of stages and segments: the marketer's own, and the default of every other."""
    stored = session.get(Preference, TITLES_KEY)
    own: dict[str, dict[str, list[str]]] = stored.value if stored else {}
    return {
        kind: {
            name: (pair[0], pair[1]) if (pair := own.get(kind, {}).get(name)) else default
            for name, default in defaults.items()
        }
        for kind, defaults in TITLES.items()
    }


def save_titles(session: Session, wanted: Titles, by: str, now: datetime) -> None:
    """Keep titles; an empty one goes back to its default. Raises InvalidInput, ``field`` kind.name.en|zh.

    Two segments of a kind cannot share a title: nobody could tell them apart.
    """
    own: dict[str, dict[str, list[str]]] = {}
    for kind, defaults in TITLES.items():
        seen: dict[tuple[int, str], str] = {}
        for name, default in defaults.items():
            pair = [text.strip() for text in wanted.get(kind, {}).get(name, ("", ""))]
            for place, language in enumerate(("en", "zh")):
                title = pair[place] or default[place]
                field = f"{kind}.{name}.{language}"
                if len(title) > MAX_TITLE:
                    raise InvalidInput(f"A title has at most {MAX_TITLE} characters.", field)
                if seen.setdefault((place, title.casefold()), name) != name:
                    raise InvalidInput(f"Two of them are called “{title}”; choose another title.", field)
            found = tuple(text or default[place] for place, text in enumerate(pair))
            if found != default:
                own.setdefault(kind, {})[name] = list(found)
    session.merge(Preference(key=TITLES_KEY, value=own, updated_at=now))
    audit.record(session, by, "change", "settings", TITLES_KEY, now, own)
