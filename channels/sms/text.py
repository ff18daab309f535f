"""The text of an SMS as it arrives: the signature that a provider puts in front, and the way out at the end.

Aliyun and Tencent hold the approved text themselves and put 【signature】 in front of it; Twilio sends what
we write, so there a marketing text that does not end in a way out gets one.
"""

from __future__ import annotations

from channels.consent import MARKETING
from channels.sms.segments import is_mainland
from channels.transports.sms_twilio import NAME as TWILIO
from core.settings import Settings

_TAIL = 30
"""A way out is looked for in so many characters at the end."""
_WORDS_CHINA = ("拒收", "退订", "回r", "回t", "复r", "复t")
_WORDS_ABROAD = ("stop", "unsubscribe", "opt out", "opt-out", *_WORDS_CHINA)


def provider_for(settings: Settings, phone: str) -> str:
    """Who sends to an E.164 number."""
    if is_mainland(phone):
        return settings.sms_provider
    return settings.sms_provider_abroad or settings.sms_provider


def has_opt_out(settings: Settings, text: str, phone: str) -> bool:
    """Whether a text ends in a way out that its reader's country knows."""
    end = text.casefold()[-_TAIL:]
    words = _WORDS_CHINA if is_mainland(phone) else _WORDS_ABROAD
    return _hint(settings, phone).casefold() in end or any(word in end for word in words)


def outgoing(settings: Settings, text: str, phone: str, purpose: str) -> str:
    """What is handed to the provider: where the text is ours, a marketing text ends in a way out."""
    if purpose != MARKETING or provider_for(settings, phone) != TWILIO or has_opt_out(settings, text, phone):
        return text
    hint = _hint(settings, phone)
    if not hint:
        return text
    return f"{text}{'，' if is_mainland(phone) else ' '}{hint}"


def arriving(settings: Settings, text: str, phone: str, purpose: str) -> str:
    """What the recipient reads, and what is counted and paid."""
    sent = outgoing(settings, text, phone, purpose)
    provider = provider_for(settings, phone)
    if provider == TWILIO:
        return sent
    sign: str = settings.tencent_sign_name if provider == "tencent" else settings.aliyun_sign_name
    signed = provider != "tencent" or is_mainland(phone)
    if not sign or not signed or sent.startswith("【"):
        return sent
    return f"【{sign}】{sent}"


def _hint(settings: Settings, phone: str) -> str:
    return settings.sms_opt_out if is_mainland(phone) else settings.sms_opt_out_abroad
