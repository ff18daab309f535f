"""``/v/<token>``: one read-out for whoever holds its link, until it ends or is withdrawn. Changes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime

from flask import Blueprint, Response, make_response, render_template, request, url_for

from core.db import Database
from core.settings import Settings
from experiments import readout_links
from experiments.models import Experiment
from web.console import readout_page
from web.public import pages
from web.queries import campaigns as queries

_STYLE = """
:root {
  color-scheme: light dark;
  --ink: #16181d; --ink-2: #54585f; --paper: #fbfbfa; --surface: #fff; --line: #e3e3df; --accent: #2b4fc7;
  --good: #16703f; --good-soft: #e4f3ea; --watch: #8a5a00; --watch-soft: #fbf0d9;
  --bad: #b3262b; --bad-soft: #fbe7e6;
  --chart-1: #2b4fc7; --chart-2: #d9822b; --chart-3: #0f8a7e; --chart-4: #b0458f; --chart-5: #6b7280;
  --chart-6: #7a5af0; --chart-7: #a67c00; --chart-8: #3a8fd6;
}
@media (prefers-color-scheme: dark) { :root {
  --ink: #eceef2; --ink-2: #a9aeb8; --paper: #121316; --surface: #191b1f; --line: #30333a; --accent: #93a9ff;
  --good: #6fd09a; --good-soft: #17301f; --watch: #e3b65c; --watch-soft: #362a10;
  --bad: #ff8f8a; --bad-soft: #401d1d;
  --chart-1: #93a9ff; --chart-2: #f0a35e; --chart-3: #4fc4b6; --chart-4: #e28fc6; --chart-5: #a9aeb8;
  --chart-6: #b5a2ff; --chart-7: #dcb44a; --chart-8: #82c1f2;
} }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "PingFang SC", "Microsoft YaHei", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1rem; }
header { display: flex; justify-content: space-between; gap: 1rem; align-items: flex-start; }
h1 { font-size: 1.4rem; margin: 0 0 1rem; }
h2 { font-size: 1.05rem; margin: 0 0 .6rem; }
h3 { font-size: .95rem; margin: 1rem 0 .3rem; }
p { margin: .4rem 0; }
a, summary { color: var(--accent); }
summary { cursor: pointer; }
.panel { background: var(--surface); border: 1px solid var(--line); border-radius: 8px; padding: 1.1rem;
  margin: 0 0 1rem; }
.verdict { font-size: 1.2rem; line-height: 1.45; font-weight: 600; max-width: 64ch; }
.row { display: flex; gap: .6rem; align-items: center; flex-wrap: wrap; }
.muted, .base, figcaption, footer { color: var(--ink-2); }
.base, .small, figcaption { font-size: .87rem; }
.badge { display: inline-block; padding: 0 .5rem; border-radius: 4px; font-size: .85rem; font-weight: 600; }
.is-good { color: var(--good); background: var(--good-soft); }
.is-watch { color: var(--watch); background: var(--watch-soft); }
.is-bad { color: var(--bad); background: var(--bad-soft); }
.facts { display: grid; grid-template-columns: minmax(6rem, max-content) minmax(0, 1fr); gap: .35rem 1rem;
  margin: 0; }
.facts dt { color: var(--ink-2); }
.facts dd { margin: 0; }
.table-wrap { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .45rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; }
.num { text-align: right; font-variant-numeric: tabular-nums; }
.visually-hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.pic-box { margin: 0; }
.pic { display: block; width: 100%; max-width: 760px; height: auto; }
.pic-narrow { display: none; }
.nowrap { white-space: nowrap; }
.plain-list { padding-left: 1.1rem; }
select, button { font: inherit; padding: .3rem .6rem; color: inherit; background: var(--surface);
  border: 1px solid var(--ink-2); border-radius: 6px; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
footer { max-width: 62rem; margin: 0 auto; padding: 0 1rem 2rem; font-size: .87rem; }
@media (max-width: 560px) {
  .pic-wide { display: none; }
  .pic-narrow { display: block; }
  .facts { grid-template-columns: minmax(0, 1fr); gap: .1rem; }
  .facts dd { margin-bottom: .5rem; }
}
@media print {
  .pic-wide { display: block; } .pic-narrow, .switch, form { display: none; }
  .panel { break-inside: avoid; }
}
"""
_STYLE_VERSION = hashlib.sha256(_STYLE.encode()).hexdigest()[:8]


def add_routes(
    blueprint: Blueprint, database: Database, settings: Settings, now: Callable[[], datetime]
) -> None:
    """The page and its style."""

    @blueprint.get("/v/style.css", endpoint="readout_style")
    def style() -> Response:
        response = make_response(_STYLE)
        response.mimetype = "text/css"
        response.headers["Cache-Control"] = "public, max-age=86400"
        return response

    @blueprint.get("/v/<token>", endpoint="readout")
    def show(token: str) -> Response:
        with database.read() as session:
            row = readout_links.opened(session, token, now())
            if row is None:
                return pages.gone(settings.shop_name)
            campaign = queries.campaign_of(session, row.experiment_id)
            title = campaign.title if campaign else session.get_one(Experiment, row.experiment_id).name
            html = render_template(
                "results/public.html",
                full=readout_page.full(row, request.args.get("by", "")),
                title=title,
                shop=settings.shop_name,
                style=url_for("public.readout_style", v=_STYLE_VERSION),
            )
        response = make_response(html)
        response.headers["X-Robots-Tag"] = "noindex, nofollow"
        return response
