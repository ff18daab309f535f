"""Feedback reports (RFC 5965): somebody pressed "this is spam"."""

from __future__ import annotations

from email.message import EmailMessage

from channels.bounces import mail
from channels.bounces.reports import COMPLAINT, Report

_COMPLAINTS = frozenset({"abuse", "fraud", "virus", "other", "opt-out", "opt-out-list", ""})
"""``not-spam`` takes a complaint back; ``auth-failure`` (RFC 6591) and ``dmarc`` are about the network."""


def arf_reports(message: EmailMessage, number: int | None) -> list[Report]:
    """The complaints of a feedback report; none when it is no such report. The recipient may be left out."""
    found = []
    for kind, part in mail.parts(message):
        if kind != "message/feedback-report":
            continue
        payload = part.get_payload()
        block = payload[0] if isinstance(payload, list) and payload else None
        text = mail.text_of(part) if block is None else str(block)
        fields = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in text.splitlines())
        }
        name = fields.get("feedback-type", "").lower()
        if name in _COMPLAINTS:
            recipient = mail.address_in(fields.get("original-rcpt-to", ""))
            agent = fields.get("user-agent", "")
            found.append(Report(COMPLAINT, name, agent[:100], recipient, number))
    return found
