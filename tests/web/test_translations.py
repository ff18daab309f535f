"""Simplified Chinese is complete: no text lacks it, none is left over, no placeholder is lost."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po

from web.assets.refusals import CONTEXT, extract

WEB = Path(__file__).parents[2] / "web"
CATALOGUE = WEB / "translations" / "zh" / "LC_MESSAGES" / "messages.po"
METHODS = [("**.py", "python"), ("templates/**.html", "jinja2")]
KEYWORDS = {"_": None, "gettext": None, "lazy_gettext": None, "ngettext": (1, 2)}
GLOSSARY = {
    "Overview": "总览",
    "Members": "会员",
    "Segments": "人群",
    "Campaigns": "活动",
    "Loyalty": "权益",
    "Channels": "渠道",
    "Results": "效果",
    "Settings": "设置",
    "Campaign": "营销活动",
    "Journey": "客户旅程",
    "Holdout": "对照组",
    "Variant": "版本",
    "Lift": "提升",
    "Coupon batch": "券批次",
    "Code": "券码",
    "Redeemed": "已核销",
    "Points": "积分",
    "Pending": "待生效",
    "Frequency cap": "频次上限",
    "Quiet hours": "免打扰时段",
    "Consent": "授权",
    "Unsubscribed": "已退订",
    "Outbox": "发送队列",
    "Budget": "预算",
    "Audit log": "审计日志",
    "Lifecycle stages": "生命周期阶段",
    "Incremental revenue": "增量收入",
}


def refusals() -> set[str]:
    """What the packages below the console refuse with."""
    found = set()
    for package in ("core", "segments", "channels", "loyalty", "experiments", "campaigns"):
        for path in (WEB.parent / package).rglob("*.py"):
            with path.open("rb") as source:
                found |= {text for _line, _name, (_context, text), _ in extract(source, (), (), {})}
    return found


def texts() -> set[str]:
    options = {"templates/**.html": {"trim_blocks": "true", "lstrip_blocks": "true", "silent": "false"}}
    found = extract_from_dir(WEB, METHODS, options, KEYWORDS)
    return {message for _file, _line, message, _comments, _context in found if isinstance(message, str)}


def catalogue() -> Catalog:
    return read_po(BytesIO(CATALOGUE.read_bytes()), locale="zh")


def test_every_text_has_its_translation_and_none_is_left_over() -> None:
    done = [message for message in catalogue() if message.id and message.string and not message.fuzzy]
    for wanted, context, least in ((texts(), None, 700), (refusals(), CONTEXT, 280)):
        known = {str(message.id) for message in done if message.context == context}
        assert len(wanted) > least
        assert sorted(wanted - known) == []
        assert sorted(known - wanted) == []


def test_a_translation_keeps_the_placeholders_of_its_text() -> None:
    for message in catalogue():
        if message.id:
            names = re.findall(r"%\((\w+)\)s", str(message.id))
            assert sorted(names) == sorted(re.findall(r"%\((\w+)\)s", str(message.string))), message.id
            # A lone per cent sign would be read as a placeholder.
            bare = re.sub(r"%\(\w+\)s|%%", "", str(message.string))
            assert "%" not in bare, message.id


def test_the_words_of_the_glossary_are_used() -> None:
    found = {str(message.id): message.string for message in catalogue() if message.id}
    assert {word: found.get(word) for word in GLOSSARY} == GLOSSARY
