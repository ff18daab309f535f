"""The questions of the insight pages, read from their addresses: shared links ask the same again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, cast

from flask_babel import gettext
from werkzeug.datastructures import MultiDict

from core.errors import InvalidInput
from core.times import instant
from segments.explore import cohorts, funnels, moves, paths
from segments.explore.stream import BUILT_IN, MAX_KIND, MAX_KINDS, MAX_WINDOW
from segments.models import Refresh
from web import context
from web.forms import Form
from web.queries import events
from web.queries import segments as queries
from web.refusals import said
from web.words import word

PERIOD_DAYS = 30
WINDOW = "7"
HOURS = {"h": 1, "d": 24}
USUAL_COHORTS = "12"
MEASURES = ("retention", "orders", "revenue")
USUAL_START, USUAL_GOAL = ("add_to_cart", "cart", "product_viewed", "view"), "order"


@dataclass(frozen=True)
class AsOf:
    """The date up to which everything is counted (exclusive), as the newest refresh has it."""

    day: date
    latest: Refresh | None

    @property
    def instant(self) -> datetime:
        return instant(self.day, context.console().settings.zone)


def as_of() -> AsOf:
    """The newest refresh's date; today where there is none."""
    latest = queries.latest(context.reading())
    today = context.now().astimezone(context.console().settings.zone).date()
    return AsOf(latest.as_of if latest else today, latest)


def day_of(form: Form, name: str, default: date) -> date:
    """A date field; ``default`` where it is empty, and where it is none, with an error."""
    text = str(form.data.get(name) or "").strip()
    if not text:
        form.data[name] = default.isoformat()
        return default
    try:
        return date.fromisoformat(text)
    except ValueError:
        form.error(name, gettext("Write a date like 2026-03-01."))
        return default


# Moves


@dataclass(frozen=True)
class Compared:
    """What is compared: the dates asked for, and the snapshots nearest to them."""

    column: str
    wanted: tuple[date, date]
    before: date
    after: date


def read_moves(form: Form, days: Sequence[date]) -> Compared | None:
    """The comparison asked for (by default the last 30 days); None where there is nothing to compare."""
    column = form.choice("column", tuple(moves.COLUMNS), "stage")
    form.data["column"] = column if column in moves.COLUMNS else "stage"
    if len(days) < 2:
        return None
    last = day_of(form, "after", days[-1])
    month_ago = moves.nearest(days[:-1], last - timedelta(days=PERIOD_DAYS)) or days[0]
    first = day_of(form, "before", month_ago)
    before, after = moves.nearest(days, first), moves.nearest(days, last)
    if form.ok and first >= last:
        form.error("before", gettext("This must lie before the second date."))
    elif form.ok and before == after:
        form.error("before", gettext("Both dates fall to the same refresh. Choose dates further apart."))
    if not form.ok or before is None or after is None:
        return None
    return Compared(column, (first, last), before, after)


# Cohorts


@dataclass(frozen=True)
class CohortsAsked:
    measure: str
    period: cohorts.Period
    count: int
    channel: str | None
    segment: str | None


def read_cohorts(form: Form, segments: Sequence[tuple[str, str]]) -> CohortsAsked | None:
    """The cohorts asked for: by default retention of the last 12 months; None with errors noted."""
    measure = _chosen(form, "measure", MEASURES)
    period = cast(cohorts.Period, _chosen(form, "period", tuple(cohorts.LIMITS)))
    form.data.setdefault("count", USUAL_COHORTS)
    count = form.integer("count", low=2, high=cohorts.LIMITS.get(period, 36), required=True)
    channel = form.text("channel", limit=MAX_KIND) or None
    segment = form.text("segment", limit=80) or None
    if segment is not None and segment not in {name for name, _ in segments}:
        form.error("segment", gettext("Choose one of the list."))
    if not form.ok or count is None:
        return None
    return CohortsAsked(measure, period, count, channel, segment)


def _chosen(form: Form, name: str, options: Sequence[str]) -> str:
    """A choice that shows its default where the address says nothing."""
    form.data.setdefault(name, options[0])
    return form.choice(name, options)


# Events of funnels and paths


def kinds(wanted: Sequence[str] = ()) -> dict[str, str]:
    """Kind → its name: the product's own, then the shop's, then those that an address names beside them.

    Two kinds of one name are told apart by their codes.
    """
    found = dict.fromkeys((*BUILT_IN, *events.kinds(context.reading()), *wanted))
    named = {kind: word("event", kind) for kind in found if kind}
    often = Counter(named.values())
    return {kind: name if often[name] == 1 else f"{name} ({kind})" for kind, name in named.items()}


def period(form: Form, until: date) -> tuple[datetime, datetime]:
    """From the first moment of ``from`` to the end of ``to`` in the shop's zone; the last days by default."""
    zone = context.console().settings.zone
    last = day_of(form, "to", until - timedelta(days=1))
    first = day_of(form, "from", last - timedelta(days=PERIOD_DAYS - 1))
    if form.ok and first > last:
        form.error("from", gettext("This must not lie after the second date."))
    if form.ok and last - first > timedelta(days=3 * 365):
        form.error("from", gettext("At most three years at a time."))
    return instant(first, zone), instant(last + timedelta(days=1), zone)


def _window(form: Form) -> timedelta:
    form.data.setdefault("window", WINDOW)
    unit = form.choice("unit", tuple(HOURS), "d")
    form.data["unit"] = unit
    hours = HOURS.get(unit, 24)
    most = MAX_WINDOW // timedelta(hours=hours)
    length = form.integer("window", low=1, high=most, required=True)
    return timedelta(hours=hours * min(max(length or 1, 1), most))


def _kinds_of(form: Form, name: str) -> tuple[str, ...]:
    wanted = tuple(text for value in form.values(name) if (text := value.strip()))
    if any(len(kind) > MAX_KIND or not kind.isprintable() for kind in wanted):
        form.error(name, gettext("Choose events of the list."))
    return wanted


def read_funnel(form: Form, until: date) -> funnels.Question | None:
    """The funnel asked for; None with errors noted, and where no step is chosen yet."""
    steps = _kinds_of(form, "step")
    start, end = period(form, until)
    window = _window(form)
    by = form.text("by") or None
    if by is not None and by not in funnels.FIELDS:
        form.error("by", gettext("Choose one of the list."))
    if "step" in form.data and not funnels.MIN_STEPS <= len(steps) <= funnels.MAX_STEPS:
        form.error(
            "step",
            gettext("Choose from %(low)s to %(high)s steps.", low=funnels.MIN_STEPS, high=funnels.MAX_STEPS),
        )
    if not form.ok or not steps:
        return None
    try:
        return funnels.Question(steps, start, end, window, by).validated()
    except InvalidInput as error:
        _refused(form, error)
        return None


def read_paths(form: Form, until: date, known: Collection[str]) -> paths.Question | None:
    """The paths asked for; None with errors noted, and where no event is chosen yet."""
    event = form.text("event", limit=MAX_KIND)
    start, end = period(form, until)
    window = _window(form)
    direction = cast(paths.Direction, _chosen(form, "direction", ("after", "before")))
    follow = _kinds_of(form, "kind")
    if "event" in form.data and not event:
        form.error("event", gettext("Choose an event."))
    if len(follow) > MAX_KINDS:
        form.error("kind", gettext("Choose at most %(count)s kinds of events.", count=MAX_KINDS))
    follow = follow or tuple(known)[:MAX_KINDS]
    if not form.ok or not event:
        return None
    try:
        return paths.Question(event, follow, start, end, window, direction).validated()
    except InvalidInput as error:
        _refused(form, error)
        return None


_FIELDS = {"start": "from", "end": "to", "kinds": "kind", "steps": "step"}
"""Fields of a question that a page calls otherwise."""


def _refused(form: Form, error: InvalidInput) -> None:
    """Put the package's refusal beside its field."""
    place = (error.field or "").partition("[")[0]
    form.error(_FIELDS.get(place, place), said(error))


def usual_steps(known: Collection[str]) -> list[str]:
    """Two steps to begin with: something that the shop sends, then an order."""
    sent = [kind for kind in known if kind not in BUILT_IN]
    first = next((kind for kind in USUAL_START if kind in sent), next(iter(sent), "message_sent"))
    return [first, USUAL_GOAL]


def address(form: Form, **changes: Any) -> dict[str, Any]:
    """The form as arguments of an address, repeated fields as lists; ``changes`` replace fields."""
    data: MultiDict[str, Any] = form.data
    kept = {name: data.getlist(name) for name in data if name not in ("page", "lang")}
    return {name: value for name, value in {**kept, **changes}.items() if value not in (None, "", [])}
