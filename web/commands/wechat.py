"""``huiliu wechat``: the official account's followers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import click

from channels.wechat.import_followers import import_followers
from core.times import now
from web.commands.common import answer, json_option, open_installation


@click.group("wechat")
def group() -> None:
    """The WeChat official account."""


@group.command()
@json_option
def followers(as_json: bool) -> None:
    """Match the account's followers with members, by unionid or openid; may be repeated."""
    settings, database = open_installation()
    found = asyncio.run(import_followers(database, settings, lambda: now(settings)))

    def lines() -> Iterator[str]:
        yield f"{found.followers:,} followers: {found.matched:,} are members ({found.updated:,} updated), "
        yield f"{found.unknown:,} are unknown, {found.conflicts:,} are claimed by several members"

    answer(found.to_json(), as_json, lines)
