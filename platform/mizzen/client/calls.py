"""What a call is: an HTTP request and how its answer is read, without sending anything.

Resources make calls; the synchronous client and the asynchronous one send them. So each route stands
here once, whoever asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from mizzen.client import errors

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
DONE = "[DONE]"
"""The last event of a stream, which says nothing more."""


class Answer(BaseModel):
    """Base of all answers. Fields that a newer server adds are kept, not refused."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())


@dataclass(frozen=True)
class Call(Generic[T_co]):
    """One request, and what its answer is."""

    method: str
    path: str
    """Below the server's address, the application's prefix included."""
    kind: Any
    """What pydantic makes of the answer's JSON: a type that it knows."""
    body: Mapping[str, Any] | None = None
    timeout_s: float | None = None
    """Instead of the client's own."""
    headers: Mapping[str, str] = field(default_factory=dict)

    def read(self, response: httpx.Response) -> T_co:
        """What the answer says. Raises `APIStatusError`, `APIResponseError`."""
        if response.status_code >= 400:
            raise errors.of_response(response)
        return self.parse(response.content)

    def parse(self, content: str | bytes) -> T_co:
        """What `content`, which is JSON, says. Raises `APIResponseError`."""
        try:
            answer: T_co = TypeAdapter(self.kind).validate_json(content)
        except ValidationError as cause:
            first = cause.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the body"
            raise errors.APIResponseError(
                f"{self.method} {self.path}: the answer cannot be read",
                saw=f"{place}: {first['msg']}",
                remedy="Check that the address is Mizzen's, and that client and server are of one version.",
            ) from None
        return answer


def given(**fields: Any) -> dict[str, Any]:
    """The fields that have a value: what is None is left to the server."""
    return {name: value for name, value in fields.items() if value is not None}


def read_event(call: Call[T], data: str, request_id: str | None) -> T:
    """What one server-sent event of a stream says. Raises `ServerError` if it is an error."""
    if data.startswith('{"error":'):
        said = TypeAdapter(dict[str, dict[str, Any]]).validate_json(data)
        raise errors.of_event(said["error"], request_id)
    return call.parse(data)
