"""The preference centre: channels, how often, a pause, or leaving altogether; one language at a time.

Looking changes nothing, whoever looks and however often; saving is one transaction.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import sqlalchemy as sa
from flask import Blueprint, Response, make_response, render_template_string, request, url_for

from channels import optin, preferences, tracking
from channels.consent import MARKETING
from channels.models import Message
from channels.preferences import Choices, Wish
from core.contacts import CHANNELS, EMAIL, WEBHOOK, WECOM
from core.db import Database
from core.imports import ConsentChange
from core.models import Member
from core.settings import Settings
from web.public import pages

WEEKLY = (1, 2, 3, 5)
PAUSES = (30, 90)
"""Days."""
OPTIONAL = frozenset({WEBHOOK, WECOM})
"""Channels that not every shop has: shown to members who agreed to them."""
LANGUAGES = {"zh": "中文", "en": "English"}

_TEXTS = {
    "title": ("订阅偏好", "Your preferences"),
    "by": ("我愿意通过以下渠道接收优惠消息", "Send me offers by"),
    "often": ("频率", "How often"),
    "all": ("全部消息", "Every message"),
    "weekly": ("每周最多 {} 条", "At most {} a week"),
    "pause": ("暂停", "Pause"),
    "no_pause": ("不暂停", "No pause"),
    "days": ("暂停 {} 天", "Nothing for {} days"),
    "until": ("暂停至 {}", "Nothing until {}"),
    "save": ("保存", "Save"),
    "leave": ("退订全部营销消息", "Stop all marketing"),
    "orders": ("订单等服务通知不受影响。", "Messages about your orders are not affected."),
    "saved": ("已保存，立即生效。", "Saved. It counts from now on."),
    "asked": (
        "已保存。我们已向您的邮箱发送确认邮件，请点击其中的链接完成订阅。",
        "Saved. We sent you an e-mail: follow its link to confirm offers by e-mail.",
    ),
    "left": ("已为您退订全部营销消息。", "You will get no more marketing from us."),
}

_PAGE = """<!doctype html>
<html lang="{{ 'zh-CN' if language == 'zh' else 'en' }}"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex"><title>{{ t.title }}</title>
<link rel="stylesheet" href="{{ style }}"></head>
<body><main>
<p class="switch"><a href="?lang={{ other }}" lang="{{ other }}">{{ other_name }}</a></p>
<h1>{{ t.title }}</h1>
{% if done %}<p class="done" role="status">{{ done }}</p>{% endif %}
<form method="post" action="?lang={{ language }}">
<fieldset><legend>{{ t.by }}</legend>
{% for value, text, on in channels %}<label><input type="checkbox" name="channel" value="{{ value }}"
{{ 'checked' if on }}><span>{{ text }}</span></label>
{% endfor %}</fieldset>
{% for name, title, choices in selects %}<label class="field">{{ title }}<select name="{{ name }}">
{% for value, text, on in choices %}<option value="{{ value }}"{{ ' selected' if on }}>{{ text }}</option>
{% endfor %}</select></label>
{% endfor %}<button type="submit">{{ t.save }}</button>
<button class="quiet" type="submit" name="leave" value="all">{{ t.leave }}</button></form>
<p class="en">{{ t.orders }}</p>
</main><footer>{{ shop }}</footer></body></html>"""

Option = tuple[str, str, bool]
"""(value, text, chosen)"""


def add_routes(
    blueprint: Blueprint, database: Database, settings: Settings, now: Callable[[], datetime]
) -> None:
    """``/p/<token>``, for the member of the message that the token names, or the member itself."""

    def member_of(token: str) -> tuple[int, str, str] | None:
        """(id, language, channel of the message) of the member, or None for a link that is not good."""
        own = tracking.read_member(tracking.WISHES, token)
        message_id = tracking.read_message(tracking.PREFERENCES, token)
        if own is None and message_id is None:
            return None
        with database.read() as session:
            if own is not None:
                known = session.get(Member, own)
                if known is None or known.erased_at is not None:
                    return None
                return own, language_of(known.locale), ""
            row = session.execute(
                sa.select(Member.id, Member.locale, Message.channel)
                .join(Message, Message.member_id == Member.id)
                .where(Message.id == message_id, Member.erased_at.is_(None))
            ).one_or_none()
        return None if row is None else (row.id, language_of(row.locale), row.channel)

    def shown(member_id: int, language: str, done: str = "") -> Response:
        with database.read() as session:
            choices = preferences.load(session, member_id)
        return _page(settings, choices, language, now(), done)

    @blueprint.get("/p/<token>", endpoint="preferences")
    def show(token: str) -> Response:
        found = member_of(token)
        return pages.gone(settings.shop_name) if found is None else shown(*found[:2])

    @blueprint.post("/p/<token>", endpoint="save_preferences")
    def save(token: str) -> Response:
        found = member_of(token)
        if found is None:
            return pages.gone(settings.shop_name)
        member_id, language, channel = found
        done = "left" if "leave" in request.form else "saved"
        with database.write() as session:
            before, at = preferences.load(session, member_id), now()
            wanted = _wanted(before, at)
            # A link from a mailbox proves that the mailbox is theirs; one from a phone does not.
            if (
                EMAIL in wanted.channels - before.channels
                and channel != EMAIL
                and optin.needed(settings, EMAIL, MARKETING)
            ):
                asked = ConsentChange(member_id, EMAIL, MARKETING, True, preferences.SOURCE, at)
                optin.change(session, settings, asked)
                wanted, done = Choices(wanted.channels - {EMAIL}, wanted.wish), "asked"
            preferences.save(session, member_id, wanted, at)
        return shown(member_id, language, _text(done, language))


def language_of(locale: str | None) -> str:
    """As the switch says, else as the member's profile does, else as the browser asks."""
    asked = request.args.get("lang", "")
    if asked in LANGUAGES:
        return asked
    if locale:
        return "zh" if locale.lower().startswith("zh") else "en"
    return request.accept_languages.best_match(list(LANGUAGES), "zh") or "zh"


def _wanted(before: Choices, now: datetime) -> Choices:
    """What the form asks for; fields that it does not have, or that make no sense, stay as they were."""
    form = request.form
    if "leave" in form:
        return Choices(frozenset(), before.wish)
    weekly, paused = before.wish
    if form.get("weekly_max") == "":
        weekly = None
    elif form.get("weekly_max", "").isdecimal():
        number = int(form["weekly_max"][:3])
        weekly = number if 1 <= number <= preferences.MAX_WEEKLY else weekly
    if form.get("pause") == "":
        paused = None
    elif form.get("pause", "-") in {str(days) for days in PAUSES}:
        paused = now + timedelta(days=int(form["pause"]))
    return Choices(frozenset(form.getlist("channel")) & set(_shown(before)), Wish(weekly, paused))


def _shown(choices: Choices) -> list[str]:
    return [name for name in CHANNELS if name not in OPTIONAL or name in choices.channels]


def _text(name: str, language: str) -> str:
    return _TEXTS[name][language == "en"]


def _page(settings: Settings, choices: Choices, language: str, now: datetime, done: str) -> Response:
    def text(name: str) -> str:
        return _text(name, language)

    weekly, paused_until = choices.wish
    weeks = sorted({*WEEKLY, *([weekly] if weekly else [])})
    often: list[Option] = [("", text("all"), weekly is None)]
    often += [(str(number), text("weekly").format(number), number == weekly) for number in weeks]
    paused = choices.wish.paused(now)
    pauses: list[Option] = [("", text("no_pause"), not paused)]
    if paused and paused_until is not None:
        day = paused_until.astimezone(settings.zone).date().isoformat()
        pauses.append(("keep", text("until").format(day), True))
    pauses += [(str(days), text("days").format(days), False) for days in PAUSES]
    other = next(code for code in LANGUAGES if code != language)
    html = render_template_string(
        _PAGE,
        t={name: text(name) for name in _TEXTS},
        language=language,
        other=other,
        other_name=LANGUAGES[other],
        style=url_for("public.style", v=pages.STYLE_VERSION),
        channels=[
            (name, pages.CHANNEL_NAMES[name][language == "en"], name in choices.channels)
            for name in _shown(choices)
        ],
        selects=[("weekly_max", text("often"), often), ("pause", text("pause"), pauses)],
        shop=settings.shop_name,
        done=done,
    )
    return make_response(html)
