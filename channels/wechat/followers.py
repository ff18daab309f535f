"""What followers do becomes rows: windows, grants, reachability, consent. Each callback acts once."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from channels import events
from channels.callbacks.opt_out import opt_out
from channels.callbacks.wechat import FOLLOWED, UNFOLLOWED, Found
from channels.consent import suppress
from channels.models import Suppression, WechatGrant, WechatWindow
from channels.wechat import follows
from channels.wechat.windows import Granted, Opened, change_grants, first_time, open_windows
from core.contacts import ADDRESS_COLUMN, WECHAT, blind_index
from core.db import among

UNFOLLOWED_REASON = "unfollowed"
"""Not a hard reason: a transactional subscription message reaches people who do not follow, and a
template message that does not falls back to the next channel."""
INDEX_KIND = ADDRESS_COLUMN[WECHAT]


def openid_index(openid: str) -> str:
    """The blind index of an openid, which windows, grants and suppressions are kept by."""
    return str(blind_index(INDEX_KIND, openid))


def apply(session: Session, found: Found, now: datetime) -> bool:
    """Write what a callback says; whether it was news."""
    applied = events.apply(session, found.receipts, now) if found.receipts else None
    if not found.openid or not (found.window or found.grants or found.happened or found.opt_outs):
        return applied is not None and applied.new > 0
    if not first_time(session, found.key, now):
        return False
    index = openid_index(found.openid)
    if found.window is not None:
        open_windows(session, [Opened(index, found.window, found.at)])
    change_grants(session, [Granted(index, grant.template_id, int(grant.granted)) for grant in found.grants])
    opt_out(session, found.opt_outs)
    if found.happened is not None:
        follows.happened(session, index, found.happened, found.scene, found.at)
    if found.happened == UNFOLLOWED:
        suppress(session, WECHAT, index, UNFOLLOWED_REASON, "wechat:unfollow", found.at)
        session.execute(sa.delete(WechatWindow).where(WechatWindow.openid_index == index))
        session.execute(sa.delete(WechatGrant).where(WechatGrant.openid_index == index))
    elif found.happened == FOLLOWED:
        follow_again(session, [index], found.at)
    return True


def follow_again(session: Session, indexes: list[str], at: datetime) -> None:
    """Who follows can be reached again; a suppression for another reason, or a later one, stays."""
    session.execute(
        sa.delete(Suppression).where(
            Suppression.channel == WECHAT,
            among(session, Suppression.address_index, indexes),
            Suppression.reason == UNFOLLOWED_REASON,
            Suppression.at <= at,
        )
    )
