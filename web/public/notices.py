"""``/p/<name>/notice``: the rules of a promotion as they were published, in Chinese and English."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime

from flask import Blueprint, Response, make_response, render_template_string, request, url_for

from core.db import Database
from core.settings import Settings
from loyalty.promotions import notices
from web.public import pages

_STYLE = """
main { max-width: 38rem; }
dl { margin: 0 0 1.5rem; }
dt { font-weight: 600; margin-top: .9rem; }
dd { margin: .15rem 0 0; overflow-wrap: anywhere; }
.date { color: var(--soft); font-size: .9rem; }
.date a { color: var(--accent); }
section + section { border-top: 1px solid var(--line); padding-top: 1.25rem; }
h2 { font-size: 1.05rem; margin: 0 0 .5rem; }
@media print {
  body, main { background: #fff; color: #000; }
  main { max-width: none; margin: 0; padding: 0; border: 0; }
  .others { display: none; }
  dt, dd, h2 { break-after: avoid; }
}
"""
_STYLE_VERSION = hashlib.sha256(_STYLE.encode()).hexdigest()[:8]
_PAGE = """<!doctype html>
<html lang="zh-CN"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ texts.zh.title }} · 活动规则 Rules</title>
<link rel="stylesheet" href="{{ style }}"><link rel="stylesheet" href="{{ own_style }}"></head>
<body><main><h1>{{ texts.zh.title }}</h1>
{% for lang, code, heading, date_word in languages %}<section lang="{{ lang }}"><h2>{{ heading }}</h2>
<dl>{% for name, text in texts[code].parts %}<dt>{{ name }}</dt><dd>{{ text }}</dd>{% endfor %}
<dt>{{ date_word }}</dt><dd>{{ day }}</dd></dl></section>{% endfor %}
<p class="date">版本 Version {{ number }}{% if others %} <span class="others">·
{% for other, address in others %}<a href="{{ address }}">{{ other }}</a> {% endfor %}</span>{% endif %}</p>
</main><footer>{{ shop }}</footer></body></html>"""
_LANGUAGES = (
    ("zh-CN", "zh", "活动规则", "公示日期"),
    ("en", "en", "Rules", "Notice published"),
)
MAX_LINKS = 20


def add_routes(
    blueprint: Blueprint, database: Database, settings: Settings, _now: Callable[[], datetime]
) -> None:
    """Only what was published is shown; ``?n=`` chooses an earlier version of it."""

    @blueprint.get("/p/notice.css", endpoint="notice_style")
    def style() -> Response:
        response = make_response(_STYLE)
        response.mimetype = "text/css"
        response.headers["Cache-Control"] = "public, max-age=86400"
        return response

    @blueprint.get("/p/<name>/notice", endpoint="notice")
    def show(name: str) -> Response:
        wanted = request.args.get("n", "")
        number = int(wanted) if wanted.isascii() and wanted.isdecimal() and len(wanted) < 10 else None
        if "\x00" in name or (wanted and number is None):
            return pages.gone(settings.shop_name)
        with database.read() as session:
            found = notices.published(session, name, number)
        if found is None:
            return pages.gone(settings.shop_name)
        shown, count = found
        newest = range(count, max(0, count - MAX_LINKS), -1)
        html = render_template_string(
            _PAGE,
            texts=shown.texts,
            number=shown.number,
            day=f"{shown.published_at.astimezone(settings.zone):%Y-%m-%d}",
            languages=_LANGUAGES,
            others=[(n, url_for("public.notice", name=name, n=n)) for n in newest if n != shown.number],
            style=url_for("public.style", v=pages.STYLE_VERSION),
            own_style=url_for("public.notice_style", v=_STYLE_VERSION),
            shop=settings.shop_name,
        )
        return make_response(html)
