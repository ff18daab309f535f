"""What an SMTP refusal means for the message, its address, its receiver and the server. Pure."""

from __future__ import annotations

import re

from channels.bounces.classify import Kind, classify, enhanced
from channels.transports.base import Reaction, TransportError

SILENCE, UNSENT = "silence", "unsent"
"""Codes of our own: the line broke after the message went out, and before."""
CLOSING_S = 600.0
"""After 421: the message waits, and its receiver is written to slowly."""
DEFERRED_S = 90 * 60.0
"""After "temporarily deferred": one connection, one message a minute."""
STOPPED_S = 2 * 3600.0
"""After Yahoo's TS04."""
_STOPPED = re.compile(r"\[?TSS?0?4\]?", re.IGNORECASE)
_DEFERRED = re.compile(r"temporarily deferred|unusual rate|too many messages|rate limit", re.IGNORECASE)
_AUTHENTICATION = frozenset({530, 534, 535, 538})
_BAD_SENDER = frozenset({"5.1.7", "5.1.8"})


def reaction_of(code: int, text: str, stage: str) -> TransportError:
    """A refusal, by its enhanced code (RFC 3463) where there is one, else by its reply code and words.

    ``stage`` is the command that was refused: ``mail`` (our sender), ``rcpt`` (the address) or ``data``.
    """
    status = enhanced(text)
    message, name = f"{code} {text}"[:200].replace("\r", "").replace("\n", " "), status or str(code)
    if 400 <= code < 500:
        return _later(code, text, stage, message, name)
    if code in _AUTHENTICATION or status in _BAD_SENDER or (status.startswith("5.7.") and stage == "mail"):
        return TransportError(message, Reaction.PAUSE, code=name)
    found = classify(status, text, reply_code=code if stage == "rcpt" else None)
    if found.kind is Kind.HARD and stage != "mail" and (stage == "rcpt" or status):
        return TransportError(message, Reaction.SUPPRESS, code=name, suppression="hard_bounce")
    return TransportError(message, Reaction.FAIL, code=name, bounce=found.kind)


def _later(code: int, text: str, stage: str, message: str, name: str) -> TransportError:
    if _STOPPED.search(text):
        return TransportError(message, Reaction.RETRY, code=name, after_s=STOPPED_S, stop_s=STOPPED_S)
    if _DEFERRED.search(text) and (code == 421 or enhanced(text).startswith("4.7.")):
        return TransportError(message, Reaction.RETRY, code=name, slow_s=DEFERRED_S)
    if code == 421:
        # To MAIL it is about the connection; later it is about who the message is for.
        slow_s = None if stage == "mail" else CLOSING_S
        return TransportError(message, Reaction.RETRY, code=name, after_s=CLOSING_S, slow_s=slow_s)
    return TransportError(message, Reaction.RETRY, code=name)
