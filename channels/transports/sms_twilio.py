"""SMS by Twilio: Messages.json, one request a message; the text is ours.

Twilio has no idempotency: a request without an answer is UNKNOWN. Its status callbacks carry our own
name of the message, so that even the answer that never came is made up for by the receipt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import httpx

from channels.transports.base import Outcome, Outgoing, Reaction, SmsPayload, TransportError, send_each
from channels.transports.http import HttpTransport, ask, json_of

NAME = "twilio"
CONNECTIONS = 10
BACK_OFF_S = 60.0
OPTED_OUT = 21610

_REACTIONS = {
    **dict.fromkeys((20003, 20005, 20006, 20008, 20404, 21606, 21212, 21603, 30002, 63038), Reaction.PAUSE),
    **dict.fromkeys((20429, 21611, 30001, 14107), Reaction.RETRY),
    **dict.fromkeys((21602, 21619, 21703), Reaction.STOP),
    **dict.fromkeys((21211, 21614, 21408, 21612, 21617, 30003, 30004, 30005, 30006, 30007), Reaction.FAIL),
    OPTED_OUT: Reaction.SUPPRESS,
}
"""Code → reaction (log-in, account and sender pause; queues and rates retry; an empty text stops); an
unknown one fails the message."""


def error_of(code: int | str, message: str) -> TransportError:
    """What an error of Twilio means."""
    known = int(code) if str(code).isdecimal() else 0
    reaction = _REACTIONS.get(known, Reaction.FAIL)
    return TransportError(
        f"{code} {message}".strip()[:200],
        reaction,
        code=str(code)[:40],
        after_s=BACK_OFF_S if reaction is Reaction.RETRY else None,
        suppression="blocked",
        withdraws=known == OPTED_OUT,
    )


def status_callback(base_url: str, client_id: str) -> str:
    """The public address to which Twilio reports a message."""
    return f"{base_url}/callbacks/twilio?message={quote(client_id, safe='')}"


class TwilioTransport(HttpTransport):
    """Sends texts, one request a recipient."""

    name = NAME

    def __init__(
        self,
        endpoint: str,
        account_sid: str,
        auth_token: str,
        sender: str,
        *,
        base_url: str,
        connections: int | None = None,
    ) -> None:
        super().__init__(connections or CONNECTIONS)
        account = quote(account_sid, safe="")
        self._messages = f"{endpoint.rstrip('/')}/2010-04-01/Accounts/{account}/Messages"
        self._auth = httpx.BasicAuth(account_sid, auth_token)
        self._sender = {"MessagingServiceSid" if sender.startswith("MG") else "From": sender}
        self._base_url = base_url

    async def send_many(self, messages: Sequence[Outgoing], deadline_s: float) -> list[Outcome]:
        return await send_each(messages, self._send, self._connections, deadline_s)

    async def _send(self, message: Outgoing) -> str:
        assert isinstance(message.payload, SmsPayload)
        form = {
            "To": message.address,
            "Body": message.payload.text,
            "StatusCallback": status_callback(self._base_url, message.client_id),
            **self._sender,
        }
        answer = await self._ask(self._http.build_request("POST", f"{self._messages}.json", data=form))
        # Refused already while it was queued.
        if answer.get("error_code"):
            raise error_of(answer["error_code"], str(answer.get("error_message") or ""))
        return str(answer["sid"])

    async def status(self, sid: str) -> dict[str, Any]:
        """The Message resource as Twilio has it now. Raises TransportError."""
        url = f"{self._messages}/{quote(sid, safe='')}.json"
        return await self._ask(self._http.build_request("GET", url))

    async def _ask(self, request: httpx.Request) -> dict[str, Any]:
        # Signed here and not by the client, so that a request is sent once whatever the answer is.
        next(self._auth.auth_flow(request))
        response = await ask(self._http, request)
        answer = json_of(response)
        if response.status_code not in (200, 201) or not answer.get("sid"):
            raise error_of(answer.get("code") or response.status_code, str(answer.get("message") or ""))
        return answer
