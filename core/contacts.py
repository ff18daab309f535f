"""Contact details: brought to one form, indexed blindly, masked for eyes that may not see them."""

from __future__ import annotations

import phonenumbers
from email_validator import EmailNotValidError, validate_email

from core import crypto
from core.errors import InvalidInput

EMAIL, SMS, WECHAT, WEBHOOK, WECOM = "email", "sms", "wechat", "webhook", "wecom"
CHANNELS = (EMAIL, SMS, WECHAT, WEBHOOK, WECOM)
ADDRESS_COLUMN = {EMAIL: "email", SMS: "phone", WECHAT: "openid", WEBHOOK: "external_id", WECOM: "wecom"}
"""The column of ``members`` that holds a channel's address; its index is ``…_index``."""


def normalise_email(text: str) -> str:
    """Lower-case, IDNA-checked address. Raises InvalidInput."""
    try:
        return validate_email(
            text.strip(), check_deliverability=False, test_environment=True
        ).normalized.casefold()
    except EmailNotValidError as error:
        raise InvalidInput(f"“{text}” is not an e-mail address: {error}", "email") from None


def normalise_phone(text: str, country: str = "CN") -> str:
    """E.164 (``+8613800138000``); ``country`` applies to numbers without a prefix. Raises InvalidInput."""
    try:
        number = phonenumbers.parse(text, country)
    except phonenumbers.NumberParseException:
        number = None
    if number is None or not phonenumbers.is_possible_number(number):
        raise InvalidInput(f"“{text}” is not a phone number; write it like +8613800138000.", "phone")
    return str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))


def blind_index(column: str, normalised: str | None) -> str | None:
    """Blind index of a normalised value of ``email``, ``phone``, ``openid``, ``unionid`` or ``wecom``."""
    return crypto.keyring().blind_index(column, normalised) if normalised else None


def mask(column: str, value: str | None) -> str:
    """What a role without the right to contact details sees: ``z***@example.com``, ``+86138****8000``."""
    if not value:
        return ""
    if column == "email":
        local, _, domain = value.partition("@")
        return f"{local[:1]}***@{domain}"
    if column == "phone" and len(value) > 8:
        return f"{value[:-8]}****{value[-4:]}"
    return f"{value[:2]}***{value[-2:]}" if len(value) > 6 else "***"
