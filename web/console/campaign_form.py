"""A campaign's form: spec to fields, fields to spec, and the package's refusals back to fields."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from flask_babel import gettext

from campaigns.models import Campaign
from campaigns.spec import MAX_UTM, METRICS, CampaignSpec
from core.contacts import CHANNELS
from core.errors import InvalidInput
from core.settings import Settings
from web.forms import Form
from web.i18n import plain_money
from web.refusals import said

VARIANT_NAMES = "ABCDEFGH"
QUIET_MODES = ("defer", "drop")


@dataclass(frozen=True)
class Draft:
    """What the form says, checked as far as a form can."""

    name: str
    title: str
    spec: CampaignSpec | None
    budget_minor: int | None
    scheduled_at: datetime | None


def empty(segment: str = "") -> Form:
    """A new campaign as most begin: one variant, a tenth held out, quiet nights."""
    return Form(
        {
            "audience_kind": "segment",
            "segment": segment,
            "rule": "",
            "metric": "revenue",
            "window_days": "14",
            "holdout": "10",
            "channel-1": "email",
            "channel-2": "sms",
            "channel-3": "wechat",
            "cap_messages": "2",
            "cap_days": "7",
            "quiet": "1",
            "quiet_start": "21:00",
            "quiet_end": "08:00",
            "quiet_mode": "defer",
            "expires_hours": "72",
            "margin": "30",
            "cost-sms": "0.05",
            "point_value": "0.01",
            "variant-0-name": "A",
            "variant-0-weight": "100",
        }
    )


def from_campaign(campaign: Campaign, spec: CampaignSpec, zone: ZoneInfo) -> Form:
    """The form of an existing campaign."""
    segment = spec.audience.get("segment") if set(spec.audience) == {"segment"} else None
    hours = spec.quiet_hours or {"start": "21:00", "end": "08:00", "mode": "defer"}
    data: dict[str, Any] = {
        "title": campaign.title,
        "audience_kind": "segment" if segment else "rule",
        "segment": segment or "",
        "rule": json.dumps(spec.audience, ensure_ascii=False, indent=2),
        "exclude": list(spec.exclude),
        "metric": spec.metric,
        "window_days": spec.window_days,
        "holdout": f"{spec.holdout * 100:g}",
        "cap_messages": spec.cap_messages or "",
        "cap_days": spec.cap_days,
        "quiet": "1" if spec.quiet_hours else "",
        **{f"quiet_{key}": value for key, value in hours.items()},
        "expires_hours": spec.expires_hours,
        "margin": f"{spec.margin * 100:g}",
        "point_value": plain_money(round(spec.point_value_minor)),
        "fixed_cost": plain_money(spec.fixed_cost_minor) if spec.fixed_cost_minor else "",
        "budget": plain_money(campaign.budget_minor),
        "scheduled_at": campaign.scheduled_at.astimezone(zone).strftime("%Y-%m-%dT%H:%M")
        if campaign.scheduled_at
        else "",
    }
    for name, value in (spec.utm or {}).items():
        data[f"utm_{name}"] = " ".join(value) if name == "hosts" else value
    for place, channel in enumerate(spec.channels, 1):
        data[f"channel-{place}"] = channel
    for channel, cost in spec.message_cost_minor.items():
        data[f"cost-{channel}"] = plain_money(cost)
    for index, variant in enumerate(spec.variants):
        data[f"variant-{index}-name"] = variant.name
        data[f"variant-{index}-weight"] = f"{variant.weight * 100:g}"
        data[f"variant-{index}-batch"] = variant.coupon_batch or ""
        data[f"variant-{index}-points"] = variant.points or ""
        for channel, template in variant.templates.items():
            data[f"variant-{index}-{channel}"] = template
    return Form(data)


def read(form: Form, settings: Settings, *, name: str | None) -> Draft:
    """What was sent. ``name`` is given for a campaign that exists. Errors are in the form."""
    currency = settings.shop_currency
    own_name = name or form.text("name", required=True, limit=80)
    title = form.text("title", required=True)
    audience = _audience(form)
    variants = _variants(form)
    data: dict[str, Any] = {
        "audience": audience,
        "variants": variants,
        "channels": _channels(form),
        "exclude": form.values("exclude"),
        "holdout": form.percent("holdout", high=90, default=0.0),
        "metric": form.choice("metric", METRICS),
        "window_days": form.integer("window_days", low=1, high=365, required=True),
        "cap_messages": form.integer("cap_messages", low=1, high=1000),
        "cap_days": form.integer("cap_days", low=1, high=365) or 7,
        "quiet_hours": _quiet_hours(form),
        "expires_hours": form.integer("expires_hours", low=1, high=720, required=True),
        "margin": form.percent("margin", default=0.3),
        "message_cost_minor": {channel: form.money(f"cost-{channel}", currency) or 0 for channel in CHANNELS},
        "point_value_minor": float(form.money("point_value", currency) or 0),
        "fixed_cost_minor": form.money("fixed_cost", currency) or 0,
        "utm": _utm(form),
    }
    budget = form.money("budget", currency)
    scheduled_at = form.time("scheduled_at", settings.zone)
    spec = None
    if form.ok:
        try:
            spec = CampaignSpec.from_json(data)
        except InvalidInput as error:
            refuse(form, error)
    return Draft(own_name, title, spec, budget, scheduled_at)


def _audience(form: Form) -> Any:
    if form.choice("audience_kind", ("segment", "rule")) == "segment":
        segment = form.text("segment", limit=80)
        if not segment:
            form.error("segment", gettext("Choose a segment, or write a rule."))
        return {"segment": segment}
    rule = form.json("rule")
    if rule is None:
        form.error("rule", gettext("This is needed."))
    return rule


def _variants(form: Form) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    rows = form.rows("variant")
    for index, row in rows:
        try:
            weight = float(row.get("weight") or 0) / 100
        except ValueError:
            form.error(f"variant-{index}-weight", gettext("Write a number."))
            weight = 0.0
        points = form.integer(f"variant-{index}-points", high=1_000_000) or 0
        templates = {channel: row[channel] for channel in CHANNELS if row.get(channel)}
        if not templates:
            form.error(f"variant-{index}-email", gettext("Choose a template for at least one channel."))
        found.append(
            {
                "name": row.get("name", ""),
                "weight": weight,
                "templates": templates,
                "coupon_batch": row.get("batch") or None,
                "points": points,
            }
        )
    if not rows:
        form.error("variants", gettext("A campaign needs a variant."))
    elif form.ok and abs(sum(one["weight"] for one in found) - 1) > 1e-6:
        total = sum(one["weight"] for one in found)
        form.error(
            "variants",
            gettext("The weights sum to %(total)s %%; make them 100 %%.", total=f"{total * 100:g}"),
        )
    return found


def _channels(form: Form) -> list[str]:
    chosen = [form.choice(f"channel-{place}", (*CHANNELS, ""), "") for place in range(1, len(CHANNELS) + 1)]
    order = [channel for channel in chosen if channel]
    if not order:
        form.error("channel-1", gettext("Choose at least one channel."))
    if len(set(order)) < len(order):
        form.error("channel-2", gettext("Each channel can stand in one place only."))
    return order


def _utm(form: Form) -> dict[str, Any] | None:
    """Empty without a source."""
    found: dict[str, Any] = {
        name: form.text(f"utm_{name}", limit=MAX_UTM) for name in ("source", "medium", "campaign")
    }
    found["hosts"] = form.text("utm_hosts", limit=1000).replace(",", " ").split()
    if not found["source"] and any(found.values()):
        form.error("utm_source", gettext("Give the source too, or leave all of them empty."))
    return found if found["source"] else None


def _quiet_hours(form: Form) -> dict[str, str] | None:
    if not form.flag("quiet"):
        return None
    start, end = form.clock("quiet_start"), form.clock("quiet_end")
    if not start or not end or start == end:
        form.error("quiet_start", gettext("Quiet hours need two different times."))
    return {"start": start or "", "end": end or "", "mode": form.choice("quiet_mode", QUIET_MODES)}


def refuse(form: Form, error: InvalidInput) -> None:
    """Put the package's refusal beside the field that its path means."""
    path = error.field or ""
    name = path
    if path.startswith("variants["):
        index, _, rest = path.removeprefix("variants[").partition("]")
        part = rest.lstrip(".")
        known = {
            "name": "name",
            "weight": "weight",
            "templates": "email",
            "points": "points",
            "coupon_batch": "batch",
        }
        head, _, channel = part.partition(".")
        name = f"variant-{index}-{channel or known.get(head, 'name')}"
    elif path.startswith("audience"):
        name = "segment" if form.value("audience_kind") == "segment" else "rule"
    elif path.startswith("utm"):
        name = path.replace("utm.", "utm_")
    elif path.startswith("variants"):
        name = "variants"
    elif path.startswith(("channels", "quiet_hours", "message_cost_minor")):
        name = {"c": "channel-1", "q": "quiet_start", "m": "cost-email"}[path[0]]
    form.error(name, said(error))
