"""``/w/<token>``: what a member holds, on one page; and the way to it through WeChat.

Looking changes nothing. The token is the member's, signed; who is erased or unknown sees the page of a
link that is no longer good. ``/w/wechat`` asks WeChat who the visitor is and leads the bound member there.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, make_response, redirect, request, url_for
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from werkzeug.wrappers import Response as BaseResponse

from channels import tracking
from channels.wechat import binding
from core.db import Database
from core.errors import HuiliuError, InvalidInput
from core.settings import Settings
from loyalty.coupons import EXPIRED, HELD, ISSUED, REDEEMED, CouponView
from loyalty.groups.groups import masked
from loyalty.referrals import links
from loyalty.tiers.model import SPEND, Program
from loyalty.tiers.store import Membership
from web.public import pages
from web.public.binding import ENDED, FAILED, REFUSED_NOTE, SILENT_NOTE
from web.public.preferences import LANGUAGES, language_of
from web.public.wallet_page import PAGE, STYLE, STYLE_VERSION
from web.public.wallet_words import BENEFITS, UNITS, Words
from web.queries import wallet as queries
from web.queries.wallet import Wallet

SHOWN = 30
"""Usable coupons on the page; the rest are counted."""
PAST = 20
DAYS = 3
"""Days at which points expire, and days from which they become usable."""
NOBODY = 0
"""The member of a state that asks who the visitor is."""
BACK = "/w/wechat/back"

_TEMPLATE = Environment(autoescape=True, undefined=StrictUndefined).from_string(PAGE)
"""Compiled once: that takes longer than everything else on the page."""

UNBOUND: pages.Text = ("此微信还没有绑定会员", "This WeChat is not connected to a membership")
UNBOUND_NOTE: pages.Text = (
    "请在商城的会员中心或向客服索取绑定二维码，用微信扫描后再打开本页。",
    "Ask for a code in the shop's member area or from our service and scan it; then open this page again.",
)
LATE_NOTE: pages.Text = ("请重新打开券包。", "Please open your wallet again.")
REFUSED: pages.Text = ("无法打开券包", "The wallet was not opened")


def add_routes(
    blueprint: Blueprint, database: Database, settings: Settings, now: Callable[[], datetime]
) -> None:
    """The page, its style, and the two addresses of the way through WeChat."""

    @blueprint.get("/w/style.css", endpoint="wallet_style")
    def style() -> Response:
        response = make_response(STYLE)
        response.mimetype = "text/css"
        response.headers["Cache-Control"] = "public, max-age=86400"
        return response

    @blueprint.get("/w/<token>", endpoint="wallet")
    def show(token: str) -> Response:
        member_id = tracking.read_member(tracking.WALLET, token)
        if member_id is None:
            return pages.gone(settings.shop_name)
        with database.read() as session:
            found = queries.load(session, member_id, now())
        return pages.gone(settings.shop_name) if found is None else _page(settings, found, now())

    @blueprint.get("/w/wechat", endpoint="wallet_wechat")
    def ask() -> BaseResponse:
        state = binding.make_state(NOBODY, now())
        return redirect(binding.authorize_url(settings, state, BACK, "snsapi_base"), 302)

    @blueprint.get(BACK, endpoint="wallet_wechat_back")
    def back() -> BaseResponse:
        return _from_wechat(database, settings, now())


def _from_wechat(database: Database, settings: Settings, now: datetime) -> BaseResponse:
    """Lead the member whose WeChat it is to their wallet. A state works once; a binding's not at all."""

    def page(title: pages.Text, line: pages.Text, status: int) -> Response:
        return pages.page(settings.shop_name, title, [line], status=status)

    state = binding.read_state(request.args.get("state", ""), now)
    if state is None or state.member_id != NOBODY:
        return page(ENDED, LATE_NOTE, HTTPStatus.NOT_FOUND)
    code = request.args.get("code", "")
    if not code:
        return page(REFUSED, REFUSED_NOTE, HTTPStatus.FORBIDDEN)
    with database.write() as session:
        unused = binding.spend(session, state, now)
    if not unused:
        return page(ENDED, LATE_NOTE, HTTPStatus.NOT_FOUND)
    try:
        identity = binding.exchange(settings, code)
    except InvalidInput:
        return page(REFUSED, REFUSED_NOTE, HTTPStatus.FORBIDDEN)
    except HuiliuError:
        return page(FAILED, SILENT_NOTE, HTTPStatus.BAD_GATEWAY)
    with database.read() as session:
        member_id = queries.member_of_openid(session, identity.openid)
    if member_id is None:
        return page(UNBOUND, UNBOUND_NOTE, HTTPStatus.NOT_FOUND)
    return redirect(tracking.wallet_url(settings.base_url, member_id), 302)


@lru_cache(maxsize=1024)
def _qr(text: str) -> Markup:
    # Drawn by us, as squares: no text of anybody's is in it.
    return Markup(links.qr_svg(text))  # noqa: S704


def _page(settings: Settings, wallet: Wallet, now: datetime) -> Response:
    words = Words(language_of(wallet.locale), settings.zone)
    other = next(code for code in LANGUAGES if code != words.language)
    usable = [one for one in wallet.coupons if one.state in (ISSUED, HELD) and not _coming(one, now)]
    preferences = tracking.member_preferences_url("", wallet.member_id)
    html = _TEMPLATE.render(
        w=words,
        t=words.text,
        shop=settings.shop_name,
        who=masked(wallet.name),
        other=other,
        other_name=LANGUAGES[other],
        style=url_for("public.wallet_style", v=STYLE_VERSION),
        tier=_tier(words, wallet.program, wallet.tier) if wallet.tier is not None else None,
        balance=wallet.balance,
        expiring=words.by_day(wallet.expiring, DAYS, ends=True),
        pending=words.by_day(wallet.pending, DAYS, ends=False),
        entries=[
            (words.entry(one.kind, one.source_id), words.date(one.at), words.signed(one.points))
            for one in wallet.entries
        ],
        usable=[_coupon(words, one) for one in usable[:SHOWN]],
        more=len(usable[SHOWN:]),
        coming=[_coupon(words, one, qr=False) for one in wallet.coupons if _coming(one, now)][:SHOWN],
        past=[
            (one.title, words.text(one.state)) for one in wallet.coupons if one.state in (REDEEMED, EXPIRED)
        ][-PAST:],
        groups=_groups(words, wallet),
        invite=_invite(words, settings, wallet),
        preferences=f"{preferences}?lang={words.language}",
    )
    return make_response(html)


def _coming(coupon: CouponView, now: datetime) -> bool:
    return coupon.state == ISSUED and coupon.valid_from is not None and coupon.valid_from > now


def _coupon(words: Words, coupon: CouponView, *, qr: bool = True) -> dict[str, Any]:
    least, end = coupon.min_spend_minor, coupon.valid_until
    return {
        "code": coupon.code,
        "title": coupon.title,
        "gives": words.gives(coupon.benefit, coupon.currency),
        "minimum": words.text("minimum", words.money(least, coupon.currency))
        if least
        else words.text("no_minimum"),
        "until": words.text("until", words.until(end)) if end is not None else words.text("forever"),
        "from": words.text("from_day", words.day(coupon.valid_from)) if coupon.valid_from else "",
        "kept": coupon.state == HELD,
        "qr": _qr(coupon.code) if qr else "",
    }


def _tier(words: Words, program: Program, member: Membership) -> dict[str, Any]:
    """The tier in words: its title, until when it holds, and what is missing to the next."""
    titles = {tier.name: words.pick((tier.title, tier.title_en or tier.title)) for tier in program.tiers}
    found: dict[str, Any] = {
        "title": titles.get(member.tier or ""),
        "until": words.until(member.until) if member.until is not None else None,
        "next": None,
        "share": 0,
        "benefits": [
            words.pick(text).format(member.benefits[name])
            for name, text in BENEFITS.items()
            if member.benefits.get(name)
        ],
    }
    if member.next_tier is not None and member.to_next is not None:
        amount = (
            words.money(member.to_next, program.currency)
            if program.basis == SPEND
            else words.number(member.to_next)
        )
        missing = words.pick(UNITS[program.basis]).format(amount)
        found["next"] = words.text("to_next", missing, titles[member.next_tier])
        found["share"] = 100 * member.value // max(1, member.value + member.to_next)
    return found


def _groups(words: Words, wallet: Wallet) -> list[dict[str, Any]]:
    return [
        {
            "title": one.title,
            "seats": one.seats,
            "taken": one.taken,
            "link": one.link,
            "left": words.text("left", one.taken, one.seats, one.seats - one.taken),
            "by": words.text("by", words.day(one.deadline)),
        }
        for one in wallet.groups
    ]


def _invite(words: Words, settings: Settings, wallet: Wallet) -> dict[str, Any] | None:
    if wallet.invited is None:
        return None
    url = links.link_url(settings, wallet.member_id)
    said = words.text("invited", words.number(wallet.invited.joined))
    if wallet.invited.rewarded:
        said += ("，" if words.language == "zh" else ", ") + words.text(
            "rewarded", words.number(wallet.invited.rewarded)
        )
    return {"url": url, "qr": _qr(url), "joined": said}
