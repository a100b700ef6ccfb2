"""The one shape of an error over HTTP (OpenAI's), and the replies to every exception.

    {"error": {"message": ..., "type": ..., "param": ..., "code": ...}}

`message` is for people, `param` names the field, `code` is for programs. A traceback is never shown.
The paths of the Open Inference Protocol have the protocol's own shape instead, {"error": "..."}: its clients
read the error as a text.
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
from starlette.requests import ClientDisconnect

from mizzen.errors import AuthenticationError, DeadlineError, MizzenError, OverloadedError

logger = logging.getLogger(__name__)

CODES = {
    400: "invalid_request",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    409: "conflict",
    413: "request_too_large",
    415: "unsupported_media_type",
    429: "overloaded",
    500: "internal_error",
    502: "bad_gateway",
    503: "unavailable",
    504: "deadline_exceeded",
}
CLIENT_GONE = 499
"""nginx's: the client went away before its answer. Nobody is told it, it is what we count."""
REJECTIONS = {
    400: "invalid",
    401: "unauthenticated",
    403: "forbidden",
    408: "too_slow",
    413: "too_large",
    415: "invalid",
    429: "queue_full",
    503: "unavailable",
    504: "deadline",
}
"""What a status says of why a request was refused, in the words of `metrics.REJECTED`."""
_RETRY_AFTER_S = 1
_PLACES = ("body", "query", "path", "header")
_LONGEST_NAME, _DEEPEST = 100, 20
"""Of a field's name that is repeated in a message: the client may have sent megabytes."""


@dataclass(frozen=True)
class Reply:
    """A status with an error body."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None
    """Why it was refused, where the status alone does not tell."""

    @property
    def rejection(self) -> str | None:
        """Why the request was refused, for `metrics.REJECTED`; None if it was not, but failed or was lost."""
        return self.reason or REJECTIONS.get(self.status)

    def body(self, path: str = "") -> bytes:
        """The JSON body for a request to `path` (below the route prefix)."""
        if speaks_inference_protocol(path):
            return _encode({"error": self.message})
        error = {
            "message": self.message,
            "type": _type(self.status),
            "param": self.param,
            "code": self.code or CODES.get(self.status, "error"),
        }
        return _encode({"error": error})


def _encode(body: Mapping[str, Any]) -> bytes:
    # What a client sent may come back in a message, also text that is none: half of a surrogate pair, say.
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")


WRONG_TYPE = Reply(415, "the body must be JSON; send the header `content-type: application/json`")
NOTHING_HERE = Reply(404, "there is nothing at this path; /docs and /openapi.json list what there is")


def speaks_inference_protocol(path: str) -> bool:
    """Whether `path` (below the route prefix) belongs to the Open Inference Protocol."""
    return path == "/v2" or path.startswith(("/v2/health/", "/v2/models/"))


def reply(exception: Exception, request_id: str) -> Reply:
    """What the client gets for `exception`; anything unexpected is logged and answered with a bare 500."""
    if isinstance(exception, OverloadedError):
        wait_s = math.ceil(exception.retry_after_s or _RETRY_AFTER_S)
        again = {"retry-after": str(wait_s)}
        return Reply(429, str(exception), headers=again, reason=exception.reason)
    if isinstance(exception, AuthenticationError):
        return Reply(401, str(exception), code="invalid_api_key", headers={"www-authenticate": "Bearer"})
    if isinstance(exception, DeadlineError) or (
        isinstance(exception, MizzenError) and exception.http_status < 500
    ):
        return Reply(exception.http_status, str(exception), exception.field, exception.code)
    if isinstance(exception, MizzenError):
        logger.error("request %s: %s", request_id, exception, exc_info=exception)
        again = {"retry-after": str(_RETRY_AFTER_S)} if exception.http_status == 503 else {}
        return Reply(exception.http_status, exception.what, exception.field, exception.code, again)
    if isinstance(exception, RequestValidationError):
        # FastAPI leaves a body as bytes if its type is not JSON.
        return WRONG_TYPE if isinstance(exception.body, bytes) else _invalid(exception.errors())
    if isinstance(exception, ClientDisconnect):
        return Reply(CLIENT_GONE, "the client went away before its request was whole")
    if isinstance(exception, HTTPException):
        if exception.status_code == 404 and exception.detail == "Not Found":
            return NOTHING_HERE
        return Reply(exception.status_code, str(exception.detail), headers=dict(exception.headers or {}))
    logger.error("request %s failed unexpectedly", request_id, exc_info=exception)
    return Reply(
        500, "the server failed unexpectedly; its log says why, under this answer's mizzen-request-id"
    )


def _invalid(problems: Sequence[Mapping[str, Any]]) -> Reply:
    first = problems[0]
    place = [str(part)[:_LONGEST_NAME] for part in first["loc"][:_DEEPEST] if part not in _PLACES]
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
    if status == 403:
        return "permission_error"
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"
