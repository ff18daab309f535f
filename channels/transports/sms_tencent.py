"""SMS by Tencent Cloud (2021-01-11): SendSms, the pulls of receipts and replies, and TC3-HMAC-SHA256.

A request carries up to 200 numbers, all of mainland China or all of elsewhere, of one template with one
list of parameters; the answer has a status for each. Tencent has no idempotency: a request without an
answer, and its own "time-out", are UNKNOWN. A request that is refused as a whole for what may be one
number's sake is halved until the number is alone.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import quote, urlsplit

from channels.sms.segments import is_mainland
from channels.transports.base import Outcome, Outgoing, Reaction, TransportError
from channels.transports.http import HttpTransport, ask, json_of
from channels.transports.sms_codes import code_for
from channels.transports.sms_groups import send_grouped, sms_of

NAME = "tencent"
VERSION, SERVICE = "2021-01-11", "sms"
BATCH = 200
PULL = 100
CONNECTIONS = 8
CHINA = timezone(timedelta(hours=8))
OPENS_AT, CLOSES_AT = 8, 22
"""Tencent's own hours for marketing, in China's time."""
_ALGORITHM = "TC3-HMAC-SHA256"
_HOUR_S, _DAY_S = 3600.0, 24 * 3600.0

_REACTIONS: Sequence[tuple[str, Reaction]] = (
    ("FailedOperation.PhoneNumberInBlacklist", Reaction.SUPPRESS),
    ("FailedOperation.MarketingSendTimeConstraint", Reaction.DEFER),
    ("LimitExceeded.PhoneNumberThirtySecondLimit", Reaction.DEFER),
    ("LimitExceeded.PhoneNumberOneHourLimit", Reaction.DEFER),
    ("LimitExceeded.PhoneNumberDailyLimit", Reaction.DEFER),
    ("LimitExceeded.PhoneNumberSameContentDailyLimit", Reaction.DEFER),
    ("LimitExceeded.DeliveryFrequencyLimit", Reaction.DEFER),
    ("LimitExceeded.GlobalSmsSendingRateLimit", Reaction.RETRY),
    ("LimitExceeded.AppCountryOrRegionInBlacklist", Reaction.FAIL),
    ("LimitExceeded.App", Reaction.PAUSE),
    ("LimitExceeded.DailyLimit", Reaction.PAUSE),
    ("FailedOperation.InsufficientBalanceInSmsPackage", Reaction.PAUSE),
    ("FailedOperation.NotEnterpriseCertification", Reaction.PAUSE),
    ("FailedOperation.ProhibitSubAccountUse", Reaction.PAUSE),
    ("UnauthorizedOperation", Reaction.PAUSE),
    ("AuthFailure", Reaction.PAUSE),
    ("InvalidParameterValue.SdkAppIdNotExist", Reaction.PAUSE),
    ("InvalidParameterValue.IncorrectPhoneNumber", Reaction.FAIL),
    ("FailedOperation.PhoneNumberParseFail", Reaction.FAIL),
    ("FailedOperation.ContainSensitiveWord", Reaction.STOP),
    ("FailedOperation.Signature", Reaction.STOP),
    ("FailedOperation.MissingSignature", Reaction.STOP),
    ("FailedOperation.Template", Reaction.STOP),
    ("FailedOperation.MissingTemplate", Reaction.STOP),
    ("InvalidParameterValue.Template", Reaction.STOP),
    ("InvalidParameterValue.ContentLengthLimit", Reaction.STOP),
    ("InvalidParameterValue.ProhibitedUseUrlInTemplateParameter", Reaction.STOP),
    ("InvalidParameterValue.UnsupportedTemplateVariable", Reaction.STOP),
    ("InvalidParameterValue.MarketingTemplateWithoutUnsubscribe", Reaction.STOP),
    ("UnsupportedOperation.", Reaction.STOP),
    ("RequestLimitExceeded", Reaction.RETRY),
    ("InternalError.Timeout", Reaction.UNKNOWN),
    ("InternalError.SendAndRecvFail", Reaction.UNKNOWN),
    ("InternalError", Reaction.RETRY),
)
"""Code (or its beginning) → reaction; the first match counts, anything else fails the message."""
_AFTER_S: Mapping[str, float] = {
    "LimitExceeded.PhoneNumberThirtySecondLimit": 30.0,
    "LimitExceeded.PhoneNumberOneHourLimit": _HOUR_S,
    "LimitExceeded.DeliveryFrequencyLimit": _HOUR_S,
}
"""A limit of a day ends with the day of China's calendar."""
_OF_ONE_NUMBER = frozenset({Reaction.DEFER, Reaction.FAIL, Reaction.SUPPRESS})


@dataclass(frozen=True)
class Credentials:
    secret_id: str
    secret_key: str


def sign(
    credentials: Credentials, service: str, headers: Mapping[str, str], body: bytes, timestamp: int
) -> str:
    """The Authorization header of a POST to ``/``. ``headers``: lower-case names; all are signed, their
    values in lower case as Tencent compares them.
    """
    names = sorted(headers)
    canonical = "".join(f"{name}:{headers[name].strip().lower()}\n" for name in names)
    signed = ";".join(names)
    request = "\n".join(("POST", "/", "", canonical, signed, hashlib.sha256(body).hexdigest()))
    day = f"{datetime.fromtimestamp(timestamp, UTC):%Y-%m-%d}"
    scope = f"{day}/{service}/tc3_request"
    to_sign = f"{_ALGORITHM}\n{timestamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"TC3{credentials.secret_key}".encode()
    for part in (day, service, "tc3_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    return (
        f"{_ALGORITHM} Credential={credentials.secret_id}/{scope}, SignedHeaders={signed}, "
        f"Signature={signature}"
    )


def error_of(code: str, message: str, now: datetime) -> TransportError:
    """What a refusal of Tencent means; the waits that end at a time of day count from ``now``."""
    reaction = next((found for prefix, found in _REACTIONS if code.startswith(prefix)), Reaction.FAIL)
    after = None
    if reaction is Reaction.DEFER:
        after = _AFTER_S.get(code) or _until_morning(code, now)
    return TransportError(f"{code} {message}".strip()[:200], reaction, code=code[:80], after_s=after)


def _until_morning(code: str, now: datetime) -> float:
    here = now.astimezone(CHINA)
    if code.endswith("MarketingSendTimeConstraint"):
        opening = here.replace(hour=OPENS_AT, minute=0, second=0, microsecond=0)
        if opening <= here:
            # Inside the hours as we know them: theirs are others, so not before a while.
            opening = opening + timedelta(days=1) if here.hour >= CLOSES_AT else here + timedelta(hours=1)
    else:
        opening = here.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return (opening - here).total_seconds()


def parameters(params: Mapping[str, str]) -> list[str]:
    """A template's values in their order: the names ``1``, ``2``, … are the provider's places.

    Raises TransportError(STOP) when none is named by its place.
    """
    places = sorted((name for name in params if name.isdecimal()), key=int)
    if params and not places:
        raise TransportError(
            "Tencent's templates know places only: name the parameters 1, 2, … as in its text.",
            Reaction.STOP,
            code="params",
        )
    return [params[name] for name in places]


class TencentTransport(HttpTransport):
    """Sends template SMS, up to 200 of the same template and parameters a request."""

    name = NAME

    def __init__(
        self,
        endpoint: str,
        credentials: Credentials,
        *,
        sdk_app_id: str,
        region: str,
        sign_name: str,
        connections: int | None = None,
        show_text: bool = False,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        now: Callable[[], datetime] | None = None,
    ) -> None:
        super().__init__(connections or CONNECTIONS)
        parts = urlsplit(endpoint)
        self._host = parts.netloc
        self._url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}/"
        self._credentials, self._region, self._sign_name = credentials, region, sign_name
        self._app = sdk_app_id
        self._clock, self._now = clock, now or clock
        self._show_text = show_text
        """The sandbox has no provider's template texts: it is told the text in a header of its own."""

    async def send_many(self, messages: Sequence[Outgoing], deadline_s: float) -> list[Outcome]:
        async def send(places: Sequence[int]) -> dict[int, Outcome]:
            statuses = await self._send([messages[place] for place in places])
            return {place: self._outcome(statuses.get(messages[place].address)) for place in places}

        return await send_grouped(
            messages,
            _shared,
            BATCH,
            send,
            of_one_number=_OF_ONE_NUMBER,
            concurrency=self._connections,
            deadline_s=deadline_s,
        )

    def _outcome(self, status: Mapping[str, Any] | None) -> Outcome:
        if status is None:
            silent = "Tencent's answer leaves this number out."
            return Outcome(error=TransportError(silent, Reaction.UNKNOWN, code="left_out"))
        if str(status.get("Code")).lower() == "ok":
            return Outcome(str(status.get("SerialNo"))[:128])
        return Outcome(error=error_of(str(status.get("Code")), str(status.get("Message") or ""), self._now()))

    async def _send(self, messages: Sequence[Outgoing]) -> dict[str, Mapping[str, Any]]:
        """Statuses by number, of messages that one request may carry."""
        shared = _shared(messages[0])
        content: dict[str, Any] = {
            "PhoneNumberSet": [message.address for message in messages],
            "SmsSdkAppId": self._app,
            "TemplateId": shared.code,
            "SignName": self._sign_name if shared.mainland else "",
            "TemplateParamSet": list(shared.params),
            "SessionContext": messages[0].client_id,
        }
        texts = [sms_of(message).text for message in messages] if self._show_text else []
        answer = await self._call("SendSms", content, texts)
        found = answer.get("SendStatusSet") or []
        return {str(status.get("PhoneNumber")): status for status in found if isinstance(status, dict)}

    async def pull_statuses(self) -> list[dict[str, Any]]:
        """Receipts that nobody pulled yet, at most 100; Tencent gives each once. Raises TransportError."""
        return await self._pull("PullSmsSendStatus", "PullSmsSendStatusSet")

    async def pull_replies(self) -> list[dict[str, Any]]:
        """Members' replies that nobody has pulled yet, at most 100. Raises TransportError."""
        return await self._pull("PullSmsReplyStatus", "PullSmsReplyStatusSet")

    async def _pull(self, action: str, name: str) -> list[dict[str, Any]]:
        answer = await self._call(action, {"Limit": PULL, "SmsSdkAppId": self._app}, ())
        return [entry for entry in answer.get(name) or [] if isinstance(entry, dict)]

    async def _call(self, action: str, content: Mapping[str, Any], texts: Sequence[str]) -> dict[str, Any]:
        """The ``Response`` of a request that was not refused as a whole. Raises TransportError."""
        body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
        signed = {
            "content-type": "application/json; charset=utf-8",
            "host": self._host,
            "x-tc-action": action,
        }
        timestamp = int(self._clock().timestamp())
        headers = {
            **signed,
            "x-tc-version": VERSION,
            "x-tc-timestamp": str(timestamp),
            "x-tc-region": self._region,
            "authorization": sign(self._credentials, SERVICE, signed, body, timestamp),
        }
        if texts:
            headers["x-sandbox-texts"] = quote(json.dumps(list(texts), ensure_ascii=False))
        request = self._http.build_request("POST", self._url, headers=headers, content=body)
        answer = json_of(await ask(self._http, request)).get("Response")
        if not isinstance(answer, dict):
            raise TransportError("Tencent's answer has no Response.", Reaction.UNKNOWN, code="shape")
        refused = answer.get("Error")
        if isinstance(refused, dict):
            raise error_of(str(refused.get("Code")), str(refused.get("Message") or ""), self._now())
        return answer


@dataclass(frozen=True)
class Shared:
    """What the messages of one request have in common."""

    code: str
    params: tuple[str, ...]
    mainland: bool


def _shared(message: Outgoing) -> Shared:
    """Raises TransportError for a template without a code of Tencent's, or with names for places."""
    payload = sms_of(message)
    code = code_for(NAME, payload.template_code)
    return Shared(code, tuple(parameters(payload.params)), is_mainland(message.address))
