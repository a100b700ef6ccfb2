"""The exported graph, made to tell the logits of chosen tokens alone.

The graph of onnxruntime-genai's builder multiplies every token with the whole vocabulary; of a prompt, only
what follows its last token is wanted. That is a fifth of the work for SmolLM2-135M. The weights stay in
their file. It does not run the graph: `decoder` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mizzen.errors import ServingError

LOGITS = "logits"
CHOSEN = "chosen_tokens"
"""Input of shape (N, 2), int64: row and column in `input_ids` of the tokens whose logits are wanted."""
_PASSED_THROUGH = frozenset({"Cast", "Mul", "Div", "Tanh"})
"""What may stand between the product and the logits, value by value (Gemma caps its logits so)."""


def with_chosen_logits(file: Path) -> bytes:
    """The graph in `file` with one more input, `CHOSEN`, and logits of shape (N, V) for it.

    Its weights are still to be read from beside `file`. Raises `ServingError` for a graph of another make.
    """
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(str(file), load_external_data=False)
    graph = model.graph
    makers = {output: node for node in graph.node for output in node.output}
    head = makers.get(LOGITS)
    while head is not None and head.op_type in _PASSED_THROUGH:
        head = makers.get(head.input[0])
    if head is None or not head.op_type.startswith("MatMul"):
        raise ServingError(
            "the exported graph does not end as expected",
            saw=head.op_type if head is not None else f"no output {LOGITS}",
            allowed="a product with the vocabulary that gives the logits",
            remedy="Export the model again with this version of Mizzen.",
        )
    pick = helper.make_node("GatherND", [head.input[0], CHOSEN], ["chosen_states"], name="choose_tokens")
    graph.node.insert(list(graph.node).index(head), pick)
    head.input[0] = pick.output[0]
    graph.input.append(helper.make_tensor_value_info(CHOSEN, TensorProto.INT64, ["num_chosen", 2]))
    del graph.value_info[:]  # the shapes between are other ones now
    _drop_first_dimension(next(output for output in graph.output if output.name == LOGITS))
    serialized: bytes = model.SerializeToString()
    return serialized


def _drop_first_dimension(logits: Any) -> None:
    *_, words = logits.type.tensor_type.shape.dim
    kept = type(words)()
    kept.CopyFrom(words)
    del logits.type.tensor_type.shape.dim[:]
    logits.type.tensor_type.shape.dim.add().dim_param = "num_chosen"
    logits.type.tensor_type.shape.dim.append(kept)
