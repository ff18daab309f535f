"""What stands on a page can be read: contrast AA in the light and the dark theme, a name for every control."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.web import addresses, browser, loyalty_seed, seed
from tests.web.conftest import Shop
from tests.web.test_assets import built

pytestmark = pytest.mark.browser

# WCAG 2.1, 1.4.3: 4.5, or 3 for text of 24 px and bold text of 18.66 px. Colours are read back from a
# canvas, so that every notation counts; what is behind is what the ancestors paint, one over the other.
FAINT = """() => {
  const context = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = (text) => {
    context.clearRect(0, 0, 1, 1); context.fillStyle = '#0000'; context.fillStyle = text;
    context.fillRect(0, 0, 1, 1);
    const d = context.getImageData(0, 0, 1, 1).data; return [d[0], d[1], d[2], d[3] / 255];
  };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const light = (c) => {
    const [r, g, b] = c.slice(0, 3).map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const layers = [];
    for (let one = element; one; one = one.parentElement) {
      const style = getComputedStyle(one);
      if (style.backgroundImage !== 'none') return null;
      const colour = rgba(style.backgroundColor);
      layers.push(colour);
      if (colour[3] === 1) break;
    }
    const canvas = matchMedia('(prefers-color-scheme: dark)').matches ? [18, 18, 18, 1] : [255, 255, 255, 1];
    return layers.reverse().reduce((below, top) => over(top, below), canvas);
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
    if (!text || !element.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    if (element.closest('svg, script, style, noscript, [disabled], [aria-disabled=true], option')) continue;
    const box = element.getBoundingClientRect();
    if (box.width < 2 || box.height < 2) continue;
    const style = getComputedStyle(element), back = behind(element);
    if (back === null) continue;
    const a = light(over(rgba(style.color), back)), b = light(back);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const size = parseFloat(style.fontSize), bold = parseInt(style.fontWeight) >= 700;
    if (ratio < (size >= 24 || (bold && size >= 18.66) ? 3 : 4.5) - 0.01)
      found.push(`${ratio.toFixed(2)} ${element.tagName}.${element.className} “${text.slice(0, 40)}”`);
  }
  return [...new Set(found)];
}"""
NAMELESS = """() => [...document.querySelectorAll('input:not([type=hidden]), select, textarea, button, a[href]')]
  .filter(one => one.checkVisibility())
  .filter(one => !(one.labels && one.labels.length) && !one.getAttribute('aria-label')
    && !one.getAttribute('aria-labelledby') && !one.title && !one.textContent.trim()
    && !one.querySelector('img[alt]:not([alt=""])') && !(one.type === 'submit' && one.value))
  .map(one => one.outerHTML.slice(0, 120))"""
HEADLESS = """() => [...document.querySelectorAll('table')].filter(one => one.checkVisibility()
  && !one.querySelector('th')).map(one => one.outerHTML.slice(0, 120))"""


@pytest.fixture
def chromium(shop: Shop) -> Iterator[tuple[Any, str]]:
    browser.need_browser()
    built()
    with browser.serving(shop.app) as base, browser.browser() as found:
        yield found, base


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_and_controls_have_names(
    chromium: tuple[Any, str], shop: Shop, scheme: str
) -> None:
    page = browser.open_page(*chromium, width=1280, height=900, language="en")
    page.emulate_media(color_scheme=scheme)
    browser.log_in(page, "admin@example.com", seed.PASSWORD)
    assert _wrong(page, tuple(addresses.browsed(shop))) == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_loyalty_in_full_use_and_what_members_see_can_be_read(
    chromium: tuple[Any, str], shop: Shop, scheme: str
) -> None:
    public = loyalty_seed.fill(shop)
    page = browser.open_page(*chromium, width=1280, height=900, language="zh")
    page.emulate_media(color_scheme=scheme)
    browser.log_in(page, "admin@example.com", seed.PASSWORD)
    assert _wrong(page, (*loyalty_seed.PAGES, *public)) == {}
    page.goto(public[3])
    assert page.evaluate("getComputedStyle(document.querySelector('svg.qr')).backgroundColor") == (
        "rgb(255, 255, 255)"
    ), "a code is dark on white in both themes"


def _wrong(page: Any, paths: tuple[str, ...]) -> dict[str, list[str]]:
    wrong: dict[str, list[str]] = {}
    for address in paths:
        page.goto(address)
        found = [*page.evaluate(FAINT), *page.evaluate(NAMELESS), *page.evaluate(HEADLESS)]
        if found:
            wrong[address] = found
    return wrong


def test_a_faint_text_and_a_nameless_control_are_noticed(chromium: tuple[Any, str]) -> None:
    page = browser.open_page(*chromium, width=1280, height=900, language="en")
    browser.log_in(page, "admin@example.com", seed.PASSWORD)
    page.evaluate("""() => {
      const text = document.createElement('p'); text.textContent = 'faint'; text.className = 'probe';
      document.querySelector('main').append(text, document.createElement('button'), document.createElement('table'));
      const sheet = new CSSStyleSheet(); sheet.replaceSync('.probe { color: #bbb; background: #fff; }');
      document.adoptedStyleSheets.push(sheet);
      const table = document.querySelector('main > table:last-child');
      table.insertRow().insertCell().textContent = 'x';
    }""")
    assert any("faint" in one for one in page.evaluate(FAINT))
    assert len(page.evaluate(HEADLESS)) == 1
    assert any(one.startswith("<button") for one in page.evaluate(NAMELESS))
