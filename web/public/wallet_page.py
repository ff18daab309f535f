"""How the wallet looks: one column on a phone, cards beside each other on a wide screen."""

from __future__ import annotations

import hashlib

from web.public import pages

STYLE = (
    pages.STYLE
    + """
main.wallet { max-width: 66rem; margin: 0 auto; padding: 1rem; background: none; border: 0; }
main.wallet header { display: flex; gap: 1rem; align-items: baseline; justify-content: space-between;
  flex-wrap: wrap; margin: .5rem .25rem 1rem; }
main.wallet h1 { margin: 0; }
main.wallet h2 { font-size: 1rem; margin: 0 0 .75rem; }
main.wallet h3 { font-size: .94rem; margin: 1.25rem 0 .5rem; color: var(--soft); font-weight: 600; }
main.wallet .switch { margin: 0; }
main.wallet a { color: var(--accent); overflow-wrap: anywhere; }
@media (min-width: 52rem) {
  /* The coupons, which are long, beside everything else; what is missing leaves no gap. */
  .cards { display: grid; grid-template-columns: 1fr 1fr; grid-template-rows: repeat(4, max-content) 1fr;
    column-gap: 1rem; align-items: start; }
  .card { grid-column: 1; }
  .card.coupons { grid-column: 2; grid-row: 1 / 6; }
}
.card { margin: 0 0 1rem; padding: 1.25rem; background: var(--card);
  border: 1px solid var(--line); border-radius: 14px; }
.big { font-size: 2rem; font-weight: 700; line-height: 1.15; margin: 0; font-variant-numeric: tabular-nums; }
.whole { display: inline-block; margin-right: .75rem; }
.soft { color: var(--soft); font-size: .94rem; }
.plain { list-style: none; margin: 0; padding: 0; }
.plain li { padding: .55rem 0; border-top: 1px solid var(--line); }
.plain li:first-child { border-top: 0; }
.line { display: flex; gap: 1rem; justify-content: space-between; align-items: baseline; }
.line > :last-child { white-space: nowrap; font-variant-numeric: tabular-nums; }
.coupon { padding: 1rem; margin: 0 0 .75rem; border: 1px dashed var(--accent); border-radius: 12px; }
.coupon p { margin: .2rem 0; }
.gives { font-size: 1.2rem; font-weight: 700; line-height: 1.3; }
.code { display: block; margin: .6rem 0 .3rem; padding: .5rem .75rem; background: var(--paper);
  border-radius: 9px; font: 700 1.35rem/1.4 ui-monospace, "SF Mono", Consolas, monospace;
  letter-spacing: .05em; overflow-wrap: anywhere; user-select: all; -webkit-user-select: all; }
.link { font-size: .94rem; font-weight: 400; letter-spacing: 0; }
details summary { cursor: pointer; padding: .5rem 0; color: var(--accent); }
summary:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.qr { display: block; width: 11rem; max-width: 100%; height: auto; margin: .5rem 0; padding: .5rem;
  background: #fff; border-radius: 9px; }
progress { width: 100%; height: .6rem; accent-color: var(--accent); }
.tag { display: inline-block; margin: .25rem .35rem 0 0; padding: .1rem .6rem; border: 1px solid var(--line);
  border-radius: 99px; font-size: .85rem; color: var(--soft); }
"""
)
STYLE_VERSION = hashlib.sha256(STYLE.encode()).hexdigest()[:8]

PAGE = """<!doctype html>
<html lang="{{ 'zh-CN' if w.language == 'zh' else 'en' }}"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex"><title>{{ t("title") }} · {{ shop }}</title>
<link rel="stylesheet" href="{{ style }}"></head>
<body><main class="wallet">
<header><div><h1>{{ t("title") }}</h1><span class="soft">{{ who }} · {{ shop }}</span></div>
<p class="switch"><a href="?lang={{ other }}" lang="{{ other }}">{{ other_name }}</a></p></header>
<div class="cards">
{% if tier %}<section class="card"><h2>{{ t("tier") }}</h2>
<p class="big">{{ tier.title or t("no_tier") }}</p>
{% if tier.until %}<p class="soft">{{ t("until", tier.until) }}</p>{% endif %}
{% if tier.next %}<progress max="100" value="{{ tier.share }}" aria-label="{{ tier.next }}"></progress>
<p>{{ tier.next }}</p>{% elif tier.title %}<p class="soft">{{ t("top") }}</p>{% endif %}
{% for text in tier.benefits %}<span class="tag">{{ text }}</span>{% endfor %}</section>
{% endif %}
<section class="card"><h2>{{ t("points") }}</h2>
<p class="big">{{ w.number(balance.available) }}</p><p class="soft">{{ t("available") }}</p>
{% for day, number in expiring %}<p>{{ t("expiring", number, day) }}</p>{% endfor %}
{% for day, number in pending %}<p>{{ t("pending", day, number) }}</p>{% endfor %}
{% if balance.held %}<p class="soft">{{ t("held", w.number(balance.held)) }}</p>{% endif %}
{% if balance.debt %}<p class="soft">{{ t("debt", w.number(balance.debt)) }}</p>{% endif %}
{% if entries %}<details><summary>{{ t("history") }}</summary><ul class="plain">
{% for text, day, number in entries %}<li class="line">
<span>{{ text }}<br><span class="soft">{{ day }}</span></span><span>{{ number }}</span></li>
{% endfor %}</ul></details>{% else %}<p class="soft">{{ t("no_points") }}</p>{% endif %}</section>
<section class="card coupons"><h2>{{ t("coupons") }}</h2>
{% for one in usable %}<article class="coupon"><p class="gives">{{ one.gives }}</p>
<p>{{ one.title }}</p>
<p class="soft"><span class="whole">{{ one.minimum }}</span> <span class="whole">{{ one.until }}</span></p>
{% if one.kept %}<p class="soft">{{ t("kept") }}</p>{% endif %}
<code class="code" aria-label="{{ t('code') }}">{{ one.code }}</code>
<details><summary>{{ t("qr") }}</summary>
<div role="img" aria-label="{{ t('qr_of', one.code) }}">{{ one.qr }}</div></details>
</article>
{% else %}<p class="soft">{{ t("no_coupons") }}</p>{% endfor %}
{% if more %}<p class="soft">{{ t("more", more) }}</p>{% endif %}
{% if coming %}<h3>{{ t("coming") }}</h3><ul class="plain">
{% for one in coming %}<li>{{ one.title }}<br><span class="soft">{{ one.gives }} · {{ one.from }}</span></li>
{% endfor %}</ul>{% endif %}
{% if past %}<details><summary>{{ t("past") }}</summary><ul class="plain">
{% for title, state in past %}<li class="line"><span>{{ title }}</span>
<span class="soft">{{ state }}</span></li>
{% endfor %}</ul></details>{% endif %}</section>
{% if groups %}<section class="card"><h2>{{ t("groups") }}</h2><ul class="plain">
{% for one in groups %}<li><a href="{{ one.link }}">{{ one.title }}</a>
<progress max="{{ one.seats }}" value="{{ one.taken }}" aria-label="{{ one.title }}"></progress>
<span class="soft whole">{{ one.left }}</span> <span class="soft whole">{{ one.by }}</span></li>
{% endfor %}</ul></section>{% endif %}
{% if invite %}<section class="card"><h2>{{ t("invite") }}</h2>
<p>{{ invite.joined }}</p>
<code class="code link">{{ invite.url }}</code>
<div role="img" aria-label="{{ t('invite_qr') }}">{{ invite.qr }}</div></section>{% endif %}
</div>
<p><a href="{{ preferences }}">{{ t("preferences") }}</a></p>
<p class="soft">{{ t("private") }}</p>
</main><footer>{{ shop }}</footer></body></html>"""
