"""SMS by Aliyun Dysmsapi (2017-05-25): SendSms, SendBatchSms, and the ACS3 signature.

Aliyun has no idempotency: an unanswered request is UNKNOWN. When a batch is refused for one
number's sake, it is halved until the number is alone.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import orjson

from channels.transports.base import Outcome, Outgoing, Reaction, TransportError
from channels.transports.http import HttpTransport, ask, json_of
from channels.transports.sms_codes import code_for
from channels.transports.sms_groups import send_grouped, sms_of
from core.contacts import blind_index

VERSION = "2017-05-25"
BATCH = 100
CONNECTIONS = 8
_ALGORITHM = "ACS3-HMAC-SHA256"
_DAY_S = 24 * 3600.0

_REACTIONS: Sequence[tuple[str, Reaction]] = (
    ("isv.BUSINESS_LIMIT_CONTROL", Reaction.DEFER),
    ("isv.DAY_LIMIT_CONTROL", Reaction.PAUSE),
    ("isv.MONTH_LIMIT_CONTROL", Reaction.PAUSE),
    ("isv.OUT_OF_SERVICE", Reaction.PAUSE),
    ("isv.AMOUNT_NOT_ENOUGH", Reaction.PAUSE),
    ("isp.RAM_PERMISSION_DENY", Reaction.PAUSE),
    ("isv.RAM_PERMISSION_DENY", Reaction.PAUSE),
    ("isv.ACCOUNT_", Reaction.PAUSE),
    ("isv.PRODUCT_", Reaction.PAUSE),
    ("isv.DENY_IP_RANGE", Reaction.PAUSE),
    ("SignatureDoesNotMatch", Reaction.PAUSE),
    ("InvalidAccessKeyId", Reaction.PAUSE),
    ("isv.SMS_SIGNATURE_", Reaction.STOP),
    ("isv.SIGN_STATE_ILLEGAL", Reaction.STOP),
    ("isv.SMS_TEMPLATE_ILLEGAL", Reaction.STOP),
    ("isv.TEMPLATE_MISSING_PARAMETERS", Reaction.STOP),
    ("isv.PARAM_LENGTH_LIMIT", Reaction.STOP),
    ("isv.PARAM_NOT_SUPPORT_URL", Reaction.STOP),
    ("isv.BLACK_KEY_CONTROL_LIMIT", Reaction.STOP),
    ("isv.SMS_CONTENT_ILLEGAL", Reaction.STOP),
    ("isv.MOBILE_NUMBER_ILLEGAL", Reaction.FAIL),
    ("isp.SYSTEM_ERROR", Reaction.RETRY),
    ("Throttling", Reaction.RETRY),
)
"""Code (or its beginning) → reaction; the first match counts, anything else fails the message."""
_OF_ONE_NUMBER = frozenset({Reaction.DEFER, Reaction.FAIL, Reaction.STOP})


@dataclass(frozen=True)
class Credentials:
    key_id: str
    secret: str


def encode(text: str) -> str:
    """RFC 3986: everything but ``A-Za-z0-9-_.~``."""
    return quote(text, safe="-_.~")


def canonical_query(query: Mapping[str, str]) -> str:
    return "&".join(f"{encode(key)}={encode(query[key])}" for key in sorted(query))


def sign(
    credentials: Credentials,
    method: str,
    path: str,
    query: Mapping[str, str],
    headers: Mapping[str, str],
    body: bytes,
) -> str:
    """The Authorization header. ``headers`` hold lower-case names: host, content-type and every x-acs-*."""
    names = sorted(headers)
    canonical_headers = "".join(f"{name}:{headers[name].strip()}\n" for name in names)
    signed = ";".join(names)
    request = "\n".join(
        (method, path, canonical_query(query), canonical_headers, signed, hashlib.sha256(body).hexdigest())
    )
    to_sign = f"{_ALGORITHM}\n{hashlib.sha256(request.encode()).hexdigest()}"
    signature = hmac.new(credentials.secret.encode(), to_sign.encode(), hashlib.sha256).hexdigest()
    return f"{_ALGORITHM} Credential={credentials.key_id},SignedHeaders={signed},Signature={signature}"


def error_of(code: str, message: str) -> TransportError:
    """What a refusal of Aliyun means."""
    for prefix, reaction in _REACTIONS:
        if code.startswith(prefix):
            after = _DAY_S if reaction is Reaction.DEFER else None
            return TransportError(message or code, reaction, code=code, after_s=after)
    return TransportError(message or code, Reaction.FAIL, code=code)


def provider_id(biz_id: str, number: str) -> str:
    """One BizId covers a batch: with the number's blind index it names one message."""
    return f"{biz_id}:{(blind_index('phone', e164(number)) or '')[:16]}"


def aliyun_number(phone: str) -> str:
    """E.164 as Aliyun writes it: mainland numbers without a prefix, others without the plus."""
    return phone[3:] if phone.startswith("+86") else phone.removeprefix("+")


def e164(number: str) -> str:
    """Aliyun's form of a number back to E.164."""
    bare = number.removeprefix("+").removeprefix("00")
    return f"+86{bare}" if len(bare) == 11 and bare.startswith("1") else f"+{bare}"


class AliyunTransport(HttpTransport):
    """Sends template SMS, up to 100 of the same template a request."""

    name = "aliyun"

    def __init__(
        self,
        endpoint: str,
        credentials: Credentials,
        sign_name: str,
        *,
        connections: int | None = None,
        show_text: bool = False,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__(connections or CONNECTIONS)
        parts = urlsplit(endpoint)
        self._host, self._path = parts.netloc, f"{parts.path.rstrip('/')}/"
        self._url = f"{parts.scheme}://{parts.netloc}{self._path}"
        self._credentials, self._sign_name = credentials, sign_name
        self._clock = clock
        self._show_text = show_text
        """The sandbox has no provider's template texts: it is told the text in a header of its own."""

    async def send_many(self, messages: Sequence[Outgoing], deadline_s: float) -> list[Outcome]:
        async def send(places: Sequence[int]) -> dict[int, Outcome]:
            group = [messages[place] for place in places]
            biz_id = await (self._send_one(group[0]) if len(group) == 1 else self._send_batch(group))
            return {place: Outcome(provider_id(biz_id, messages[place].address)) for place in places}

        return await send_grouped(
            messages,
            lambda message: code_for(self.name, sms_of(message).template_code),
            BATCH,
            send,
            of_one_number=_OF_ONE_NUMBER,
            concurrency=self._connections,
            deadline_s=deadline_s,
        )

    async def _send_one(self, message: Outgoing) -> str:
        payload = sms_of(message)
        return await self._call(
            "SendSms",
            {
                "PhoneNumbers": aliyun_number(message.address),
                "SignName": self._sign_name,
                "TemplateCode": code_for(self.name, payload.template_code),
                "TemplateParam": orjson.dumps(payload.params).decode(),
                "OutId": message.client_id,
            },
            {},
            [payload.text],
        )

    async def _send_batch(self, group: Sequence[Outgoing]) -> str:
        payloads = [sms_of(message) for message in group]
        form = {
            "PhoneNumberJson": [aliyun_number(message.address) for message in group],
            "SignNameJson": [self._sign_name] * len(group),
            "TemplateParamJson": [payload.params for payload in payloads],
        }
        return await self._call(
            "SendBatchSms",
            {
                "TemplateCode": code_for(self.name, payloads[0].template_code),
                "OutId": group[0].client_id,
            },
            {name: orjson.dumps(values).decode() for name, values in form.items()},
            [payload.text for payload in payloads],
        )

    async def details(self, phone: str, day: date, biz_id: str | None) -> list[dict[str, Any]]:
        """What Aliyun knows of a number's messages of a day (of China's calendar), newest 50; of one
        batch when ``biz_id`` names it. Raises TransportError.
        """
        query = {
            "PhoneNumber": aliyun_number(phone),
            "SendDate": f"{day:%Y%m%d}",
            "PageSize": "50",
            "CurrentPage": "1",
        }
        if biz_id:
            query["BizId"] = biz_id
        answer = await self._answer("QuerySendDetails", query, {}, ())
        found = (answer.get("SmsSendDetailDTOs") or {}).get("SmsSendDetailDTO") or []
        return [entry for entry in found if isinstance(entry, dict)]

    async def _call(
        self, action: str, query: Mapping[str, str], form: Mapping[str, str], texts: Sequence[str]
    ) -> str:
        """The BizId of a request that sends."""
        return str((await self._answer(action, query, form, texts)).get("BizId") or "")

    async def _answer(
        self, action: str, query: Mapping[str, str], form: Mapping[str, str], texts: Sequence[str]
    ) -> dict[str, Any]:
        body = urlencode(form).encode()
        headers = {
            "host": self._host,
            "x-acs-action": action,
            "x-acs-version": VERSION,
            "x-acs-date": f"{self._clock().astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "x-acs-signature-nonce": secrets.token_hex(16),
            "x-acs-content-sha256": hashlib.sha256(body).hexdigest(),
        }
        if body:
            headers["content-type"] = "application/x-www-form-urlencoded"
        headers["authorization"] = sign(self._credentials, "POST", self._path, query, headers, body)
        if self._show_text and texts:
            headers["x-sandbox-texts"] = encode(orjson.dumps(list(texts)).decode())
        url = f"{self._url}?{canonical_query(query)}"
        response = await ask(self._http, self._http.build_request("POST", url, headers=headers, content=body))
        answer = json_of(response)
        if answer.get("Code") == "OK":
            return answer
        code, message = str(answer.get("Code") or response.status_code), str(answer.get("Message") or "")
        if "x-acs-retry-after" in response.headers:
            raise TransportError(message or code, Reaction.RETRY, code=code)
        raise error_of(code, message)
