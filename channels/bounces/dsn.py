"""Delivery reports: DSNs by their fields (RFC 3464), and the bounces of systems that write no DSN."""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.message import EmailMessage, Message

from channels.bounces import mail
from channels.bounces.classify import Kind, classify, enhanced, of_words
from channels.bounces.reports import DELAYED, DELIVERED, Report

REASON = 500
_ACTIONS = {"delivered": DELIVERED, "relayed": DELIVERED, "expanded": DELIVERED, "delayed": DELAYED}
_BOUNCE_FROM = re.compile(r"mailer-daemon|postmaster|mail delivery|maildaemon|bounce", re.IGNORECASE)
_BOUNCE_SUBJECT = re.compile(
    r"undeliver|delivery (?:status|failure|has failed|failed)|returned (?:mail|to sender)|failure notice|"
    r"mail delivery|delivery problem|could not be delivered|退信|投递失败|系统退信",
    re.IGNORECASE,
)
_AUTO_REPLY = re.compile(
    r"out of (?:the )?office|vacation|auto(?:matic)?[ -]?(?:reply|response)|不在办公室", re.IGNORECASE
)


def dsn_reports(message: EmailMessage, number: int | None) -> list[Report]:
    """One report a recipient of a DSN; none when it is no DSN. ``number``: our message, if it is known."""
    found: list[Report] = []
    for kind, part in mail.parts(message):
        if kind in ("message/delivery-status", "message/global-delivery-status"):
            found += [_of_fields(fields, number) for fields in _groups(part) if "action" in fields]
    return found


def _groups(part: Message) -> Iterator[dict[str, str]]:
    """The groups of fields: of the message, then of each recipient; names in lower case."""
    payload = part.get_payload()
    blocks: list[Message] = (
        [one for one in payload if isinstance(one, Message)] if isinstance(payload, list) else []
    )
    if blocks:
        for block in blocks:
            yield {name.lower(): _value(block, name) for name in block.keys()}  # noqa: SIM118 - a Message is no dict
        return
    # Base64 or a broken structure: the fields as text.
    for text in re.split(r"\r?\n\r?\n", mail.text_of(part)):
        lines = re.sub(r"\r?\n[ \t]+", " ", text).splitlines()
        pairs = (line.partition(":") for line in lines if ":" in line)
        yield {name.strip().lower(): value.strip() for name, _, value in pairs}


def _value(block: Message, name: str) -> str:
    return re.sub(r"\s+", " ", mail.header(block, name)).strip()


def _of_fields(fields: dict[str, str], number: int | None) -> Report:
    action = fields["action"].split()[0].lower() if fields["action"].split() else ""
    status, diagnostic = fields.get("status", ""), fields.get("diagnostic-code", "")
    recipient = mail.address_in(fields.get("original-recipient") or fields.get("final-recipient", ""))
    words = diagnostic.partition(";")[2].strip() or diagnostic
    kind = _ACTIONS.get(action)
    if kind is not None:
        return Report(kind, enhanced(status), words[:REASON], recipient, number)
    found = classify(status, words, action="failed")
    return Report(found.kind, found.code, words[:REASON], recipient, number)


def plain_reports(message: EmailMessage, number: int | None) -> list[Report]:
    """The report of a bounce in words alone (qmail, old Exim, web mailers); none when it is no bounce."""
    sender, subject = mail.header(message, "From"), mail.header(message, "Subject")
    failed = mail.header(message, "X-Failed-Recipients")
    # Exim calls its bounces auto-replied as well; holidays have no failed recipients.
    replied = mail.header(message, "Auto-Submitted").lower().startswith("auto-replied")
    if not failed and (_AUTO_REPLY.search(subject) or (replied and not _BOUNCE_FROM.search(sender))):
        return []
    empty = mail.header(message, "Return-Path").strip() == "<>"
    if not (failed or _BOUNCE_SUBJECT.search(subject) or (_BOUNCE_FROM.search(sender) and empty)):
        return []
    text = next((mail.text_of(part) for kind, part in mail.parts(message) if kind == "text/plain"), "")
    if not text:
        text = next((mail.text_of(part) for kind, part in mail.parts(message) if kind == "text/html"), "")
        text = re.sub(r"<[^>]+>", " ", text)
    # What follows the original message's start is ours, not the other server's.
    text = re.split(r"--- Below this line|-{3,} ?This is a copy|-{3,} ?Original message", text)[0]
    reason = _reason(text)
    found = classify("", reason)
    recipient = mail.address_in(failed) or mail.address_in(text)
    if found.kind is Kind.UNKNOWN and (words := of_words(text)):
        return [Report(words, "", reason[:REASON], recipient, number)]
    return [Report(found.kind, found.code, reason[:REASON], recipient, number)]


def _reason(text: str) -> str:
    """The lines that tell why: those with a status or a reply code, else what follows the address."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if enhanced(line) or re.search(r"\b[45]\d\d[ \-]", line)]
    if telling:
        return " ".join(telling)
    at = next((n for n, line in enumerate(lines) if "@" in line), 0)
    return " ".join(lines[at : at + 4])
