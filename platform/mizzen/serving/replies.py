"""The one shape of an error over HTTP (OpenAI's), and the replies to every exception.

    {"error": {"message": ..., "type": ..., "param": ..., "code": ...}}

`message` is for people, `param` names the field, `code` is for programs. A traceback is never shown.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from mizzen.errors import AuthenticationError, MizzenError, OverloadedError

logger = logging.getLogger(__name__)

CODES = {
    400: "invalid_request",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "request_too_large",
    415: "unsupported_media_type",
    429: "overloaded",
    500: "internal_error",
    503: "unavailable",
}
_RETRY_AFTER_S = 1


@dataclass(frozen=True)
class Reply:
    """A status with an error body."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        """The JSON body."""
        error = {
            "message": self.message,
            "type": _type(self.status),
            "param": self.param,
            "code": self.code or CODES.get(self.status, "error"),
        }
        return json.dumps({"error": error}, ensure_ascii=False).encode()


def reply(exception: Exception, request_id: str) -> Reply:
    """What the client gets for `exception`; anything unexpected is logged and answered with a bare 500."""
    if isinstance(exception, OverloadedError):
        wait_s = math.ceil(getattr(exception, "retry_after_s", None) or _RETRY_AFTER_S)
        return Reply(429, str(exception), headers={"retry-after": str(wait_s)})
    if isinstance(exception, AuthenticationError):
        return Reply(401, str(exception), code="invalid_api_key", headers={"www-authenticate": "Bearer"})
    if isinstance(exception, MizzenError) and exception.http_status < 500:
        return Reply(exception.http_status, str(exception), exception.field, exception.code)
    if isinstance(exception, MizzenError):
        logger.error("request %s: %s", request_id, exception, exc_info=exception)
        return Reply(exception.http_status, exception.what, exception.field, exception.code)
    if isinstance(exception, RequestValidationError):
        return _invalid(exception.errors())
    if isinstance(exception, HTTPException):
        return Reply(exception.status_code, str(exception.detail), headers=dict(exception.headers or {}))
    logger.error("request %s failed unexpectedly", request_id, exc_info=exception)
    return Reply(
        500, "the server failed unexpectedly; its log says why, under this answer's mizzen-request-id"
    )


def _invalid(problems: Sequence[Mapping[str, Any]]) -> Reply:
    first = problems[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "path", "header")]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", first["msg"])
        return Reply(400, f"the body is not valid JSON: {reason}", code="malformed_json")
    param = ".".join(place) or None
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    message = first["msg"].removeprefix("Value error, ")
    return Reply(
        400, f"{param or 'the body'}: {message[:1].lower()}{message[1:]}{more}", param, "invalid_value"
    )


def _type(status: int) -> str:
    if status == 401:
        return "authentication_error"
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"
