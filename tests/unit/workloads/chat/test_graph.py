from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from mizzen.errors import ServingError
from mizzen.workloads.chat.graph import CHOSEN, with_chosen_logits

STATES_BTD = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
WORDS_DV = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)


def saved(folder: Path, *nodes: onnx.NodeProto, output: str = "logits") -> Path:
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        [helper.make_tensor_value_info("states", TensorProto.FLOAT, ["batch", "sequence", 4])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", "sequence", 5])],
        [numpy_helper.from_array(WORDS_DV, "words")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, str(folder / "model.onnx"))
    return folder / "model.onnx"


@pytest.mark.parametrize("capped", [False, True])
def test_only_the_tokens_that_are_asked_for_get_logits(tmp_path: Path, capped: bool) -> None:
    product = helper.make_node("MatMul", ["states", "words"], ["product" if capped else "logits"])
    nodes = [product, helper.make_node("Tanh", ["product"], ["logits"])] if capped else [product]
    session = onnxruntime.InferenceSession(
        with_chosen_logits(saved(tmp_path, *nodes)), providers=["CPUExecutionProvider"]
    )
    chosen = np.array([[1, 2], [0, 0], [1, 0]])
    (logits_NV,) = session.run(["logits"], {"states": STATES_BTD, CHOSEN: chosen})
    expected_NV = STATES_BTD[chosen[:, 0], chosen[:, 1]] @ WORDS_DV
    assert np.allclose(logits_NV, np.tanh(expected_NV) if capped else expected_NV, atol=1e-5)
    assert session.get_outputs()[0].shape == ["num_chosen", 5]


def test_a_graph_of_another_make_is_refused(tmp_path: Path) -> None:
    halves = helper.make_node("Add", ["states", "states"], ["logits"])
    with pytest.raises(ServingError, match="does not end as expected; saw Add"):
        graph = helper.make_graph(
            [halves],
            "other",
            [helper.make_tensor_value_info("states", TensorProto.FLOAT, ["b", "s", 5])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", "s", 5])],
        )
        onnx.save(helper.make_model(graph), str(tmp_path / "model.onnx"))
        with_chosen_logits(tmp_path / "model.onnx")
    other = helper.make_node("MatMul", ["states", "words"], ["scores"])
    with pytest.raises(ServingError, match="no output logits"):
        with_chosen_logits(saved(tmp_path, other, output="scores"))
