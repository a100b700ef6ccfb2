"""What a client can meet.

    ClientError                        everything below; itself a `MizzenError`
    ├── APIConnectionError             there was no answer: refused, cut off, no such host
    │   └── APITimeoutError            there was none in time
    ├── APIResponseError               there was one, but not such as this client understands
    └── APIStatusError                 the server refused; `status_code`, `code`, `param`, `request_id`
        ├── BadRequestError            400, 413, 415, 422: mend the request
        ├── AuthenticationError        401: no API key, or none that is accepted
        ├── PermissionDeniedError      403: the key may not do this
        ├── NotFoundError              404: no such application, model or path
        ├── ConflictError              409
        ├── RateLimitError             429: `retry_after_s` says when to come again
        └── ServerError                500 and above, and 408: not the request's fault

They hold what the server said, and never the API key. They survive pickling.
"""

from __future__ import annotations

import json
import math
from typing import Any

import httpx

from mizzen.errors import MizzenError

_LONGEST_TEXT = 500
"""Characters that are shown of an answer which is no error of Mizzen's (a proxy's page, say)."""


class ClientError(MizzenError):
    """Base of all that a client raises."""


class APIConnectionError(ClientError):
    """There was no answer."""


class APITimeoutError(APIConnectionError):
    """There was no answer in time."""


class APIResponseError(ClientError):
    """The answer is not such as this client understands."""


class APIStatusError(ClientError):
    """The server refused."""

    status_code: int = 0
    code: str | None = None
    """For programs, for instance `context_length_exceeded`."""
    param: str | None = None
    """The field of the request that is wrong."""
    request_id: str | None = None
    """Under which the server's log speaks of this request."""


class BadRequestError(APIStatusError):
    """The request is wrong."""


class AuthenticationError(APIStatusError):
    """There is no API key, or none that is accepted."""


class PermissionDeniedError(APIStatusError):
    """The API key may not do this."""


class NotFoundError(APIStatusError):
    """There is no such application, model or path."""


class ConflictError(APIStatusError):
    """Somebody else was first."""


class RateLimitError(APIStatusError):
    """Too much at a time."""

    retry_after_s: float | None = None
    """Seconds after which to try again, if the server says so."""


class ServerError(APIStatusError):
    """The server failed."""


_KINDS: dict[int, type[APIStatusError]] = {
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    408: ServerError,
    409: ConflictError,
    429: RateLimitError,
}


def of_response(response: httpx.Response) -> APIStatusError:
    """The error for a response whose body has been read and whose status is 400 or more."""
    status = response.status_code
    kind = _KINDS.get(status, ServerError if status >= 500 else BadRequestError)
    said = _said(response)
    message = said.get("message") or _plain(response) or response.reason_phrase
    error = kind(f"{status}: {message}")
    error.status_code = status
    error.code, error.param = said.get("code"), said.get("param")
    error.request_id = response.headers.get("mizzen-request-id")
    if isinstance(error, RateLimitError):
        error.retry_after_s = _seconds(response.headers.get("retry-after", ""))
    return error


def of_event(said: dict[str, Any], request_id: str | None) -> ServerError:
    """The error that a stream of server-sent events ends with."""
    error = ServerError(f"the answer broke off: {said.get('message', 'the server does not say why')}")
    error.code, error.param, error.request_id = said.get("code"), said.get("param"), request_id
    return error


def of_transport(cause: httpx.HTTPError, what: str) -> APIConnectionError:
    """The error for `what` (a method and an address) that got no answer because of `cause`."""
    if isinstance(cause, httpx.TimeoutException):
        return APITimeoutError(
            f"{what}: no answer in time",
            saw=type(cause).__name__,
            remedy="Give the client a longer timeout_s, or ask for less at a time.",
        )
    return APIConnectionError(
        f"{what}: no answer ({cause or type(cause).__name__})",
        remedy="Check the address, and that `mizzen serve` runs there.",
    )


def _said(response: httpx.Response) -> dict[str, Any]:
    try:
        content = json.loads(response.content)
    except ValueError:
        return {}
    error = content.get("error") if isinstance(content, dict) else None
    if isinstance(error, str):  # the Open Inference Protocol's way
        return {"message": error}
    return error if isinstance(error, dict) else {}


def _plain(response: httpx.Response) -> str:
    text = " ".join(response.text.split())
    return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + " ..."


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
