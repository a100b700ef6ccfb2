"""PyTorch to ONNX: the `Exporter` that the platform hands to `Workload.export`.

Whether the export may stand in for the model is the gate's business, not this module's.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch

from mizzen.errors import GateError
from mizzen.store import quantize, recurrent
from mizzen.workloads.contract import Precision


class OnnxExporter:
    """The contract's `Exporter`."""

    cache_dir: Path

    def __init__(self, cache_dir: Path) -> None:
        """`cache_dir` is where builders may keep what they want to find again."""
        self.cache_dir = cache_dir

    def to_onnx(
        self,
        model: torch.nn.Module,
        inputs: Mapping[str, torch.Tensor],
        path: Path,
        *,
        output_names: Sequence[str],
        dynamic: Mapping[str, Mapping[int, str]],
    ) -> None:
        """Write `model`, called as `model(**inputs)`, to `path` with `torch.onnx`.

        `dynamic` names the dimensions that may vary: `{"history": {0: "batch", 1: "length"}}`. An example
        input should be at least 2 long in them: PyTorch takes a 1 for a constant. The same model gives the
        same bytes. Raises `GateError` if the model cannot be exported or the result is not valid ONNX.
        """
        was_training = model.training
        model.eval()
        try:
            with _quiet(), torch.no_grad(), recurrent.onnx_lstms(model) as exportable:
                program = torch.onnx.export(
                    exportable,
                    kwargs=dict(inputs),
                    input_names=list(inputs),
                    output_names=list(output_names),
                    dynamic_shapes=_shapes(inputs, dynamic),
                    dynamo=True,
                    optimize=True,
                    verbose=False,
                )
        except Exception as cause:
            # torch.onnx wraps whatever went wrong at any of its stages; there is no common base.
            raise GateError(
                f"{type(model).__name__} cannot be exported to ONNX: {_innermost(cause)}",
                remedy="Rewrite the operation that is named, or mark fewer dimensions as dynamic.",
            ) from cause
        finally:
            model.train(was_training)
        if program is None:
            raise AssertionError("torch.onnx.export(dynamo=True) returns a program")
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_inputs(program.model_proto, list(inputs), dynamic)
        _save(program.model_proto, path)

    def quantize(self, source: Path, target: Path, precision: Precision) -> None:
        """Write a copy of `source` with its weights quantised; see `mizzen.store.quantize`."""
        quantize.quantize(source, target, precision)


def _shapes(
    inputs: Mapping[str, torch.Tensor], dynamic: Mapping[str, Mapping[int, str]]
) -> dict[str, dict[int, torch.export.Dim]]:
    unknown = sorted(set(dynamic) - set(inputs))
    if unknown:
        raise GateError("dynamic names inputs that the model has not", saw=unknown, allowed=", ".join(inputs))
    dims = {name: torch.export.Dim(name) for axes in dynamic.values() for name in axes.values()}
    return {name: {axis: dims[dim] for axis, dim in dynamic.get(name, {}).items()} for name in inputs}


def _check_inputs(proto: onnx.ModelProto, names: list[str], dynamic: Mapping[str, Mapping[int, str]]) -> None:
    """torch.onnx may drop an input, and may fix a dynamic dimension to the example's size, in silence."""
    kept = {value.name: value.type.tensor_type.shape.dim for value in proto.graph.input}
    if list(kept) != names:
        raise GateError(
            "the export lost inputs of the model",
            saw=", ".join(kept),
            allowed=", ".join(names),
            remedy="Leave out inputs that the model does not use.",
        )
    for name, axes in dynamic.items():
        for axis, dim in axes.items():
            if not kept[name][axis].dim_param:
                raise GateError(
                    f"the export fixed the dimension {dim!r} of {name!r}",
                    saw=f"{kept[name][axis].dim_value} in place {axis}",
                    remedy="Some operation depends on that size in Python: rewrite it with tensors, "
                    "and give an example that is at least 2 long there.",
                )


def _save(proto: onnx.ModelProto, path: Path) -> None:
    """Check and write a graph, without what differs from run to run (stack traces, source paths)."""
    for holder in _holders(proto):
        del holder.metadata_props[:]
        holder.doc_string = ""
    # Shapes of inner values can be inferred again, and get in the way of quantisers that transpose weights.
    del proto.graph.value_info[:]
    external = proto.ByteSize() > quantize.EXTERNAL_DATA_BYTES
    location = f"{path.name}.data"
    # ONNX appends to an external file that is there already.
    (path.parent / location).unlink(missing_ok=True)
    onnx.save_model(proto, path, save_as_external_data=external, location=location if external else None)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as cause:
        raise GateError(
            f"{path} is not valid ONNX: {cause}", remedy="Report the model's operation."
        ) from None


def _holders(proto: onnx.ModelProto) -> Iterator[Any]:
    """Everything in a model that torch.onnx writes stack traces and the like into."""
    yield proto
    for graph in (proto.graph, *proto.functions):
        yield graph
        yield from graph.node
    yield from (*proto.graph.input, *proto.graph.output, *proto.graph.initializer)


def _innermost(cause: BaseException) -> str:
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return (str(cause).strip() or type(cause).__name__).splitlines()[0]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch.onnx prints its progress and warns of its own internals; neither helps who trains a model."""
    noisy = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in noisy]
    for logger in noisy:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)
