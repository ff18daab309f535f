"""The console's pages: the one list that the tests of rendering, of browsers and of contrast go through."""

from __future__ import annotations

import sqlalchemy as sa

from channels.models import Message
from experiments.models import Readout
from tests.web import seed
from tests.web.conftest import Shop

PAGES = (
    "/",
    "/members",
    "/segments",
    "/segments/rfm",
    "/segments/lifecycle",
    "/segments/predictions",
    "/segments/lists",
    "/segments/lists/new",
    "/campaigns",
    "/loyalty",
    "/loyalty/batches/new",
    "/loyalty/points",
    "/loyalty/points/adjustments",
    "/loyalty/points/sources",
    "/loyalty/tiers",
    "/channels",
    "/channels/outbox",
    "/channels/accounts",
    "/channels/inbox",
    "/channels/rules",
    "/channels/snippets",
    "/channels/words",
    "/loyalty/promotions",
    "/results",
    "/results/experiments",
    "/results/experiments/new",
    "/results/tree",
    "/results/watching",
    "/results/watching/settings",
    "/results/programme",
    "/results/overlap",
    "/results/attribution",
    "/results/metrics",
    "/results/plans",
    "/results/plans/ask",
    "/settings",
    "/settings/scoring",
    "/settings/scoring/names",
    "/settings/account",
    "/settings/users",
    "/settings/keys",
    "/settings/audit",
)
"""Pages that every shop has."""
VARIANTS = (
    "/members?page=2",
    "/search?q=M0007",
    "/search?q=nobody",
    "/segments?archived=1",
    "/segments/lifecycle?days=90",
    "/segments/new",
    "/segments/lists?archived=1",
    "/campaigns?state=draft",
    "/campaigns/new",
    "/loyalty?archived=1",
    "/loyalty/promotions/new",
    "/loyalty/promotions/try",
    "/loyalty/calendar",
    "/loyalty/calendar?months=12&q=nothing",
    "/loyalty/review",
    "/loyalty/review/rules",
    "/loyalty/referrals",
    "/loyalty/referrals/programs/new",
    "/loyalty/groups",
    "/loyalty/groups/new",
    "/loyalty/reminders",
    "/channels?archived=1",
    "/channels/templates/new/email",
    "/channels/templates/new/sms",
    "/channels/templates/new/wechat",
    "/channels/outbox?state=failed&channel=email",
    "/results/experiments?kind=campaign",
    "/results/tree?against=year&by=stage&node=conversion",
    "/settings/audit?type=campaign",
)
"""More of them, which look alike: rendered, but not opened in a browser."""
OBJECTS = (
    "/members/{member}",
    "/segments/dormant-buyers",
    "/segments/dormant-buyers/edit",
    "/campaigns/spring-win-back",
    "/campaigns/tea-week",
    "/campaigns/draft-idea/edit",
    "/loyalty/batches/1",
    "/channels/templates/1/edit",
    "/results/watching/campaigns/spring-win-back",
    "/results/{readout}",
)
"""Pages of what the seeded shop has."""
OBJECT_VARIANTS = (
    "/campaigns/draft-idea",
    "/campaigns/tea-week/simulation",
    "/campaigns/tea-week/preview?member=M0003",
    "/campaigns/tea-week/preview?member=nobody",
    "/campaigns/spring-win-back/runs/1",
    "/campaigns/spring-win-back/runs/1?reason=holdout",
    "/loyalty/batches/1?state=redeemed",
    "/channels/templates/1",
    "/channels/templates/1/preview.html?language=en",
    "/channels/templates/2",
    "/channels/outbox/{message}",
)
"""More of those, rendered only."""
EVERYWHERE = (*PAGES, *VARIANTS)
"""What renders in an empty shop too."""


def every(shop: Shop) -> list[str]:
    """All addresses of a seeded shop."""
    return [*EVERYWHERE, *_filled_in(shop, (*OBJECTS, *OBJECT_VARIANTS))]


def browsed(shop: Shop) -> list[str]:
    """Those that are opened in a browser."""
    return [*PAGES, *_filled_in(shop, OBJECTS)]


def _filled_in(shop: Shop, addresses: tuple[str, ...]) -> list[str]:
    with shop.database.read() as session:
        ids = {
            "message": session.scalar(sa.select(sa.func.min(Message.id))),
            "readout": session.scalar(sa.select(sa.func.min(Readout.id))),
            "member": seed.member_with_a_decision(shop.database),
        }
    return [address.format(**ids) for address in addresses]
