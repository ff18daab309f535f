"""What a campaign is: its audience, its offer, its limits. Checked JSON, without a database."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from core.contacts import CHANNELS, EMAIL, SMS, WECHAT
from core.errors import InvalidInput
from segments.rules import validate

METRICS = ("revenue", "orders", "conversion")
HOLDOUT = "holdout"
"""Name of the arm that is not sent to."""
MAX_VARIANTS = 8
DEFAULT_QUIET_HOURS = {"start": "21:00", "end": "08:00", "mode": "defer"}
_CLOCK = re.compile(r"^([01]\d|2[0-3]):[0-5]\d$")
_HOST = re.compile(r"^[a-z0-9-]+(\.[a-z0-9-]+)+$", re.IGNORECASE)
MAX_UTM = 80
_ARM = re.compile(r"^[\w][\w .-]{0,39}$")


@dataclass(frozen=True)
class Variant:
    """One way of winning the member: templates by channel, and what is given away."""

    name: str
    weight: float
    templates: dict[str, str]
    """channel → template name; a channel without a template is not used for this variant."""
    coupon_batch: str | None = None
    points: int = 0


@dataclass(frozen=True)
class CampaignSpec:
    """Everything about a campaign that its author decides."""

    audience: dict[str, Any]
    """A rule, most often ``{"segment": name}``."""
    variants: tuple[Variant, ...]
    channels: tuple[str, ...] = (EMAIL, SMS, WECHAT)
    """In the order in which they are tried. ``webhook``, which has an address of everybody, and ``wecom``,
    which makes work for employees, must be named."""
    exclude: tuple[str, ...] = ()
    """Segments whose members are left out."""
    holdout: float = 0.1
    metric: str = "revenue"
    window_days: int = 14
    cap_messages: int | None = None
    cap_days: int = 7
    rest_days: int | None = None
    """When it runs again, whoever it reached in so many days rests, sent to or held out; None: nobody."""
    quiet_hours: dict[str, str] | None = field(default_factory=lambda: dict(DEFAULT_QUIET_HOURS))
    """{start, end, mode}: "21:00", "08:00", "defer" | "drop"; None: at any hour."""
    expires_hours: int = 72
    """A message that could not leave by then is not sent late."""
    margin: float = 0.3
    """Share of revenue that is profit before the campaign's cost."""
    message_cost_minor: dict[str, int] = field(
        default_factory=lambda: {"email": 0, "sms": 5, "wechat": 0, "webhook": 0, "wecom": 0}
    )
    point_value_minor: float = 1.0
    """What a point costs when it is spent, in minor units."""
    fixed_cost_minor: int = 0
    utm: dict[str, Any] | None = None
    """{source, medium, campaign, hosts}: UTM parameters of links to the shop and to ``hosts``. An empty
    medium is the channel, an empty campaign its name; the content is the variant. None: none."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> CampaignSpec:
        """Read and check. Raises InvalidInput whose ``field`` is a path such as ``variants[1].weight``."""
        known = CampaignSpec.__dataclass_fields__
        unknown = sorted(set(data) - set(known))
        if unknown:
            raise InvalidInput(f"A campaign has no {', '.join(unknown)}.", unknown[0])
        for needed in ("audience", "variants"):
            if not data.get(needed):
                raise InvalidInput(f"{needed} is missing.", needed)
        values = dict(data)
        variants = values["variants"]
        if not isinstance(variants, list | tuple):
            raise InvalidInput("variants is a list.", "variants")
        values["variants"] = tuple(_variant(item, f"variants[{i}]") for i, item in enumerate(variants))
        for name in ("channels", "exclude"):
            if name in values:
                values[name] = tuple(values[name] or ())
        spec = CampaignSpec(**values)
        _check(spec)
        return spec


def _variant(data: Any, path: str) -> Variant:
    if isinstance(data, Variant):
        data = asdict(data)
    if not isinstance(data, Mapping):
        raise InvalidInput(f"{path} is an object with name, weight and templates.", path)
    unknown = sorted(set(data) - set(Variant.__dataclass_fields__))
    if unknown:
        raise InvalidInput(f"{path}: a variant has no {', '.join(unknown)}.", f"{path}.{unknown[0]}")
    name = str(data.get("name") or "").strip()
    if not _ARM.fullmatch(name) or name == HOLDOUT:
        raise InvalidInput(
            f"{path}: the name needs 1 to 40 letters or digits, and is not “{HOLDOUT}”.", f"{path}.name"
        )
    weight = _number(data.get("weight", 0), f"{path}.weight", 0.0001, 1)
    templates = data.get("templates")
    if not isinstance(templates, Mapping) or not templates:
        raise InvalidInput(f"{path}: choose a template for at least one channel.", f"{path}.templates")
    for channel in templates:
        if channel not in CHANNELS:
            raise InvalidInput(f"{path}: “{channel}” is not a channel.", f"{path}.templates")
    points = int(_number(data.get("points") or 0, f"{path}.points", 0, 1_000_000))
    return Variant(
        name, weight, {str(k): str(v) for k, v in templates.items()}, data.get("coupon_batch") or None, points
    )


def _number(value: Any, path: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InvalidInput(f"{path} is a number from {low:g} to {high:g}.", path)
    return value


def _check(spec: CampaignSpec) -> None:
    try:
        validate(spec.audience)
    except InvalidInput as error:
        raise InvalidInput(str(error), f"audience.{error.field}") from None
    if not 1 <= len(spec.variants) <= MAX_VARIANTS:
        raise InvalidInput(f"A campaign has 1 to {MAX_VARIANTS} variants.", "variants")
    names = [variant.name for variant in spec.variants]
    if len(set(names)) < len(names):
        raise InvalidInput("Two variants have the same name.", "variants")
    total = sum(variant.weight for variant in spec.variants)
    if abs(total - 1) > 1e-6:
        raise InvalidInput(f"The variants' weights sum to {total:g}; they must sum to 1.", "variants")
    if (
        not spec.channels
        or len(set(spec.channels)) < len(spec.channels)
        or not set(spec.channels) <= set(CHANNELS)
    ):
        raise InvalidInput(f"channels are some of {', '.join(CHANNELS)}, each once.", "channels")
    for index, variant in enumerate(spec.variants):
        if not set(variant.templates) & set(spec.channels):
            raise InvalidInput(
                f"{variant.name} has no template for any of the channels.", f"variants[{index}].templates"
            )
    _check_numbers(spec)
    _check_quiet_hours(spec.quiet_hours)
    _check_utm(spec.utm)


def _check_numbers(spec: CampaignSpec) -> None:
    _number(spec.holdout, "holdout", 0, 0.9)
    _number(spec.window_days, "window_days", 1, 365)
    _number(spec.cap_days, "cap_days", 1, 365)
    _number(spec.expires_hours, "expires_hours", 1, 24 * 30)
    _number(spec.margin, "margin", 0, 1)
    _number(spec.point_value_minor, "point_value_minor", 0, 1_000_000)
    _number(spec.fixed_cost_minor, "fixed_cost_minor", 0, 10**12)
    if spec.rest_days is not None:
        _number(spec.rest_days, "rest_days", 1, 365)
    if spec.cap_messages is not None:
        _number(spec.cap_messages, "cap_messages", 1, 1000)
    if spec.metric not in METRICS:
        raise InvalidInput(f"metric is one of {', '.join(METRICS)}.", "metric")
    for channel, cost in spec.message_cost_minor.items():
        if channel not in CHANNELS:
            raise InvalidInput(f"message_cost_minor: “{channel}” is not a channel.", "message_cost_minor")
        _number(cost, f"message_cost_minor.{channel}", 0, 1_000_000)


def _check_utm(utm: Mapping[str, Any] | None) -> None:
    if utm is None:
        return
    texts = [utm.get(name) or "" for name in ("source", "medium", "campaign")]
    if not all(isinstance(text, str) and len(text) <= MAX_UTM for text in texts) or not texts[0]:
        raise InvalidInput(f"utm has a source, and texts of at most {MAX_UTM} characters.", "utm.source")
    hosts = utm.get("hosts") or []
    if (
        set(utm) - {"source", "medium", "campaign", "hosts"}
        or not isinstance(hosts, list | tuple)
        or not all(isinstance(host, str) and _HOST.fullmatch(host) for host in hosts)
    ):
        raise InvalidInput("utm.hosts are names such as shop.example.com.", "utm.hosts")


def _check_quiet_hours(hours: Mapping[str, str] | None) -> None:
    if hours is None:
        return
    good = set(hours) == {"start", "end", "mode"} and all(
        _CLOCK.fullmatch(str(hours[key])) for key in ("start", "end")
    )
    if not good or hours["mode"] not in ("defer", "drop") or hours["start"] == hours["end"]:
        raise InvalidInput(
            'quiet_hours is {"start": "21:00", "end": "08:00", "mode": "defer"} or null.', "quiet_hours"
        )
