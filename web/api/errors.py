"""Every refusal of the HTTP API as {"error": {"code", "message", "field"}}."""

from __future__ import annotations

from typing import Any

from apiflask import APIBlueprint, HTTPError
from flask import Response, jsonify, request
from werkzeug.exceptions import HTTPException

from core.errors import Conflict, HuiliuError, InvalidInput, NotFound

_STATUS: tuple[tuple[type[HuiliuError], int, str], ...] = (
    (InvalidInput, 422, "invalid_input"),
    (NotFound, 404, "not_found"),
    (Conflict, 409, "conflict"),
)
_CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    413: "too_large",
    415: "not_json",
    422: "invalid_input",
    429: "too_many_requests",
}
_MESSAGES = {
    400: "The body is not JSON.",
    401: "Send a valid API key as “Authorization: Bearer hl_…”.",
    403: "This API key lacks the scope “{scope}”; make one that has it under Settings.",
    413: "The body is too large; send fewer rows at once.",
}


def answer(status: int, code: str, message: str, field: str | None = None) -> Response:
    """An error as the API gives it."""
    found = jsonify({"error": {"code": code, "message": message, "field": field}})
    found.status_code = status
    if status == 401:
        found.headers["WWW-Authenticate"] = "Bearer"
    if status == 429:
        found.headers["Retry-After"] = "60"
    return found


def register(blueprint: APIBlueprint) -> None:
    """Answer the blueprint's errors in the API's form."""
    blueprint.register_error_handler(HuiliuError, _refused)
    blueprint.register_error_handler(HTTPError, _invalid)
    blueprint.register_error_handler(HTTPException, http)
    blueprint.register_error_handler(RecursionError, _too_deep)


def of_auth(status: int, scope: str) -> Response:
    """A missing or unknown key (401), or one without the scope (403)."""
    return answer(status, _CODES[status], _MESSAGES[status].format(scope=scope))


def _refused(error: HuiliuError) -> Response:
    if getattr(error, "reason", None) == _CODES[429]:
        found = answer(429, _CODES[429], str(error))
        found.headers["Retry-After"] = str(getattr(error, "retry_after_s", 60))
        return found
    status, code = next(((s, c) for kind, s, c in _STATUS if isinstance(error, kind)), (409, "refused"))
    return answer(status, getattr(error, "reason", code), str(error), getattr(error, "field", None))


def _invalid(error: HTTPError) -> Response:
    field, message = _first_problem(error.detail)
    code = _CODES.get(error.status_code, "error")
    return answer(error.status_code, code, message or str(error.message), field)


def _first_problem(detail: Any) -> tuple[str | None, str | None]:
    """Field and message of the first validation error: {location: {field: [message, …]}}."""
    if isinstance(detail, dict):
        for fields in detail.values():
            for field, messages in fields.items():
                where = None if field == "_schema" else str(field)
                return where, f"{where}: {messages[0]}" if where else str(messages[0])
    return None, None


def _too_deep(_error: RecursionError) -> Response:
    return answer(400, _CODES[400], "The JSON is nested too deeply.")


def http(error: HTTPException) -> Response:
    """What the web framework refused: an address, a method, a body."""
    status = error.code or 500
    message = _MESSAGES.get(status) or error.description or error.name
    if status == 400 and request.is_json is False:
        message = "Send JSON with “Content-Type: application/json”."
    return answer(status, _CODES.get(status, error.name.lower().replace(" ", "_")), message)
