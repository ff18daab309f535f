"""``/r/<token>``: what a friend gets, the way to the shop, and the link as a QR code to pass on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from flask import Blueprint, Response, make_response, render_template_string, request, url_for
from markupsafe import Markup

from core.db import Database
from core.errors import NotFound
from core.models import Member
from core.settings import Settings
from loyalty.groups.groups import masked
from loyalty.models import CouponBatch
from loyalty.referrals import links, programs
from loyalty.referrals.models import ReferralProgram
from web.public import pages
from web.public.wallet_words import Words

INVITED: pages.Text = ("邀请您一起来逛逛", "invites you")
ENDED: pages.Text = ("活动暂未开放", "No invitations at the moment")
ENDED_NOTE: pages.Text = ("请稍后再来看看。", "Please come back later.")
GO: pages.Text = ("前往商城", "To the shop")
WELCOME: pages.Text = ("欢迎光临，看看我们的商品。", "Come and see what we have.")
SHARE: pages.Text = ("扫码也可打开本页", "This page as a QR code")

LANGUAGES = (Words("zh", ZoneInfo("UTC")), Words("en", ZoneInfo("UTC")))
"""For amounts and numbers only, which no zone changes."""

_PAGE = """<!doctype html>
<html lang="zh-CN"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex"><title>{{ title[0] }} · {{ title[1] }}</title>
<link rel="stylesheet" href="{{ style }}"></head>
<body><main><h1>{{ who }} {{ title[0] }}<br><span class="en" lang="en">{{ who }} {{ title[1] }}</span></h1>
{% for zh, en in lines %}<p>{{ zh }}</p><p class="en" lang="en">{{ en }}</p>{% endfor %}
<a class="go" href="{{ shop_url }}" rel="noreferrer">{{ go[0] }} · <span lang="en">{{ go[1] }}</span></a>
{{ qr }}<p class="en">{{ share[0] }} · <span lang="en">{{ share[1] }}</span></p>
</main><footer>{{ shop }}</footer></body></html>"""


def reward_words(points: int | None, batch: CouponBatch | None) -> pages.Text | None:
    """What a side gets, in both languages; None: nothing."""
    if points is not None:
        return f"{LANGUAGES[0].number(points)} 积分", f"{LANGUAGES[1].number(points)} points"
    if batch is None:
        return None
    return benefit_words(batch.benefit, batch.currency, batch.min_spend_minor)


def benefit_words(benefit: dict[str, Any], currency: str, min_spend_minor: int) -> pages.Text:
    """What a coupon gives, in both languages."""
    zh, en = (words.gives(benefit, currency) for words in LANGUAGES)
    if min_spend_minor:
        least_zh, least_en = _money(min_spend_minor, currency)
        zh, en = f"{zh}（满 {least_zh} 可用）", f"{en} from {least_en}"
    return zh, en


def _money(minor: int, currency: str) -> pages.Text:
    zh, en = (words.money(minor, currency) for words in LANGUAGES)
    return zh, en


def _lines(settings: Settings, program: ReferralProgram, batch: CouponBatch | None) -> list[pages.Text]:
    found: list[pages.Text] = []
    reward = reward_words(program.friend_points, batch)
    if reward is None:
        found.append(WELCOME)
    else:
        days = program.return_days
        condition = ("首单付款", "your first paid order")
        if program.min_order_minor:
            zh, en = _money(program.min_order_minor, program.currency)
            condition = (f"首单满 {zh}", f"your first order of {en} or more")
        found.append((f"您将获得：{reward[0]}", f"You get {reward[1]}"))
        wait = (f"，{days} 天退货期后发放。", f" and {days} days for returns.") if days else ("后发放。", ".")
        found.append((f"{condition[0]}{wait[0]}", f"It comes after {condition[1]}{wait[1]}"))
    if program.ends_at is not None:
        day = program.ends_at.astimezone(settings.zone).date().isoformat()
        found.append((f"活动截止 {day}。", f"Until {day}."))
    return found


def add_routes(
    blueprint: Blueprint, database: Database, settings: Settings, now: Callable[[], datetime]
) -> None:
    """The page of a member's link. Looking is counted, and changes nothing else."""

    @blueprint.get("/r/<token>", endpoint="referral")
    def invited(token: str) -> Response:
        try:
            member_id = links.read_token(token)
        except NotFound:
            return pages.gone(settings.shop_name)
        with database.read() as session:
            member = session.execute(
                sa.select(Member.name).where(Member.id == member_id, Member.erased_at.is_(None))
            ).one_or_none()
            program = programs.current(session, now())
            batch_id = program.friend_batch_id if program is not None else None
            batch = session.get(CouponBatch, batch_id) if batch_id is not None else None
        if member is None:
            return pages.gone(settings.shop_name)
        if program is None:
            return pages.page(settings.shop_name, ENDED, [ENDED_NOTE])
        ahead = request.headers.get("Sec-Purpose", "") + request.headers.get("Purpose", "")
        if request.method == "GET" and "prefetch" not in ahead.lower():
            with database.write() as session:
                links.opened(session, program.id, member_id, now())
        html = render_template_string(
            _PAGE,
            title=INVITED,
            who=masked(member.name),
            lines=_lines(settings, program, batch),
            shop_url=links.shop_url(settings, token),
            go=GO,
            share=SHARE,
            # Drawn by us from our own address: no text of anybody's is in it.
            qr=Markup(links.qr_svg(links.link_url(settings, member_id))),  # noqa: S704
            style=url_for("public.style", v=pages.STYLE_VERSION),
            shop=settings.shop_name,
        )
        return make_response(html)
