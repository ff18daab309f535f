"""What providers' codes mean, in words; a code that is not here is shown as it came, marked as unknown."""

from __future__ import annotations

import re

from flask_babel import lazy_gettext as _

_TOO_OFTEN = _("Too many messages to this recipient or in this time")
_TEMPLATE = _("The provider does not know the template, or its parameters do not fit")
_SIGN = _("The provider does not know the signature")
_RIGHTS = _("Key, secret, address or permission of the account is refused")
_MONEY = _("The account has no money or quota left")
_NUMBER = _("The provider refuses the number or recipient")
_WORDS = _("The provider refuses words of the text")
_OFF = _("The phone was off or out of reach")

_PREFIXES: dict[str, tuple[tuple[str, object], ...]] = {
    "aliyun": (
        ("DELIVRD", _("Delivered")),
        ("DELIVERED", _("Delivered")),
        ("OK", _("Accepted")),
        ("isv.BUSINESS_LIMIT_CONTROL", _TOO_OFTEN),
        ("isv.DAY_LIMIT", _MONEY),
        ("isv.MONTH_LIMIT", _MONEY),
        ("isv.OUT_OF_SERVICE", _MONEY),
        ("isv.AMOUNT_NOT_ENOUGH", _MONEY),
        ("isp.RAM_PERMISSION", _RIGHTS),
        ("isv.RAM_PERMISSION", _RIGHTS),
        ("SignatureDoesNotMatch", _RIGHTS),
        ("InvalidAccessKeyId", _RIGHTS),
        ("isv.SMS_TEMPLATE", _TEMPLATE),
        ("isv.TEMPLATE", _TEMPLATE),
        ("isv.INVALID_PARAMETERS", _TEMPLATE),
        ("isv.PARAM", _TEMPLATE),
        ("isv.SMS_SIGN", _SIGN),
        ("isv.SIGN", _SIGN),
        ("isv.MOBILE", _NUMBER),
        ("isv.BLACK_KEY", _WORDS),
        ("isv.SMS_CONTENT", _WORDS),
        ("MOBILE_NOT_ON_SERVICE", _OFF),
        ("MOBILE_ACCOUNT_ABNORMAL", _NUMBER),
        ("MOBILE_IN_BLACK", _NUMBER),
        ("MOBILE_TERMINAL_ERROR", _OFF),
        ("CONTENT_KEYWORD", _WORDS),
        ("NO_ROUTE", _NUMBER),
    ),
    "tencent": (
        ("Ok", _("Accepted")),
        ("DELIVRD", _("Delivered")),
        ("LimitExceeded", _TOO_OFTEN),
        ("FailedOperation.InsufficientBalance", _MONEY),
        ("FailedOperation.PhoneNumberInBlacklist", _NUMBER),
        ("FailedOperation.Template", _TEMPLATE),
        ("FailedOperation.Signature", _SIGN),
        ("FailedOperation.ContainSensitiveWord", _WORDS),
        ("InvalidParameterValue.IncorrectPhone", _NUMBER),
        ("InvalidParameterValue.Template", _TEMPLATE),
        ("InvalidParameterValue.Signature", _SIGN),
        ("AuthFailure", _RIGHTS),
        ("UnauthorizedOperation", _RIGHTS),
        ("MK:0001", _NUMBER),
        ("MK:0015", _NUMBER),
        ("EXPIRED", _OFF),
    ),
    "twilio": (
        ("21211", _NUMBER),
        ("21408", _RIGHTS),
        ("21610", _("The recipient replied STOP")),
        ("21614", _NUMBER),
        ("20003", _RIGHTS),
        ("20429", _TOO_OFTEN),
        ("30003", _OFF),
        ("30004", _NUMBER),
        ("30005", _NUMBER),
        ("30006", _NUMBER),
        ("30007", _WORDS),
    ),
    "wechat": (
        ("-1", _("WeChat is busy")),
        ("40001", _RIGHTS),
        ("40003", _NUMBER),
        ("43004", _("The member does not follow the account")),
        ("43019", _("The member blocked the account")),
        ("43101", _("The member refused, or the consent is used up")),
        ("40037", _TEMPLATE),
        ("47003", _TEMPLATE),
        ("41030", _TEMPLATE),
        ("40165", _TEMPLATE),
        ("45009", _MONEY),
        ("45011", _TOO_OFTEN),
        ("45015", _("The member wrote too long ago for a service message")),
        ("45047", _("Too many service messages without an answer of the member")),
        ("40125", _RIGHTS),
        ("40164", _RIGHTS),
        ("40243", _RIGHTS),
        ("48001", _RIGHTS),
        ("50002", _RIGHTS),
    ),
    "wecom": (
        ("-1", _("WeCom is busy")),
        ("fail_list", _("WeCom does not let it be sent to this customer")),
        ("40001", _RIGHTS),
        ("40003", _RIGHTS),
        ("40013", _RIGHTS),
        ("40014", _RIGHTS),
        ("40056", _RIGHTS),
        ("40096", _NUMBER),
        ("41004", _RIGHTS),
        ("41048", _("None of the customers can be sent to")),
        ("42001", _RIGHTS),
        ("45009", _TOO_OFTEN),
        ("45033", _TOO_OFTEN),
        ("48002", _RIGHTS),
        ("60011", _RIGHTS),
        ("60020", _RIGHTS),
        ("60111", _RIGHTS),
        ("84061", _("The customer is no contact of the company any more")),
        ("84074", _RIGHTS),
        ("301002", _RIGHTS),
    ),
}
_OWN: dict[str, object] = {
    "connect": _("No connection came about"),
    "silence": _("No answer came"),
    "template_code": _("The template names no code for this provider"),
}
_MAIL: tuple[tuple[str, object], ...] = (
    (r"2\.", _("Accepted")),
    (r"5\.1\.[1-6]|5\.1\.10", _("The address does not exist")),
    (r"5\.2\.1|5\.7\.13", _("The mailbox is switched off")),
    (r"[45]\.2\.2", _("The mailbox is full")),
    (r"[45]\.2\.3|5\.3\.4", _("The message is too large")),
    (r"4\.[34]\.", _("The receiver is out of order or not reached")),
    (r"[45]\.7\.", _("Refused by policy: authentication, reputation or content")),
    (r"5\.5\.|5\.6\.|5\.1\.[78]", _("The receiver minds the form of the message")),
    (r"421", _("The receiver closed the connection: slower")),
    (r"45[0-2]", _("Not now; tried again")),
    (r"55[0-4]", _("Refused for good")),
    (r"53[0-5]", _("The server asks for another log-in")),
    (r"250", _("Accepted")),
)


def meaning(provider: str | None, channel: str, code: str) -> str | None:
    """A code in words; None for one that is not known."""
    text = code.strip()
    if text in _OWN:
        return str(_OWN[text])
    if channel == "email":
        return next((str(words) for pattern, words in _MAIL if re.match(pattern, text)), None)
    known = _PREFIXES.get(provider or channel) or _PREFIXES.get(channel, ())
    number = text.lstrip("-").isdecimal()
    return next(
        (str(words) for prefix, words in known if (text == prefix if number else text.startswith(prefix))),
        None,
    )
