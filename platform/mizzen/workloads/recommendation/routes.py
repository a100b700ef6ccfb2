"""Routes that read a JSON body and answer with JSON bytes, without what FastAPI does in between.

FastAPI reads a body into dicts and validates those, then validates the answer and writes it: for an answer
of ten items that takes longer than the network. Here pydantic reads the bytes, and the handler returns
bytes. The OpenAPI document is made from the handler's annotation and from `response_model`, as always; that
the bytes follow that model is held by the tests.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

Handler = Callable[[Any], Awaitable[bytes]]


class JsonRoute(APIRoute):
    """A POST whose handler takes one pydantic model, the body, and returns the bytes of its answer."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers: FastAPI asks for it once."""
        assert self.body_field is not None, "a JsonRoute has a body"
        model, handler = self.body_field.field_info.annotation, self.endpoint
        assert isinstance(model, type) and issubclass(model, BaseModel), "the body is one pydantic model"

        async def handle(request: Request) -> Response:
            return Response(await handler(await _parsed(request, model)), media_type="application/json")

        return handle


async def _parsed(request: Request, model: type[BaseModel]) -> BaseModel:
    """The body. Raises `RequestValidationError`, as FastAPI does."""
    try:
        body = await request.body()
    except ClientDisconnect:
        raise HTTPException(400, "the client went away before its request was whole") from None
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        # As strict as FastAPI: a browser sends other types across sites without asking first.
        wrong = {"type": "model_type", "loc": ("body",), "msg": "Input should be JSON", "input": None}
        raise RequestValidationError([wrong], body=body)
    try:
        return model.model_validate_json(body)
    except ValidationError as cause:
        problems = cause.errors(include_url=False, include_input=False)
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in problems]) from None
