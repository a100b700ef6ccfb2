"""Routes that read a body with pydantic's own JSON parser and send bytes that are JSON already.

FastAPI would parse into Python objects first, validate those, and afterwards validate and write the answer
once more: with thousands of numbers in a body that is most of the time of a request. What a route takes and
gives is declared as for any other route of FastAPI, so the OpenAPI document says it all the same; that the
bytes are what it says is held by the tests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, get_type_hints

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from mizzen.workloads.contract import count_tokens
from mizzen.workloads.forecasting.answers import Body

T = TypeVar("T")
LARGE_BYTES = 64 * 1024
"""From here on what is read or written is so in a thread, or other requests would have to wait for it. They
wait all the same while pydantic parses, for it keeps the interpreter to itself: some 25 ms for 4 MiB of usual
numbers."""


class DirectRoute(APIRoute):
    """A route whose endpoint is `async (body: SomeModel) -> Body`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request; FastAPI's documented way to bring one's own."""
        model: type[BaseModel] = get_type_hints(self.endpoint)["body"]

        async def handle(request: Request) -> Response:
            content = await _content(request)
            body = await aside(len(content), lambda: _validated(model, content))
            answer: Body = await self.endpoint(body)
            count_tokens(request.scope, answer.num_tokens)
            return Response(answer.json, media_type="application/json")

        return handle


async def aside(size_bytes: int, function: Callable[[], T]) -> T:
    """`function()`, in a thread if it has so much to work on that other requests would feel it."""
    return await asyncio.to_thread(function) if size_bytes > LARGE_BYTES else function()


async def _content(request: Request) -> bytes:
    try:
        content = await request.body()
    except ClientDisconnect:
        raise HTTPException(400, "the client went away before its request was whole") from None
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        # As strict as FastAPI: a browser sends other types across sites without asking first.
        wrong = {"type": "model_type", "loc": ("body",), "msg": "Input should be JSON", "input": None}
        raise RequestValidationError([wrong], body=content)
    return content


def _validated(model: type[BaseModel], content: bytes) -> BaseModel:
    try:
        return model.model_validate_json(content)
    except ValidationError as cause:
        errors = cause.errors(include_url=False, include_input=False)
    places = [tuple(part for part in one["loc"] if "[" not in str(part)) for one in errors]
    if any(len(place) < len(one["loc"]) for one, place in zip(errors, places, strict=True)):
        # Of the alternatives of a union, the one that got furthest says best what is wrong.
        order = sorted(range(len(errors)), key=lambda i: -len(places[i]))
        errors, places = [errors[i] for i in order], [places[i] for i in order]
    raise RequestValidationError(
        [{**one, "loc": ("body", *place)} for one, place in zip(errors, places, strict=True)]
    )
