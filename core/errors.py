"""The one base of every error that a user may see; its message says what to do."""

from __future__ import annotations


class HuiliuError(Exception):
    """Something was refused. The message says what is wrong and what to do about it."""


class InvalidInput(HuiliuError):
    """Input that breaks a rule.

    ``field`` names the offending place (a form field, a column, a path into JSON such as
    ``all[1].value``), so that a form can show the message beside it.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class NotFound(HuiliuError):
    """The object named does not exist (or is not visible to the caller)."""


class Conflict(HuiliuError):
    """The object's state does not allow this now; nothing was written."""
