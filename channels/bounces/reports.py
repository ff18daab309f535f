"""What a report says, whatever its form: one :class:`Report` a recipient."""

from __future__ import annotations

from dataclasses import dataclass

from channels.bounces.classify import Kind

COMPLAINT, DELIVERED, DELAYED, UNSUBSCRIBE = "complaint", "delivered", "delayed", "unsubscribe"


@dataclass(frozen=True, slots=True)
class Report:
    """Something that a mail says of a message of ours."""

    kind: str
    """A :class:`Kind`, or ``complaint``, ``delivered``, ``delayed``, ``unsubscribe``."""
    code: str = ""
    """The enhanced status code (else the reply code) that the kind was read from."""
    reason: str = ""
    """The other server's words, at most 500 characters; they may contain the address."""
    recipient: str = ""
    """The address as reported; empty where it is left out or blackened."""
    message_id: int | None = None
    """Our message, where the report names it by VERP, Message-ID or a signed link."""

    @property
    def is_bounce(self) -> bool:
        return self.kind in Kind._value2member_map_
