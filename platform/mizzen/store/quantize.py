"""Weights of an ONNX file in fewer bits, with ONNX Runtime's own quantisers.

int8: dynamic quantisation, a scale for each output channel, activations at run time. int4: weights of
matrix products in blocks of 32, activations stay in fp32. Whether quality survives is the gate's business;
on x86 CPUs without VNNI instructions int8 products may saturate, so judge on what you serve on.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process

from mizzen.errors import InputError
from mizzen.workloads.contract import Precision

INT8_OPERATORS = ["MatMul", "Gemm", "Gather", "LSTM"]
QUANTISED_OPERATORS = {
    "MatMulInteger",
    "DynamicQuantizeLSTM",
    "DequantizeLinear",
    "MatMulNBits",
}
INT4_BLOCK = 32
EXTERNAL_DATA_BYTES = 1_500_000_000
"""Weights above this go into a file beside the graph: protobuf ends at 2 GiB."""


def quantize(source: Path, target: Path, precision: Precision) -> None:
    """Write a copy of `source` at `target` with its weights in `precision`.

    Raises `InputError` for a precision that cannot be made, or if nothing in the graph could be quantised.
    """
    if precision not in ("int8", "int4"):
        raise InputError("this precision cannot be made by quantising", saw=precision, allowed="int8, int4")
    target.parent.mkdir(parents=True, exist_ok=True)
    external = source.stat().st_size + _external_bytes(source) > EXTERNAL_DATA_BYTES
    with _without_advice():
        if precision == "int8":
            _to_int8(source, target, external)
        else:
            _to_int4(source, target, external)
    operators = {node.op_type for node in onnx.load(target, load_external_data=False).graph.node}
    if not operators & QUANTISED_OPERATORS:
        target.unlink()
        raise InputError(
            f"nothing in {source.name} can be quantised to {precision}",
            saw=", ".join(sorted(operators)),
            allowed="weights of " + ("MatMul" if precision == "int4" else ", ".join(INT8_OPERATORS)),
            remedy="Choose another precision for this model.",
            field="publish.quantize",
        )


@contextmanager
def _without_advice() -> Iterator[None]:
    """The quantisers advise people through the root logger; one sends it to stderr once it is imported."""
    root, nowhere = logging.getLogger(), logging.NullHandler()
    level = root.level
    root.addHandler(nowhere)  # a root logger that has a handler is left as it is
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(nowhere)


def _to_int8(source: Path, target: Path, external: bool) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        prepared = Path(scratch) / "prepared.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True, save_as_external_data=external)
        quantize_dynamic(
            prepared,
            target,
            op_types_to_quantize=INT8_OPERATORS,
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=external,
            extra_options={"MatMulConstBOnly": True},
        )


def _to_int4(source: Path, target: Path, external: bool) -> None:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(onnx.load(source), block_size=INT4_BLOCK, is_symmetric=True, bits=4)
    quantizer.process()
    quantizer.model.save_model_to_file(str(target), use_external_data_format=external)


def _external_bytes(source: Path) -> int:
    data = source.with_name(f"{source.name}.data")
    return data.stat().st_size if data.exists() else 0
