"""What serving needs of a trained model: the ONNX graph, and `forecaster.json` beside it.

Location and scale stand outside the graph (`scaling` says why), so nothing of the training series is
exported: a request carries its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mizzen.errors import RequestError
from mizzen.workloads.contract import (
    Exporter,
    Precision,
    Predict,
    Prepared,
    Probe,
    Runtime,
    Signature,
    TensorSpec,
)
from mizzen.workloads.forecasting.config import ModelConfig
from mizzen.workloads.forecasting.scaling import known_width
from mizzen.workloads.forecasting.series import Meta, Store

if TYPE_CHECKING:
    import torch

GRAPH = "model.onnx"
FACTS = "forecaster.json"
INPUT_NAMES = ("past_target", "past_mask", "past_covariates", "known")
_PROBES = ((1, 1.0), (3, 0.5), (8, 1.0), (2, 0.0))
"""Batch size, and where between the shortest past and the whole context its length lies."""


def export(
    model: torch.nn.Module,
    config: ModelConfig,
    prepared: Prepared,
    folder: Path,
    precision: Precision,
    exporter: Exporter,
    output_names: tuple[str, ...],
) -> None:
    """Write the graph and its facts into `folder`."""
    import torch

    meta = Store(prepared).meta
    example = {name: torch.from_numpy(value) for name, value in _zeros(meta, 2).items()}
    example["past_mask"] = torch.ones_like(example["past_mask"])
    dynamic = {
        name: {0: "batch", 1: "length_and_horizon" if name == "known" else "length"} for name in example
    }
    whole = folder / GRAPH
    if precision == "fp32":
        exporter.to_onnx(model, example, whole, output_names=output_names, dynamic=dynamic)
    else:
        source = folder / "fp32.onnx"
        exporter.to_onnx(model, example, source, output_names=output_names, dynamic=dynamic)
        exporter.quantize(source, whole, precision)
        source.unlink()
    facts = {"meta": json.loads(meta.to_json()), "quantiles": config.quantiles}
    (folder / FACTS).write_text(json.dumps(facts, indent=1, sort_keys=True), encoding="utf-8")


def read_facts(folder: Path) -> tuple[Meta, list[float]]:
    """What `export` wrote beside the graph: how series look, and the model's quantiles."""
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    return Meta.from_json(json.dumps(facts["meta"])), list(facts["quantiles"])


def open_graph(folder: Path, runtime: Runtime) -> Predict:
    """The exported model as a function.

    It raises `RequestError` for a past longer than the context, or tensors whose lengths do not go together:
    it may be called with what somebody sent.
    """
    meta, _ = read_facts(folder)
    session = runtime.session(folder / GRAPH)

    def predict(inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        length = inputs["past_target"].shape[1]
        _check_length("past_target", length, 1, meta.context_length)
        for name in inputs.keys() - {"past_target"}:
            wanted = length + (meta.horizon if name == "known" else 0)
            _check_length(name, inputs[name].shape[1], wanted, wanted)
        return session.run(inputs)

    return predict


def _check_length(name: str, length: int, least: int, most: int) -> None:
    if not least <= length <= most:
        raise RequestError(
            f"the tensor {name!r} has the wrong number of steps",
            saw=length,
            allowed=f"{least}" if least == most else f"{least} to {most}",
            field=name,
        )


def signature(folder: Path, runtime: Runtime) -> Signature:
    """The tensors of the graph in `folder`, by the names that it has itself.

    The past may be of any length up to the context's; `known` is as much longer as the horizon.
    """
    meta, levels = read_facts(folder)
    session = runtime.session(folder / GRAPH)
    shapes = {
        "past_target": (-1, -1),
        "past_mask": (-1, -1),
        "past_covariates": (-1, -1, len(meta.past_names)),
        "known": (-1, -1, known_width(meta)),
        "quantiles": (-1, meta.horizon, len(levels)),
        "mean": (-1, meta.horizon),
    }

    def specs(names: Sequence[str]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(name, "FP32", shapes[name]) for name in names)

    return Signature(specs(session.input_names), specs(session.output_names))


def _zeros(meta: Meta, batch: int) -> dict[str, np.ndarray[Any, Any]]:
    length, horizon = meta.context_length, meta.horizon
    inputs = {
        "past_target": np.zeros((batch, length), dtype=np.float32),
        "past_mask": np.zeros((batch, length), dtype=np.float32),
    }
    if meta.past_names:
        inputs["past_covariates"] = np.zeros((batch, length, len(meta.past_names)), dtype=np.float32)
    if known_width(meta):
        inputs["known"] = np.zeros((batch, length + horizon, known_width(meta)), dtype=np.float32)
    return inputs


def probes(config: ModelConfig, prepared: Prepared) -> Iterable[Probe]:
    """Held-out windows in several batch sizes, with the whole past and with shorter ones."""
    from mizzen.workloads.forecasting.windows import HeldOutWindows, collate

    store = Store(prepared)
    windows = HeldOutWindows(store, "test", config.quantiles)
    shortest, longest = store.meta.min_context, store.meta.context_length
    for batch_size, share in _PROBES:
        rows = [windows[i % len(windows)] for i in range(batch_size)]
        batch = collate(rows)
        length = shortest + round(share * (longest - shortest))
        inputs = {
            name: _last(batch[name].numpy(), length + (store.meta.horizon if name == "known" else 0))
            for name in INPUT_NAMES
            if name in batch
        }
        length = inputs["past_target"].shape[1]
        yield Probe(f"batch {batch_size}, length {length}", inputs)


def _last(x: np.ndarray[Any, Any], length: int) -> np.ndarray[Any, Any]:
    return x[:, max(0, x.shape[1] - length) :]
