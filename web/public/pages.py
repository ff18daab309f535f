"""The few pages that members see: leaving, confirming, and links that are no longer good.

Bilingual in one page, without scripts, cookies or anything from elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from http import HTTPStatus

from flask import Response, make_response, render_template_string, url_for

STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1d2129; --soft: #5f6875; --paper: #f6f7f9; --card: #fff; --line: #e4e7ec; --accent: #0b6e6e;
}
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaed; --soft: #9aa3af; --paper: #14171c; --card: #1d2229; --line: #2d343e;
    --accent: #4fb9b0; }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.6 system-ui, -apple-system, "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", sans-serif;
}
main {
  max-width: 26rem; margin: min(12vh, 12vw) auto 2rem; padding: 2rem;
  background: var(--card); border: 1px solid var(--line); border-radius: 14px;
}
h1 { font-size: 1.25rem; line-height: 1.35; margin: 0 0 1rem; }
p { margin: .5rem 0; }
.en { color: var(--soft); font-size: .94rem; }
label {
  display: flex; gap: .6rem; align-items: center; padding: .55rem 0; border-bottom: 1px solid var(--line);
}
input { width: 1.1rem; height: 1.1rem; accent-color: var(--accent); }
button {
  margin-top: 1.25rem; width: 100%; padding: .7rem 1rem; border: 0; border-radius: 9px; cursor: pointer;
  background: var(--accent); color: var(--card); font: inherit; font-weight: 600;
}
fieldset { border: 0; margin: 0 0 1.25rem; padding: 0; }
legend, .field { font-weight: 600; padding: 0; }
.field { display: block; border: 0; margin: 1rem 0; }
select {
  display: block; width: 100%; margin-top: .35rem; padding: .6rem;
  font: inherit; font-weight: 400; color: inherit;
  background: var(--paper); border: 1px solid var(--line); border-radius: 9px;
}
button.quiet { background: none; color: var(--accent); border: 1px solid var(--line); }
.done { padding: .6rem .8rem; border-left: 4px solid var(--accent); background: var(--paper); }
.switch { text-align: right; margin: -1rem -.5rem .5rem; font-size: .9rem; }
.switch a { color: var(--accent); padding: .5rem; }
button:focus-visible, select:focus-visible, a:focus-visible, input:focus-visible {
  outline: 3px solid var(--accent); outline-offset: 2px; }
a { color: var(--accent); }
progress { accent-color: var(--accent); vertical-align: middle; }
/* A code is read from dark squares on white, in the dark theme as well. */
.qr {
  display: block; width: 100%; max-width: 15rem; height: auto; margin: 1.25rem auto .5rem;
  background: #fff; border-radius: 9px;
}
.go {
  display: block; margin-top: 1.25rem; padding: .7rem 1rem; border-radius: 9px; text-align: center;
  background: var(--accent); color: var(--card); font-weight: 600; text-decoration: none;
}
footer { text-align: center; color: var(--soft); font-size: .85rem; }
"""

STYLE_VERSION = hashlib.sha256(STYLE.encode()).hexdigest()[:8]

_PAGE = """<!doctype html>
<html lang="zh-CN"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex"><title>{{ title[0] }} · {{ title[1] }}</title>
<link rel="stylesheet" href="{{ style }}"></head>
<body><main><h1>{{ title[0] }}<br><span class="en" lang="en">{{ title[1] }}</span></h1>
{% for zh, en in lines %}<p>{{ zh }}</p><p class="en" lang="en">{{ en }}</p>{% endfor %}
{% if button %}<form method="post">
<button type="submit">{{ button[0] }} · {{ button[1] }}</button></form>{% endif %}
</main><footer>{{ shop }}</footer></body></html>"""

Text = tuple[str, str]
"""A sentence in Chinese and in English."""

UNSUBSCRIBE: Text = ("确认退订", "Unsubscribe")
UNSUBSCRIBE_ASK: Text = (
    "点击下面的按钮后，您将不再收到我们的营销消息。",
    "Press the button to stop our marketing messages.",
)
UNSUBSCRIBE_NOTE: Text = (
    "订单等服务通知不受影响。",
    "Messages about your orders are not affected.",
)
LEFT: Text = ("已为您退订", "You are unsubscribed")
LEFT_NOTE: Text = (
    "您将不再收到我们通过此渠道发送的营销消息。",
    "You will get no more marketing from us by this channel.",
)
CONFIRM: Text = ("确认订阅", "Confirm")
CONFIRM_ASK: Text = (
    "点击下面的按钮，确认您愿意通过电子邮件接收我们的优惠消息。",
    "Press the button to confirm that you want our offers by e-mail.",
)
CONFIRMED: Text = ("订阅已确认", "Confirmed")
CONFIRMED_NOTE: Text = ("感谢您的订阅，您可以随时退订。", "Thank you. You can leave at any time.")
TOO_LATE: Text = ("链接已过期", "This link is too old")
TOO_LATE_NOTE: Text = (
    "链接 7 天内有效。请重新订阅，我们会再发送一封确认邮件。",
    "It was good for 7 days. Subscribe again, and we will send a new one.",
)
GONE: Text = ("链接无效", "This link is not valid")
GONE_NOTE: Text = (
    "链接不完整或已失效。请直接点击消息中的链接。",
    "It is incomplete or too old. Please use the link in the message itself.",
)
CHANNEL_NAMES = {
    "email": ("电子邮件", "E-mail"),
    "sms": ("短信", "Text message"),
    "wechat": ("微信", "WeChat"),
    "webhook": ("App 通知", "App"),
    "wecom": ("企业微信", "WeCom"),
}


def page(
    shop: str,
    title: Text,
    lines: Sequence[Text],
    *,
    button: Text | None = None,
    status: int = 200,
) -> Response:
    """A page; ``button`` makes it a form that posts back to its own address."""
    style = url_for("public.style", v=STYLE_VERSION)
    html = render_template_string(_PAGE, shop=shop, style=style, title=title, lines=lines, button=button)
    return make_response(html, status)


def gone(shop: str) -> Response:
    """The page of a link that is no longer good."""
    return page(shop, GONE, [GONE_NOTE], status=HTTPStatus.NOT_FOUND)
