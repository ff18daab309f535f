"""Binding a member to a WeChat account: a QR code, WeChat's consent page, and the openid it gives.

The link names the member and ends; the state that goes through WeChat is signed, ends, and works once.
An openid belongs to one member: a second one is told so, and nothing changes.
"""

from __future__ import annotations

import io
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from urllib.parse import quote, urlencode

import httpx
import segno
import sqlalchemy as sa
from sqlalchemy.orm import Session

from channels.wechat import follows
from channels.wechat.windows import first_time
from core import audit, crypto, facts
from core.contacts import blind_index
from core.errors import HuiliuError, InvalidInput
from core.models import Member
from core.settings import Settings
from core.warehouse.replica import mark

LINK_LASTS = timedelta(minutes=30)
STATE_LASTS = timedelta(minutes=10)
TIMEOUT_S = 8.0
_LINK, _STATE = "wechat-bind", "wechat-state"
_PARTS = re.compile(r"([0-9a-f]{1,16})z([0-9a-f]{1,10})z([0-9a-f]{32})z([0-9a-f]{32})\Z")
_MAX_ID = 128


class Bound(StrEnum):
    """What became of a binding."""

    NEW = "new"
    SAME = "same"
    TAKEN = "taken"
    """The openid belongs to another member; nothing changed."""
    GONE = "gone"
    """The member was erased."""


@dataclass(frozen=True)
class Identity:
    """Who agreed on WeChat's page; the unionid only where the scope asks for it."""

    openid: str
    unionid: str | None = None


@dataclass(frozen=True)
class State:
    """What came back through WeChat."""

    member_id: int
    nonce: str


def bind_url(settings: Settings, member_id: int, now: datetime, lasts: timedelta = LINK_LASTS) -> str:
    """The address that a member opens (or scans) to be bound; it works until ``now + lasts``."""
    until = int((now + lasts).timestamp())
    return f"{settings.base_url}/w/bind/{crypto.keyring().sign(_LINK, f'{member_id}:{until}')}"


def bind_qr(settings: Settings, member_id: int, now: datetime, lasts: timedelta = LINK_LASTS) -> str:
    """:func:`bind_url` as an SVG element for a page: no script, no style, black on white."""
    out = io.BytesIO()
    code = segno.make(bind_url(settings, member_id, now, lasts), error="m", micro=False)
    code.save(out, kind="svg", scale=4, border=4, light="#fff", xmldecl=False, svgclass="qr", lineclass=None)
    return out.getvalue().decode().strip()


def read_link(token: str, now: datetime) -> int | None:
    """The member that a link is for, or None when it is not ours or has ended."""
    payload = crypto.keyring().verify(_LINK, token)
    if payload is None:
        return None
    member_id, _, until = payload.partition(":")
    return int(member_id) if now.timestamp() < int(until) else None


def make_state(member_id: int, now: datetime) -> str:
    """A state that WeChat carries (letters and digits, at most 128): member, end, nonce, signature."""
    until = int((now + STATE_LASTS).timestamp())
    text = f"{member_id:x}z{until:x}z{secrets.token_hex(16)}"
    return f"{text}z{_signature(text)}"


def read_state(state: str, now: datetime) -> State | None:
    """What a state says, or None when it is not ours or has ended."""
    found = _PARTS.match(state)
    if found is None:
        return None
    text = state.rpartition("z")[0]
    if not secrets.compare_digest(_signature(text), found[4]) or now.timestamp() >= int(found[2], 16):
        return None
    return State(int(found[1], 16), found[3])


def _signature(text: str) -> str:
    return crypto.keyring().blind_index(_STATE, text)


def authorize_url(settings: Settings, state: str, back: str = "/w/bound", scope: str | None = None) -> str:
    """WeChat's page where the member agrees; it leads back to ``back``. ``scope``: None is the shop's."""
    query = {
        "appid": settings.wechat_appid,
        "redirect_uri": f"{settings.base_url}{back}",
        "response_type": "code",
        "scope": scope or settings.wechat_scope,
        "state": state,
    }
    # WeChat reads the parameters in this order, and only so before its fragment.
    return (
        f"{settings.wechat_authorize}/connect/oauth2/authorize?"
        f"{urlencode(query, quote_via=quote)}#wechat_redirect"
    )


def exchange(settings: Settings, code: str) -> Identity:
    """Who agreed, for WeChat's ``code``. Asks WeChat, so call it outside any transaction.

    Raises InvalidInput for a code that is used up or false and for a visitor that WeChat made up
    (``is_snapshotuser``); HuiliuError when WeChat does not answer.
    """
    query = {
        "appid": settings.wechat_appid,
        "secret": settings.wechat_secret,
        "code": code[:200],
        "grant_type": "authorization_code",
    }
    try:
        answer = httpx.get(
            f"{settings.wechat}/sns/oauth2/access_token",
            params=query,
            timeout=TIMEOUT_S,
            trust_env=False,
            follow_redirects=False,
        ).json()
    except (httpx.HTTPError, ValueError) as error:
        # Not the error's own text: it may carry the address, and that the secret.
        raise HuiliuError(f"WeChat did not answer ({type(error).__name__}); try again.") from None
    if not isinstance(answer, dict) or not answer.get("openid"):
        known = answer.get("errcode", "") if isinstance(answer, dict) else ""
        raise InvalidInput(f"WeChat refused the code ({known}); scan again.", "code")
    if answer.get("is_snapshotuser") == 1:
        raise InvalidInput("This is a preview by WeChat and nobody's account; open the whole page.", "code")
    unionid = str(answer["unionid"])[:_MAX_ID] if answer.get("unionid") else None
    return Identity(str(answer["openid"])[:_MAX_ID], unionid)


def spend(session: Session, state: State, now: datetime) -> bool:
    """Use a state up; whether it was unused."""
    return first_time(session, f"state:{state.nonce}", now)


def bind(session: Session, member_id: int, identity: Identity, now: datetime, by: str = "member") -> Bound:
    """Keep the openid (and unionid) with the member, and say so in the audit trail."""
    index = str(blind_index("openid", identity.openid))
    # Two members at once: an openid has no unique index, since an import may bring doubles.
    follows.lock(session, index)
    member = session.get(Member, member_id, with_for_update=True, populate_existing=True)
    if member is None or member.erased_at is not None:
        return Bound.GONE
    other = sa.select(Member.id).where(
        Member.openid_index == index, Member.id != member_id, Member.erased_at.is_(None)
    )
    if (taken := session.scalar(other.limit(1))) is not None:
        audit.record(session, by, "bind_refused", "member", member_id, now, {"belongs_to": taken})
        return Bound.TAKEN
    union_index = blind_index("unionid", identity.unionid)
    if member.openid_index == index and union_index in (None, member.unionid_index):
        return Bound.SAME
    replaced = member.openid_index is not None and member.openid_index != index
    member.openid, member.openid_index = identity.openid, index
    if identity.unionid is not None:
        member.unionid, member.unionid_index = identity.unionid, union_index
    member.updated_at = now
    mark(session, facts.MEMBERS, [None])
    session.flush()
    follows.tell(session, [index])
    audit.record(
        session,
        by,
        "bind_wechat",
        "member",
        member_id,
        now,
        {"replaced": replaced, "unionid": identity.unionid is not None},
    )
    return Bound.NEW
