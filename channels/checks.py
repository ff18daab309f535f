"""What is wrong, or may be, with a template: found before it is saved. Pure but for the kept list of words.

A finding has a level, a code and the values that its sentence needs; pages word it. An ``error`` makes
messages fail or be refused; a ``warning`` is for a person to judge.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from html.parser import HTMLParser
from types import MappingProxyType
from typing import Any

from jinja2 import nodes
from sqlalchemy.orm import Session

from channels import jinja, rewrite
from channels.consent import MARKETING
from channels.render import MemberView
from channels.sms import cost
from channels.sms.text import has_opt_out
from channels.snippets import texts_of
from channels.wechat import limits
from core import audit
from core.contacts import EMAIL, SMS, WECHAT, WECOM
from core.errors import InvalidInput
from core.models import Preference
from core.settings import Settings

ERROR, WARNING = "error", "warning"
GMAIL_CLIPS = 102 * 1024
"""Bytes of HTML after which Gmail shows “[Message clipped]”, and no open pixel."""
WORDS_KEY = "channels.banned_words"
MAX_WORDS, MAX_WORD = 500, 60
SAMPLED = 200
"""Members that a template's variables are compared with."""
DEFAULT_WORDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "zh": (
            *(
                "最佳",
                "最好",
                "最低",
                "最高",
                "最大",
                "最优",
                "最便宜",
                "最先进",
                "最",
                "第一",
                "唯一",
                "首选",
            ),
            *("国家级", "世界级", "顶级", "极品", "极致", "绝对", "万能", "全网最低", "史无前例", "独家"),
            *("100%", "零风险", "永久", "包治", "根治"),
            *("!最近", "!最后", "!最新订单", "!最多", "!最少", "!最迟", "!第一次", "!第一时间", "!第一步"),
        ),
        "en": (
            *("best", "number one", "no. 1", "#1", "guaranteed", "risk-free", "100% free", "cheapest"),
            *("world's best", "miracle", "act now", "!best regards", "!best wishes", "!best before"),
        ),
    }
)
"""Words that advertising law or spam filters mind; one that begins with “!” is allowed all the same."""


@dataclass(frozen=True)
class Finding:
    """Something to look at. ``field``: the path that it is about, such as ``en.html``; empty: all of it."""

    level: str
    code: str
    field: str = ""
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Draft:
    """A template in the editor: its fields with snippets put in, and the same filled in for a member."""

    channel: str
    purpose: str
    language: str
    fields: Mapping[str, Any]
    shown: Mapping[str, Any]
    address: str
    """Where the shown message would go: the country of a number decides how an SMS is counted."""


def findings(
    settings: Settings, draft: Draft, members: Sequence[MemberView], words: Mapping[str, Sequence[str]]
) -> list[Finding]:
    """All that is to be said of a draft that renders, errors first."""
    found = [*_variables(draft, members), *_banned(draft, words)]
    if draft.channel == EMAIL:
        found += _email(draft)
    elif draft.channel == SMS:
        found += _sms(settings, draft)
    elif draft.channel == WECHAT:
        found += _wechat(draft)
    elif draft.channel == WECOM:
        found += _wecom(draft)
    return sorted(found, key=lambda one: one.level != ERROR)


# --- variables -------------------------------------------------------------------


def member_names(fields: Mapping[str, Any]) -> set[str]:
    """What fields read of the member without asking first: ``city``, ``attributes.shoe_size`` …"""
    found: set[str] = set()
    for text in texts_of(fields):
        found |= _names_in(text)
    return found


@lru_cache(maxsize=200)
def _names_in(text: str) -> frozenset[str]:
    if "member" not in text:
        return frozenset()
    try:
        tree = jinja.parse(jinja.Environment(html=False), text, "text")
    except InvalidInput:
        return frozenset()
    tests: list[nodes.Node] = [found.test for found in tree.find_all(nodes.If)]
    tests += [found.test for found in tree.find_all(nodes.CondExpr)]
    tests += [found for found in tree.find_all(nodes.Filter) if found.name == "default"]
    asked = {path for test in tests for path in _paths(test)}
    return frozenset(_paths(tree) - asked)


def _paths(node: nodes.Node) -> set[str]:
    own = [node] if isinstance(node, nodes.Getattr | nodes.Getitem) else []
    paths = {path for one in [*own, *node.find_all((nodes.Getattr, nodes.Getitem))] if (path := _path(one))}
    return {path for path in paths if not any(other.startswith(f"{path}.") for other in paths)}


def _path(node: nodes.Node) -> str:
    """``member.attributes["x"]`` → ``attributes.x``; empty for what is not the member's."""
    if isinstance(node, nodes.Name):
        return ""
    steps: list[str] = []
    while isinstance(node, nodes.Getattr | nodes.Getitem):
        if isinstance(node, nodes.Getattr):
            steps.append(node.attr)
        elif isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
            steps.append(node.arg.value)
        else:
            return ""
        node = node.node
    return ".".join(reversed(steps)) if isinstance(node, nodes.Name) and node.name == "member" else ""


def _variables(draft: Draft, members: Sequence[MemberView]) -> Iterable[Finding]:
    """Attributes that some members lack make their messages fail; other details are left blank."""
    if not members:
        return
    for path in sorted(member_names(draft.fields)):
        head, _, attribute = path.partition(".")
        if attribute:
            if head != "attributes":
                continue
            lacking = sum(attribute not in member.attributes for member in members)
            level, code = ERROR, "attribute_missing"
        else:
            lacking = sum(getattr(member, head, "") in (None, "") for member in members)
            level, code = WARNING, "variable_empty"
        if lacking:
            yield Finding(
                level, code, "", {"name": f"member.{path}", "lacking": lacking, "members": len(members)}
            )


# --- words -----------------------------------------------------------------------


def words_in(text: str, words: Sequence[str]) -> list[str]:
    """The words of a list that a text has, in the list's order; “!” words make exceptions."""
    low = text.casefold()
    for allowed in (word[1:] for word in words if word.startswith("!")):
        low = low.replace(allowed.casefold(), " ")
    found: list[str] = []
    for word in sorted((w for w in words if w and not w.startswith("!")), key=len, reverse=True):
        if (pattern := _pattern(word)).search(low):
            found.append(word)
            low = pattern.sub(" ", low)
    return [word for word in words if word in found]


@lru_cache(maxsize=2000)
def _pattern(word: str) -> re.Pattern[str]:
    text = re.escape(word.casefold())
    start = r"(?<!\w)" if word[0].isascii() and word[0].isalnum() else ""
    end = r"(?!\w)" if word[-1].isascii() and word[-1].isalnum() else ""
    return re.compile(f"{start}{text}{end}")


def _banned(draft: Draft, words: Mapping[str, Sequence[str]]) -> Iterable[Finding]:
    if draft.purpose != MARKETING:
        return
    text = "\n".join(
        rewrite.text_of(value) if name == "html" else value for name, value in _shown(draft.shown)
    )
    for word in words_in(text, words.get(draft.language.partition("_")[0], ())):
        yield Finding(WARNING, "banned_word", "", {"word": word})


def _shown(shown: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for name, value in shown.items():
        if isinstance(value, Mapping):
            yield from ((key, str(text)) for key, text in value.items())
        elif isinstance(value, str) and name not in ("url", "provider_template", "kind"):
            yield name, value


def load_words(session: Session) -> dict[str, tuple[str, ...]]:
    """The list by language (``zh``, ``en``); the defaults where nobody changed it."""
    kept = session.get(Preference, WORDS_KEY)
    changed = {language: tuple(words) for language, words in (kept.value if kept else {}).items()}
    return {**DEFAULT_WORDS, **changed}


def save_words(session: Session, words: Mapping[str, Sequence[str]], by: str, now: datetime) -> None:
    """Keep the list. Raises InvalidInput with the language as the field."""
    for language, listed in words.items():
        if len(listed) > MAX_WORDS or any(len(word) > MAX_WORD for word in listed):
            raise InvalidInput(
                f"A list has at most {MAX_WORDS} words of at most {MAX_WORD} characters.", language
            )
    value = {language: list(dict.fromkeys(listed)) for language, listed in words.items()}
    session.merge(Preference(key=WORDS_KEY, value=value, updated_at=now))
    audit.record(session, by, "save", "settings", WORDS_KEY, now, {k: len(v) for k, v in value.items()})


# --- channels --------------------------------------------------------------------


class _Pictures(HTMLParser):
    """Images without a text for those who do not see them."""

    def __init__(self) -> None:
        super().__init__()
        self.bare: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag in ("img", "mj-image") and "alt" not in named:
            self.bare.append((named.get("src") or "")[:80])


def _email(draft: Draft) -> Iterable[Finding]:
    source = "mjml" if draft.fields.get("mjml") else "html"
    path = f"{draft.language}.{source}"
    size = len(str(draft.shown["html"]).encode())
    if size > GMAIL_CLIPS:
        yield Finding(WARNING, "clipped", path, {"kb": round(size / 1024), "limit": GMAIL_CLIPS // 1024})
    pictures = _Pictures()
    pictures.feed(str(draft.fields.get(source) or ""))
    for src in pictures.bare:
        yield Finding(WARNING, "no_alt", path, {"image": src or "–"})
    if not str(draft.shown["subject"]).strip():
        yield Finding(ERROR, "no_subject", f"{draft.language}.subject")
    if draft.purpose == MARKETING and "unsubscribe_url" not in str(draft.fields.get(source) or ""):
        yield Finding(ERROR, "no_unsubscribe", path)


def _sms(settings: Settings, draft: Draft) -> Iterable[Finding]:
    path = f"{draft.language}.text"
    text = str(draft.shown["text"])
    counted = cost.message_cost(settings, text, draft.address, draft.purpose).count
    if counted.too_long:
        yield Finding(ERROR, "sms_too_long", path, {"units": counted.units})
    elif counted.segments > 1:
        yield Finding(WARNING, "sms_segments", path, {"segments": counted.segments, "units": counted.units})
    if draft.purpose == MARKETING and not has_opt_out(settings, text, draft.address):
        yield Finding(WARNING, "no_opt_out", path, {"hint": settings.sms_opt_out})


def _wecom(draft: Draft) -> Iterable[Finding]:
    """One request carries one content: where members' differ, the employee confirms a task for each."""
    for name, text in {"text": draft.fields.get("text"), **(draft.fields.get("link") or {})}.items():
        if "{{" in str(text):
            path = "text" if name == "text" else f"link.{name}"
            yield Finding(WARNING, "wecom_tasks", f"{draft.language}.{path}")


def _wechat(draft: Draft) -> Iterable[Finding]:
    for name, text in (draft.shown.get("data") or {}).items():
        limit = limits.limit_of(str(name))
        written = str((draft.fields.get("data") or {}).get(name, ""))
        if limit is not None and (len(str(text)) >= limit and "{" in written):
            yield Finding(WARNING, "wechat_cut", f"{draft.language}.data", {"name": name, "limit": limit})
