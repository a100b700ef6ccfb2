"""The Open Inference Protocol v2 over HTTP, for a model with a signature, below its application's prefix.

https://github.com/kserve/open-inference-protocol, with Triton's extension for binary tensor data. What it
cannot honour (shared memory, sequences, classification) is refused. It reads no tensors
(`inference_messages`) and runs no model (`tensor_model`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.metadata import version as installed_version
from typing import Any

from fastapi import APIRouter, Path, Request, Response
from starlette.exceptions import HTTPException

from mizzen.errors import NotFoundError, RequestError
from mizzen.serving import inference_messages as messages
from mizzen.serving.deadline import shorten
from mizzen.serving.inference_messages import InferRequest, InferResponse
from mizzen.serving.tensor_model import TensorModel
from mizzen.workloads.contract import Fields, TensorSpec

INFER, INFER_VERSION = "/models/{name}/infer", "/models/{name}/versions/{version}/infer"
"""Below `/v2`."""
HEADER_LENGTH = "inference-header-content-length"
BINARY = "application/octet-stream"
EXTENSIONS = ("binary_tensor_data",)
_TYPES = frozenset({"", "application/json", BINARY})
_LARGE_BYTES = 32_768
"""Above this, tensors are read and written in a thread, for it takes longer than changing to one."""


class TensorMetadata(Fields):
    """A tensor that a model takes or gives; -1 is a size that may vary."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(Fields):
    """What a model is."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(Fields):
    """What answers here."""

    name: str
    version: str
    extensions: list[str]


class Live(Fields):
    """The process is alive."""

    live: bool


class Ready(Fields):
    """The model can answer."""

    ready: bool


class ModelReady(Fields):
    """This model can answer."""

    name: str
    ready: bool


def router(model: TensorModel, problem: Callable[[], str | None]) -> APIRouter:
    """The protocol's routes for `model`; `problem` says why it cannot answer, if so."""
    routes = APIRouter(prefix="/v2", tags=["open inference protocol"])
    _add_health(routes, problem)
    # Told in the OpenAPI document; another name is a 404 all the same, and not a 400.
    name_of = Path(alias="name", json_schema_extra={"enum": sorted(model.names)})
    version_of = Path(alias="version", json_schema_extra={"enum": [str(model.identity.version)]})
    infer_options: dict[str, Any] = {
        "response_model": None,
        "responses": {200: {"model": InferResponse, "content": {BINARY: {}}}},
        "openapi_extra": {"requestBody": _request_body(model)},
    }

    @routes.get("/models/{name}")
    async def model_metadata(name: str = name_of) -> ModelMetadata:
        """The tensors that the model takes and gives."""
        return _model_metadata(model, name)

    @routes.get("/models/{name}/versions/{version}")
    async def version_metadata(name: str = name_of, version: str = version_of) -> ModelMetadata:
        """The tensors that this version of the model takes and gives."""
        return _model_metadata(model, name, version)

    @routes.get("/models/{name}/ready")
    async def model_ready(name: str = name_of) -> ModelReady:
        """Whether this model can answer."""
        return _model_ready(model, problem, name)

    @routes.get("/models/{name}/versions/{version}/ready")
    async def version_ready(name: str = name_of, version: str = version_of) -> ModelReady:
        """Whether this version of the model can answer."""
        return _model_ready(model, problem, name, version)

    @routes.post(INFER, **infer_options)
    async def infer(request: Request, name: str = name_of) -> Response:
        """Outputs for tensors: one call of the model, which other requests may share."""
        return await _infer(model, request, name)

    @routes.post(INFER_VERSION, **infer_options)
    async def infer_version(request: Request, name: str = name_of, version: str = version_of) -> Response:
        """The same, of this version."""
        return await _infer(model, request, name, version)

    return routes


def _add_health(routes: APIRouter, problem: Callable[[], str | None]) -> None:
    @routes.get("")
    async def server_metadata() -> ServerMetadata:
        """What answers here."""
        return ServerMetadata(name="mizzen", version=installed_version("mizzen"), extensions=list(EXTENSIONS))

    @routes.get("/health/live")
    async def server_live() -> Live:
        """Whether the process is alive."""
        return Live(live=True)

    @routes.get("/health/ready")
    async def server_ready() -> Ready:
        """Whether the model can answer."""
        _check_ready(problem)
        return Ready(ready=True)


def _check_ready(problem: Callable[[], str | None]) -> None:
    why = problem()
    if why is not None:
        raise HTTPException(503, why)


def _model_metadata(model: TensorModel, name: str, version: str | None = None) -> ModelMetadata:
    _check_model(model, name, version)
    return ModelMetadata(
        name=name,
        versions=[str(model.identity.version)],
        platform="onnxruntime_onnx",
        inputs=[_metadata(spec) for spec in model.signature.inputs],
        outputs=[_metadata(spec) for spec in model.signature.outputs],
    )


def _model_ready(
    model: TensorModel, problem: Callable[[], str | None], name: str, version: str | None = None
) -> ModelReady:
    _check_model(model, name, version)
    _check_ready(problem)
    return ModelReady(name=name, ready=True)


async def _infer(model: TensorModel, request: Request, name: str, version: str | None = None) -> Response:
    _check_model(model, name, version)
    body = await request.body()
    header_length = _header_length(request, len(body))
    if len(body) > _LARGE_BYTES:
        asked, inputs = await asyncio.to_thread(messages.read, model, body, header_length)
    else:
        asked, inputs = messages.read(model, body, header_length)
    limit_s = messages.timeout_s(asked)
    if limit_s is not None:
        shorten(request.scope, limit_s)
    outputs = await model.run(inputs)
    if sum(values.nbytes for values in outputs.values()) > _LARGE_BYTES:
        content, length = await asyncio.to_thread(messages.write, model, name, asked, outputs)
    else:
        content, length = messages.write(model, name, asked, outputs)
    if length is None:
        return Response(content, media_type="application/json")
    return Response(content, media_type=BINARY, headers={HEADER_LENGTH: str(length)})


def _metadata(spec: TensorSpec) -> TensorMetadata:
    return TensorMetadata(name=spec.name, datatype=spec.datatype, shape=list(spec.shape))


def _check_model(model: TensorModel, name: str, version: str | None) -> None:
    if name not in model.names:
        raise NotFoundError(
            "no such model here", saw=repr(name[:100]), allowed=", ".join(sorted(model.names))
        )
    if version is not None and version != str(model.identity.version):
        raise NotFoundError(
            f"no such version of {name} here", saw=repr(version[:100]), allowed=str(model.identity.version)
        )


def _header_length(request: Request, num_bytes: int) -> int:
    """How many bytes of the body are JSON. Raises `HTTPException` for a type that is not the protocol's."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _TYPES:
        raise HTTPException(
            415,
            f"the body's type is not understood; saw {kind[:100]!r}; allowed: application/json or {BINARY}",
        )
    text = request.headers.get(HEADER_LENGTH)
    if text is None:
        return num_bytes
    if not text.isascii() or not text.isdigit() or len(text) > 12 or int(text) > num_bytes:
        raise RequestError(
            "the header Inference-Header-Content-Length is wrong",
            saw=repr(text[:40]),
            allowed=f"a number of bytes, up to {num_bytes} for this body",
        )
    return int(text)


def _request_body(model: TensorModel) -> dict[str, Any]:
    """The request as the OpenAPI document shows it: with this model's tensors."""
    schema = InferRequest.model_json_schema()
    parts = schema.pop("$defs")
    item, output = parts["InferInput"], parts["InferRequestedOutput"]
    item["properties"]["name"]["enum"] = [spec.name for spec in model.signature.inputs]
    item["properties"]["datatype"]["enum"] = sorted({spec.datatype for spec in model.signature.inputs})
    output["properties"]["name"]["enum"] = [spec.name for spec in model.signature.outputs]
    schema["properties"]["inputs"]["items"] = item
    schema["properties"]["outputs"]["anyOf"][0]["items"] = output
    binary = {"schema": {"type": "string", "format": "binary"}}
    return {"required": True, "content": {"application/json": {"schema": schema}, BINARY: binary}}
