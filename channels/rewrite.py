"""Changes to a template's HTML source, made once per version: tracked links, preheader, pixel, text.

They work on the source, not on the result, so that a message costs nothing but filling in.
Line numbers stay what the marketer sees.
"""

from __future__ import annotations

import html as html_entities
import json
import re
from html.parser import HTMLParser

_EXPRESSION = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_JINJA = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
_VALUE = r"(?:\{\{.*?\}\}|\{%.*?%\}|[^"
_HREF = re.compile(
    rf"""(<a\b(?:\{{\{{.*?\}}\}}|\{{%.*?%\}}|[^>])*?\bhref\s*=\s*)(?:"({_VALUE}"])*)"|'({_VALUE}'])*)')""",
    re.IGNORECASE | re.DOTALL,
)
_UNTRACKED = re.compile(
    r"^\s*(?:$|#|mailto:|tel:|sms:|\{\{\s*(?:unsubscribe_url|preferences_url|wallet_url|track\())",
    re.IGNORECASE,
)
_BODY_START = re.compile(r"<body\b[^>]*>", re.IGNORECASE)
_BODY_END = re.compile(r"</body\s*>", re.IGNORECASE)
_HIDDEN = "display:none;max-height:0;overflow:hidden;mso-hide:all"
PIXEL = '<img src="{{ _open_url }}" width="1" height="1" alt="">'
TRAP = f'<a href="{{{{ _trap_url }}}}" style="{_HIDDEN}" tabindex="-1" aria-hidden="true"></a>'
"""A link that nobody sees: who follows it follows every link, and is no reader."""
_ANY_HREF = re.compile(
    r"""<(?:a|mj-button|mj-navbar-link|mj-image)\b[^>]*?\bhref\s*=\s*["']([^"']*)["']""", re.I
)


def tracked(source: str) -> str:
    """Every plain link of the HTML goes through ``track``; unsubscribe, mail and phone links stay."""
    return _HREF.sub(_tracked_link, source)


def _tracked_link(match: re.Match[str]) -> str:
    value = match[2] if match[2] is not None else match[3]
    if "{%" in value or _UNTRACKED.match(value):
        return match[0]
    parts = _EXPRESSION.split(value)
    terms = [
        f"({part.strip()})|_text"
        if number % 2
        else json.dumps(html_entities.unescape(part), ensure_ascii=False)
        for number, part in enumerate(parts)
        if part
    ]
    return f'{match[1]}"{{{{ _track({" ~ ".join(terms)}) }}}}"'


def with_preheader(source: str, preheader: str) -> str:
    """The line that mail programs show after the subject, hidden at the start of the body."""
    hidden = f'<div style="{_HIDDEN}">{preheader}</div>'
    match = _BODY_START.search(source)
    at = match.end() if match else 0
    return source[:at] + hidden + source[at:]


def link_count(source: str) -> int:
    """How many different places the tracked links of a message's HTML or MJML lead to."""
    return len({href for href in _ANY_HREF.findall(source) if not _UNTRACKED.match(href)})


def with_pixel(source: str) -> str:
    """The open pixel and the hidden link before the body's end."""
    found = list(_BODY_END.finditer(source))
    at = found[-1].start() if found else len(source)
    return source[:at] + TRAP + PIXEL + source[at:]


class _Text(HTMLParser):
    """Visible text of HTML; links keep their address in brackets."""

    _BLOCKS = frozenset(
        [
            "p",
            "div",
            "tr",
            "table",
            "ul",
            "ol",
            "li",
            "h1",
            "h2",
            "h3",
            "h4",
            "h5",
            "h6",
            "section",
            "article",
            "header",
            "footer",
            "blockquote",
        ]
    )
    _SILENT = frozenset({"style", "script", "head", "title"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.out: list[str] = []
        self._silent = 0
        self._href: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self._SILENT:
            self._silent += 1
        elif tag == "br" or tag in self._BLOCKS:
            self.out.append("\n- " if tag == "li" else "\n")
        elif tag == "a":
            self._href.append(dict(attrs).get("href") or "")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._SILENT:
            self._silent = max(0, self._silent - 1)
        elif tag in self._BLOCKS:
            self.out.append("\n")
        elif tag == "a" and self._href:
            href = self._href.pop()
            if href and not href.startswith("#"):
                self.out.append(f" ({href})")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.out.append(re.sub(r"\s+", " ", data))


def text_of(source: str) -> str:
    """A plain-text template from an HTML template; its expressions are kept."""
    kept: list[str] = []

    def keep(match: re.Match[str]) -> str:
        kept.append(match[0])
        return f"\ue000{len(kept) - 1}\ue001"

    parser = _Text()
    parser.feed(_JINJA.sub(keep, source))
    parser.close()
    lines = [line.strip() for line in "".join(parser.out).split("\n")]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"
    return re.sub(r"\ue000(\d+)\ue001", lambda match: kept[int(match[1])], text)
