"""Who may do what: the one table of roles and permissions."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Permission(StrEnum):
    VIEW = "view"
    """Every page, contact details masked."""
    EDIT = "edit"
    """Segments, campaigns, templates, coupon batches; pausing and running what is approved."""
    APPROVE = "approve"
    """Campaigns of others (of one's own only where there is a single administrator)."""
    CONTACTS = "contacts"
    """Contact details in full; each look leaves an audit row."""
    ADMINISTER = "administer"
    """Users, API keys, the shop's settings, the audit log."""


ROLES: dict[str, frozenset[Permission]] = {
    "admin": frozenset(Permission),
    "marketer": frozenset({Permission.VIEW, Permission.EDIT, Permission.APPROVE}),
    "analyst": frozenset({Permission.VIEW}),
    "support": frozenset({Permission.VIEW, Permission.CONTACTS}),
}


def permissions_of(roles: Iterable[str]) -> frozenset[Permission]:
    """All that any of the roles allows; an unknown role allows nothing."""
    return frozenset().union(*(ROLES.get(role, frozenset()) for role in roles))
