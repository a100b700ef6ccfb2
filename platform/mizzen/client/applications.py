"""What every application has: probes, examples, and any route that this client has no word for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mizzen.client.calls import Answer, Call
from mizzen.client.resource import Resource, later, now
from mizzen.client.sending import AsyncSender, Sender


class Health(Answer):
    """That an application is alive, or ready, and with which version."""

    status: str
    model: str
    version: int


class ExampleRequest(Answer):
    """A request that works on the version that is loaded."""

    path: str
    """Below the application's prefix."""
    body: dict[str, Any]


def ready(prefix: str) -> Call[Health]:
    """Whether the application can answer; raises `ServerError` (503) as long as it cannot."""
    return Call("GET", f"{prefix}/readyz", Health)


def examples(prefix: str) -> Call[list[ExampleRequest]]:
    """Requests that work on the version that is loaded."""
    return Call("GET", f"{prefix}/examples", list[ExampleRequest])


def post(
    prefix: str, path: str, body: Mapping[str, Any], *, timeout_s: float | None = None
) -> Call[dict[str, Any]]:
    """The JSON answer to `body` from any route: for workloads of your own."""
    return Call("POST", f"{prefix}{path}", dict[str, Any], body, timeout_s)


class Applications(Resource[Sender]):
    """Any application: `client.applications.at("/digits").post("/v1/digits", {...})`."""

    ready = now(ready)
    examples = now(examples)
    post = now(post)


class AsyncApplications(Resource[AsyncSender]):
    """Any application, to be awaited."""

    ready = later(ready)
    examples = later(examples)
    post = later(post)
