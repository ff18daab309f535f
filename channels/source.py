"""Template texts: checked, compiled, and encoded for the wire once, with their constant links.

Knows nothing of channels or members; ``channels.render`` makes messages of it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import Template, nodes

from channels import jinja, mime

log = logging.getLogger(__name__)

_PLAIN = jinja.Environment(html=False)
_HTML = jinja.Environment(html=True)
_PLAIN_ENCODED = jinja.Environment(html=False, finalize=mime.text_value)
_HTML_ENCODED = jinja.Environment(html=True, finalize=mime.html_value)
_HTML_SIMPLE = jinja.Environment(html=False, finalize=mime.html_value)
"""The finalizer escapes; Jinja's own escaping is only needed where a template itself makes markup."""
_MAKES_MARKUP = frozenset({"e", "escape", "join", "striptags"})


@dataclass(frozen=True)
class Source:
    """A checked template: its tree as a reader sees it and, for e-mail parts, encoded for the wire."""

    field: str
    plain: Template
    encoded: Template | None
    names: frozenset[str]
    links: tuple[str, ...] = ()
    """Constant targets of tracked links; the encoded tree reads their signed form as ``_link0``, …"""
    bounded: bool = False
    """Without loops the result cannot outgrow its limit, so that it is not counted while it is made."""

    def run(self, variables: Mapping[str, Any]) -> str:
        return jinja.run(self.plain, variables, self.field)

    def run_encoded(self, variables: dict[str, Any]) -> str:
        assert self.encoded is not None
        return self._run(self.encoded, variables)

    def run_plain(self, variables: dict[str, Any]) -> str:
        """:meth:`run`, as fast as a message a hundred microseconds needs it."""
        return self._run(self.plain, variables)

    def _run(self, template: Template, variables: dict[str, Any]) -> str:
        if self.bounded:
            context = template.environment.context_class(
                template.environment, variables, template.name, template.blocks
            )
            try:
                return "".join(template.root_render_func(context))
            except Exception:
                log.debug("%s is run again for a message with the line", self.field)
        return jinja.run(template, variables, self.field)


def source_of(
    text: str, field_path: str, *, html: bool = False, encode: bool = False, prefix: str = ""
) -> Source:
    """Check and compile one template text. Raises InvalidInput naming ``field_path`` and the line."""
    environment = _HTML if html else _PLAIN
    tree = jinja.parse(environment, text, field_path)
    names = frozenset(jinja.names_used(tree))
    plain = environment.from_string(tree)
    bounded = tree.find(nodes.For) is None
    if not encode:
        return Source(field_path, plain, None, names, (), bounded)
    environment = _PLAIN_ENCODED
    if html:
        marked = any(found.name in _MAKES_MARKUP for found in tree.find_all(nodes.Filter))
        environment = _HTML_ENCODED if marked else _HTML_SIMPLE
    tree = jinja.parse(environment, text, field_path)
    for data in tree.find_all(nodes.TemplateData):
        data.data = mime.piece(data.data)
    links = _constant_links(tree, prefix)
    return Source(field_path, plain, environment.from_string(tree), names, links, bounded)


READY = frozenset({"unsubscribe_url", "preferences_url", "wallet_url", "_open_url", "_trap_url"})
"""Addresses that are encoded once a message, wherever they stand by themselves."""


def _constant_links(tree: nodes.Template, prefix: str) -> tuple[str, ...]:
    """Replace ``_track("…")`` and bare addresses by names of ready values; the targets in order."""
    links: list[str] = []
    for output in list(tree.find_all(nodes.Output)):
        for place, node in enumerate(output.nodes):
            if isinstance(node, nodes.Name) and node.name in READY:
                output.nodes[place] = nodes.Name(f"_{prefix}{node.name}", "load", lineno=node.lineno)
            elif _is_constant_link(node):
                assert isinstance(node, nodes.Call)
                target = node.args[0]
                assert isinstance(target, nodes.Const)
                if target.value not in links:
                    links.append(target.value)
                name = f"_{prefix}link{links.index(target.value)}"
                output.nodes[place] = nodes.Name(name, "load", lineno=node.lineno)
    return tuple(links)


def _is_constant_link(node: nodes.Node) -> bool:
    return (
        isinstance(node, nodes.Call)
        and isinstance(node.node, nodes.Name)
        and node.node.name == "_track"
        and len(node.args) == 1
        and isinstance(node.args[0], nodes.Const)
        and isinstance(node.args[0].value, str)
        and not node.kwargs
    )
