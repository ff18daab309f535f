"""The language of templates: a small, safe part of Jinja2, and errors in a marketer's words.

Guarantees: a template can read the variables it is given, choose (``if``) and repeat (``for``),
and nothing else: no assignment, macro, include, method call or arithmetic that could grow
without bound; ``range`` and the size of the output are limited. Whatever a template does wrong
is an InvalidInput that names the line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

from babel import Locale, UnknownLocaleError
from babel.dates import format_date
from babel.numbers import format_currency
from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, nodes, pass_context
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from core.errors import InvalidInput
from core.money import to_major

MAX_SOURCE = 200_000
MAX_OUTPUT = 500_000
MAX_RANGE = 1_000
MAX_LOOP_DEPTH = 2

VARIABLES = frozenset(
    {"member", "coupon", "points", "shop", "campaign", "data"}
    | {"unsubscribe_url", "preferences_url", "wallet_url"}
)
FUNCTIONS = frozenset({"track", "_track", "range", "recommend"})
_INTERNAL = frozenset({"_open_url", "_trap_url", "loop"})
FILTERS = (
    "abs",
    "capitalize",
    "d",
    "default",
    "e",
    "escape",
    "first",
    "float",
    "int",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "max",
    "min",
    "reverse",
    "round",
    "sort",
    "string",
    "striptags",
    "sum",
    "title",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
)
_NODES = (
    nodes.Template,
    nodes.Output,
    nodes.TemplateData,
    nodes.Name,
    nodes.Getattr,
    nodes.Getitem,
    nodes.Const,
    nodes.Filter,
    nodes.Test,
    nodes.If,
    nodes.For,
    nodes.Compare,
    nodes.Operand,
    nodes.And,
    nodes.Or,
    nodes.Not,
    nodes.CondExpr,
    nodes.Call,
    nodes.Keyword,
    nodes.List,
    nodes.Tuple,
    nodes.Concat,
    nodes.Add,
    nodes.Sub,
    nodes.Div,
    nodes.FloorDiv,
    nodes.Neg,
    nodes.Pos,
    nodes.Slice,
)


class Environment(ImmutableSandboxedEnvironment):
    """Jinja2's immutable sandbox, with our filters only and a finalizer for values."""

    def __init__(self, *, html: bool, finalize: Callable[[Any], Any] | None = None) -> None:
        super().__init__(
            undefined=StrictUndefined,
            autoescape=html,
            keep_trailing_newline=True,
            cache_size=0,
            finalize=finalize or blank_none,
        )
        self.globals = {"range": bounded_range}
        self.filters = {name: self.filters[name] for name in FILTERS}
        self.filters |= {"money": money, "date": day, "_text": blank_none}

    def getattr(self, obj: Any, attribute: str) -> Any:
        """As the sandbox does; sooner for what templates mostly read, plain values by their names."""
        kind = obj.__class__
        if kind is dict:
            if attribute in obj and attribute not in _OF_DICT:
                return obj[attribute]
        elif attribute in _PLAIN.get(kind, ()):
            return getattr(obj, attribute)
        return super().getattr(obj, attribute)


_OF_DICT = frozenset(dir(dict))
_PLAIN: dict[type, frozenset[str]] = {}


def plain(kind: type, fields: Iterable[str]) -> None:
    """Let templates read these attributes of a class of ours without the sandbox's questions."""
    _PLAIN[kind] = frozenset(fields)


def blank_none(value: Any) -> Any:
    """A member without a city is greeted without one, not with “None”."""
    return "" if value is None else value


def bounded_range(*bounds: int) -> range:
    found = range(*bounds)
    if len(found) > MAX_RANGE:
        raise InvalidInput(f"range() of {len(found):,} steps is too long; {MAX_RANGE:,} is the most.")
    return found


@lru_cache(maxsize=200)
def locale_of(language: str) -> Locale:
    """Babel's locale of a template's language; English when Babel does not know it."""
    try:
        return Locale.parse(language, sep="_")
    except (ValueError, UnknownLocaleError):
        return Locale("en")


@lru_cache(maxsize=20_000)
def format_money(minor: int, currency: str, language: str) -> str:
    """1250 CNY → ``¥12.50`` as the language writes it."""
    return str(format_currency(to_major(minor, currency), currency, locale=locale_of(language)))


@pass_context
def money(context: Context, minor: int | None, currency: str | None = None) -> str:
    """Filter: minor units to money, in the shop's currency unless another is named."""
    if minor is None:
        return ""
    return format_money(int(minor), currency or context["_currency"], context["_language"])


@pass_context
def day(context: Context, value: datetime | str | None) -> str:
    """Filter: a time (or its ISO text) to a date on the member's calendar, as the language writes it."""
    if value is None or value == "":
        return ""
    at = datetime.fromisoformat(value) if isinstance(value, str) else value
    return str(
        format_date(
            at.astimezone(context["_zone"]) if at.tzinfo else at, locale=locale_of(context["_language"])
        )
    )


def parse(environment: Environment, source: str, field: str) -> nodes.Template:
    """The checked syntax tree. Raises InvalidInput naming ``field`` and the line."""
    if len(source) > MAX_SOURCE:
        raise InvalidInput(f"{field} has {len(source):,} characters; {MAX_SOURCE:,} is the most.", field)
    try:
        tree = environment.parse(source)
    except TemplateSyntaxError as error:
        raise InvalidInput(f"{field}, line {error.lineno}: {error.message}", field) from None
    _check(tree, field, frozenset(), 0)
    return tree


def _check(node: nodes.Node, field: str, local: frozenset[str], depth: int) -> None:
    def refuse(why: str) -> None:
        raise InvalidInput(f"{field}, line {node.lineno}: {why}", field)

    if not isinstance(node, _NODES):
        refuse(f"“{type(node).__name__.lower()}” cannot be used in a template; if, for and {{{{ … }}}} can.")
    if isinstance(node, nodes.Call):
        name = node.node.name if isinstance(node.node, nodes.Name) else None
        if name not in FUNCTIONS or node.dyn_args or node.dyn_kwargs:
            refuse(
                "only track(…), recommend(…) and range(…) can be called; for the rest use a filter, like "
                "{{ member.name|upper }}."
            )
    if isinstance(node, nodes.Filter) and (node.name not in node_filters() or node.node is None):
        refuse(
            f"the filter “{node.name}” is not known; there are "
            f"{', '.join(sorted(node_filters() - {'_text'}))}."
        )
    if isinstance(node, nodes.Name) and node.ctx == "load":
        known = VARIABLES | FUNCTIONS | _INTERNAL | local
        if node.name not in known:
            refuse(
                f"“{node.name}” is not known; a template can use "
                f"{', '.join(sorted(VARIABLES))} track(url) and recommend(n)."
            )
    if isinstance(node, nodes.For):
        depth += 1
        if depth > MAX_LOOP_DEPTH:
            refuse(f"loops can be nested {MAX_LOOP_DEPTH} deep.")
        if node.recursive:
            refuse("a loop cannot be recursive.")
        local = local | {name.name for name in node.target.find_all(nodes.Name)}
        if isinstance(node.target, nodes.Name):
            local = local | {node.target.name}
    for child in node.iter_child_nodes():
        _check(child, field, local, depth)


def node_filters() -> set[str]:
    """Every filter that a template may name."""
    return {*FILTERS, "money", "date", "_text"}


def names_used(tree: nodes.Template) -> set[str]:
    """The variables that a template reads."""
    return {name.name for name in tree.find_all(nodes.Name) if name.ctx == "load"}


def run(template: Template, variables: Mapping[str, Any], field: str) -> str:
    """The template's output. Raises InvalidInput in words, with the line, for whatever goes wrong."""
    found, size = [], 0
    pieces: Iterator[str] = template.generate(variables)
    try:
        for piece in pieces:
            size += len(piece)
            if size > MAX_OUTPUT:
                raise InvalidInput(f"the result is longer than {MAX_OUTPUT:,} characters.")
            found.append(piece)
    except (TemplateError, InvalidInput, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise InvalidInput(f"{field}{_line(error)}: {_in_words(error)}", field) from error
    return "".join(found)


def _line(error: BaseException) -> str:
    found, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            found = trace.tb_lineno
        trace = trace.tb_next
    return "" if found is None else f", line {found}"


_OWNERS = {"channels.render.MemberView object": "the member"}


def _in_words(error: Exception) -> str:
    text = str(error)
    if attribute := re.search(r"'?([\w. ]+?)'? has no attribute '(\w+)'", text):
        owner = "" if attribute[1] == "dict object" else f" of {_OWNERS.get(attribute[1], attribute[1])}"
        if attribute[1] == "None":
            return f"“{attribute[2]}” of something that this message does not have (no coupon, no points?)."
        return f"there is no “{attribute[2]}”{owner}."
    if unknown := re.search(r"'(\w+)' is undefined", text):
        return f"“{unknown[1]}” has no value here."
    return text
