"""Tensors as the Open Inference Protocol v2 writes them: as JSON, or as raw bytes after the JSON.

https://github.com/kserve/open-inference-protocol and Triton's binary tensor data extension. It checks what a
request sends against a model's signature. It runs no model and knows no HTTP.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mizzen.errors import RequestError
from mizzen.workloads.contract import TensorSpec

Array = npt.NDArray[Any]

DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}
"""The protocol's data types; raw bytes are little-endian. BF16 is not here: NumPy has no such type."""
_JSON_NAMES = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a fraction",
    list: "a list",
    dict: "an object",
}
_LENGTH_BYTES = 4


def check_shape(name: str, shape: Sequence[int], expected: TensorSpec) -> None:
    """Raises `RequestError` unless `shape` fits the signature."""
    fits = len(shape) == len(expected.shape) and all(
        want in (-1, size) and size > 0 for size, want in zip(shape, expected.shape, strict=True)
    )
    if not fits:
        raise RequestError(
            f"the input {name!r} has a shape that the model does not take",
            saw=list(shape),
            allowed=f"{list(expected.shape)}, where -1 may be any size from 1",
            field=f"inputs.{name}.shape",
        )


def from_json(name: str, data: Sequence[Any], shape: Sequence[int], datatype: str) -> Array:
    """The tensor whose values are `data`, flat or nested like `shape`. Raises `RequestError`."""
    # As objects first: NumPy would make one long text among many short ones as many long ones.
    values = np.asarray(data, dtype=object)
    if values.size != math.prod(shape) or (values.ndim > 1 and values.shape != tuple(shape)):
        raise _wrong(
            name, f"values in the shape {list(values.shape)}", f"the shape {list(shape)}, or a flat list"
        )
    flat = values.ravel().tolist()
    _check_types(name, {type(value) for value in flat}, datatype)
    if datatype == "BYTES":
        return np.array([text.encode("utf-8", "replace") for text in flat], dtype=object).reshape(shape)
    try:
        with np.errstate(over="ignore"):
            found = np.array(flat, DTYPES[datatype])
    except OverflowError:
        raise _wrong(name, "a number that is too large", f"what fits in {datatype}") from None
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise _wrong(name, "a number that is too large", f"what fits in {datatype}")
    return found.reshape(shape)


def _check_types(name: str, found: set[type], datatype: str) -> None:
    kind = DTYPES[datatype].kind
    takes: dict[str, tuple[set[type], str]] = {
        "O": ({str}, "texts"),
        "b": ({bool}, "true and false"),
        "f": ({int, float}, "numbers"),
        "i": ({int}, "whole numbers"),
        "u": ({int}, "whole numbers"),
    }
    types, words = takes[kind]
    if not found <= types:
        saw = ", ".join(sorted(_JSON_NAMES.get(one, "null") for one in found - types))
        raise _wrong(name, saw, f"{words}, for {datatype}")


def from_bytes(name: str, raw: memoryview, shape: Sequence[int], datatype: str) -> Array:
    """The tensor whose values are the bytes `raw`. Raises `RequestError`."""
    if datatype == "BYTES":
        return _texts(name, raw, math.prod(shape)).reshape(shape)
    dtype = DTYPES[datatype]
    wanted = math.prod(shape) * dtype.itemsize
    if len(raw) != wanted:
        raise _wrong(name, f"{len(raw)} bytes", f"{wanted} bytes, for {datatype} in the shape {list(shape)}")
    if datatype == "BOOL":
        truths: Array = np.frombuffer(raw, np.uint8) != 0
        return truths.reshape(shape)
    # They begin wherever the JSON ends, and native code may count on addresses that fit the type.
    return np.require(np.frombuffer(raw, dtype), requirements="A").reshape(shape)


def _texts(name: str, raw: memoryview, count: int) -> Array:
    """BYTES are 4 bytes of length, little-endian, and the content, for each value."""
    found: list[bytes] = []
    at = 0
    while at < len(raw):
        start = at + _LENGTH_BYTES
        end = start + int.from_bytes(raw[at:start], "little")
        if start > len(raw) or end > len(raw) or len(found) == count:
            raise _wrong(
                name, f"BYTES that do not end with the {count}th value", "4 bytes of length before each"
            )
        found.append(bytes(raw[start:end]))
        at = end
    if len(found) != count:
        raise _wrong(name, f"{len(found)} values", f"{count} values")
    return np.array(found, dtype=object)


def to_json(values: Array) -> list[Any]:
    """The values, flat; a float that JSON cannot write (NaN, an infinity) becomes null."""
    flat = values.ravel()
    if values.dtype.kind == "f" and not np.isfinite(flat).all():
        return [value if math.isfinite(value) else None for value in flat.tolist()]
    if values.dtype.kind == "O":
        return [
            value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in flat.tolist()
        ]
    found: list[Any] = flat.tolist()
    return found


def to_bytes(values: Array) -> bytes:
    """The values as raw bytes."""
    if values.dtype.kind == "O":
        texts = [value if isinstance(value, bytes) else str(value).encode() for value in values.ravel()]
        return b"".join(len(text).to_bytes(_LENGTH_BYTES, "little") + text for text in texts)
    return np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()


def datatype_of(values: Array) -> str:
    """The protocol's name for the type of `values`. Raises `KeyError` if it has none."""
    if values.dtype.kind in "OUS":
        return "BYTES"
    return {dtype: name for name, dtype in DTYPES.items()}[values.dtype.newbyteorder("<")]


def _wrong(name: str, saw: str, allowed: str) -> RequestError:
    return RequestError(
        f"the input {name!r} does not hold what it says",
        saw=saw,
        allowed=allowed,
        field=f"inputs.{name}.data",
    )
