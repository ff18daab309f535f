"""The console's users: made, changed and looked up without a running console."""

from __future__ import annotations

import secrets
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from argon2 import PasswordHasher
from sqlalchemy.orm import Session

from core import audit
from core.contacts import normalise_email
from core.db import Database
from core.errors import Conflict, InvalidInput, NotFound
from web.models import Role, User, user_roles
from web.roles import ROLES

PASSWORD_MIN = 8
PASSWORD_MAX = 128


def hash_password(password: str) -> str:
    """Argon2id of the NFKD form, as the log-in compares it. Raises InvalidInput."""
    text = unicodedata.normalize("NFKD", password)
    if not PASSWORD_MIN <= len(text) <= PASSWORD_MAX:
        raise InvalidInput(f"A password has {PASSWORD_MIN} to {PASSWORD_MAX} characters.", "password")
    return PasswordHasher().hash(text)


def create_user(
    database: Database,
    email: str,
    password: str,
    roles: Sequence[str],
    *,
    name: str | None = None,
    locale: str | None = None,
    by: str = "cli",
    now: datetime | None = None,
) -> int:
    """Make a user; answers its id.

    Raises InvalidInput (``email``, ``password``, ``roles``) and Conflict where the address is taken.
    """
    with database.write() as session:
        return add_user(
            session, email, password, roles, name=name, locale=locale, by=by, now=now or datetime.now(UTC)
        )


def add_user(
    session: Session,
    email: str,
    password: str,
    roles: Sequence[str],
    *,
    by: str,
    now: datetime,
    name: str | None = None,
    locale: str | None = None,
) -> int:
    """:func:`create_user` inside the caller's transaction."""
    address = normalise_email(email)
    if session.scalar(sa.select(User.id).where(User.email == address)) is not None:
        raise Conflict(f"There is a user {address} already.")
    user = User(
        email=address,
        password=hash_password(password),
        name=name or None,
        locale=locale or None,
        active=True,
        fs_uniquifier=secrets.token_hex(16),
        roles=_roles(session, roles),
    )
    session.add(user)
    session.flush()
    audit.record(session, by, "user.create", "user", user.id, now, {"email": address, "roles": list(roles)})
    return user.id


def change_user(
    session: Session, user_id: int, *, roles: Sequence[str], active: bool, by: str, now: datetime
) -> None:
    """Change roles and access; the last active administrator stays one. Raises Conflict, InvalidInput."""
    user = session.get(User, user_id)
    if user is None:
        raise NotFound("This user does not exist any more.")
    was_admin = user.active and any(role.name == "admin" for role in user.roles)
    if was_admin and not (active and "admin" in roles) and active_admins(session) == 1:
        raise Conflict("This is the only administrator; make another one first.")
    user.roles = _roles(session, roles)
    if user.active and not active:
        user.fs_uniquifier = secrets.token_hex(16)  # ends the sessions that are open
    user.active = active
    audit.record(session, by, "user.change", "user", user_id, now, {"roles": list(roles), "active": active})


def set_password(session: Session, user_id: int, password: str, *, by: str, now: datetime) -> None:
    """A new password; sessions that are open end. Raises InvalidInput, NotFound."""
    user = session.get(User, user_id)
    if user is None:
        raise NotFound("This user does not exist any more.")
    user.password = hash_password(password)
    user.fs_uniquifier = secrets.token_hex(16)
    audit.record(session, by, "user.password", "user", user_id, now)


def active_admins(session: Session) -> int:
    """How many administrators can log in."""
    query = (
        sa.select(sa.func.count(sa.distinct(User.id)))
        .join(user_roles, user_roles.c.user_id == User.id)
        .join(Role, Role.id == user_roles.c.role_id)
        .where(Role.name == "admin", User.active)
    )
    return int(session.scalar(query) or 0)


@dataclass(frozen=True)
class UserRow:
    id: int
    email: str
    name: str | None
    active: bool
    roles: tuple[str, ...]
    two_factor: bool
    last_login_at: datetime | None


def list_users(session: Session) -> list[UserRow]:
    """Everybody, by address."""
    users = session.scalars(sa.select(User).order_by(User.email)).unique()
    return [
        UserRow(
            user.id,
            user.email,
            user.name,
            user.active,
            tuple(sorted(role.name for role in user.roles)),
            user.tf_primary_method is not None,
            user.current_login_at,
        )
        for user in users
    ]


def _roles(session: Session, names: Sequence[str]) -> list[Role]:
    """The roles of these names; a known one that has no row yet gets it."""
    unknown = [name for name in names if name not in ROLES]
    if unknown or not names:
        raise InvalidInput(f"A user has one or more of the roles {', '.join(ROLES)}.", "roles")
    found = {role.name: role for role in session.scalars(sa.select(Role).where(Role.name.in_(names)))}
    for name in names:
        if name not in found:
            found[name] = Role(name=name, permissions=sorted(ROLES[name]))
            session.add(found[name])
    return [found[name] for name in dict.fromkeys(names)]
