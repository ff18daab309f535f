"""Which template of a provider's a message means, where a shop sends through two of them.

``provider_template`` is the provider's code (``SMS_1001``), or one a provider, separated by spaces:
``aliyun=SMS_1001 tencent=1110``.
"""

from __future__ import annotations

from functools import lru_cache

from channels.transports.base import Reaction, TransportError


@lru_cache(maxsize=1000)
def code_for(provider: str, written: str) -> str:
    """The provider's own code. Raises TransportError(STOP) where codes are named and this one is not."""
    if "=" not in written:
        return written
    named = dict(part.partition("=")[::2] for part in written.split())
    if not named.get(provider):
        raise TransportError(
            f"The template names no code for {provider}; write {provider}=… into it.",
            Reaction.STOP,
            code="template_code",
        )
    return named[provider]
