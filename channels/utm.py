"""UTM parameters on links to the shop, so that its own statistics know the campaign. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit


def hosts_of(shop_url: str, others: Mapping[str, Any] | None) -> frozenset[str]:
    """The hosts whose links are tagged: the shop's, and those that a message's ``utm`` names."""
    shop = (urlsplit(shop_url).hostname or "").lower()
    named = (others or {}).get("hosts") or ()
    return frozenset({shop, *(str(name).lower() for name in named)} - {""})


def tagged(url: str, params: Mapping[str, str], hosts: frozenset[str]) -> str:
    """``url`` with the parameters it does not have yet, where its host (or a parent domain) is listed.

    What is there stays byte for byte: nothing is overwritten, sorted or encoded anew.
    """
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
    except ValueError:  # no address that a browser would open; it stays as it was written
        return url
    if not any(host == name or host.endswith(f".{name}") for name in hosts):
        return url
    there = {name.lower() for name, _ in parse_qsl(parts.query, keep_blank_values=True)}
    more = "&".join(
        f"{name}={quote(value, safe='')}" for name, value in params.items() if value and name not in there
    )
    if not more:
        return url
    query = f"{parts.query}&{more}" if parts.query else more
    return urlunsplit(parts._replace(query=query))


def moved(context: Mapping[str, Any], before: str, after: str) -> Mapping[str, Any]:
    """A message's context for the channel that is tried after another: a medium that is the first channel's
    name becomes the second's; one that a marketer wrote stays.
    """
    wanted = context.get("utm") or {}
    params = wanted.get("params") or {}
    if params.get("utm_medium") != before:
        return context
    return {**context, "utm": {**wanted, "params": {**params, "utm_medium": after}}}
