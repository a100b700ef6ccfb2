"""A workload from outside, as small as can be: it adds numbers with a constant that lies in its folder."""

from __future__ import annotations

import asyncio
import json
import os
import weakref
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from mizzen.errors import OverloadedError, RequestError, ServingError
from mizzen.workloads.contract import (
    Endpoint,
    Example,
    Fields,
    Precision,
    QualityMetric,
    ServedModel,
    Workload,
    count_tokens,
)

ALIVE: weakref.WeakSet[Endpoint] = weakref.WeakSet()


class AddRequest(Fields):
    values: list[float]
    delay_s: float = 0.0


class AddReply(Fields):
    total: float
    batch_size: int
    pid: int
    num_endpoints: int
    """How many versions this process still holds in memory."""
    num_streams: int
    """How many streams this replica is sending."""


class AdderOptions(Fields):
    scale: float = 1.0
    fail_at_start: bool = False


class AdderEndpoint(Endpoint):
    read_only = MappingProxyType(
        {"/v1/add": frozenset({"batch_size", "pid", "num_endpoints", "num_streams"})}
    )

    def __init__(self, model: ServedModel, options: AdderOptions) -> None:
        self.router = APIRouter()
        self.options = options
        self.constant = float(json.loads((model.folder / "model.json").read_text())["constant"])
        self.add = model.batched(self._add)
        self.started = False
        self.closed = False
        self.num_streams = 0
        ALIVE.add(self)
        self.router.add_api_route("/v1/add", self.answer, methods=["POST"])
        self.router.add_api_route("/v1/stream", self.stream, methods=["GET", "POST"])
        self.router.add_api_route("/v1/items/{item}", self.item, methods=["GET"])
        self.router.add_api_route("/v1/fail/{kind}", self.fail, methods=["GET"])

    async def start(self) -> None:
        if self.options.fail_at_start:
            raise ServingError("the adder was told not to start", remedy="Set fail_at_start to false.")
        self.started = True

    async def close(self) -> None:
        self.started, self.closed = False, True

    def _add(self, items: list[list[float]]) -> list[Any]:
        if not self.started:
            raise RuntimeError("asked after it was closed")
        return [self._one(values, len(items)) for values in items]

    def _one(self, values: list[float], size: int) -> AddReply | Exception:
        if any(value < 0 for value in values):
            return RequestError("values must not be negative", saw=min(values), field="values")
        total = self.options.scale * sum(values) + self.constant
        return AddReply(
            total=total,
            batch_size=size,
            pid=os.getpid(),
            num_endpoints=len(ALIVE),
            num_streams=self.num_streams,
        )

    async def answer(self, request: AddRequest, http: Request) -> AddReply:
        count_tokens(http.scope, len(request.values))
        await asyncio.sleep(request.delay_s)
        result: AddReply = await self.add(request.values)
        return result

    async def stream(
        self, pieces: int = 3, break_after: int = -1, piece_bytes: int = 0, pause_s: float = 0.01
    ) -> StreamingResponse:
        async def produce() -> AsyncIterator[str]:
            self.num_streams += 1
            try:
                for number in range(pieces):
                    if number == break_after:
                        raise RuntimeError("broken on purpose")
                    yield f"data: {number + self.constant}{' ' * piece_bytes}\n\n"
                    await asyncio.sleep(pause_s)
            finally:
                self.num_streams -= 1

        return StreamingResponse(produce(), media_type="text/event-stream")

    async def item(self, item: int) -> dict[str, int]:
        return {"item": item}

    async def fail(self, kind: str) -> None:
        if kind == "overloaded":
            raise OverloadedError("full")
        raise ValueError("a secret detail")


class Adder(Workload):
    name = "adder"
    summary = "Adds numbers."
    data_config = AddRequest
    model_config = AddRequest
    serve_options = AdderOptions
    quality = QualityMetric("exact", higher_is_better=True)
    tolerance: ClassVar[Mapping[Precision, float]] = {}
    output_names = ("total",)

    def endpoint(self, model: ServedModel, options: Any) -> Endpoint:
        return AdderEndpoint(model, options)

    def examples(self, folder: Path) -> Sequence[Example]:
        constant = json.loads((folder / "model.json").read_text())["constant"]
        return (Example("/v1/add", {"values": [1, 2, constant]}),)

    def _absent(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError("the adder is served, never trained")

    prepare = build_model = training_data = evaluation_data = collate = loss = _absent
    inputs = measure = export = probes = open = _absent


workload = Adder()
