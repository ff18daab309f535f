"""The account's followers, matched with members: by unionid, else by openid.

A follower whom no member matches is counted and left alone: following is no purchase and no consent, and a
made-up member would stand in the way of the real one, who is bound later by a scanned code. Repeating an
import changes nothing that is right already. WeChat is asked outside any transaction, a page at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import httpx
import orjson
import sqlalchemy as sa
from sqlalchemy.orm import Session

from channels.transports.base import TransportError
from channels.transports.http import ask, client, json_of
from channels.transports.wechat import BAD_TOKEN, TokenCache
from channels.wechat import follows
from channels.wechat.followers import follow_again
from core import facts
from core.contacts import blind_index
from core.db import Database, among
from core.errors import HuiliuError
from core.models import Member
from core.settings import Settings
from core.warehouse.replica import mark

INFO_BATCH = 100
CONCURRENCY = 4
MAX_PAGES = 5_000
"""Of 10,000 followers: a list that does not end is not WeChat's."""


class Follower(NamedTuple):
    openid: str
    unionid: str | None


@dataclass
class Imported:
    """How many followers there were, and what became of them."""

    followers: int = 0
    matched: int = 0
    """Of these, members that are known to be them."""
    updated: int = 0
    """Of the matched, those that got an openid or a unionid by this import."""
    unknown: int = 0
    conflicts: int = 0
    """Several members claim the follower: nothing was changed."""

    def to_json(self) -> dict[str, int]:
        return asdict(self)


class _Api:
    """The two requests, with the account's shared token."""

    def __init__(self, database: Database, settings: Settings, clock: Callable[[], datetime]) -> None:
        self._endpoint = settings.wechat.rstrip("/")
        self._tokens = TokenCache(
            database, settings.wechat, settings.wechat_appid, settings.wechat_secret, clock
        )

    async def __aenter__(self) -> _Api:
        self._http = client(CONCURRENCY)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def pages(self) -> AsyncIterator[list[str]]:
        """The openids of all followers, up to 10,000 at a time."""
        after = ""
        for _ in range(MAX_PAGES):
            found = await self._call("GET", "/cgi-bin/user/get", None, next_openid=after)
            listed = found.get("data", {}).get("openid", [])
            following = str(found.get("next_openid", ""))
            if not listed:
                return
            yield [str(openid) for openid in listed]
            if not following or following == after:
                return
            after = following
        raise HuiliuError(f"WeChat's list of followers has not ended after {MAX_PAGES:,} pages.")

    async def infos(self, openids: Sequence[str]) -> list[Follower]:
        """Who these are, those that still follow; WeChat is asked for a hundred at a time."""
        batches = [openids[n : n + INFO_BATCH] for n in range(0, len(openids), INFO_BATCH)]
        limit = asyncio.Semaphore(CONCURRENCY)

        async def one(batch: Sequence[str]) -> list[Follower]:
            body = {"user_list": [{"openid": openid, "lang": "zh_CN"} for openid in batch]}
            async with limit:
                found = await self._call("POST", "/cgi-bin/user/info/batchget", body)
            return [
                Follower(str(entry["openid"]), str(entry["unionid"]) if entry.get("unionid") else None)
                for entry in found.get("user_info_list", [])
                if entry.get("subscribe") == 1
            ]

        return [follower for found in await asyncio.gather(*map(one, batches)) for follower in found]

    async def _call(
        self, method: str, path: str, body: dict[str, Any] | None, **query: str
    ) -> dict[str, Any]:
        try:
            token = await self._tokens.get(self._http)
            answer = await self._once(method, path, body, {**query, "access_token": token})
            if answer.get("errcode") in BAD_TOKEN:
                token = await self._tokens.replace(self._http, token)
                answer = await self._once(method, path, body, {**query, "access_token": token})
        except TransportError as error:
            raise HuiliuError(f"WeChat could not be asked: {error}") from None
        if answer.get("errcode"):
            raise HuiliuError(f"WeChat refused: {answer['errcode']} {answer.get('errmsg', '')}")
        return answer

    async def _once(
        self, method: str, path: str, body: dict[str, Any] | None, query: dict[str, str]
    ) -> dict[str, Any]:
        content = None if body is None else orjson.dumps(body)
        request: httpx.Request = self._http.build_request(
            method, f"{self._endpoint}{path}", params=query, content=content
        )
        return json_of(await ask(self._http, request))


async def import_followers(
    database: Database, settings: Settings, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> Imported:
    """Match all followers with members. Raises HuiliuError when WeChat refuses; what was matched stays."""
    total = Imported()
    async with _Api(database, settings, clock) as api:
        started = clock()
        async for openids in api.pages():
            followers = await api.infos(openids)
            await asyncio.to_thread(_write, database, followers, total, started)
    return total


def _write(database: Database, followers: Sequence[Follower], total: Imported, now: datetime) -> None:
    with database.write() as session:
        merge(session, followers, total, now)


def merge(session: Session, followers: Sequence[Follower], total: Imported, now: datetime) -> None:
    """Write what a page of followers says of members, and add it to ``total``."""
    by_openid = {str(blind_index("openid", one.openid)): one for one in followers}
    union_of = {index: blind_index("unionid", one.unionid) for index, one in by_openid.items()}
    members = session.execute(
        sa.select(Member.id, Member.openid_index, Member.unionid_index).where(
            Member.erased_at.is_(None),
            sa.or_(
                among(session, Member.openid_index, sorted(by_openid)),
                among(session, Member.unionid_index, sorted(filter(None, union_of.values()))),
            ),
        )
    ).all()
    owners: dict[str, set[int]] = {}
    known = {}
    for number, openid_index, unionid_index in members:
        known[number] = (openid_index, unionid_index)
        for kind, index in (("o", openid_index), ("u", unionid_index)):
            if index is not None:
                owners.setdefault(f"{kind}{index}", set()).add(number)
    changes = []
    for index, one in by_openid.items():
        union = union_of[index]
        same = owners.get(f"o{index}", set())
        claim = (owners.get(f"u{union}", set()) if union else set()) | same
        total.followers += 1
        if not claim:
            total.unknown += 1
        elif len(claim) > 1:
            total.conflicts += 1
        else:
            total.matched += 1
            (number,) = claim
            wanted = (index, union or known[number][1])
            if known[number] != wanted:
                changes.append(_change(number, one, index, union, now))
    _update(session, changes)
    total.updated += len(changes)
    follow_again(session, sorted(by_openid), now)


def _change(number: int, one: Follower, index: str, union: str | None, now: datetime) -> dict[str, Any]:
    row = {"id": number, "openid": one.openid, "openid_index": index, "updated_at": now}
    return row if union is None else {**row, "unionid": one.unionid, "unionid_index": union}


def _update(session: Session, changes: Sequence[dict[str, Any]]) -> None:
    if not changes:
        return
    # One statement a set of columns: those with a unionid, and those without.
    session.execute(sa.update(Member), sorted(changes, key=lambda row: (len(row), row["id"])))
    mark(session, facts.MEMBERS, [None])
    follows.tell(session, sorted(row["openid_index"] for row in changes))
