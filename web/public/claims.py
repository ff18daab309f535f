"""The page behind a claim link or its QR code: one code a member, shown to a signed link only.

Looking claims nothing. Whoever types a phone number or e-mail address is told the same whether the shop
knows it or not: the code lies in the wallet of the member whose it is. Links that are none count as wrong
codes of the visitor's address; every claim is noted against abuse, in a transaction of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime
from http import HTTPStatus

from flask import Blueprint, Response, make_response, render_template_string, request, url_for
from limits import parse

from core.db import Database
from core.errors import InvalidInput, NotFound
from core.settings import Settings
from loyalty import claims
from loyalty.abuse import guesses, signals
from loyalty.abuse.rules import BLOCK
from loyalty.abuse.rules import CLAIM as ABUSE_CLAIM
from loyalty.abuse.subjects import IP, subjects_of
from loyalty.models import ClaimLink, CouponBatch
from loyalty.uses import Refused
from web.public import pages
from web.rates import fixed_windows

RATE = parse("20/minute")
"""Tries with a typed address, by the visitor's address."""
MAX_CONTACT = 254

CLAIM: pages.Text = ("领取优惠券", "Claim your coupon")
ASK: pages.Text = (
    "请输入您在本店使用的手机号或邮箱。",
    "Enter the phone number or e-mail address that the shop knows you by.",
)
FIELD: pages.Text = ("手机号或邮箱", "Phone number or e-mail address")
PRESS: pages.Text = ("点击下面的按钮领取。", "Press the button to claim it.")
THANKS: pages.Text = ("已收到", "Thank you")
IN_WALLET: pages.Text = (
    "如果这是本店会员的联系方式，优惠券已放入该会员的券包，登录后即可使用。",
    "If a member of the shop has this address, the coupon is in their wallet: it is there once they log in.",
)
YOURS: pages.Text = ("您的券码", "Your code")
KEEP: pages.Text = ("下单时输入此券码。", "Enter it when you order.")
NOT_YET: pages.Text = ("活动尚未开始", "Not open yet")
OVER: pages.Text = ("活动已结束", "This offer is over")
USED_UP: pages.Text = ("已领完", "All coupons were claimed")
HAD: pages.Text = ("您已领过该券，达到上限。", "You have had all of these coupons that one member may have.")
WRONG: pages.Text = (
    "请检查：这不是手机号或邮箱。",
    "Please check: this is neither a phone number nor an e-mail address.",
)
LOCKED: pages.Text = ("链接错误次数过多，请稍后再试。", "Too many wrong links; please try again later.")
NOT_NOW: pages.Text = ("暂时无法领取。", "This cannot be claimed at the moment.")
TOO_MANY: pages.Text = ("请一分钟后再试。", "Please try again in a minute.")
_CLOSED = {claims.NOT_YET: NOT_YET, claims.OVER: OVER, claims.USED_UP: USED_UP}

STYLE = (
    pages.STYLE
    + """
input.text { display: block; width: 100%; height: auto; margin-top: .35rem; padding: .6rem; font: inherit;
  color: inherit; background: var(--paper); border: 1px solid var(--line); border-radius: 9px; }
strong { font-size: 1.2rem; letter-spacing: .06em; overflow-wrap: anywhere; }
"""
)
STYLE_VERSION = hashlib.sha256(STYLE.encode()).hexdigest()[:8]

_PAGE = """<!doctype html>
<html lang="zh-CN"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex"><title>{{ title }}</title>
<link rel="stylesheet" href="{{ style }}"></head>
<body><main><h1>{{ title }}</h1>
{% for zh, en in lines %}<p>{{ zh }}</p><p class="en" lang="en">{{ en }}</p>{% endfor %}
{% if code %}<p class="done" role="status"><strong>{{ code }}</strong></p>{% endif %}
{% if error %}<p class="done" role="alert" id="error">{{ error[0] }}<br><span class="en" lang="en">
{{ error[1] }}</span></p>{% endif %}
{% if form %}<form method="post">
{% if field %}<label class="field" for="contact">{{ field[0] }} ·
<span lang="en">{{ field[1] }}</span></label>
<input class="text" id="contact" name="contact" value="{{ typed }}" maxlength="254" required
autocomplete="off" {% if error %}aria-invalid="true" aria-describedby="error"{% endif %}>{% endif %}
<button type="submit">{{ button[0] }} · <span lang="en">{{ button[1] }}</span></button></form>{% endif %}
</main><footer>{{ shop }}</footer></body></html>"""


def add_routes(
    blueprint: Blueprint, database: Database, settings: Settings, now: Callable[[], datetime]
) -> None:
    """``/claim/<token>``: GET asks, POST claims and may be repeated. ``?m=…`` is a member's signed link."""
    seen = fixed_windows()

    def found(token: str) -> tuple[ClaimLink, CouponBatch] | Response:
        """The link and its batch; or what is answered where it is none, or the visitor is locked out."""
        subjects = _visitor()
        with database.read() as session:
            if guesses.locked_until(session, subjects, now()) is not None:
                return pages.page(settings.shop_name, CLAIM, [LOCKED], status=HTTPStatus.TOO_MANY_REQUESTS)
            try:
                return claims.find_link(session, token)
            except NotFound:
                pass
        with database.write() as session:
            guesses.failed(session, subjects, now())
        return pages.gone(settings.shop_name)

    @blueprint.get("/claim/style.css")
    def claim_style() -> Response:
        response = make_response(STYLE)
        response.mimetype = "text/css"
        response.headers["Cache-Control"] = "public, max-age=86400"
        return response

    @blueprint.get("/claim/<token>")
    def ask_to_claim(token: str) -> Response:
        pair = found(token)
        if isinstance(pair, Response):
            return pair
        link, batch = pair
        member_id = claims.read_member(link, request.args.get("m", ""))
        state = claims.state_of(link, batch, now())
        if state in _CLOSED and (member_id is None or state != claims.USED_UP):
            return _page(settings, link, [_CLOSED[state]])
        return _form(settings, link, member_id is not None)

    @blueprint.post("/claim/<token>")
    def claim_code(token: str) -> Response:
        pair = found(token)
        if isinstance(pair, Response):
            return pair
        link, batch = pair
        member_id = claims.read_member(link, request.args.get("m", ""))
        if member_id is not None:
            return _for_member(settings, database, link, member_id, now())
        state = claims.state_of(link, batch, now())
        if state in _CLOSED:  # said to everybody alike, before anybody is looked for
            return _page(settings, link, [_CLOSED[state]])
        typed = request.form.get("contact", "").strip()[:MAX_CONTACT]
        if not seen.hit(RATE, request.remote_addr or ""):
            return _form(settings, link, False, typed, TOO_MANY, HTTPStatus.TOO_MANY_REQUESTS)
        try:
            _quietly(database, link, typed, now())
        except InvalidInput:
            return _form(settings, link, False, typed, WRONG, HTTPStatus.UNPROCESSABLE_ENTITY)
        return _page(settings, link, [THANKS, IN_WALLET])


def _visitor() -> dict[str, str]:
    """What a visitor may be known by again."""
    try:
        return subjects_of({IP: request.remote_addr})
    except InvalidInput:  # a server on a socket has no addresses
        return {}


def _blocked(database: Database, link: ClaimLink, member_id: int | None, now: datetime) -> bool:
    """Note a claim and judge it. What is noted stays noted when claiming is refused; a repetition of a
    known member's claim is no second one."""
    key = None if member_id is None else f"page:{link.id}:{member_id}"
    sent = {IP: request.remote_addr} if _visitor() else {}
    with database.write() as session:
        return signals.observe(session, ABUSE_CLAIM, sent, member_id, now, key=key).decision == BLOCK


def _for_member(
    settings: Settings, database: Database, link: ClaimLink, member_id: int, now: datetime
) -> Response:
    if _blocked(database, link, member_id, now):
        return _page(settings, link, [NOT_NOW], status=HTTPStatus.CONFLICT)
    try:
        with database.write() as session:
            code = claims.claim_code(session, link.token, member_id, now).code
            guesses.succeeded(session, _visitor())
    except Refused as refusal:
        texts = {"claim_over": OVER, "claim_used_up": USED_UP, "per_member_limit": HAD}
        return _page(settings, link, [texts.get(refusal.reason, USED_UP)])
    return _page(settings, link, [YOURS, KEEP], code)


def _quietly(database: Database, link: ClaimLink, typed: str, now: datetime) -> None:
    """Claim for whom the address names. Whether somebody was found, or may have no more, is not told."""
    with database.read() as session:
        member_id = claims.member_by_contact(session, typed)
    if _blocked(database, link, member_id, now) or member_id is None:
        return
    try:
        with database.write() as session:
            claims.claim_code(session, link.token, member_id, now)
    except Refused:
        return


def _form(
    settings: Settings,
    link: ClaimLink,
    known: bool,
    typed: str = "",
    error: pages.Text | None = None,
    status: HTTPStatus = HTTPStatus.OK,
) -> Response:
    return _page(
        settings,
        link,
        [PRESS if known else ASK],
        form=True,
        field=None if known else FIELD,
        typed=typed,
        error=error,
        status=status,
    )


def _page(
    settings: Settings,
    link: ClaimLink,
    lines: list[pages.Text],
    code: str = "",
    *,
    form: bool = False,
    field: pages.Text | None = None,
    typed: str = "",
    error: pages.Text | None = None,
    status: HTTPStatus = HTTPStatus.OK,
) -> Response:
    html = render_template_string(
        _PAGE,
        title=link.title,
        lines=lines,
        code=code,
        form=form,
        field=field,
        typed=typed,
        error=error,
        button=CLAIM,
        style=url_for("public.claim_style", v=STYLE_VERSION),
        shop=settings.shop_name,
    )
    return make_response(html, status)
