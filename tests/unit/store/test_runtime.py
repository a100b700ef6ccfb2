"""Execution providers and sessions, on an ONNX file made here."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from mizzen.errors import InputError, ServingError
from mizzen.store.runtime import CPU, CUDA, OnnxRuntime, available_providers


@pytest.fixture(scope="module")
def adder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`total = left + right` over (batch, 2)."""
    path = tmp_path_factory.mktemp("onnx") / "adder.onnx"
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 2]) for n in ("left", "right")]
    total = helper.make_tensor_value_info("total", TensorProto.FLOAT, ["batch", 2])
    graph = helper.make_graph([helper.make_node("Add", ["left", "right"], ["total"])], "g", values, [total])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return np.ones(shape, dtype=np.float32)


def test_auto_takes_cuda_where_it_works_and_else_the_cpu() -> None:
    available = available_providers()
    assert CPU in available
    assert OnnxRuntime().provider == (CUDA if CUDA in available else CPU)


@pytest.mark.parametrize("name", ["cpu", CPU])
def test_the_cpu_may_be_demanded(name: str, adder: Path) -> None:
    runtime = OnnxRuntime(name, num_threads=1)
    assert (runtime.provider, runtime.num_threads) == (CPU, 1)
    assert runtime.session(adder).provider == CPU


def test_a_provider_that_is_not_here_is_refused_with_what_is() -> None:
    missing = next(n for n in onnxruntime.get_all_providers() if n not in available_providers())
    with pytest.raises(ServingError, match=CPU) as caught:
        OnnxRuntime(missing)
    assert missing in str(caught.value)
    with pytest.raises(ServingError, match=CPU):
        OnnxRuntime("NonsenseProvider")


def test_a_negative_number_of_threads_is_refused() -> None:
    with pytest.raises(InputError, match="num_threads"):
        OnnxRuntime(num_threads=-1)


def test_a_session_knows_its_names_and_leaves_out_what_the_graph_has_not(adder: Path) -> None:
    session = OnnxRuntime("cpu").session(adder)
    assert (tuple(session.input_names), tuple(session.output_names)) == (("left", "right"), ("total",))
    result = session.run({"left": floats(3, 2), "right": floats(3, 2), "more": floats(1)})
    assert set(result) == {"total"}
    np.testing.assert_array_equal(result["total"], 2 * floats(3, 2))


def test_an_array_that_is_not_contiguous_is_read_right(adder: Path) -> None:
    left = np.arange(6, dtype=np.float32).reshape(2, 3).T
    result = OnnxRuntime("cpu").session(adder).run({"left": left, "right": floats(3, 2)})
    np.testing.assert_array_equal(result["total"], left + 1)


def test_a_missing_input_is_named(adder: Path) -> None:
    with pytest.raises(ServingError, match="left, right"):
        OnnxRuntime("cpu").session(adder).run({"left": floats(1, 2)})


@pytest.mark.parametrize("left", [floats(3, 5), floats(3, 2).astype(np.float64)])
def test_an_input_that_does_not_fit_is_refused_with_its_shape(
    adder: Path, left: np.ndarray[Any, Any]
) -> None:
    with pytest.raises(ServingError, match=f"left {left.dtype}"):
        OnnxRuntime("cpu").session(adder).run({"left": left, "right": floats(3, 2)})


@pytest.mark.parametrize("data", [None, b"", b"not onnx"])
def test_a_file_that_cannot_be_loaded_is_named(tmp_path: Path, data: bytes | None) -> None:
    path = tmp_path / "broken.onnx"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ServingError, match=r"broken\.onnx"):
        OnnxRuntime("cpu").session(path)


def test_threads_share_a_session(adder: Path) -> None:
    session = OnnxRuntime("cpu").session(adder)
    wrong: list[int] = []

    def call(number: int) -> None:
        for _ in range(50):
            value = np.full((2, 2), number, dtype=np.float32)
            if not (session.run({"left": value, "right": value})["total"] == 2 * number).all():
                wrong.append(number)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
