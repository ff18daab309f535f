"""``/g/<token>``: how a group stands, and for who has a signed link of their own, the button to join."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from http import HTTPStatus

from flask import Blueprint, Response, make_response, render_template_string, request, url_for

from core.db import Database
from core.errors import Conflict, NotFound
from core.models import Member
from core.settings import Settings
from loyalty.abuse import signals
from loyalty.abuse.rules import BLOCK, GROUP
from loyalty.groups import groups
from loyalty.groups.groups import FAILED, OPEN, UNLOCKED, GroupView
from loyalty.referrals.links import shop_url
from web.public import pages
from web.public.referrals import benefit_words

JOIN: pages.Text = ("我要参团", "Join this group")
GO: pages.Text = ("前往商城参团", "Join in the shop")
SEATS: pages.Text = ("已参团人数", "Seats taken")
IN: pages.Text = ("您已在团中。", "You are in this group.")
STATES: dict[str, pages.Text] = {
    OPEN: ("邀请好友一起拼团", "Ask friends to join"),
    UNLOCKED: ("拼团成功！优惠券已发放到每位成员的账户。", "It is full: everybody has their coupon."),
    FAILED: ("拼团未成功，名额已释放。", "It did not fill in time; every seat was released."),
}
REFUSED: dict[str, pages.Text] = {
    groups.FULL: ("本团已满，请开新团或加入其他团。", "This group is full; open or join another."),
    groups.OVER: ("本团已结束，请开新团或加入其他团。", "Its time is over; open or join another."),
    groups.TOO_MANY: ("您同时参加的团已达上限。", "You are in as many open groups as one may be."),
    groups.NO_CODES: ("优惠券已发完，无法成团。", "The coupons are used up; it cannot be filled."),
}
NOT_NOW: pages.Text = ("暂时无法参团，请联系客服。", "You cannot join now; please ask our service.")

_PAGE = """<!doctype html>
<html lang="zh-CN"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex"><title>{{ group.title }}</title>
<link rel="stylesheet" href="{{ style }}"></head>
<body><main><h1>{{ group.title }}</h1>
{% if said %}<p class="done" role="status">{{ said[0] }}<br>
<span lang="en">{{ said[1] }}</span></p>{% endif %}
{% for zh, en in lines %}<p>{{ zh }}</p><p class="en" lang="en">{{ en }}</p>{% endfor %}
<p><progress max="{{ group.seats }}" value="{{ group.taken }}"
aria-label="{{ seats[0] }} · {{ seats[1] }}"></progress>
{{ group.taken }}/{{ group.seats }}</p>
<p>{{ group.faces|join(" · ") }}</p>
{% if button %}<form method="post"><button type="submit">{{ button[0] }} ·
<span lang="en">{{ button[1] }}</span></button></form>
{% elif group.state == "open" %}<a class="go" href="{{ shop_url }}" rel="noreferrer">{{ go[0] }} ·
<span lang="en">{{ go[1] }}</span></a>
{% endif %}</main><footer>{{ shop }}</footer></body></html>"""


def add_routes(
    blueprint: Blueprint, database: Database, settings: Settings, now: Callable[[], datetime]
) -> None:
    """GET shows and changes nothing; POST with a member's signed link joins, and may be repeated."""

    def look(token: str) -> tuple[GroupView, int | None] | None:
        """The group, and the member whose link it is; None: no such group."""
        with database.read() as session:
            try:
                group = groups.look(session, token, now())
            except NotFound:
                return None
            member_id = groups.read_member_token(request.args.get("m", ""), group.group_id)
            member = session.get(Member, member_id) if member_id is not None else None
        known = member is not None and member.erased_at is None
        return group, member_id if known else None

    def shown(
        group: GroupView, button: pages.Text | None, said: pages.Text | None = None, status: int = 200
    ) -> Response:
        html = render_template_string(
            _PAGE,
            group=group,
            lines=_lines(group, now()),
            button=button if group.state == OPEN else None,
            said=said,
            go=GO,
            seats=SEATS,
            shop_url=shop_url(settings, group.token, "group"),
            style=url_for("public.style", v=pages.STYLE_VERSION),
            shop=settings.shop_name,
        )
        return make_response(html, status)

    @blueprint.get("/g/<token>", endpoint="group")
    def show(token: str) -> Response:
        found = look(token)
        if found is None:
            return pages.gone(settings.shop_name)
        group, member_id = found
        return shown(group, JOIN if member_id is not None else None)

    @blueprint.post("/g/<token>", endpoint="join_group")
    def join(token: str) -> Response:
        found = look(token)
        if found is None or found[1] is None:
            return pages.gone(settings.shop_name)
        group, member_id = found
        assert member_id is not None
        key, at = f"page:{group.group_id}:{member_id}", now()
        with database.write() as session:  # what is noted stays noted when joining is refused
            sent = {"ip": request.remote_addr}
            verdict = signals.observe(session, GROUP, sent, member_id, at, key=key)
        if verdict.decision == BLOCK:
            return shown(group, None, NOT_NOW, HTTPStatus.CONFLICT)
        try:
            with database.write() as session:
                groups.join(session, token, member_id, idempotency_key=key, now=at)
        except Conflict as error:
            text = REFUSED.get(getattr(error, "reason", ""), NOT_NOW)
            return shown(group, None, text, HTTPStatus.CONFLICT)
        with database.read() as session:
            return shown(groups.look(session, token, now()), None, IN)


def _lines(group: GroupView, now: datetime) -> list[pages.Text]:
    zh, en = benefit_words(group.benefit, group.currency, group.min_spend_minor)
    found: list[pages.Text] = [
        (f"{group.seats} 人成团，每人得：{zh}", f"When {group.seats} have joined, each gets: {en}"),
        STATES[group.state],
    ]
    if group.state == OPEN:
        left = group.seats - group.taken
        hours, rest = divmod(max(group.deadline - now, timedelta()), timedelta(hours=1))
        minutes = rest // timedelta(minutes=1)
        found.append(
            (
                f"还差 {left} 人，剩余 {hours} 小时 {minutes} 分钟。",
                f"{left} more needed, {hours} h {minutes} min left.",
            )
        )
    return found
