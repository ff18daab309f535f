"""What the tests of SMS share: transports at the sandbox, and messages."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from channels.render import client_id
from channels.transports import sms_tencent
from channels.transports.base import Outcome, Outgoing, Reaction, SmsPayload
from channels.transports.sms_tencent import TencentTransport
from channels.transports.sms_twilio import TwilioTransport
from core.settings import Settings


def sms(number: str, code: str = "1110", message_id: int = 1, **params: str) -> Outgoing:
    payload = SmsPayload(code, params or {"1": "好"}, "你好")
    return Outgoing(message_id, client_id(message_id), number, payload)


def tencent(settings: Settings, key: str | None = None, **options: Any) -> TencentTransport:
    credentials = sms_tencent.Credentials(settings.tencent_secret_id, key or settings.tencent_secret_key)
    more = {
        "sdk_app_id": settings.tencent_sdk_app_id,
        "region": settings.tencent_region,
        "sign_name": settings.tencent_sign_name,
        **options,
    }
    return TencentTransport(settings.tencent, credentials, **more)


def twilio(settings: Settings, token: str | None = None, **options: Any) -> TwilioTransport:
    more = {"base_url": settings.base_url, **options}
    sender = more.pop("sender", settings.twilio_sender)
    return TwilioTransport(
        settings.twilio, settings.twilio_account_sid, token or settings.twilio_auth_token, sender, **more
    )


def send(transport: Any, *messages: Outgoing) -> list[Outcome]:
    async def main() -> list[Outcome]:
        async with transport:
            found: list[Outcome] = await transport.send_many(messages, 30)
            return found

    return asyncio.run(main())


def reactions(outcomes: Sequence[Outcome]) -> list[Reaction | None]:
    return [None if outcome.error is None else outcome.error.reaction for outcome in outcomes]


def codes(outcomes: Sequence[Outcome]) -> list[str]:
    return [outcome.error.code for outcome in outcomes if outcome.error is not None]
