"""The packages' refusals in the reader's language."""

from __future__ import annotations

import ast
import json
from html import unescape

import pytest

from tests.web.conftest import Shop
from web.assets.refusals import template_of
from web.refusals import patterns, translated

TEXTS = patterns({
    "there is no field “%(field)s”; there are %(value)s.": "没有字段“%(field)s”；可用 %(value)s。",
    "%(value)s is not a number.": "%(value)s 不是数值。",
    "%(path)s is not a number.": "",
    "“%(other)s” could not run: %(error)s": "“%(other)s”无法运行：%(error)s",
    "at most 35 %% of it.": "最多 35 %%。",
})  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("'x' is not a number.", "'x' 不是数值。"),
        ("all[1].value: 'x' is not a number.", "all[1].value: 'x' 不是数值。"),
        ("“vip” could not run: any[0]: 'x' is not a number.", "“vip”无法运行：any[0]: 'x' 不是数值。"),
        ("at most 35 % of it.", "最多 35 %。"),
        ("there is no field “a”; there are b,\nc.", "没有字段“a”；可用 b,\nc。"),
        ("Nobody translated this: at all.", "Nobody translated this: at all."),
        ("is not a number", "is not a number"),
    ],
)
def test_a_message_is_found_by_its_fixed_parts_and_keeps_its_values(text: str, expected: str) -> None:
    assert translated(text, TEXTS) == expected


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("f'no {self.name} of {name}: 5 %'", "no %(name)s of %(name_)s: 5 %%"),
        ("'There is ' + f'no {x[0]}.'", "There is no %(value)s."),
        ("f'{a}: {b}'", None),
        ("'used_up'", None),
        ("message or code", None),
    ],
)
def test_the_text_of_a_message_is_read_from_the_code(code: str, text: str | None) -> None:
    assert template_of(ast.parse(code, mode="eval").body) == text


def test_the_chinese_console_refuses_in_chinese(shop: Shop) -> None:
    for language, expected in (
        ("zh", "'x' 不是数值。"),
        ("en", "'x' is not a number."),
    ):
        rule = json.dumps({"all": [{"field": "rfm.r", "op": "=", "value": "x"}]})
        page = shop.client(language=language).post("/segments/count", {"rule": rule})
        assert expected in unescape(page.text)
    page = shop.client(language="zh").get("/segments/nowhere")
    assert page.status_code == 404
    assert "没有人群“nowhere”。" in page.text
