"""Personal links: signed, so that nobody can make one up, and the same for a member for good."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

import segno
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from core import crypto
from core.errors import NotFound
from core.settings import Settings
from loyalty.referrals.models import ReferralOpen

_PURPOSE = "referral"


def token_of(member_id: int) -> str:
    return crypto.keyring().sign(_PURPOSE, str(member_id))


def read_token(token: str) -> int:
    """The member whose link it is. NotFound when it is nobody's."""
    payload = crypto.keyring().verify(_PURPOSE, token)
    if payload is None:
        raise NotFound("This invitation link is not valid; ask your friend for it once more.")
    return int(payload)


def link_url(settings: Settings, member_id: int) -> str:
    """Where a member's friends go."""
    return f"{settings.base_url}/r/{token_of(member_id)}"


def shop_url(settings: Settings, token: str, name: str = "ref") -> str:
    """The shop's own address with the token in its query: the shop sends it back with the friend's id."""
    parts = urlsplit(settings.shop_url or settings.base_url)
    query = "&".join(part for part in (parts.query, urlencode({name: token})) if part)
    return urlunsplit((parts.scheme, parts.netloc, parts.path or "/", query, ""))


def qr_svg(url: str) -> str:
    """A QR code of an address, as an SVG element without a style of its own."""
    code = segno.make(url, error="m", micro=False)
    return str(code.svg_inline(border=2, scale=4, omitsize=True, svgclass="qr", lineclass=None))


def opened(session: Session, program_id: int, member_id: int, now: datetime) -> None:
    """Count one opening of a member's page."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    row = {"program_id": program_id, "member_id": member_id, "opens": 1, "last_at": now}
    insert: Any = dialect.insert(ReferralOpen.__table__).values(row)
    session.execute(
        insert.on_conflict_do_update(
            index_elements=["program_id", "member_id"],
            set_={"opens": sa.literal_column("referral_opens.opens") + 1, "last_at": now},
        )
    )
