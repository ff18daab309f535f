"""What turns a marketer's source into HTML that mail programs understand: MJML, and styles put inline.

Done once per version, on the source: expressions (``{{ … }}``, ``{% … %}``) are hidden from the parsers
and put back as they were.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import css_inline
import mrml

from core.errors import InvalidInput

MAX_INLINED = 200_000
_JINJA = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
_TAG = re.compile(r"<!--.*?-->|<[a-zA-Z/!](?:\{\{.*?\}\}|\{%.*?%\}|\"[^\"]*\"|'[^']*'|[^>\"'])*>", re.DOTALL)
_STYLE = re.compile(r"<style\b", re.IGNORECASE)
_HIDDEN = re.compile(r"<!--huiliu(\d+)-->|huiliu(\d+)x")
_INLINER = css_inline.CSSInliner(
    keep_style_tags=True, keep_link_tags=True, load_remote_stylesheets=False, extra_css=None
)


def _hidden(source: str) -> tuple[str, list[str]]:
    """The source without expressions: comments stand for those between tags, words for those inside one."""
    kept: list[str] = []

    def hide(form: str) -> Callable[[re.Match[str]], str]:
        def replace(match: re.Match[str]) -> str:
            kept.append(match[0])
            return form.format(len(kept) - 1)

        return replace

    found, at = [], 0
    for tag in _TAG.finditer(source):
        found.append(_JINJA.sub(hide("<!--huiliu{}-->"), source[at : tag.start()]))
        found.append(_JINJA.sub(hide("huiliu{}x"), tag[0]))
        at = tag.end()
    found.append(_JINJA.sub(hide("<!--huiliu{}-->"), source[at:]))
    return "".join(found), kept


def _shown(text: str, kept: list[str]) -> str:
    return _HIDDEN.sub(lambda match: kept[int(match[1] or match[2])], text)


def inlined(source: str, field: str) -> str:
    """Rules of ``<style>`` written into the elements they match; other sources stay as they are.

    Media queries and the like stay in ``<style>``. Raises InvalidInput for CSS that cannot be read.
    """
    if not _STYLE.search(source) or len(source) > MAX_INLINED:
        return source
    hidden, kept = _hidden(source)
    try:
        result = _INLINER.inline(hidden)
    except css_inline.InlineError as error:
        raise InvalidInput(f"{field}: the styles cannot be put inline: {error}", field) from None
    shown = _shown(result, kept)
    if sorted(_JINJA.findall(shown)) != sorted(_JINJA.findall(source)):
        raise InvalidInput(
            f"{field}: an expression stands where the styles cannot be put inline, such as between a tag's "
            "attributes; move it into an attribute's value or between tags.",
            field,
        )
    return shown


def html_of_mjml(source: str, field: str) -> str:
    """MJML as HTML. Raises InvalidInput naming what the parser did not understand."""
    hidden, kept = _hidden(source)
    # MJML drops comments where it allows no text: there, expressions must stand in <mj-raw>.
    marked = re.sub(r"<!--(huiliu\d+)-->", r"\1x", hidden)
    try:
        html = str(mrml.to_html(marked).content)
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{field}: this MJML cannot be read: {error}", field) from None
    shown = _shown(html, kept)
    lost = sorted({expression for expression in kept if expression not in shown})
    if lost:
        raise InvalidInput(
            f"{field}: {lost[0]} stands where MJML allows no text; put it into <mj-text> or <mj-raw>.", field
        )
    return shown
