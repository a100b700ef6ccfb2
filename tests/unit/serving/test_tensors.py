"""Tensors as JSON and as bytes, checked against what they should be."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mizzen.errors import RequestError
from mizzen.serving import tensors
from mizzen.workloads.contract import TensorSpec

NUMBERS = sorted(set(tensors.DTYPES) - {"BYTES"})


@given(st.data(), st.sampled_from(NUMBERS))
def test_what_is_written_is_read_back(data, datatype):
    dtype = tensors.DTYPES[datatype]
    shape = arrays.array_shapes(max_dims=3, max_side=4)
    finite = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
    values = data.draw(arrays.arrays(dtype, shape, elements=arrays.from_dtype(dtype, **finite)))
    assert tensors.datatype_of(values) == datatype
    raw = memoryview(tensors.to_bytes(values))
    as_json = json.loads(json.dumps(tensors.to_json(values), allow_nan=False))
    for read in (
        tensors.from_bytes("x", raw, values.shape, datatype),
        tensors.from_json("x", as_json, values.shape, datatype),
        tensors.from_json("x", values.tolist(), values.shape, datatype),
    ):
        assert read.dtype == dtype
        np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize("start", range(4))
def test_values_lie_where_native_code_expects_them(start):
    raw = memoryview(bytes(start) + struct.pack("<2f", 1.5, -2.0))[start:]
    read = tensors.from_bytes("x", raw, [2], "FP32")
    assert read.flags.aligned
    assert read.tolist() == [1.5, -2.0]


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=6))
def test_texts_have_their_lengths_before_them(texts):
    values = np.array(texts, dtype=object)
    raw = tensors.to_bytes(values)
    assert raw == b"".join(struct.pack("<I", len(text)) + text for text in texts)
    assert tensors.from_bytes("x", memoryview(raw), [len(texts)], "BYTES").tolist() == texts


@given(st.binary(max_size=60), st.integers(1, 4), st.sampled_from(sorted(tensors.DTYPES)))
def test_bytes_that_are_no_tensor_are_refused_and_never_break_anything(raw, count, datatype):
    try:
        values = tensors.from_bytes("x", memoryview(raw), [count], datatype)
    except RequestError:
        return
    assert values.shape == (count,)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=12,
)


@given(
    st.lists(json_values, max_size=5),
    st.lists(st.integers(1, 3), max_size=3),
    st.sampled_from(sorted(tensors.DTYPES)),
)
def test_json_that_is_no_tensor_is_refused_and_never_breaks_anything(data, shape, datatype):
    try:
        values = tensors.from_json("x", data, shape, datatype)
    except RequestError:
        return
    assert values.shape == tuple(shape)
    assert values.dtype == tensors.DTYPES[datatype]


@pytest.mark.parametrize(
    ("data", "datatype", "saw"),
    [
        ([1.5, 2], "INT64", "a fraction"),
        ([True, 2], "INT64", "true or false"),
        ([True, 2], "FP32", "true or false"),
        (["1", 2], "FP32", "text"),
        ([None, 2], "FP32", "null"),
        ([0, 1], "BOOL", "a whole number"),
        ([1, "a"], "BYTES", "a whole number"),
        ([300, 1], "INT8", "too large"),
        ([-1, 1], "UINT8", "too large"),
        ([2**70, 1], "INT64", "too large"),
        ([1e300, 1], "FP32", "too large"),
        ([10**400, 1], "FP64", "too large"),
        ([1, 2, 3], "FP32", r"the shape \[3\]"),
        ([[1], [2]], "FP32", r"the shape \[2, 1\]"),
        ([[1], [2, 3]], "FP32", "a list"),
    ],
)
def test_values_of_another_type_or_shape_are_refused_by_the_inputs_name(data, datatype, saw):
    with pytest.raises(RequestError, match=saw) as refused:
        tensors.from_json("ages", data, [2], datatype)
    assert "'ages'" in str(refused.value)
    assert refused.value.field == "inputs.ages.data"


def test_one_long_text_among_many_short_ones_takes_no_more_memory_than_it_has():
    texts = ["x" * 1_000_000, *[""] * 100_000]
    assert tensors.from_json("x", texts, [len(texts)], "BYTES").shape == (100_001,)
    with pytest.raises(RequestError):
        tensors.from_json("x", texts, [len(texts)], "FP32")


@pytest.mark.parametrize(
    ("shape", "fits"), [([3, 8], True), ([1, 8], True), ([3, 7], False), ([8], False), ([0, 8], False)]
)
def test_a_shape_must_fit_the_signature(shape, fits):
    expected = TensorSpec("x", "FP32", (-1, 8))
    if fits:
        tensors.check_shape("x", shape, expected)
        return
    with pytest.raises(RequestError, match=r"allowed: \[-1, 8\]"):
        tensors.check_shape("x", shape, expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_json_cannot_write_is_null_and_bytes_keep_it(value):
    values = np.array([1.0, value], np.float32)
    written: list[Any] = tensors.to_json(values)
    assert written == [1.0, None]
    np.testing.assert_array_equal(
        tensors.from_bytes("x", memoryview(tensors.to_bytes(values)), [2], "FP32"), values
    )
