"""Requests and answers of the Open Inference Protocol v2: read, checked against a signature, and written.

It knows tensors and bytes, no routes: `inference_protocol` has those.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import numpy as np
from pydantic import ConfigDict, Field, StrictInt, ValidationError
from pydantic_core import from_json

from mizzen.errors import RequestError
from mizzen.files import explain
from mizzen.serving import tensors
from mizzen.serving.tensor_model import Array, TensorModel, Tensors
from mizzen.workloads.contract import Fields, TensorSpec

Parameter = bool | StrictInt | float | str
Parameters = Annotated[dict[str, Parameter], Field(max_length=64)]
LONGEST_US = 10**15
"""Of a timeout: what floats can hold, and more than anybody waits."""
Size = Annotated[StrictInt, Field(ge=1, lt=2**31)]


class InferInput(Fields):
    """A tensor of a request: `data`, or `parameters.binary_data_size` bytes after the JSON."""

    name: str
    shape: Annotated[list[Size], Field(min_length=1, max_length=16)]
    datatype: str
    data: list[Any] | None = None
    parameters: Parameters = Field(default_factory=dict)


class InferRequestedOutput(Fields):
    """An output that is wanted."""

    name: str
    parameters: Parameters = Field(default_factory=dict)


class InferRequest(Fields):
    """The JSON of a request."""

    id: Annotated[str, Field(max_length=256)] | None = None
    inputs: Annotated[list[InferInput], Field(min_length=1, max_length=64)]
    outputs: Annotated[list[InferRequestedOutput], Field(max_length=64)] | None = None
    parameters: Parameters = Field(default_factory=dict)


class InferOutput(Fields):
    """A tensor of an answer, row by row: `data`, or `parameters.binary_data_size` bytes after the JSON."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | None = None
    """A float that JSON cannot write (NaN, an infinity) is null."""
    parameters: dict[str, Any] | None = None


class InferResponse(Fields):
    """The JSON of an answer."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[InferOutput]


# --- reading --------------------------------------------------------------------------------------


def read(model: TensorModel, body: bytes, header_length: int) -> tuple[InferRequest, Tensors]:
    """A request and its inputs; the first `header_length` bytes of `body` are JSON. Raises `RequestError`."""
    view = memoryview(body)
    asked = _parse(body[:header_length] if header_length < len(body) else body)
    _check_parameters(asked)
    expected = {spec.name: spec for spec in model.signature.inputs}
    _check_names("input", [item.name for item in asked.inputs], list(expected), all_needed=True)
    _check_names(
        "output", [item.name for item in asked.outputs or ()], [s.name for s in model.signature.outputs]
    )
    inputs: dict[str, Array] = {}
    at = header_length
    for item in asked.inputs:
        spec = expected[item.name]
        _check_input(item, spec)
        size = item.parameters.get("binary_data_size")
        if size is None:
            inputs[item.name] = tensors.from_json(item.name, item.data or [], item.shape, spec.datatype)
            continue
        end = at + _binary_size(item, size, len(body) - at)
        inputs[item.name] = tensors.from_bytes(item.name, view[at:end], item.shape, spec.datatype)
        at = end
    if at != len(body):
        raise RequestError(
            "the body has bytes that belong to no input", saw=f"{len(body) - at} bytes more", field="inputs"
        )
    model.check_rows(inputs)
    return asked, inputs


def timeout_s(asked: InferRequest) -> float | None:
    """How much time the client gives, if it says so; Triton's parameter is in microseconds."""
    timeout = asked.parameters.get("timeout")
    return None if timeout is None else float(timeout) / 1e6


def _parse(header: bytes) -> InferRequest:
    try:
        content = from_json(header, allow_inf_nan=False)
    except ValueError as cause:
        raise RequestError(f"the body is not valid JSON: {cause}", code="malformed_json") from None
    try:
        return InferRequest.model_validate(content)
    except ValidationError as cause:
        raise explain(cause, InferRequest, RequestError, "the request") from None


def _check_names(kind: str, given: list[str], known: list[str], all_needed: bool = False) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        raise RequestError(
            f"the model has no such {kind}", saw=repr(unknown[0][:100]), allowed=", ".join(known)
        )
    twice = [name for name in known if given.count(name) > 1]
    if twice:
        raise RequestError(f"the {kind} {twice[0]!r} stands there twice", field=f"{kind}s")
    missing = [name for name in known if name not in given]
    if all_needed and missing:
        raise RequestError(
            f"the {kind} {missing[0]!r} is missing", allowed=", ".join(known), field=f"{kind}s"
        )


def _check_input(item: InferInput, spec: TensorSpec) -> None:
    if item.datatype != spec.datatype:
        raise RequestError(
            f"the input {item.name!r} has another datatype than the model takes",
            saw=item.datatype[:40],
            allowed=spec.datatype,
            field=f"inputs.{item.name}.datatype",
        )
    tensors.check_shape(item.name, item.shape, spec)
    refused = sorted(set(item.parameters) - {"binary_data_size"})
    if refused:
        raise _refused(refused[0], f"inputs.{item.name}.parameters", "binary_data_size")


def _binary_size(item: InferInput, size: Parameter, left: int) -> int:
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= left:
        raise RequestError(
            f"binary_data_size of the input {item.name!r} is wrong",
            saw=repr(size)[:40],
            allowed=f"a number of bytes, up to the {left} that follow here",
            field=f"inputs.{item.name}.parameters.binary_data_size",
        )
    if item.data is not None:
        raise RequestError(
            f"the input {item.name!r} has both data and binary data", field=f"inputs.{item.name}"
        )
    return size


def _check_parameters(asked: InferRequest) -> None:
    for name, value in asked.parameters.items():
        if name == "timeout":
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < LONGEST_US:
                raise RequestError(
                    "parameters.timeout is wrong",
                    saw=repr(value)[:40],
                    allowed=f"microseconds, more than 0 and fewer than {LONGEST_US}",
                )
        elif name != "binary_data_output":
            raise _refused(name, "parameters", "timeout, binary_data_output")
        elif not isinstance(value, bool):
            raise RequestError(
                "parameters.binary_data_output is wrong", saw=repr(value)[:40], allowed="a boolean"
            )
    for output in asked.outputs or ():
        for name, value in output.parameters.items():
            if name != "binary_data" or not isinstance(value, bool):
                raise _refused(name, f"outputs.{output.name}.parameters", "binary_data, true or false")


def _refused(name: str, where: str, allowed: str) -> RequestError:
    return RequestError(
        f"the parameter {name[:60]!r} is not supported here", allowed=allowed, field=f"{where}.{name[:60]}"
    )


# --- writing --------------------------------------------------------------------------------------


def write(model: TensorModel, name: str, asked: InferRequest, outputs: Tensors) -> tuple[bytes, int | None]:
    """The body of an answer, and how many bytes of it are JSON; None if all are."""
    everything = bool(asked.parameters.get("binary_data_output", False))
    wanted = {spec.name: everything for spec in model.signature.outputs}
    if asked.outputs:
        wanted = {one.name: bool(one.parameters.get("binary_data", everything)) for one in asked.outputs}
    described, raw = [], []
    for output, binary in wanted.items():
        values = np.asarray(outputs[output])
        one: dict[str, Any] = {
            "name": output,
            "datatype": tensors.datatype_of(values),
            "shape": list(values.shape),
        }
        if binary:
            raw.append(tensors.to_bytes(values))
            one["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            one["data"] = tensors.to_json(values)
        described.append(one)
    answer: dict[str, Any] = {"model_name": name, "model_version": str(model.identity.version)}
    if asked.id is not None:
        answer["id"] = asked.id
    header = json.dumps({**answer, "outputs": described}, allow_nan=False, separators=(",", ":")).encode()
    if not raw:
        return header, None
    return b"".join([header, *raw]), len(header)
