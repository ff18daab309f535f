"""``/w/bind/<token>`` leads to WeChat's page, ``/w/bound`` comes back from it and binds the member."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from http import HTTPStatus

from flask import Blueprint, Response, redirect, request
from werkzeug.wrappers import Response as BaseResponse

from channels.wechat import binding
from channels.wechat.binding import Bound
from core.db import Database
from core.errors import HuiliuError, InvalidInput
from core.settings import Settings
from web.public import pages

BOUND: pages.Text = ("绑定成功", "Your WeChat is connected")
BOUND_NOTE: pages.Text = ("您的会员账户已与此微信绑定。", "This WeChat now belongs to your membership.")
TAKEN: pages.Text = ("此微信已绑定其他会员", "This WeChat belongs to another member")
TAKEN_NOTE: pages.Text = (
    "没有做任何更改。如需换绑，请联系客服。",
    "Nothing was changed. Please ask our service to move it.",
)
ENDED: pages.Text = ("二维码已失效", "This code is no longer valid")
ENDED_NOTE: pages.Text = ("请重新获取二维码后再扫描。", "Please ask for a new code and scan that.")
FAILED: pages.Text = ("绑定未完成", "Not connected")
REFUSED_NOTE: pages.Text = (
    "微信没有确认您的身份。请重新扫描，并在完整页面中同意授权。",
    "WeChat did not confirm who you are. Please scan again and agree on the whole page.",
)
SILENT_NOTE: pages.Text = (
    "微信暂时没有响应，请稍后再试。",
    "WeChat does not answer. Please try again later.",
)


def add_routes(
    blueprint: Blueprint, database: Database, settings: Settings, now: Callable[[], datetime]
) -> None:
    """The two addresses; neither changes anything before WeChat has said who the visitor is."""

    def page(title: pages.Text, line: pages.Text, status: int = HTTPStatus.OK) -> Response:
        return pages.page(settings.shop_name, title, [line], status=status)

    @blueprint.get("/w/bind/<token>")
    def bind(token: str) -> BaseResponse:
        member_id = binding.read_link(token, now())
        if member_id is None:
            return page(ENDED, ENDED_NOTE, HTTPStatus.NOT_FOUND)
        return redirect(binding.authorize_url(settings, binding.make_state(member_id, now())), 302)

    @blueprint.get("/w/bound")
    def bound() -> Response:
        state = binding.read_state(request.args.get("state", ""), now())
        if state is None:
            return page(ENDED, ENDED_NOTE, HTTPStatus.NOT_FOUND)
        code = request.args.get("code", "")
        if not code:
            return page(FAILED, REFUSED_NOTE, HTTPStatus.FORBIDDEN)
        with database.write() as session:
            unused = binding.spend(session, state, now())
        if not unused:
            return page(ENDED, ENDED_NOTE, HTTPStatus.NOT_FOUND)
        try:
            identity = binding.exchange(settings, code)
        except InvalidInput:
            return page(FAILED, REFUSED_NOTE, HTTPStatus.FORBIDDEN)
        except HuiliuError:
            return page(FAILED, SILENT_NOTE, HTTPStatus.BAD_GATEWAY)
        with database.write() as session:
            result = binding.bind(session, state.member_id, identity, now())
        if result is Bound.TAKEN:
            return page(TAKEN, TAKEN_NOTE, HTTPStatus.CONFLICT)
        if result is Bound.GONE:
            return page(ENDED, ENDED_NOTE, HTTPStatus.NOT_FOUND)
        return page(BOUND, BOUND_NOTE)
