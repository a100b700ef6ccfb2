"""Quantised copies of ONNX files made here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mizzen.errors import InputError
from mizzen.store.quantize import quantize
from mizzen.store.runtime import OnnxRuntime

RANDOM = np.random.default_rng(0)
IDS = np.array([[1, 5, 9], [2, 0, 199]], dtype=np.int64)


def normal(*shape: int) -> np.ndarray[Any, Any]:
    return RANDOM.normal(size=shape).astype(np.float32)


def save(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], **weights: Any) -> Path:
    initializers = [numpy_helper.from_array(w, name) for name, w in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)
    return path


@pytest.fixture
def products(tmp_path: Path) -> Path:
    """An embedding and two products, one of them a Gemm."""
    return save(
        tmp_path / "products.onnx",
        [
            helper.make_node("Gather", ["table", "ids"], ["x"]),
            helper.make_node("MatMul", ["x", "first"], ["y"]),
            helper.make_node("Gather", ["y", "last"], ["pooled"], axis=1),
            helper.make_node("Gemm", ["pooled", "second", "bias"], ["out"], transB=1),
        ],
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "length"])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", 8])],
        last=np.array(-1),
        table=normal(200, 64),
        first=normal(64, 96),
        second=normal(8, 96),
        bias=normal(8),
    )


@pytest.fixture
def lstm(tmp_path: Path) -> Path:
    return save(
        tmp_path / "lstm.onnx",
        [helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=16)],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["length", "batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["length", 1, "batch", 16])],
        w=normal(1, 64, 8) / 3,
        r=normal(1, 64, 16) / 3,
    )


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


def relative_difference(full: Path, small: Path, inputs: dict[str, Any]) -> float:
    runtime = OnnxRuntime("cpu", 1)
    (expected,) = runtime.session(full).run(inputs).values()
    (actual,) = runtime.session(small).run(inputs).values()
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).mean() / np.abs(expected).mean())


def test_int8_is_a_quarter_of_the_size_and_near(products: Path, tmp_path: Path) -> None:
    small = tmp_path / "new folder" / "small.onnx"
    quantize(products, small, "int8")
    assert small.stat().st_size < 0.35 * products.stat().st_size
    assert "MatMulInteger" in operators(small)
    assert 0 < relative_difference(products, small, {"ids": IDS}) < 0.03


def test_int4_is_smaller_and_further_away_than_int8(products: Path, tmp_path: Path) -> None:
    quantize(products, tmp_path / "int8.onnx", "int8")
    quantize(products, tmp_path / "int4.onnx", "int4")
    assert "MatMulNBits" in operators(tmp_path / "int4.onnx")
    assert (tmp_path / "int4.onnx").stat().st_size < products.stat().st_size
    far = relative_difference(products, tmp_path / "int4.onnx", {"ids": IDS})
    assert relative_difference(products, tmp_path / "int8.onnx", {"ids": IDS}) < far < 0.3


def test_int8_reaches_into_an_lstm(lstm: Path, tmp_path: Path) -> None:
    quantize(lstm, tmp_path / "small.onnx", "int8")
    assert "DynamicQuantizeLSTM" in operators(tmp_path / "small.onnx")
    x = normal(5, 3, 8)
    assert 0 < relative_difference(lstm, tmp_path / "small.onnx", {"x": x}) < 0.05


def test_a_graph_with_nothing_to_quantise_is_refused_and_nothing_is_left(lstm: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing in lstm\.onnx can be quantised to int4"):
        quantize(lstm, tmp_path / "small.onnx", "int4")
    assert not (tmp_path / "small.onnx").exists()


def test_fp32_is_nothing_to_quantise_to(lstm: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="int8, int4"):
        quantize(lstm, tmp_path / "small.onnx", "fp32")


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_the_same_model_gives_the_same_bytes(products: Path, tmp_path: Path, precision: Any) -> None:
    for name in ("one.onnx", "two.onnx"):
        quantize(products, tmp_path / name, precision)
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


TO_INT4 = """
import logging, sys
from pathlib import Path
from mizzen.store.quantize import quantize

quantize(Path(sys.argv[1]), Path(sys.argv[2]), "int4")
assert "onnxruntime.quantization.matmul_nbits_quantizer" in sys.modules
logging.getLogger("a library").info("nobody wants to know")
print(logging.root.handlers, logging.root.level)
"""


def test_nobody_finds_the_log_of_the_process_sent_to_stderr(tmp_path: Path) -> None:
    weight = normal(64, 32)
    source = save(
        tmp_path / "m.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 32])],
        w=weight,
    )
    command = [sys.executable, "-c", TO_INT4, str(source), str(tmp_path / "int4.onnx")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "[] 30\n", "")
