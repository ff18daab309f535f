"""What a delivery status means: its class, from the enhanced code, else the reply code, else the words.

Pure; the one place that knows the table. Classes say what happens to the address, never what happens
to the message: an ``expired`` message is over, its address is as good as before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Kind(StrEnum):
    """The classes of bounces."""

    HARD = "hard"
    """No such address: suppress."""
    INACTIVE = "inactive"
    """Switched off, perhaps for ever: suppress after two."""
    SOFT = "soft"
    """Full, busy, out of reach: suppress after five over a week or more; a delivery resets it."""
    EXPIRED = "expired"
    """Tried until the time was up: soft."""
    OURS = "ours"
    """Our message or our protocol: no suppression."""
    POLICY = "policy"
    """We, our network or our authentication are refused: pause the domain, never suppress."""
    UNKNOWN = "unknown"
    """Nothing in the table: kept and shown, no suppression."""


SOFT_KINDS = frozenset({Kind.SOFT, Kind.EXPIRED})

_CODES: Mapping[str, Kind] = MappingProxyType(
    {
        **dict.fromkeys(
            ("5.1.0", "5.1.1", "5.1.2", "5.1.3", "5.1.4", "5.1.6", "5.1.10", "5.7.17", "5.7.18"), Kind.HARD
        ),
        **dict.fromkeys(("5.2.1", "5.7.13"), Kind.INACTIVE),
        **dict.fromkeys(("5.1.7", "5.1.8", "5.3.4"), Kind.OURS),
        **dict.fromkeys(("4.2.1", "4.2.2", "5.2.2"), Kind.SOFT),
    }
)
_CLASSES: Mapping[str, Kind] = MappingProxyType(
    {
        "5.5": Kind.OURS,
        "5.6": Kind.OURS,
        "5.7": Kind.POLICY,
        "5.3": Kind.SOFT,
        "5.4": Kind.SOFT,
        "4.1": Kind.SOFT,
        "4.2": Kind.SOFT,
        "4.3": Kind.SOFT,
        "4.4": Kind.SOFT,
        "4.5": Kind.SOFT,
        "4.6": Kind.SOFT,
        "4.7": Kind.SOFT,
    }
)
_STATUS = re.compile(r"(?<![\d.])([245])\.(\d{1,3})\.(\d{1,3})(?![\d.])")
_REPLY = re.compile(r"(?<![\d.])([45]\d\d)(?=[ \-#]|$)", re.MULTILINE)

# Words decide only where no enhanced code does; the first that matches counts.
_WORDS: tuple[tuple[re.Pattern[str], Kind], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), kind)
    for pattern, kind in (
        (r"over ?quota|quota (?:is )?exceeded|exceed\w* (?:\w+ )*(?:quota|storage)|mailbox (?:is )?full|"
         r"mailbox size|out of storage|insufficient (?:system )?storage|user is over|邮箱(?:已满|空间)",
         Kind.SOFT),
        (r"spam|spamhaus|blacklist|black list|blocklist|block list|blocked|rbl|dnsbl|reputation|"
         r"spf|dkim|dmarc|authentication required|unauthenticated|unsolicited|poor|policy|banned|"
         r"client host|rejected due to content|reverse dns|\bptr\b|relay(?:ing)? (?:access )?denied|"
         r"not permitted to relay|access denied|垃圾|反垃圾|拒收",
         Kind.POLICY),
        (r"(?:account|mailbox|user|recipient|address)(?: \S+){0,4} (?:is |has been |was )?"
         r"(?:disabled|inactive|suspended|deactivated|locked|expired)|not been active|discontinued|"
         r"账号(?:已)?(?:停用|冻结)",
         Kind.INACTIVE),
        (r"too (?:large|big)|size limit|exceeds? (?:the )?maximum|message size|bad header|syntax error|"
         r"line too long|invalid (?:header|message)|bare lf",
         Kind.OURS),
        (r"\b(?:no|any|unknown|invalid|bad|nonexist\w*) (?:such )?(?:user|recipient|mailbox|address|account|"
         r"local part)|(?:user|recipient|mailbox|address|account|alias)(?: \S+){0,5} (?:is )?"
         r"(?:unknown|not found|invalid|unavailable|rejected|not exist\w*|not listed|undeliverable)|"
         r"(?:does|do)(?: not|n['’]t) (?:have|exist)|not (?:a |an )?(?:known|valid|local) "
         r"(?:user|recipient|mailbox|address|host)|doesn't have an? \S+ account|"
         r"no (?:mailbox|account) (?:here|by)|"
         r"(?:user|mailbox|recipient|account) not (?:found|exist)|unrouteable|no mailbox|not our customer|"
         r"(?:host|domain)(?: \S+){0,3} not found|name or service not known|no mx|"
         r"unknown (?:user|host|domain)|"
         r"不存在|无此用户|收件人.*(?:无效|错误)",
         Kind.HARD),
        (r"timed? ?out|temporar|try again|deferred|greylist|too many|rate limit|throttl|busy|"
         r"connection (?:refused|reset|lost|closed)|unreachable|not respond|lookup fail|delayed|retry",
         Kind.SOFT),
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Classified:
    """A class, and the code it was read from: enhanced, else the reply code, else empty."""

    kind: Kind
    code: str

    @property
    def known(self) -> bool:
        """False for codes and words that the table does not name."""
        return self.kind is not Kind.UNKNOWN


def enhanced(text: str) -> str:
    """The first enhanced status code (RFC 3463) of a text, or nothing."""
    found = _STATUS.search(text)
    return found[0] if found else ""


def of_status(status: str) -> Kind | None:
    """The class of an enhanced code; None where the code says nothing (x.0.0) or is not in the table."""
    if status in _CODES:
        return _CODES[status]
    area = status.rpartition(".")[0]
    return None if status.endswith(".0.0") else _CLASSES.get(area)


def of_words(text: str) -> Kind | None:
    """The class that the words suggest."""
    return next((kind for pattern, kind in _WORDS if pattern.search(text)), None)


def classify(
    status: str = "", text: str = "", *, action: str = "", reply_code: int | None = None
) -> Classified:
    """The class of a bounce.

    ``status``: of the DSN's field; ``text``: its diagnostic, or a server's reply; ``action``: the DSN's;
    ``reply_code``: the SMTP reply, where it is known (else it is looked for in ``text``).
    A failure with a 4.x.x status was given up after many tries: expired, whatever the code says.
    """
    own = enhanced(status)
    told = enhanced(text)
    # MTAs write x.0.0 where they know nothing; the other server's own words then know more.
    code = own if own and not own.endswith(".0.0") else told or own
    if reply_code is None and (found := _REPLY.search(text)):
        reply_code = int(found[1])
    if action.lower() == "failed" and (own or code).startswith("4"):
        return Classified(Kind.EXPIRED, code)
    kind = of_status(code) if code else None
    words = of_words(text)
    if kind is None or (kind is Kind.SOFT and code.startswith(("5.3", "5.4"))):
        kind = words or kind
    if kind is None and reply_code is not None:
        kind = _of_reply(reply_code)
    if kind is Kind.HARD and words is Kind.POLICY and code in ("5.1.0", "", "5.1.1"):
        # "550 5.1.1 … blocked using Spamhaus": the code is careless, and the address may well exist.
        kind = Kind.POLICY
    return Classified(kind or Kind.UNKNOWN, code or (str(reply_code) if reply_code else ""))


def _of_reply(code: int) -> Kind | None:
    if 400 <= code < 500 or code == 552:
        return Kind.SOFT
    return {550: Kind.HARD, 551: Kind.HARD, 553: Kind.HARD, 530: Kind.POLICY}.get(code)
