"""The sandbox's followers: what they did, what that allows the shop to send, and their consent to binding.

In memory: a restarted sandbox knows nobody, as a new official account.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from html import escape
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from channels.sandbox.callbacks import Callbacks
from channels.sandbox.wechat_events import event, grant_event, text_message
from core.settings import Settings

WINDOWS = {"message": (48 * 3600.0, 5), "follow": (60.0, 3), "scan": (60.0, 3), "menu": (60.0, 3)}
CODE_S = 300.0
PAGE = 10_000
BATCH = 100


class Refusal(Exception):
    """An errcode."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class People:
    """What followers do comes by ``POST /wechat/sandbox/act``: {"openid", "does", …}."""

    def __init__(self, settings: Settings, callbacks: Callbacks) -> None:
        self._settings, self._callbacks = settings, callbacks
        self.followers: dict[str, float] = {}
        """openid → since when."""
        self.unfollowed: set[str] = set()
        self.grants: Counter[tuple[str, str]] = Counter()
        self._windows: dict[tuple[str, str], tuple[float, int]] = {}
        self._codes: dict[str, tuple[str, str, float]] = {}

    def take_window(self, openid: str) -> None:
        """One customer-service message. Raises Refusal as WeChat does."""
        now = time.time()
        opened = [key for key in self._windows if key[0] == openid and self._windows[key][0] > now]
        if not opened:
            raise Refusal(45015, "response out of time limit or subscription is canceled")
        for key in opened:
            until, left = self._windows[key]
            if left > 0:
                self._windows[key] = until, left - 1
                return
        raise Refusal(45047, "out of response count limit")

    def take_grant(self, openid: str, template: str) -> None:
        """One subscription message. Raises Refusal as WeChat does."""
        if self.grants[openid, template] < 1:
            raise Refusal(43101, "user refuse to accept the msg")
        self.grants[openid, template] -= 1

    async def act(self, request: web.Request) -> web.Response:
        """A follower does something; the shop hears of it."""
        body = await request.json()
        openid, does = str(body["openid"]), str(body["does"])
        match does:
            case "message":
                self._say(text_message(self._settings, openid, str(body.get("text", "你好"))))
            case "follow":
                self.followers[openid] = time.time()
                self.unfollowed.discard(openid)
                scene = str(body.get("scene", ""))
                key = {"EventKey": f"qrscene_{scene}"} if scene else {}
                self._say(event(self._settings, openid, "subscribe", **key))
            case "unfollow":
                self.followers.pop(openid, None)
                self.unfollowed.add(openid)
                self._say(event(self._settings, openid, "unsubscribe"))
            case "scan":
                self._say(event(self._settings, openid, "SCAN", EventKey=str(body.get("scene", ""))))
            case "menu":
                self._say(event(self._settings, openid, "CLICK", EventKey="menu"))
            case "agree" | "refuse":
                template, agrees = str(body["template_id"]), does == "agree"
                self.grants[openid, template] = (self.grants[openid, template] + 1) * int(agrees)
                self._say(grant_event(self._settings, openid, template, agrees=agrees))
            case _:
                return web.json_response({"error": f"nobody can {does}"}, status=400)
        if does in WINDOWS:
            lasts, number = WINDOWS[does]
            self._windows[openid, does] = time.time() + lasts, number
        return web.json_response({})

    def _say(self, document: bytes) -> None:
        self._callbacks.wechat_event(document)

    async def authorize(self, request: web.Request) -> web.StreamResponse:
        """The page on which a member agrees; ``as`` says who that is."""
        query = request.query
        target = query.get("redirect_uri", "")
        if query.get("appid") != self._settings.wechat_appid or query.get("response_type") != "code":
            return web.Response(text="Scope 参数错误或没有 Scope 权限", status=400)
        if not target.startswith(f"{self._settings.base_url}/"):
            return web.Response(text="redirect_uri 参数错误", status=400)
        if not (query.get("state", "").isalnum() and len(query["state"]) <= 128):
            return web.Response(text="state 参数错误", status=400)
        openid = query.get("as", "")
        if not openid:
            return web.Response(text=_agree_page(dict(query)), content_type="text/html")
        code = secrets.token_hex(16)
        self._codes[code] = openid, query.get("scope", ""), time.time() + CODE_S
        separator = "&" if "?" in target else "?"
        raise web.HTTPFound(f"{target}{separator}{urlencode({'code': code, 'state': query['state']})}")

    def exchange(self, query: dict[str, str]) -> dict[str, Any]:
        """A code for an openid, once and within five minutes. Raises Refusal."""
        if query.get("appid") != self._settings.wechat_appid:
            raise Refusal(40013, "invalid appid")
        if query.get("secret") != self._settings.wechat_secret:
            raise Refusal(40125, "invalid appsecret")
        openid, scope, until = self._codes.pop(query.get("code", ""), ("", "", 0.0))
        if until < time.time():
            raise Refusal(40029, "invalid code")
        found = {"access_token": secrets.token_hex(20), "expires_in": 7200, "openid": openid, "scope": scope}
        if openid.startswith("snapshot"):
            found["is_snapshotuser"] = 1
        if scope == "snsapi_userinfo":
            found["unionid"] = f"union-{openid}"
        return found

    def page(self, after: str) -> dict[str, Any]:
        """A page of followers, those after ``after``."""
        everybody = sorted(self.followers)
        start = everybody.index(after) + 1 if after in self.followers else 0
        listed = everybody[start : start + PAGE]
        found: dict[str, Any] = {"total": len(everybody), "count": len(listed)}
        if listed:
            found |= {"data": {"openid": listed}, "next_openid": listed[-1]}
        return found | {"next_openid": listed[-1] if listed else ""}

    def infos(self, wanted: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What WeChat tells of followers. Raises Refusal for more than a hundred."""
        if not 1 <= len(wanted) <= BATCH:
            raise Refusal(40032, "invalid openid list size")
        found = []
        for one in wanted:
            openid = str(one.get("openid", ""))
            if openid in self.followers:
                since = int(self.followers[openid])
                unionid = f"union-{openid}"
                found.append({"subscribe": 1, "openid": openid, "unionid": unionid, "subscribe_time": since})
            else:
                found.append({"subscribe": 0, "openid": openid})
        return found


def _agree_page(query: dict[str, str]) -> str:
    hidden = "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in query.items()
    )
    openid = f"oSandbox{secrets.token_hex(10)}"
    return (
        '<!doctype html><html lang="zh-CN"><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width"><title>WeChat</title><h1>微信授权 · Sandbox</h1>'
        f'<form>{hidden}<p><label>openid <input name="as" value="{openid}" required></label></p>'
        "<button>同意 · Agree</button></form></html>"
    )
